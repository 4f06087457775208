//! What arrives at one interface leaves by another: an ingress queue with one rule that takes every frame (tc-mirred(8)). Nothing of it
//! reaches the network stack in between.

use std::io;

use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_core::NLM_F_EXCL;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{
    TcAction, TcActionAttribute, TcActionMirror, TcActionMirrorOption, TcActionOption, TcActionType, TcAttribute,
    TcFilterMatchAll, TcFilterMatchAllOption, TcHandle, TcMessage, TcMirror, TcMirrorActionType, TcOption,
};

use super::netlink::Netlink;

/// linux/if_ether.h: every protocol, in network byte order.
const ETH_P_ALL: u16 = 0x0003_u16.to_be();
/// The rule's place among others.
const PRIORITY: u16 = 1;
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
    add_rule(netlink, from, to, queue).inspect_err(|_| stop(netlink, from, queue))
}

fn add_rule(netlink: &mut Netlink, from: u32, to: u32, queue: Queue) -> io::Result<Queue> {
    let mut rule = rule(from)?;
    let action = TcFilterMatchAllOption::Action(vec![send_out(to)]);
    rule.attributes.push(TcAttribute::Options(vec![TcOption::MatchAll(action)]));
    let add = RouteNetlinkMessage::NewTrafficFilter(rule);
    match netlink.change(add.clone(), NLM_F_CREATE | NLM_F_EXCL) {
        // Of a container whose processes were killed, and whose tap is gone: the namespace has outlived it.
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
            let _ = netlink.change(RouteNetlinkMessage::DelTrafficFilter(self::rule(from)?), 0);
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
    let (Ok(rule), Ok(all), Ok(queue)) = (rule(from), rules(from), queue(from)) else { return };
    let _ = netlink.change(RouteNetlinkMessage::DelTrafficFilter(rule), 0);
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
fn rule(interface: u32) -> io::Result<TcMessage> {
    let mut rule = rules(interface)?;
    rule.attributes.push(TcAttribute::Kind(TcFilterMatchAll::KIND.to_string()));
    rule.header.info = u32::from(TcHandle { major: PRIORITY, minor: ETH_P_ALL });
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

#[cfg(test)]
mod tests {
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
