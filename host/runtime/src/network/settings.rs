//! Settings of interfaces (`net.ipv4.conf.NAME.*` and the like) that somebody has changed in the namespace: docker does for an endpoint's
//! sysctls, CNI's `tuning` and netavark do. They come with each link. What is as for `lo`, for which nobody changes it, is left to the
//! guest, and so is all that differs between links by itself.

use agent_protocol::agent::NetworkSetting;
use netlink_packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, Inet6DevConf, InetDevConf, LinkAttribute, LinkMessage,
};

/// The name of a setting, and where its value is.
type Named<T> = (&'static str, fn(&T) -> i32);

const IPV4: [Named<InetDevConf>; 18] = [
    ("accept_local", |all| all.accept_local),
    ("accept_redirects", |all| all.accept_redirects),
    ("accept_source_route", |all| all.accept_source_route),
    ("arp_accept", |all| all.arp_accept),
    ("arp_announce", |all| all.arp_announce),
    ("arp_filter", |all| all.arpfilter),
    ("arp_ignore", |all| all.arp_ignore),
    ("arp_notify", |all| all.arp_notify),
    ("forwarding", |all| all.forwarding),
    ("log_martians", |all| all.log_martians),
    ("promote_secondaries", |all| all.promote_secondaries),
    ("proxy_arp", |all| all.proxy_arp),
    ("route_localnet", |all| all.route_localnet),
    ("rp_filter", |all| all.rp_filter),
    ("secure_redirects", |all| all.secure_redirects),
    ("send_redirects", |all| all.send_redirects),
    ("shared_media", |all| all.shared_media),
    ("src_valid_mark", |all| all.src_vmark),
];

const IPV6: [Named<Inet6DevConf>; 10] = [
    ("accept_ra", |all| all.accept_ra),
    ("accept_ra_defrtr", |all| all.accept_ra_defrtr),
    ("accept_ra_pinfo", |all| all.accept_ra_pinfo),
    ("accept_redirects", |all| all.accept_redirects),
    ("accept_source_route", |all| all.accept_source_route),
    ("autoconf", |all| all.autoconf),
    ("forwarding", |all| all.forwarding),
    ("keep_addr_on_down", |all| all.keep_addr_on_down),
    ("ndisc_notify", |all| all.ndisc_notify),
    ("proxy_ndp", |all| all.proxy_ndp),
];

/// Of one link.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    ipv4: Option<InetDevConf>,
    /// There is none where the MTU is too small.
    ipv6: Option<Inet6DevConf>,
}

impl Settings {
    /// Those of a link.
    pub fn of(link: &LinkMessage) -> Self {
        let families = link.attributes.iter().filter_map(|attribute| match attribute {
            LinkAttribute::AfSpecUnspec(families) => Some(families),
            _ => None,
        });
        let mut settings = Self::default();
        for family in families.flatten() {
            match family {
                AfSpecUnspec::Inet(all) => {
                    settings.ipv4 = all.iter().find_map(|one| match one {
                        AfSpecInet::DevConf(all) => Some(*all),
                        _ => None,
                    });
                }
                AfSpecUnspec::Inet6(all) => {
                    settings.ipv6 = all.iter().find_map(|one| match one {
                        AfSpecInet6::DevConf(all) => Some(*all),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        settings
    }

    /// What is other than with `usual`.
    pub fn changed(&self, usual: &Self) -> Vec<NetworkSetting> {
        let mut changed = compare(&IPV4, self.ipv4.as_ref(), usual.ipv4.as_ref(), false);
        changed.extend(compare(&IPV6, self.ipv6.as_ref(), usual.ipv6.as_ref(), true));
        changed
    }
}

fn compare<T>(names: &[Named<T>], own: Option<&T>, usual: Option<&T>, ipv6: bool) -> Vec<NetworkSetting> {
    let (Some(own), Some(usual)) = (own, usual) else { return Vec::new() };
    let differing = names.iter().filter(|(_, value)| value(own) != value(usual));
    let setting = |(name, value): &Named<T>| NetworkSetting {
        ipv6,
        name: (*name).to_string(),
        value: value(own),
        ..Default::default()
    };
    differing.map(setting).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use netlink_packet_route::RouteNetlinkMessage;

    use super::super::netlink::Netlink;
    use super::*;

    #[test]
    fn what_somebody_has_changed_is_found() {
        let tested = std::thread::spawn(|| {
            // Without the privilege to make a namespace there is nothing to be tested.
            if crate::sys::unshare_network().is_err() {
                return;
            }
            let mut netlink = Netlink::new().unwrap();
            let mut look = || {
                let links = netlink.list(RouteNetlinkMessage::GetLink(LinkMessage::default())).unwrap();
                let loopback = links.iter().find_map(|link| match link {
                    RouteNetlinkMessage::NewLink(link) if link.header.index == 1 => Some(Settings::of(link)),
                    _ => None,
                });
                loopback.unwrap()
            };
            let usual = look();
            assert!(usual.changed(&usual).is_empty() && usual.ipv4.is_some());
            // All that the tables name are files, and each is found under its own name.
            let files = IPV4.iter().map(|(name, _)| (false, *name)).chain(IPV6.iter().map(|(name, _)| (true, *name)));
            for (ipv6, name) in files {
                let file = format!("/proc/sys/net/ipv{}/conf/lo/{name}", if ipv6 { 6 } else { 4 });
                let before = fs::read_to_string(&file).unwrap();
                let value = i32::from(before.trim() == "0");
                fs::write(&file, value.to_string()).unwrap();
                let expected = NetworkSetting { ipv6, name: name.to_string(), value, ..Default::default() };
                assert_eq!(look().changed(&usual), [expected]);
                fs::write(&file, before.trim()).unwrap();
            }
            assert!(look().changed(&Settings::default()).is_empty());
        });
        tested.join().unwrap();
    }
}
