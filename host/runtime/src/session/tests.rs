//! Whole sessions with a shell in the monitor's place and an agent inside the test.

use std::ffi::CString;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Instant;

use agent_protocol::agent::{
    CreateContainerRequest, CreateContainerResponse, SignalProcessRequest, StartContainerResponse, UpdateMemoryRequest,
    WaitProcessResponse,
};
use protobuf::Message;
use tempfile::TempDir;
use ttrpc::Code;

use super::*;
use crate::control::fds;
use crate::guest::tests::{connect_line, read_request, reply};
use crate::monitor_process::Role;
use crate::process_id::ProcessId;
use crate::proxy::lending;
use crate::proxy::protocol::Network;
use crate::share;
use crate::sys::{Spawn, spawn};

/// What the agent in the test was asked for.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Create(String),
    Start,
    Wait,
    Signal(u32),
    /// Windows, bytes, and whether there is no more.
    Memory(Vec<u32>, u64, bool),
    Shutdown,
}

struct Lab {
    directory: TempDir,
    session: Arc<Session>,
    asked: Receiver<Asked>,
}

/// Answers streams and calls. StartContainer fails if `start` is an error; WaitProcess is answered when a signal comes.
fn serve(listener: &UnixListener, asked: &Sender<Asked>, start: Result<(), &'static str>) {
    let mut streams = Vec::new();
    for connection in listener.incoming() {
        let mut connection = connection.unwrap();
        let line = connect_line(&connection);
        connection.write_all(b"OK 1\n").unwrap();
        if line == "CONNECT 1025\n" {
            let mut token = [0; 8];
            connection.read_exact(&mut token).unwrap();
            streams.push(connection);
            continue;
        }
        let (asked, mut streams) = (asked.clone(), std::mem::take(&mut streams));
        let more = listener.try_clone().unwrap();
        // Streams may come after the agent's connection too.
        thread::spawn(move || {
            for stream in more.incoming().flatten() {
                connect_line(&stream);
                (&stream).write_all(b"OK 1\n").unwrap();
                drop(stream);
            }
        });
        answer(&connection, &asked, start, &mut streams);
        return;
    }
}

fn answer(
    connection: &UnixStream,
    asked: &Sender<Asked>,
    start: Result<(), &'static str>,
    streams: &mut Vec<UnixStream>,
) {
    let (mut waiting, mut failed) = (None, false);
    while let Some((number, request)) = read_request(connection) {
        let (what, reply_with) = match request.method.as_str() {
            "CreateContainer" => {
                let request = CreateContainerRequest::parse_from_bytes(&request.payload).unwrap();
                let spec = String::from_utf8(request.spec_json).unwrap();
                (Asked::Create(spec), CreateContainerResponse::default().write_to_bytes().unwrap())
            }
            "StartContainer" => (Asked::Start, StartContainerResponse::default().write_to_bytes().unwrap()),
            "WaitProcess" => {
                waiting = Some(number);
                if failed {
                    reply(connection, number, Ok(WaitProcessResponse::default().write_to_bytes().unwrap()));
                }
                let _ = asked.send(Asked::Wait);
                continue;
            }
            "SignalProcess" => {
                let signal = SignalProcessRequest::parse_from_bytes(&request.payload).unwrap().signal;
                streams.clear();
                let ended = WaitProcessResponse { exit_status: 128 + signal, signal, ..Default::default() };
                reply(connection, waiting.take().unwrap(), Ok(ended.write_to_bytes().unwrap()));
                (Asked::Signal(signal), Vec::new())
            }
            "UpdateMemory" => {
                let request = UpdateMemoryRequest::parse_from_bytes(&request.payload).unwrap();
                (Asked::Memory(request.windows, request.added_bytes, request.exhausted), Vec::new())
            }
            // Nothing was killed, and the clock waits.
            "WaitOom" | "AdjustClock" => continue,
            "Shutdown" => (Asked::Shutdown, Vec::new()),
            other => panic!("{other}"),
        };
        match (&what, start) {
            (Asked::Start, Err(message)) => {
                reply(connection, number, Err((Code::INVALID_ARGUMENT, message)));
                failed = true;
                if let Some(number) = waiting {
                    reply(connection, number, Ok(WaitProcessResponse::default().write_to_bytes().unwrap()));
                }
            }
            _ => reply(connection, number, Ok(reply_with)),
        }
        // Nobody may listen any more.
        let _ = asked.send(what);
    }
}

/// A session whose monitor is `script`. It reads the configuration from descriptor 3 first.
fn lab(script: &str, start: Result<(), &'static str>, agent: bool) -> Lab {
    lab_of(Role::Monitor, script, start, agent)
}

fn lab_of(role: Role, script: &str, start: Result<(), &'static str>, agent: bool) -> Lab {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("rootfs")).unwrap();
    let state: OwnedFd = fs::File::open(directory.path()).unwrap().into();
    let listener = state::listen(state.as_fd()).unwrap();
    let (sender, asked) = mpsc::channel();
    let (control, theirs) = UnixStream::pair().unwrap();
    let arguments = ["sh", "-c", script].map(|text| CString::new(text).unwrap());
    // Without an agent the listener is the monitor's only, as it is in life.
    let placed = [(theirs.as_fd(), fds::CONTROL), (listener.as_fd(), fds::VSOCK_LISTENER)];
    let streams = Streams::Stderr;
    let descriptors = if agent { &placed[..1] } else { &placed[..] };
    let environment = [c"PATH=/bin:/usr/bin".into()];
    let pid =
        spawn(&Spawn { path: c"/bin/sh", arguments: &arguments, environment: &environment, streams, descriptors })
            .unwrap();
    let monitor = MonitorProcess::adopt("c1", (role, pid), control, |_| {}).unwrap();
    if agent {
        let listener = UnixListener::from(listener);
        thread::spawn(move || serve(&listener, &sender, start));
    }
    let trace = Arc::new(Trace::to_file(&directory.path().join("trace.json"), now_ns()).unwrap());
    // The monitor that it joins is none by now: there is nothing to be put in order.
    let (gone, socket) = (ProcessId { pid: 1, start: u64::MAX }, PathBuf::new());
    let keeper = KeeperConfig { id: "c1".to_string(), monitor: gone, socket, task: KeeperTask::Clear };
    let joined = (role == Role::Keeper).then_some(keeper);
    let session = Arc::new(Session { joined, ..Session::with("c1", monitor, state, None, trace) });
    Lab { directory, session, asked }
}

impl Lab {
    fn order(&self) -> ContainerOrder {
        let spec = serde_json::json!({"ociVersion": "1.0.2", "root": {"path": "rootfs"}});
        let plan = share::plan(&serde_json::from_value(spec).unwrap(), self.directory.path(), "c1").unwrap();
        ContainerOrder {
            id: "c1".to_string(),
            network_devices: Vec::new(),
            ipv6_switches: Vec::new(),
            network: Network::Host,
            vcpus: 1,
            memory_mib: 64,
            memory_most_mib: 1024,
            kernel_arguments: String::new(),
            cache: Default::default(),
            kernel: PathBuf::new(),
            initramfs: PathBuf::new(),
            root: PathBuf::new(),
            log: Default::default(),
            shares: plan.shares,
            blocks: Vec::new(),
            sockets: plan.sockets,
            notify: false,
            spec: serde_json::to_string(&plan.spec).unwrap(),
            terminal: false,
            no_new_keyring: false,
            size: None,
            oom_score: None,
            preserved: Vec::new(),
            hook_seconds: Default::default(),
            attached: true,
            joined: None,
            shares_network: false,
            started_ns: [0; 3],
        }
    }

    /// Runs the session on a thread, and executes the container when it is ready. `meanwhile` gets what a signal would go to, and
    /// what the agent is asked for.
    fn run(self, meanwhile: impl FnOnce(&Signalled, &Receiver<Asked>)) -> Result<End, SessionError> {
        let order = self.order();
        let Self { directory: _directory, session, asked } = self;
        let signalled = session.signalled.clone();
        let (proceed, proceeds) = mpsc::channel();
        proceed.send("{}".to_string()).unwrap();
        let (failed, failure) = mpsc::channel();
        let thread = thread::spawn(move || {
            session.boot(&order)?;
            let executing = session.clone();
            let execute = || {
                thread::spawn(move || executing.execute().map_err(|error| failed.send(error)));
                Ok(())
            };
            session.run(order, Vec::new(), &proceeds, execute)
        });
        meanwhile(&signalled, &asked);
        let result = thread.join().unwrap();
        // What the command would have been told first.
        failure.try_recv().map_or(result, Err)
    }
}

const PATIENT_MONITOR: &str = "read config <&3; read end <&3";

#[test]
fn a_container_runs_gets_a_signal_and_ends() {
    let lab = lab(PATIENT_MONITOR, Ok(()), true);
    let result = lab.run(|signalled, asked| {
        let Asked::Create(spec) = asked.recv().unwrap() else { panic!("not created first") };
        assert!(spec.contains(r#""path":"/run/sandbox/share/rootfs""#), "{spec}");
        assert!(spec.contains(r#""cgroupsPath":"/c1""#), "{spec}");
        let mut both = [asked.recv().unwrap(), asked.recv().unwrap()];
        both.sort_by_key(|asked| *asked == Asked::Wait);
        assert_eq!(both, [Asked::Start, Asked::Wait]);
        signalled.handle(libc::SIGUSR1);
        assert_eq!(asked.recv().unwrap(), Asked::Signal(10));
        assert_eq!(asked.recv().unwrap(), Asked::Shutdown);
    });
    assert_eq!(result.unwrap(), End::Killed(10));
}

#[test]
fn a_guest_that_wishes_for_memory_gets_some() {
    let script = r#"read config <&3
        while read order <&3; do case "$order" in
            *'"grow"'*) echo '{"event":"done","window":13}' >&3 ;;
            *'"report_free_pages"'*) echo '{"event":"done","window":12}' >&3 ;;
            *'"hear_wishes"'*) echo '{"event":"done","window":0}' >&3 ;;
            *) echo '{"event":"refused","message":"unknown"}' >&3 ;;
        esac; done"#;
    let lab = lab(script, Ok(()), true);
    let growth = lab.session.growth.clone();
    let session = Arc::downgrade(&lab.session);
    let result = lab.run(|signalled, asked| {
        (0..3).for_each(|_| drop(asked.recv().unwrap()));
        for (mib, windows, exhausted) in
            [(256, &[13, 12][..], false), (512, &[13, 12], false), (896, &[13, 12], false), (896, &[], true)]
        {
            growth.wished();
            assert_eq!(asked.recv().unwrap(), Asked::Memory(windows.to_vec(), mib << 20, exhausted));
        }
        // What the guest knows of that stays.
        session.upgrade().unwrap().report_free_pages();
        assert_eq!(asked.recv().unwrap(), Asked::Memory(vec![12], 896 << 20, true));
        signalled.handle(libc::SIGUSR1);
        assert_eq!(asked.recv().unwrap(), Asked::Signal(10));
        assert_eq!(asked.recv().unwrap(), Asked::Shutdown);
        growth.wished();
    });
    assert_eq!(result.unwrap(), End::Killed(10));
}

#[test]
fn a_monitor_that_cannot_plug_memory_in_is_the_end_of_growth() {
    let script = r#"read config <&3; while read order <&3; do echo '{"event":"refused","message":"no"}' >&3; done"#;
    let lab = lab(script, Ok(()), true);
    let growth = lab.session.growth.clone();
    let result = lab.run(|signalled, asked| {
        (0..3).for_each(|_| drop(asked.recv().unwrap()));
        growth.wished();
        assert_eq!(asked.recv().unwrap(), Asked::Memory(vec![], 0, true));
        signalled.handle(libc::SIGUSR1);
    });
    assert_eq!(result.unwrap(), End::Killed(10));
}

#[test]
fn the_agents_sentence_is_the_commands() {
    let text = "exec: \"foo\": executable file not found in $PATH";
    let error = lab(PATIENT_MONITOR, Err(text), true).run(|_, _| {}).unwrap_err();
    assert_eq!((error.to_string().as_str(), error.exit_status()), (text, 1));
}

#[test]
fn a_monitor_that_dies_ends_the_start() {
    let error = lab("read config <&3; kill -9 $$", Ok(()), false).run(|_, _| {}).unwrap_err();
    assert_eq!(error.to_string(), "the monitor of container \"c1\" was killed (signal 9)");
    let error = lab("kill -9 $$", Ok(()), false).run(|_, _| {}).unwrap_err();
    assert_eq!(error.to_string(), "the monitor of container \"c1\" was killed (signal 9)");
    let script = r#"read config <&3; echo '{"event":"failed","message":"no memory for the guest"}' >&3; exit 1"#;
    let error = lab(script, Ok(()), false).run(|_, _| {}).unwrap_err();
    assert_eq!(error.to_string(), "no memory for the guest");
}

#[test]
fn a_keeper_that_is_killed_ends_the_container() {
    let attached = r#"read config <&3; echo '{"event":"attached"}' >&3"#;
    let error = lab_of(Role::Keeper, &format!("{attached}; sleep 1; kill -9 $$"), Ok(()), true)
        .run(|_, asked| while asked.recv().unwrap() != Asked::Wait {})
        .unwrap_err();
    assert_eq!(error.to_string(), "the keeper of container \"c1\" was killed (signal 9)");
    // One that ends with the micro-VM says so.
    let failed = r#"echo '{"event":"failed","message":"the micro-VM has ended"}' >&3"#;
    let error =
        lab_of(Role::Keeper, &format!("{attached}; sleep 1; {failed}"), Ok(()), true).run(|_, _| {}).unwrap_err();
    assert_eq!(error.to_string(), "the micro-VM has ended");
    // Its shares never came.
    let error =
        lab_of(Role::Keeper, &format!("read config <&3; {failed}; exit 1"), Ok(()), true).run(|_, _| {}).unwrap_err();
    assert_eq!(error.to_string(), "the micro-VM has ended");
}

#[test]
fn a_joined_container_leaves_the_guest_to_others() {
    let script = r#"read config <&3; echo '{"event":"attached"}' >&3; read end <&3"#;
    let result = lab_of(Role::Keeper, script, Ok(()), true).run(|signalled, asked| {
        // Create, then Start and Wait in either order.
        (0..3).for_each(|_| drop(asked.recv().unwrap()));
        signalled.handle(libc::SIGUSR1);
        assert_eq!(asked.recv().unwrap(), Asked::Signal(10));
        // Neither Shutdown nor another signal: the keeper's part.
        assert!(asked.recv().is_err());
    });
    assert_eq!(result.unwrap(), End::Killed(10));
}

#[test]
fn others_in_the_micro_vm_are_lent_windows_until_they_are_gone() {
    let orders = tempfile::NamedTempFile::new().unwrap();
    let script = format!(
        r#"read config <&3; while read order <&3; do echo "$order" >>{}; echo '{{"event":"done","window":7}}' >&3; done"#,
        orders.path().display()
    );
    let lab = lab(&script, Ok(()), true);
    lab.session.boot(&lab.order()).unwrap();
    let (here, there) = UnixStream::pair().unwrap();
    let session = Arc::downgrade(&lab.session);
    let lending = thread::spawn(move || {
        assert_eq!(connect_line(&there), ":windows c2\n");
        lending::lend(there, &session, "c2")
    });
    let lent = Lent::over(here, "c2", "c1").unwrap();
    let (_reader, writer) = std::io::pipe().unwrap();
    let tap = [OwnedFd::from(writer)];
    assert_eq!(lent.plug([2; 6], &tap, &tap).unwrap(), Ok(7));
    assert_eq!(lent.unplug(8).unwrap(), Err("window 8 is another container's".to_string()));
    assert_eq!(lent.unplug(7).unwrap(), Ok(()));
    assert_eq!(lent.plug([2; 6], &tap, &[]).unwrap(), Ok(7));
    // There is no guest to wait for.
    fs::remove_file(lab.directory.path().join("vsock.sock")).unwrap();
    drop(lent);
    lending.join().unwrap().unwrap();
    let orders = fs::read_to_string(orders.path()).unwrap();
    let kinds: Vec<_> = orders.lines().map(|line| line.contains("unplug")).collect();
    assert_eq!(kinds, [false, true, false, true], "{orders}");
}

#[test]
fn a_panic_ends_the_start() {
    let event = r#"{"event":"stopped","panic":true,"console":["Kernel panic - not syncing"]}"#;
    let error = lab(&format!("read config <&3; echo '{event}' >&3"), Ok(()), false).run(|_, _| {}).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("the guest kernel of container \"c1\" panicked; the last lines"), "{text}");
    assert!(text.ends_with("\n  Kernel panic - not syncing"), "{text}");
}

#[test]
fn a_signal_ends_the_start() {
    let begin = Instant::now();
    let error = lab(PATIENT_MONITOR, Ok(()), false)
        .run(|signalled, _| {
            signalled.handle(libc::SIGWINCH);
            thread::sleep(Duration::from_millis(50));
            signalled.handle(libc::SIGTERM);
        })
        .unwrap_err();
    assert!(matches!(error, SessionError::Aborted(libc::SIGTERM)), "{error}");
    assert_eq!(error.exit_status(), 143);
    assert!(begin.elapsed() < Duration::from_secs(20));
}
