//! The command lines of install and uninstall.

use std::io;
use std::path::PathBuf;

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};

use crate::commands::CommandError;
use crate::install::{self, Host, Options};

#[derive(Debug, Args)]
pub(super) struct InstallArguments {
    /// Show what would change, and change nothing
    #[arg(long)]
    dry_run: bool,

    /// Name of the runtime, as in `docker run --runtime=NAME`
    #[arg(long, value_name = "NAME", default_value = "sandbox", value_parser = install::runtime_name)]
    runtime_name: String,

    /// docker's configuration
    #[arg(long, value_name = "FILE", default_value = "/etc/docker/daemon.json", value_parser = absolute())]
    docker_config: PathBuf,

    /// containerd's configuration
    #[arg(long, value_name = "FILE", default_value = "/etc/containerd/config.toml", value_parser = absolute())]
    containerd_config: PathBuf,
}

impl InstallArguments {
    pub(super) fn install(self) -> Result<(), CommandError> {
        Ok(install::install(&self.options(), &Host::this()?, &mut io::stdout())?)
    }

    pub(super) fn uninstall(self) -> Result<(), CommandError> {
        Ok(install::uninstall(&self.options(), &mut io::stdout())?)
    }

    pub(super) fn options(self) -> Options {
        Options {
            name: self.runtime_name,
            docker: self.docker_config,
            containerd: self.containerd_config,
            dry_run: self.dry_run,
        }
    }
}

fn absolute() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().try_map(std::path::absolute)
}
