//! What the tap leaves to the driver. Setting it takes the lock on the host's whole network configuration (RTNL), for which everybody
//! on the host waits; and a driver can reset the device without end. So it is set only to what it is not, and no more than ten times a
//! second.

use std::time::{Duration, Instant};

/// From one change to the next.
const INTERVAL: Duration = Duration::from_millis(100);

/// The state of one tap. TUN_F flags, as TUNSETOFFLOAD takes them.
#[derive(Default)]
pub(super) struct Offloads {
    /// A tap that was just opened has none.
    set: u32,
    /// When the last attempt was made, whatever came of it.
    changed: Option<Instant>,
}

impl Offloads {
    /// How long whoever wants `flags` has to wait; nothing if they are set, or can be at once.
    pub fn wait(&self, flags: u32, now: Instant) -> Option<Duration> {
        let since = now.saturating_duration_since(self.changed?);
        let left = INTERVAL.saturating_sub(since);
        (flags != self.set && !left.is_zero()).then_some(left)
    }

    /// Makes it `flags` by `set`, if it is not.
    ///
    /// # Errors
    /// That of `set`; then it is as before.
    pub fn change<E>(&mut self, flags: u32, now: Instant, set: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        if flags == self.set {
            return Ok(());
        }
        self.changed = Some(now);
        set()?;
        self.set = flags;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_waits_for_the_one_before() {
        let mut offloads = Offloads::default();
        let start = Instant::now();
        let later = |milliseconds| start + Duration::from_millis(milliseconds);
        let none = || -> Result<(), ()> { panic!("nothing is to be changed") };
        assert_eq!(offloads.wait(7, start), None);
        assert_eq!(offloads.change(0, start, none), Ok(()));
        assert_eq!(offloads.change(7, start, || Ok::<_, ()>(())), Ok(()));
        // As it is.
        assert_eq!(offloads.wait(7, later(1)), None);
        assert_eq!(offloads.change(7, later(1), none), Ok(()));
        assert_eq!(offloads.wait(1, later(30)), Some(Duration::from_millis(70)));
        assert_eq!(offloads.wait(1, later(100)), None);
        // An attempt is one even if the kernel refuses.
        assert_eq!(offloads.change(1, later(200), || Err(())), Err(()));
        assert_eq!(offloads.wait(7, later(201)), None);
        assert_eq!(offloads.wait(1, later(250)), Some(Duration::from_millis(50)));
    }
}
