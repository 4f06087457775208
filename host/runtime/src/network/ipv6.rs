//! Where IPv6 is switched off in a network namespace: `net.ipv6.conf.*.disable_ipv6`. Docker switches it off where a network has none, and
//! whoever wants it back says so in config.json (`linux.sysctl`).

use std::fs;
use std::io;

use agent_protocol::agent::Ipv6Off;
use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};

/// The setting of an interface, of `all` of them or of those to come (`default`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Switch {
    /// Whose.
    pub name: String,
    /// IPv6 is off.
    pub off: bool,
}

fn path(name: &str) -> String {
    format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6")
}

/// Whether it is off for an interface in the network namespace of this thread. One with an MTU too small for it has none, nor has any
/// where the host's kernel has none.
pub(super) fn is_off(name: &str) -> bool {
    fs::read_to_string(path(name)).map_or(true, |text| text.trim() != "0")
}

/// Beside the interfaces' own settings.
pub(super) fn off() -> Ipv6Off {
    Ipv6Off { everywhere: is_off("all"), to_come: is_off("default"), loopback: is_off("lo"), ..Default::default() }
}

/// What a configuration sets: first what is for all.
pub fn of(spec: &Spec) -> Vec<Switch> {
    let sysctls = spec.linux().iter().flat_map(|linux| linux.sysctl().iter().flatten());
    let mut switches: Vec<Switch> = sysctls.filter_map(|(name, value)| switch(name, value)).collect();
    switches.sort_by_key(|switch| (switch.name != "all", switch.name.clone()));
    switches
}

fn switch(name: &str, value: &str) -> Option<Switch> {
    // Whichever of dot and slash comes first separates, and the other is a dot in a name.
    let (separator, other) = match name.chars().find(|c| matches!(c, '.' | '/'))? {
        '.' => ('.', '/'),
        _ => ('/', '.'),
    };
    let parts: Vec<&str> = name.split(separator).collect();
    let ["net", "ipv6", "conf", name, "disable_ipv6"] = parts[..] else { return None };
    let off = value.trim().parse::<i32>().ok()? != 0;
    Some(Switch { name: name.replace(other, "."), off })
}

/// Has the network namespace of this thread be as the configuration wants it: what looks there, and what the guest gets from there, is to
/// find no less than with a container that is in it.
pub fn set(switches: &[Switch]) {
    for Switch { name, off } in switches {
        match fs::write(path(name), if *off { "1" } else { "0" }) {
            // An interface that comes later, or no IPv6 at all.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => log::warn!("{}: {error}", path(name)),
            Ok(()) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_for_all_comes_first() {
        let spec = json!({"ociVersion": "1.2.0", "linux": {"sysctl": {
            "net.ipv6.conf.a.disable_ipv6": "1",
            "net.ipv6.conf.all.disable_ipv6": " 0\n",
            "net/ipv6/conf/eth0.5/disable_ipv6": "1",
            "net.ipv6.conf.eth0/6.disable_ipv6": "2",
            "net.ipv6.conf.b.disable_ipv6": "many",
            "net.ipv6.conf.b.accept_ra": "1",
            "net.ipv4.conf.b.disable_ipv6": "1",
            "net.ipv6.conf.disable_ipv6": "1",
            "net": "1",
        }}});
        let switches = of(&serde_json::from_value(spec).unwrap());
        let expected = [("all", false), ("a", true), ("eth0.5", true), ("eth0.6", true)];
        assert_eq!(switches, expected.map(|(name, off)| Switch { name: name.to_string(), off }));
    }

    #[test]
    fn a_namespace_is_switched() {
        let tested = std::thread::spawn(|| {
            // Without the privilege to make a namespace there is nothing to be tested.
            if crate::sys::unshare_network().is_err() {
                return;
            }
            let to = |name: &str, off| Switch { name: name.to_string(), off };
            set(&[to("all", true), to("lo", false), to("nothing", true)]);
            let off = Ipv6Off { everywhere: true, to_come: true, loopback: false, ..Default::default() };
            assert_eq!(super::off(), off);
            assert!(is_off("nothing"));
        });
        tested.join().unwrap();
    }
}
