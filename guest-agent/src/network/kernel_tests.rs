//! Steps as a kernel takes them: in a network namespace of the test's own, on its loopback interface. Without the privilege to make
//! one there is nothing to be tested.

use std::fs;
use std::io;

use super::description::{Address, Interface, Ipv6Off, Neighbour, Route, Setting, Step};
use super::netlink::Netlink;
use super::*;
use crate::sys;

const WINDOW: u32 = 5;

/// What /proc/net shows in this thread's namespace.
fn shown(file: &str) -> String {
    fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap()
}

fn loopback() -> Network {
    let address = |text: &str, prefix| Address {
        address: text.parse().unwrap(),
        prefix,
        peer: None,
        broadcast: None,
        scope: 0,
        no_prefix_route: false,
    };
    let route = |destination: Option<&str>, gateway: Option<&str>, source: &str| Route {
        window: WINDOW,
        ipv6: source.contains(':'),
        destination: destination.map(|text| text.parse().unwrap()),
        prefix: if destination.is_some() { 24 } else { 0 },
        gateway: gateway.map(|text| text.parse().unwrap()),
        source: Some(source.parse().unwrap()),
        metric: 77,
        scope: if gateway.is_some() { 0 } else { 253 },
        on_link: false,
        mtu: 1400,
    };
    let neighbour = |text: &str| Neighbour { window: WINDOW, address: text.parse().unwrap(), mac: [2, 0, 0, 0, 0, 9] };
    let interface = Interface {
        window: WINDOW,
        name: "lo".to_owned(),
        mac: [0; 6],
        mtu: 9000,
        ipv6_disabled: false,
        no_arp: false,
        settings: Vec::new(),
        sysctls: Vec::new(),
        addresses: vec![address("10.0.0.2", 24), address("fd00::2", 64)],
    };
    Network {
        interfaces: vec![interface],
        routes: vec![
            route(Some("10.7.0.0"), None, "10.0.0.2"),
            route(None, Some("10.7.0.1"), "10.0.0.2"),
            Route { scope: 0, ..route(Some("fd01::"), None, "fd00::2") },
        ],
        neighbours: vec![neighbour("10.0.0.9"), neighbour("fd00::9")],
        ipv6_off: None,
    }
}

fn in_a_namespace(test: impl FnOnce(Established) + Send + 'static) {
    let tested = std::thread::spawn(move || {
        if let Err(error) = sys::unshare(libc::CLONE_NEWNET) {
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
            return;
        }
        sys::loopback_up().unwrap();
        let mut established = Established::default();
        let bare = Interface { mtu: 65535, addresses: Vec::new(), ..loopback().interfaces.remove(0) };
        established.network.record(&Step::Plug(bare));
        established.indices.insert(WINDOW, Netlink::open().unwrap().index("lo").unwrap());
        test(established);
    });
    tested.join().unwrap();
}

#[test]
fn all_is_set_up_and_taken_away() {
    in_a_namespace(|mut established| {
        let (routes_before, addresses_before) = (shown("route"), shown("if_inet6"));
        established.update(&loopback(), None).unwrap();
        assert_eq!(established.network, loopback());
        let routes = shown("route");
        // Destination, gateway, flags (up, gateway), metric, mask.
        assert!(routes.contains("lo\t0000070A\t00000000\t0001\t0\t0\t77\t00FFFFFF\t"), "{routes}");
        assert!(routes.contains("lo\t00000000\t0100070A\t0003\t0\t0\t77\t00000000\t"), "{routes}");
        assert!(shown("ipv6_route").contains("fd010000000000000000000000000000 18"), "{}", shown("ipv6_route"));
        assert!(shown("if_inet6").contains("fd000000000000000000000000000002 01 40 00"), "{}", shown("if_inet6"));
        assert!(shown("fib_trie").contains("10.0.0.2"));

        let nothing = Network {
            interfaces: vec![Interface { addresses: Vec::new(), ..loopback().interfaces.remove(0) }],
            ..Network::default()
        };
        established.update(&nothing, None).unwrap();
        assert_eq!((shown("route"), shown("if_inet6")), (routes_before, addresses_before));
    });
}

#[test]
fn what_programs_have_changed_is_no_error() {
    in_a_namespace(|mut established| {
        let all = loopback();
        established.update(&all, None).unwrap();
        // They have added all of it themselves, as the agent believes ...
        let bare = Interface { addresses: Vec::new(), ..loopback().interfaces.remove(0) };
        established.network = Network { interfaces: vec![bare.clone()], ..Network::default() };
        established.update(&all, None).unwrap();
        // ... and now deleted it.
        let nothing = Network { interfaces: vec![bare], ..Network::default() };
        established.update(&nothing, None).unwrap();
        established.network = all;
        established.update(&nothing, None).unwrap();
    });
}

#[test]
fn a_route_that_cannot_be_is_named() {
    in_a_namespace(|mut established| {
        let mut wanted = loopback();
        wanted.routes[1].gateway = Some("192.0.2.1".parse().unwrap());
        let error = established.update(&wanted, None).unwrap_err().to_string();
        assert_eq!(
            error,
            "cannot add the route default via 192.0.2.1 to network interface \"lo\": network is unreachable"
        );
        // The steps before it count, and the next attempt goes on with it.
        assert_eq!(established.network.routes, wanted.routes[..1]);
        established.update(&loopback(), None).unwrap();
    });
}

#[test]
fn a_device_that_is_not_there_is_an_error() {
    in_a_namespace(|mut established| {
        let mut wanted = loopback();
        wanted.interfaces.push(Interface { window: 63, name: "eth0".to_owned(), ..wanted.interfaces[0].clone() });
        wanted.interfaces[1].addresses.clear();
        let error = established.update(&wanted, None).unwrap_err().to_string();
        assert!(error.starts_with("cannot plug in window 63, network interface \"eth0\": "), "{error}");
    });
}

#[test]
fn arp_is_switched_off_and_on() {
    in_a_namespace(|mut established| {
        let mut wanted = loopback();
        established.update(&wanted, None).unwrap();
        for off in [true, false] {
            wanted.interfaces[0].no_arp = off;
            established.update(&wanted, None).unwrap();
            assert_eq!(established.network, wanted);
        }
    });
}

#[test]
fn ipv6_is_switched_where_it_is_asked_for() {
    in_a_namespace(|mut established| {
        let off = |name: &str| fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6")).unwrap();
        let all = || ["all", "default", "lo"].map(|name| off(name).trim() == "1");
        let mut wanted = loopback();
        established.update(&wanted, None).unwrap();
        assert_eq!(all(), [false; 3]);
        // The interface that is followed here is `lo` itself.
        wanted.ipv6_off = Some(Ipv6Off { everywhere: true, to_come: true, loopback: false });
        established.update(&wanted, None).unwrap();
        assert_eq!(all(), [true, true, false]);
        assert!(shown("if_inet6").contains("fd000000000000000000000000000002 01 40 00"), "{}", shown("if_inet6"));
        assert!(shown("ipv6_route").contains("fd010000000000000000000000000000 18"), "{}", shown("ipv6_route"));
        wanted.ipv6_off = Some(Ipv6Off::default());
        established.update(&wanted, None).unwrap();
        assert_eq!((all(), established.network.ipv6_off), ([false; 3], Some(Ipv6Off::default())));
        assert!(shown("if_inet6").contains("fd000000000000000000000000000002 01 40 00"), "{}", shown("if_inet6"));
    });
}

#[test]
fn settings_are_written() {
    in_a_namespace(|mut established| {
        let mut wanted = loopback();
        let set = |ipv6, name: &str, value| Setting { ipv6, name: name.to_owned(), value };
        wanted.interfaces[0].settings =
            vec![set(false, "arp_notify", 1), set(true, "accept_ra", 2), set(false, "no_such_thing", 1)];
        established.update(&wanted, None).unwrap();
        assert_eq!(established.network, wanted);
        let shown = |file: &str| fs::read_to_string(format!("/proc/sys/net/{file}")).unwrap();
        assert_eq!((shown("ipv4/conf/lo/arp_notify").trim(), shown("ipv6/conf/lo/accept_ra").trim()), ("1", "2"));
    });
}

#[test]
fn a_program_that_switches_ipv6_off_gets_none() {
    in_a_namespace(|mut established| {
        fs::write("/proc/sys/net/ipv6/conf/lo/disable_ipv6", "1").unwrap();
        established.update(&loopback(), None).unwrap();
        assert_eq!(shown("if_inet6"), "");
        assert!(shown("fib_trie").contains("10.0.0.2"));
    });
}

#[test]
fn an_address_has_another_end() {
    in_a_namespace(|mut established| {
        let mut wanted = loopback();
        wanted.interfaces[0].addresses[0].peer = Some("10.3.0.1".parse().unwrap());
        wanted.interfaces[0].addresses[0].prefix = 32;
        wanted.routes.clear();
        established.update(&wanted, None).unwrap();
        assert!(shown("fib_trie").contains("10.3.0.1"), "{}", shown("fib_trie"));
        wanted.interfaces[0].addresses.remove(0);
        established.update(&wanted, None).unwrap();
        assert!(!shown("fib_trie").contains("10.3.0.1"), "{}", shown("fib_trie"));
    });
}
