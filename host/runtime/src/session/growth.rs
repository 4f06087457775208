//! A micro-VM whose memory grows with its container's use.
//!
//! ```text
//!  agent ──connects to MEMORY_PORT──▶ monitor ──MemoryWanted──▶ proxy: how much may it be? ──Grow──▶ monitor ──UpdateMemory──▶ agent
//! ```
//! The guest says only that it wants more. How much it gets and when is decided here: half as much again as it has, as long as the
//! container's limit on the host lets it, and where there is none, what the settings say. Nothing of this exists before the first wish.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use agent_protocol::agent::UpdateMemoryRequest;

use super::Session;
use crate::control::MonitorOrder;
use crate::network::windows::Windows as _;
use crate::state;

/// Wishes of a hostile guest are considered this far apart; one that grows in earnest takes longer for each step.
const PAUSE: Duration = Duration::from_millis(20);
/// Guests add memory in blocks of this size.
const UNIT: u64 = vmm::layout::GROWTH_UNIT;
/// The least that is worth a step.
const LEAST_STEP: u64 = 2 * UNIT;

/// What a guest has been given.
#[derive(Debug, Default)]
pub(super) struct Growth {
    session: OnceLock<Weak<Session>>,
    sizes: OnceLock<Sizes>,
    progress: Mutex<Progress>,
    /// A wish is being considered.
    wished: AtomicBool,
}

#[derive(Clone, Copy, Debug)]
struct Sizes {
    start: u64,
    most: u64,
}

#[derive(Debug, Default)]
struct Progress {
    added: u64,
    /// The guest was told that there is no more.
    exhausted: bool,
    considered: Option<Instant>,
}

impl Growth {
    /// The sizes of the session's micro-VM, in MiB.
    pub fn set(&self, session: &Arc<Session>, start_mib: u64, most_mib: u64) {
        let sizes = Sizes { start: start_mib.saturating_mul(1 << 20), most: most_mib.saturating_mul(1 << 20) };
        // A wish that finds the session finds the sizes, too.
        let _ = self.sizes.set(sizes);
        let _ = self.session.set(Arc::downgrade(session));
    }

    /// Whether there can be more than at the start.
    pub fn is_possible(&self) -> bool {
        self.sizes.get().is_some_and(|sizes| sizes.most > sizes.start)
    }

    /// The guest has made a wish. The next one is heard when this one is answered: there is one thread at a time, and another that waits for
    /// it. A monitor that the guest has taken over may tell of more.
    pub fn wished(&self) {
        let Some(session) = self.session.get().and_then(Weak::upgrade) else { return };
        if self.wished.swap(true, Ordering::AcqRel) {
            return;
        }
        let answer = move || session.grow();
        if let Err(error) = thread::Builder::new().name("growth".to_string()).spawn(answer) {
            self.wished.store(false, Ordering::Release);
            log::warn!("the guest's wish for memory cannot be considered: {error}");
        }
    }
}

impl Sizes {
    /// How much the guest is to have beyond its start: more than `added`, if it may have so much. `allowed` is all that it may have by its
    /// limit on the host.
    fn next(self, added: u64, allowed: Option<u64>) -> u64 {
        // Up, so that a container that is given more meets its own limit first: that holds in the guest, and the host's has more room.
        let allowed = allowed.map(|allowed| allowed.saturating_sub(self.start).checked_next_multiple_of(UNIT));
        let most = self.most.saturating_sub(self.start) / UNIT * UNIT;
        let most = most.min(allowed.flatten().unwrap_or(u64::MAX));
        let step = (self.start.saturating_add(added) / 2).next_multiple_of(UNIT).max(LEAST_STEP);
        added.saturating_add(step).min(most).max(added)
    }
}

impl Session {
    /// Considers a wish for memory, and tells the guest what came of it.
    fn grow(&self) {
        let Some(sizes) = self.growth.sizes.get() else { return };
        let mut progress = self.growth.progress.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pause) = progress.considered.and_then(|last| PAUSE.checked_sub(last.elapsed())) {
            thread::sleep(pause);
        }
        progress.considered = Some(Instant::now());
        let added = sizes.next(progress.added, self.allowed_memory());
        let mut windows = Vec::new();
        let exhausted = added == progress.added || !self.plug(added, &mut windows);
        progress.exhausted = exhausted;
        if !exhausted {
            progress.added = added;
            log::debug!("the guest may have {} MiB more memory than at its start", added >> 20);
        }
        let request = UpdateMemoryRequest { windows, added_bytes: progress.added, exhausted, ..Default::default() };
        // So that the answer to this may be the next wish.
        self.growth.wished.store(false, Ordering::Release);
        let _ = self.monitor.order(&MonitorOrder::HearWishes, &[]);
        self.tell_of_memory(&request);
    }

    /// All that the guest may have by its container's limit on the host.
    fn allowed_memory(&self) -> Option<u64> {
        state::record_in(self.state.as_fd())?.cgroup?.guest_memory()
    }

    /// Has the monitor offer so much; false if it cannot.
    fn plug(&self, bytes: u64, windows: &mut Vec<u32>) -> bool {
        match self.monitor.order(&MonitorOrder::Grow { bytes }, &[]) {
            Ok(Ok(window)) => windows.push(window),
            Ok(Err(message)) => {
                log::warn!("the guest gets no more memory: {message}");
                return false;
            }
            Err(_) => return false,
        }
        // What grows gives back, too.
        if let Ok(Ok(window)) = self.monitor.order(&MonitorOrder::ReportFreePages, &[]) {
            windows.push(window);
        }
        true
    }

    /// Has the guest of a container that lives for longer give back what it does not use.
    pub(super) fn report_free_pages(&self) {
        match self.monitor.order(&MonitorOrder::ReportFreePages, &[]) {
            Ok(Ok(window)) => {
                let progress = self.growth.progress.lock().unwrap_or_else(PoisonError::into_inner);
                let (windows, added_bytes) = (vec![window], progress.added);
                // What it knows stays true, unless the limit was raised meanwhile.
                let more = |sizes: &Sizes| sizes.next(added_bytes, self.allowed_memory()) > added_bytes;
                let exhausted = progress.exhausted && !self.growth.sizes.get().is_some_and(more);
                self.tell_of_memory(&UpdateMemoryRequest { windows, added_bytes, exhausted, ..Default::default() });
            }
            Ok(Err(message)) => log::warn!("the guest gives no memory back: {message}"),
            // The monitor has ended.
            Err(_) => {}
        }
    }

    fn tell_of_memory(&self, request: &UpdateMemoryRequest) {
        // An error means that the container has ended, or that its guest has: others see that too.
        if let Some(Err(error)) = self.signalled.guest().map(|guest| guest.update_memory(request)) {
            log::debug!("the guest's memory: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_guest_grows_by_half_of_what_it_has() {
        let sizes = Sizes { start: 512 * MIB, most: 8192 * MIB };
        let mut steps = vec![0];
        while let Some(added) =
            steps.last().map(|added| sizes.next(*added, None)).filter(|added| steps.last() != Some(added))
        {
            steps.push(added);
        }
        let mib: Vec<u64> = steps.iter().map(|step| step / MIB).collect();
        assert_eq!(mib, [0, 256, 640, 1280, 2176, 3584, 5632, 7680]);
    }

    #[test]
    fn nobody_gets_more_than_may_be() {
        let sizes = Sizes { start: 576 * MIB, most: 1000 * MIB };
        assert_eq!(sizes.next(0, None), 384 * MIB);
        assert_eq!(sizes.next(0, Some(576 * MIB)), 0);
        assert_eq!(sizes.next(0, Some(0)), 0);
        assert_eq!(sizes.next(0, Some(800 * MIB)), 256 * MIB);
        assert_eq!(sizes.next(0, Some(577 * MIB)), 128 * MIB);
        // A limit that has become lower takes nothing away.
        assert_eq!(sizes.next(256 * MIB, Some(600 * MIB)), 256 * MIB);
        assert_eq!(Sizes { start: MIB, most: u64::MAX }.next(u64::MAX, Some(u64::MAX)), u64::MAX);
        assert_eq!(Sizes { start: 128 * MIB, most: 128 * MIB }.next(0, None), 0);
    }
}
