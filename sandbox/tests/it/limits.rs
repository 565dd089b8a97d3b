//! Limits hold, are said, and follow the action; what was used is counted.
use crate::fixture::{Checked, Command, Fixture, Ran, check, contains, same};
use crate::registry::{Test, test};
use fulgurite_sandbox::cgroup::Limits;
use fulgurite_sandbox::outcome::End;
use fulgurite_sandbox::testing::groups_of;
use std::time::Duration;

const MIB: u64 = 1 << 20;

pub fn tests() -> Vec<Test> {
    let tests = vec![
        test("limits::too_much_memory_is_said_to_be_that", too_much_memory_is_said_to_be_that),
        test("limits::a_full_tmp_counts_as_memory", a_full_tmp_counts_as_memory),
        test("limits::a_child_out_of_memory_is_reported", a_child_out_of_memory_is_reported),
        test("limits::forks_beyond_the_limit_are_counted", forks_beyond_the_limit_are_counted),
        test("limits::the_cpu_limit_stands_in_the_cgroup", the_cpu_limit_stands_in_the_cgroup),
        test("limits::what_cannot_be_applied_is_an_error", what_cannot_be_applied_is_an_error),
        test("limits::they_change_from_action_to_action", they_change_from_action_to_action),
        test("limits::cpu_time_is_counted_for_each_run", cpu_time_is_counted_for_each_run),
        test("limits::peak_memory_is_about_right", peak_memory_is_about_right),
    ];
    tests.into_iter().map(Test::with_limits).collect()
}

fn memory(mebibytes: u64) -> Limits {
    Limits { memory_bytes_max: Some(mebibytes * MIB), ..Limits::default() }
}

fn allocate(mebibytes: u64, limits: Limits) -> Command {
    Command { limits, ..Command::probe(&["allocate", &mebibytes.to_string()]) }
}

fn ran_out(ran: &Ran, limit: u64) -> Checked {
    match ran.outcome.end {
        End::OutOfMemory { peak_bytes, limit_bytes } => {
            same(limit_bytes, Some(limit * MIB), "limit")?;
            let peak = peak_bytes.ok_or("no peak")?;
            check(peak <= limit * MIB && peak > limit * MIB / 2, format!("peak {peak}"))?;
            let kills = ran.outcome.usage.oom_kills;
            check(kills.is_some_and(|count| count > 0), format!("kills: {kills:?}"))
        }
        _ => Err(format!("expected to run out of memory: {ran:?}").into()),
    }
}

fn too_much_memory_is_said_to_be_that(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    let ran = allocate(256, memory(64)).run(&mut sandbox);
    ran_out(&ran, 64)?;
    check(ran.outcome.quiet, "not quiet")?;
    contains(&ran.outcome.end.to_string(), "ran out of memory (peak")?;
    // Init has survived, and the next run is not blamed for this one.
    check(sandbox.is_sound(), "the sandbox is not sound")?;
    sandbox.reset()?;
    let ran = allocate(16, memory(64)).run(&mut sandbox);
    same(ran.outcome.usage.oom_kills, Some(0), "kills of the next run")?;
    ran.succeeded().map(drop)
}

fn a_full_tmp_counts_as_memory(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    let mut command = Command::sh("head -c 268435456 /dev/zero > /tmp/large");
    command.limits = memory(64);
    ran_out(&command.run(&mut sandbox), 64)?;
    // What filled the memory lies in /tmp, and goes with it. On v1 init has the same cgroup, and the kernel may have
    // taken it for the culprit, since what lies in a tmpfs is nobody's; then the sandbox has gone with it.
    if sandbox.reset().is_err() {
        sandbox = fixture.sandbox()?;
    }
    allocate(40, memory(64)).run(&mut sandbox).succeeded().map(drop)
}

fn a_child_out_of_memory_is_reported(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    // The shell survives its child, and says 0: the kernel's word is the one that counts.
    let mut command = Command::sh("/it probe allocate 256; exit 0");
    command.limits = memory(64);
    ran_out(&command.run(&mut sandbox), 64)
}

fn forks_beyond_the_limit_are_counted(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    let mut command = Command::probe(&["daemons", "40"]);
    command.limits.pids_max = Some(20);
    let ran = command.run(&mut sandbox);
    check(!ran.outcome.end.is_success(), "forty daemons fit in twenty")?;
    let denied = ran.outcome.usage.pids_denied;
    check(denied.is_some_and(|count| count > 0), format!("denied: {denied:?}"))?;
    sandbox.reset()?;
    let ran = Command::probe(&["daemons", "40"]).run(&mut sandbox);
    same(ran.outcome.usage.pids_denied, Some(0), "denied without a limit")?;
    ran.succeeded().map(drop)
}

fn the_cpu_limit_stands_in_the_cgroup(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    let quotas = || -> Vec<String> {
        let files = ["cpu.cfs_quota_us", "cpu.max"];
        let groups = groups_of(std::process::id());
        let read = |group: &std::path::PathBuf| files.map(|file| std::fs::read_to_string(group.join(file)));
        groups.iter().flat_map(read).flatten().map(|text| text.trim().to_owned()).collect()
    };
    for (milli, v1, v2) in [(1370, "137000", "137000 100000"), (290, "29000", "29000 100000")] {
        let mut command = Command::new(&["/bin/true"]);
        command.limits = Limits { cpu_milli_max: Some(milli), cpu_weight: Some(77), ..Limits::default() };
        command.run(&mut sandbox).succeeded()?;
        let found = quotas();
        check(found.iter().any(|text| text == v1 || text == v2), format!("{milli}: {found:?}"))?;
        sandbox.reset()?;
    }
    Command::new(&["/bin/true"]).run(&mut sandbox).succeeded()?;
    let left = quotas().into_iter().filter(|text| text.starts_with("29000")).collect::<Vec<_>>();
    same(left, Vec::new(), "quotas after the limit was lifted")
}

fn what_cannot_be_applied_is_an_error(fixture: &Fixture) -> Checked {
    let mut cases = vec![
        (Limits { pids_max: Some(0), ..Limits::default() }, "pids_max"),
        (Limits { memory_bytes_max: Some(1), ..Limits::default() }, "memory_bytes_max"),
        (Limits { cpu_milli_max: Some(1), ..Limits::default() }, "cpu_milli_max"),
    ];
    if fixture.runtime().features().shares_memory_cgroup {
        // cgroup v1 has no such limit.
        cases.push((Limits { memory_bytes_high: Some(64 * MIB), ..Limits::default() }, "memory_bytes_high"));
    }
    let mut sandbox = fixture.sandbox()?;
    for (limits, name) in cases {
        let ran = Command { limits, ..Command::sh("echo it ran") }.run(&mut sandbox);
        check(matches!(ran.outcome.end, End::Refused { .. }), format!("{name}: {ran:?}"))?;
        contains(&ran.outcome.end.to_string(), name)?;
        same(ran.stdout.as_str(), "", "output of a command that must not run")?;
    }
    // Nothing was run, so nothing has to be reset.
    Command::new(&["/bin/true"]).run(&mut sandbox).succeeded().map(drop)
}

fn they_change_from_action_to_action(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    for (mebibytes, limits, fits) in [
        (100, memory(64), false),
        (100, memory(200), true),
        (100, memory(64), false),
        (100, Limits::default(), true),
        (40, memory(64), true),
    ] {
        let ran = allocate(mebibytes, limits.clone()).run(&mut sandbox);
        if fits {
            ran.succeeded()?;
        } else {
            ran_out(&ran, 64)?;
        }
        sandbox.reset()?;
    }
    Ok(())
}

fn cpu_time_is_counted_for_each_run(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    // Starting a program alone takes an emulated machine tenths of a second.
    let usage = Command::probe(&["burn", "1000"]).run(&mut sandbox).ended(End::Exited(0))?.outcome.usage;
    check(usage.cpu_user_us > 500_000, format!("{usage:?}"))?;
    check(usage.cpu_from_cgroup, "not from the cgroup")?;
    sandbox.reset()?;
    let usage = Command::new(&["/bin/true"]).run(&mut sandbox).ended(End::Exited(0))?.outcome.usage;
    check(usage.cpu_user_us < 500_000, format!("the burner's time was counted again: {usage:?}"))?;
    sandbox.reset()?;
    // Whoever is killed has used what it used.
    let mut command = Command::probe(&["burn", "60000"]);
    command.timeout = Some(Duration::from_millis(400));
    let usage = command.run(&mut sandbox).outcome.usage;
    check(usage.cpu_user_us > 10_000, format!("{usage:?}"))
}

fn peak_memory_is_about_right(fixture: &Fixture) -> Checked {
    let mut sandbox = fixture.sandbox()?;
    for mebibytes in [100, 20] {
        let ran = allocate(mebibytes, Limits::default()).run(&mut sandbox).ended(End::Exited(0))?;
        let peak = ran.outcome.usage.memory_peak_bytes.ok_or("no peak")?;
        let range = mebibytes * MIB..(mebibytes + 40) * MIB;
        check(range.contains(&peak), format!("{mebibytes} MiB were used, {peak} bytes counted"))?;
        sandbox.reset()?;
    }
    Ok(())
}
