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

/// Sets the guest's clock by the host's, and keeps it there, on a thread.
pub fn follow(guest: Arc<Guest>) -> io::Result<Follower> {
    let (ours, theirs) = UnixStream::pair()?;
    let timer = timerfd_create(TimerfdClockId::Realtime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
    let work = move || {
        // Nothing runs in the guest yet that would mind a jump.
        let mut may_slew = false;
        while correct(&guest, may_slew).is_ok() && wait(&timer, &theirs).unwrap_or(false) {
            may_slew = true;
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
    let mut by_ns = 0;
    let mut slew = false;
    for _ in 0..COMPARISONS {
        let sent = realtime_ns();
        let guest_ns = match guest.adjust_clock(by_ns, slew) {
            // A guest that is busy is asked again in a minute.
            Err(RpcError::Timeout { .. }) => return Ok(()),
            answer => answer?,
        };
        let (off, error) = difference(sent, guest_ns, realtime_ns());
        // What is being made up for little by little still shows.
        if slew || off.saturating_abs() <= error.max(TOLERATED_NS) {
            return Ok(());
        }
        (by_ns, slew) = (off, may_slew && off.saturating_abs() <= MAX_SLEW_NS);
    }
    Ok(())
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

    /// What a guest that is `behind` is told: by how much, and whether little by little.
    fn told(mut behind: i64, may_slew: bool) -> Vec<(i64, bool)> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let agent = thread::spawn(move || {
            let mut told = Vec::new();
            while let Some((number, request)) = read_request(&theirs) {
                let request = AdjustClockRequest::parse_from_bytes(&request.payload).unwrap();
                told.push((request.by_ns, request.slew));
                behind -= if request.slew { 0 } else { request.by_ns };
                let answer = AdjustClockResponse { realtime_ns: realtime_ns() - behind, ..Default::default() };
                reply(&theirs, number, Ok(answer.write_to_bytes().unwrap()));
            }
            told
        });
        let guest = Guest::over(ours, "c1").unwrap();
        correct(&guest, may_slew).unwrap();
        drop(guest);
        agent.join().unwrap()
    }

    #[test]
    fn a_guest_that_is_right_is_left_alone() {
        assert_eq!(told(0, false), [(0, false)]);
        assert_eq!(told(TOLERATED_NS / 4, true), [(0, false)]);
    }

    #[test]
    fn a_guest_is_set_before_its_container_runs_and_steered_afterwards() {
        let near = |told: &[(i64, bool)], by: i64, slew: bool| {
            assert_eq!(told[0], (0, false));
            assert_eq!(told[1].1, slew);
            assert!((told[1].0 - by).abs() < MAX_SLEW_NS / 4, "{told:?}");
        };
        near(&told(MAX_SLEW_NS / 2, false), MAX_SLEW_NS / 2, false);
        near(&told(MAX_SLEW_NS / 2, true), MAX_SLEW_NS / 2, true);
        near(&told(-MAX_SLEW_NS / 2, true), -MAX_SLEW_NS / 2, true);
        near(&told(3600 * 1_000_000_000, true), 3600 * 1_000_000_000, false);
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
