//! The eventfds by which a driver kicks the queues of a device on the device loop, which watches them level-triggered: one stays readable
//! until it is read.

use vmm_sys_util::eventfd::EventFd;

/// Whatever `queue` has to do is about to be looked at.
pub fn take(kicks: &[EventFd], queue: u32) {
    if let Some(kick) = kicks.get(queue as usize) {
        // Non-blocking: that it was readable is all there is to know.
        let _ = kick.read();
    }
}

/// Comes back to `queue` after the others.
pub fn again(kicks: &[EventFd], queue: u32) {
    if let Some(kick) = kicks.get(queue as usize) {
        // Fails when the counter is full, that is, readable.
        let _ = kick.write(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_come_back_to_once() {
        let kicks = [EventFd::new(libc::EFD_NONBLOCK).unwrap(), EventFd::new(libc::EFD_NONBLOCK).unwrap()];
        kicks[1].write(u64::MAX - 1).unwrap();
        again(&kicks, 1);
        take(&kicks, 1);
        assert!(kicks[1].read().is_err());
        again(&kicks, 1);
        again(&kicks, 2);
        assert!(kicks[0].read().is_err());
        assert_eq!(kicks[1].read().unwrap(), 1);
        take(&kicks, 2);
    }
}
