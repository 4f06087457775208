//! What arrives at one interface leaves by another: an ingress queue with one rule that takes every frame (tc-mirred(8)). Nothing of it
//! reaches the network stack in between, but for what a program lets through that the rule runs before ([`super::answers`]).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{
    TcAction, TcActionAttribute, TcActionMirror, TcActionMirrorOption, TcActionOption, TcActionType, TcAttribute,
    TcFilterMatchAll, TcFilterMatchAllOption, TcHandle, TcMessage, TcMirror, TcMirrorActionType, TcOption,
};

use super::answers::TC_ACT_PIPE;
use super::netlink::Netlink;

/// linux/if_ether.h: every protocol, in network byte order.
const ETH_P_ALL: u16 = 0x0003_u16.to_be();
/// The rule's place among others.
const PRIORITY: u16 = 1;
/// Of one behind all others, which is there while that one is changed, as it can only be taken away and made anew: the host's stack would
/// answer what reached it meanwhile, and connections of the guest would break.
const MEANWHILE: u16 = 0xfffe;
/// linux/tc_act/tc_bpf.h.
const TCA_ACT_BPF_PARMS: u16 = 2;
const TCA_ACT_BPF_FD: u16 = 5;
const TCA_ACT_BPF_NAME: u16 = 6;
/// Of the ingress queue (linux/pkt_sched.h).
const INGRESS: TcHandle = TcHandle { major: 0xffff, minor: 0 };
/// Rules for what comes in, of that queue and of `clsact`, which can be there instead.
const INGRESS_RULES: TcHandle = TcHandle { major: 0xffff, minor: TcHandle::MIN_INGRESS };

/// Where the ingress queue of a redirect comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// Made for it: it goes with the last rule.
    Own,
    /// Somebody's.
    Anothers,
}

/// Sends what arrives at `from` out by `to`; both are numbers of interfaces.
pub fn redirect(netlink: &mut Netlink, from: u32, to: u32) -> io::Result<Queue> {
    let queue = match netlink.change(RouteNetlinkMessage::NewQueueDiscipline(queue(from)?), NLM_F_CREATE | NLM_F_EXCL) {
        Ok(()) => Queue::Own,
        // Somebody's rules are there already: ours comes with them.
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Queue::Anothers,
        Err(error) => return Err(error),
    };
    add_rule(netlink, from, vec![send_out(to)], queue).inspect_err(|_| stop(netlink, from, queue))
}

/// Has a redirect that is there run a program first, by which frames can reach the host's stack. On failure it is as before.
pub fn let_through(netlink: &mut Netlink, from: u32, to: u32, program: BorrowedFd<'_>) -> io::Result<()> {
    // Without it, there is a moment with no rule at all.
    let _ = netlink.change(with_actions(rule(from, MEANWHILE)?, vec![send_out(to)]), NLM_F_CREATE | NLM_F_EXCL);
    let mut redirect = send_out(to);
    redirect.tab = 2;
    let changed = add_rule(netlink, from, vec![run(program), redirect], Queue::Own)
        .inspect_err(|_| drop(add_rule(netlink, from, vec![send_out(to)], Queue::Own)));
    let _ = netlink.change(RouteNetlinkMessage::DelTrafficFilter(rule(from, MEANWHILE)?), 0);
    changed.map(drop)
}

fn with_actions(mut rule: TcMessage, actions: Vec<TcAction>) -> RouteNetlinkMessage {
    let actions = TcFilterMatchAllOption::Action(actions);
    rule.attributes.push(TcAttribute::Options(vec![TcOption::MatchAll(actions)]));
    RouteNetlinkMessage::NewTrafficFilter(rule)
}

fn add_rule(netlink: &mut Netlink, from: u32, actions: Vec<TcAction>, queue: Queue) -> io::Result<Queue> {
    let add = with_actions(rule(from, PRIORITY)?, actions);
    match netlink.change(add.clone(), NLM_F_CREATE | NLM_F_EXCL) {
        // Of a container whose processes were killed, and whose tap is gone: the namespace has outlived it. Or one that is to be changed.
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
            let _ = netlink.change(RouteNetlinkMessage::DelTrafficFilter(rule(from, PRIORITY)?), 0);
            netlink.change(add, NLM_F_CREATE | NLM_F_EXCL)?;
            // The queue was that one's.
            Ok(Queue::Own)
        }
        result => result.map(|()| queue),
    }
}

/// Takes the rule away again, and the queue if it was made for it and has no other rule by now. The interface may be gone, and with it
/// both.
pub fn stop(netlink: &mut Netlink, from: u32, made: Queue) {
    let (Ok(all), Ok(queue)) = (rules(from), queue(from)) else { return };
    // The second one is there only where somebody was killed.
    for rule in [PRIORITY, MEANWHILE].into_iter().flat_map(|priority| rule(from, priority)) {
        let _ = netlink.change(RouteNetlinkMessage::DelTrafficFilter(rule), 0);
    }
    // Of another kind (`clsact`) it is not deleted: that one has rules for what goes out as well.
    if made == Queue::Own && netlink.is_empty(RouteNetlinkMessage::GetTrafficFilter(all)).unwrap_or(false) {
        let _ = netlink.change(RouteNetlinkMessage::DelQueueDiscipline(queue), 0);
    }
}

fn message(interface: u32) -> io::Result<TcMessage> {
    Ok(TcMessage::with_index(i32::try_from(interface).map_err(io::Error::other)?))
}

fn queue(interface: u32) -> io::Result<TcMessage> {
    let mut queue = message(interface)?;
    queue.header.handle = INGRESS;
    queue.header.parent = TcHandle { major: 0xffff, minor: 0xfff1 };
    queue.attributes.push(TcAttribute::Kind("ingress".to_string()));
    Ok(queue)
}

fn rules(interface: u32) -> io::Result<TcMessage> {
    let mut rules = message(interface)?;
    rules.header.parent = INGRESS_RULES;
    Ok(rules)
}

/// Ours. Somebody else's in its place is of another kind, and left alone.
fn rule(interface: u32, priority: u16) -> io::Result<TcMessage> {
    let mut rule = rules(interface)?;
    rule.attributes.push(TcAttribute::Kind(TcFilterMatchAll::KIND.to_string()));
    rule.header.info = u32::from(TcHandle { major: priority, minor: ETH_P_ALL });
    Ok(rule)
}

fn send_out(to: u32) -> TcAction {
    let mut mirror = TcMirror::default();
    mirror.eaction = TcMirrorActionType::EgressRedir;
    mirror.ifindex = to;
    mirror.generic.action = TcActionType::Stolen;
    let mut action = TcAction::default();
    action.attributes.push(TcActionAttribute::Kind(TcActionMirror::KIND.to_string()));
    action
        .attributes
        .push(TcActionAttribute::Options(vec![TcActionOption::Mirror(TcActionMirrorOption::Parms(mirror))]));
    action
}

/// tc-bpf(8): the program's word is the action, and where it leaves a frame alone the next one follows.
fn run(program: BorrowedFd<'_>) -> TcAction {
    // struct tc_act_bpf: index, capab, action, refcnt, bindcnt.
    let parameters: Vec<u8> = [0, 0, TC_ACT_PIPE, 0, 0].into_iter().flat_map(i32::to_ne_bytes).collect();
    let option = |kind, value| TcActionOption::Other(DefaultNla::new(kind, value));
    let options = vec![
        option(TCA_ACT_BPF_PARMS, parameters),
        option(TCA_ACT_BPF_FD, program.as_raw_fd().to_ne_bytes().to_vec()),
        option(TCA_ACT_BPF_NAME, b"sandbox_answers\0".to_vec()),
    ];
    let mut action = TcAction::default();
    action.attributes.push(TcActionAttribute::Kind("bpf".to_string()));
    action.attributes.push(TcActionAttribute::Options(options));
    action
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    const LOOPBACK: u32 = 1;

    fn queues(netlink: &mut Netlink) -> usize {
        let all = netlink.list(RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default())).unwrap();
        let ingress = |one: &&RouteNetlinkMessage| match one {
            RouteNetlinkMessage::NewQueueDiscipline(queue) => queue.header.handle == INGRESS,
            _ => false,
        };
        all.iter().filter(ingress).count()
    }

    fn in_a_namespace(test: fn(&mut Netlink)) {
        let tested = std::thread::spawn(move || {
            // Without the privilege to make a namespace there is nothing to be tested.
            if crate::sys::unshare_network().is_ok() {
                test(&mut Netlink::new().unwrap());
            }
        });
        tested.join().unwrap();
    }

    #[test]
    fn a_queue_goes_with_what_it_was_made_for() {
        in_a_namespace(|netlink| {
            // The kernel may be one without these rules: then nothing is left either.
            if let Ok(made) = redirect(netlink, LOOPBACK, LOOPBACK) {
                assert_eq!((made, queues(netlink)), (Queue::Own, 1));
                assert!(!netlink.is_empty(RouteNetlinkMessage::GetTrafficFilter(rules(LOOPBACK).unwrap())).unwrap());
                stop(netlink, LOOPBACK, made);
            }
            assert_eq!(queues(netlink), 0);
        });
    }

    #[test]
    fn a_program_comes_before_the_redirect() {
        in_a_namespace(|netlink| {
            let (Ok(made), Ok(program)) =
                (redirect(netlink, LOOPBACK, LOOPBACK), super::super::answers::load(LOOPBACK))
            else {
                return;
            };
            let rules = |netlink: &mut Netlink| {
                netlink.list(RouteNetlinkMessage::GetTrafficFilter(rules(LOOPBACK).unwrap())).unwrap().len()
            };
            let before = rules(netlink);
            // The kernel may know no such actions: then it is as it was.
            let _ = let_through(netlink, LOOPBACK, LOOPBACK, program.as_fd());
            assert_eq!(rules(netlink), before);
            stop(netlink, LOOPBACK, made);
            assert_eq!(queues(netlink), 0);
        });
    }

    #[test]
    fn another_ones_queue_stays() {
        in_a_namespace(|netlink| {
            let queue = RouteNetlinkMessage::NewQueueDiscipline(queue(LOOPBACK).unwrap());
            // There may be no such queues.
            if netlink.change(queue, NLM_F_CREATE | NLM_F_EXCL).is_err() {
                return;
            }
            if let Ok(made) = redirect(netlink, LOOPBACK, LOOPBACK) {
                assert_eq!(made, Queue::Anothers);
                stop(netlink, LOOPBACK, made);
            }
            assert_eq!(queues(netlink), 1);
            // Of a container whose processes were killed.
            stop(netlink, LOOPBACK, Queue::Own);
            assert_eq!(queues(netlink), 0);
        });
    }

    #[test]
    fn another_ones_rule_keeps_the_queue() {
        in_a_namespace(|netlink| {
            let queue = RouteNetlinkMessage::NewQueueDiscipline(queue(LOOPBACK).unwrap());
            let made = netlink.change(queue, NLM_F_CREATE | NLM_F_EXCL);
            let rule = [
                "filter", "add", "dev", "lo", "ingress", "protocol", "all", "prio", "1", "u32", "match", "u32", "0",
                "0",
            ];
            // Neither need be there, nor the program.
            let added = std::process::Command::new("tc").args(rule).status();
            if made.is_err() || !added.is_ok_and(|status| status.success()) {
                return;
            }
            // It has our place.
            assert!(redirect(netlink, LOOPBACK, LOOPBACK).is_err());
            stop(netlink, LOOPBACK, Queue::Own);
            assert!(!netlink.is_empty(RouteNetlinkMessage::GetTrafficFilter(rules(LOOPBACK).unwrap())).unwrap());
            assert_eq!(queues(netlink), 1);
        });
    }
}
