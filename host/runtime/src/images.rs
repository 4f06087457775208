//! The files that a monitor is started with: /dev/kvm, the guest's kernel and its initramfs.

use std::fs::File;
use std::path::Path;

use crate::doctor::kvm::{self, KvmError};
use crate::guest_files::{GuestFileError, GuestFiles};

/// Why one of them cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// KVM.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// The kernel or the initramfs.
    #[error(transparent)]
    Guest(#[from] GuestFileError),
}

/// What a monitor needs open.
#[derive(Debug)]
pub struct Images {
    /// /dev/kvm.
    pub kvm: File,
    /// Kernel image, an ELF file.
    pub kernel: File,
    /// Initramfs.
    pub initramfs: File,
}

impl Images {
    /// Whether this user may use KVM at all: the first thing to know, before anything is made.
    pub fn check_access() -> Result<(), ImageError> {
        kvm::open()?;
        Ok(())
    }

    /// Opens and checks them. What was found out about KVM is kept in the directory `cache`.
    pub fn open(files: &GuestFiles, cache: &Path) -> Result<Self, ImageError> {
        let (kernel, initramfs) = (files.open_kernel()?, files.open_initramfs()?);
        let kvm = kvm::open()?;
        kvm::ensure_usable(&kvm, cache)?;
        Ok(Self { kvm, kernel, initramfs })
    }
}
