//! `fulgurite workers`: the persistent workers of a daemon, and their end.

use super::daemon::{default_socket, runtime, unreachable_daemon};
use crate::failure::{Failure, put};
use crate::remote::daemon::Daemon;
use clap::{Args, ValueHint};
use std::fmt::Write as _;
use std::path::PathBuf;

/// Options of `fulgurite workers`.
#[derive(Args, Clone, Debug)]
pub struct WorkersArgs {
    /// Socket of the daemon
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub daemon: Option<PathBuf>,
    /// Stop them all, those at work when they are done
    #[arg(long)]
    pub stop: bool,
}

/// `fulgurite workers`.
///
/// # Errors
/// When no daemon answers.
pub fn workers(args: &WorkersArgs) -> Result<u8, Failure> {
    let socket = args.daemon.clone().unwrap_or_else(default_socket);
    let runtime = runtime()?;
    if args.stop {
        let stopped = runtime.block_on(async { Daemon::connect(&socket).await?.stop_workers().await });
        let (workers, left) = stopped.map_err(unreachable_daemon)?;
        put(&format!("stopped          {}\nstill at work    {left}\n", workers.saturating_sub(left)))?;
        return Ok(0);
    }
    let workers = runtime.block_on(async { Daemon::connect(&socket).await?.workers().await });
    let mut lines = format!(
        "{:<8} {:<24} {:<9} {:>8} {:>10} {:>10}  {}\n",
        "worker", "mnemonic", "state", "requests", "memory", "cpu", "key"
    );
    for worker in workers.map_err(unreachable_daemon)? {
        let memory = format!("{} MiB", worker.memory_bytes >> 20);
        let cpu = worker.cpu.map_or_else(|| "-".to_owned(), |cpu| format!("{:.2} s", cpu.as_secs_f64()));
        let (number, phase, served) = (worker.number, worker.phase, worker.served);
        let mnemonic: String = worker.mnemonic.chars().filter(|one| !one.is_control()).take(24).collect();
        // Writing into a string cannot fail.
        let _ = writeln!(
            lines,
            "{number:<8} {mnemonic:<24} {phase:<9} {served:>8} {memory:>10} {cpu:>10}  {}",
            worker.key
        );
    }
    put(&lines)?;
    Ok(0)
}
