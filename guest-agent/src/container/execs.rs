//! The exec'd processes of a container, by id.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Error, Process};

/// More cannot run at once.
const MOST_RUNNING: usize = 1024;

/// So many that have ended are remembered, for callers that have yet to ask how.
const MOST_ENDED: usize = 1024;

/// Exec'd processes that run, and the last of those that have ended.
#[derive(Default)]
pub struct Execs {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// None while it is being made.
    by_id: HashMap<String, Option<Arc<Process>>>,
    /// Those that were killed while they were being made.
    killed: HashSet<String>,
    /// Oldest first.
    ended: VecDeque<String>,
}

impl State {
    fn forget(&mut self, id: &str) {
        self.by_id.remove(id);
        self.killed.remove(id);
        self.ended.retain(|ended| ended != id);
    }
}

impl Execs {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The process with this id.
    pub fn get(&self, id: &str) -> Option<Arc<Process>> {
        self.lock().by_id.get(id).cloned().flatten()
    }

    /// Every process that has not ended.
    pub fn running(&self) -> Vec<(String, Arc<Process>)> {
        let state = self.lock();
        let all = state.by_id.iter().filter_map(|(id, process)| Some((id.clone(), process.clone()?)));
        all.filter(|(_, process)| !process.has_exited()).collect()
    }

    /// Takes the id. That of a process that has ended can be taken anew.
    pub fn reserve(&self, id: &str) -> Result<(), Error> {
        let mut state = self.lock();
        if state.ended.iter().any(|ended| ended == id) {
            state.forget(id);
        }
        if state.by_id.contains_key(id) {
            return Err(Error::ProcessExists(id.to_owned()));
        }
        if state.by_id.len().saturating_sub(state.ended.len()) >= MOST_RUNNING {
            return Err(Error::TooMany(MOST_RUNNING));
        }
        state.by_id.insert(id.to_owned(), None);
        Ok(())
    }

    /// Has a process that is being made come to nothing; says whether there is one.
    pub fn kill_unmade(&self, id: &str) -> bool {
        let mut state = self.lock();
        let unmade = matches!(state.by_id.get(id), Some(None));
        if unmade {
            state.killed.insert(id.to_owned());
        }
        unmade
    }

    /// Whether that has happened.
    pub fn was_killed(&self, id: &str) -> bool {
        self.lock().killed.contains(id)
    }

    /// The process of a reserved id.
    pub fn put(&self, id: &str, process: Arc<Process>) {
        self.lock().by_id.insert(id.to_owned(), Some(process));
    }

    /// Gives an id back whose process could not be made.
    pub fn forget(&self, id: &str) {
        self.lock().forget(id);
    }

    /// The process is from now on one of those that may be forgotten.
    pub fn ended(&self, id: &str) {
        let mut state = self.lock();
        if !state.by_id.contains_key(id) {
            return;
        }
        state.ended.push_back(id.to_owned());
        if state.ended.len() > MOST_ENDED
            && let Some(oldest) = state.ended.pop_front()
        {
            state.by_id.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_taken_once_and_ended_ones_forgotten() {
        let execs = Execs::default();
        execs.reserve("a").unwrap();
        assert!(matches!(execs.reserve("a"), Err(Error::ProcessExists(_))));
        execs.ended("a");
        execs.reserve("a").unwrap();
        execs.forget("a");
        for n in 0..3000 {
            execs.reserve(&n.to_string()).unwrap();
            execs.ended(&n.to_string());
        }
        execs.ended("never was");
        let state = execs.lock();
        assert_eq!((state.by_id.len(), state.ended.len()), (MOST_ENDED, MOST_ENDED));
    }

    #[test]
    fn one_that_is_being_made_can_be_killed() {
        let execs = Execs::default();
        assert!(!execs.kill_unmade("a"), "there is none");
        execs.reserve("a").unwrap();
        assert!(!execs.was_killed("a"));
        assert!(execs.kill_unmade("a") && execs.kill_unmade("a"));
        assert!(execs.was_killed("a"));
        execs.forget("a");
        execs.reserve("a").unwrap();
        assert!(!execs.was_killed("a"), "it is another");
    }

    #[test]
    fn not_too_many_run_at_once() {
        let execs = Execs::default();
        for n in 0..MOST_RUNNING {
            execs.reserve(&n.to_string()).unwrap();
        }
        assert!(matches!(execs.reserve("more"), Err(Error::TooMany(_))));
        execs.ended("0");
        execs.reserve("more").unwrap();
    }
}
