//! Branches that do what the test says, when it says so.

use crate::commit::{Claim, ClaimCell, Side};
use crate::race::admission::LocalGate;
use crate::race::branch::{BranchEnd, Cancel, Desk, Ended, LocalBranch, Product, RemoteBranch};
use crate::race::drive::{Course, Finished, Race, run};
use crate::race::gate::Request;
use crate::race::limits::QUIET_WITHIN;
use crate::race::policy::{LocalStart, Plan, RemoteStart};
use crate::race::reaper::Reaper;
use crate::race::step::{CacheAnswer, FailureRule, Rules, SignalSet};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What happened, in order.
pub type Log = Arc<Mutex<Vec<String>>>;

pub fn log(log: &Log, line: impl Into<String>) {
    log.lock().unwrap().push(line.into());
}

/// A result that tells what becomes of it.
pub struct Paper {
    pub side: Side,
    log: Log,
}

impl Product for Paper {
    fn discard(self, side: Side) {
        assert_eq!(self.side, side);
        log(&self.log, format!("discard {side}"));
    }
}

/// What a branch is told.
pub enum Cue {
    Ready,
    Failed,
    Signal(i32),
    Infra,
    Canceled,
    Panic,
    /// The remote says that it executes; the branch goes on.
    Executing,
    /// By its cancel.
    Stop,
}

/// A branch that waits for cues. A deaf one does not hear `Stop`, but its strings do.
pub struct Puppet {
    side: Side,
    cues: Receiver<Cue>,
    own: SyncSender<Cue>,
    told: SyncSender<&'static str>,
    deaf: bool,
    log: Log,
    answer: Option<CacheAnswer>,
}

/// The strings of a puppet.
pub struct Strings {
    cues: SyncSender<Cue>,
    told: Mutex<Receiver<&'static str>>,
}

impl Strings {
    pub fn cue(&self, cue: Cue) {
        // A puppet that has ended hears nothing.
        let _ = self.cues.send(cue);
    }

    #[track_caller]
    pub fn hears(&self, expected: &str) {
        assert_eq!(self.told.lock().unwrap().recv().unwrap(), expected);
    }
}

pub fn puppet(side: Side, deaf: bool, log: &Log) -> (Box<Puppet>, Strings) {
    let ((own, cues), (teller, told)) = (sync_channel(16), sync_channel(16));
    let strings = Strings { cues: own.clone(), told: Mutex::new(told) };
    let answer = (side == Side::Remote).then_some(CacheAnswer::Miss);
    (Box::new(Puppet { side, cues, own, told: teller, deaf, log: log.clone(), answer }), strings)
}

impl Puppet {
    fn play(self, cancel: &Cancel, desk: Option<&dyn Desk>) -> Ended<Paper> {
        let (own, told) = (self.own.clone(), self.told.clone());
        cancel.arm(move || {
            told.send("stop").unwrap();
            own.send(Cue::Stop).unwrap();
        });
        self.told.send("start").unwrap();
        if let (Some(desk), Some(answer)) = (desk, self.answer) {
            let _ = desk.answer(answer);
        }
        let paper = || Paper { side: self.side, log: self.log.clone() };
        let end = loop {
            match self.cues.recv().unwrap() {
                Cue::Stop if self.deaf => {}
                Cue::Executing => desk.into_iter().for_each(Desk::executing),
                Cue::Stop | Cue::Canceled => break BranchEnd::Canceled,
                Cue::Ready => break BranchEnd::Ready(paper()),
                Cue::Failed => break BranchEnd::Failed(paper()),
                Cue::Signal(signal) => break BranchEnd::Signal(signal, paper()),
                Cue::Infra => break BranchEnd::Infra(format!("the {} side is gone", self.side)),
                Cue::Panic => panic!("a bug of the {} branch", self.side),
            }
        };
        log(&self.log, format!("end {}", self.side));
        cancel.disarm();
        Ended { end, cpu: Duration::from_millis(7) }
    }
}

impl LocalBranch<Paper> for Puppet {
    fn run(self: Box<Self>, cancel: &Cancel) -> Ended<Paper> {
        self.play(cancel, None)
    }
}

impl RemoteBranch<Paper> for Puppet {
    fn run(self: Box<Self>, cancel: &Cancel, desk: &dyn Desk) -> Ended<Paper> {
        self.play(cancel, Some(desk))
    }
}

pub fn rules() -> Rules {
    Rules {
        plan: Plan {
            local: LocalStart::AtOnce,
            remote: RemoteStart::AtOnce { execute_after: Duration::ZERO },
        },
        in_place: false,
        local_holds: false,
        failure: FailureRule::First,
        publish_failures: false,
        let_remote_finish: false,
        may_reap: true,
        ignored_signals: SignalSet::default(),
        deadline: None,
        quiet_within: QUIET_WITHIN,
    }
}

/// A course whose reaper holds so many.
pub fn course(reaped: usize, processors: usize) -> Course {
    Course {
        gate: Arc::new(LocalGate::new(processors, processors)),
        reaper: Arc::new(Reaper::new(reaped)),
        totals: Arc::default(),
    }
}

/// A race of two puppets, and what came of it.
pub struct Stage {
    pub log: Log,
    pub course: Course,
    pub cancel: Cancel,
    pub local: Strings,
    pub remote: Strings,
    race: Mutex<Option<Race<Paper>>>,
}

impl Stage {
    /// `deaf` is the side, if any, that does not hear that it shall stop.
    pub fn new(rules: Rules, deaf: Option<Side>, course: Course) -> Self {
        let log = Log::default();
        let (local, local_strings) = puppet(Side::Local, deaf == Some(Side::Local), &log);
        let (remote, remote_strings) = puppet(Side::Remote, deaf == Some(Side::Remote), &log);
        let request =
            Request { load_factor: 1.0, slow_remote_time: Duration::ZERO, low_pass: false, sole: false };
        let race = Race {
            name: "out.o".to_owned(),
            rules,
            cell: ClaimCell::new(1),
            request,
            local: (rules.plan.local != LocalStart::Never).then_some(local as _),
            remote: (rules.plan.remote != RemoteStart::Never).then_some(remote as _),
            debug: true,
        };
        let (cancel, race) = (Cancel::default(), Mutex::new(Some(race)));
        Stage { log, course, cancel, local: local_strings, remote: remote_strings, race }
    }

    pub fn strings(&self, side: Side) -> &Strings {
        match side {
            Side::Local => &self.local,
            Side::Remote => &self.remote,
        }
    }

    /// Runs the race on this thread.
    pub fn run(&self) -> Finished<Paper, Side> {
        self.run_with(|claim, paper| {
            assert_eq!(claim.side(), paper.side);
            log(&self.log, format!("publish {}", paper.side));
            claim.settle();
            Ok(paper.side)
        })
    }

    /// With another way to publish.
    pub fn run_with(
        &self,
        publish: impl FnOnce(Claim, Paper) -> Result<Side, String>,
    ) -> Finished<Paper, Side> {
        let race = self.race.lock().unwrap().take().unwrap();
        let finished = run(race, &self.course, &self.cancel, publish);
        log(&self.log, "return");
        finished
    }

    /// Runs the race while `script` pulls the strings; both puppets have started when it begins.
    pub fn play(&self, script: impl FnOnce(&Self)) -> Finished<Paper, Side> {
        std::thread::scope(|scope| {
            let race = scope.spawn(|| self.run());
            self.local.hears("start");
            self.remote.hears("start");
            script(self);
            race.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    pub fn logged(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }
}
