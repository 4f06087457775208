//! The `vm` section: what it may ask for is what the administrator has listed.

use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;

use super::{BundleError, brief, invalid, refuse};
use crate::settings::Settings;

/// What a configuration wants in place of the installed guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VmRequest {
    /// Another kernel.
    pub kernel: Option<PathBuf>,
    /// Another initramfs.
    pub initramfs: Option<PathBuf>,
    /// More of the kernel's command line, empty if nothing is asked for.
    pub parameters: String,
}

impl VmRequest {
    /// What the section asks for, or an error if the settings do not allow it.
    pub(super) fn of(spec: &Spec, settings: &Settings) -> Result<Self, BundleError> {
        let Some(vm) = spec.vm() else { return Ok(Self::default()) };
        refuse(vm.hypervisor().is_some(), "vm.hypervisor", " (the hypervisor is part of this runtime)")?;
        refuse(vm.image().is_some(), "vm.image", " (the container's root is root.path)")?;
        let kernel = Some(vm.kernel().path()).filter(|path| !path.as_os_str().is_empty());
        let initrd = vm.kernel().initrd().as_deref().map(Path::new).filter(|path| !path.as_os_str().is_empty());
        Ok(Self {
            kernel: kernel
                .map(|path| listed("vm.kernel.path", path, "vm.kernels", &settings.vm.kernels))
                .transpose()?,
            initramfs: initrd
                .map(|path| listed("vm.kernel.initrd", path, "vm.initrds", &settings.vm.initrds))
                .transpose()?,
            parameters: parameters(vm.kernel().parameters().as_deref().unwrap_or_default(), &settings.vm.parameters)?,
        })
    }
}

fn not_listed(field: &str, value: &str, setting: &str) -> BundleError {
    invalid(
        field,
        format!("{} is not allowed on this machine: {setting} in the settings does not name it", brief(value)),
    )
}

fn listed(field: &str, path: &Path, setting: &str, allowed: &[PathBuf]) -> Result<PathBuf, BundleError> {
    // Compared as text: `/a/../b` is not `/b`, whatever it leads to.
    if allowed.iter().any(|allowed| allowed.as_os_str() == path.as_os_str()) {
        return Ok(path.to_path_buf());
    }
    Err(not_listed(field, &path.display().to_string(), setting))
}

fn parameters(list: &[String], allowed: &[String]) -> Result<String, BundleError> {
    for (index, text) in list.iter().enumerate() {
        let field = format!("vm.kernel.parameters[{index}]");
        // A space begins another parameter, and a quote hides one.
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"') {
            return Err(invalid(field, "one parameter has no space, no quote and no control character"));
        }
        let fits = |allowed: &String| text == allowed || (allowed.ends_with('=') && text.starts_with(allowed.as_str()));
        if !allowed.iter().any(fits) {
            return Err(not_listed(&field, text, "vm.parameters"));
        }
    }
    Ok(list.join(" "))
}
