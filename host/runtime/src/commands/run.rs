//! `sandbox run`: create, start, wait, delete.

use std::thread::{self, JoinHandle};

use super::create::{Made, Options, make};
use super::foreground::{Carried, Foreground};
use super::{CommandError, delete, start};
use crate::guest::Guest;
use crate::notify::Manager;
use crate::proxy::process::ProxyError;
use crate::proxy::protocol::{FromProxy, ToProxy};

/// Creates a container and starts it, without waiting for its end.
pub fn detached(options: &Options) -> Result<(), CommandError> {
    let mut made = make(options, None)?;
    made.proxy.tell(&ToProxy::Detach)?;
    drop(made);
    let started = start::start(&options.root, &options.id);
    if started.is_err() {
        // Nobody was told that it is there.
        let _ = delete::delete(&options.root, &options.id, true);
    }
    started
}

/// Runs a container to its end. Returns its exit status, 128 and the number for a death by signal.
pub fn attached(options: &Options, keep: bool) -> Result<u8, CommandError> {
    let mut foreground = Foreground::new()?;
    let mut made = make(options, Some(&mut foreground))?;
    let (carried, telling) = match execute(&mut made, &mut foreground, keep) {
        Ok(done) => done,
        Err(error) => {
            made.proxy.abort();
            made.state.unlock();
            delete::delete(&options.root, &options.id, true)?;
            return Err(error);
        }
    };
    made.state.unlock();
    let (status, sentence) = made.proxy.wait();
    log::debug!("the container's process has ended with status {status}");
    if let Some(carried) = carried {
        carried.finish();
    }
    if let Some(telling) = telling {
        // With the guest it has ended, too, or is about to.
        let _ = telling.join();
    }
    if !keep {
        delete::delete(&options.root, &options.id, true)?;
    }
    match sentence {
        Some(message) => Err(ProxyError::Failed { message, status: 1 }.into()),
        None => Ok(status),
    }
}

/// Gives what is still done while the container runs.
type Meanwhile = (Option<Carried>, Option<JoinHandle<()>>);

fn execute(made: &mut Made, foreground: &mut Foreground, keep: bool) -> Result<Meanwhile, CommandError> {
    let manager = Manager::find()?;
    let carried = foreground.carry(made.console.take())?;
    made.proxy.tell(&ToProxy::Start)?;
    made.proxy.expect(&FromProxy::Started)?;
    // One that is kept is not abandoned when its command has ended.
    made.record.attached &= !keep;
    start::running(&made.state, &mut made.record)?;
    let telling = manager.map(|manager| tell_when_ready(manager, made)).transpose()?;
    Ok((carried, telling))
}

/// As with runc the service is this process, which waits for the container's end.
fn tell_when_ready(manager: Manager, made: &Made) -> Result<JoinHandle<()>, CommandError> {
    let (socket, id) = (made.state.socket(), made.record.id.clone());
    let tell = move || match Guest::reach(&socket, &id) {
        Ok(guest) => manager.tell_when_ready(&guest, std::process::id()),
        // It has ended before.
        Err(error) => log::debug!("{error}"),
    };
    thread::Builder::new().name("notify".to_string()).spawn(tell).map_err(CommandError::io("start a thread"))
}
