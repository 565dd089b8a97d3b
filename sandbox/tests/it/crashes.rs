//! `kill -9` of everything that can be killed: nothing outlives it but what the next start removes.
use crate::fixture::{Checked, Command, Fixture, PATIENCE, check, contains, gone, memory_file, nothing};
use crate::registry::{Test, alone, apart};
use crate::starting::{Child, victim};
use fulgurite_sandbox::outcome::End;
use fulgurite_sandbox::testing::{Census, Scope, descendants_of, groups_of, settles};
use libtest_mimic::Failed;
use rustix::process::{Pid, Signal, kill_process};
use std::io::Read;
use std::os::fd::AsFd;

pub fn tests() -> Vec<Test> {
    vec![
        alone("crashes::init_is_killed_while_it_runs_something", init_is_killed_while_it_runs_something),
        alone("crashes::init_is_killed_while_it_is_idle", init_is_killed_while_it_is_idle),
        alone("crashes::the_zygote_of_a_seat_is_killed", the_zygote_of_a_seat_is_killed).with_seat_zygotes(),
        apart("crashes::the_zygote_of_all_is_killed", the_zygote_of_all_is_killed),
        apart("crashes::the_owner_is_killed_while_idle", |_| owner_is_killed("idle", &[1])),
        apart("crashes::the_owner_is_killed_while_an_action_runs", |_| owner_is_killed("running", &[1])),
        apart("crashes::the_owner_is_killed_while_resetting", |_| owner_is_killed("resetting", &POINTS)),
        apart("crashes::the_owner_is_killed_while_creating", |_| owner_is_killed("creating", &POINTS)),
        apart("crashes::the_owner_is_killed_while_starting", |_| owner_is_killed("starting", &[1, 1, 1])),
    ]
}

/// After how many rounds of its loop the victim is killed.
const POINTS: [usize; 6] = [1, 2, 3, 5, 8, 13];

fn kill(pid: u32) -> Checked {
    let pid = Pid::from_raw(pid.cast_signed()).ok_or("no pid")?;
    Ok(kill_process(pid, Signal::KILL)?)
}

fn parent_of(pid: u32) -> Result<u32, Failed> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).ok_or("no parent")?;
    Ok(parent.trim().parse()?)
}

/// Runs an action that goes on, kills a process while it does, and wants to be told.
fn kill_while_running(fixture: &Fixture, target: impl FnOnce(u32) -> Result<u32, Failed>) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    let inside = descendants_of(sandbox.init_pid());
    let target = target(sandbox.init_pid())?;
    let (mut reader, writer) = std::io::pipe()?;
    let errors = memory_file("stderr");
    let assassin = std::thread::spawn(move || {
        let read = reader.read_exact(&mut [0]);
        let killed = kill(target);
        read.map(|()| killed.is_ok())
    });
    let command = Command::sh("echo; sleep 1000");
    let outcome = command.run_with(&mut sandbox, None, writer.as_fd(), errors.as_fd());
    drop(writer);
    check(assassin.join().map_err(|_| "the assassin panicked")??, "it could not be killed")?;
    check(matches!(outcome.end, End::Lost { .. }), format!("{outcome:?}"))?;
    contains(&outcome.end.to_string(), "init has ended")?;
    gone(&inside, "processes of the sandbox")?;
    check(!sandbox.is_sound(), "it is said to be sound")?;
    check(sandbox.begin_reset().is_err(), "it could be reset")?;
    drop(sandbox);
    works(fixture)
}

fn works(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    Command::new(&["/bin/true"]).run(&mut sandbox).succeeded().map(drop)
}

fn init_is_killed_while_it_runs_something(fixture: &Fixture) -> Checked {
    kill_while_running(fixture, Ok)
}

fn init_is_killed_while_it_is_idle(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    let mut inside = descendants_of(sandbox.init_pid());
    inside.push(sandbox.init_pid());
    kill(sandbox.init_pid())?;
    gone(&inside, "processes of the sandbox")?;
    let ran = Command::new(&["/bin/true"]).run(&mut sandbox);
    check(matches!(ran.outcome.end, End::Lost { .. }), format!("{ran:?}"))?;
    contains(&ran.outcome.end.to_string(), "ended")?;
    drop(sandbox);
    works(fixture)
}

fn the_zygote_of_a_seat_is_killed(fixture: &Fixture) -> Checked {
    kill_while_running(fixture, parent_of)?;
    // Idle seats whose zygote has died are replaced, however many there are.
    let held = (0..4).map(|_| fixture.sandbox()).collect::<Result<Vec<_>, _>>()?;
    let zygotes = held.iter().map(|sandbox| parent_of(sandbox.init_pid())).collect::<Result<Vec<_>, _>>()?;
    drop(held);
    for zygote in &zygotes {
        kill(*zygote)?;
    }
    gone(&zygotes, "zygotes")?;
    let held = (0..4).map(|_| fixture.sandbox()).collect::<Result<Vec<_>, _>>()?;
    drop(held);
    works(fixture)
}

fn the_zygote_of_all_is_killed(_: &Fixture) -> Checked {
    let mut child = victim(&["zygote"])?;
    let text = child.finish()?;
    contains(&text, "ran lost: ")?;
    contains(&text, "the zygote has ended")?;
    contains(&text, "destroyed true")?;
    contains(&text, "stopped true")?;
    contains(&text, "nothing")
}

fn owner_is_killed(role: &str, points: &[usize]) -> Checked {
    for rounds in points {
        let mut child = victim(&[role])?;
        let pid = child.pid();
        for _ in 0..*rounds {
            child.wait_for("ready")?;
        }
        kill_and_look(&mut child, pid, role)?;
        let mut next = victim(&["sweep"])?;
        contains(&next.finish()?, "swept")?;
        let left = groups_of(pid).iter().map(|group| group.display().to_string()).collect();
        nothing(left, "cgroups that the next start did not remove")?;
    }
    Ok(())
}

fn kill_and_look(child: &mut Child, pid: u32, role: &str) -> Checked {
    let known = descendants_of(pid);
    if role != "starting" {
        // A zygote at least; between two sandboxes there may be nobody else.
        check(!known.is_empty(), "no process to be left behind")?;
    }
    child.kill()?;
    gone(&known, "processes of the killed owner")?;
    // Also those that were born in between: they are in its cgroups.
    let scope = Scope::of_process(pid);
    let empty = settles(PATIENCE, || Census::of(&scope).total("process") == 0);
    check(empty, format!("left after {role}: {:?}", Census::of(&scope)))
}
