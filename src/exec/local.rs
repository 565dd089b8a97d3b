//! One action, from its inputs to its sealed outputs.
use super::view::{self, Staged, View, ViewError, ViewSpec};
use crate::action::Outputs;
use crate::output::{CollectOptions, Collected, OutputError, Undeclared, collect, undeclared};
use crate::stage::limits::TreeLimits;
use crate::stage::{Layer, Owner};
use fulgurite_sandbox::cgroup::Limits;
use fulgurite_sandbox::outcome::Outcome;
use fulgurite_sandbox::runtime::Runtime;
use fulgurite_sandbox::sandbox::{Action, Sandbox};
use rustix::fd::{AsFd, BorrowedFd};
use std::ffi::CString;
use std::time::{Duration, Instant};

/// An action, as the caller declares it.
#[derive(Debug)]
pub struct LocalAction<'a> {
    /// Inputs, outputs, strategy.
    pub view: ViewSpec<'a>,
    /// The command and its arguments.
    pub arguments: &'a [CString],
    /// The whole environment.
    pub variables: &'a [CString],
    /// Where it starts, as seen inside.
    pub directory: &'a std::ffi::CStr,
    /// Standard input, output and error.
    pub streams: [BorrowedFd<'a>; 3],
    /// Its limits.
    pub limits: &'a Limits,
    /// When it is killed.
    pub timeout: Option<Duration>,
    /// How long it may go on after SIGTERM.
    pub kill_delay: Duration,
    /// Collect outputs although the command failed.
    pub outputs_on_failure: bool,
    /// List what was written and not declared.
    pub list_undeclared: bool,
    /// Who owns the outputs; `None` if that is this process.
    pub owner: Option<Owner>,
}

/// Time by phase, in microseconds, as far as this module knows them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phases {
    /// Inputs, layer and overlay.
    pub stage_us: u64,
    /// The call of the sandbox as a whole.
    pub run_us: u64,
    /// Walking and sealing the outputs.
    pub collect_us: u64,
}

/// What came of it.
#[derive(Debug)]
pub struct Executed {
    /// What the run gave.
    pub outcome: Outcome,
    /// The sealed outputs, if the action succeeded or they were asked for all the same.
    pub collected: Option<Result<Collected, OutputError>>,
    /// What was written and not declared, if asked for.
    pub undeclared: Option<Undeclared>,
    /// The layer, which must be destroyed or kept after publishing.
    pub layer: Option<Layer>,
    /// What staging did.
    pub staged: Staged,
    /// Time by phase.
    pub phases: Phases,
}

fn since(start: Instant) -> u64 {
    start.elapsed().as_micros().try_into().unwrap_or(u64::MAX)
}

/// Runs an action in `sandbox`, which may still be getting ready while the inputs are staged.
///
/// # Errors
/// [`ViewError`], when its view cannot be made; everything later is told by the outcome.
pub fn execute(
    runtime: &Runtime,
    sandbox: &mut Sandbox,
    action: &LocalAction<'_>,
) -> Result<Executed, ViewError> {
    let begun = Instant::now();
    let view = view::view(runtime, &action.view, sandbox.action_id())?;
    // A sandbox that is still being made or reset had all that time.
    if let Err(error) = sandbox.finish_reset() {
        let _ = view.layer.map(Layer::destroy);
        return Err(error.into());
    }
    let mut phases = Phases { stage_us: since(begun), ..Phases::default() };
    let begun = Instant::now();
    let [stdin, stdout, stderr] = action.streams;
    let outcome = sandbox.run(&Action {
        arguments: action.arguments,
        variables: action.variables,
        directory: action.directory,
        stdin,
        stdout,
        stderr,
        work: Some(view.mount.as_fd()),
        limits: action.limits,
        timeout: action.timeout,
        kill_delay: action.kill_delay,
        terminal: false,
        fail_at: 0,
    });
    phases.run_us = since(begun);
    let begun = Instant::now();
    let (collected, listed) = outputs(runtime, action, &view, &outcome);
    phases.collect_us = since(begun);
    let View { layer, staged, mount, .. } = view;
    drop(mount);
    Ok(Executed { outcome, collected, undeclared: listed, layer, staged, phases })
}

/// Looks into the layer: only when all is quiet, so that nobody can change what is seen.
fn outputs(
    runtime: &Runtime,
    action: &LocalAction<'_>,
    view: &View,
    outcome: &Outcome,
) -> (Option<Result<Collected, OutputError>>, Option<Undeclared>) {
    let Some(layer) = view.layer.as_ref().filter(|_| outcome.quiet) else { return (None, None) };
    let marks = view::marks(runtime);
    let limits = TreeLimits::default();
    let declared: &Outputs = action.view.outputs;
    let listed = action.list_undeclared.then(|| {
        undeclared(layer.upper(), declared, marks, limits)
            .unwrap_or_else(|_| Undeclared { more: true, ..Undeclared::default() })
    });
    let succeeded = outcome.end.is_success();
    if !succeeded && !action.outputs_on_failure {
        return (None, listed);
    }
    let options = CollectOptions {
        marks,
        owner: action.owner,
        limits,
        missing_allowed: !succeeded,
        lower_is_destination: action.view.inputs.is_none(),
    };
    (Some(collect(layer.upper(), view.lower.as_ref().map(AsFd::as_fd), declared, &options)), listed)
}
