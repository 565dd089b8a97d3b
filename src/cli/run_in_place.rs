//! `fulgurite run --remote --strategy dynamic --dynamic_local_strategy=standalone`: the command runs straight in the
//! exec root, and races a cluster.
//!
//! ```text
//!   recover ─► runtime ─► inputs hashed into the store ─► race ─┬ local wins: its outputs are where they belong
//!                                                               └ remote wins: local killed ─► quiet ─► what it
//!                                                                 left is removed ─► renames, journaled
//! ```
//! Invariants: those of [`branches`]; when this returns, nothing of the command lives, and of its outputs those of the
//! winner are there, or none. The same holds after the next start, if this process died.
//! Limits: what the command overwrote does not come back, and what it wrote without declaring it stays, as in Bazel; a
//! local result fills no cache; standard output and error come when it is known whose count.

mod branches;

use super::run::{cgroup_use, output_owner, recover_and_sweep};
use super::run_args::RunArgs;
use super::serve_args::ServeArgs;
use super::serve_race::{cluster, knobs};
use super::signals::BlockedSignals;
use super::{daemon, serve};
use crate::cas::{Cas, CasOptions};
use crate::commit::{Claims, Journal, Side};
use crate::config::Config;
use crate::exec::Cancel;
use crate::failure::{self, Failure, tell};
use crate::race::admission::LocalGate;
use crate::race::drive::{Course, Finished, Race, run as race};
use crate::race::gate::Request;
use crate::race::knobs::{Knobs, LocalStrategy};
use crate::race::policy::{
    Abilities, Choice, Facts, LocalStart, RemoteAbility, RemoteStart, Situation, choose,
};
use crate::race::reaper::Reaper;
use crate::race::report::Totals;
use crate::race::step::Outcome;
use crate::remote::{Cluster, RemoteJob};
use crate::serve::OwnAction;
use crate::stage::LayerHome;
use branches::{Here, LocalState, Made, Scene, There, Told};
use fulgurite_sandbox::runtime::{Runtime, RuntimeOptions};
use rustix::fd::AsFd;
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex};

/// Threads that talk to the cluster.
const THREADS: usize = 2;

/// Whether these options ask for a local branch in place.
pub(super) fn is_wanted(args: &RunArgs, serve: &ServeArgs) -> Result<bool, Failure> {
    if args.exec_strategy.is_some_and(|strategy| !strategy.races()) {
        return Ok(false);
    }
    let knobs = knobs(&serve.load()?.config)?;
    let first = knobs.local_strategies(&args.mnemonic).into_iter().find(|way| *way != LocalStrategy::Worker);
    Ok(first == Some(LocalStrategy::Standalone))
}

/// Runs the command.
///
/// # Errors
/// A failure of Fulgurite's own.
pub(super) fn run(args: &RunArgs, serve: &ServeArgs) -> Result<u8, Failure> {
    let signals = BlockedSignals::block();
    let config = serve.load()?.config;
    serve::log_to_stderr(&config.log.0)?;
    serve::prepare_directory(&config.state_dir)?;
    let settings = args.settings()?;
    recover_and_sweep(&settings)?;
    let options = RuntimeOptions { cgroups: cgroup_use(args, &settings), once: true };
    let runtime = Arc::new(Runtime::start(&options)?);
    let (cancel, signaled) = (Cancel::default(), Arc::new(AtomicI32::new(0)));
    let (on_signal, number) = (cancel.clone(), signaled.clone());
    signals
        .forward_in_background(move |signal| {
            number.store(signal, Ordering::Release);
            on_signal.cancel();
        })
        .map_err(|error| Failure::new(format!("cannot wait for signals: {error}")))?;
    let options =
        CasOptions { dir: config.state_dir.join("store"), size_bytes_max: config.store.size_bytes_max.0 };
    let cas = Cas::open(&options).map_err(|error| Failure::new(error.to_string()))?;
    let ran = with_store(args, settings, &config, (&runtime, &cas), &cancel);
    cas.close();
    let stopped = Arc::into_inner(runtime).map_or(Ok(()), Runtime::stop).map_err(Failure::from);
    let code = ran?;
    stopped?;
    match signaled.load(Ordering::Acquire) {
        0 => Ok(code),
        number => Ok(failure::SIGNAL_BASE.saturating_add(u8::try_from(number).unwrap_or(0))),
    }
}

fn with_store(
    args: &RunArgs,
    settings: super::run_args::RunSettings,
    config: &Config,
    (runtime, cas): (&Arc<Runtime>, &Cas),
    cancel: &Cancel,
) -> Result<u8, Failure> {
    let knobs = knobs(config)?;
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .thread_name("fulgurite-remote")
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("cannot start threads: {error}")))?;
    let tokio = Arc::new(tokio);
    let address = args.remote.as_deref().unwrap_or_default();
    let context = tokio.enter();
    let cluster = Cluster::new(cluster(config, address)?).map_err(|error| Failure::new(error.to_string()))?;
    drop(context);
    let scene = Arc::new(scene(args, settings, config, runtime, cas)?);
    let choice = choice(args, &knobs)?;
    let course = Course {
        gate: Arc::new(LocalGate::new(1, 1)),
        reaper: Arc::new(Reaper::default()),
        totals: Arc::new(Totals::default()),
    };
    let finished = compete(&scene, (&cluster, cas, &tokio), &choice, (&course, &knobs), cancel);
    course.reaper.drain();
    let code = conclude(&scene, finished);
    drop(cluster);
    if let Ok(scene) = Arc::try_unwrap(scene) {
        scene.journal.close();
    }
    code
}

fn scene(
    args: &RunArgs,
    settings: super::run_args::RunSettings,
    config: &Config,
    runtime: &Arc<Runtime>,
    cas: &Cas,
) -> Result<Scene, Failure> {
    // Those that the next start recovers.
    let places = settings.places.clone();
    let durability = args.durability();
    let action = OwnAction::import(cas, &places, daemon::request(args, &settings)?, durability)?;
    let privileged = runtime.features().privileged;
    let root = action.root().try_clone_to_owned();
    let root = root.map_err(|error| Failure::new(format!("cannot keep the exec root open: {error}")))?;
    let owner = output_owner(&root, privileged)?;
    let staged = |error: crate::stage::StageError| Failure::new(error.to_string()).hint(error.hint());
    let home = LayerHome::choose(&places, root.as_fd()).map_err(staged)?;
    let journal = Journal::open(home.place(), durability);
    let journal = journal.map_err(|fault| Failure::new(fault.to_string()).hint(fault.hint()))?;
    let system = |what: &'static str| move |errno| Failure::new(format!("cannot {what}: {errno}"));
    let nothing = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(system("open /dev/null"))?;
    let stream = || {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::APPEND | OFlags::CLOEXEC;
        let made = rustix::fs::open(&config.state_dir, flags, Mode::RUSR | Mode::WUSR);
        made.map(File::from).map_err(system("make a file for what the command prints"))
    };
    Ok(Scene {
        args: args.clone(),
        settings,
        runtime: runtime.clone(),
        action,
        owner,
        journal,
        nothing,
        printed: [stream()?, stream()?],
        began: false.into(),
        state: Mutex::new(LocalState::default()),
    })
}

fn choice(args: &RunArgs, knobs: &Knobs) -> Result<Choice, Failure> {
    let facts = Facts::of_tags(&args.mnemonic, false, []);
    let abilities = Abilities { local: &[LocalStrategy::Standalone], remote: RemoteAbility::Execute };
    choose(&facts, &abilities, knobs, &Situation::default()).map_err(|error| Failure::new(error.to_string()))
}

fn compete(
    scene: &Arc<Scene>,
    (cluster, cas, tokio): (&Cluster, &Cas, &Arc<tokio::runtime::Runtime>),
    choice: &Choice,
    (course, knobs): (&Course, &Knobs),
    cancel: &Cancel,
) -> Finished<Made, Told> {
    let (args, action) = (&scene.args, &scene.action);
    let mnemonic = args.mnemonic.as_str();
    let plan = choice.rules.plan;
    let there = There {
        scene: scene.clone(),
        cluster: cluster.for_action("", mnemonic, &action.digest()),
        store: cas.clone(),
        runtime: tokio.clone(),
        job: RemoteJob {
            action_digest: action.digest(),
            action: action.action().clone(),
            command: action.command().clone(),
            mnemonic: args.mnemonic.clone(),
            executes: true,
            accept_cached: true,
            lazily: false,
        },
    };
    let race_of = Race {
        name: args.command.first().map(|name| name.display().to_string()).unwrap_or_default(),
        rules: choice.rules,
        cell: Claims::new(1).cell(),
        request: Request {
            load_factor: *knobs.local_load_factor.of(mnemonic),
            slow_remote_time: *knobs.slow_remote_time.of(mnemonic),
            low_pass: false,
            sole: plan.remote == RemoteStart::Never,
        },
        local: (plan.local != LocalStart::Never).then(|| Box::new(Here(scene.clone())) as _),
        remote: (plan.remote != RemoteStart::Never).then(|| Box::new(there) as _),
        debug: *knobs.debug_spawn_scheduler.of(mnemonic),
    };
    race(race_of, course, cancel, |claim, made| scene.publish(claim, made))
}

/// Prints what the winner printed, and says how it ended.
fn conclude(scene: &Scene, finished: Finished<Made, Told>) -> Result<u8, Failure> {
    let Finished { outcome, published, failure, broken, local_why, remote_why, report } = finished;
    tracing::debug!(?outcome, ?report, "the race is over");
    if let Some(told) = published {
        print(scene, told.side, told.result.as_deref())?;
        told.published.leftovers.iter().chain(&told.line).for_each(tell);
        return Ok(told.code);
    }
    let ended = match failure {
        Some(Made::Here { quiet, code, line, .. }) => {
            print(scene, Side::Local, None)?;
            if scene.action.wants_outputs_on_failure() {
                // As they are is what was asked for.
                let _ = scene.over();
            } else {
                scene.clear(quiet);
            }
            line.iter().for_each(tell);
            Ok(code)
        }
        Some(Made::There { result, ready }) => {
            if let Some(ready) = ready {
                ready.discard();
            }
            print(scene, Side::Remote, Some(&result))?;
            tell(format_args!("the command exited with code {} on the cluster", result.exit_code));
            Ok(u8::try_from(result.exit_code).unwrap_or(u8::MAX))
        }
        None if outcome == Outcome::Canceled => Ok(failure::OWN_FAILURE),
        None => {
            let named = [("here", local_why), ("on the cluster", remote_why), ("publishing", broken)];
            let whys = named.into_iter().filter_map(|(side, why)| Some(format!("{side}: {}", why?)));
            let whys = whys.collect::<Vec<_>>().join("; ");
            Err(Failure::new(format!("the command has no result: {whys}")))
        }
    };
    scene.settle();
    ended
}

fn print(scene: &Scene, side: Side, result: Option<&crate::action::ActionResult>) -> Result<(), Failure> {
    let printed = match (side, result) {
        (Side::Remote, Some(result)) => scene.action.printed(result)?,
        _ => {
            let read = |mut file: &File| -> std::io::Result<Vec<u8>> {
                let mut bytes = Vec::new();
                file.seek(SeekFrom::Start(0))?;
                file.take(PRINTED_BYTES_MAX).read_to_end(&mut bytes)?;
                Ok(bytes)
            };
            let failed = |error| Failure::new(format!("cannot read what the command printed: {error}"));
            (read(&scene.printed[0]).map_err(failed)?, read(&scene.printed[1]).map_err(failed)?)
        }
    };
    // A reader that has seen enough is no failure.
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(&printed.0).and_then(|()| stdout.flush());
    let _ = std::io::stderr().write_all(&printed.1);
    Ok(())
}

/// What is printed of a command's output: as much as a daemon sends.
const PRINTED_BYTES_MAX: u64 = 1 << 30;
