//! Programs of a container that watch shared files (inotify(7)) are told of what the host changes there (docs/watching.md). The host connects a
//! stream for each container that has directories of the host; the agent says on it what is watched, and the host what has happened.
//!
//! The kernel tells nobody of a new watch: so the agent looks, once a second and only after the container has used a processor. Once
//! something is watched, a process of its own, the [`helper`], does all the rest: what it does with the container's files may take long,
//! and the agent has but one thread.

mod fdinfo;
mod helper;
mod look;
mod mounts;
mod replay;
mod watches;

use std::io;
use std::sync::Arc;

use agent_protocol::watch::{Greeting, MAX_MESSAGE};
use rustix::process::Signal;
use tokio::io::AsyncReadExt;
use tokio_vsock::VsockStream;

use crate::agent::Agent;
use crate::container::{self, Container};
use crate::{streams, sys};
pub use fdinfo::{HANDLE_MAX, Handle};
use look::Pace;

/// Watching could not begin.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// A stream that did not begin as it should.
    #[error("the host did not say which container it means: {0}")]
    Greeting(io::Error),
    /// The one that it means.
    #[error(transparent)]
    Container(#[from] container::Error),
    /// The helper.
    #[error("cannot start the process that watches: {0}")]
    Helper(io::Error),
}

/// Serves a stream from the host until its end, or that of the container.
pub async fn connected(stream: VsockStream, agent: Arc<Agent>) {
    if let Err(error) = serve(stream, &agent).await {
        log::warn!("shared files are not watched: {error}");
    }
}

async fn serve(mut stream: VsockStream, agent: &Agent) -> Result<(), Error> {
    let greeting = streams::greeting(greeting(&mut stream)).await.map_err(Error::Greeting)?;
    let container = agent.containers.get(&greeting.id)?;
    tokio::select! {
        () = container.exited() => return Ok(()),
        () = something_is_watched(&container) => {}
    }
    let pid = match sys::clone3(0, None).map_err(Error::Helper)? {
        sys::Cloned::Child => helper::run(&stream, &container, greeting.shares),
        sys::Cloned::Parent(pid) => pid,
    };
    let mut end = agent.reaper.watch(pid);
    tokio::select! {
        // Not before its end is known: the number could be another's.
        () = container.exited() => {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
            let _ = (&mut end).await;
        }
        exit = &mut end => {
            if let Ok(exit) = exit && exit.status != 0 {
                log::warn!("shared files are not watched any more: their process has ended with status {}", exit.status);
            }
        }
    }
    Ok(())
}

async fn greeting(stream: &mut VsockStream) -> io::Result<Greeting> {
    let length = stream.read_u32_le().await? as usize;
    // An ID and the names of shares are no longer than paths.
    if length > MAX_MESSAGE * 64 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Greeting::parse(&body).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Returns when a process of the container watches a file of the host, its root aside.
async fn something_is_watched(container: &Container) {
    let mut pace = Pace::default();
    loop {
        if let Some(seen) = pace.look(container)
            && !seen.is_empty()
        {
            return;
        }
        tokio::time::sleep(pace.pause()).await;
    }
}
