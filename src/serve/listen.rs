//! Places to listen at. A Unix socket belongs to one daemon at a time: a lock beside it says whose it is, so that a
//! file that a killed daemon left behind is replaced, and a living daemon's is not.

use super::metrics::ServeMetrics;
use super::options::Listen;
use super::socket::{Room, Socket};
use rustix::fd::OwnedFd;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, mpsc, watch};

/// Connections that the kernel keeps for us until we take them.
const BACKLOG: i32 = 512;

/// Why we cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address cannot be had.
    #[error("cannot listen at {address}: {why}")]
    Tcp {
        /// Which.
        address: SocketAddr,
        /// Why not.
        why: std::io::Error,
    },
    /// A living daemon has the socket.
    #[error("another daemon listens at {}", .0.display())]
    Taken(PathBuf),
    /// Something else has the name.
    #[error("cannot listen at {}: something that is no socket has this name", .0.display())]
    NoSocket(PathBuf),
    /// The socket cannot be made.
    #[error("cannot {what} {}: {errno}", path.display())]
    Unix {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        errno: Errno,
    },
}

/// A place that we listen at.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, #[expect(dead_code, reason = "dropped with it")] UnixPlace),
}

/// The file of a Unix socket, ours until it is dropped.
#[derive(Debug)]
pub(super) struct UnixPlace {
    path: PathBuf,
    _lock: OwnedFd,
}

impl Drop for UnixPlace {
    fn drop(&mut self) {
        // While the lock is held nobody else has put another there. The lock's file stays, since its name is the lock.
        let _ = rustix::fs::unlink(&self.path);
    }
}

impl Listener {
    pub(super) fn bind(listen: &Listen) -> Result<Listener, ListenError> {
        match listen {
            Listen::Tcp { address, .. } => {
                let failed = |why| ListenError::Tcp { address: *address, why };
                let listener = std::net::TcpListener::bind(address).map_err(failed)?;
                listener.set_nonblocking(true).map_err(failed)?;
                TcpListener::from_std(listener).map(Listener::Tcp).map_err(failed)
            }
            Listen::Unix { path, mode } => bind_unix(path, *mode),
        }
    }

    /// Where clients find it, if that is a TCP address.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        match self {
            Listener::Tcp(listener) => listener.local_addr().ok(),
            Listener::Unix(..) => None,
        }
    }
}

fn bind_unix(path: &Path, mode: u32) -> Result<Listener, ListenError> {
    let failed =
        |what: &'static str| move |errno: Errno| ListenError::Unix { what, path: path.to_owned(), errno };
    let lock = lock(path)?;
    match rustix::fs::lstat(path) {
        Ok(found) if rustix::fs::FileType::from_raw_mode(found.st_mode) != rustix::fs::FileType::Socket => {
            return Err(ListenError::NoSocket(path.to_owned()));
        }
        Ok(_) => replace_stale(path)?,
        Err(Errno::NOENT) => {}
        Err(errno) => return Err(failed("look at")(errno)),
    }
    let address = SocketAddrUnix::new(path).map_err(failed("use as the name of a socket"))?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .map_err(failed("make a socket for"))?;
    // The file has the socket's own mode at the moment of its making: there is no moment with more.
    let permissions = Mode::from_raw_mode(mode & 0o777);
    rustix::fs::fchmod(&socket, permissions).map_err(failed("set permissions of"))?;
    rustix::net::bind(&socket, &address).map_err(failed("listen at"))?;
    let place = UnixPlace { path: path.to_owned(), _lock: lock };
    // The umask may have taken some away.
    rustix::fs::chmod(path, permissions).map_err(failed("set permissions of"))?;
    rustix::net::listen(&socket, BACKLOG).map_err(failed("listen at"))?;
    let listener = UnixListener::from_std(std::os::unix::net::UnixListener::from(socket));
    let listener =
        listener.map_err(|error| failed("listen at")(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
    Ok(Listener::Unix(listener, place))
}

fn lock(path: &Path) -> Result<OwnedFd, ListenError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let name = PathBuf::from(name);
    let failed = |errno| ListenError::Unix { what: "open", path: name.clone(), errno };
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let lock = rustix::fs::open(&name, flags, Mode::from_raw_mode(0o600)).map_err(failed)?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(Errno::WOULDBLOCK) => Err(ListenError::Taken(path.to_owned())),
        Err(errno) => Err(failed(errno)),
    }
}

/// Removes the file of a socket at which nobody listens.
fn replace_stale(path: &Path) -> Result<(), ListenError> {
    match std::os::unix::net::UnixStream::connect(path) {
        // A daemon that knows nothing of our lock.
        Ok(_) => Err(ListenError::Taken(path.to_owned())),
        Err(_) => rustix::fs::unlink(path).map_err(|errno| ListenError::Unix {
            what: "replace",
            path: path.to_owned(),
            errno,
        }),
    }
}

/// What accepting needs beside the listener.
#[derive(Clone)]
pub(super) struct Door {
    /// Users that may come by Unix sockets.
    pub(super) uids: Arc<[u32]>,
    /// Room for connections, of all listeners together.
    pub(super) room: Arc<Semaphore>,
    pub(super) metrics: Arc<ServeMetrics>,
    /// How long a connection may be without a call.
    pub(super) patience: Duration,
    /// True once nobody shall come any more.
    pub(super) shut: watch::Receiver<bool>,
}

/// Accepts connections until the door is shut. Gives back nothing before those who came are gone: the transport would
/// take the end of its stream of connections for an order to close them.
pub(super) async fn accept(listener: Listener, door: Door, accepted: mpsc::Sender<std::io::Result<Socket>>) {
    let mut shut = door.shut.clone();
    tokio::select! {
        () = accept_all(&listener, &door, &accepted) => {}
        // An error is the end as well.
        _ = shut.wait_for(|shut| *shut) => {}
    }
    drop(listener);
    accepted.closed().await;
}

async fn accept_all(listener: &Listener, door: &Door, accepted: &mpsc::Sender<std::io::Result<Socket>>) {
    loop {
        let socket = tokio::select! {
            () = accepted.closed() => return,
            socket = accept_one(listener, &door.uids) => socket,
        };
        let socket = match socket {
            Ok(socket) => socket,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                // Without descriptors or memory trying at once again only burns time.
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        // What has no room is closed at once: its client learns that, instead of waiting for nobody.
        let (Some(socket), Ok(permit)) = (socket, door.room.clone().try_acquire_owned()) else {
            door.metrics.connections_refused.count();
            continue;
        };
        door.metrics.connections.count();
        let room = Room { permit, patience: door.patience };
        let socket = match socket {
            Accepted::Tcp(stream, address) => Socket::tcp(stream, address, room),
            Accepted::Unix(stream, uid) => Ok(Socket::unix(stream, uid, room)),
        };
        if let Ok(socket) = socket
            && accepted.send(Ok(socket)).await.is_err()
        {
            return;
        }
    }
}

/// After a failure to accept.
pub(super) const PAUSE: Duration = Duration::from_millis(100);

enum Accepted {
    Tcp(tokio::net::TcpStream, SocketAddr),
    Unix(tokio::net::UnixStream, u32),
}

/// The next connection; `None` if its user may not come.
async fn accept_one(listener: &Listener, uids: &[u32]) -> std::io::Result<Option<Accepted>> {
    match listener {
        Listener::Tcp(listener) => {
            let (stream, address) = listener.accept().await?;
            Ok(Some(Accepted::Tcp(stream, address)))
        }
        Listener::Unix(listener, _) => {
            let (stream, _) = listener.accept().await?;
            let uid = stream.peer_cred()?.uid();
            Ok(may_come(uid, uids).then_some(Accepted::Unix(stream, uid)))
        }
    }
}

/// Root, the daemon's own user, and those that are named.
fn may_come(uid: u32, uids: &[u32]) -> bool {
    uid == 0 || uid == rustix::process::getuid().as_raw() || uids.contains(&uid)
}

#[cfg(test)]
mod tests {
    use super::may_come;

    #[test]
    fn other_users_come_only_if_named() {
        let own = rustix::process::getuid().as_raw();
        assert!(may_come(0, &[]) && may_come(own, &[]) && may_come(54321, &[54321]));
        assert!(!may_come(54321, &[]) && !may_come(54321, &[54322]));
    }
}
