//! The guest's kernel and initramfs: where they are, and whether they are what they should be.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use vmm::boot::{KernelImage, KernelImageError};

use crate::error::Plain;
use crate::settings::Settings;

/// Environment variable: the kernel's path.
pub const KERNEL_VARIABLE: &str = "SANDBOX_KERNEL";
/// Environment variable: the initramfs's path.
pub const INITRAMFS_VARIABLE: &str = "SANDBOX_INITRAMFS";
/// Where `make install` puts both.
pub const DIRECTORY: &str = "/usr/local/share/sandbox";

/// Why there is no guest to start.
#[derive(Debug, thiserror::Error)]
pub enum GuestFileError {
    /// A file cannot be opened or read.
    #[error("cannot open the guest's {what} {}: {} (run `make install`, or set {variable})", path.display(), Plain(source))]
    Open {
        /// Kernel or initramfs.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// The variable that names another one.
        variable: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The kernel is something else.
    #[error("the guest's kernel {} is not a 64-bit x86 ELF file (it must be the uncompressed vmlinux)", .0.display())]
    NotAnElf(PathBuf),
    /// The kernel has no PVH entry point.
    #[error("the guest's kernel {} has no PVH entry point: build it with CONFIG_PVH", .0.display())]
    NoPvhEntry(PathBuf),
    /// The initramfs is something else.
    #[error("the guest's initramfs {} is not an uncompressed cpio archive (newc)", .0.display())]
    NotACpio(PathBuf),
}

/// Paths of the guest's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestFiles {
    /// An ELF file with a PVH note.
    pub kernel: PathBuf,
    /// A newc archive.
    pub initramfs: PathBuf,
}

impl GuestFiles {
    /// What the environment names, else what the settings name.
    pub fn configured(settings: &Settings) -> Self {
        let path = |variable, otherwise: &Path| {
            std::env::var_os(variable)
                .filter(|value| !value.is_empty())
                .map_or_else(|| otherwise.to_path_buf(), PathBuf::from)
        };
        GuestFiles {
            kernel: path(KERNEL_VARIABLE, &settings.kernel),
            initramfs: path(INITRAMFS_VARIABLE, &settings.initramfs),
        }
    }

    /// Opens the kernel, close-on-exec, after a look at its headers.
    ///
    /// # Errors
    /// When it cannot be read or is not a kernel that the monitor can start.
    pub fn open_kernel(&self) -> Result<File, GuestFileError> {
        let failed = |source| GuestFileError::Open {
            what: "kernel",
            path: self.kernel.clone(),
            variable: KERNEL_VARIABLE,
            source,
        };
        let file = File::open(&self.kernel).map_err(failed)?;
        match KernelImage::read(&file) {
            Ok(_) => Ok(file),
            Err(KernelImageError::NotAnElf) => Err(GuestFileError::NotAnElf(self.kernel.clone())),
            Err(KernelImageError::NoPvhEntry) => Err(GuestFileError::NoPvhEntry(self.kernel.clone())),
            Err(KernelImageError::Read(source)) => Err(failed(source)),
        }
    }

    /// Opens the initramfs, close-on-exec, after a look at its first bytes.
    ///
    /// # Errors
    /// When it cannot be read or is not a cpio archive.
    pub fn open_initramfs(&self) -> Result<File, GuestFileError> {
        let failed = |source| GuestFileError::Open {
            what: "initramfs",
            path: self.initramfs.clone(),
            variable: INITRAMFS_VARIABLE,
            source,
        };
        let file = File::open(&self.initramfs).map_err(failed)?;
        match read_at::<6>(&file, 0).map_err(failed)? {
            Some(magic) if &magic == b"070701" => Ok(file),
            _ => Err(GuestFileError::NotACpio(self.initramfs.clone())),
        }
    }
}

/// The bytes at `offset`, or `None` where the file ends before.
fn read_at<const N: usize>(file: &File, offset: u64) -> io::Result<Option<[u8; N]>> {
    let mut bytes = [0; N];
    match file.read_exact_at(&mut bytes, offset) {
        Ok(()) => Ok(Some(bytes)),
        Err(err) if matches!(err.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidInput) => Ok(None),
        Err(err) => Err(err),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(kernel: &[u8], initramfs: &[u8]) -> (tempfile::TempDir, GuestFiles) {
        let directory = tempfile::tempdir().unwrap();
        let files =
            GuestFiles { kernel: directory.path().join("vmlinux"), initramfs: directory.path().join("initramfs.cpio") };
        std::fs::write(&files.kernel, kernel).unwrap();
        std::fs::write(&files.initramfs, initramfs).unwrap();
        (directory, files)
    }

    #[test]
    fn what_is_no_kernel_is_named() {
        let (_directory, files) = files(b"#!/bin/sh", b"");
        let text = files.open_kernel().unwrap_err().to_string();
        assert!(text.starts_with("the guest's kernel ") && text.contains("is not a 64-bit x86 ELF file"), "{text}");
    }

    #[test]
    fn archives() {
        let open = |bytes: &[u8]| {
            let (_directory, files) = files(b"", bytes);
            files.open_initramfs()
        };
        open(b"070701000000").unwrap();
        for bytes in [&b""[..], b"07070", b"070702000000", b"\x1f\x8b\x08\0\0\0\0\0"] {
            assert!(matches!(open(bytes), Err(GuestFileError::NotACpio(_))), "{bytes:?}");
        }
        let none = GuestFiles { kernel: "/none".into(), initramfs: "/none".into() };
        let text = none.open_initramfs().unwrap_err().to_string();
        let expected = "cannot open the guest's initramfs /none: no such file or directory (run `make install`, or set SANDBOX_INITRAMFS)";
        assert_eq!(text, expected);
    }
}
