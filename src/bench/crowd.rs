//! Clients that keep a daemon busy while another one is measured.
//!
//! Each has a connection and a build of its own, and sends one action after the other, each with a new input root. They
//! are as cheap as they can be, since clients would be on other machines: of a root only one name is encoded anew, and
//! their thread gives way to the daemon, its actions, and the client that is measured.
use super::error::BenchError;
use super::prepared::{FUNCTION, Others, Prepared, RootState, script};
use super::reapi::check;
use crate::remote::Remote;
use crate::stage::root::{LowPriority, priority};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use tokio::task::JoinSet;

/// Numbers that one client may use.
const NUMBERS_EACH: u64 = 1 << 32;

/// Running clients. Stop them by [`Crowd::stop`].
#[derive(Debug)]
pub struct Crowd {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    thread: JoinHandle<Result<(), BenchError>>,
    next: u64,
}

impl Crowd {
    /// Starts `clients`, whose actions have `files` input files and numbers from `first`.
    ///
    /// # Errors
    /// When their thread cannot be started.
    pub fn start(address: &str, clients: usize, files: usize, first: u64) -> Result<Crowd, BenchError> {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (address, stopped, count) = (address.to_owned(), stop.clone(), done.clone());
        let work = move || {
            let _low = LowPriority::enter(priority::STAGING);
            let tokio = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(BenchError::file("start clients"))?;
            tokio.block_on(async {
                let mut running = JoinSet::new();
                let others = Arc::new(Others::new(files, &script(0)));
                for client in 0..clients as u64 {
                    let (stopped, count) = (stopped.clone(), count.clone());
                    let first = first + client * NUMBERS_EACH;
                    running.spawn(one(address.clone(), others.clone(), first, stopped, count));
                }
                while let Some(ended) = running.join_next().await {
                    ended.map_err(|error| BenchError::Server { why: error.to_string() })??;
                }
                Ok(())
            })
        };
        let thread = std::thread::Builder::new().name("crowd".to_owned()).spawn(work);
        let thread = thread.map_err(BenchError::file("start clients"))?;
        Ok(Crowd { stop, done, thread, next: first + clients as u64 * NUMBERS_EACH })
    }

    /// The first number that none of them uses.
    #[must_use]
    pub fn next_number(&self) -> u64 {
        self.next
    }

    /// Ends them, once each has its answer.
    ///
    /// # Errors
    /// What went wrong with any of their actions, or that none was done.
    pub fn stop(self) -> Result<(), BenchError> {
        self.stop.store(true, Ordering::Release);
        let ended = self.thread.join();
        ended.map_err(|_| BenchError::Server { why: "a client panicked".to_owned() })??;
        match self.done.load(Ordering::Acquire) {
            0 => Err(BenchError::Server { why: "the crowd did nothing".to_owned() }),
            _ => Ok(()),
        }
    }
}

async fn one(
    address: String,
    others: Arc<Others>,
    first: u64,
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
) -> Result<(), BenchError> {
    let remote = Remote::connect(&address, "", FUNCTION).await?.of_invocation(&format!("crowd-{first}"));
    for number in first.. {
        if stop.load(Ordering::Acquire) {
            break;
        }
        let job = Prepared::among(number, &others, RootState::New);
        if number == first {
            remote.upload(job.shared).await?;
        }
        remote.upload(job.blobs).await?;
        check(remote.execute(&job.action, true).await?, Some(&job.output))?;
        done.fetch_add(1, Ordering::AcqRel);
    }
    Ok(())
}
