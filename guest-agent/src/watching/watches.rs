//! What is watched, by the numbers that the host knows.

use std::collections::HashMap;
use std::rc::Rc;

use agent_protocol::watch::{MAX_WATCHES, Message, event};
use rustix::process::Pid;

use super::fdinfo::Object;
use super::look::Seen;
use super::mounts::Mount;

/// One of them.
pub struct Watch {
    /// What.
    pub object: Object,
    /// In which share.
    pub share: u16,
    /// Where it was in the share when it was first seen.
    pub path: Vec<u8>,
    mask: u32,
}

/// All of them.
pub struct Watches {
    pid: Pid,
    shares: Vec<String>,
    /// File systems by their numbers; nothing for those that are of no interest.
    mounts: HashMap<u32, Option<Rc<Mount>>>,
    numbers: HashMap<Object, u32>,
    watches: HashMap<u32, Watch>,
    last: u32,
    full: bool,
}

impl Watches {
    /// None yet. The process is the container's first one.
    pub fn new(pid: Pid, shares: Vec<String>) -> Self {
        let (mounts, numbers, watches) = (HashMap::new(), HashMap::new(), HashMap::new());
        Watches { pid, shares, mounts, numbers, watches, last: 0, full: false }
    }

    /// The watch with this number, and its file system.
    pub fn get(&self, number: u32) -> Option<(&Watch, Rc<Mount>)> {
        let watch = self.watches.get(&number)?;
        Some((watch, self.mounts.get(&watch.object.device)?.clone()?))
    }

    /// What is at that path of a share, if it is watched itself.
    pub fn at(&self, share: u16, path: &[u8]) -> Option<&Watch> {
        self.watches.values().find(|watch| watch.share == share && watch.path == path)
    }

    /// Takes over what was seen; gives what the host is to be told.
    pub fn update(&mut self, seen: &Seen) -> Vec<Message> {
        let gone: Vec<u32> =
            self.numbers.iter().filter(|(object, _)| !seen.contains_key(object)).map(|(_, number)| *number).collect();
        let mut messages = Vec::new();
        for watch in gone {
            if let Some(gone) = self.watches.remove(&watch) {
                self.numbers.remove(&gone.object);
            }
            messages.push(Message::Unwatch { watch });
        }
        for (object, mask) in seen {
            messages.extend(self.see(object, mask & (event::REPORTED | event::DELETE_SELF)));
        }
        messages
    }

    fn see(&mut self, object: &Object, mask: u32) -> Option<Message> {
        if let Some(number) = self.numbers.get(object) {
            let watch = self.watches.get_mut(number)?;
            if watch.mask == mask {
                return None;
            }
            watch.mask = mask;
            return Some(message(*number, watch));
        }
        if mask == 0 {
            return None;
        }
        if self.watches.len() >= MAX_WATCHES {
            if !std::mem::replace(&mut self.full, true) {
                log::warn!(
                    "the container watches more than {MAX_WATCHES} shared files: not all changes on the host are seen"
                );
            }
            return None;
        }
        let (share, path) = self.mount(object.device)?.path(object, &self.shares)?;
        self.last = self.last.wrapping_add(1);
        let watch = Watch { object: object.clone(), share, path, mask };
        let message = message(self.last, &watch);
        self.numbers.insert(object.clone(), self.last);
        self.watches.insert(self.last, watch);
        Some(message)
    }

    fn mount(&mut self, device: u32) -> Option<Rc<Mount>> {
        let (pid, shares) = (self.pid, &self.shares);
        let find = || {
            let found = Mount::find(pid, device, shares);
            found.map(Rc::new).inspect_err(|error| log::debug!("device {device:x} is not watched: {error}")).ok()
        };
        self.mounts.entry(device).or_insert_with(find).clone()
    }
}

fn message(number: u32, watch: &Watch) -> Message {
    Message::Watch { watch: number, share: watch.share, mask: watch.mask, path: watch.path.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watching::fdinfo::Handle;

    #[test]
    fn what_is_new_and_what_is_gone_is_told() {
        let mut watches = Watches::new(Pid::INIT, Vec::new());
        let object = |byte| Object { device: 1, handle: Handle { kind: 1, bytes: vec![byte] } };
        let watch = Watch { object: object(1), share: 0, path: b"a".to_vec(), mask: event::MODIFY };
        watches.numbers.insert(object(1), 7);
        watches.watches.insert(7, watch);
        assert_eq!(watches.at(0, b"a").map(|watch| watch.mask), Some(event::MODIFY));
        assert_eq!(watches.update(&Seen::from([(object(1), event::MODIFY)])), []);
        let changed = watches.update(&Seen::from([(object(1), event::MODIFY | event::CREATE | 1)]));
        let mask = event::MODIFY | event::CREATE;
        assert_eq!(changed, [Message::Watch { watch: 7, share: 0, mask, path: b"a".to_vec() }]);
        watches.mounts.insert(1, None);
        assert_eq!(watches.update(&Seen::from([(object(2), event::MODIFY)])), [Message::Unwatch { watch: 7 }]);
        assert!(watches.get(7).is_none() && watches.numbers.is_empty());
    }
}
