//! What actions run inside: small attempts, each with one line of answer.
//!
//! The test binary itself is mounted at [`crate::fixture::PROBE`]. Each attempt bounds itself, so that a
//! missing limit fails a test and not the machine.
#![allow(unsafe_code)]
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::process::ExitCode;

/// Key of the SysV segment that is left behind.
const SEGMENT_KEY: libc::key_t = 0x4655_4c47;
/// Name of the message queue that is left behind.
const QUEUE: &std::ffi::CStr = c"/fulgurite-it";
/// Name of the abstract socket that is left behind.
const SOCKET: &[u8] = b"fulgurite-it";
/// The port that is left behind.
const PORT: u16 = 47_613;
/// How long the close of a connection waits for the other side, at most.
const LINGER: std::time::Duration = std::time::Duration::from_secs(30);
/// Children of a fork bomb, at most.
const BOMB_CHILDREN_MAX: usize = 4000;

/// Runs one attempt and prints its answer.
pub fn main(arguments: &[String]) -> ExitCode {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if arguments == ["work"] {
        return crate::work::main();
    }
    let number = |text: &str| text.parse::<usize>().unwrap_or(0);
    let answer = match arguments.as_slice() {
        ["descriptors"] => descriptors(),
        ["leave", "segment"] => segment(libc::IPC_CREAT | libc::IPC_EXCL | 0o666),
        ["find", "segment"] => segment(0),
        ["leave", "queue"] => queue(libc::O_CREAT | libc::O_EXCL | libc::O_RDWR),
        ["find", "queue"] => queue(libc::O_RDWR),
        ["leave", "socket"] => leave_socket(),
        ["find", "socket"] => find_socket(),
        ["leave", "port"] => leave_port(),
        ["find", "port"] => find_port(),
        ["daemons", count] => daemons(number(count), true),
        ["orphans", count] => daemons(number(count), false),
        ["bomb"] => bomb(),
        ["allocate", mebibytes] => allocate(number(mebibytes)),
        ["burn", milliseconds] => burn(number(milliseconds)),
        ["map", path] => write_through_a_mapping(path),
        ["identity"] => identity(),
        _ => Err(std::io::Error::other(format!("no such attempt: {arguments:?}"))),
    };
    match answer {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("failed: {error}");
            ExitCode::from(3)
        }
    }
}

type Answer = std::io::Result<String>;

fn descriptors() -> Answer {
    let mut numbers: Vec<i32> = std::fs::read_dir("/proc/self/fd")?
        .flatten()
        .filter(|entry| std::fs::read_link(entry.path()).is_ok_and(|to| !to.ends_with("fd")))
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    numbers.sort_unstable();
    Ok(numbers.iter().map(i32::to_string).collect::<Vec<_>>().join(" "))
}

fn found(result: i64) -> Answer {
    let error = std::io::Error::last_os_error();
    match (result, error.raw_os_error()) {
        (0.., _) => Ok("present".to_owned()),
        (_, Some(libc::ENOENT)) => Ok("absent".to_owned()),
        (_, Some(libc::EMFILE)) => Ok("refused".to_owned()),
        _ => Err(error),
    }
}

fn segment(flags: i32) -> Answer {
    // SAFETY: shmget(2) takes integers.
    found(i64::from(unsafe { libc::shmget(SEGMENT_KEY, 4096, flags) }))
}

fn queue(flags: i32) -> Answer {
    // SAFETY: the name is NUL-terminated; a null attribute pointer asks for the default.
    let queue =
        unsafe { libc::mq_open(QUEUE.as_ptr(), flags, 0o666, core::ptr::null_mut::<libc::mq_attr>()) };
    found(i64::from(queue))
}

fn leave_socket() -> Answer {
    let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(SOCKET)?)?;
    if !in_the_background()? {
        let _ = listener.accept();
        std::process::exit(0);
    }
    find_socket()
}

fn find_socket() -> Answer {
    match UnixStream::connect_addr(&SocketAddr::from_abstract_name(SOCKET)?) {
        Ok(_) => Ok("present".to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Ok("absent".to_owned()),
        Err(error) => Err(error),
    }
}

/// Leaves a connection behind that waits (TIME_WAIT), and a listener in a process that goes on.
fn leave_port() -> Answer {
    let listener = TcpListener::bind(("127.0.0.1", PORT))?;
    let mut client = TcpStream::connect(("127.0.0.1", PORT))?;
    let (server, _) = listener.accept()?;
    // The side that closes first is the one that waits. Under load the kernel delivers packets late, even those of
    // loopback: if the other side closed before it knows of the first, both would wait, and if this went on before the
    // last answer is in, both would still be listed.
    drop(server);
    std::io::Read::read_to_end(&mut client, &mut Vec::new())?;
    rustix::net::sockopt::set_socket_linger(&client, Some(LINGER))?;
    drop(client);
    if !in_the_background()? {
        let _ = listener.accept();
        std::process::exit(0);
    }
    find_port()
}

/// Lines of the kernel's table of connections, and whether the port can be had without asking for its reuse.
fn find_port() -> Answer {
    let lines = std::fs::read_to_string("/proc/net/tcp")?.lines().count() - 1;
    // SAFETY: socket(2) and bind(2) with a live address of the size that is given; the descriptor is closed
    // at exit.
    let bound = unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0);
        let mut address: libc::sockaddr_in = core::mem::zeroed();
        address.sin_family = libc::AF_INET as libc::sa_family_t;
        address.sin_port = PORT.to_be();
        address.sin_addr.s_addr = u32::from_ne_bytes([127, 0, 0, 1]);
        libc::bind(socket, (&raw const address).cast(), size_of_val(&address) as u32)
    };
    let port = if bound == 0 { "free" } else { "taken" };
    Ok(format!("{lines} connections, port {port}"))
}

/// Forks; `true` in the parent.
fn in_the_background() -> std::io::Result<bool> {
    // SAFETY: this program has one thread.
    match unsafe { libc::fork() } {
        -1 => Err(std::io::Error::last_os_error()),
        0 => Ok(false),
        _ => Ok(true),
    }
}

/// Starts daemons that have a session of their own and ignore every signal that can be ignored.
/// What was between them and this process has ended; it is reaped, or left to whoever comes after.
fn daemons(count: usize, reap: bool) -> Answer {
    let (mut reader, mut writer) = std::io::pipe()?;
    for _ in 0..count {
        if in_the_background()? {
            continue;
        }
        // SAFETY: plain system calls on integers, in a process with one thread.
        unsafe {
            libc::setsid();
            for signal in 1..65 {
                libc::signal(signal, libc::SIG_IGN);
            }
        }
        if in_the_background()? {
            std::process::exit(0);
        }
        writer.write_all(b"x")?;
        loop {
            // SAFETY: pause(2) takes nothing.
            unsafe { libc::pause() };
        }
    }
    for _ in 0..count {
        std::io::Read::read_exact(&mut reader, &mut [0])?;
    }
    for child in children()? {
        let flags = libc::WEXITED | if reap { 0 } else { libc::WNOWAIT };
        // SAFETY: the out-pointer is a live, zeroed record, for which zero is a valid value.
        let waited = unsafe {
            let mut facts: libc::siginfo_t = core::mem::zeroed();
            libc::waitid(libc::P_PID, child, &raw mut facts, flags)
        };
        if waited != 0 {
            return Err(std::io::Error::last_os_error());
        }
    }
    Ok(format!("{count} daemons"))
}

/// The children of this process.
fn children() -> std::io::Result<Vec<libc::id_t>> {
    let own = std::process::id();
    let text = std::fs::read_to_string(format!("/proc/{own}/task/{own}/children"))?;
    Ok(text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect())
}

/// Forks as fast as it can, and so do the children, until the limit says no or the bomb is large enough.
fn bomb() -> Answer {
    let started = std::time::Instant::now();
    let mut children = 0;
    while children < BOMB_CHILDREN_MAX && started.elapsed().as_secs() < 20 {
        match in_the_background() {
            Ok(true) => children += 1,
            Ok(false) => {}
            Err(_) => std::thread::yield_now(),
        }
    }
    Ok("the bomb was not stopped".to_owned())
}

fn allocate(mebibytes: usize) -> Answer {
    let mut memory = vec![0u8; mebibytes << 20];
    for page in memory.chunks_mut(4096) {
        page[0] = 1;
    }
    let sum: usize = memory.iter().step_by(4096).map(|byte| usize::from(*byte)).sum();
    Ok(format!("{sum} pages"))
}

/// Uses this much CPU time, as the kernel counts it.
fn burn(milliseconds: usize) -> Answer {
    let used = || {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        time.tv_sec as usize * 1000 + time.tv_nsec as usize / 1_000_000
    };
    let mut value = 1u64;
    while used() < milliseconds {
        for step in 0..10_000u64 {
            value = std::hint::black_box(value.wrapping_mul(31).wrapping_add(step));
        }
    }
    Ok(format!("{} ms", used()))
}

fn write_through_a_mapping(path: &str) -> Answer {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path)?;
    let protection = rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE;
    let shared = rustix::mm::MapFlags::SHARED;
    // SAFETY: a new mapping of a file that is not empty; only its first byte is written.
    unsafe {
        let address = rustix::mm::mmap(core::ptr::null_mut(), 4096, protection, shared, &file, 0)?;
        *address.cast::<u8>() = b'M';
        rustix::mm::munmap(address, 4096)?;
    }
    Ok("written".to_owned())
}

fn identity() -> Answer {
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    // SAFETY: umask(2) takes an integer.
    let mask = unsafe { libc::umask(0) };
    let directory = std::env::current_dir()?;
    let pid = std::process::id();
    Ok(format!("uid {uid} gid {gid} umask {mask:04o} in {} pid {pid}", directory.display()))
}
