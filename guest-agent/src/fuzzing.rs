//! What a caller of the agent can reach before a process exists, for the fuzz target `agent_requests` and the seeded tests.

use std::path::Path;

use agent_protocol::agent::{
    ContainerRequest, CreateContainerRequest, Empty, ExecProcessRequest, ListProcessesResponse, ResizeTerminalRequest,
    SignalProcessRequest, StartContainerRequest, UpdateContainerRequest, UpdateNetworkRequest, WaitOomRequest,
    WaitProcessRequest,
};
use oci_spec::runtime::Process;
use protobuf::Message;

use crate::{cgroup, container, mappings, network};

/// Takes one input: its first byte says what the rest is, a message as it comes over the wire (0 to 3) or the JSON in one (4 to 7).
pub fn take(input: &[u8]) {
    let Some((kind, rest)) = input.split_first() else { return };
    let text = || rest.to_vec();
    let container_id = "box".to_owned();
    match kind % 8 {
        0 => CreateContainerRequest::parse_from_bytes(rest).iter().for_each(create),
        1 => ExecProcessRequest::parse_from_bytes(rest).iter().for_each(exec),
        2 => UpdateContainerRequest::parse_from_bytes(rest).iter().for_each(update),
        3 => small(rest),
        4 => create(&CreateContainerRequest {
            container_id,
            spec_json: text(),
            state_json: b"{}".to_vec(),
            ..Default::default()
        }),
        5 => {
            let exec_id = "one".to_owned();
            exec(&ExecProcessRequest { container_id, exec_id, process_json: text(), ..Default::default() });
        }
        6 => update(&UpdateContainerRequest { container_id, resources_json: text(), ..Default::default() }),
        _ => create(&CreateContainerRequest {
            container_id,
            spec_json: br#"{"ociVersion":"1.0.2","root":{"path":"/r"},"process":{"args":["a"],"cwd":"/","user":{"uid":0,"gid":0}},
                "linux":{"namespaces":[{"type":"mount"}]}}"#
                .to_vec(),
            state_json: text(),
            ..Default::default()
        }),
    }
}

fn create(request: &CreateContainerRequest) {
    let Ok((plan, _)) = container::check_request(request) else { return };
    let size = request.stdio.as_ref().and_then(|stdio| stdio.terminal_size.as_ref());
    container::first_size(&plan.process, size);
    let Some(linux) = plan.spec.linux() else { return };
    mappings::outside(linux.uid_mappings().as_deref(), plan.process.given.user().uid());
    if let Ok(path) = cgroup::path::of(linux.cgroups_path().as_deref(), &request.container_id) {
        assert!(path.is_relative() && path.components().all(|part| part.as_os_str() != ".."), "{path:?}");
    }
    if let Some(resources) = linux.resources() {
        let _ = cgroup::check(resources);
    }
}

fn exec(request: &ExecProcessRequest) {
    let Ok(plan) = container::check_exec(request, &Process::default()) else { return };
    container::first_size(&plan, request.stdio.as_ref().and_then(|stdio| stdio.terminal_size.as_ref()));
    if let Ok(path) = cgroup::path::below(Path::new("/cgroup/box"), &request.sub_cgroup) {
        assert!(path.starts_with("/cgroup/box") && path.components().all(|part| part.as_os_str() != ".."), "{path:?}");
    }
}

fn update(request: &UpdateContainerRequest) {
    if let Ok(resources) = serde_json::from_slice(&request.resources_json) {
        let _ = cgroup::check(&resources);
    }
}

/// Each of the others.
fn small(bytes: &[u8]) {
    let _ = (StartContainerRequest::parse_from_bytes(bytes), ContainerRequest::parse_from_bytes(bytes));
    let _ = (WaitProcessRequest::parse_from_bytes(bytes), WaitOomRequest::parse_from_bytes(bytes));
    let _ = (Empty::parse_from_bytes(bytes), ListProcessesResponse::parse_from_bytes(bytes));
    if let Ok(request) = SignalProcessRequest::parse_from_bytes(bytes) {
        let _ = container::signal_by_number(request.signal);
    }
    if let Ok(request) = ResizeTerminalRequest::parse_from_bytes(bytes) {
        let size = request.size.into_option().unwrap_or_default();
        container::winsize(size.rows, size.columns);
    }
    if let Ok(request) = UpdateNetworkRequest::parse_from_bytes(bytes) {
        let _ = network::check(&request).map(|wanted| network::plan(&Default::default(), &wanted));
    }
}
