//! `sandbox doctor`: looks at all that a start needs, and says in a line each what is there, what is not, and how to mend it.

use std::io::{self, Write};
use std::path::Path;

use crate::guest_files::GuestFiles;

mod files;
pub mod kvm;
mod system;
#[cfg(test)]
mod tests;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// As it should be.
    Ok,
    /// Something will be slower, or missing for some containers.
    Warn,
    /// No container can be started.
    Fail,
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    verdict: Verdict,
    /// What was looked at.
    subject: String,
    /// What was found, and how to mend it.
    text: String,
}

impl Finding {
    fn new(verdict: Verdict, subject: impl Into<String>, text: impl Into<String>) -> Self {
        Finding { verdict, subject: subject.into(), text: text.into() }
    }

    fn ok(subject: impl Into<String>, text: impl Into<String>) -> Self {
        Finding::new(Verdict::Ok, subject, text)
    }

    fn warn(subject: impl Into<String>, text: impl Into<String>) -> Self {
        Finding::new(Verdict::Warn, subject, text)
    }

    fn fail(subject: impl Into<String>, text: impl Into<String>) -> Self {
        Finding::new(Verdict::Fail, subject, text)
    }
}

/// Checks everything and writes a line for each finding to `out`, as it comes. Returns whether containers can be started here.
///
/// `root` is the state directory (`--root`), which need not exist yet; `directory` is one that will hold bundles.
///
/// # Errors
/// When `out` cannot be written.
pub fn run(root: &Path, directory: &Path, guest: &GuestFiles, out: &mut impl Write) -> io::Result<bool> {
    let mut report = Report { out, healthy: true };
    report.add([system::kernel(), system::privileges()])?;
    report.add(check_kvm())?;
    report.add(system::devices())?;
    report.add([system::cgroups()])?;
    report.add([files::writable("state directory", root), files::features("bundle directory", directory)])?;
    report.add(check_guest(guest))?;
    Ok(report.healthy)
}

/// As [`run`], but looks at KVM alone: for scripts that ask where guests can run.
///
/// # Errors
/// When `out` cannot be written.
pub fn run_kvm(out: &mut impl Write) -> io::Result<bool> {
    let mut report = Report { out, healthy: true };
    report.add(check_kvm())?;
    Ok(report.healthy)
}

struct Report<'o, W> {
    out: &'o mut W,
    healthy: bool,
}

impl<W: Write> Report<'_, W> {
    fn add(&mut self, findings: impl IntoIterator<Item = Finding>) -> io::Result<()> {
        for Finding { verdict, subject, text } in findings {
            self.healthy &= verdict != Verdict::Fail;
            let verdict = match verdict {
                Verdict::Ok => "ok",
                Verdict::Warn => "warn",
                Verdict::Fail => "FAIL",
            };
            writeln!(self.out, "{verdict:<4} {subject}: {text}")?;
        }
        self.out.flush()
    }
}

/// The device, its interface, and whether hardware stands behind it.
fn check_kvm() -> Vec<Finding> {
    let mut findings = Vec::new();
    let checked = kvm::open().and_then(|device| {
        findings.push(Finding::ok(kvm::DEVICE, "can be opened"));
        let kvm = kvm::interface(&device)?;
        kvm::check_capabilities(&kvm)?;
        findings.push(Finding::ok("KVM interface", "has what a guest needs"));
        kvm::measure(kvm)
    });
    findings.push(match checked {
        Ok(speed) => {
            Finding::ok("KVM", format!("runs kernel code on hardware, {:.1} ns an instruction", speed.nanoseconds))
        }
        Err(err) => {
            let hint = match (&err, kvm::processor_has_virtualization()) {
                (kvm::KvmError::Missing, true) => " (this processor has VT-x or AMD-V)",
                (kvm::KvmError::Missing, false) => " (this processor shows neither VT-x nor AMD-V)",
                _ => "",
            };
            Finding::fail("KVM", format!("{err}{hint}"))
        }
    });
    findings
}

fn check_guest(files: &GuestFiles) -> Vec<Finding> {
    let kernel = match files.open_kernel() {
        Ok(_) => Finding::ok("guest kernel", format!("{} (ELF, PVH)", files.kernel.display())),
        Err(err) => Finding::fail("guest kernel", err.to_string()),
    };
    let initramfs = match files.open_initramfs() {
        Ok(_) => Finding::ok("guest initramfs", format!("{} (cpio)", files.initramfs.display())),
        Err(err) => Finding::fail("guest initramfs", err.to_string()),
    };
    vec![kernel, initramfs]
}
