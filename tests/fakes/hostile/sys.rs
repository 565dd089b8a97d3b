//! System calls, children, and the little that every class of attack needs.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

/// How an attempt in a child ended.
pub enum Attempt {
    /// The call succeeded with this value.
    Did(i64),
    /// It failed with this errno.
    Errno(i32),
    /// The child was killed by this signal.
    Signal(i32),
    /// The child did not end in time.
    Hung,
}

impl Attempt {
    /// For a finding.
    pub fn text(&self) -> String {
        match self {
            Attempt::Did(v) => format!("succeeded ({v})"),
            Attempt::Errno(e) => errname(*e),
            Attempt::Signal(s) => format!("signal {s}"),
            Attempt::Hung => "hung".to_string(),
        }
    }
}

impl From<Result<i64, i32>> for Attempt {
    fn from(result: Result<i64, i32>) -> Attempt {
        match result {
            Ok(v) => Attempt::Did(v),
            Err(e) => Attempt::Errno(e),
        }
    }
}

/// How a child ended.
pub enum End {
    /// It exited; these are the bytes that it reported.
    Said(Vec<u8>),
    /// It was killed by this signal.
    Signal(i32),
    /// It had to be killed.
    Hung,
    /// There was no child.
    NoFork(i32),
}

/// One system call with unchecked arguments. The attacks pass valid pointers or ones that the kernel must refuse;
/// neither kind is dereferenced on this side.
pub fn raw(number: i64, args: [u64; 6]) -> Result<i64, i32> {
    // SAFETY: the kernel validates every argument; callers keep the buffers they pass alive over the call.
    let r = unsafe { libc::syscall(number, args[0], args[1], args[2], args[3], args[4], args[5]) };
    if r == -1 { Err(errno()) } else { Ok(r) }
}

/// `raw` for the common case of few arguments.
pub fn call(number: i64, args: &[u64]) -> Result<i64, i32> {
    let mut all = [0; 6];
    for (slot, arg) in all.iter_mut().zip(args) {
        *slot = *arg;
    }
    raw(number, all)
}

/// The calling thread's errno.
pub fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// Turns a C return value into a result.
pub fn check(r: i32) -> Result<i64, i32> {
    if r == -1 { Err(errno()) } else { Ok(i64::from(r)) }
}

/// The name of an errno, or its number.
pub fn errname(e: i32) -> String {
    let name = match e {
        libc::EPERM => "EPERM",
        libc::ENOENT => "ENOENT",
        libc::ESRCH => "ESRCH",
        libc::EIO => "EIO",
        libc::ENXIO => "ENXIO",
        libc::EBADF => "EBADF",
        libc::EAGAIN => "EAGAIN",
        libc::ENOMEM => "ENOMEM",
        libc::EACCES => "EACCES",
        libc::EFAULT => "EFAULT",
        libc::EBUSY => "EBUSY",
        libc::EEXIST => "EEXIST",
        libc::ENODEV => "ENODEV",
        libc::ENOTDIR => "ENOTDIR",
        libc::EINVAL => "EINVAL",
        libc::EMFILE => "EMFILE",
        libc::ENOTTY => "ENOTTY",
        libc::ETXTBSY => "ETXTBSY",
        libc::EFBIG => "EFBIG",
        libc::ENOSPC => "ENOSPC",
        libc::EROFS => "EROFS",
        libc::EDQUOT => "EDQUOT",
        libc::ENOSYS => "ENOSYS",
        libc::EAFNOSUPPORT => "EAFNOSUPPORT",
        libc::EPROTONOSUPPORT => "EPROTONOSUPPORT",
        libc::ESOCKTNOSUPPORT => "ESOCKTNOSUPPORT",
        libc::EOPNOTSUPP => "EOPNOTSUPP",
        libc::ECONNREFUSED => "ECONNREFUSED",
        libc::ENETUNREACH => "ENETUNREACH",
        libc::EXDEV => "EXDEV",
        _ => return format!("errno {e}"),
    };
    name.to_string()
}

/// A path for the kernel; a NUL inside ends it.
pub fn cpath(path: impl AsRef<Path>) -> CString {
    let bytes: Vec<u8> =
        path.as_ref().as_os_str().as_bytes().iter().copied().take_while(|b| *b != 0).collect();
    CString::new(bytes).unwrap_or_default()
}

/// open(2), close-on-exec.
pub fn open(path: impl AsRef<Path>, flags: i32) -> Result<OwnedFd, i32> {
    open_mode(path, flags, 0)
}

/// open(2) with a creation mode.
pub fn open_mode(path: impl AsRef<Path>, flags: i32, mode: u32) -> Result<OwnedFd, i32> {
    let path = cpath(path);
    // SAFETY: `path` is a NUL-terminated string that lives over the call.
    let fd = unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC, mode) };
    own(check(fd)?)
}

/// Takes ownership of a descriptor number that a system call has just returned.
pub fn own(fd: i64) -> Result<OwnedFd, i32> {
    let fd = RawFd::try_from(fd).map_err(|_| libc::EBADF)?;
    // SAFETY: the caller got this descriptor from the kernel a moment ago and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Writes a text to a descriptor, whatever the rest of the process does with it.
pub fn say(fd: i32, text: &str) {
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        // SAFETY: the pointer and the length describe `rest`.
        let n = unsafe { libc::write(fd, rest.as_ptr().cast(), rest.len()) };
        match usize::try_from(n) {
            Ok(n) if n > 0 => rest = &rest[n..],
            _ if errno() == libc::EINTR => {}
            _ => return,
        }
    }
}

/// fork(2). The battery is single-threaded wherever it forks.
pub fn fork() -> Result<i32, i32> {
    // SAFETY: no other thread exists that could hold a lock of the allocator.
    let pid = unsafe { libc::fork() };
    if pid == -1 { Err(errno()) } else { Ok(pid) }
}

/// Leaves without running any exit handler.
pub fn leave(code: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Sends a signal.
pub fn kill(pid: i32, signal: i32) -> Result<i64, i32> {
    // SAFETY: kill has no memory arguments.
    check(unsafe { libc::kill(pid, signal) })
}

/// Waits for one child; `None` while it lives (only with WNOHANG).
pub fn wait(pid: i32, options: i32) -> Result<Option<(i32, i32)>, i32> {
    let mut status = 0;
    loop {
        // SAFETY: `status` is a valid place for the result.
        let r = unsafe { libc::waitpid(pid, &raw mut status, options) };
        match r {
            -1 if errno() == libc::EINTR => {}
            -1 => return Err(errno()),
            0 => return Ok(None),
            pid => return Ok(Some((pid, status))),
        }
    }
}

/// The signal that ended a process, from its wait status.
pub fn signal_of(status: i32) -> Option<i32> {
    libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status))
}

/// Runs `work` in a child and returns what it reported. The child makes no core file.
pub fn in_child(seconds: u64, work: impl FnOnce() -> Vec<u8>) -> End {
    let mut ends = [-1; 2];
    // SAFETY: `ends` has room for two descriptors.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } == -1 {
        return End::NoFork(errno());
    }
    let (Ok(read), Ok(write)) = (own(ends[0].into()), own(ends[1].into())) else {
        return End::NoFork(libc::EBADF);
    };
    match fork() {
        Err(e) => End::NoFork(e),
        Ok(0) => {
            drop(read);
            no_core();
            let bytes = work();
            let _ = io::Write::write_all(&mut std::fs::File::from(write), &bytes);
            leave(0)
        }
        Ok(pid) => {
            drop(write);
            collect(pid, &read, Instant::now() + Duration::from_secs(seconds))
        }
    }
}

/// A grandchild may keep the pipe open, so the end of the child counts and not the end of the pipe.
fn collect(pid: i32, read: &OwnedFd, deadline: Instant) -> End {
    // SAFETY: fcntl on an own descriptor with an integer argument.
    unsafe { libc::fcntl(read.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
    let mut said = Vec::new();
    loop {
        let mut poll = libc::pollfd { fd: read.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: `poll` is one valid entry.
        unsafe { libc::poll(&raw mut poll, 1, 20) };
        drain(read, &mut said);
        match wait(pid, libc::WNOHANG) {
            Ok(Some((_, status))) => {
                drain(read, &mut said);
                return signal_of(status).map_or(End::Said(said), End::Signal);
            }
            Ok(None) if Instant::now() > deadline => {
                let _ = kill(pid, libc::SIGKILL);
                let _ = wait(pid, 0);
                return End::Hung;
            }
            Ok(None) if poll.revents & libc::POLLHUP != 0 => std::thread::sleep(Duration::from_micros(200)),
            Ok(None) => {}
            Err(e) => return End::NoFork(e),
        }
    }
}

fn drain(read: &OwnedFd, said: &mut Vec<u8>) {
    let mut buffer = [0u8; 4096];
    loop {
        // SAFETY: the pointer and the length describe `buffer`.
        let n = unsafe { libc::read(read.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
        match usize::try_from(n) {
            Ok(n) if n > 0 => said.extend_from_slice(&buffer[..n]),
            _ => return,
        }
    }
}

/// Makes one attempt in a child, so that a fatal filter or a changed process state stays there.
pub fn attempt(work: impl FnOnce() -> Result<i64, i32>) -> Attempt {
    let end = in_child(10, || match work() {
        Ok(v) => [&[1][..], &v.to_le_bytes()].concat(),
        Err(e) => [&[0][..], &i64::from(e).to_le_bytes()].concat(),
    });
    match end {
        End::Said(bytes) => match <[u8; 8]>::try_from(bytes.get(1..).unwrap_or_default()) {
            Ok(value) if bytes[0] == 1 => Attempt::Did(i64::from_le_bytes(value)),
            Ok(value) => Attempt::Errno(i32::try_from(i64::from_le_bytes(value)).unwrap_or(0)),
            Err(_) => Attempt::Hung,
        },
        End::Signal(s) => Attempt::Signal(s),
        End::Hung => Attempt::Hung,
        End::NoFork(e) => Attempt::Errno(e),
    }
}

/// Counters that children share with their parent; the mapping lasts as long as the process.
pub fn shared() -> Result<&'static [AtomicU64; 8], i32> {
    let (read_write, anonymous) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
    // SAFETY: a fresh, zeroed mapping of one page, never unmapped, holds eight atomics at its aligned start.
    unsafe {
        let page = libc::mmap(std::ptr::null_mut(), 4096, read_write, anonymous, -1, 0);
        if page == libc::MAP_FAILED { Err(errno()) } else { Ok(&*page.cast::<[AtomicU64; 8]>()) }
    }
}

/// Forbids core files for this process.
pub fn no_core() {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: libc::RLIM_INFINITY };
    let mut now = none;
    // SAFETY: both structures are valid; the hard limit is left as it is.
    unsafe {
        libc::getrlimit(libc::RLIMIT_CORE, &raw mut now);
        now.rlim_cur = 0;
        libc::setrlimit(libc::RLIMIT_CORE, &raw const now);
    }
}

/// Device and inode of what a path leads to.
pub fn identity(path: impl AsRef<Path>) -> io::Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).map(|m| (m.dev(), m.ino()))
}

/// As `identity`, and the mount: the same directory reached by another mount is another place.
pub fn place(path: impl AsRef<Path>) -> io::Result<(u64, u64, u64)> {
    let (device, inode) = identity(&path)?;
    let path = cpath(path);
    let mut found = std::mem::MaybeUninit::<libc::statx>::zeroed();
    let at = [libc::AT_FDCWD as u64, path.as_ptr() as u64];
    call(libc::SYS_statx, &[at[0], at[1], 0, u64::from(libc::STATX_MNT_ID), found.as_mut_ptr() as u64])
        .map_err(io::Error::from_raw_os_error)?;
    // SAFETY: zeroes are a valid value of it, and the kernel has filled it in.
    Ok((device, inode, unsafe { found.assume_init() }.stx_mnt_id))
}

/// The file system type number of a path.
pub fn fs_type(path: impl AsRef<Path>) -> Option<i64> {
    let path = cpath(path);
    let mut buffer = std::mem::MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: the path is NUL-terminated and the buffer large enough; zeroes are a valid value of it.
    let (r, buffer) = unsafe { (libc::statfs(path.as_ptr(), buffer.as_mut_ptr()), buffer.assume_init()) };
    (r == 0).then_some(buffer.f_type)
}

/// Every process id that /proc lists.
pub fn pids() -> Vec<i32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|e| e.file_name().to_string_lossy().parse().ok()).collect()
}
