//! A configuration file on disk: read once, replaced whole, and kept as it was before.

use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use tempfile::Builder;

use super::error::InstallError;

/// The end of a backup's name.
const BACKUP: &str = ".before-sandbox";
/// Permissions of a file that is made here.
const MODE: u32 = 0o644;

/// A file that need not exist.
pub(super) struct ConfigFile {
    /// Where it is, links followed.
    path: PathBuf,
    /// Whose it is, if it exists.
    metadata: Option<Metadata>,
    text: String,
    backup: Option<String>,
}

impl ConfigFile {
    /// Reads it, and its backup.
    pub(super) fn open(path: &Path) -> Result<Self, InstallError> {
        let path = match fs::canonicalize(path) {
            Ok(path) => path,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if fs::symlink_metadata(path).is_ok() {
                    return Err(InstallError::Dangling(path.to_path_buf()));
                }
                path.to_path_buf()
            }
            Err(source) => return Err(failed("read", path)(source)),
        };
        let read = |path: &Path| missing_is_none(fs::read_to_string(path)).map_err(failed("read", path));
        let text = read(&path)?.unwrap_or_default();
        let metadata = missing_is_none(fs::metadata(&path)).map_err(failed("read", &path))?;
        Ok(Self { text, metadata, backup: read(&backup(&path))?, path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn exists(&self) -> bool {
        self.metadata.is_some()
    }

    /// What is in it; nothing, if it does not exist.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// What was in it before the runtime was added.
    pub(super) fn before(&self) -> Option<&str> {
        self.backup.as_deref()
    }

    /// Keeps what is in it beside it, unless that was done before. Returns where.
    pub(super) fn keep_backup(&self) -> Result<Option<PathBuf>, InstallError> {
        if !self.exists() || self.backup.is_some() {
            return Ok(None);
        }
        let path = backup(&self.path);
        self.put(&path, &self.text)?;
        Ok(Some(path))
    }

    /// Removes the backup, if the file now holds the same again.
    pub(super) fn drop_backup(&self, text: &str) -> Result<(), InstallError> {
        if self.before() != Some(text) {
            return Ok(());
        }
        let path = backup(&self.path);
        fs::remove_file(&path).map_err(failed("remove", &path))
    }

    /// Replaces what is in it.
    pub(super) fn write(&self, text: &str) -> Result<(), InstallError> {
        if let Some(directory) = self.path.parent() {
            fs::create_dir_all(directory).map_err(failed("make", directory))?;
        }
        self.put(&self.path, text)
    }

    pub(super) fn remove(&self) -> Result<(), InstallError> {
        fs::remove_file(&self.path).map_err(failed("remove", &self.path))
    }

    /// After a crash there is the old file or the new one, never half of it.
    fn put(&self, path: &Path, text: &str) -> Result<(), InstallError> {
        let directory = path.parent().unwrap_or(Path::new("/"));
        let put = || {
            let new = |path: &Path| OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
            let mut file = Builder::new().prefix(".sandbox-install-").make_in(directory, new)?;
            file.as_file_mut().write_all(text.as_bytes())?;
            if let Some(metadata) = &self.metadata {
                fchown(file.as_file(), Some(metadata.uid()), Some(metadata.gid()))?;
            }
            let mode = self.metadata.as_ref().map_or(MODE, |metadata| metadata.mode() & 0o7777);
            file.as_file().set_permissions(Permissions::from_mode(mode))?;
            file.as_file().sync_all()?;
            file.persist(path)?;
            File::open(directory)?.sync_all()
        };
        put().map_err(failed("write", path))
    }
}

fn backup(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(BACKUP);
    PathBuf::from(name)
}

fn missing_is_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> InstallError {
    move |source| InstallError::File { what, path: path.to_path_buf(), source }
}
