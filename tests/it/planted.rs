//! What the harness plants on the host for hostile actions to find, and whether they found it.
//!
//! Files in directories that everybody can enter, listening sockets of four kinds, a System V segment and a message
//! queue: an attack that has nothing to find proves nothing.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fmt::Write;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::PathBuf;

use crate::scene::{MARK, Scene, Who};

/// In both canary files. The parts are joined at run time, so that no source and no program has the whole.
fn canary_text() -> String {
    ["canary", "5e7d1f", "of", "the", "host\n"].join("-")
}

/// Separates the elements of a list.
pub const UNIT: char = '\u{1f}';

/// Everything planted; taken away when it is dropped.
pub struct Planted {
    /// A file for everybody, and one for the caller alone, in different directories.
    canaries: [(PathBuf, tempfile::TempDir); 2],
    abstract_name: String,
    abstract_listener: UnixListener,
    path_listener: (PathBuf, UnixListener),
    tcp4: TcpListener,
    tcp6: Option<TcpListener>,
    segment: Segment,
    queue: Queue,
}

/// A System V segment of the host.
struct Segment {
    key: i32,
    id: i32,
}

/// A POSIX message queue of the host.
struct Queue {
    name: String,
    descriptor: i32,
}

impl Segment {
    fn new() -> Segment {
        let key = i32::from_ne_bytes(rustix_random());
        // SAFETY: shmget takes numbers only.
        let id = unsafe { libc::shmget(key, 4096, libc::IPC_CREAT | libc::IPC_EXCL | 0o666) };
        assert!(id >= 0, "shmget: {}", std::io::Error::last_os_error());
        Segment { key, id }
    }

    /// Whether anybody has ever attached it.
    fn attached(&self) -> bool {
        // SAFETY: shmid_ds is plain data, for which zeros are a value.
        let mut state: libc::shmid_ds = unsafe { std::mem::zeroed() };
        // SAFETY: the kernel writes one shmid_ds to the address, which is that of a live variable of this type.
        let answer = unsafe { libc::shmctl(self.id, libc::IPC_STAT, &raw mut state) };
        assert_eq!(answer, 0, "the segment is gone: {}", std::io::Error::last_os_error());
        state.shm_atime != 0 || state.shm_nattch != 0
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        // SAFETY: IPC_RMID ignores the address.
        unsafe { libc::shmctl(self.id, libc::IPC_RMID, std::ptr::null_mut()) };
    }
}

impl Queue {
    fn new(mark: &str) -> Queue {
        let name = format!("/{mark}");
        let text = CString::new(name.as_str()).unwrap();
        let flags = libc::O_CREAT | libc::O_EXCL | libc::O_RDWR | libc::O_CLOEXEC;
        // SAFETY: the name ends with NUL and lives as long as the call; without attributes the defaults are taken.
        let descriptor =
            unsafe { libc::mq_open(text.as_ptr(), flags, 0o666, std::ptr::null_mut::<libc::mq_attr>()) };
        assert!(descriptor >= 0, "mq_open: {}", std::io::Error::last_os_error());
        Queue { name, descriptor }
    }

    fn messages(&self) -> i64 {
        // SAFETY: mq_attr is plain data, for which zeros are a value.
        let mut state: libc::mq_attr = unsafe { std::mem::zeroed() };
        // SAFETY: the descriptor is ours, and the address is that of a live mq_attr.
        let answer = unsafe { libc::mq_getattr(self.descriptor, &raw mut state) };
        assert_eq!(answer, 0, "the queue is gone: {}", std::io::Error::last_os_error());
        state.mq_curmsgs
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        let text = CString::new(self.name.as_str()).unwrap();
        // SAFETY: the descriptor is ours and is closed once; the name ends with NUL and lives as long as the call.
        unsafe {
            libc::mq_close(self.descriptor);
            libc::mq_unlink(text.as_ptr());
        }
    }
}

/// Four bytes that no other test has.
fn rustix_random() -> [u8; 4] {
    let mut bytes = [0; 4];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).unwrap();
    bytes
}

impl Planted {
    /// Plants everything.
    pub fn new(scene: &Scene) -> Planted {
        let canary = |mode: u32| {
            let dir = tempfile::Builder::new().prefix("fulgurite-canary-").tempdir().unwrap();
            std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
            let file = dir.path().join("canary");
            std::fs::write(&file, canary_text()).unwrap();
            std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
            scene.own(&file);
            (file, dir)
        };
        let canaries = [canary(0o644), canary(0o600)];
        let abstract_name = format!("fulgurite-{}", scene.mark);
        let address = SocketAddr::from_abstract_name(&abstract_name).unwrap();
        let path = canaries[0].1.path().join("socket");
        let path_listener = UnixListener::bind(&path).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o777)).unwrap();
        Planted {
            abstract_listener: UnixListener::bind_addr(&address).unwrap(),
            abstract_name,
            path_listener: (path, path_listener),
            tcp4: TcpListener::bind("127.0.0.1:0").unwrap(),
            tcp6: TcpListener::bind("[::1]:0").ok(),
            segment: Segment::new(),
            queue: Queue::new(&scene.mark),
            canaries,
        }
    }

    /// The facts, but for the pid of the daemon, which is not known before it runs.
    pub fn facts(&self, scene: &Scene, more: &[(&str, String)]) -> String {
        let mut text = String::new();
        let mut put = |key: &str, value: &str| writeln!(text, "{key}={value}").unwrap();
        put("canary_path", self.canaries[0].0.to_str().unwrap());
        put("canary_text", canary_text().trim_end());
        put("abstract_socket", &self.abstract_name);
        put("path_socket", self.path_listener.0.to_str().unwrap());
        put("tcp4_port", &self.tcp4.local_addr().unwrap().port().to_string());
        if let Some(tcp6) = &self.tcp6 {
            put("tcp6_port", &tcp6.local_addr().unwrap().port().to_string());
        }
        put("sysv_shm_key", &format!("{:#x}", self.segment.key.cast_unsigned()));
        put("mqueue_name", &self.queue.name);
        for kind in ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"] {
            let link = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
            put(&format!("host_ns_{kind}"), link.to_str().unwrap());
        }
        let kernel = |name: &str| std::fs::read_to_string(format!("/proc/sys/kernel/{name}")).unwrap();
        put("hostname", "fulgurite");
        put("host_hostname", kernel("hostname").trim_end());
        put("host_domainname", kernel("domainname").trim_end());
        put("inside_uid", "1000");
        if scene.who == Who::User {
            put("outer_uid_of_zero", &scene.uid().to_string());
            put("outer_gid_of_zero", &scene.uid().to_string());
        }
        let mark = format!("{MARK}={}", scene.mark);
        let environment = ["PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/tmp", "TMPDIR=/tmp", &mark];
        put("expected_env", &environment.join(&UNIT.to_string()));
        for (key, value) in more {
            put(key, value);
        }
        text
    }

    /// Fails if anybody touched or reached what is planted.
    pub fn untouched(&self) {
        for (file, dir) in &self.canaries {
            assert_eq!(std::fs::read_to_string(file).unwrap(), canary_text());
            let meta = std::fs::metadata(file).unwrap();
            assert!(matches!(meta.mode() & 0o7777, 0o644 | 0o600) && meta.nlink() == 1, "{meta:?}");
            let names = std::fs::read_dir(dir.path()).unwrap().flatten().map(|entry| entry.file_name());
            assert!(names.into_iter().all(|name| name == "canary" || name == "socket"));
        }
        let silent = |answer: std::io::Error| assert_eq!(answer.kind(), std::io::ErrorKind::WouldBlock);
        for listener in [&self.abstract_listener, &self.path_listener.1] {
            listener.set_nonblocking(true).unwrap();
            silent(listener.accept().unwrap_err());
        }
        for listener in [Some(&self.tcp4), self.tcp6.as_ref()].into_iter().flatten() {
            listener.set_nonblocking(true).unwrap();
            silent(listener.accept().unwrap_err());
        }
        assert!(!self.segment.attached(), "somebody attached the segment");
        assert_eq!(self.queue.messages(), 0);
    }
}
