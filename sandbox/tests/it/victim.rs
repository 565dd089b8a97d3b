//! Processes that are started to be killed, or to start a runtime under conditions that the tests' own cannot
//! have.
//!
//! `it victim ROLE`: says what it has on standard output, one word and then numbers a line; ends when its
//! standard input ends, unless it is killed before.
use crate::fixture::{Command, options, probe_mount};
use fulgurite_sandbox::runtime::{CgroupUse, Runtime, RuntimeOptions, Template};
use fulgurite_sandbox::sandbox::Sandbox;
use fulgurite_sandbox::spec::SandboxSpec;
use fulgurite_sandbox::testing::{Census, Scope, is_alive, settles};
use rustix::process::{Pid, Signal, kill_process};
use std::error::Error;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

type Played = Result<(), Box<dyn Error>>;

/// What is done with a sandbox between two runs.
type Between = fn(Sandbox, &Runtime, &Arc<Template>) -> Result<Sandbox, Box<dyn Error>>;

/// Runs a role.
pub fn main(arguments: &[String]) -> ExitCode {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let played = match arguments.as_slice() {
        ["idle"] => idle(),
        ["running"] => running(),
        ["resetting"] => looping(|sandbox, _, _| Ok(sandbox)),
        ["creating"] => looping(|sandbox, runtime, template| {
            sandbox.destroy(runtime)?;
            Ok(Sandbox::create(runtime, template)?)
        }),
        ["starting"] => starting(),
        ["hosting"] => hosting(),
        ["sweep"] => sweep(),
        ["stop"] => stop(),
        ["threads"] => with_threads(),
        ["no-cgroups"] => without_cgroups(),
        ["zygote"] => without_its_zygote(),
        ["many", count] => many(count.parse().unwrap_or(1000)),
        _ => Err(format!("no such role: {arguments:?}").into()),
    };
    match played {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("failed {error}"));
            ExitCode::FAILURE
        }
    }
}

fn say(line: &str) {
    // Whoever listens may be gone; then there is nobody to tell.
    let _ = writeln!(std::io::stdout(), "{line}").and_then(|()| std::io::stdout().flush());
}

fn wait_for_the_end() -> Played {
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn start() -> Result<(Runtime, Arc<Template>), Box<dyn Error>> {
    let runtime = Runtime::start(&options())?;
    let template = runtime.template(&spec())?;
    Ok((runtime, template))
}

fn spec() -> SandboxSpec {
    SandboxSpec { mounts: vec![probe_mount()], ..SandboxSpec::default() }
}

fn idle() -> Played {
    let (runtime, template) = start()?;
    let _sandboxes = (0..3).map(|_| Sandbox::create(&runtime, &template)).collect::<Result<Vec<_>, _>>()?;
    say("ready");
    wait_for_the_end()
}

fn running() -> Played {
    let (runtime, template) = start()?;
    let mut sandbox = Sandbox::create(&runtime, &template)?;
    let mut command = Command::sh("trap '' TERM HUP INT; /it probe daemons 5; echo ready; sleep 1000");
    command.timeout = None;
    let (stdout, stderr) = (std::io::stdout(), std::io::stderr());
    let outcome = command.run_with(&mut sandbox, None, stdout.as_fd(), stderr.as_fd());
    Err(format!("the action ended: {outcome:?}").into())
}

/// Runs and resets, and does something else in between, until it is killed. Says `ready` each time.
fn looping(between: Between) -> Played {
    let (runtime, template) = start()?;
    let mut sandbox = Sandbox::create(&runtime, &template)?;
    loop {
        let ran = Command::sh("echo x > /tmp/x").run(&mut sandbox);
        if !ran.outcome.end.is_success() {
            return Err(format!("{ran:?}").into());
        }
        sandbox.begin_reset()?;
        say("ready");
        sandbox.finish_reset()?;
        sandbox = between(sandbox, &runtime, &template)?;
    }
}

/// Says `ready` before everything, so that it is killed while it starts.
fn starting() -> Played {
    say("ready");
    let (runtime, template) = start()?;
    let _sandbox = Sandbox::create(&runtime, &template)?;
    wait_for_the_end()
}

/// Hosts a worker and changes its view until it is killed.
fn hosting() -> Played {
    let runtime = Arc::new(Runtime::start(&options())?);
    crate::workers::host_until_killed(&runtime, &spec(), || say("ready"))
}

/// Only starts and stops, which removes what others left.
fn sweep() -> Played {
    let (runtime, template) = start()?;
    Sandbox::create(&runtime, &template)?.destroy(&runtime)?;
    runtime.stop()?;
    say("swept");
    Ok(())
}

/// All that this process holds, but for its mounts, which are not the host's any more.
fn census() -> Census {
    Census::of(&Scope::new().without("mount").without("descriptor dev/null"))
}

fn left_since(before: &Census) -> Played {
    let left = before
        .settled(&Scope::new().without("mount").without("descriptor dev/null"), Duration::from_secs(10));
    if left.is_empty() { Ok(()) } else { Err(left.join("; ").into()) }
}

fn stop() -> Played {
    let before = census();
    let (runtime, template) = start()?;
    let sandboxes = (0..40).map(|_| Sandbox::create(&runtime, &template)).collect::<Result<Vec<_>, _>>()?;
    for mut sandbox in sandboxes {
        let ran = Command::new(&["/bin/true"]).run(&mut sandbox);
        if !ran.outcome.end.is_success() {
            return Err(format!("{ran:?}").into());
        }
        sandbox.destroy(&runtime)?;
    }
    drop(template);
    runtime.stop()?;
    left_since(&before)?;
    say("nothing");
    Ok(())
}

fn with_threads() -> Played {
    let (sender, receiver) = std::sync::mpsc::sync_channel::<()>(1);
    let thread = std::thread::spawn(move || receiver.recv());
    let answer = Runtime::start(&options());
    drop(sender);
    let _ = thread.join();
    match answer {
        Ok(_) => Err("it started beside a thread".into()),
        Err(error) => {
            say(&format!("refused {error}"));
            Ok(())
        }
    }
}

fn without_cgroups() -> Played {
    let before = census();
    let runtime = Runtime::start(&RuntimeOptions { cgroups: CgroupUse::None, once: false })?;
    let template = runtime.template(&spec())?;
    let mut sandbox = Sandbox::create(&runtime, &template)?;
    let ran = Command::probe(&["burn", "100"]).run(&mut sandbox);
    say(&format!("ran {:?} {}", ran.outcome.end, ran.outcome.usage.cpu_from_cgroup));
    sandbox.begin_reset()?;
    sandbox.finish_reset()?;
    let mut command = Command::sh("echo it ran");
    command.limits.pids_max = Some(100);
    say(&format!("limited {}", command.run(&mut sandbox).outcome.end));
    sandbox.destroy(&runtime)?;
    drop(template);
    runtime.stop()?;
    left_since(&before)?;
    say("nothing");
    Ok(())
}

/// Kills its own zygote: what is asked of it then fails in words, and what is left can still be stopped.
fn without_its_zygote() -> Played {
    let before = census();
    let (runtime, template) = start()?;
    let mut sandbox = Sandbox::create(&runtime, &template)?;
    let (zygote, init) = (runtime.zygote_pid(), sandbox.init_pid());
    kill_process(Pid::from_raw(zygote.cast_signed()).ok_or("no pid")?, Signal::KILL)?;
    if !settles(Duration::from_secs(10), || !is_alive(init)) {
        return Err("the sandbox outlived the zygote".into());
    }
    say(&format!("ran {}", Command::new(&["/bin/true"]).run(&mut sandbox).outcome.end));
    let destroyed = sandbox.destroy(&runtime);
    say(&format!("destroyed {}", destroyed.is_ok()));
    match Sandbox::create(&runtime, &template) {
        Ok(_) => return Err("a sandbox without a zygote".into()),
        Err(error) => say(&format!("create {error}")),
    }
    drop(template);
    let stopped = runtime.stop();
    say(&format!("stopped {}", stopped.is_ok()));
    left_since(&before)?;
    say("nothing");
    Ok(())
}

/// Memory in use by the whole machine: what cannot be had at once, and what the kernel holds for itself, in
/// KiB.
fn used_kib() -> [u64; 2] {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kernel = ["Slab:", "KernelStack:", "PageTables:", "Percpu:"].map(|name| field(&text, name));
    [field(&text, "MemTotal:") - field(&text, "MemAvailable:"), kernel.iter().sum()]
}

fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// The share in memory of all that descends from this process, in KiB.
fn proportional_kib() -> u64 {
    let rollup = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let pids = fulgurite_sandbox::testing::descendants_of(std::process::id());
    pids.iter().map(|pid| field(&rollup(pid), "Pss:")).sum()
}

/// The middle one of some durations.
fn median(part: &[Duration]) -> Duration {
    let mut part = part.to_vec();
    part.sort_unstable();
    part.get(part.len() / 2).copied().unwrap_or_default()
}

/// Makes many idle sandboxes, says what they cost, and takes them apart.
fn many(count: usize) -> Played {
    let before = census();
    let (runtime, template) = start()?;
    let (used, share) = (used_kib(), proportional_kib());
    let mut sandboxes = Vec::with_capacity(count);
    let mut costs = Vec::with_capacity(count);
    for _ in 0..count {
        let started = Instant::now();
        sandboxes.push(Sandbox::create(&runtime, &template)?);
        costs.push(started.elapsed());
    }
    let (used_now, share_now) = (used_kib(), proportional_kib());
    say(&format!("count {} {}", sandboxes.len(), Census::take().total("process")));
    let each = |from: u64, to: u64| to.saturating_sub(from) as f64 / count as f64;
    say(&format!(
        "memory of each in KiB: {:.0} by MemAvailable, {:.0} in processes (Pss), {:.0} in the kernel",
        each(used[0], used_now[0]),
        each(share, share_now),
        each(used[1], used_now[1]),
    ));
    let hundreds: Vec<String> = costs.chunks(100).map(|part| format!("{:?}", median(part))).collect();
    let (early, late) =
        (costs.get(10..20).unwrap_or(&[]), costs.get(count.saturating_sub(10)..).unwrap_or(&[]));
    say(&format!("creation {:?} for the 10th to 20th, {:?} for the last ten", median(early), median(late)));
    say(&format!("creation by hundreds: {}", hundreds.join(" ")));
    let started = Instant::now();
    for sandbox in sandboxes {
        sandbox.destroy(&runtime)?;
    }
    drop(template);
    runtime.stop()?;
    say(&format!("teardown {:?}", started.elapsed()));
    left_since(&before)?;
    say("nothing");
    Ok(())
}
