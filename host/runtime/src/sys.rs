//! The few system calls of the command that need unsafe code: spawning with placed descriptors, signals, the clock.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;

/// Nanoseconds of CLOCK_MONOTONIC, which all processes of the host share.
pub fn now_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for one timespec. The clock always exists, so that the call does not fail.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    (time.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(time.tv_nsec as u64)
}

/// Has all threads allocate from one heap, that of brk(2). glibc gives each thread a heap of its own otherwise, and opens a file below
/// /proc when one shrinks, which the monitor's filters answer with death; one heap is smaller, too.
pub fn use_one_heap() {
    // SAFETY: mallopt changes a setting of the allocator; this process has one thread yet.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Lets this thread, and no other, reach files as a user (setfsuid(2)). Nothing changes where it may not.
pub fn set_file_user(uid: u32) {
    // SAFETY: the call takes a number, and touches no memory of this process.
    unsafe { libc::setfsuid(uid) };
}

/// Bytes of memory that the host has.
pub fn host_memory() -> u64 {
    // SAFETY: sysinfo is plain numbers, for which zeroes are values.
    let mut info: libc::sysinfo = unsafe { std::mem::zeroed() };
    // SAFETY: `info` is a valid place for one sysinfo. The call fails for no other; there would be none then.
    unsafe { libc::sysinfo(&mut info) };
    info.totalram.saturating_mul(info.mem_unit.into())
}

/// A number that a guest cannot guess; never 0.
pub fn random_token() -> io::Result<u64> {
    let mut bytes = [0u8; 8];
    // SAFETY: the buffer is as long as the length says.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if got != bytes.len() as isize {
        return Err(io::Error::last_os_error());
    }
    Ok(u64::from_ne_bytes(bytes).max(1))
}

/// A signal by its number, those that have no name too.
pub fn signal(number: i32) -> Option<rustix::process::Signal> {
    // SAFETY: the kernel knows the signals 1 to 64. The C library keeps 32 and 33 for its threads; whoever sends those to another
    // process harms that process at most.
    (1..=64).contains(&number).then(|| unsafe { rustix::process::Signal::from_raw_unchecked(number) })
}

fn signal_set(signals: &[i32]) -> libc::sigset_t {
    // SAFETY: sigset_t is plain data, and sigemptyset and sigaddset write only to it.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in signals {
            libc::sigaddset(&mut set, *signal);
        }
        set
    }
}

/// Blocks signals in this thread, and so in all that it starts later.
pub fn block_signals(signals: &[i32]) -> io::Result<()> {
    let set = signal_set(signals);
    // SAFETY: both pointers are valid or null.
    match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, ptr::null_mut()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Has a command's process begin with no signal blocked: by itself it has those blocked that this thread has.
pub fn block_none_in(command: &mut Command) {
    let none = signal_set(&[]);
    let unblock = move || {
        // SAFETY: both pointers are valid or null. The call takes no lock and no memory.
        match unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &none, ptr::null_mut()) } {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    };
    // SAFETY: between fork and exec the closure makes one system call and nothing else.
    unsafe { command.pre_exec(unblock) };
}

/// Has every descriptor from 3 up closed by an exec: callers leave some open, which are nothing for programs that this one starts.
pub fn close_on_exec() {
    // SAFETY: takes no pointers, and changes a flag of descriptors only.
    unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
}

/// A descriptor from which blocked signals are read.
pub fn signal_fd(signals: &[i32]) -> io::Result<OwnedFd> {
    let set = signal_set(signals);
    // SAFETY: the set is valid; -1 asks for a new descriptor.
    let fd = unsafe { libc::signalfd(-1, &set, libc::SFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Waits for the next signal of a [`signal_fd`].
pub fn read_signal(fd: BorrowedFd<'_>) -> io::Result<i32> {
    // SAFETY: signalfd_siginfo is plain data.
    let mut info: libc::signalfd_siginfo = unsafe { std::mem::zeroed() };
    let size = size_of_val(&info);
    // SAFETY: the buffer is one signalfd_siginfo and `size` is its size.
    let got = unsafe { libc::read(fd.as_raw_fd(), (&raw mut info).cast(), size) };
    match got {
        got if got == size as isize => Ok(info.ssi_signo as i32),
        got if got < 0 => Err(io::Error::last_os_error()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// The signal was set to be ignored by whoever started this process (nohup, a shell's background job).
pub fn is_ignored(signal: i32) -> bool {
    // SAFETY: sigaction is plain data; a null pointer for the new action only asks for the present one.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, ptr::null(), &mut action) == 0 && action.sa_sigaction == libc::SIG_IGN
    }
}

/// Takes over a descriptor that this process was started with; `None` when it is not open. It is closed by an exec from now on.
///
/// Whoever calls this does so once for a number, before anything else in the process opens descriptors.
pub fn inherited(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: F_SETFD changes a flag of a descriptor, open or not, and touches no memory.
    if number < 3 || unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return None;
    }
    // SAFETY: it is open, and it came from the parent: nothing else in this process owns it yet.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Gives this process, which must have one thread, a network namespace of its own.
pub fn unshare_network() -> io::Result<()> {
    // SAFETY: no memory and no descriptors are unshared.
    Ok(unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }?)
}

/// Ends this process by a signal, so that whoever waits for it sees which; returns where that is not possible.
pub fn die_by(signal: i32) {
    let set = signal_set(&[signal]);
    // SAFETY: sigaction is plain data and the default action runs no code; all pointers are valid or null.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = libc::SIG_DFL;
        libc::sigaction(signal, &action, ptr::null_mut());
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, ptr::null_mut());
        libc::raise(signal);
    }
}

/// How often a process that is to be killed for want of memory asks for some.
const REQUESTS: usize = 64;

/// Lends this process's memory to a second one, which enters the cgroup whose `cgroup.procs` this is and asks for more there. It returns
/// at most if neither was killed for that. This process must have one thread and lead a process group, which ends with it.
pub fn starve(processes: BorrowedFd<'_>) {
    extern "C" fn ask(processes: *mut libc::c_void) -> libc::c_int {
        let mut ends = [0; 2];
        // SAFETY: nothing but system calls with valid pointers, as the thread-local data of the other process is in use here. Nobody
        // uses the descriptors.
        unsafe {
            if libc::write(processes as RawFd, c"0".as_ptr().cast(), 1) == 1 {
                for _ in 0..REQUESTS {
                    libc::pipe(ends.as_mut_ptr());
                }
            }
            libc::kill(0, libc::SIGKILL);
        }
        1
    }
    let mut stack = vec![0u64; 4096];
    // SAFETY: the stack is not used for anything else while this process lives, which waits; its end is within the same vector. With
    // CLONE_PARENT the parent waits for both.
    unsafe {
        let end = stack.as_mut_ptr().add(stack.len());
        let flags = libc::CLONE_VM | libc::CLONE_PARENT;
        if libc::clone(ask, end.cast(), flags, processes.as_raw_fd() as *mut libc::c_void) > 0 {
            libc::pause();
        }
    }
}

/// What a process gets as its first three descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Streams {
    /// This process's own.
    Inherited,
    /// /dev/null, but stderr is this process's.
    Stderr,
    /// /dev/null.
    Null,
}

/// What a process is started with.
pub struct Spawn<'a> {
    /// The executable.
    pub path: &'a CStr,
    /// Arguments, the process title first.
    pub arguments: &'a [CString],
    /// The whole environment, `NAME=value`.
    pub environment: &'a [CString],
    /// stdin, stdout and stderr.
    pub streams: Streams,
    /// Descriptors and the numbers that they get. Numbers must be 3 or more.
    pub descriptors: &'a [(BorrowedFd<'a>, RawFd)],
}

/// Owns a `posix_spawn_file_actions_t`.
struct FileActions(libc::posix_spawn_file_actions_t);

impl Drop for FileActions {
    fn drop(&mut self) {
        // SAFETY: it was initialised when it was made.
        unsafe { libc::posix_spawn_file_actions_destroy(&mut self.0) };
    }
}

/// Owns a `posix_spawnattr_t`.
struct Attributes(libc::posix_spawnattr_t);

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: it was initialised when it was made.
        unsafe { libc::posix_spawnattr_destroy(&mut self.0) };
    }
}

fn check(error: libc::c_int) -> io::Result<()> {
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

fn file_actions(streams: Streams, descriptors: &[(OwnedFd, RawFd)], end: RawFd) -> io::Result<FileActions> {
    // SAFETY: the actions are initialised before anything is added; the path is a constant that outlives the calls.
    unsafe {
        let mut actions: libc::posix_spawn_file_actions_t = std::mem::zeroed();
        check(libc::posix_spawn_file_actions_init(&mut actions))?;
        let mut actions = FileActions(actions);
        let null = c"/dev/null".as_ptr();
        if streams != Streams::Inherited {
            check(libc::posix_spawn_file_actions_addopen(&mut actions.0, 0, null, libc::O_RDWR, 0))?;
            check(libc::posix_spawn_file_actions_adddup2(&mut actions.0, 0, 1))?;
        }
        if streams == Streams::Null {
            check(libc::posix_spawn_file_actions_adddup2(&mut actions.0, 0, 2))?;
        }
        for number in (3..end).filter(|number| descriptors.iter().all(|(_, taken)| taken != number)) {
            check(libc::posix_spawn_file_actions_addclose(&mut actions.0, number))?;
        }
        for (fd, number) in descriptors {
            check(libc::posix_spawn_file_actions_adddup2(&mut actions.0, fd.as_raw_fd(), *number))?;
        }
        check(libc::posix_spawn_file_actions_addclosefrom_np(&mut actions.0, end))?;
        Ok(actions)
    }
}

fn attributes() -> io::Result<Attributes> {
    let none = signal_set(&[]);
    let default = signal_set(&[libc::SIGPIPE]);
    let flags = libc::POSIX_SPAWN_SETSIGMASK | libc::POSIX_SPAWN_SETSIGDEF | libc::POSIX_SPAWN_SETSID as i32;
    // SAFETY: the attributes are initialised before they are set; the sets live during the calls, which copy them.
    unsafe {
        let mut attributes: libc::posix_spawnattr_t = std::mem::zeroed();
        check(libc::posix_spawnattr_init(&mut attributes))?;
        let mut attributes = Attributes(attributes);
        check(libc::posix_spawnattr_setsigmask(&mut attributes.0, &none))?;
        check(libc::posix_spawnattr_setsigdefault(&mut attributes.0, &default))?;
        check(libc::posix_spawnattr_setflags(&mut attributes.0, flags as libc::c_short))?;
        Ok(attributes)
    }
}

fn pointers(strings: &[CString]) -> Vec<*mut libc::c_char> {
    strings.iter().map(|s| s.as_ptr().cast_mut()).chain([ptr::null_mut()]).collect()
}

/// Starts a process in a session of its own: the descriptors are where the caller wants them, and no other
/// is open. posix_spawn(3) shares memory until the exec, so that it costs the same
/// however large this process is. Returns the process id.
pub fn spawn(what: &Spawn<'_>) -> io::Result<i32> {
    let end = what.descriptors.iter().map(|(_, number)| number + 1).max().unwrap_or(3);
    // First out of the way of all target numbers, so that no dup2 hits a source that is still needed.
    let moved = what
        .descriptors
        .iter()
        .map(|(fd, number)| Ok((rustix::io::fcntl_dupfd_cloexec(fd, end)?, *number)))
        .collect::<io::Result<Vec<_>>>()?;
    let actions = file_actions(what.streams, &moved, end)?;
    let attributes = attributes()?;
    let (arguments, environment) = (pointers(what.arguments), pointers(what.environment));
    let mut pid = 0;
    // SAFETY: actions and attributes are initialised; both arrays end with null and point to strings that outlive the call.
    check(unsafe {
        libc::posix_spawn(
            &mut pid,
            what.path.as_ptr(),
            &actions.0,
            &attributes.0,
            arguments.as_ptr(),
            environment.as_ptr(),
        )
    })?;
    Ok(pid)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsFd;

    use super::*;

    fn strings(list: &[&str]) -> Vec<CString> {
        list.iter().map(|s| CString::new(*s).unwrap()).collect()
    }

    #[test]
    fn spawned_process_has_its_descriptors_and_no_others() {
        let (mut reader, writer) = io::pipe().unwrap();
        let (_other, leak) = io::pipe().unwrap();
        rustix::io::fcntl_setfd(&leak, rustix::io::FdFlags::empty()).unwrap();
        let arguments =
            strings(&["title", "-c", "exec >&4; echo $X; cd /proc/self/fd; echo *; ps -o sid= $$ >/dev/null"]);
        let pid = spawn(&Spawn {
            path: c"/bin/sh",
            arguments: &arguments,
            environment: &strings(&["X=seen", "PATH=/bin:/usr/bin"]),
            streams: Streams::Stderr,
            descriptors: &[(writer.as_fd(), 4), (writer.as_fd(), 3)],
        })
        .unwrap();
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()).unwrap();
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("seen"));
        let open: Vec<&str> = lines.next().unwrap().split(' ').collect();
        assert!(["0", "1", "2", "3", "4"].iter().all(|fd| open.contains(fd)), "{open:?}");
        let leak = leak.as_raw_fd().to_string();
        assert!(!open.contains(&leak.as_str()), "{open:?}");
    }

    #[test]
    fn tokens_differ() {
        assert_ne!(random_token().unwrap(), random_token().unwrap());
    }
}
