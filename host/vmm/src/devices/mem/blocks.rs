//! Which blocks of the region the guest has plugged.

use super::request::State;
use crate::layout::GROWTH_UNIT;

/// What is plugged or unplugged at once: a huge page. Linux takes it for the size of its own sub-blocks.
pub(super) const BLOCK: u64 = 2 << 20;
const _: () = assert!(GROWTH_UNIT.is_multiple_of(BLOCK));

/// A run of blocks, all of them in the region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    first: usize,
    count: usize,
}

/// The region's blocks.
#[derive(Debug)]
pub(super) struct Blocks {
    start: u64,
    plugged: Vec<bool>,
    count: u64,
}

impl Blocks {
    /// All of the region unplugged.
    pub fn new(start: u64, length: u64) -> Self {
        let blocks = usize::try_from(length / BLOCK).unwrap_or(0);
        Blocks { start, plugged: vec![false; blocks], count: 0 }
    }

    /// Where the region begins.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Bytes of the region.
    pub fn length(&self) -> u64 {
        self.plugged.len() as u64 * BLOCK
    }

    /// Bytes that are plugged.
    pub fn plugged(&self) -> u64 {
        self.count * BLOCK
    }

    /// `count` blocks from `address` on. `None` unless there is one, and all of them are blocks of the region.
    pub fn run(&self, address: u64, count: u16) -> Option<Run> {
        let offset = address.checked_sub(self.start).filter(|offset| offset.is_multiple_of(BLOCK))?;
        let run = Run { first: usize::try_from(offset / BLOCK).ok()?, count: usize::from(count) };
        let end = run.first.checked_add(run.count)?;
        (run.count > 0 && end <= self.plugged.len()).then_some(run)
    }

    /// The whole region.
    pub fn all(&self) -> Run {
        Run { first: 0, count: self.plugged.len() }
    }

    /// Address and length of a run.
    pub fn range(&self, run: Run) -> (u64, u64) {
        (self.start + run.first as u64 * BLOCK, Self::bytes(run))
    }

    /// Length of a run.
    pub fn bytes(run: Run) -> u64 {
        run.count as u64 * BLOCK
    }

    /// What is known of a run.
    pub fn state(&self, run: Run) -> State {
        let blocks = self.plugged.get(run.first..run.first + run.count).unwrap_or_default();
        match (blocks.contains(&true), blocks.contains(&false)) {
            (true, false) => State::Plugged,
            (true, true) => State::Mixed,
            (false, _) => State::Unplugged,
        }
    }

    /// Makes all blocks of a run plugged, or unplugged.
    pub fn set(&mut self, run: Run, plugged: bool) {
        for block in self.plugged.iter_mut().skip(run.first).take(run.count) {
            match (std::mem::replace(block, plugged), plugged) {
                (false, true) => self.count += 1,
                (true, false) => self.count -= 1,
                _ => {}
            }
        }
    }
}
