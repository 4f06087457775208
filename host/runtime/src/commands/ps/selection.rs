//! Which processes ps(1) prints, and in which order.

use agent_protocol::agent::ProcessInfo;

use super::columns::Column;

/// What options say of it. Without any it is all of the container's, whatever terminal the command has.
#[derive(Debug, Default)]
pub(super) struct Selection {
    /// `-e`.
    pub all: bool,
    /// `-a`: those with a terminal that do not lead a session.
    pub with_terminal: bool,
    /// `-d`: those that do not lead a session.
    pub not_leading: bool,
    /// `-p`.
    pub pids: Vec<i32>,
    /// `--ppid`.
    pub parents: Vec<i32>,
    /// `--sort`: the columns, and which of them from the highest on.
    pub order: Vec<(&'static Column, bool)>,
}

impl Selection {
    /// Those of `processes` that are chosen, as they are to be printed.
    pub(super) fn of(&self, mut processes: Vec<ProcessInfo>, now: u64) -> Vec<ProcessInfo> {
        processes.retain(|process| self.has(process));
        processes.sort_by(|one, other| {
            let orders = self.order.iter().map(|(column, reverse)| match column.order(one, other, now) {
                order if *reverse => order.reverse(),
                order => order,
            });
            orders.fold(std::cmp::Ordering::Equal, std::cmp::Ordering::then)
        });
        processes
    }

    fn has(&self, process: &ProcessInfo) -> bool {
        let leads = process.sid == process.pid;
        let limited = self.with_terminal || self.not_leading || !self.pids.is_empty() || !self.parents.is_empty();
        self.all
            || !limited
            || self.with_terminal && !leads && process.terminal != "?"
            || self.not_leading && !leads
            || self.pids.contains(&process.pid)
            || self.parents.contains(&process.ppid)
    }
}
