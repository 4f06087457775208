//! Which files there are: nodes and handles, as the guest numbers them.

use std::collections::HashMap;
use std::fs::File;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rustix::io::Errno;

use super::{FIRST_NODE, lock};

/// An open file, and the slot that it takes.
pub struct HostFile {
    /// The file.
    pub file: File,
    _slot: Slot,
}

/// The right to one open file, given back when dropped.
pub struct Slot(Arc<AtomicUsize>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Nodes and handles. Memory is bounded by the slots: a node holds an open file, and so does a handle; only a node's first handle
/// shares the node's.
pub struct Table {
    free: Arc<AtomicUsize>,
    tables: Mutex<Tables>,
}

#[derive(Default)]
struct Tables {
    made: u64,
    nodes: HashMap<u64, Node>,
    handles: HashMap<u64, Handle>,
}

struct Node {
    file: Arc<HostFile>,
    lookups: u64,
}

struct Handle {
    node: u64,
    file: Arc<HostFile>,
}

impl Table {
    /// For at most `max` open files.
    pub fn new(max: usize) -> Self {
        Table { free: Arc::new(AtomicUsize::new(max)), tables: Mutex::default() }
    }

    /// A slot for one more file.
    ///
    /// # Errors
    /// ENFILE when there is none.
    pub fn reserve(&self) -> Result<Slot, Errno> {
        let take = self.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| free.checked_sub(1));
        take.map(|_| Slot(Arc::clone(&self.free))).map_err(|_| Errno::NFILE)
    }

    /// A new node with a handle: their numbers. The guest has looked the node up once.
    pub fn insert(&self, file: File, slot: Slot) -> (u64, u64) {
        let file = Arc::new(HostFile { file, _slot: slot });
        let mut tables = lock(&self.tables);
        let node = FIRST_NODE | tables.next();
        tables.nodes.insert(node, Node { file: Arc::clone(&file), lookups: 1 });
        let fh = tables.next();
        tables.handles.insert(fh, Handle { node, file });
        (node, fh)
    }

    /// A new handle of `node`.
    ///
    /// # Errors
    /// EBADF when the node has been forgotten.
    pub fn insert_handle(&self, node: u64, file: File, slot: Slot) -> Result<u64, Errno> {
        let file = Arc::new(HostFile { file, _slot: slot });
        let mut tables = lock(&self.tables);
        if !tables.nodes.contains_key(&node) {
            return Err(Errno::BADF);
        }
        let fh = tables.next();
        tables.handles.insert(fh, Handle { node, file });
        Ok(fh)
    }

    /// The node's file, open for reading and writing.
    ///
    /// # Errors
    /// EBADF when there is no such node.
    pub fn node(&self, node: u64) -> Result<Arc<HostFile>, Errno> {
        lock(&self.tables).nodes.get(&node).map(|node| Arc::clone(&node.file)).ok_or(Errno::BADF)
    }

    /// The handle's file.
    ///
    /// # Errors
    /// EBADF when `node` has no such handle.
    pub fn handle(&self, node: u64, fh: u64) -> Result<Arc<HostFile>, Errno> {
        let tables = lock(&self.tables);
        tables
            .handles
            .get(&fh)
            .filter(|handle| handle.node == node)
            .map(|handle| Arc::clone(&handle.file))
            .ok_or(Errno::BADF)
    }

    /// Closes a handle.
    ///
    /// # Errors
    /// EBADF when `node` has no such handle.
    pub fn release(&self, node: u64, fh: u64) -> Result<(), Errno> {
        let mut tables = lock(&self.tables);
        if tables.handles.get(&fh).is_none_or(|handle| handle.node != node) {
            return Err(Errno::BADF);
        }
        let closed = tables.handles.remove(&fh);
        // Closing may free a large file on the host: not under the lock.
        drop(tables);
        drop(closed);
        Ok(())
    }

    /// Takes `count` lookups from a node; it goes with the last one. Unknown nodes are passed over.
    pub fn forget(&self, node: u64, count: u64) {
        let mut tables = lock(&self.tables);
        let Some(known) = tables.nodes.get_mut(&node) else { return };
        known.lookups = known.lookups.saturating_sub(count);
        let gone = if known.lookups == 0 { tables.nodes.remove(&node) } else { None };
        drop(tables);
        drop(gone);
    }

    /// Closes everything. Numbers are not used again.
    pub fn clear(&self) {
        let mut tables = lock(&self.tables);
        let nodes = std::mem::take(&mut tables.nodes);
        let handles = std::mem::take(&mut tables.handles);
        drop(tables);
        drop((nodes, handles));
    }
}

impl Tables {
    fn next(&mut self) -> u64 {
        self.made += 1;
        self.made
    }
}
