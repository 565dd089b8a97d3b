//! From a socket in a directory to a connection.
//!
//! ```text
//!   try ─ connected ─────────────────────────────► Channel
//!    ▲ └─ failed ─► pause 50, 100, 200, 400, 500, … ms ─┐
//!    └──────────────────────────────────────────────────┘   until the limit, or until the worker has ended
//! ```
//! The directory is the worker's to write to. A name in it is opened without following a link and connected to through
//! that descriptor: a link would make the executor talk to any socket of the machine, with its own rights. So the
//! length of the path does not matter either.

use super::error::{Buck2Error, shown};
use crate::worker::limits::{BUCK2_HEADER_BYTES_MAX, BUCK2_RETRY_PAUSE_MAX, BUCK2_RETRY_PAUSE_MIN};
use hyper_util::rt::TokioIo;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use std::ffi::OsStr;
use std::fmt::Write;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

/// Where a worker serves: a name in a directory that is open.
#[derive(Clone, Debug)]
pub struct Socket(Arc<Place>);

#[derive(Debug)]
struct Place {
    directory: OwnedFd,
    name: std::ffi::OsString,
}

impl Socket {
    /// The socket `name`, which need not exist yet, in `directory`.
    #[must_use]
    pub fn new(directory: OwnedFd, name: &OsStr) -> Self {
        Socket(Arc::new(Place { directory, name: name.to_owned() }))
    }

    /// The socket at a path whose directory exists.
    ///
    /// # Errors
    /// When the directory can't be opened or the path has no last name.
    pub fn at(path: &Path) -> io::Result<Self> {
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path names no socket"));
        };
        Ok(Self::new(File::open(directory)?.into(), name))
    }

    async fn connect(&self) -> io::Result<UnixStream> {
        let place = &self.0;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let socket = rustix::fs::openat2(&place.directory, &place.name, flags, Mode::empty(), beneath)?;
        if FileType::from_raw_mode(rustix::fs::fstat(&socket)?.st_mode) != FileType::Socket {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no socket"));
        }
        UnixStream::connect(format!("/proc/self/fd/{}", socket.as_raw_fd())).await
    }
}

/// Connects as soon as the worker serves. `ended` is ready, with how it ended, when the worker has; `within` is the
/// limit for all tries together.
pub(super) async fn connect(
    socket: &Socket,
    within: Duration,
    ended: impl Future<Output = String>,
) -> Result<Channel, Buck2Error> {
    let mut last = "it was not tried".to_owned();
    let trying = async {
        for tries in 0.. {
            match attempt(socket).await {
                Ok(channel) => return channel,
                Err(why) => last = why,
            }
            tokio::time::sleep(pause(tries)).await;
        }
        // There is no last number of tries; what ends this is the limit.
        std::future::pending().await
    };
    tokio::select! {
        biased;
        how = ended => return Err(Buck2Error::ExitedBeforeConnecting { how }),
        connected = tokio::time::timeout(within, trying) => if let Ok(channel) = connected { return Ok(channel) },
    }
    Err(Buck2Error::NotConnected { within, why: last })
}

async fn attempt(socket: &Socket) -> Result<Channel, String> {
    // The address is not used, but there has to be one.
    let endpoint = Endpoint::from_static("http://worker.invalid")
        .http2_max_header_list_size(BUCK2_HEADER_BYTES_MAX)
        // Lists of tests are large, and the way is short.
        .initial_stream_window_size(Some(1 << 20))
        .initial_connection_window_size(Some(4 << 20));
    let socket = socket.clone();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { socket.connect().await.map(TokioIo::new) }
    });
    endpoint.connect_with_connector(connector).await.map_err(|error| shown(&chain(&error)))
}

/// An error of the transport says little; what caused it does.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Writing to a string can't fail.
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

/// The pause after so many failed tries before this one.
pub(super) fn pause(tries: u32) -> Duration {
    BUCK2_RETRY_PAUSE_MIN.saturating_mul(1 << tries.min(16)).min(BUCK2_RETRY_PAUSE_MAX)
}
