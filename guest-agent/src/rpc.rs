//! The calls of `agent.proto`: checks arguments, delegates, and gives errors their ttrpc codes.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use agent_protocol::agent::{
    AdjustClockRequest, AdjustClockResponse, ContainerRequest, CreateContainerRequest, CreateContainerResponse, Empty,
    ExecProcessRequest, ExecProcessResponse, GuestStatus, ListProcessesResponse, ResizeTerminalRequest,
    SignalProcessRequest, StartContainerRequest, StartContainerResponse, StatsResponse, UpdateContainerRequest,
    UpdateMemoryRequest, UpdateNetworkRequest, WaitOomRequest, WaitOomResponse, WaitProcessRequest,
    WaitProcessResponse, WaitReadyResponse,
};
use agent_protocol::agent_ttrpc;
use async_trait::async_trait;
use ttrpc::r#async::TtrpcContext;

use crate::agent::Agent;
use crate::clock;
use crate::container::{self, Error};

/// Nanoseconds of CLOCK_BOOTTIME.
pub fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    (now.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec as u64)
}

/// The service that ttrpc calls.
pub struct Service(pub Arc<Agent>);

fn status(error: Error) -> ttrpc::Error {
    ttrpc::Error::RpcStatus(ttrpc::get_status(error.code(), error.to_string()))
}

/// Runs in a task of its own: a client that goes away must not leave a call half done.
async fn whole<T, F>(work: F) -> ttrpc::Result<T>
where
    T: Send + 'static,
    F: Future<Output = Result<T, Error>> + Send + 'static,
{
    match tokio::spawn(work).await {
        Ok(result) => result.map_err(status),
        Err(error) => Err(ttrpc::Error::RpcStatus(ttrpc::get_status(ttrpc::Code::INTERNAL, error.to_string()))),
    }
}

#[async_trait]
impl agent_ttrpc::Agent for Service {
    async fn create_container(
        &self,
        _ctx: &TtrpcContext,
        request: CreateContainerRequest,
    ) -> ttrpc::Result<CreateContainerResponse> {
        let agent = self.0.clone();
        whole(async move {
            let received_ns = now_ns();
            if request.memory_grows {
                agent.memory.allow();
            }
            let created = container::create(&agent, request).await?;
            Ok(CreateContainerResponse {
                agent_listening_ns: agent.listening_ns,
                received_ns,
                rootfs_mounted_ns: created.mounted_ns,
                replied_ns: now_ns(),
                pid: created.pid,
                ..Default::default()
            })
        })
        .await
    }

    async fn start_container(
        &self,
        _ctx: &TtrpcContext,
        request: StartContainerRequest,
    ) -> ttrpc::Result<StartContainerResponse> {
        let container = self.0.containers.get(&request.container_id).map_err(status)?;
        let agent = self.0.clone();
        whole(async move {
            let executed_ns = container.start(request.notify).await?;
            agent.memory.consider(&agent);
            Ok(StartContainerResponse { executed_ns, ..Default::default() })
        })
        .await
    }

    async fn wait_process(
        &self,
        _ctx: &TtrpcContext,
        request: WaitProcessRequest,
    ) -> ttrpc::Result<WaitProcessResponse> {
        let container = self.0.containers.get(&request.container_id).map_err(status)?;
        let found = container.process(&request.exec_id).map_err(status)?;
        let end = found.process().wait().await.map_err(status)?;
        Ok(WaitProcessResponse {
            exit_status: end.exit.status,
            signal: end.exit.signal,
            oom_killed: end.oom_kills > 0,
            exited_ns: end.exit.at_ns,
            ..Default::default()
        })
    }

    async fn exec_process(
        &self,
        _ctx: &TtrpcContext,
        request: ExecProcessRequest,
    ) -> ttrpc::Result<ExecProcessResponse> {
        let received_ns = now_ns();
        let agent = self.0.clone();
        let container = agent.containers.get(&request.container_id).map_err(status)?;
        whole(async move {
            let executed = container::exec(&agent, &container, request).await?;
            let (pid, executed_ns) = (executed.pid, executed.executed_ns);
            Ok(ExecProcessResponse { pid, received_ns, executed_ns, ..Default::default() })
        })
        .await
    }

    async fn signal_process(&self, _ctx: &TtrpcContext, request: SignalProcessRequest) -> ttrpc::Result<Empty> {
        let container = self.0.containers.get(&request.container_id).map_err(status)?;
        let signal = container::signal_by_number(request.signal).map_err(status)?;
        let sent = match request.all {
            true => container.signal_all(signal),
            false => container.signal(&request.exec_id, signal),
        };
        sent.map_err(status)?;
        Ok(Empty::default())
    }

    async fn resize_terminal(&self, _ctx: &TtrpcContext, request: ResizeTerminalRequest) -> ttrpc::Result<Empty> {
        let container = self.0.containers.get(&request.container_id).map_err(status)?;
        let size = request.size.into_option().unwrap_or_default();
        let found = container.process(&request.exec_id).map_err(status)?;
        found.process().resize(container::winsize(size.rows, size.columns)).map_err(status)?;
        Ok(Empty::default())
    }

    async fn pause_container(&self, _ctx: &TtrpcContext, request: ContainerRequest) -> ttrpc::Result<Empty> {
        let container = self.0.containers.get(&request.container_id).map_err(status)?;
        whole(async move { container.pause().await }).await?;
        Ok(Empty::default())
    }

    async fn resume_container(&self, _ctx: &TtrpcContext, request: ContainerRequest) -> ttrpc::Result<Empty> {
        let container = self.0.containers.get(&request.container_id).map_err(status)?;
        container.resume().map_err(status)?;
        Ok(Empty::default())
    }

    async fn wait_ready(&self, _ctx: &TtrpcContext, request: ContainerRequest) -> ttrpc::Result<WaitReadyResponse> {
        let container = self.0.containers.get(&request.container_id).map_err(status)?;
        let line = container.ready().await.unwrap_or_default();
        Ok(WaitReadyResponse { line, ..Default::default() })
    }

    async fn update_container(&self, _ctx: &TtrpcContext, request: UpdateContainerRequest) -> ttrpc::Result<Empty> {
        let container = self.0.containers.get(&request.container_id).map_err(status)?;
        container.update(&request.resources_json).map_err(status)?;
        self.0.memory.consider(&self.0);
        Ok(Empty::default())
    }

    async fn update_memory(&self, _ctx: &TtrpcContext, request: UpdateMemoryRequest) -> ttrpc::Result<Empty> {
        self.0.memory.update(&request).map_err(|error| {
            ttrpc::Error::RpcStatus(ttrpc::get_status(ttrpc::Code::INTERNAL, format!("the guest's memory: {error}")))
        })?;
        Ok(Empty::default())
    }

    async fn get_stats(&self, _ctx: &TtrpcContext, request: ContainerRequest) -> ttrpc::Result<StatsResponse> {
        let container = self.0.containers.get(&request.container_id).map_err(status)?;
        let stats_json = container.stats().map_err(status)?;
        Ok(StatsResponse { stats_json, ..Default::default() })
    }

    async fn list_processes(
        &self,
        _ctx: &TtrpcContext,
        request: ContainerRequest,
    ) -> ttrpc::Result<ListProcessesResponse> {
        let container = self.0.containers.get(&request.container_id).map_err(status)?;
        let processes = container::list(&container).map_err(status)?;
        Ok(ListProcessesResponse { processes, ..Default::default() })
    }

    async fn wait_oom(&self, _ctx: &TtrpcContext, request: WaitOomRequest) -> ttrpc::Result<WaitOomResponse> {
        let container = self.0.containers.get(&request.container_id).map_err(status)?;
        let (count, ended) = container.wait_oom(request.seen).await.map_err(status)?;
        Ok(WaitOomResponse { count, ended, ..Default::default() })
    }

    async fn update_network(&self, _ctx: &TtrpcContext, request: UpdateNetworkRequest) -> ttrpc::Result<Empty> {
        let container = self.0.containers.get(&request.container_id).map_err(status)?;
        container.update_network(&request).map_err(status)?;
        Ok(Empty::default())
    }

    async fn adjust_clock(
        &self,
        _ctx: &TtrpcContext,
        request: AdjustClockRequest,
    ) -> ttrpc::Result<AdjustClockResponse> {
        let realtime_ns = clock::adjust(request.by_ns, request.slew).map_err(|error| {
            ttrpc::Error::RpcStatus(ttrpc::get_status(ttrpc::Code::INTERNAL, format!("the guest's clock: {error}")))
        })?;
        Ok(AdjustClockResponse { realtime_ns, ..Default::default() })
    }

    async fn get_guest_status(&self, _ctx: &TtrpcContext, _request: Empty) -> ttrpc::Result<GuestStatus> {
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let total = meminfo_bytes(&meminfo, "MemTotal:");
        Ok(GuestStatus {
            kernel_release: rustix::system::uname().release().to_string_lossy().into_owned(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            memory_used_bytes: total.saturating_sub(meminfo_bytes(&meminfo, "MemAvailable:")),
            memory_total_bytes: total,
            agent_listening_ns: self.0.listening_ns,
            ..Default::default()
        })
    }

    async fn shutdown(&self, _ctx: &TtrpcContext, _request: Empty) -> ttrpc::Result<Empty> {
        let agent = self.0.clone();
        whole(async move {
            agent.containers.end_all(&agent).await;
            // The reply is the next thing the connection writes, and when it has left the machine is reset. So it is when
            // nobody is there to take the reply.
            agent.ending.store(true, Ordering::Relaxed);
            tokio::spawn(async {
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                crate::boot::power_off()
            });
            Ok(())
        })
        .await?;
        Ok(Empty::default())
    }
}

fn meminfo_bytes(meminfo: &str, key: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(key));
    let kib: Option<u64> = line.and_then(|l| l.split_ascii_whitespace().next()?.parse().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

#[cfg(test)]
mod tests {
    #[test]
    fn meminfo_is_read() {
        let text = "MemTotal:         507436 kB\nMemFree:  12 kB\n";
        assert_eq!(super::meminfo_bytes(text, "MemTotal:"), 507436 * 1024);
        assert_eq!(super::meminfo_bytes(text, "MemAvailable:"), 0);
    }
}
