use std::net::IpAddr;

use super::super::description::{Ipv6Off, Neighbour, Route, Setting};
use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn address(text: &str) -> Address {
    Address { address: ip(text), prefix: 24, peer: None, broadcast: None, scope: 0, no_prefix_route: false }
}

fn interface(window: u32, name: &str, addresses: &[&str]) -> Interface {
    let addresses = addresses.iter().map(|a| address(a)).collect();
    let mac = [2, 0, 0, 0, 0, window as u8];
    let (name, settings, sysctls) = (name.to_owned(), Vec::new(), Vec::new());
    Interface { window, name, mac, mtu: 1500, ipv6_disabled: false, no_arp: false, settings, sysctls, addresses }
}

fn route(window: u32, destination: Option<&str>, gateway: &str) -> Route {
    Route {
        window,
        ipv6: false,
        destination: destination.map(ip),
        prefix: if destination.is_some() { 24 } else { 0 },
        gateway: Some(ip(gateway)),
        source: None,
        metric: 0,
        scope: 0,
        on_link: false,
        mtu: 0,
    }
}

fn neighbour(window: u32, address: &str) -> Neighbour {
    Neighbour { window, address: ip(address), mac: [2, 0, 0, 0, 0, 9] }
}

fn two() -> Network {
    Network {
        interfaces: vec![interface(5, "eth0", &["10.0.0.2"]), interface(6, "eth1", &["10.1.0.2", "10.1.0.3"])],
        routes: vec![route(6, Some("10.9.0.0"), "10.1.0.1"), route(5, None, "10.0.0.1")],
        neighbours: vec![neighbour(5, "10.0.0.9")],
        ipv6_off: None,
    }
}

/// Whatever the plan, it leads to what is wanted, and there is nothing to be done then.
fn steps(now: &Network, wanted: &Network) -> Vec<Step> {
    let steps = plan(now, wanted);
    let mut reached = now.clone();
    steps.iter().for_each(|step| reached.record(step));
    assert!(plan(&reached, wanted).is_empty(), "{reached:?}");
    for interface in &wanted.interfaces {
        let there = reached.interface(interface.window).unwrap();
        let addresses = |i: &Interface| i.addresses.iter().cloned().collect::<HashSet<_>>();
        assert_eq!((&there.name, there.mac, there.mtu), (&interface.name, interface.mac, interface.mtu));
        assert_eq!(addresses(there), addresses(interface));
    }
    assert_eq!(reached.interfaces.len(), wanted.interfaces.len());
    let set = |network: &Network| network.routes.iter().cloned().collect::<HashSet<_>>();
    assert_eq!(set(&reached), set(wanted));
    steps
}

#[test]
fn a_network_is_built_in_order() {
    let wanted = two();
    let bare = |i: usize| Step::Plug(Interface { addresses: Vec::new(), ..wanted.interfaces[i].clone() });
    let expected = [
        bare(0),
        Step::AddAddress(5, address("10.0.0.2")),
        bare(1),
        Step::AddAddress(6, address("10.1.0.2")),
        Step::AddAddress(6, address("10.1.0.3")),
        Step::AddRoute(wanted.routes[0].clone()),
        Step::AddRoute(wanted.routes[1].clone()),
        Step::AddNeighbour(wanted.neighbours[0].clone()),
    ];
    assert_eq!(steps(&Network::default(), &wanted), expected);
    assert_eq!(steps(&wanted, &wanted), []);
    assert_eq!(steps(&wanted, &Network::default()), [Step::Unplug(5), Step::Unplug(6)]);
}

#[test]
fn an_interface_takes_along_what_is_set_up_by_way_of_it() {
    let mut wanted = two();
    wanted.interfaces.remove(0);
    wanted.routes.remove(1);
    wanted.neighbours.clear();
    assert_eq!(steps(&two(), &wanted), [Step::Unplug(5)]);
}

#[test]
fn another_mac_is_another_device() {
    let mut wanted = two();
    wanted.interfaces[0].mac[5] = 77;
    let expected = [
        Step::Unplug(5),
        Step::Plug(Interface { addresses: Vec::new(), ..wanted.interfaces[0].clone() }),
        Step::AddAddress(5, address("10.0.0.2")),
        Step::AddRoute(wanted.routes[1].clone()),
        Step::AddNeighbour(wanted.neighbours[0].clone()),
    ];
    assert_eq!(steps(&two(), &wanted), expected);
}

#[test]
fn what_went_with_an_address_comes_back() {
    let mut wanted = two();
    wanted.interfaces[1].addresses[0] = address("10.1.0.4");
    let expected = [
        Step::DeleteAddress(6, address("10.1.0.2")),
        Step::AddAddress(6, address("10.1.0.4")),
        Step::AddAddress(6, address("10.1.0.3")),
        Step::AddRoute(wanted.routes[0].clone()),
    ];
    assert_eq!(steps(&two(), &wanted), expected);
}

#[test]
fn settings_change_and_what_they_shook_off_comes_back() {
    let mut wanted = two();
    wanted.interfaces[0].mtu = 9000;
    wanted.interfaces[1].ipv6_disabled = true;
    let steps = steps(&two(), &wanted);
    assert_eq!(steps[..2], [Step::SetMtu(5, 9000), Step::DisableIpv6(6, true)]);
    assert_eq!(steps.len(), 2 + 3 + 2 + 1, "{steps:?}");
}

#[test]
fn a_setting_is_made_when_it_changes() {
    let set = |value| Setting { ipv6: false, name: "rp_filter".to_owned(), value };
    let with = |settings: &[Setting]| {
        let mut network = two();
        network.interfaces[1].settings = settings.to_vec();
        network
    };
    assert_eq!(steps(&two(), &with(&[set(1)])), [Step::Set(6, set(1))]);
    assert_eq!(steps(&with(&[set(1)]), &with(&[set(2)])), [Step::Set(6, set(2))]);
    // What it was before nobody knows.
    assert_eq!(steps(&with(&[set(1)]), &two()), []);
}

#[test]
fn ipv6_is_switched_off_everywhere_before_it_is_on_somewhere() {
    let mut wanted = two();
    wanted.ipv6_off = Some(Ipv6Off { everywhere: true, to_come: true, loopback: false });
    wanted.interfaces[0].ipv6_disabled = true;
    let steps = steps(&two(), &wanted);
    let expected = [
        Step::SwitchIpv6(Place::Everywhere, true),
        Step::SwitchIpv6(Place::Loopback, false),
        Step::DisableIpv6(6, false),
        Step::AddAddress(5, address("10.0.0.2")),
    ];
    assert_eq!(steps[..4], expected);
    assert_eq!(steps.len(), 3 + 3 + 2 + 1, "{steps:?}");
    let mut like = wanted.clone();
    // What nothing is said of stays as it is.
    like.ipv6_off = None;
    assert_eq!(plan(&wanted, &like), []);
}

#[test]
fn neighbours_go_when_arp_is_switched() {
    let mut wanted = two();
    wanted.interfaces[0].no_arp = true;
    let steps = steps(&two(), &wanted);
    assert_eq!(steps[0], Step::DisableArp(5, true));
    assert_eq!(steps.last(), Some(&Step::AddNeighbour(wanted.neighbours[0].clone())));
}

#[test]
fn names_can_be_exchanged() {
    let mut wanted = two();
    wanted.interfaces[0].name = "eth1".to_owned();
    wanted.interfaces[1].name = "eth0".to_owned();
    let to = |window, name: &str| Step::Rename(window, name.to_owned());
    assert_eq!(steps(&two(), &wanted), [to(5, "sandbox5"), to(6, "sandbox6"), to(5, "eth1"), to(6, "eth0")]);
    wanted = two();
    wanted.interfaces[0].name = "net0".to_owned();
    assert_eq!(steps(&two(), &wanted), [to(5, "net0")]);
}

#[test]
fn a_new_interface_gets_the_name_of_one_that_goes_or_is_renamed() {
    let mut wanted = two();
    wanted.interfaces[0].name = "eth7".to_owned();
    wanted.interfaces[1] = interface(7, "eth0", &[]);
    wanted.routes.remove(0);
    let steps = steps(&two(), &wanted);
    assert_eq!(steps[0], Step::Unplug(6));
    assert!(matches!(steps.last(), Some(Step::Plug(interface)) if interface.name == "eth0"), "{steps:?}");
}

#[test]
fn routes_and_neighbours_are_exchanged_for_their_like() {
    let mut wanted = two();
    wanted.routes[1].metric = 7;
    wanted.neighbours[0].mac[0] = 6;
    let expected = [
        Step::DeleteRoute(two().routes[1].clone()),
        Step::DeleteNeighbour(two().neighbours[0].clone()),
        Step::AddRoute(wanted.routes[1].clone()),
        Step::AddNeighbour(wanted.neighbours[0].clone()),
    ];
    assert_eq!(steps(&two(), &wanted), expected);
}

#[test]
fn what_is_given_twice_is_there_once() {
    let mut wanted = two();
    wanted.routes.push(wanted.routes[0].clone());
    wanted.interfaces[0].addresses.push(address("10.0.0.2"));
    steps(&Network::default(), &wanted);
}
