//! How long a loser lives: from the claim of a remote branch to the quiet of a local one of 50 processes.
//!
//! ```text
//!   local    sandbox: a shell and 49 more, each says "up", then waits or computes ──────┤killed ─► quiet
//!   remote   waits until all are up ─► has a result ─► claim ─► abort ─► publish
//! ```
//! The race is that of the daemon ([`crate::race::drive`]) with a real sandbox; only the remote's result is made up.
//! Fifty computing processes on a few processors are the worst that a loser can be: whoever kills them has to get a
//! processor first.
use super::limits::LOSER_PROCESSES;
use crate::bench::BenchError;
use crate::bench::command::find_program;
use crate::bench::cpu::TreeCpu;
use crate::bench::report::CaseReport;
use crate::bench::sandboxed::{limits, variables_inside};
use crate::bench::statistics::{median, percentile, tenths};
use crate::commit::{Claims, Side};
use crate::race::admission::LocalGate;
use crate::race::branch::{BranchEnd, Cancel, Desk, Ended, LocalBranch, Product, RemoteBranch};
use crate::race::drive::{Course, Race, run};
use crate::race::gate::Request;
use crate::race::limits::QUIET_WITHIN;
use crate::race::policy::{LocalStart, Plan, RemoteStart};
use crate::race::reaper::Reaper;
use crate::race::report::{Report, Totals};
use crate::race::step::{CacheAnswer, FailureRule, Rules, SignalSet};
use fulgurite_sandbox::outcome::End;
use fulgurite_sandbox::pool::{Pool, PoolOptions};
use fulgurite_sandbox::runtime::Runtime;
use fulgurite_sandbox::sandbox::Action;
use fulgurite_sandbox::spec::SandboxSpec;
use rustix::fd::AsFd;
use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What each process says.
const UP: &str = "up\n";
/// The longest that the processes may take to be there.
const STARTING: Duration = Duration::from_secs(30);
/// How often it is looked whether they are.
const LOOK_EACH: Duration = Duration::from_millis(1);

/// What a loser does until its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// Its processes wait, as those of a build that waits for files.
    Waiting,
    /// Each of its processes computes.
    Computing,
}

impl Doing {
    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Doing::Waiting => "waiting",
            Doing::Computing => "computing",
        }
    }

    /// For a shell, without end.
    fn script(self) -> &'static str {
        match self {
            Doing::Waiting => "exec sleep 1000",
            Doing::Computing => "while :; do :; done",
        }
    }
}

/// Nothing: the result of a race in which only the end matters.
struct Nothing;

impl Product for Nothing {
    fn discard(self, _: Side) {}
}

struct Loser {
    runtime: Arc<Runtime>,
    pool: Arc<Pool>,
    said: File,
    doing: Doing,
    used: Arc<Mutex<Vec<f64>>>,
}

struct Winner {
    said: File,
}

/// Ends so many losers.
///
/// # Errors
/// No sandbox, no files; or a race that went otherwise.
pub fn measure(
    runtime: &Arc<Runtime>,
    directory: &Path,
    losers: usize,
    doing: Doing,
) -> Result<CaseReport, BenchError> {
    find_program("sh", "install a shell")?;
    let options = PoolOptions { sandboxes_max: 2, idle_max: 2 };
    let pool = Arc::new(Pool::new(runtime.clone(), options).map_err(BenchError::file("start a thread"))?);
    pool.prepare(&SandboxSpec::default(), 2)?;
    let used = Arc::new(Mutex::new(Vec::new()));
    let measured = all(runtime, &pool, (directory, &used), losers, doing);
    if let Some(pool) = Arc::into_inner(pool) {
        pool.stop()?;
    }
    let reports = measured?;
    let micros = |duration: Duration| duration.as_nanos() as f64 / 1000.0;
    let quiet: Vec<f64> = reports.iter().filter_map(Report::time_to_quiet).map(micros).collect();
    let published: Vec<f64> = reports
        .iter()
        .filter_map(|report| Some(micros(report.published_at?.saturating_sub(report.remote.ended_at?))))
        .collect();
    let used = std::mem::take(&mut *used.lock().unwrap_or_else(PoisonError::into_inner));
    let parts = [
        ("cpu_after_claim_p50_us", median(&used)),
        ("cpu_after_claim_p99_us", percentile(&used, 99)),
        ("published_p50_us", median(&published)),
        ("published_p99_us", percentile(&published, 99)),
        ("quiet_max_us", percentile(&quiet, 100)),
    ];
    Ok(CaseReport {
        name: "abort".to_owned(),
        params: BTreeMap::from([
            ("doing", doing.name().to_owned()),
            ("processes", LOSER_PROCESSES.to_string()),
        ]),
        n: quiet.len(),
        p50_us: Some(tenths(median(&quiet))),
        p95_us: Some(tenths(percentile(&quiet, 95))),
        p99_us: Some(tenths(percentile(&quiet, 99))),
        parts: parts.into_iter().map(|(name, value)| (name.to_owned(), tenths(value))).collect(),
        ..CaseReport::default()
    })
}

fn all(
    runtime: &Arc<Runtime>,
    pool: &Arc<Pool>,
    (directory, used): (&Path, &Arc<Mutex<Vec<f64>>>),
    losers: usize,
    doing: Doing,
) -> Result<Vec<Report>, BenchError> {
    let course = Course {
        gate: Arc::new(LocalGate::new(1, 1)),
        reaper: Arc::new(Reaper::default()),
        totals: Arc::new(Totals::default()),
    };
    let claims = Claims::new(1);
    let path = directory.join("losers");
    let mut reports = Vec::new();
    for number in 0..losers {
        let failed = || BenchError::file(format!("make {}", path.display()));
        let said = File::create(&path).map_err(failed())?;
        let read = File::open(&path).map_err(failed())?;
        let race = Race {
            name: format!("loser {number}"),
            rules: rules(),
            cell: claims.cell(),
            request: Request {
                load_factor: 0.0,
                slow_remote_time: Duration::ZERO,
                low_pass: false,
                sole: false,
            },
            local: Some(Box::new(Loser {
                runtime: runtime.clone(),
                pool: pool.clone(),
                said,
                doing,
                used: used.clone(),
            })),
            remote: Some(Box::new(Winner { said: read })),
            debug: false,
        };
        let finished = run(race, &course, &Cancel::default(), |claim, _: Nothing| {
            claim.settle();
            Ok(())
        });
        if finished.report.winner() != Some(Side::Remote) || finished.report.time_to_quiet().is_none() {
            let whys = [finished.local_why, finished.remote_why].into_iter().flatten();
            let why = whys.collect::<Vec<_>>().join("; ");
            let why = format!("a race to be won by the remote side ended as {:?}: {why}", finished.outcome);
            return Err(BenchError::Race { why });
        }
        reports.push(finished.report);
    }
    Ok(reports)
}

fn rules() -> Rules {
    let remote = RemoteStart::AtOnce { execute_after: Duration::ZERO };
    Rules {
        plan: Plan { local: LocalStart::AtOnce, remote },
        in_place: false,
        local_holds: false,
        failure: FailureRule::First,
        publish_failures: false,
        let_remote_finish: false,
        // The race waits for the loser, so that it knows when that was quiet.
        may_reap: false,
        ignored_signals: SignalSet::default(),
        deadline: None,
        quiet_within: QUIET_WITHIN,
    }
}

impl LocalBranch<Nothing> for Loser {
    fn run(self: Box<Self>, cancel: &Cancel) -> Ended<Nothing> {
        let end = match self.live(cancel) {
            Ok(End::Canceled) => BranchEnd::Canceled,
            Ok(end) => BranchEnd::Infra(format!("the loser {end}")),
            Err(why) => BranchEnd::Infra(why),
        };
        Ended { end, cpu: Duration::ZERO }
    }
}

impl Loser {
    fn live(&self, cancel: &Cancel) -> Result<End, String> {
        let mut lease = self.pool.lease(&SandboxSpec::default()).map_err(|error| error.to_string())?;
        let cpu = Arc::new(TreeCpu::new(&self.runtime));
        lease.sandbox().into_iter().for_each(|sandbox| cpu.note(sandbox));
        let at_claim = Arc::new(Mutex::new(None));
        if let Some(killer) = lease.killer() {
            let (cpu, at_claim) = (cpu.clone(), at_claim.clone());
            cancel.arm(move || {
                *at_claim.lock().unwrap_or_else(PoisonError::into_inner) = Some(cpu.begin().sandbox_ns);
                killer.kill();
            });
        }
        let doing = self.doing.script();
        let script = format!(
            "i=1; while [ $i -lt {LOSER_PROCESSES} ]; do (echo up; {doing}) & i=$((i+1)); done; echo up; {doing}"
        );
        let script = CString::new(script).map_err(|error| error.to_string())?;
        let null = File::open("/dev/null").map_err(|error| format!("cannot open /dev/null: {error}"))?;
        let outcome = lease.run(&Action {
            arguments: &[c"/bin/sh".to_owned(), c"-c".to_owned(), script],
            variables: &variables_inside(),
            directory: c"/tmp",
            stdin: null.as_fd(),
            stdout: self.said.as_fd(),
            stderr: null.as_fd(),
            work: None,
            limits: &limits(&self.runtime),
            timeout: Some(2 * STARTING),
            kill_delay: Duration::ZERO,
            terminal: false,
            fail_at: 0,
        });
        cancel.disarm();
        if let Some(at_claim) = *at_claim.lock().unwrap_or_else(PoisonError::into_inner) {
            let used = cpu.begin().sandbox_ns.saturating_sub(at_claim) as f64 / 1000.0;
            self.used.lock().unwrap_or_else(PoisonError::into_inner).push(used);
        }
        match outcome.quiet {
            true => Ok(outcome.end),
            false => Err("the loser never was quiet".to_owned()),
        }
    }
}

impl RemoteBranch<Nothing> for Winner {
    fn run(self: Box<Self>, _: &Cancel, desk: &dyn Desk) -> Ended<Nothing> {
        let wanted = (UP.len() * LOSER_PROCESSES) as u64;
        let begun = Instant::now();
        let up = || self.said.metadata().map_or(0, |data| data.len());
        while up() < wanted && begun.elapsed() < STARTING {
            // The losers append to a file, which gives no event through an overlay; this wait is not measured.
            std::thread::sleep(LOOK_EACH);
        }
        let end = match up() >= wanted && desk.answer(CacheAnswer::Hit) {
            true => BranchEnd::Ready(Nothing),
            false => BranchEnd::Infra(format!("only {} bytes of {wanted} were said", up())),
        };
        Ended { end, cpu: Duration::ZERO }
    }
}
