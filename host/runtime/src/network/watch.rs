//! Follows a network namespace for as long as its container lives: interfaces that arrive late (`docker network connect`, daemons that
//! set up the network between create and start) and those that leave.

use std::io;
use std::thread;
use std::time::Duration;

use super::netlink::Changes;

/// Changes that come within this time are looked at together.
const PAUSE: Duration = Duration::from_millis(100);

/// Calls `follow` after each change, on a thread of its own, until it says that the container has ended. Changes count from now on. To be
/// called in the network namespace.
pub(crate) fn watch(follow: impl Fn() -> bool + Send + 'static) -> io::Result<()> {
    let changes = Changes::new()?;
    let look = move || {
        while changes.wait().is_ok() && follow() {
            // A guest can make its tap change without end.
            thread::sleep(PAUSE);
        }
    };
    thread::Builder::new().name("network".to_string()).spawn(look).map(drop)
}
