//! A monitor process with a shell in its place.

use std::os::fd::AsRawFd;
use std::sync::mpsc;

use super::*;
use crate::network::windows::Windows;

/// A shell in the monitor's place: its descriptor 3 is the control socket.
fn monitor(script: &str) -> (MonitorProcess, mpsc::Receiver<MonitorEvent>) {
    let (control, theirs) = UnixStream::pair().unwrap();
    let arguments = ["sh", "-c", script].map(|text| CString::new(text).unwrap());
    let pid = sys::spawn(&Spawn {
        path: c"/bin/sh",
        arguments: &arguments,
        environment: &[c"PATH=/bin:/usr/bin".into()],
        streams: Streams::Stderr,
        descriptors: &[(theirs.as_fd(), fds::CONTROL)],
    })
    .unwrap();
    let (sender, receiver) = mpsc::channel();
    let report = move |event: &MonitorEvent| drop(sender.send(event.clone()));
    (MonitorProcess::adopt("c1", (Role::Monitor, pid), control, report).unwrap(), receiver)
}

fn config() -> MonitorConfig {
    MonitorConfig {
        id: "c1".into(),
        vcpus: 1,
        memory_mib: 64,
        memory_most_mib: 64,
        kernel_arguments: String::new(),
        shares: vec![],
        cache: Default::default(),
        disks: vec![],
    }
}

#[test]
fn configuration_goes_in_and_events_come_out() {
    let script = r#"read line <&3; case "$line" in *'"id":"c1"'*) echo '{"event":"started","at_ns":5}' >&3;; esac
        read line <&3; exit 0"#;
    let (monitor, events) = monitor(script);
    monitor.configure(&config()).unwrap();
    assert_eq!(events.recv().unwrap(), MonitorEvent::Started { at_ns: 5 });
    assert!(monitor.verdict().is_none());
    let start = Instant::now();
    monitor.end();
    assert!(start.elapsed() < Role::Monitor.patience());
}

#[test]
fn orders_are_answered() {
    let script = r#"read line <&3; case "$line" in *'"order":"unplug"'*) echo '{"event":"done","window":4}' >&3;; esac
        read line <&3; echo '{"event":"refused","message":"no \u001broom"}' >&3; read line <&3"#;
    let (monitor, _events) = monitor(script);
    assert_eq!(monitor.unplug(4).unwrap(), Ok(()));
    let (_reader, writer) = io::pipe().unwrap();
    assert_eq!(monitor.plug([2; 6], &[OwnedFd::from(writer)], &[]).unwrap(), Err("no  room".to_string()));
    monitor.end();
    assert!(monitor.unplug(4).is_err());
}

#[test]
fn a_late_answer_is_not_the_next_ones() {
    let script = r#"echo '{"event":"done","window":7}' >&3
        read line <&3; case "$line" in *'"unplug","window":7'*) echo '{"event":"done","window":7}' >&3;; esac
        read line <&3; case "$line" in *'"unplug","window":4'*) echo '{"event":"done","window":4}' >&3;; esac
        read line <&3"#;
    let (monitor, events) = monitor(script);
    // As if the time of an order had run out.
    events.recv().unwrap();
    monitor.shared.fate().late = Some(true);
    assert_eq!(monitor.carry_out(&MonitorOrder::Unplug { window: 4 }, &[]).unwrap(), Ok(4));
    assert_eq!(monitor.shared.fate().late, None);
    monitor.end();
}

#[test]
fn a_guest_that_does_not_answer_is_shown() {
    let script = r#"read line <&3; case "$line" in *'"order":"console"'*) ;; *) exit 1;; esac
        echo '{"event":"console","lines":["rcu: stall"]}' >&3; read line <&3"#;
    let (monitor, _events) = monitor(script);
    let text = monitor.unresponsive("the guest did not start".to_string()).to_string();
    assert_eq!(text, "the guest did not start; the last lines of its console:\n  rcu: stall");
    monitor.end();
    assert_eq!(monitor.unresponsive("it is gone".to_string()).to_string(), "it is gone");
}

#[test]
fn its_own_sentence_is_the_reason() {
    let (monitor, _events) = monitor(r#"echo '{"event":"failed","message":"no \u001bmemory"}' >&3; exit 1"#);
    assert_eq!(monitor.why_gone().unwrap().to_string(), "no  memory");
}

#[test]
fn panics_show_the_console() {
    let event = |panic: bool, line: &str| {
        format!(r#"echo '{{"event":"stopped","panic":{panic},"console":["one","{line}"]}}' >&3"#)
    };
    let why = |script: String| monitor(&script).0.why_gone().unwrap().to_string();
    let text = why(event(true, "Kernel panic"));
    assert_eq!(
        text,
        "the guest kernel of container \"c1\" panicked; the last lines of its console:\n  one\n  Kernel panic"
    );
    assert!(
        why(event(true, "Attempted to kill init!")).starts_with("the agent in the guest of container \"c1\" crashed")
    );
    assert!(why(event(false, "x")).starts_with("the guest of container \"c1\" ended unexpectedly"));
}

#[test]
fn kills_and_silent_ends_are_told_apart() {
    let why = |script: &str| monitor(script).0.why_gone().unwrap().to_string();
    assert_eq!(why("kill -9 $$"), "the monitor of container \"c1\" was killed (signal 9)");
    assert_eq!(why("exit 3"), "the monitor of container \"c1\" ended (exit status 3)");
}

#[test]
fn a_monitor_that_says_it_stopped_and_stays_is_killed() {
    let (monitor, _events) = monitor(r#"echo '{"event":"failed","message":"odd"}' >&3; exec sleep 100"#);
    assert_eq!(monitor.why_gone().unwrap().to_string(), "odd");
    assert_eq!(monitor.shared.fate().end, Some(End::Killed(9)));
}

#[test]
fn dropping_leaves_no_process() {
    let (monitor, _events) = monitor("exec sleep 100");
    let pidfd = monitor.killer.process.clone();
    assert!(pidfd.as_raw_fd() > 2);
    drop(monitor);
    assert!(pidfd_send_signal(&pidfd, Signal::TERM).is_err());
}

#[test]
fn rubbish_is_not_believed() {
    let (monitor, events) = monitor(r#"echo nonsense >&3; echo '{"event":"started","at_ns":1}' >&3; read line <&3"#);
    assert_eq!(events.recv().unwrap(), MonitorEvent::Started { at_ns: 1 });
    monitor.end();
}
