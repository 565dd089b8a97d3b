//! `[worker]`: persistent workers.

use super::value::{Bytes, IpcChoice, OnCrash, Texts, WorkerCache, WorkerView};
use std::time::Duration;

/// How persistent workers are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worker {
    /// Whether actions that ask for a worker get one.
    pub enabled: bool,
    /// Live workers in all.
    pub workers_max: u32,
    /// Of one key.
    pub per_key_max: u32,
    /// Of one mnemonic.
    pub per_mnemonic_max: u32,
    /// Requests that a multiplex worker has at a time.
    pub multiplex_slots: u32,
    /// Workers that start at a time.
    pub starting_max: u32,
    /// To serve a socket.
    pub connect_max: Duration,
    /// Of all workers together.
    pub memory_max: Option<Bytes>,
    /// Without work, before it is frozen.
    pub freeze_after: Duration,
    /// Without work, before it is stopped.
    pub idle_max: Duration,
    /// To answer a cancel.
    pub cancel_grace: Duration,
    /// To finish what nobody wants.
    pub finish_max: Duration,
    /// What becomes of a request whose worker crashed.
    pub on_crash: OnCrash,
    /// Which results are cached.
    pub cache: WorkerCache,
    /// What workers see of their requests.
    pub view: WorkerView,
    /// By what workers are talked to.
    pub ipc: IpcChoice,
    /// `Mnemonic=flag`: more arguments for its workers.
    pub extra_flags: Texts,
    /// Exactly one flag file, at the end.
    pub strict_flag_files: bool,
    /// How long workers outlive the build that they were started for; as long as others if this is not said.
    pub quit_after_build: Option<Duration>,
}

impl Default for Worker {
    fn default() -> Self {
        Worker {
            enabled: true,
            workers_max: 64,
            per_key_max: 4,
            per_mnemonic_max: 16,
            multiplex_slots: 8,
            starting_max: 4,
            connect_max: Duration::from_secs(60),
            memory_max: None,
            freeze_after: Duration::from_secs(5),
            idle_max: Duration::from_secs(15 * 60),
            cancel_grace: Duration::from_secs(5),
            finish_max: Duration::from_secs(30),
            on_crash: OnCrash::Retry,
            cache: WorkerCache::All,
            view: WorkerView::Own,
            ipc: IpcChoice::Auto,
            extra_flags: Texts(Vec::new()),
            strict_flag_files: false,
            quit_after_build: None,
        }
    }
}
