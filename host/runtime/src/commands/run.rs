//! `sandbox run`: create, start, wait, delete.

use super::create::{Made, Options, make};
use super::foreground::{Carried, Foreground};
use super::{CommandError, delete, start};
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
    let carried = match execute(&mut made, &mut foreground, keep) {
        Ok(carried) => carried,
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
    if !keep {
        delete::delete(&options.root, &options.id, true)?;
    }
    match sentence {
        Some(message) => Err(ProxyError::Failed { message, status: 1 }.into()),
        None => Ok(status),
    }
}

fn execute(made: &mut Made, foreground: &mut Foreground, keep: bool) -> Result<Option<Carried>, CommandError> {
    let carried = foreground.carry(made.console.take())?;
    made.proxy.tell(&ToProxy::Start)?;
    made.proxy.expect(&FromProxy::Started)?;
    // One that is kept is not abandoned when its command has ended.
    made.record.attached &= !keep;
    start::running(&made.state, &mut made.record)?;
    Ok(carried)
}
