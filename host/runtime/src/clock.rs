//! Keeps the guest's clock in step with the host's.
//!
//! A guest loses some time while it boots, and later drifts: its clock follows the processor's counter, not what steers or sets the host's.
//! Files that host and guest both write would have times that do not fit (`make` notices). So the proxy compares the two when the guest is
//! up, once a minute, and at once when the host's clock has been set or the host has slept.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agent_protocol::MAX_SLEW_NS;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use crate::guest::Guest;
use crate::rpc::RpcError;

/// Drift that a minute brings is far below what anyone sees.
const PERIOD: Duration = Duration::from_secs(60);
/// What is left alone: less than the kernel's resolution of file times.
const TOLERATED_NS: i64 = 1_000_000;
/// A comparison is as exact as its round trip was short: after a correction the next one tells how good it was.
const COMPARISONS: usize = 3;

/// Follows the host's clock until it is dropped.
#[derive(Debug)]
pub struct Follower {
    /// Its other end is closed with it.
    _guest_goes_on: UnixStream,
}

/// Sets the guest's clock by the host's, and keeps it there, on a thread. `settled` is called once, when the guest has run for about a
/// minute.
pub fn follow(guest: Arc<Guest>, settled: impl FnOnce() + Send + 'static) -> io::Result<Follower> {
    let (ours, theirs) = UnixStream::pair()?;
    let timer = timerfd_create(TimerfdClockId::Realtime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
    let work = move || {
        // Nothing runs in the guest yet that would mind a jump.
        let mut may_slew = false;
        let mut settled = Some(settled);
        loop {
            match correct(&guest, may_slew) {
                Ok(()) => {}
                Err(RpcError::Closed | RpcError::Io(_)) => return,
                Err(error) => log::warn!("the guest's clock cannot be compared with the host's: {error}"),
            }
            if !wait(&timer, &theirs).unwrap_or(false) {
                return;
            }
            may_slew = true;
            if let Some(settled) = settled.take() {
                settled();
            }
        }
    };
    thread::Builder::new().name("clock".to_string()).spawn(work)?;
    Ok(Follower { _guest_goes_on: ours })
}

/// Waits for the next time to compare; false: the guest has ended.
fn wait(timer: &OwnedFd, guest_goes_on: &UnixStream) -> io::Result<bool> {
    let at = UNIX_EPOCH.elapsed().unwrap_or_default() + PERIOD;
    let at = Timespec { tv_sec: at.as_secs() as i64, tv_nsec: i64::from(at.subsec_nanos()) };
    let once = Itimerspec { it_interval: Timespec::default(), it_value: at };
    let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
    match timerfd_settime(timer, flags, &once) {
        Ok(_) => {}
        // The host's clock has been set since the last time.
        Err(Errno::CANCELED) => return Ok(true),
        Err(error) => return Err(error.into()),
    }
    let mut fds = [PollFd::new(timer, PollFlags::IN), PollFd::new(guest_goes_on, PollFlags::IN)];
    retry_on_intr(|| poll(&mut fds, None))?;
    let ended = !fds[1].revents().is_empty();
    // Expired, or ECANCELED: both mean that it is time.
    let _ = rustix::io::read(timer.as_fd(), &mut [0u8; 8]);
    Ok(!ended)
}

/// Compares, and corrects what is more than the comparison's own error.
fn correct(guest: &Guest, may_slew: bool) -> Result<(), RpcError> {
    let mut correction = Correction::default();
    for _ in 0..COMPARISONS {
        let sent = realtime_ns();
        let guest_ns = match guest.adjust_clock(correction.by_ns, correction.slew) {
            // A guest that is busy is asked again in a minute.
            Err(RpcError::Timeout { .. }) => return Ok(()),
            answer => answer?,
        };
        let (off, error) = difference(sent, guest_ns, realtime_ns());
        // What is being made up for little by little still shows.
        if correction.slew {
            return Ok(());
        }
        match Correction::of(off, error, may_slew) {
            Some(next) => correction = next,
            None => return Ok(()),
        }
    }
    Ok(())
}

/// What a guest's clock is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Correction {
    by_ns: i64,
    slew: bool,
}

impl Correction {
    /// For a guest that is so far behind, as far as that is known.
    fn of(off: i64, error: i64, may_slew: bool) -> Option<Self> {
        let slew = may_slew && off.saturating_abs() <= MAX_SLEW_NS;
        (off.saturating_abs() > error.max(TOLERATED_NS)).then_some(Correction { by_ns: off, slew })
    }
}

/// How far the guest is behind, and how wrong that may be, by a call that was sent and answered at these times of the host.
fn difference(sent: i64, guest: i64, answered: i64) -> (i64, i64) {
    let half = answered.saturating_sub(sent) / 2;
    (sent.saturating_add(half).saturating_sub(guest), half.saturating_abs())
}

fn realtime_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use agent_protocol::agent::{AdjustClockRequest, AdjustClockResponse};
    use protobuf::Message;

    use super::*;
    use crate::guest::tests::{read_request, reply};

    #[test]
    fn a_guest_that_is_right_as_far_as_is_known_is_left_alone() {
        assert_eq!(Correction::of(0, 0, false), None);
        assert_eq!(Correction::of(-TOLERATED_NS, 0, true), None);
        assert_eq!(Correction::of(40_000_000, 50_000_000, true), None);
    }

    #[test]
    fn a_guest_is_set_before_its_container_runs_and_steered_afterwards() {
        let off = MAX_SLEW_NS / 2;
        assert_eq!(Correction::of(off, 0, false), Some(Correction { by_ns: off, slew: false }));
        assert_eq!(Correction::of(-off, 0, true), Some(Correction { by_ns: -off, slew: true }));
        assert_eq!(Correction::of(4 * off, 0, true), Some(Correction { by_ns: 4 * off, slew: false }));
    }

    #[test]
    fn an_hour_is_made_up_for() {
        const HOUR_NS: i64 = 3600 * 1_000_000_000;
        let (ours, theirs) = UnixStream::pair().unwrap();
        let agent = thread::spawn(move || {
            let mut behind = HOUR_NS;
            while let Some((number, request)) = read_request(&theirs) {
                let request = AdjustClockRequest::parse_from_bytes(&request.payload).unwrap();
                assert!(!request.slew || request.by_ns.abs() <= MAX_SLEW_NS);
                behind -= request.by_ns;
                let answer = AdjustClockResponse { realtime_ns: realtime_ns() - behind, ..Default::default() };
                reply(&theirs, number, Ok(answer.write_to_bytes().unwrap()));
            }
            behind
        });
        let guest = Guest::over(ours, "c1").unwrap();
        correct(&guest, true).unwrap();
        drop(guest);
        // As exact as this machine is idle.
        assert!(agent.join().unwrap().abs() < HOUR_NS / 60);
    }

    #[test]
    fn times_that_make_no_sense_do_no_harm() {
        assert_eq!(difference(i64::MIN, i64::MAX, i64::MAX).0, i64::MIN);
        assert_eq!(difference(10, 7, 20), (8, 5));
        let _ = difference(i64::MAX, i64::MIN, i64::MIN);
    }

    #[test]
    fn the_thread_ends_with_its_owner() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let timer = timerfd_create(TimerfdClockId::Realtime, TimerfdFlags::NONBLOCK).unwrap();
        drop(ours);
        assert!(!wait(&timer, &theirs).unwrap());
    }
}
