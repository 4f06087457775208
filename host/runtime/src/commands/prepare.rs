//! What a bundle asks for, checked, and as the proxy and the guest get it.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Hook, Hooks, LinuxNamespaceType, Process, Spec};

use super::create::Options;
use super::{CommandError, rlimits};
use crate::blocks;
use crate::bundle::Bundle;
use crate::guest_files::GuestFiles;
use crate::hooks::{self, Phase};
use crate::joined::{self, Joining, Turn};
use crate::machine::Machine;
use crate::network::{devices, ipv6};
use crate::notify;
use crate::proxy::protocol::{ContainerOrder, HookSeconds, Network, Size};
use crate::share::{self, Plan};
use crate::state::ContainerId;

/// A bundle that can be run.
pub(super) struct Prepared {
    /// As it was read.
    pub bundle: Bundle,
    /// The micro-VM's size.
    pub machine: Machine,
    /// What the proxy is told.
    pub order: ContainerOrder,
    /// createContainer hooks that are programs of the host.
    pub hooks: Vec<Hook>,
    /// Held until others can see that the container lives in its network namespace.
    pub turn: Option<Turn>,
}

/// Reads and checks a bundle.
pub(super) fn prepare(options: &Options, id: &ContainerId) -> Result<Prepared, CommandError> {
    let settings = &options.settings;
    let bundle = Bundle::load_with(&options.bundle, settings)?;
    let machine = Machine::configured(&bundle.spec, settings)?;
    let network = Network::of(&bundle.spec);
    let hosts = match &network {
        // Where a daemon asks for no network namespace it means the host's; bundles of others may do without a network.
        Network::Host => joined::is_of_a_daemon(&options.root),
        Network::Path(path) => joined::is_hosts_network(path),
        Network::New => false,
    };
    if hosts {
        return Err(CommandError::HostNetwork);
    }
    let mut plan = share::plan(&bundle.spec, &bundle.directory, id.as_str())?;
    leave_hosts(&mut plan.spec);
    let root = std::path::absolute(&options.root).unwrap_or_else(|_| options.root.clone());
    let turn = match &network {
        Network::Path(path) => Turn::at(path),
        Network::Host | Network::New => None,
    };
    let joining = joined::find(&bundle.spec, &root)?;
    let blocks = blocks::of(&bundle.spec)?;
    // One that joins another makes nothing in the namespace.
    let turn = turn.filter(|_| joining.is_none());
    if let Some(joining) = &joining {
        blocks::refuse(&blocks)?;
        joining.rewrite(&mut plan, id.as_str());
    }
    let Plan { mut spec, shares, sockets } = plan;
    let notify = notify::is_asked();
    if notify {
        notify::add_to(&mut spec, id.as_str());
    }
    let rootfs = shares.first().map(|share| share.source.clone()).unwrap_or_default();
    let hooks = split_hooks(&mut spec, &rootfs);
    if let Some(process) = spec.process_mut() {
        rlimits::inherit(process);
    }
    let usual = GuestFiles::configured(settings);
    let chosen = |option: &Option<PathBuf>, asked: &Option<PathBuf>, usual: PathBuf| {
        let path = option.clone().or_else(|| asked.clone()).unwrap_or(usual);
        std::path::absolute(&path).unwrap_or(path)
    };
    let order = ContainerOrder {
        id: id.to_string(),
        network,
        network_devices: devices::of(&bundle.spec),
        ipv6_switches: ipv6::of(&bundle.spec),
        vcpus: machine.vcpus,
        memory_mib: machine.memory_mib,
        memory_most_mib: machine.memory_most_mib,
        kernel_arguments: bundle.vm.parameters.clone(),
        cache: machine.cache,
        kernel: chosen(&options.guest.kernel, &bundle.vm.kernel, usual.kernel),
        initramfs: chosen(&options.guest.initramfs, &bundle.vm.initramfs, usual.initramfs),
        root,
        log: options.log.absolute(),
        shares,
        blocks,
        sockets,
        notify,
        spec: serde_json::to_string(&spec).unwrap_or_default(),
        terminal: bundle.wants_terminal(),
        no_new_keyring: options.no_new_keyring,
        size: configured_size(bundle.spec.process().as_ref()),
        oom_score: bundle.spec.process().as_ref().and_then(|process| process.oom_score_adj()),
        preserved: Vec::new(),
        hook_seconds: hook_seconds(&spec),
        attached: false,
        shares_network: joining.as_ref().is_some_and(Joining::shares_network),
        joined: joining.map(|joining| joining.owner),
        started_ns: [options.start_ns; 3],
    };
    log::debug!("{} is read and checked", bundle.directory.join("config.json").display());
    log::debug!(
        "the micro-VM has {} vCPUs, {} MiB of memory, kernel {}, initramfs {}",
        order.vcpus,
        order.memory_mib,
        order.kernel.display(),
        order.initramfs.display()
    );
    Ok(Prepared { bundle, machine, order, hooks, turn })
}

/// Of the hooks that are left to the guest.
fn hook_seconds(spec: &Spec) -> HookSeconds {
    let of = |phase: Phase| spec.hooks().as_ref().map_or(0, |hooks| hooks::seconds(phase.of(hooks)));
    HookSeconds { create: of(Phase::CreateContainer), start: of(Phase::StartContainer) }
}

/// Leaves the guest the hooks that it is to run. Gives the createContainer hooks that are programs of the host.
fn split_hooks(spec: &mut Spec, rootfs: &Path) -> Vec<Hook> {
    let Some(all) = spec.hooks().clone() else { return Vec::new() };
    let (guest, host): (Vec<Hook>, Vec<Hook>) =
        Phase::CreateContainer.of(&all).iter().cloned().partition(|hook| hooks::in_guest(hook, rootfs));
    let start = Phase::StartContainer.of(&all).to_vec();
    let mut left = Hooks::default();
    left.set_create_container(Some(guest)).set_start_container(Some(start));
    spec.set_hooks(Some(left));
    host
}

/// The network and user namespaces that the configuration names are the host side's: the guest has some of its own.
fn leave_hosts(spec: &mut Spec) {
    let Some(mut linux) = spec.linux().clone() else { return };
    linux.set_net_devices(None);
    for namespace in linux.namespaces_mut().iter_mut().flatten() {
        if matches!(namespace.typ(), LinuxNamespaceType::Network | LinuxNamespaceType::User) {
            namespace.set_path(None);
        }
    }
    spec.set_linux(Some(linux));
}

/// Of the terminal, if the configuration has one.
pub(super) fn configured_size(process: Option<&Process>) -> Option<Size> {
    let size = process?.console_size()?;
    let (rows, columns) = (u16::try_from(size.height()).ok()?, u16::try_from(size.width()).ok()?);
    (rows != 0 && columns != 0).then_some(Size { rows, columns })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_guest_has_its_own_network() {
        let spec = json!({"ociVersion": "1.0.2", "linux": {"namespaces":
            [{"type": "user", "path": "/run/userns/x"}, {"type": "network", "path": "/run/netns/x"}]}});
        let mut spec: Spec = serde_json::from_value(spec).unwrap();
        assert_eq!(Network::of(&spec), Network::Path("/run/netns/x".into()));
        leave_hosts(&mut spec);
        assert_eq!(Network::of(&spec), Network::New);
        let left = serde_json::to_value(spec.linux().as_ref().unwrap().namespaces()).unwrap();
        assert_eq!(left, json!([{"type": "user"}, {"type": "network"}]));
    }

    #[test]
    fn hooks_go_where_they_are_programs() {
        let hook = |path: &str| json!([{"path": path}]);
        let spec = json!({"ociVersion": "1.0.2", "hooks": {"prestart": hook("/a"), "createContainer": hook("/bin/true"),
            "startContainer": hook("/c"), "poststop": hook("/d")}});
        let mut spec: Spec = serde_json::from_value(spec).unwrap();
        let root = tempfile::tempdir().unwrap();
        let host = split_hooks(&mut spec, root.path());
        assert_eq!(host.len(), 1);
        let left = serde_json::to_value(spec.hooks()).unwrap();
        assert_eq!(left["startContainer"], hook("/c"));
        assert!(left["prestart"].is_null() && left["poststop"].is_null(), "{left}");
    }
}
