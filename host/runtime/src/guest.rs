//! The guest agent, seen from the host: connections through the monitor's socket, and the agent's calls.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use agent_protocol::agent::{
    AdjustClockRequest, AdjustClockResponse, ContainerRequest, CreateContainerRequest, CreateContainerResponse, Empty,
    ExecProcessRequest, ExecProcessResponse, ListProcessesResponse, ProcessInfo, ResizeTerminalRequest,
    SignalProcessRequest, StartContainerRequest, StartContainerResponse, StatsResponse, Stdio, TerminalSize,
    UpdateContainerRequest, UpdateMemoryRequest, UpdateNetworkRequest, WaitOomRequest, WaitOomResponse,
    WaitProcessRequest, WaitProcessResponse, WaitReadyResponse,
};
use agent_protocol::{AGENT_PORT, STDIO_PORT};
use protobuf::MessageField;

use crate::rpc::{Rpc, RpcError};

/// How long a guest may take from its monitor's start until its agent listens.
pub const BOOT_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the agent may take to prepare or start a container.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a guest that has booted may take to take a connection.
pub const REACH_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the agent may take to pass on a signal or a new terminal size.
const SIGNAL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the agent may take to freeze a container, or to say what it knows of one.
const FREEZE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the guest may take to end by itself.
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// The longest answer to CONNECT: `OK 4294967295\n`.
const ANSWER_LIMIT: usize = 32;

/// Why there is no connection to the guest.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The guest's agent did not listen in time.
    #[error("the guest did not start within {} s", .0.as_secs())]
    Timeout(Duration),
    /// The monitor closed the connection.
    #[error("the monitor closed the connection to port {0} of the guest")]
    Closed(u32),
    /// The monitor answered something else than OK.
    #[error("the monitor refused a connection to port {port} of the guest: {answer:?}")]
    Refused {
        /// vsock port.
        port: u32,
        /// The monitor's answer.
        answer: String,
    },
    /// The socket failed.
    #[error("connection to the guest: {0}")]
    Io(#[from] io::Error),
}

/// Connects to a vsock port of the guest through the monitor's socket. The monitor holds the answer back until the guest's agent
/// listens, so that nobody has to ask twice.
pub fn connect(socket: &Path, port: u32, timeout: Duration) -> Result<UnixStream, ConnectError> {
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all(format!("CONNECT {port}\n").as_bytes()).map_err(|_| ConnectError::Closed(port))?;
    stream.set_read_timeout(Some(timeout))?;
    let answer = read_answer(&mut stream).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ConnectError::Timeout(timeout),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => ConnectError::Closed(port),
        _ => error.into(),
    })?;
    if !answer.starts_with("OK ") {
        return Err(ConnectError::Refused { port, answer });
    }
    stream.set_read_timeout(None)?;
    Ok(stream)
}

/// Reads one line byte by byte: what follows belongs to the guest's stream.
fn read_answer(stream: &mut UnixStream) -> io::Result<String> {
    let mut line = Vec::new();
    let mut byte = [0u8];
    while line.len() < ANSWER_LIMIT {
        stream.read_exact(&mut byte)?;
        if byte[0] == b'\n' {
            break;
        }
        line.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}

/// Connects one stdio stream, named by its token.
pub fn connect_stdio(socket: &Path, token: u64) -> Result<UnixStream, ConnectError> {
    let mut stream = connect(socket, STDIO_PORT, BOOT_TIMEOUT)?;
    stream.write_all(&token.to_le_bytes())?;
    Ok(stream)
}

/// For a call in which the guest runs hooks. One that does not say how long it may take has what the call has.
fn with_hooks(seconds: u64) -> Duration {
    CALL_TIMEOUT.saturating_add(Duration::from_secs(seconds))
}

/// Where and when a further process is executed.
#[derive(Clone, Debug, Default)]
pub struct ExecPlace {
    /// Below the container's own cgroup, or empty.
    pub sub_cgroup: String,
    /// In a paused container too.
    pub ignore_paused: bool,
}

/// A container in the guest, by way of its agent.
#[derive(Debug)]
pub struct Guest {
    rpc: Rpc,
    id: String,
    /// The process that calls about one are for; empty for the first one.
    exec_id: String,
}

impl Guest {
    /// Connects to the agent; returns once it listens.
    pub fn connect(socket: &Path, id: &str) -> Result<Self, GuestError> {
        Self::over(connect(socket, AGENT_PORT, BOOT_TIMEOUT)?, id)
    }

    /// Connects to the agent of a guest that has booted.
    pub fn reach(socket: &Path, id: &str) -> Result<Self, GuestError> {
        Self::over(connect(socket, AGENT_PORT, REACH_TIMEOUT)?, id)
    }

    /// Takes a connection to an agent.
    pub fn over(stream: UnixStream, id: &str) -> Result<Self, GuestError> {
        Ok(Self { rpc: Rpc::new(stream)?, id: id.to_string(), exec_id: String::new() })
    }

    /// Closes the connection: whoever waits for an answer gets none.
    pub fn close(&self) {
        self.rpc.close();
    }

    /// The same for one of the container's other processes.
    pub fn of_process(self, exec_id: &str) -> Self {
        Self { exec_id: exec_id.to_string(), ..self }
    }

    /// Prepares the container, whose hooks may take so many seconds.
    pub fn create(
        &self,
        request: CreateContainerRequest,
        hook_seconds: u64,
    ) -> Result<CreateContainerResponse, RpcError> {
        let request = CreateContainerRequest { container_id: self.id.clone(), ..request };
        self.rpc.call("CreateContainer", &request, Some(with_hooks(hook_seconds)))
    }

    /// Executes the prepared process, whose hooks may take so many seconds. With `notify` it can say when it is ready.
    pub fn start(&self, notify: bool, hook_seconds: u64) -> Result<StartContainerResponse, RpcError> {
        let request = StartContainerRequest { container_id: self.id.clone(), notify, ..Default::default() };
        self.rpc.call("StartContainer", &request, Some(with_hooks(hook_seconds)))
    }

    /// Waits for the process's end.
    pub fn wait(&self) -> Result<WaitProcessResponse, RpcError> {
        let request =
            WaitProcessRequest { container_id: self.id.clone(), exec_id: self.exec_id.clone(), ..Default::default() };
        self.rpc.call("WaitProcess", &request, None)
    }

    /// Sends a signal to the process, or to all of the container's.
    pub fn signal(&self, signal: u32, all: bool) -> Result<(), RpcError> {
        let request = SignalProcessRequest {
            container_id: self.id.clone(),
            exec_id: self.exec_id.clone(),
            signal,
            all,
            ..Default::default()
        };
        self.rpc.call::<_, Empty>("SignalProcess", &request, Some(SIGNAL_TIMEOUT)).map(drop)
    }

    /// Sets the size of the container's terminal.
    pub fn resize(&self, size: TerminalSize) -> Result<(), RpcError> {
        let request = ResizeTerminalRequest {
            container_id: self.id.clone(),
            exec_id: self.exec_id.clone(),
            size: MessageField::some(size),
            ..Default::default()
        };
        self.rpc.call::<_, Empty>("ResizeTerminal", &request, Some(SIGNAL_TIMEOUT)).map(drop)
    }

    /// Executes this process in the container.
    pub fn exec(&self, process: String, stdio: Stdio, place: ExecPlace) -> Result<ExecProcessResponse, RpcError> {
        let request = ExecProcessRequest {
            container_id: self.id.clone(),
            exec_id: self.exec_id.clone(),
            process_json: process.into_bytes(),
            stdio: MessageField::some(stdio),
            sub_cgroup: place.sub_cgroup,
            ignore_paused: place.ignore_paused,
            ..Default::default()
        };
        self.rpc.call("ExecProcess", &request, Some(CALL_TIMEOUT))
    }

    fn container(&self) -> ContainerRequest {
        ContainerRequest { container_id: self.id.clone(), ..Default::default() }
    }

    /// Freezes the container's processes.
    pub fn pause(&self) -> Result<(), RpcError> {
        self.rpc.call::<_, Empty>("PauseContainer", &self.container(), Some(FREEZE_TIMEOUT)).map(drop)
    }

    /// Lets them go on.
    pub fn resume(&self) -> Result<(), RpcError> {
        self.rpc.call::<_, Empty>("ResumeContainer", &self.container(), Some(FREEZE_TIMEOUT)).map(drop)
    }

    /// Changes the container's limits.
    pub fn update(&self, resources_json: Vec<u8>) -> Result<(), RpcError> {
        let request = UpdateContainerRequest { container_id: self.id.clone(), resources_json, ..Default::default() };
        self.rpc.call::<_, Empty>("UpdateContainer", &request, Some(CALL_TIMEOUT)).map(drop)
    }

    /// Gives the container the network that `state` describes.
    pub fn update_network(&self, state: UpdateNetworkRequest) -> Result<(), RpcError> {
        let request = UpdateNetworkRequest { container_id: self.id.clone(), ..state };
        self.rpc.call::<_, Empty>("UpdateNetwork", &request, Some(CALL_TIMEOUT)).map(drop)
    }

    /// Tells what the host does about the guest's memory.
    pub fn update_memory(&self, request: &UpdateMemoryRequest) -> Result<(), RpcError> {
        self.rpc.call::<_, Empty>("UpdateMemory", request, Some(CALL_TIMEOUT)).map(drop)
    }

    /// Moves the guest's clock by so many nanoseconds, little by little with `slew`, and returns the time by it, in nanoseconds.
    pub fn adjust_clock(&self, by_ns: i64, slew: bool) -> Result<i64, RpcError> {
        let request = AdjustClockRequest { by_ns, slew, ..Default::default() };
        self.rpc
            .call("AdjustClock", &request, Some(SIGNAL_TIMEOUT))
            .map(|adjusted: AdjustClockResponse| adjusted.realtime_ns)
    }

    /// What the container uses, as JSON of the guest's.
    pub fn stats(&self) -> Result<Vec<u8>, RpcError> {
        self.rpc.call("GetStats", &self.container(), Some(FREEZE_TIMEOUT)).map(|stats: StatsResponse| stats.stats_json)
    }

    /// The container's processes.
    pub fn processes(&self) -> Result<Vec<ProcessInfo>, RpcError> {
        let list: ListProcessesResponse = self.rpc.call("ListProcesses", &self.container(), Some(FREEZE_TIMEOUT))?;
        Ok(list.processes)
    }

    /// Waits until the container has said that it is ready, or has ended: what it said, or nothing.
    pub fn wait_ready(&self) -> Result<Vec<u8>, RpcError> {
        self.rpc.call("WaitReady", &self.container(), None).map(|ready: WaitReadyResponse| ready.line)
    }

    /// Waits until the guest's OOM killer has ended more than `seen` of the container's processes, or the container has ended.
    pub fn wait_oom(&self, seen: u64) -> Result<WaitOomResponse, RpcError> {
        let request = WaitOomRequest { container_id: self.id.clone(), seen, ..Default::default() };
        self.rpc.call("WaitOom", &request, None)
    }

    /// Ends the guest.
    pub fn shutdown(&self) -> Result<(), RpcError> {
        self.rpc.call::<_, Empty>("Shutdown", &Empty::default(), Some(SHUTDOWN_TIMEOUT)).map(drop)
    }
}

/// Why the agent cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A call failed.
    #[error(transparent)]
    Rpc(#[from] RpcError),
}

#[cfg(test)]
pub(crate) mod tests;
