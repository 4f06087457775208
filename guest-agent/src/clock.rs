//! The guest's clock. The host compares it with its own and says by how much it is off: a guest loses time while it boots (ticks are late
//! or lost before its clock source is chosen), and drifts later, when the host's clock is steered or set. Files have times of both.

use std::io;

use agent_protocol::MAX_SLEW_NS;

use crate::sys;

/// Moves CLOCK_REALTIME by so many nanoseconds, at once or (`slew`) little by little, and returns the time by it.
pub fn adjust(by_ns: i64, slew: bool) -> io::Result<i64> {
    if by_ns != 0 {
        match slew && by_ns.unsigned_abs() <= MAX_SLEW_NS.unsigned_abs() {
            true => sys::slew_clock(by_ns)?,
            false => sys::step_clock(by_ns)?,
        }
    }
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    Ok(now.tv_sec.saturating_mul(1_000_000_000).saturating_add(now.tv_nsec))
}
