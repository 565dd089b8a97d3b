//! Namespaced, cgroup-limited sandboxes that are ready before the action arrives.
//!
//! A synchronous library: no async runtime is in its dependency tree, and it knows no digest and no protocol. It makes
//! sandboxes (user, mount, pid, ipc, uts, network and cgroup namespaces; cgroup limits; no capabilities; seccomp and
//! landlock), runs one action after the other in each, and resets them in between. In a ready sandbox the process that
//! becomes the next action already waits, in its cgroup, without privileges and under its filter, so that a run costs
//! little more than `execve`.
//!
//! ```text
//! Runtime ── template(spec) ──► Template = plan + view           once for each kind of sandbox
//!    │                              │
//!    └─ zygote ── clone3 ──► init (pid 1) ── clone3 ──► waiting process ── execve ──► the action
//!                              Sandbox::run, begin_reset, finish_reset        Pool, Lease
//! ```
//!
//! # Example
//!
//! [`Runtime::start`](runtime::Runtime::start) must come before the first thread, because it forks.
//!
//! ```standalone_crate
//! use fulgurite_sandbox::cgroup::Limits;
//! use fulgurite_sandbox::runtime::{Runtime, RuntimeOptions};
//! use fulgurite_sandbox::sandbox::{Action, Sandbox};
//! use fulgurite_sandbox::spec::SandboxSpec;
//! use std::os::fd::AsFd;
//! use std::time::Duration;
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let runtime = match Runtime::start(&RuntimeOptions::default()) {
//!         Ok(runtime) => runtime,
//!         // For instance in a container that forbids user namespaces.
//!         Err(error) => return Ok(eprintln!("SKIP sandbox-doctest: {error}")),
//!     };
//!     let template = runtime.template(&SandboxSpec::default())?;
//!     let mut sandbox = Sandbox::create(&runtime, &template)?;
//!
//!     let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
//!     let action = Action {
//!         arguments: &[c"sh".into(), c"-c".into(), c"exit $(id -u | wc -l)".into()],
//!         variables: &[c"PATH=/usr/bin:/bin".into()],
//!         directory: c"/tmp",
//!         stdin: null.as_fd(),
//!         stdout: null.as_fd(),
//!         stderr: null.as_fd(),
//!         work: None,
//!         limits: &Limits::default(),
//!         timeout: Some(Duration::from_secs(10)),
//!         kill_delay: Duration::ZERO,
//!         terminal: false,
//!         fail_at: 0,
//!     };
//!     for _ in 0..3 {
//!         let outcome = sandbox.run(&action);
//!         assert_eq!(outcome.end.to_string(), "exited with code 1");
//!         // Nothing of the last action is left for the next one: files, processes, shared memory.
//!         sandbox.begin_reset()?;
//!         sandbox.finish_reset()?;
//!     }
//!     sandbox.destroy(&runtime)?;
//!     runtime.stop()?;
//!     Ok(())
//! }
//! ```
//!
//! # What holds
//!
//! * A run returns when all is *quiet*: no process of the action is left, and none can come.
//! * A limit that was asked for and cannot be applied is an error, and nothing runs.
//! * What was really enforced is said by [`harden::Enforcement`]; what is missing on this host by [`host::Features`].
//! * Nothing outlives the process that started the [`runtime::Runtime`], however it ends, but empty cgroup directories,
//!   which the next start removes.
//! * `unsafe` stands only in `sys` and `init`.
pub mod action;
pub mod cgroup;
mod footprint;
pub mod harden;
mod hatch;
pub mod host;
pub mod hosted;
pub mod init;
pub mod layer;
pub mod outcome;
pub mod plan;
pub mod pool;
mod probe;
pub mod runtime;
pub mod sandbox;
pub mod seat;
pub mod spec;
pub mod sys;
pub mod testing;
mod trees;
mod verdict;
pub mod zygote;
