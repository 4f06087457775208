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

/// Sends what arrives at `from` out by `to`; both are numbers of interfaces.
pub fn redirect(netlink: &mut Netlink, from: u32, to: u32) -> io::Result<()> {
    match netlink.change(RouteNetlinkMessage::NewQueueDiscipline(queue(from)?), NLM_F_CREATE | NLM_F_EXCL) {
        // Somebody's rules are there already: ours comes with them.
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
        result => result?,
    }
    let mut rule = rule(from)?;
    rule.attributes.push(TcAttribute::Kind(TcFilterMatchAll::KIND.to_string()));
    let action = TcFilterMatchAllOption::Action(vec![send_out(to)]);
    rule.attributes.push(TcAttribute::Options(vec![TcOption::MatchAll(action)]));
    let add = RouteNetlinkMessage::NewTrafficFilter(rule);
    match netlink.change(add.clone(), NLM_F_CREATE | NLM_F_EXCL) {
        // Of a container whose processes were killed, and whose tap is gone: the namespace has outlived it.
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
            stop(netlink, from);
            netlink.change(add, NLM_F_CREATE | NLM_F_EXCL)
        }
        result => result,
    }
}

/// Takes the rule away again. The interface may be gone, and with it the rule.
pub fn stop(netlink: &mut Netlink, from: u32) {
    if let Ok(rule) = rule(from) {
        let _ = netlink.change(RouteNetlinkMessage::DelTrafficFilter(rule), 0);
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

fn rule(interface: u32) -> io::Result<TcMessage> {
    let mut rule = message(interface)?;
    rule.header.parent = INGRESS_RULES;
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
