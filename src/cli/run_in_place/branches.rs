//! The branches of a race whose local one runs straight in the exec root.
//!
//! ```text
//!   local    announce ─► sandbox in the exec root ─► quiet ─┬ a result: it stands, in place
//!                                                           └ none, or not wanted: clear ─► Cleared
//!   remote   cache, Execute, fetch ─► laid out beside the tree, all but renamed
//!   publish  local: over              remote: Cleared (or local never began) ─► over ─► renames
//! ```
//! Invariants: nothing is published by the remote side while the local one may write, or while anything that it left is
//! there: [`commit::publish_cleared`] asks for the proof; the announcement ends before the first rename, so that no
//! recovery takes what was published for what the command left.

use crate::action::ActionResult;
use crate::cas::Cas;
use crate::cli::run::{check_standalone_outputs, code_of};
use crate::cli::run_args::{RunArgs, RunSettings};
use crate::commit::{self, Announced, Claim, Cleared, Journal, PublishError, Published, Side};
use crate::exec::view::{Strategy, ViewSpec};
use crate::exec::{Executed, LocalAction, Quiet, execute};
use crate::race::branch::{BranchEnd, Cancel, Desk, Ended, LocalBranch, Product, RemoteBranch};
use crate::race::step::CacheAnswer;
use crate::remote::{Cluster, ClusterError, RemoteEnd, RemoteJob, RemoteWatch, Stage};
use crate::serve::{OwnAction, ReadyOutputs};
use crate::stage::Owner;
use fulgurite_sandbox::outcome::End;
use fulgurite_sandbox::runtime::Runtime;
use fulgurite_sandbox::sandbox::Sandbox;
use rustix::fd::{AsFd, OwnedFd};
use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// How often the announcement is renewed; [`commit::limits::BEAT_GRACE`] is ten times as long.
const BEAT_EACH: Duration = Duration::from_secs(1);

/// What both branches and the end of the race share.
pub(super) struct Scene {
    pub(super) args: RunArgs,
    pub(super) settings: RunSettings,
    pub(super) runtime: Arc<Runtime>,
    pub(super) action: OwnAction,
    pub(super) owner: Option<Owner>,
    pub(super) journal: Journal,
    /// What the command reads, and what it prints until it is known whether that counts.
    pub(super) nothing: OwnedFd,
    pub(super) printed: [File; 2],
    pub(super) began: AtomicBool,
    pub(super) state: Mutex<LocalState>,
}

/// How far the local command's traces have gone.
#[derive(Debug, Default)]
pub(super) struct LocalState {
    announced: Option<Announced>,
    cleared: Option<Cleared>,
    /// Why what it left could not be removed.
    pub(super) stuck: Option<String>,
}

/// A branch's result.
pub(super) enum Made {
    /// The outputs are in place.
    Here { scene: Arc<Scene>, quiet: Quiet, code: u8, line: Option<String> },
    /// They lie beside the tree, if the action succeeded or they are wanted all the same.
    There { result: Box<ActionResult>, ready: Option<Box<ReadyOutputs>> },
}

/// How a run is told to its caller.
pub(super) struct Told {
    pub(super) side: Side,
    pub(super) code: u8,
    pub(super) line: Option<String>,
    pub(super) result: Option<Box<ActionResult>>,
    pub(super) published: Published,
}

impl Scene {
    fn state(&self) -> MutexGuard<'_, LocalState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the command left goes.
    pub(super) fn clear(&self, quiet: Quiet) {
        let cleared = commit::clear(quiet, self.action.root(), self.action.outputs());
        let mut state = self.state();
        match cleared {
            Ok(cleared) => state.cleared = Some(cleared),
            Err(error) => state.stuck = Some(error.to_string()),
        }
    }

    /// No recovery is to look after the command any more.
    pub(super) fn over(&self) -> Result<(), PublishError> {
        let announced = self.state().announced.take();
        announced.map_or(Ok(()), Announced::over)
    }

    /// Nobody has won. What the local command left is gone, or stays announced for the next start.
    pub(super) fn settle(&self) {
        let mut state = self.state();
        if state.cleared.is_some() {
            let announced = state.announced.take();
            drop(state);
            // What stays written is looked at by the next start, which finds nothing.
            let _ = announced.map(Announced::over);
        }
    }

    fn prove(&self) -> Option<Cleared> {
        self.state().cleared.take()
    }

    /// Makes a result visible; called once, with the claim.
    pub(super) fn publish(&self, claim: Claim, made: Made) -> Result<Told, String> {
        let failed = |error: PublishError| error.to_string();
        let side = claim.side();
        match made {
            Made::Here { code, line, .. } => {
                self.over().map_err(failed)?;
                claim.settle();
                Ok(Told { side, code, line, result: None, published: Published::default() })
            }
            Made::There { result, ready } => {
                let proof = self.prove();
                if proof.is_none() && self.began.load(Ordering::Acquire) {
                    let why = self.state().stuck.take();
                    if let Some(ready) = ready {
                        ready.discard();
                    }
                    return Err(why.unwrap_or_else(|| PublishError::NotQuiet.to_string()));
                }
                let over = self.over();
                let published = match (ready, over) {
                    (Some(ready), Ok(())) => ready.publish(|prepared| match proof {
                        Some(cleared) => commit::publish_cleared(claim, prepared, cleared),
                        None => commit::publish(claim, prepared.alone()),
                    }),
                    (Some(ready), Err(error)) => {
                        ready.discard();
                        Err(error)
                    }
                    (None, over) => over.map(|()| {
                        claim.settle();
                        Published::default()
                    }),
                };
                let code = u8::try_from(result.exit_code).unwrap_or(u8::MAX);
                Ok(Told {
                    side,
                    code,
                    line: None,
                    result: Some(result),
                    published: published.map_err(failed)?,
                })
            }
        }
    }
}

impl Product for Made {
    fn discard(self, _: Side) {
        match self {
            Made::Here { scene, quiet, .. } => scene.clear(quiet),
            Made::There { ready, .. } => ready.into_iter().for_each(|ready| ready.discard()),
        }
    }
}

/// The command in the exec root.
pub(super) struct Here(pub(super) Arc<Scene>);

impl LocalBranch<Made> for Here {
    fn run(self: Box<Self>, cancel: &Cancel) -> Ended<Made> {
        let scene = self.0;
        let (end, cpu) = match scene.sandbox() {
            Ok((sandbox, announced)) => scene.act(sandbox, announced, cancel),
            Err(why) => (BranchEnd::Infra(why), Duration::ZERO),
        };
        Ended { end, cpu }
    }
}

impl Scene {
    fn sandbox(&self) -> Result<(Sandbox, Announced), String> {
        let root = self.action.root();
        crate::stage::prepare_output_parents(root, None, self.action.outputs(), self.owner)
            .map_err(|error| error.to_string())?;
        let template = self.runtime.template(&self.settings.spec).map_err(|error| error.to_string())?;
        let sandbox = Sandbox::create(&self.runtime, &template).map_err(|error| error.to_string())?;
        let name = self.settings.arguments.first().map_or(&b""[..], |command| command.to_bytes());
        match commit::announce(root, self.action.outputs(), sandbox.init_pid(), &self.journal, name) {
            Ok(announced) => Ok((sandbox, announced)),
            Err(error) => {
                // The first error is the one that counts.
                let _ = sandbox.destroy(&self.runtime);
                Err(error.to_string())
            }
        }
    }

    fn act(
        self: Arc<Self>,
        mut sandbox: Sandbox,
        announced: Announced,
        cancel: &Cancel,
    ) -> (BranchEnd<Made>, Duration) {
        self.state().announced = Some(announced);
        self.began.store(true, Ordering::Release);
        let killer = sandbox.killer();
        cancel.arm(move || killer.kill());
        let executed = self.execute(&mut sandbox);
        cancel.disarm();
        // Whatever came of it, its processes are gone with the first of their namespace.
        let destroyed = sandbox.destroy(&self.runtime);
        let executed = match (executed, destroyed) {
            (Ok(executed), Ok(())) => executed,
            (Ok(executed), Err(error)) if Quiet::of(&executed.outcome).is_some() => {
                tracing::warn!(%error, "a sandbox is not all gone");
                executed
            }
            (Ok(_), Err(error)) => return (BranchEnd::Infra(error.to_string()), Duration::ZERO),
            (Err(why), _) => {
                // It had no view, and never began.
                self.began.store(false, Ordering::Release);
                let _ = self.over();
                return (BranchEnd::Infra(why), Duration::ZERO);
            }
        };
        let usage = &executed.outcome.usage;
        let cpu = Duration::from_micros(usage.cpu_user_us + usage.cpu_system_us);
        let Some(quiet) = Quiet::of(&executed.outcome) else {
            let why = format!("the local command is not known to have ended: {}", executed.outcome.end);
            return (BranchEnd::Infra(why), cpu);
        };
        (self.judge(&executed, quiet), cpu)
    }

    fn execute(&self, sandbox: &mut Sandbox) -> Result<Executed, String> {
        let action = LocalAction {
            view: ViewSpec {
                exec_root: self.action.root(),
                inputs: None,
                outputs: self.action.outputs(),
                places: &self.settings.places,
                strategy: Strategy::Standalone,
            },
            arguments: &self.settings.arguments,
            variables: &self.settings.variables,
            directory: &self.settings.directory,
            streams: [self.nothing.as_fd(), self.printed[0].as_fd(), self.printed[1].as_fd()],
            limits: &self.settings.limits,
            timeout: self.args.timeout,
            kill_delay: self.args.kill_delay,
            outputs_on_failure: self.args.outputs_on_failure,
            list_undeclared: false,
            owner: self.owner,
        };
        let bell = (Mutex::new(false), Condvar::new());
        std::thread::scope(|scope| {
            scope.spawn(|| self.beat(&bell));
            let executed = execute(&self.runtime, sandbox, &action);
            *bell.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
            bell.1.notify_all();
            executed.map_err(|error| error.to_string())
        })
    }

    /// Says now and then that this process lives, until the bell rings.
    fn beat(&self, (over, bell): &(Mutex<bool>, Condvar)) {
        let mut over = over.lock().unwrap_or_else(PoisonError::into_inner);
        while !*over {
            over = bell.wait_timeout(over, BEAT_EACH).unwrap_or_else(PoisonError::into_inner).0;
            self.state().announced.iter().for_each(Announced::beat);
        }
    }

    fn judge(self: Arc<Self>, executed: &Executed, quiet: Quiet) -> BranchEnd<Made> {
        let end = &executed.outcome.end;
        let (code, line) = code_of(end, &self.args);
        match end {
            End::Exited(0) => {
                if let Err(failure) = check_standalone_outputs(self.action.root(), self.action.outputs()) {
                    self.clear(quiet);
                    return BranchEnd::Infra(failure.to_string());
                }
                BranchEnd::Ready(Made::Here { scene: self, quiet, code, line })
            }
            End::Exited(_) | End::TimedOut { .. } | End::NotStarted { is_command: true, .. } => {
                BranchEnd::Failed(Made::Here { scene: self, quiet, code, line })
            }
            End::Signaled(signal) => {
                let signal = *signal;
                BranchEnd::Signal(signal, Made::Here { scene: self, quiet, code, line })
            }
            End::Canceled => {
                self.clear(quiet);
                BranchEnd::Canceled
            }
            other => {
                let why = other.to_string();
                self.clear(quiet);
                BranchEnd::Infra(why)
            }
        }
    }
}

/// The cluster.
pub(super) struct There {
    pub(super) scene: Arc<Scene>,
    pub(super) cluster: Cluster,
    pub(super) store: Cas,
    pub(super) runtime: Arc<tokio::runtime::Runtime>,
    pub(super) job: RemoteJob,
}

struct Reports<'a>(&'a dyn Desk);

impl RemoteWatch for Reports<'_> {
    async fn answered(&self, hit: bool) -> bool {
        // This thread is the branch's own, so that nobody else waits with it.
        self.0.answer(if hit { CacheAnswer::Hit } else { CacheAnswer::Miss })
    }

    fn stage(&self, _: Stage) {}
}

impl RemoteBranch<Made> for There {
    fn run(self: Box<Self>, cancel: &Cancel, desk: &dyn Desk) -> Ended<Made> {
        let There { scene, cluster, store, runtime, job } = *self;
        let given_up = Arc::new(Notify::new());
        let notify = given_up.clone();
        // A permit is kept for who waits later.
        cancel.arm(move || notify.notify_one());
        let reports = Reports(desk);
        let ended = runtime.block_on(async {
            tokio::select! {
                biased;
                () = given_up.notified() => None,
                ended = crate::remote::run(&cluster, &job, &store, &reports) => Some(ended),
            }
        });
        cancel.disarm();
        let cpu = match &ended {
            Some(Ok(RemoteEnd::Result { result, .. })) => result.usage.user + result.usage.system,
            _ => Duration::ZERO,
        };
        Ended { end: ended.map_or(BranchEnd::Canceled, |ended| conclude(&scene, ended)), cpu }
    }
}

fn conclude(scene: &Scene, ended: Result<RemoteEnd, ClusterError>) -> BranchEnd<Made> {
    match ended {
        Ok(RemoteEnd::Result { result, .. }) => {
            let is_good = result.exit_code == 0;
            if !is_good && !scene.action.wants_outputs_on_failure() {
                return BranchEnd::Failed(Made::There { result, ready: None });
            }
            match scene.action.ready(&result) {
                Ok(ready) if is_good => {
                    BranchEnd::Ready(Made::There { result, ready: Some(Box::new(ready)) })
                }
                Ok(ready) => BranchEnd::Failed(Made::There { result, ready: Some(Box::new(ready)) }),
                Err(failure) => BranchEnd::Infra(failure.to_string()),
            }
        }
        Ok(RemoteEnd::Action { message, .. }) => BranchEnd::Infra(message),
        Ok(RemoteEnd::Miss) => BranchEnd::Miss,
        Err(error) => BranchEnd::Infra(error.to_string()),
    }
}
