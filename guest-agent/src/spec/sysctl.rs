//! linux.sysctl: which can be set for a container alone. The checks and their words are runc's: where config.json
//! means the host's network or IPC, what it sets there would be for more than the container with any other runtime.

use oci_spec::runtime::Spec;

use super::{Error, Namespaces, invalid};

const IPC: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// Refuses what would change the guest.
pub fn check(spec: &Spec, namespaces: &Namespaces) -> Result<(), Error> {
    let given = spec.linux().iter().flat_map(|l| l.sysctl().iter().flatten());
    given.map(|(name, _)| name).try_for_each(|name| check_one(name, namespaces))
}

fn check_one(name: &str, namespaces: &Namespaces) -> Result<(), Error> {
    let path = path(name);
    let dotted = path.replace('.', "\0").replace('/', ".").replace('\0', "/");
    let no = |problem: String| Err(invalid("linux.sysctl", problem));
    if path.split('/').any(|part| part.is_empty() || part == ".." || part == ".") || path.contains('\0') {
        return no(format!("{name:?} is not the name of a sysctl"));
    }
    if IPC.contains(&dotted.as_str()) || dotted.starts_with("fs.mqueue.") {
        if namespaces.is_own(libc::CLONE_NEWIPC) {
            return Ok(());
        }
        return no(format!("sysctl {dotted:?} is not allowed in the hosts ipc namespace"));
    }
    if dotted.starts_with("net.") {
        if namespaces.is_own(libc::CLONE_NEWNET) {
            return Ok(());
        }
        return no(format!("sysctl {dotted:?} is not allowed in the host network namespace"));
    }
    match dotted.as_str() {
        "kernel.domainname" if namespaces.is_own(libc::CLONE_NEWUTS) => Ok(()),
        "kernel.hostname" if namespaces.is_own(libc::CLONE_NEWUTS) => {
            no(format!("sysctl {dotted:?} is not allowed as it conflicts with the OCI \"hostname\" field"))
        }
        _ => no(format!("sysctl {dotted:?} is not in a separate kernel namespace")),
    }
}

/// The file below /proc/sys. Whichever of dot and slash comes first separates; the other is part of a name, and a dot there.
pub fn path(name: &str) -> String {
    let swap = |c| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    match name.find(['.', '/']).and_then(|at| name.get(at..)) {
        Some(rest) if rest.starts_with('.') => name.chars().map(swap).collect(),
        _ => name.to_owned(),
    }
}

/// Of a network interface that may come later: its name, and the file below /proc/sys.
pub fn of_interface(name: &str) -> Option<(String, String)> {
    let path = path(name);
    let parts: Vec<&str> = path.split('/').collect();
    let ["net", "ipv4" | "ipv6", "conf" | "neigh", interface, _] = parts[..] else { return None };
    let interface = (!matches!(interface, "all" | "default" | "lo")).then(|| interface.to_owned())?;
    Some((interface, path))
}

/// All of interfaces that may come later: name, file, and what is written there.
pub fn of_interfaces(spec: &Spec) -> impl Iterator<Item = (String, String, &String)> {
    let given = spec.linux().iter().flat_map(|l| l.sysctl().iter().flatten());
    given.filter_map(|(name, value)| of_interface(name).map(|(interface, file)| (interface, file, value)))
}

/// The file where dots and slashes alike separate, as runc takes a name: it stays below what [`path`] may name.
pub fn all_separate(name: &str) -> String {
    name.replace('.', "/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_and_slashes_separate() {
        assert_eq!(path("net.ipv4.ip_forward"), "net/ipv4/ip_forward");
        assert_eq!(path("net/ipv4/conf/eth0.5/forwarding"), "net/ipv4/conf/eth0.5/forwarding");
        assert_eq!(path("net.ipv4.conf.eth0/5.forwarding"), "net/ipv4/conf/eth0.5/forwarding");
        assert_eq!(path("plain"), "plain");
        assert_eq!(path("net.ipv4/tcp_syncookies"), "net/ipv4.tcp_syncookies");
        assert_eq!(all_separate("net.ipv4/tcp_syncookies"), "net/ipv4/tcp_syncookies");
    }

    #[test]
    fn interfaces_that_come_later_are_known_by_their_name() {
        let eth0 = |file: &str| Some(("eth0".to_owned(), file.to_owned()));
        assert_eq!(of_interface("net.ipv4.conf.eth0.forwarding"), eth0("net/ipv4/conf/eth0/forwarding"));
        assert_eq!(of_interface("net/ipv6/neigh/eth0/gc_stale_time"), eth0("net/ipv6/neigh/eth0/gc_stale_time"));
        let vlan = Some(("eth0.5".to_owned(), "net/ipv4/conf/eth0.5/rp_filter".to_owned()));
        assert_eq!(of_interface("net.ipv4.conf.eth0/5.rp_filter"), vlan);
        for name in
            ["net.ipv4.conf.all.rp_filter", "net.ipv6.conf.lo.disable_ipv6", "net.ipv4.ip_forward", "kernel.sem"]
        {
            assert_eq!(of_interface(name), None, "{name}");
        }
    }

    #[test]
    fn only_what_is_the_containers_own_is_allowed() {
        let own = Namespaces { new: libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWNET, joined: Vec::new() };
        let none = Namespaces::default();
        let check = |name: &str, namespaces| check_one(name, namespaces).map_err(|e| e.to_string());
        for name in ["kernel.msgmax", "kernel/sem", "fs.mqueue.msg_max", "net.core.somaxconn", "kernel.domainname"] {
            check(name, &own).unwrap();
        }
        assert!(check("kernel.msgmax", &none).unwrap_err().contains("is not allowed in the hosts ipc namespace"));
        assert!(
            check("net.core.somaxconn", &none).unwrap_err().contains("is not allowed in the host network namespace")
        );
        assert!(check("kernel.hostname", &own).unwrap_err().contains("conflicts with the OCI \"hostname\" field"));
        for (name, namespaces) in [("kernel.domainname", &none), ("vm.swappiness", &own), ("kernel.panic", &own)] {
            assert!(check(name, namespaces).unwrap_err().contains("is not in a separate kernel namespace"), "{name}");
        }
        for name in ["", "net..x", "net/../kernel/panic", "../x", "net.x\0"] {
            assert!(check(name, &own).unwrap_err().contains("linux.sysctl"), "{name}");
        }
    }
}
