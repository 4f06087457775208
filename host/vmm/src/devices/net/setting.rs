//! What the tap is told by ioctl(2): what it may leave to the driver, and how many of its queues are in use. Telling it takes the lock on
//! the host's whole network configuration (RTNL), for which everybody on the host waits; and a driver can reset the device, or change its
//! mind, without end. So it is told only what is news, and no more than ten times a second.

use std::time::{Duration, Instant};

/// From one change to the next.
const INTERVAL: Duration = Duration::from_millis(100);

/// One setting of one tap.
pub(super) struct Setting<T> {
    set: T,
    /// When the last attempt was made, whatever came of it.
    changed: Option<Instant>,
}

impl<T: Copy + PartialEq> Setting<T> {
    /// As the tap has it by itself.
    pub fn new(set: T) -> Self {
        Setting { set, changed: None }
    }

    /// As it is.
    pub fn get(&self) -> T {
        self.set
    }

    /// How long whoever wants `wanted` has to wait; nothing if it is so, or can be at once.
    pub fn wait(&self, wanted: T, now: Instant) -> Option<Duration> {
        let since = now.saturating_duration_since(self.changed?);
        let left = INTERVAL.saturating_sub(since);
        (wanted != self.set && !left.is_zero()).then_some(left)
    }

    /// Makes it `wanted` by `set`, if it is not. `set` notes how far it came.
    ///
    /// # Errors
    /// That of `set`.
    pub fn change<E>(&mut self, wanted: T, now: Instant, set: impl FnOnce(&mut T) -> Result<(), E>) -> Result<(), E> {
        if wanted == self.set {
            return Ok(());
        }
        self.changed = Some(now);
        set(&mut self.set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_waits_for_the_one_before() {
        let mut offloads = Setting::new(0);
        let start = Instant::now();
        let later = |milliseconds| start + Duration::from_millis(milliseconds);
        let none = |_: &mut u32| -> Result<(), ()> { panic!("nothing is to be changed") };
        assert_eq!(offloads.wait(7, start), None);
        assert_eq!(offloads.change(0, start, none), Ok(()));
        let to_seven = |set: &mut u32| {
            *set = 7;
            Ok::<_, ()>(())
        };
        assert_eq!(offloads.change(7, start, to_seven), Ok(()));
        // As it is.
        assert_eq!((offloads.get(), offloads.wait(7, later(1))), (7, None));
        assert_eq!(offloads.change(7, later(1), none), Ok(()));
        assert_eq!(offloads.wait(1, later(30)), Some(Duration::from_millis(70)));
        assert_eq!(offloads.wait(1, later(100)), None);
        // An attempt is one even if the kernel refuses.
        assert_eq!(offloads.change(1, later(200), |_| Err(())), Err(()));
        assert_eq!((offloads.get(), offloads.wait(7, later(201))), (7, None));
        assert_eq!(offloads.wait(1, later(250)), Some(Duration::from_millis(50)));
    }
}
