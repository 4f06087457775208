//! linux.seccomp.

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction};

use super::{BundleError, invalid, refuse};

/// The kernel's error numbers end here.
const ERRNO_MAX: u32 = 4095;
/// A system call has so many arguments.
const ARGUMENTS: usize = 6;

pub(super) fn check(seccomp: &LinuxSeccomp) -> Result<(), BundleError> {
    let field = "linux.seccomp.defaultAction";
    notify(seccomp.default_action(), field)?;
    errno(seccomp.default_errno_ret(), "linux.seccomp.defaultErrnoRet")?;
    for (index, rule) in seccomp.syscalls().iter().flatten().enumerate() {
        let field = |key: &str| format!("linux.seccomp.syscalls[{index}].{key}");
        notify(rule.action(), &field("action"))?;
        errno(rule.errno_ret(), &field("errnoRet"))?;
        for (number, argument) in rule.args().iter().flatten().enumerate() {
            if argument.index() >= ARGUMENTS {
                return Err(invalid(field(&format!("args[{number}].index")), "a system call has arguments 0 to 5"));
            }
        }
    }
    let path = seccomp.listener_path().as_ref().is_some_and(|path| !path.as_os_str().is_empty());
    refuse(path, "linux.seccomp.listenerPath", " (a guest cannot reach a listener on the host)")?;
    let metadata = seccomp.listener_metadata().as_deref().unwrap_or_default();
    refuse(!metadata.is_empty(), "linux.seccomp.listenerMetadata", " (a guest cannot reach a listener on the host)")
}

fn notify(action: LinuxSeccompAction, field: &str) -> Result<(), BundleError> {
    refuse(action == LinuxSeccompAction::ScmpActNotify, field, " (SCMP_ACT_NOTIFY needs a listener on the host)")
}

fn errno(errno: Option<u32>, field: &str) -> Result<(), BundleError> {
    match errno {
        Some(errno) if errno > ERRNO_MAX => {
            Err(invalid(field, format!("{errno} is no error number (0 to {ERRNO_MAX})")))
        }
        _ => Ok(()),
    }
}
