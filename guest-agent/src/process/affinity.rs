//! Lists of CPUs, which config.json gives in the host's numbers.
//!
//! The guest has as many CPUs as the host side gave it, numbered from 0. A list of which it has all is taken as it stands;
//! of any other only the length counts, and stands for the first so many CPUs of the guest.

use std::io;

use rustix::thread::{CpuSet, sched_setaffinity};

/// The numbers in a list such as `0-3,7`.
pub fn parse(text: &str) -> Result<Vec<usize>, String> {
    let mut named = vec![false; CpuSet::MAX_CPU];
    for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let range = first.trim().parse::<usize>().ok().zip(last.trim().parse::<usize>().ok());
        match range.filter(|(first, last)| first <= last).and_then(|(first, last)| named.get_mut(first..=last)) {
            Some(cpus) => cpus.fill(true),
            None => {
                return Err(format!("{part:?} is not a CPU, or a range of CPUs, from 0 to {}", CpuSet::MAX_CPU - 1));
            }
        }
    }
    let cpus: Vec<usize> = named.iter().enumerate().filter(|(_, named)| **named).map(|(cpu, _)| cpu).collect();
    if cpus.is_empty() { Err(format!("{text:?} names no CPU")) } else { Ok(cpus) }
}

/// The guest's CPUs for those of the host.
pub fn translate(asked: &[usize], present: usize) -> Vec<usize> {
    if asked.iter().all(|cpu| *cpu < present) {
        return asked.to_vec();
    }
    (0..asked.len().min(present.max(1))).collect()
}

/// How many CPUs the guest has.
pub fn present() -> usize {
    let online = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    parse(online.trim_end()).map_or(1, |cpus| cpus.len())
}

/// Restricts the calling process to CPUs given in the host's numbers, of the `present` ones.
pub fn apply(asked: &[usize], present: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    for cpu in translate(asked, present) {
        set.set(cpu);
    }
    Ok(sched_setaffinity(None, &set)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read() {
        assert_eq!(parse("0-3,7").unwrap(), [0, 1, 2, 3, 7]);
        assert_eq!(parse("7,0-1,1").unwrap(), [0, 1, 7]);
        for bad in ["", "a", "3-1", "1-", "-1", "0-99999999999", ","] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn host_numbers_stand_for_as_many_of_the_guests() {
        assert_eq!(translate(&[1], 2), [1]);
        assert_eq!(translate(&[6, 7], 4), [0, 1]);
        assert_eq!(translate(&[0, 9, 10], 2), [0, 1]);
        assert_eq!(translate(&[5], 1), [0]);
    }
}
