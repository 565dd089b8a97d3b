//! Death is a barrier: when a run is over, nobody is left.
use crate::fixture::{Checked, Command, Fixture, PATIENCE, check, memory_file, same};
use crate::registry::{Test, alone, test};
use fulgurite_sandbox::outcome::End;
use fulgurite_sandbox::testing::{descendants_of, settles};
use std::io::Read;
use std::os::fd::AsFd;
use std::time::Duration;

pub fn tests() -> Vec<Test> {
    vec![
        test("killing::the_time_runs_out", the_time_runs_out),
        test("killing::a_trap_may_use_its_grace", a_trap_may_use_its_grace),
        test("killing::grace_ends_for_what_ignores_it", grace_ends_for_what_ignores_it),
        test("killing::another_thread_cancels", another_thread_cancels),
        test("killing::a_cancel_at_any_moment_is_one", a_cancel_at_any_moment_is_one),
        test("killing::a_cancel_when_idle_spares_the_next_run", a_cancel_when_idle_spares_the_next_run),
        test(
            "killing::a_cancel_after_the_end_spares_the_next_run",
            a_cancel_after_the_end_spares_the_next_run,
        ),
        alone("killing::daemons_are_killed_and_counted", daemons_are_killed_and_counted),
        test("killing::what_has_ended_by_itself_is_no_straggler", what_has_ended_by_itself_is_no_straggler),
        alone("killing::a_fork_bomb_ends_quietly", a_fork_bomb_ends_quietly).with_limits(),
        alone("killing::a_stopped_action_is_killed_as_well", a_stopped_action_is_killed_as_well),
    ]
}

fn the_time_runs_out(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    let limit = Duration::from_millis(50);
    let mut command = Command::sh("sleep 1000 & sleep 1000");
    command.timeout = Some(limit);
    for _ in 0..3 {
        let ran = command.run(&mut sandbox).ended(End::TimedOut { limit })?;
        check(ran.outcome.quiet, "not quiet")?;
        sandbox.reset()?;
    }
    Command::new(&["/bin/true"]).run(&mut sandbox).succeeded().map(drop)
}

fn a_trap_may_use_its_grace(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    let mut limit = Duration::from_millis(500);
    loop {
        let mut command = Command::sh("trap 'exit 17' TERM; echo set; while :; do sleep 0.01; done");
        (command.timeout, command.kill_delay) = (Some(limit), PATIENCE);
        let ran = command.run(&mut sandbox);
        // On a slow machine the time may be over before the shell has come to its trap.
        if ran.stdout == "set\n" || limit > PATIENCE {
            return ran.ended(End::Exited(17)).map(drop);
        }
        sandbox.reset()?;
        limit *= 4;
    }
}

fn grace_ends_for_what_ignores_it(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    let limit = Duration::from_millis(200);
    let mut command = Command::sh("trap '' TERM; while :; do sleep 0.01; done");
    (command.timeout, command.kill_delay) = (Some(limit), Duration::from_millis(100));
    command.run(&mut sandbox).ended(End::TimedOut { limit }).map(drop)
}

fn another_thread_cancels(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    for _ in 0..5 {
        let (mut reader, writer) = std::io::pipe()?;
        let killer = sandbox.killer();
        let canceler = std::thread::spawn(move || {
            // It runs: it said so.
            let read = reader.read_exact(&mut [0]);
            killer.kill();
            read
        });
        let errors = memory_file("stderr");
        let command = Command::sh("echo; sleep 1000");
        let outcome = command.run_with(&mut sandbox, None, writer.as_fd(), errors.as_fd());
        drop(writer);
        canceler.join().map_err(|_| "the canceler panicked")??;
        same(outcome.end, End::Canceled, "end")?;
        check(outcome.quiet, "not quiet")?;
        sandbox.reset()?;
    }
    Command::new(&["/bin/true"]).run(&mut sandbox).succeeded().map(drop)
}

/// Before init has the request, while the command is executed, while it runs: the run is canceled and quiet. What was
/// killed before it began is not used again; all others are, and are like new.
fn a_cancel_at_any_moment_is_one(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    let mut used_again = 0;
    for turn in 0..60 {
        let killer = sandbox.killer();
        let canceler = std::thread::spawn(move || {
            // Of no particular length: each turn meets another moment.
            (0..turn * 500).for_each(|_| std::hint::spin_loop());
            killer.kill();
        });
        let ran = Command::sh("sleep 1000 & sleep 1000").run(&mut sandbox);
        canceler.join().map_err(|_| "the canceler panicked")?;
        check(ran.outcome.quiet, format!("turn {turn}: not quiet after {:?}", ran.outcome.end))?;
        ran.ended(End::Canceled)?;
        if sandbox.is_sound() {
            used_again += 1;
            sandbox.reset()?;
            Command::new(&["/bin/true"]).run(&mut sandbox).succeeded()?;
            sandbox.reset()?;
        } else {
            sandbox = fixture.sandbox()?;
        }
    }
    check(used_again > 0, "no sandbox was ever used again")
}

fn a_cancel_when_idle_spares_the_next_run(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    sandbox.killer().kill();
    // Nothing ran, so there was nothing to cancel: the next run must either be canceled or whole, but never
    // lost.
    let ran = Command::new(&["/bin/true"]).run(&mut sandbox);
    let fair = matches!(ran.outcome.end, End::Exited(0) | End::Canceled);
    check(fair, format!("a cancel before the start made it {:?}", ran.outcome.end))
}

fn a_cancel_after_the_end_spares_the_next_run(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    let killer = sandbox.killer();
    Command::new(&["/bin/true"]).run(&mut sandbox).succeeded()?;
    sandbox.reset()?;
    // The handle of the run before comes too late.
    killer.kill();
    Command::new(&["/bin/true"]).run(&mut sandbox).succeeded().map(drop)
}

fn daemons_are_killed_and_counted(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    for count in [1, 10] {
        let before = descendants_of(std::process::id()).len();
        let ran = Command::probe(&["daemons", &count.to_string()]).run(&mut sandbox);
        same(ran.outcome.stragglers, count, "stragglers")?;
        ran.succeeded()?;
        // The leader and its daemons are gone when the run returns, not some time later.
        let after = descendants_of(std::process::id()).len();
        check(
            after < before,
            format!("{before} processes before, {after} after: the run returned too early"),
        )?;
        sandbox.reset()?;
    }
    Ok(())
}

fn what_has_ended_by_itself_is_no_straggler(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    // Each daemon leaves a zombie of the process that started it.
    let ran = Command::probe(&["orphans", "3"]).run(&mut sandbox);
    same(ran.outcome.stragglers, 3, "stragglers")
}

fn a_fork_bomb_ends_quietly(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    let mut command = Command::probe(&["bomb"]);
    command.limits.pids_max = Some(200);
    let limit = Duration::from_secs(5);
    command.timeout = Some(limit);
    let ran = command.run(&mut sandbox).ended(End::TimedOut { limit })?;
    check(ran.outcome.quiet, "not quiet")?;
    let denied = ran.outcome.usage.pids_denied;
    check(denied.is_some_and(|count| count > 0), format!("pids denied: {denied:?}"))?;
    sandbox.reset()?;
    Command::new(&["/bin/true"]).run(&mut sandbox).succeeded().map(drop)
}

fn a_stopped_action_is_killed_as_well(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    let (mut reader, writer) = std::io::pipe()?;
    let killer = sandbox.killer();
    let canceler = std::thread::spawn(move || {
        let mut text = [0];
        let read = reader.read_exact(&mut text);
        let stopped = settles(PATIENCE, any_stopped);
        killer.kill();
        read.map(|()| stopped)
    });
    let errors = memory_file("stderr");
    let command = Command::sh("echo; kill -STOP $$; sleep 1000");
    let outcome = command.run_with(&mut sandbox, None, writer.as_fd(), errors.as_fd());
    drop(writer);
    check(canceler.join().map_err(|_| "the canceler panicked")??, "it never stopped")?;
    same(outcome.end, End::Canceled, "end")
}

/// Whether a process of ours is stopped.
fn any_stopped() -> bool {
    descendants_of(std::process::id()).into_iter().any(|pid| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.contains("State:\tT")
    })
}
