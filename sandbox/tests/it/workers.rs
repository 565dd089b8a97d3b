//! The life of workers that stay: how they end, who may kill them, what they use, and views beside each other.
use crate::fixture::{Checked, Command, Fixture, PATIENCE, PROBE, check, gone, nothing, same};
use crate::registry::{Test, alone, apart};
use crate::staging::{Stage, Worker, pool, spec};
use crate::starting::victim;
use fulgurite_sandbox::cgroup::Limits;
use fulgurite_sandbox::hosted::{Hosted, HostedError};
use fulgurite_sandbox::outcome::End;
use fulgurite_sandbox::pool::{Pool, PoolOptions};
use fulgurite_sandbox::sandbox::Sandbox;
use fulgurite_sandbox::spec::SandboxSpec;
use fulgurite_sandbox::sys::Errno;
use fulgurite_sandbox::testing::{Census, Scope, descendants_of, settles};
use libtest_mimic::Failed;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::AsFd;
use std::time::Duration;

pub fn tests() -> Vec<Test> {
    vec![
        alone("workers::an_end_is_told_once_and_stays", an_end_is_told_once_and_stays),
        alone("workers::what_cannot_be_executed_is_an_outcome", what_cannot_be_executed_is_an_outcome),
        alone("workers::what_cannot_be_hosted_is_refused", what_cannot_be_hosted_is_refused),
        alone("workers::places_beside_each_other", places_beside_each_other),
        alone("workers::killed_while_views_change", killed_while_views_change),
        alone("workers::init_is_killed_while_views_change", init_is_killed_while_views_change),
        alone("workers::stopping_takes_everything", stopping_takes_everything),
        alone("workers::dropped_without_a_word", dropped_without_a_word),
        alone("workers::frozen_and_thawed", frozen_and_thawed),
        alone("workers::memory_is_counted", memory_is_counted),
        alone("workers::a_limit_ends_it", a_limit_ends_it).with_limits(),
        apart("workers::the_owner_is_killed", the_owner_is_killed),
    ]
}

fn failed(outcome: Box<fulgurite_sandbox::outcome::Outcome>) -> Failed {
    Failed::from(format!("{outcome:?}"))
}

fn work() -> Command {
    Command::new(&[PROBE, "probe", "work"])
}

/// Waits until the control descriptor says something.
fn heard(hosted: &Hosted, patience: Duration) -> bool {
    let control = hosted.control();
    let mut events = [PollFd::from_borrowed_fd(control, PollFlags::IN)];
    let timeout = Timespec { tv_sec: patience.as_secs().cast_signed(), tv_nsec: 0 };
    poll(&mut events, Some(&timeout)).is_ok_and(|count| count > 0)
}

fn an_end_is_told_once_and_stays(fixture: &Fixture) -> Checked {
    let pool = pool(fixture, 1)?;
    let stage = Stage::new(fixture.runtime())?;
    for (line, end) in [("exit 3", End::Exited(3)), ("abort", End::Signaled(6))] {
        let mut worker = Worker::start(&pool, &spec(fixture), &stage, "/work")?;
        let view = worker.see(&stage, "one")?;
        check(worker.hosted.ended().is_none(), "it has not ended")?;
        check(!heard(&worker.hosted, Duration::ZERO), "control is silent while it lives")?;
        same(worker.ask(line)?.as_str(), "", "an answer")?;
        check(heard(&worker.hosted, PATIENCE), "control says nothing")?;
        for _ in 0..2 {
            let told = worker.hosted.ended().map(|outcome| outcome.end.clone());
            same(told, Some(end.clone()), "how it ended")?;
            let again = worker.hosted.swap(view.as_fd());
            check(matches!(again, Err(HostedError::Ended { .. })), format!("{again:?}"))?;
        }
        let (outcome, lease) = worker.stop(PATIENCE);
        same(outcome.end, end, "how it ended, once more")?;
        check(outcome.quiet, "not quiet")?;
        let init = crate::pools::init_of(&lease);
        drop(lease);
        let mut lease = pool.lease(&spec(fixture))?;
        same(crate::pools::init_of(&lease), init, "the same sandbox, reset")?;
        crate::pools::runs(&mut lease, "[ -z \"$(ls -A /work)\" ]")?;
    }
    Ok(pool.stop()?)
}

fn what_cannot_be_executed_is_an_outcome(fixture: &Fixture) -> Checked {
    let pool = pool(fixture, 1)?;
    let mut init = 0;
    for (program, directory) in
        [("/no/such/program", "/work"), ("/bin/true", "/work/none"), ("/bin/true", "/none")]
    {
        let mut command = Command::new(&[program]);
        command.directory = crate::fixture::c(directory);
        let lease = pool.lease(&spec(fixture))?;
        check(init == 0 || init == crate::pools::init_of(&lease), "the sandbox was lost")?;
        init = crate::pools::init_of(&lease);
        match Worker::start_with(lease, &command, None) {
            Ok(_) => return Err("it was executed".into()),
            Err(outcome) => {
                let is_command = directory == "/work";
                let told =
                    matches!(outcome.end, End::NotStarted { is_command: told, .. } if told == is_command);
                check(told && outcome.quiet, format!("{outcome:?}"))?;
            }
        }
    }
    // One that ends at once was executed nevertheless.
    let worker = Worker::start_with(pool.lease(&spec(fixture))?, &Command::new(&["/bin/true"]), None)
        .map_err(failed)?;
    check(heard(&worker.hosted, PATIENCE), "no end")?;
    let (outcome, lease) = worker.stop(PATIENCE);
    same(outcome.end, End::Exited(0), "end")?;
    drop(lease);
    Ok(pool.stop()?)
}

fn what_cannot_be_hosted_is_refused(fixture: &Fixture) -> Checked {
    let pool = pool(fixture, 1)?;
    let mut command = work();
    command.directory = c"/work/../tmp".to_owned();
    for (spec, command) in [(spec(fixture), command), (fixture.spec(), work())] {
        let lease = pool.lease(&spec)?;
        let walled =
            lease.sandbox().is_some_and(|sandbox| sandbox.template().enforcement.landlock_abi.is_some());
        match Worker::start_with(lease, &command, None) {
            Err(outcome) => check(matches!(outcome.end, End::Refused { .. }), format!("{outcome:?}"))?,
            Ok(worker) => {
                check(!walled && command.directory.as_c_str() == c"/work", "it was hosted")?;
                drop(worker.end()?);
            }
        }
    }
    Ok(pool.stop()?)
}

fn places_beside_each_other(fixture: &Fixture) -> Checked {
    let pool = pool(fixture, 1)?;
    let stage = Stage::new(fixture.runtime())?;
    let mut worker = Worker::start(&pool, &spec(fixture), &stage, "/work")?;
    let mounts = worker.mounts()?;
    for _ in 0..2 {
        let errors: Vec<String> = std::thread::scope(|scope| {
            let attach = |slot: u32| {
                let (worker, stage) = (&worker.hosted, &stage);
                let id = worker.sandbox().map_or(0, Sandbox::action_id);
                move || -> Result<(), Failed> {
                    let view = stage.view(id, &format!("slot-{slot}"))?;
                    Ok(worker.attach(slot, view.as_fd())?)
                }
            };
            let threads: Vec<_> = (0..64).map(|slot| scope.spawn(attach(slot))).collect();
            let results = threads.into_iter().map(|thread| thread.join());
            results
                .filter_map(|result| match result {
                    Ok(Ok(())) => None,
                    Ok(Err(error)) => Some(format!("{error:?}")),
                    Err(_) => Some("panicked".to_owned()),
                })
                .collect()
        });
        nothing(errors, "threads that failed")?;
        same(worker.mounts()?, mounts + 64, "mounts")?;
        for slot in 0..64 {
            let (path, name) = (Hosted::slot_dir(slot), format!("slot-{slot}"));
            same(worker.ask(&format!("cat {path}/name"))?, name.clone(), "a place")?;
            worker.ask(&format!("write {path}/out {slot}"))?;
            same(stage.layer(&name, "out")?, slot.to_string(), "its layer")?;
        }
        check(stage.layer("base", "_w/0/out").is_err(), "written to the worker's own layer")?;
        let busy = stage.view(worker.action_id(), "busy")?;
        same(errno(worker.hosted.attach(3, busy.as_fd()))?, Errno::BUSY, "a place that is taken")?;
        same(errno(worker.hosted.attach(Hosted::SLOTS_MAX, busy.as_fd()))?, Errno::RANGE, "no such place")?;
        same(errno(worker.hosted.attach(100, busy.as_fd()))?, Errno::NOENT, "no such directory")?;
        same(worker.hosted.seal_slot(5)?, true, "seal")?;
        check(worker.ask("write _w/5/out x")?.contains("Read-only"), "written to a sealed place")?;
        same(worker.ask("write _w/6/out x")?.as_str(), "done", "the place beside it")?;
        check(worker.ask("move _w/7 _w/x")?.contains("busy"), "a place that is taken was moved")?;
        let errors: Vec<String> = std::thread::scope(|scope| {
            let hosted = &worker.hosted;
            let threads: Vec<_> = (0..64).map(|slot| scope.spawn(move || hosted.detach(slot))).collect();
            let results = threads.into_iter().map(|thread| thread.join());
            results
                .filter(|result| !matches!(result, Ok(Ok(()))))
                .map(|result| format!("{result:?}"))
                .collect()
        });
        nothing(errors, "threads that failed")?;
        same(worker.mounts()?, mounts, "mounts")?;
        same(errno(worker.hosted.detach(3))?, Errno::NOENT, "a place that is free")?;
        same(errno(worker.hosted.seal_slot(3))?, Errno::NOENT, "a place that is free")?;
    }
    drop(worker.end()?);
    Ok(pool.stop()?)
}

fn errno<T: std::fmt::Debug>(answer: Result<T, HostedError>) -> Result<Errno, Failed> {
    match answer {
        Err(HostedError::Kept { errno, .. }) => Ok(errno),
        other => Err(format!("{other:?}").into()),
    }
}

/// Changes views until it cannot any more, while another thread does what ends that.
fn changes_until(
    fixture: &Fixture,
    end: impl FnOnce(&Worker) -> Box<dyn FnOnce() + Send>,
) -> Result<(Pool, Worker), Failed> {
    let pool = pool(fixture, 1)?;
    let stage = Stage::new(fixture.runtime())?;
    let worker = Worker::start(&pool, &spec(fixture), &stage, "/work")?;
    let end = end(&worker);
    let (go, wait) = std::sync::mpsc::sync_channel::<()>(1);
    let other = std::thread::spawn(move || {
        let _ = wait.recv();
        end();
    });
    for round in 0.. {
        let answer = worker.hosted.clear();
        if round == 20 {
            go.send(())?;
        }
        match answer {
            Ok(()) => {}
            Err(HostedError::Ended { .. }) => break,
            Err(error) => return Err(format!("{error:?}").into()),
        }
        if worker.hosted.ended().is_some() {
            break;
        }
    }
    other.join().map_err(|_| "the other thread panicked")?;
    Ok((pool, worker))
}

fn killed_while_views_change(fixture: &Fixture) -> Checked {
    for _ in 0..5 {
        let (pool, worker) = changes_until(fixture, |worker| {
            let killer = worker.hosted.killer();
            Box::new(move || killer.kill())
        })?;
        let (outcome, lease) = worker.stop(PATIENCE);
        same(outcome.end, End::Canceled, "end")?;
        check(outcome.quiet, "not quiet")?;
        check(lease.sandbox().is_some_and(Sandbox::is_sound), "not sound")?;
        drop(lease);
        pool.stop()?;
    }
    Ok(())
}

fn init_is_killed_while_views_change(fixture: &Fixture) -> Checked {
    let (pool, worker) = changes_until(fixture, |worker| {
        let pid = rustix::process::Pid::from_raw(worker.init().cast_signed());
        Box::new(move || {
            let _ = pid.map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::KILL));
        })
    })?;
    check(heard(&worker.hosted, PATIENCE), "control says nothing")?;
    let (outcome, lease) = worker.stop(PATIENCE);
    check(matches!(outcome.end, End::Lost { .. }) && !outcome.quiet, format!("{outcome:?}"))?;
    check(!lease.sandbox().is_some_and(Sandbox::is_sound), "sound")?;
    drop(lease);
    Ok(pool.stop()?)
}

fn stopping_takes_everything(fixture: &Fixture) -> Checked {
    let pool = pool(fixture, 1)?;
    let scripts = [
        // Ends when it is asked to.
        ("trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done", PATIENCE, End::Exited(7)),
        // Ignores everything.
        (
            "trap '' TERM HUP INT; echo ready; while :; do sleep 0.01; done",
            Duration::from_millis(50),
            End::Signaled(9),
        ),
        ("echo ready; sleep 1000", Duration::ZERO, End::Signaled(9)),
    ];
    for (script, grace, end) in scripts {
        let lease = pool.lease(&spec(fixture))?;
        let script = format!("{PROBE} probe daemons 5 >/dev/null; {script}");
        let mut worker = Worker::start_with(lease, &Command::sh(&script), None).map_err(failed)?;
        same(worker.hear()?.as_str(), "ready", "it runs")?;
        let inside = descendants_of(worker.init());
        check(inside.len() >= 6, format!("{} processes", inside.len()))?;
        let (outcome, lease) = worker.stop(grace);
        let killed = matches!(end, End::Signaled(9));
        same(outcome.end.clone(), end, script)?;
        // Those that are killed with the leader are no stragglers.
        let left = killed || outcome.stragglers >= 5;
        check(outcome.quiet && left, format!("{outcome:?}"))?;
        gone(&inside, "processes of the worker")?;
        drop(lease);
    }
    Ok(pool.stop()?)
}

fn dropped_without_a_word(fixture: &Fixture) -> Checked {
    let pool = pool(fixture, 1)?;
    let stage = Stage::new(fixture.runtime())?;
    let mut worker = Worker::start(&pool, &spec(fixture), &stage, "/work")?;
    worker.see(&stage, "one")?;
    worker.ask("hire /work")?;
    let mut inside = descendants_of(worker.init());
    inside.push(worker.init());
    drop(worker);
    gone(&inside, "processes of the worker")?;
    let mut lease = pool.lease(&spec(fixture))?;
    crate::pools::runs(&mut lease, "true")?;
    drop(lease);
    Ok(pool.stop()?)
}

fn frozen_and_thawed(fixture: &Fixture) -> Checked {
    let pool = pool(fixture, 1)?;
    let stage = Stage::new(fixture.runtime())?;
    let mut worker = Worker::start(&pool, &spec(fixture), &stage, "/work")?;
    let can = worker.hosted.freeze()?;
    same(can, fixture.runtime().features().cgroup_v2, "whether there is a freezer")?;
    if !can {
        drop(worker.end()?);
        return Ok(pool.stop()?);
    }
    let frozen = |worker: &Worker| worker.hosted.is_frozen() == Some(true);
    check(settles(PATIENCE, || frozen(&worker)), "not frozen")?;
    worker.tell("cat name")?;
    let view = worker.see(&stage, "one")?;
    check(frozen(&worker), "not frozen any more")?;
    check(worker.hosted.ended().is_none(), "it has ended")?;
    same(worker.hosted.thaw()?, true, "thaw")?;
    same(worker.hear()?.as_str(), "one", "what it sees when it goes on")?;
    drop(view);
    // One that is frozen can be ended, gently or not.
    for grace in [PATIENCE, Duration::ZERO] {
        same(worker.hosted.freeze()?, true, "freeze")?;
        check(settles(PATIENCE, || frozen(&worker)), "not frozen")?;
        let (outcome, lease) = worker.stop(grace);
        check(outcome.quiet, format!("{outcome:?}"))?;
        drop(lease);
        worker = Worker::start(&pool, &spec(fixture), &stage, "/work")?;
    }
    worker.hosted.freeze()?;
    worker.hosted.killer().kill();
    check(heard(&worker.hosted, PATIENCE), "a frozen worker was not killed")?;
    let (outcome, lease) = worker.stop(Duration::ZERO);
    same(outcome.end, End::Canceled, "end")?;
    drop(lease);
    Ok(pool.stop()?)
}

fn memory_is_counted(fixture: &Fixture) -> Checked {
    let pool = pool(fixture, 1)?;
    let stage = Stage::new(fixture.runtime())?;
    let mut worker = Worker::start(&pool, &spec(fixture), &stage, "/work")?;
    let before = worker.hosted.memory_bytes().ok_or("memory is not known")?;
    same(worker.ask("hoard 64")?.as_str(), "done", "hoard")?;
    let after = worker.hosted.memory_bytes().ok_or("memory is not known")?;
    let more = after.saturating_sub(before);
    check((48 << 20..128 << 20).contains(&more), format!("{before} before, {after} after 64 MiB"))?;
    drop(worker.end()?);
    Ok(pool.stop()?)
}

fn a_limit_ends_it(fixture: &Fixture) -> Checked {
    let pool = pool(fixture, 1)?;
    let mut command = work();
    command.limits = Limits { memory_bytes_max: Some(64 << 20), ..Limits::default() };
    let mut worker = Worker::start_with(pool.lease(&spec(fixture))?, &command, None).map_err(failed)?;
    same(worker.ask("hoard 8")?.as_str(), "done", "what it may have")?;
    same(worker.ask("hoard 256")?.as_str(), "", "what it may not have")?;
    check(heard(&worker.hosted, PATIENCE), "no end")?;
    let (outcome, lease) = worker.stop(PATIENCE);
    check(matches!(outcome.end, End::OutOfMemory { limit_bytes: Some(_), .. }), format!("{outcome:?}"))?;
    drop(lease);
    Ok(pool.stop()?)
}

fn the_owner_is_killed(_: &Fixture) -> Checked {
    for rounds in [1, 3, 8] {
        let mut child = victim(&["hosting"])?;
        let pid = child.pid();
        for _ in 0..rounds {
            child.wait_for("ready")?;
        }
        let known = descendants_of(pid);
        check(known.len() >= 7, format!("{} processes to be left behind", known.len()))?;
        child.kill()?;
        gone(&known, "processes of the killed owner")?;
        let scope = Scope::of_process(pid);
        let empty = settles(PATIENCE, || Census::of(&scope).total("process") == 0);
        check(empty, format!("left: {:?}", Census::of(&scope)))?;
        check(victim(&["sweep"])?.finish()?.contains("swept"), "sweep")?;
    }
    Ok(())
}

/// For [`crate::victim`]: a worker with daemons whose view changes all the time. Calls `ready` each time.
pub fn host_until_killed(
    runtime: &std::sync::Arc<fulgurite_sandbox::runtime::Runtime>,
    spec: &SandboxSpec,
    ready: fn(),
) -> Result<(), Box<dyn std::error::Error>> {
    let pool = Pool::new(runtime.clone(), PoolOptions { sandboxes_max: 1, idle_max: 1 })?;
    let lease = pool.lease(&Hosted::spec(spec))?;
    let script = format!("trap '' TERM HUP INT; {PROBE} probe daemons 5 >/dev/null; echo ready; sleep 1000");
    let mut worker =
        Worker::start_with(lease, &Command::sh(&script), None).map_err(|outcome| format!("{outcome:?}"))?;
    worker.hear().map_err(|error| format!("{error:?}"))?;
    loop {
        worker.hosted.clear()?;
        ready();
    }
}
