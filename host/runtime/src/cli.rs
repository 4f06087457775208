//! The command line: runc's, `doctor`, `install` and `uninstall`.

mod install;
mod more;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use ::log::LevelFilter;
use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args, Parser, Subcommand};

use crate::commands::handover::Handover;
use crate::commands::{
    CommandError, Guests, create, delete, events, exec, kill, list, pause, run, start, state, update,
};
use crate::error::Plain;
use crate::guest_files::GuestFiles;
use crate::log::{Format, Log};
use crate::settings::{Settings, SettingsError};
use crate::{doctor, features, monitor, preserved, proxy, spec, sys};

/// Three lines, the first two in the words that callers of runc look for.
const VERSION: &str = concat!(
    "runc version ",
    env!("CARGO_PKG_VERSION"),
    "-sandbox\ncommit: sandbox-",
    env!("CARGO_PKG_VERSION"),
    "\nspec: 1.2.1"
);

/// Runs OCI containers, each in a micro-VM of its own.
#[derive(Debug, Parser)]
// Of an option that is given twice the last counts, as with runc: daemons put their own beside those of their configuration.
#[command(name = "sandbox", disable_version_flag = true, arg_required_else_help = true, args_override_self = true)]
struct Cli {
    /// Directory for the state of containers
    #[arg(long, value_name = "DIR", default_value = "/run/sandbox", global = true)]
    root: PathBuf,

    /// File that gets the log; errors are on stderr too
    #[arg(long, value_name = "FILE", global = true)]
    log: Option<PathBuf>,

    /// Format of the log
    #[arg(long, value_name = "FORMAT", default_value = "text", global = true)]
    log_format: Format,

    /// Log what is done
    #[arg(long, global = true, value_name = "BOOL", num_args = 0..=1, require_equals = true, action = ArgAction::Set,
        default_value = "false", default_missing_value = "true", hide_default_value = true, value_parser = BoolishValueParser::new())]
    debug: bool,

    /// Have systemd make the container's cgroup on the host: cgroupsPath is SLICE:PREFIX:NAME
    #[arg(long, global = true, value_name = "BOOL", num_args = 0..=1, require_equals = true, action = ArgAction::Set,
        default_value = "false", default_missing_value = "true", hide_default_value = true, value_parser = BoolishValueParser::new())]
    systemd_cgroup: bool,

    /// Taken for compatibility: cgroups of users that may not make them are an error here
    #[arg(long = "rootless", value_name = "BOOL")]
    rootless_mode: Option<String>,

    /// Taken for compatibility: checkpoints are not made with CRIU here
    #[arg(long, value_name = "FILE")]
    criu: Option<PathBuf>,

    /// Print the version
    #[arg(short, long)]
    version: bool,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create a container, which waits for `start`
    Create(CreateArguments),
    /// Execute the process of a created container
    Start(Id),
    /// Print the state of a container
    State(Id),
    /// Send a signal to a container's first process
    Kill(KillArguments),
    /// Remove a container
    Delete(DeleteArguments),
    /// List containers
    List(ListArguments),
    /// Run a container from a bundle; ends with its exit status
    Run(RunArguments),
    /// Execute one more process in a container
    Exec(more::ExecArguments),
    /// List a container's processes
    Ps(more::PsArguments),
    /// Freeze a container's processes
    Pause(Id),
    /// Let a paused container go on
    Resume(Id),
    /// Change a container's limits
    Update(Box<more::UpdateArguments>),
    /// Print what a container uses
    Events(more::EventsArguments),
    /// Save a running container: not supported
    Checkpoint(more::Unsupported),
    /// Create a container from a checkpoint: not supported
    Restore(more::Unsupported),
    /// Write a config.json to begin with
    Spec(SpecArguments),
    /// Print what this runtime can do
    Features,
    /// Check what this machine offers, and say how to mend what is missing
    Doctor,
    /// Add this runtime to docker's and containerd's configuration
    Install(install::InstallArguments),
    /// Take this runtime out of docker's and containerd's configuration
    Uninstall(install::InstallArguments),
    /// Serve one micro-VM (started by the other commands)
    #[command(hide = true)]
    Monitor,
    /// Keep a container's files in another one's micro-VM (started by the other commands)
    #[command(hide = true)]
    Keeper,
}

#[derive(Debug, Args)]
struct Id {
    /// Name of the container
    #[arg(value_name = "ID", allow_hyphen_values = false)]
    id: String,
}

#[derive(Debug, Args)]
struct CreateArguments {
    /// Directory that holds config.json and the root file system
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,

    #[command(flatten)]
    handover: Handover,

    /// Taken for compatibility: the container's root is another machine's
    #[arg(long)]
    no_pivot: bool,

    /// Give the container no session keyring of its own
    #[arg(long)]
    no_new_keyring: bool,

    /// Pass on this many descriptors from 3 up, as pipes and sockets
    #[arg(long, value_name = "N", default_value_t = 0)]
    preserve_fds: u32,

    /// Kernel of the guest, an uncompressed vmlinux [default: $SANDBOX_KERNEL, else `kernel` of /etc/sandbox/config.toml, else /usr/local/share/sandbox/vmlinux]
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,

    /// Initramfs of the guest, with the agent [default: $SANDBOX_INITRAMFS, else `initramfs` of /etc/sandbox/config.toml, else /usr/local/share/sandbox/initramfs.cpio]
    #[arg(long, value_name = "FILE")]
    initramfs: Option<PathBuf>,

    /// Name of the container, unique on this machine
    #[arg(value_name = "ID", allow_hyphen_values = false)]
    id: String,
}

#[derive(Debug, Args)]
struct RunArguments {
    #[command(flatten)]
    create: CreateArguments,

    /// Do not wait for the container's end
    #[arg(short, long)]
    detach: bool,

    /// Do not remove the container after its end
    #[arg(long)]
    keep: bool,

    /// Taken for compatibility
    #[arg(long)]
    no_subreaper: bool,
}

#[derive(Debug, Args)]
struct KillArguments {
    /// Send it to all processes of the container
    #[arg(short, long)]
    all: bool,

    /// Name of the container
    #[arg(value_name = "ID", allow_hyphen_values = false)]
    id: String,

    /// Name or number of the signal
    #[arg(value_name = "SIGNAL", default_value = "TERM")]
    signal: String,
}

#[derive(Debug, Args)]
struct DeleteArguments {
    /// Kill it first, if need be; no error if there is none
    #[arg(short, long)]
    force: bool,

    /// Name of the container
    #[arg(value_name = "ID", allow_hyphen_values = false)]
    id: String,
}

#[derive(Debug, Args)]
struct ListArguments {
    /// How to print
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    format: list::Format,

    /// Print names only
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Args)]
struct SpecArguments {
    /// Directory that gets config.json
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,

    /// For a user namespace of the caller's
    #[arg(long)]
    rootless: bool,
}

/// What every command may need.
struct Global {
    root: PathBuf,
    log: Log,
    settings: Result<Settings, SettingsError>,
    systemd_cgroup: bool,
    start_ns: u64,
}

/// The program: reads the command line, does what it says.
pub fn main() -> ExitCode {
    let start_ns = sys::now_ns();
    if let Some(role) = proxy::Role::of_this_process() {
        return proxy::main(role);
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Callers know 1 for every failure; help is none.
            let _ = error.print();
            return ExitCode::from(u8::from(error.use_stderr()));
        }
    };
    if cli.version {
        return ExitCode::from(u8::from(writeln!(io::stdout(), "{VERSION}").is_err()));
    }
    if let Some(Command::Monitor) = cli.command {
        return monitor::main();
    }
    if let Some(Command::Keeper) = cli.command {
        return monitor::keeper_main();
    }
    sys::close_on_exec();
    // A file that cannot be read is the error of the commands that need it.
    let settings = Settings::load();
    let most = settings.as_ref().map_or_else(|_| Settings::default().log_level, |settings| settings.log_level);
    let most = if cli.debug { LevelFilter::Debug } else { most.filter() };
    let log = Log::new(cli.log, cli.log_format).install(most);
    let global = Global { root: cli.root, log: log.clone(), settings, systemd_cgroup: cli.systemd_cgroup, start_ns };
    match cli.command {
        Some(Command::Doctor) => check_machine(&global, log),
        Some(command) => {
            // Callers tell its failure from the process's own.
            let failed = matches!(command, Command::Exec(_)).then_some(255);
            execute(command, global).map_or_else(
                |error| {
                    log.error(&error.to_string());
                    ExitCode::from(failed.unwrap_or(error.exit_status()))
                },
                ExitCode::from,
            )
        }
        None => {
            log.error("no command is given: see `sandbox --help`");
            ExitCode::FAILURE
        }
    }
}

fn execute(command: Command, global: Global) -> Result<u8, CommandError> {
    let root = &global.root.clone();
    match command {
        Command::Run(RunArguments { create, detach: false, keep, .. }) => {
            return run::attached(&options(create, global)?, keep);
        }
        Command::Exec(arguments) => {
            let executed = arguments.options(root).and_then(|options| exec::exec(&options));
            return executed.map_err(|error| CommandError::Exec(Box::new(error)));
        }
        Command::Ps(arguments) => arguments.print(root),
        Command::Pause(Id { id }) => pause::pause(root, &id),
        Command::Resume(Id { id }) => pause::resume(root, &id),
        Command::Update(arguments) => update::update(root, &arguments.id, &arguments.limits()?),
        Command::Events(arguments) => events::events(root, &arguments.id, arguments.stats, arguments.interval),
        Command::Run(RunArguments { create, .. }) => run::detached(&options(create, global)?),
        Command::Create(arguments) => create::create(&options(arguments, global)?),
        Command::Start(Id { id }) => start::start(root, &id),
        Command::State(Id { id }) => state::state(root, &id),
        Command::Kill(KillArguments { all, id, signal }) => kill::kill(root, &id, &signal, all),
        Command::Delete(DeleteArguments { force, id }) => delete::delete(root, &id, force),
        Command::List(ListArguments { format, quiet }) => list::list(root, quiet, format),
        Command::Spec(SpecArguments { bundle, rootless }) => spec::write(&bundle, rootless).map_err(CommandError::from),
        Command::Checkpoint(_) => Err(CommandError::NoCheckpoint),
        Command::Restore(_) => Err(CommandError::NoRestore),
        Command::Install(arguments) => arguments.install(),
        Command::Uninstall(arguments) => arguments.uninstall(),
        Command::Features => list::print(&features::document()),
        Command::Doctor | Command::Monitor | Command::Keeper => Ok(()),
    }
    .map(|()| 0)
}

fn options(arguments: CreateArguments, global: Global) -> Result<create::Options, CommandError> {
    Ok(create::Options {
        id: arguments.id,
        bundle: arguments.bundle,
        root: global.root,
        log: global.log,
        settings: global.settings?,
        guest: Guests { kernel: arguments.kernel, initramfs: arguments.initramfs },
        handover: arguments.handover,
        preserved: preserved::take(arguments.preserve_fds)?,
        no_new_keyring: arguments.no_new_keyring,
        systemd_cgroup: global.systemd_cgroup,
        start_ns: global.start_ns,
    })
}

/// Bundles are looked for where the command is called.
fn check_machine(global: &Global, log: &Log) -> ExitCode {
    let guest = match &global.settings {
        Ok(settings) => GuestFiles::configured(settings),
        Err(error) => {
            log.error(&error.to_string());
            return ExitCode::FAILURE;
        }
    };
    match doctor::run(&global.root, Path::new("."), &guest, &mut io::stdout().lock()) {
        Ok(healthy) => ExitCode::from(u8::from(!healthy)),
        Err(error) => {
            log.error(&format!("cannot write the report: {}", Plain(&error)));
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests;
