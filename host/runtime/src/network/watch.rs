//! Follows a network namespace for as long as its container lives: interfaces that arrive late (`docker network connect`, daemons that
//! set up the network between create and start) and those that leave.

use std::io;
use std::thread;
use std::time::Duration;

use super::changes::Changes;

/// Changes that come within this time are looked at together.
const PAUSE: Duration = Duration::from_millis(100);
/// After how many seconds a look that failed is repeated, each time.
const AGAIN: [u64; 6] = [1, 2, 4, 8, 16, 32];

/// What came of a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// The guest has what the namespace has.
    Done,
    /// It has not: worth another look.
    Failed,
    /// The container has ended.
    Over,
}

/// Calls `look` after each change, on a thread of its own, until it says that the container has ended. Changes count from now on. To be
/// called in the network namespace.
pub(crate) fn watch(look: impl Fn() -> Look + Send + 'static) -> io::Result<()> {
    let changes = Changes::new()?;
    let follow = move || {
        if let Err(error) = follow(&changes, &AGAIN.map(Duration::from_secs), look) {
            log::warn!("the container's network is not followed any more: {error}");
        }
    };
    thread::Builder::new().name("network".to_string()).spawn(follow).map(drop)
}

fn follow(changes: &Changes, again: &[Duration], look: impl Fn() -> Look) -> io::Result<()> {
    let mut pauses = [].iter();
    loop {
        // Without a change this is a repetition.
        let changed = changes.wait(pauses.next().copied())?;
        let looked = look();
        if looked == Look::Over {
            return Ok(());
        }
        // A guest can make its tap change without end.
        thread::sleep(PAUSE);
        match looked {
            Look::Failed => {
                // A tap that was made in vain comes and goes: no reason for another look at once, and without end.
                changes.take()?;
                if changed {
                    pauses = again.iter();
                }
            }
            Look::Done | Look::Over => pauses = [].iter(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use netlink_packet_route::RouteNetlinkMessage;
    use netlink_packet_route::link::{LinkAttribute, LinkMessage};

    use super::super::netlink::Netlink;
    use super::*;

    fn change(netlink: &mut Netlink, mtu: u32) {
        let mut message = LinkMessage::default();
        message.header.index = 1;
        message.attributes.push(LinkAttribute::Mtu(mtu));
        netlink.change(RouteNetlinkMessage::SetLink(message), 0).unwrap();
    }

    /// Looks at a namespace that changes by the `changing`th looks, with these outcomes, until they are used up. How many changes were
    /// waiting at the end.
    fn looks(again: &'static [Duration], outcomes: &'static [Look], changing: &'static [usize]) {
        let tested = thread::spawn(move || {
            // Without the privilege to make a namespace there is nothing to be tested.
            if crate::sys::unshare_network().is_err() {
                return;
            }
            let changes = Changes::new().unwrap();
            let state = RefCell::new((Netlink::new().unwrap(), 0));
            change(&mut state.borrow_mut().0, 2000);
            let look = || {
                let (netlink, count) = &mut *state.borrow_mut();
                *count += 1;
                if changing.contains(count) {
                    change(netlink, 2000 + *count as u32);
                }
                outcomes.get(*count - 1).copied().unwrap_or(Look::Over)
            };
            follow(&changes, again, look).unwrap();
            assert_eq!(state.borrow().1, outcomes.len());
        });
        tested.join().unwrap();
    }

    #[test]
    fn a_look_that_failed_is_repeated() {
        const SHORT: Duration = Duration::from_millis(1);
        // By itself, as long as it fails.
        looks(&[SHORT; 3], &[Look::Failed, Look::Failed, Look::Failed, Look::Over], &[]);
        // By a change while it succeeds.
        looks(&[SHORT; 3], &[Look::Failed, Look::Done, Look::Over], &[2]);
        // What it changes itself while it fails is no reason; the pause ends all the same.
        looks(&[SHORT], &[Look::Failed, Look::Over], &[1]);
    }
}
