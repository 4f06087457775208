//! The guest's memory grows with what its containers use.
//!
//! All containers are in one cgroup ([`crate::cgroup::CONTAINERS`]), whose `memory.high` is kept so far below what the guest has that the
//! kernel slows a process down which takes memory faster than the host gives more, and does not kill it. Whoever gets there wakes this task by
//! the event. It wishes for more if it is the containers' own memory that fills the guest: cached files can be read again.
//!
//! ```text
//!  watch memory.events ──over high──▶ wish ──▶ the host answers, devices are bound ──▶ blocks come (uevents): high follows ──▶ watch
//!                                       └──▶ there is no more: no high, the guest's OOM killer decides, as in a guest of fixed size
//! ```
//! Nothing is watched where the containers' limits fit into the guest.

mod figures;
mod uevents;

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agent_protocol::agent::UpdateMemoryRequest;
use agent_protocol::{MAX_MEMORY_WINDOWS, MEMORY_PORT};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_vsock::{VMADDR_CID_HOST, VsockAddr, VsockStream};

use crate::agent::Agent;
use crate::cgroup::{CONTAINERS, EventFile};
use crate::network;
use figures::Figures;
use uevents::Uevents;

/// How long the host may take to answer a wish before it is made again.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the kernel may take to take up what the host has given.
const PLUGGING: Duration = Duration::from_secs(10);
/// Cached files alone keep the guest full, and wake this task for as long as more are read: no more often than this.
const PAUSE: Duration = Duration::from_millis(100);
/// After so many wishes in a row that brought nothing there is no more.
const MOST_FRUITLESS: u32 = 2;
/// Half of the kernel's smallest block.
const TOLERANCE: u64 = 64 << 20;

/// What the host has said about the guest's memory, and the task that follows it.
#[derive(Default)]
pub struct Memory {
    told: Mutex<Told>,
    changed: Notify,
    watching: AtomicBool,
}

#[derive(Clone, Debug, Default)]
struct Told {
    grows: bool,
    bound: Vec<u32>,
    added: u64,
    exhausted: bool,
    answers: u64,
}

impl Memory {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The guest may wish for more. Memory is then given for the asking, as it is on a host with more: the kernel would refuse a program
    /// that asks at once for more than the guest has now.
    pub fn allow(&self) {
        if !std::mem::replace(&mut self.told().grows, true)
            && let Err(error) = std::fs::write("/proc/sys/vm/overcommit_memory", "1")
        {
            log::warn!("cannot set vm.overcommit_memory: {error}");
        }
    }

    /// Containers have come, or their limits have changed.
    pub fn consider(&self, agent: &Arc<Agent>) {
        if !self.hopes() {
            return;
        }
        if !self.watching.swap(true, Ordering::Relaxed) {
            tokio::spawn(watch(agent.clone()));
        } else {
            self.changed.notify_one();
        }
    }

    /// Whether there may be more at all. A raised limit may have made room: the host says so if not.
    fn hopes(&self) -> bool {
        let mut told = self.told();
        told.exhausted &= !told.grows;
        told.grows
    }

    /// What the host says. Binds the devices that are new.
    pub fn update(&self, request: &UpdateMemoryRequest) -> io::Result<()> {
        let mut told = self.told();
        for window in request.windows.iter().take(MAX_MEMORY_WINDOWS) {
            if !told.bound.contains(window) {
                network::bind(*window)?;
                told.bound.push(*window);
            }
        }
        told.added = told.added.max(request.added_bytes);
        told.exhausted = request.exhausted;
        told.answers = told.answers.wrapping_add(1);
        self.changed.notify_one();
        Ok(())
    }
}

/// Follows the containers' use to the end of the guest.
async fn watch(agent: Arc<Agent>) {
    let opened = EventFile::open(&Path::new(CONTAINERS).join("memory.events.local"));
    let (mut events, mut watcher) = match (opened, Figures::read()) {
        (Ok(events), Ok(figures)) => (events, Watcher::new(figures.total)),
        (Err(error), _) | (_, Err(error)) => return log::warn!("the guest's memory does not grow: {error}"),
    };
    let mut uevents = None;
    let changed = &agent.memory.changed;
    loop {
        // Later ones end the wait.
        let _ = events.read();
        let next = watcher.look(&agent);
        if next == Next::Pause {
            sleep(PAUSE).await;
        }
        match next {
            Next::Rest => changed.notified().await,
            Next::Watch | Next::Pause => tokio::select! {
                changed = events.changed() => if changed.is_err() { return watcher.set_high(None) },
                () = changed.notified() => {}
            },
            Next::Wish => {
                uevents = uevents.or_else(|| Uevents::open().ok());
                wish().await;
            }
            Next::Wait(until) => tokio::select! {
                () = changed.notified() => {}
                () = sleep_until(until) => {}
                () = Uevents::next(&mut uevents) => {}
            },
        }
    }
}

/// The host refuses the connection; it has been told by then.
async fn wish() {
    let address = VsockAddr::new(VMADDR_CID_HOST, MEMORY_PORT);
    let _ = timeout(PATIENCE, VsockStream::connect(address)).await;
}

/// What to do next.
#[derive(Debug, PartialEq)]
enum Next {
    /// Nothing before the host says something, or a container comes.
    Rest,
    /// Look again when the containers have used more than they should.
    Watch,
    /// The same, but not at once.
    Pause,
    /// Ask for more.
    Wish,
    /// Look again when there is more, or something was said, or it is too late.
    Wait(Instant),
}

struct Watcher {
    /// What the guest had at first.
    start: u64,
    /// memory.high as it was last written.
    high: Option<u64>,
    answers: u64,
    answered: Option<Instant>,
    wished: Option<Instant>,
    total_then: u64,
    fruitless: u32,
}

impl Watcher {
    fn new(start: u64) -> Watcher {
        let (high, answers, total_then, fruitless) = (None, 0, 0, 0);
        Watcher { start, high, answers, answered: None, wished: None, total_then, fruitless }
    }

    fn look(&mut self, agent: &Agent) -> Next {
        let figures = match Figures::read() {
            Ok(figures) => figures,
            Err(error) => {
                log::warn!("the guest's memory does not grow: {error}");
                // Nobody may be slowed down for what nobody sees.
                self.set_high(None);
                return Next::Rest;
            }
        };
        let mut told = agent.memory.told();
        let fits = agent.containers.memory_limits().is_some_and(|limits| limits <= figures.total);
        let next = if fits || told.exhausted { Next::Rest } else { self.next(&figures, &told, Instant::now()) };
        if self.fruitless > MOST_FRUITLESS {
            // The host does not answer, or the kernel cannot take up what it gave.
            log::warn!("the guest wishes for memory, and gets none");
            (told.exhausted, self.fruitless) = (true, 0);
        }
        let (next, high) = match fits || told.exhausted {
            true => (Next::Rest, None),
            false => (next, Some(self.line(&figures))),
        };
        drop(told);
        self.set_high(high);
        next
    }

    fn next(&mut self, figures: &Figures, told: &Told, now: Instant) -> Next {
        if self.answers != told.answers {
            (self.answers, self.answered, self.wished) = (told.answers, Some(now), None);
        }
        let given = self.start.saturating_add(told.added);
        let waits = [
            self.answered.filter(|_| figures.total.saturating_add(TOLERANCE) < given).map(|at| at + PLUGGING),
            self.wished.map(|at| at + PATIENCE),
        ];
        if let Some(until) = waits.into_iter().flatten().find(|until| now < *until) {
            return Next::Wait(until);
        }
        if !figures.wants_more() {
            return if figures.is_full() { Next::Pause } else { Next::Watch };
        }
        self.fruitless = if figures.total > self.total_then { 0 } else { self.fruitless + 1 };
        (self.total_then, self.wished) = (figures.total, Some(now));
        Next::Wish
    }

    /// Where memory.high is to be. Where that is about what is in use, the kernel would look for the difference while the agent waits, and
    /// find little: then it stays where it was.
    fn line(&self, figures: &Figures) -> u64 {
        self.high.filter(|_| figures.is_full()).unwrap_or_else(|| figures.high())
    }

    /// Nothing waits for this, and an error leaves what was.
    fn set_high(&mut self, high: Option<u64>) {
        if high == self.high {
            return;
        }
        let text = high.map_or_else(|| "max".to_owned(), |high| high.to_string());
        match std::fs::write(Path::new(CONTAINERS).join("memory.high"), text) {
            Ok(()) => self.high = high,
            Err(error) => log::warn!("cannot set memory.high: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// A guest of `total` MiB whose containers use so many, of which `cache` are files'.
    fn guest(total: u64, used: u64, cache: u64) -> Figures {
        Figures { total: total * MIB, free: (total - 40 - used) * MIB, used: used * MIB, cache: cache * MIB }
    }

    #[tokio::test(start_paused = true)]
    async fn a_wish_waits_for_its_answer_and_for_the_memory() {
        let mut watcher = Watcher::new(500 * MIB);
        let mut told = Told { grows: true, ..Told::default() };
        let mut now = Instant::now();
        assert_eq!(watcher.next(&guest(500, 100, 50), &told, now), Next::Watch);
        let full = guest(500, 400, 50);
        assert_eq!(watcher.next(&full, &told, now), Next::Wish);
        assert_eq!(watcher.next(&full, &told, now), Next::Wait(now + PATIENCE));
        now += PATIENCE / 2;
        (told.answers, told.added) = (1, 256 * MIB);
        assert_eq!(watcher.next(&full, &told, now), Next::Wait(now + PLUGGING));
        // The first of two blocks.
        assert_eq!(watcher.next(&guest(628, 420, 50), &told, now), Next::Wait(now + PLUGGING));
        assert_eq!(watcher.next(&guest(756, 430, 50), &told, now), Next::Watch);
        assert_eq!(watcher.next(&guest(756, 640, 50), &told, now), Next::Wish);
        assert_eq!(watcher.fruitless, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_gives_nothing_is_asked_some_times() {
        let mut watcher = Watcher::new(500 * MIB);
        let mut told = Told { grows: true, ..Told::default() };
        let (full, mut now) = (guest(500, 400, 0), Instant::now());
        let mut wishes = 0;
        while watcher.fruitless <= MOST_FRUITLESS && wishes < 100 {
            wishes += u32::from(watcher.next(&full, &told, now) == Next::Wish);
            now += PATIENCE;
        }
        assert_eq!(wishes, MOST_FRUITLESS + 2);
        // Nor is one for ever that gives what the kernel does not take.
        watcher = Watcher::new(500 * MIB);
        (told.answers, told.added) = (1, 256 * MIB);
        assert_eq!(watcher.next(&full, &told, now), Next::Wait(now + PLUGGING));
        assert_eq!(watcher.next(&full, &told, now + PLUGGING), Next::Wish);
    }

    #[test]
    fn the_line_stays_where_it_is_met() {
        let mut watcher = Watcher::new(500 * MIB);
        assert_eq!(watcher.line(&guest(500, 400, 0)), 400 * MIB);
        assert_eq!(watcher.line(&guest(500, 100, 0)), 396 * MIB);
        watcher.high = Some(396 * MIB);
        assert_eq!(watcher.line(&guest(500, 400, 0)), 396 * MIB);
        // An eighth of 640 MiB is headroom.
        assert_eq!(watcher.line(&guest(640, 400, 0)), 520 * MIB);
    }

    #[test]
    fn files_that_are_read_bring_no_wish() {
        let mut watcher = Watcher::new(500 * MIB);
        let told = Told { grows: true, ..Told::default() };
        assert_eq!(watcher.next(&guest(500, 392, 390), &told, Instant::now()), Next::Pause);
    }

    #[test]
    fn a_limit_that_is_raised_again_may_have_made_room() {
        let memory = Memory::default();
        assert!(!memory.hopes());
        memory.told().grows = true;
        for _ in 0..2 {
            memory.update(&UpdateMemoryRequest { exhausted: true, ..Default::default() }).unwrap();
            assert!(memory.told().exhausted);
            assert!(memory.hopes() && !memory.told().exhausted);
        }
    }

    #[test]
    fn devices_that_are_none_are_refused() {
        let memory = Memory::default();
        let request = UpdateMemoryRequest { windows: vec![4_000_000_000], added_bytes: 5, ..Default::default() };
        assert!(memory.update(&request).is_err());
        assert!(memory.told().bound.is_empty());
        memory.update(&UpdateMemoryRequest { added_bytes: 5, exhausted: true, ..Default::default() }).unwrap();
        memory.update(&UpdateMemoryRequest::default()).unwrap();
        let told = memory.told();
        assert_eq!((told.added, told.exhausted, told.answers), (5, false, 2));
    }
}
