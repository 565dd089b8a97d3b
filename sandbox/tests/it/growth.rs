//! Many runs and many sandboxes: nothing grows.
//!
//! `FULGURITE_IT_RUNS` says how many runs there are in all; `FULGURITE_IT_HEAVY=1` lets the test of a
//! thousand sandboxes run, which wants a quiet machine with memory to spare.
use crate::fixture::{Checked, Command, Fixture, PATIENCE, check, contains, nothing, same};
use crate::registry::{Test, alone, apart};
use crate::starting::victim;
use fulgurite_sandbox::testing::{Census, Scope};

/// Runs in all, unless the environment says otherwise.
const RUNS: usize = 10_000;
/// Sandboxes that share them.
const SANDBOXES: usize = 4;
/// Sandboxes of the heavy test.
const MANY: usize = 1000;

pub fn tests() -> Vec<Test> {
    vec![
        alone("growth::many_runs_leave_nothing", many_runs_leave_nothing),
        alone("growth::many_sandboxes_leave_nothing", many_sandboxes_leave_nothing),
        apart("growth::a_thousand_idle_sandboxes", a_thousand_idle_sandboxes).with_patience(),
    ]
}

fn number(name: &str, otherwise: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

fn everything(fixture: &Fixture) -> Scope {
    Scope::new().with_zygote(fixture.runtime().zygote_pid())
}

fn many_runs_leave_nothing(fixture: &Fixture) -> Checked {
    let runs = number("FULGURITE_IT_RUNS", RUNS) / SANDBOXES;
    // The last one writes, connects and leaves processes, so that resets have something to do.
    let commands = [
        Command::new(&["/bin/true"]),
        Command::sh("echo x > /tmp/x; echo y > /dev/shm/y"),
        Command::probe(&["daemons", "2"]),
    ];
    let first = fixture.sandbox()?;
    drop(first);
    let outside = Census::at_rest(&everything(fixture), PATIENCE);
    for _ in 0..SANDBOXES {
        let mut sandbox = fixture.sandbox()?;
        let with_it = Census::at_rest(&everything(fixture), PATIENCE);
        for run in 0..runs {
            // Every sixteenth run is one of the heavier ones.
            let command = if run % 16 == 15 { &commands[1 + run / 16 % 2] } else { &commands[0] };
            let ran = command.run(&mut sandbox);
            check(ran.outcome.end.is_success() && ran.outcome.quiet, format!("run {run}: {ran:?}"))?;
            sandbox.reset().map_err(|error| format!("reset {run}: {error:?}"))?;
            if run % 500 == 499 {
                let grown = with_it.settled(&everything(fixture), PATIENCE);
                nothing(grown, &format!("grown after {run} runs"))?;
            }
        }
    }
    nothing(outside.settled(&everything(fixture), PATIENCE), "grown in the end")
}

fn many_sandboxes_leave_nothing(fixture: &Fixture) -> Checked {
    drop(fixture.sandbox()?);
    let before = Census::at_rest(&everything(fixture), PATIENCE);
    for round in 0..100 {
        let mut sandbox = fixture.sandbox()?;
        if round % 2 == 0 {
            Command::sh("echo x > /tmp/x").run(&mut sandbox).succeeded()?;
        }
    }
    nothing(before.settled(&everything(fixture), PATIENCE), "grown")
}

fn a_thousand_idle_sandboxes(_: &Fixture) -> Checked {
    let count = number("FULGURITE_IT_SANDBOXES", MANY);
    let text = victim(&["many", &count.to_string()])?.finish()?;
    for line in text.lines() {
        eprintln!("growth::a_thousand_idle_sandboxes: {line}");
    }
    let counted = text.lines().find_map(|line| line.strip_prefix("count ")).ok_or("no count")?;
    let mut numbers = counted.split(' ').filter_map(|number| number.parse::<usize>().ok());
    same(numbers.next(), Some(count), "sandboxes")?;
    // Each has its init and the process that waits; a zygote more where seats have their own.
    let processes = numbers.next().unwrap_or(0);
    check((2 * count..=3 * count + 40).contains(&processes), format!("{processes} processes"))?;
    contains(&text, "nothing")
}
