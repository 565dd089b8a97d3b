//! Leases: whose sandbox it is, how many there may be, and what becomes of those that are not sound.
use crate::fixture::{Checked, Command, Fixture, PATIENCE, check, memory_file, nothing, same};
use crate::registry::{Test, alone};
use fulgurite_sandbox::cgroup::Limits;
use fulgurite_sandbox::outcome::{End, Outcome};
use fulgurite_sandbox::pool::{Lease, Pool, PoolOptions};
use fulgurite_sandbox::sandbox::Action;
use fulgurite_sandbox::spec::SandboxSpec;
use fulgurite_sandbox::testing::{is_alive, settles};
use libtest_mimic::Failed;
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

pub fn tests() -> Vec<Test> {
    vec![
        alone("pools::a_lease_gets_the_last_one_used", a_lease_gets_the_last_one_used),
        alone("pools::tenants_never_share", tenants_never_share),
        alone("pools::another_spec_makes_room", another_spec_makes_room),
        alone("pools::a_lease_waits_for_one_to_be_given_back", a_lease_waits_for_one_to_be_given_back),
        alone("pools::one_that_died_is_replaced", one_that_died_is_replaced),
        alone("pools::one_that_ran_out_of_memory_can_be_used_again", out_of_memory_is_no_end).with_limits(),
        alone("pools::many_threads_lease_at_once", many_threads_lease_at_once),
    ]
}

fn pool(fixture: &Fixture, sandboxes_max: usize) -> Result<Pool, Failed> {
    Ok(Pool::new(fixture.runtime().clone(), PoolOptions { sandboxes_max, idle_max: sandboxes_max })?)
}

fn tenant(fixture: &Fixture, name: &str) -> SandboxSpec {
    SandboxSpec { tenant: name.to_owned(), ..fixture.spec() }
}

fn run(lease: &mut Lease, command: &Command) -> Result<Outcome, Failed> {
    let stdin = File::open("/dev/null")?;
    let (stdout, stderr) = (memory_file("stdout"), memory_file("stderr"));
    Ok(lease.run(&Action {
        arguments: &command.arguments,
        variables: &command.variables,
        directory: &command.directory,
        stdin: stdin.as_fd(),
        stdout: stdout.as_fd(),
        stderr: stderr.as_fd(),
        work: None,
        limits: &command.limits,
        timeout: command.timeout,
        kill_delay: command.kill_delay,
        terminal: false,
        fail_at: 0,
    }))
}

pub fn runs(lease: &mut Lease, script: &str) -> Checked {
    same(run(lease, &Command::sh(script))?.end, End::Exited(0), script)
}

pub fn init_of(lease: &Lease) -> u32 {
    lease.sandbox().map_or(0, fulgurite_sandbox::sandbox::Sandbox::init_pid)
}

fn a_lease_gets_the_last_one_used(fixture: &Fixture) -> Checked {
    let pool = pool(fixture, 2)?;
    let mut first = pool.lease(&fixture.spec())?;
    let init = init_of(&first);
    runs(&mut first, "echo x > /tmp/x")?;
    drop(first);
    for _ in 0..3 {
        let mut again = pool.lease(&fixture.spec())?;
        same(init_of(&again), init, "init")?;
        runs(&mut again, "[ ! -e /tmp/x ] && echo x > /tmp/x")?;
    }
    same(pool.live(), 1, "live")?;
    Ok(pool.stop()?)
}

fn tenants_never_share(fixture: &Fixture) -> Checked {
    let pool = pool(fixture, 4)?;
    let mut owners = std::collections::BTreeMap::new();
    for round in 0..12 {
        let name = ["one", "other", ""][round % 3];
        let mut lease = pool.lease(&tenant(fixture, name))?;
        let owner = *owners.entry(init_of(&lease)).or_insert(name);
        same(owner, name, "tenant of this sandbox before")?;
        runs(&mut lease, "true")?;
    }
    same(owners.len(), 3, "sandboxes")?;
    Ok(pool.stop()?)
}

fn another_spec_makes_room(fixture: &Fixture) -> Checked {
    let pool = pool(fixture, 1)?;
    for name in ["one", "other", "one"] {
        let mut lease = pool.lease(&tenant(fixture, name))?;
        runs(&mut lease, "true")?;
        drop(lease);
        same(pool.live(), 1, "live")?;
    }
    Ok(pool.stop()?)
}

fn a_lease_waits_for_one_to_be_given_back(fixture: &Fixture) -> Checked {
    let pool = pool(fixture, 1)?;
    let held = pool.lease(&fixture.spec())?;
    let init = init_of(&held);
    let (sender, receiver) = sync_channel(1);
    let (other, spec) = (pool.clone(), fixture.spec());
    let waiting = std::thread::spawn(move || {
        let lease = other.lease(&spec).map(|lease| init_of(&lease));
        let _ = sender.send(lease);
    });
    check(receiver.recv_timeout(Duration::from_millis(50)).is_err(), "two leases of one sandbox")?;
    drop(held);
    same(receiver.recv_timeout(PATIENCE)??, init, "init")?;
    waiting.join().map_err(|_| "the waiting thread panicked")?;
    Ok(pool.stop()?)
}

fn one_that_died_is_replaced(fixture: &Fixture) -> Checked {
    let pool = pool(fixture, 1)?;
    for idle in [false, true] {
        let mut lease = pool.lease(&fixture.spec())?;
        let init = init_of(&lease);
        let pid = rustix::process::Pid::from_raw(init.cast_signed()).ok_or("no pid")?;
        if !idle {
            rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
            check(!run(&mut lease, &Command::new(&["/bin/true"]))?.end.is_success(), "it ran")?;
            drop(lease);
        } else {
            runs(&mut lease, "true")?;
            drop(lease);
            rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
            check(settles(PATIENCE, || !is_alive(init)), "it lives on")?;
        }
        let mut next = pool.lease(&fixture.spec())?;
        check(init_of(&next) != init, "the dead one again")?;
        runs(&mut next, "true")?;
    }
    check(settles(PATIENCE, || pool.live() == 1), format!("{} live", pool.live()))?;
    Ok(pool.stop()?)
}

fn out_of_memory_is_no_end(fixture: &Fixture) -> Checked {
    let pool = pool(fixture, 1)?;
    for _ in 0..3 {
        let mut lease = pool.lease(&fixture.spec())?;
        let limits = Limits { memory_bytes_max: Some(32 << 20), ..Limits::default() };
        let command = Command { limits, ..Command::probe(&["allocate", "128"]) };
        let end = run(&mut lease, &command)?.end;
        check(matches!(end, End::OutOfMemory { .. }), format!("{end:?}"))?;
        drop(lease);
        let mut lease = pool.lease(&fixture.spec())?;
        runs(&mut lease, "true")?;
    }
    Ok(pool.stop()?)
}

fn many_threads_lease_at_once(fixture: &Fixture) -> Checked {
    let pool = pool(fixture, 4)?;
    let errors: Vec<String> = std::thread::scope(|scope| {
        let work = |number: usize| {
            let (pool, spec) = (&pool, tenant(fixture, ["one", "other"][number % 2]));
            move || -> Result<(), String> {
                for _ in 0..20 {
                    let mut lease = pool.lease(&spec).map_err(|error| error.to_string())?;
                    runs(&mut lease, "[ ! -e /tmp/x ] && echo x > /tmp/x")
                        .map_err(|error| format!("{error:?}"))?;
                }
                Ok(())
            }
        };
        let threads: Vec<_> = (0..8).map(|number| scope.spawn(work(number))).collect();
        threads
            .into_iter()
            .filter_map(|thread| thread.join().map_or(Some("panicked".into()), Result::err))
            .collect()
    });
    nothing(errors, "threads that failed")?;
    check(pool.live() <= 4, "more than may live")?;
    Ok(pool.stop()?)
}
