use agent_protocol::agent::NetworkNeighbour;

use super::*;

fn good() -> UpdateNetworkRequest {
    let address = NetworkAddress {
        address: vec![10, 0, 0, 2],
        prefix_length: 24,
        broadcast: vec![10, 0, 0, 255],
        ..Default::default()
    };
    let interface = NetworkInterface {
        window: 5,
        name: "eth0".to_owned(),
        mac: vec![2, 0, 0, 0, 0, 1],
        mtu: 1500,
        addresses: vec![address],
        ..Default::default()
    };
    let route = NetworkRoute { interface: "eth0".to_owned(), gateway: vec![10, 0, 0, 1], ..Default::default() };
    let neighbour = NetworkNeighbour {
        interface: "eth0".to_owned(),
        address: vec![10, 0, 0, 9],
        mac: vec![2, 0, 0, 0, 0, 9],
        ..Default::default()
    };
    UpdateNetworkRequest {
        interfaces: vec![interface],
        routes: vec![route],
        neighbours: vec![neighbour],
        ..Default::default()
    }
}

fn problem(change: impl FnOnce(&mut UpdateNetworkRequest)) -> String {
    let mut request = good();
    change(&mut request);
    check(&request).expect_err("should be refused").to_string()
}

#[test]
fn requests_become_networks() {
    let network = check(&good()).unwrap();
    let interface = &network.interfaces[0];
    assert_eq!((interface.window, interface.name.as_str(), interface.mtu), (5, "eth0", 1500));
    assert_eq!(interface.addresses[0].address, IpAddr::from([10, 0, 0, 2]));
    assert_eq!(interface.addresses[0].broadcast, Some([10, 0, 0, 255].into()));
    assert_eq!((network.routes[0].window, network.routes[0].destination), (5, None));
    assert_eq!((network.neighbours[0].window, network.neighbours[0].mac), (5, [2, 0, 0, 0, 0, 9]));
    assert_eq!(check(&UpdateNetworkRequest::default()).unwrap(), Network::default());
}

#[test]
fn both_families_are_addresses() {
    let mut request = good();
    request.interfaces[0].addresses[0] =
        NetworkAddress { address: vec![0xfd; 16], prefix_length: 128, ..Default::default() };
    request.routes[0] = NetworkRoute {
        interface: "eth0".to_owned(),
        ipv6: true,
        destination: vec![0; 16],
        prefix_length: 64,
        ..Default::default()
    };
    let network = check(&request).unwrap();
    assert!(network.interfaces[0].addresses[0].address.is_ipv6() && network.routes[0].ipv6);
}

#[test]
fn gateways_of_the_other_family_are_ipv4s() {
    let mut request = good();
    request.routes[0].gateway = vec![0xfe; 16];
    assert_eq!(check(&request).unwrap().routes[0].gateway, Some(IpAddr::from([0xfe; 16])));
    request.interfaces[0].addresses[0].peer = vec![10, 0, 0, 1];
    assert_eq!(check(&request).unwrap().interfaces[0].addresses[0].peer, Some(IpAddr::from([10, 0, 0, 1])));
    assert_eq!(check(&request).unwrap().ipv6_off, None);
    let setting = |name: &str| NetworkSetting { name: name.to_owned(), value: -1, ..Default::default() };
    request.interfaces[0].settings = vec![setting("arp_notify")];
    let checked = Setting { ipv6: false, name: "arp_notify".to_owned(), value: -1 };
    assert_eq!(check(&request).unwrap().interfaces[0].settings, [checked]);
    for name in ["", "..", "a/b", "A", "a b"] {
        let refused = problem(|r| r.interfaces[0].settings = vec![setting(name)]);
        assert_eq!(refused, "network: interfaces[0].settings[0].name: is not a name for a setting");
    }
    let off = agent_protocol::agent::Ipv6Off { everywhere: true, to_come: true, ..Default::default() };
    request.ipv6_off = Some(off).into();
    assert_eq!(check(&request).unwrap().ipv6_off, Some(Ipv6Off { everywhere: true, to_come: true, loopback: false }));
}

#[test]
fn names_are_those_of_the_kernel() {
    for good in ["a", "eth0", "0123456789abcde", "veth-1.2@x", "ä"] {
        assert!(name(good).is_ok(), "{good}");
    }
    for bad in
        ["", "0123456789abcdef", "a/b", "..", ".", "a b", "a\n", "a\0", "\u{a0}", "eth%d", "a:1", "all", "default"]
    {
        assert!(name(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn what_means_nothing_is_refused_by_its_place() {
    assert_eq!(problem(|r| r.interfaces[0].mac.push(0)), "network: interfaces[0].mac: must have 6 bytes");
    assert_eq!(problem(|r| r.interfaces[0].window = 64), "network: interfaces[0].window: does not exist");
    assert_eq!(problem(|r| r.interfaces[0].mtu = 67), "network: interfaces[0].mtu: must be 68 to 65535");
    assert_eq!(problem(|r| r.interfaces[0].mtu = 65536), "network: interfaces[0].mtu: must be 68 to 65535");
    assert_eq!(
        problem(|r| r.interfaces[0].addresses[0].prefix_length = 33),
        "network: interfaces[0].addresses[0].prefix_length: is longer than the address"
    );
    assert_eq!(
        problem(|r| r.interfaces[0].addresses[0].broadcast = vec![0; 16]),
        "network: interfaces[0].addresses[0].broadcast: is of the other family"
    );
    assert_eq!(
        problem(|r| r.interfaces[0].addresses[0].address = vec![0; 5]),
        "network: interfaces[0].addresses[0].address: must have 4 bytes or 16"
    );
    assert_eq!(
        problem(|r| r.interfaces[0].addresses[0].peer = vec![0; 16]),
        "network: interfaces[0].addresses[0].peer: is of the other family"
    );
    assert_eq!(problem(|r| r.routes[0].ipv6 = true), "network: routes[0].gateway: is of the other family");
    assert_eq!(
        problem(|r| r.routes[0].prefix_length = 8),
        "network: routes[0].prefix_length: is not 0 for the default route"
    );
    assert_eq!(
        problem(|r| r.routes[0].interface = "eth1".to_owned()),
        "network: routes[0].interface: is none of the interfaces"
    );
    assert_eq!(problem(|r| r.routes[0].scope = 256), "network: routes[0].scope: must be 0 to 255");
    assert_eq!(problem(|r| r.neighbours[0].address.clear()), "network: neighbours[0].address: must have 4 bytes or 16");
    let twice = |r: &mut UpdateNetworkRequest| r.interfaces.push(r.interfaces[0].clone());
    assert_eq!(problem(twice), "network: interfaces[1].window: is given twice");
    let same_name = |r: &mut UpdateNetworkRequest| {
        r.interfaces.push(NetworkInterface { window: 6, ..r.interfaces[0].clone() });
    };
    assert_eq!(problem(same_name), "network: interfaces[1].name: is given twice");
}

#[test]
fn lists_have_an_end() {
    let more = |r: &mut UpdateNetworkRequest| r.routes = vec![r.routes[0].clone(); MAX_ROUTES + 1];
    assert_eq!(problem(more), "network: routes: has more entries than are allowed");
    let more = |r: &mut UpdateNetworkRequest| r.interfaces = vec![r.interfaces[0].clone(); MAX_INTERFACES + 1];
    assert_eq!(problem(more), "network: interfaces: has more entries than are allowed");
    let more = |r: &mut UpdateNetworkRequest| r.neighbours = vec![r.neighbours[0].clone(); MAX_NEIGHBOURS + 1];
    assert_eq!(problem(more), "network: neighbours: has more entries than are allowed");
    let more = |r: &mut UpdateNetworkRequest| {
        let addresses = &mut r.interfaces[0].addresses;
        *addresses = vec![addresses[0].clone(); MAX_ADDRESSES + 1];
    };
    assert_eq!(problem(more), "network: interfaces[0].addresses: has more entries than are allowed");
}
