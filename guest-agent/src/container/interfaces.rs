//! Counters of a container's network interfaces.

use std::fs::File;
use std::io::{self, Read};

use agent_protocol::stats::Interface;
use rustix::process::Pid;

/// /proc/PID/net/dev is as long as there are interfaces.
const MOST: u64 = 256 * 1024;

/// All that the process sees, but `lo`.
pub fn of_process(pid: Pid) -> io::Result<Vec<Interface>> {
    let mut text = String::new();
    File::open(format!("/proc/{}/net/dev", pid.as_raw_pid()))?.take(MOST).read_to_string(&mut text)?;
    Ok(parse(&text))
}

/// Two lines of headings, then one for each interface: eight counters of what came in, eight of what went out.
fn parse(text: &str) -> Vec<Interface> {
    let interface = |line: &str| {
        let (name, counters) = line.split_once(':')?;
        let counters: Vec<u64> = counters.split_ascii_whitespace().filter_map(|n| n.parse().ok()).collect();
        let [rx_bytes, rx_packets, rx_errors, rx_dropped, _, _, _, _, tx_bytes, tx_packets, tx_errors, tx_dropped, ..] =
            counters[..]
        else {
            return None;
        };
        let name = name.trim().to_owned();
        Some(Interface {
            name,
            rx_bytes,
            rx_packets,
            rx_errors,
            rx_dropped,
            tx_bytes,
            tx_packets,
            tx_errors,
            tx_dropped,
        })
    };
    text.lines().skip(2).filter_map(interface).filter(|i| i.name != "lo").collect()
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn counters_are_read() {
        let text = "Inter-| Receive\n face |bytes\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth0: 10 2 3 4 0 0 0 0 50 6 7 8 0 0 0 0\n bad: 1\n";
        let found = parse(text);
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].name.as_str(), found[0].rx_bytes, found[0].tx_bytes, found[0].tx_dropped),
            ("eth0", 10, 50, 8)
        );
        assert!(parse("").is_empty());
    }
}
