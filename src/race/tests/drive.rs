//! D1 to D12 of the acceptance list that have to do with running (D1 and D5's error are among the tests of policy).

use super::puppet::{Cue, Stage, course, log, rules};
use crate::commit::Side::{self, Local, Remote};
use crate::commit::{Claim, ClaimCell};
use crate::race::admission::LocalGate;
use crate::race::branch::{BranchEnd, Cancel, Desk, Ended, LocalBranch, Product, RemoteBranch};
use crate::race::drive::{Course, Race, run};
use crate::race::gate::Request;
use crate::race::policy::{LocalStart, Plan, RemoteStart};
use crate::race::step::{CacheAnswer, Outcome, Rules, Why};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

const BOTH: [Side; 2] = [Local, Remote];

fn stage(deaf: Option<Side>) -> Stage {
    Stage::new(rules(), deaf, course(8, 4))
}

#[test]
fn d2_a_success_stands_though_the_other_fails_later() {
    for side in BOTH {
        let stage = stage(Some(side.other()));
        let finished = stage.play(|stage| {
            stage.strings(side).cue(Cue::Ready);
            stage.strings(side.other()).hears("stop");
        });
        assert_eq!((finished.outcome, finished.published), (Outcome::Won(side), Some(side)));
        assert!(finished.failure.is_none());
        assert_eq!(finished.report.winner(), Some(side));
        // The race did not wait for the loser, whose failure nobody sees.
        assert_eq!(stage.course.reaper.sweep(), 1);
        stage.strings(side.other()).cue(Cue::Failed);
        stage.course.reaper.drain();
        let (end, late) = (format!("end {side}"), side.other());
        let expected = [
            end,
            format!("publish {side}"),
            "return".into(),
            format!("end {late}"),
            format!("discard {late}"),
        ];
        assert_eq!(stage.logged(), expected);
        let totals = stage.course.totals.now();
        assert_eq!((totals.races, totals.raced, totals.reaped), (1, 1, 1));
        assert!(totals.wasted_cpu_us >= 7000, "{totals:?}");
    }
}

#[test]
fn d3_the_first_failure_is_the_actions() {
    for side in BOTH {
        let stage = stage(Some(side.other()));
        let finished = stage.play(|stage| {
            stage.strings(side).cue(Cue::Failed);
            stage.strings(side.other()).hears("stop");
        });
        assert_eq!((finished.outcome, finished.published), (Outcome::Failed(side), None));
        assert_eq!(finished.failure.unwrap().side, side);
        stage.strings(side.other()).cue(Cue::Ready);
        stage.course.reaper.drain();
        let late = side.other();
        let expected =
            [format!("end {side}"), "return".into(), format!("end {late}"), format!("discard {late}")];
        assert_eq!(stage.logged(), expected);
    }
}

#[test]
fn d4_of_two_failures_one_is_told() {
    let stage = stage(None);
    let finished = stage.play(|stage| {
        stage.local.cue(Cue::Failed);
        stage.remote.cue(Cue::Failed);
    });
    let Outcome::Failed(side) = finished.outcome else { panic!("{:?}", finished.outcome) };
    assert_eq!(finished.failure.unwrap().side, side);
    stage.course.reaper.drain();
}

#[test]
fn d5_a_side_that_is_alone_runs_alone() {
    let now = RemoteStart::AtOnce { execute_after: Duration::ZERO };
    for (side, local, remote) in [
        (Local, LocalStart::After(Duration::from_secs(3600)), RemoteStart::Never),
        (Remote, LocalStart::Never, now),
    ] {
        let stage = Stage::new(Rules { plan: Plan { local, remote }, ..rules() }, None, course(8, 1));
        let finished = std::thread::scope(|scope| {
            let race = scope.spawn(|| stage.run());
            stage.strings(side).hears("start");
            stage.strings(side).cue(Cue::Ready);
            race.join().unwrap()
        });
        assert_eq!(finished.outcome, Outcome::Won(side));
        assert_eq!(finished.report.side(side.other()).why, None);
        assert_eq!(stage.course.totals.now().raced, 0);
    }
}

#[test]
fn d6_a_shared_destination_waits_for_the_loser_and_a_private_one_does_not() {
    let in_place = Stage::new(Rules { in_place: true, ..rules() }, Some(Local), course(8, 4));
    let finished = in_place.play(|stage| {
        stage.remote.cue(Cue::Ready);
        stage.local.hears("stop");
        // Its cleanup goes on, for as long as this test likes.
        log(&stage.log, "cleaning");
        stage.local.cue(Cue::Canceled);
    });
    assert_eq!(finished.outcome, Outcome::Won(Remote));
    assert_eq!(in_place.logged(), ["end remote", "cleaning", "end local", "publish remote", "return"]);

    let private = stage(Some(Local));
    private.play(|stage| {
        stage.remote.cue(Cue::Ready);
        stage.local.hears("stop");
    });
    assert_eq!(private.logged(), ["end remote", "publish remote", "return"]);
    private.local.cue(Cue::Canceled);
    private.course.reaper.drain();
}

#[test]
fn a_result_in_place_that_lost_is_removed_before_the_winner_publishes() {
    let stage = Stage::new(Rules { in_place: true, ..rules() }, Some(Local), course(8, 4));
    stage.play(|stage| {
        stage.remote.cue(Cue::Ready);
        stage.local.hears("stop");
        stage.local.cue(Cue::Ready);
    });
    assert_eq!(stage.logged(), ["end remote", "end local", "discard local", "publish remote", "return"]);
}

#[test]
fn d7_one_place_is_enough_in_both_orders() {
    for first in BOTH {
        let course = course(8, 1);
        let (a, b) = (Stage::new(rules(), None, course.clone()), Stage::new(rules(), None, course));
        std::thread::scope(|scope| {
            let one = scope.spawn(|| a.run());
            a.local.hears("start");
            a.remote.hears("start");
            let other = scope.spawn(|| b.run());
            b.remote.hears("start");
            match first {
                // The one that waits for the place does not need it any more.
                Remote => {
                    b.remote.cue(Cue::Ready);
                    assert_eq!(other.join().unwrap().outcome, Outcome::Won(Remote));
                    a.local.cue(Cue::Ready);
                    assert_eq!(one.join().unwrap().outcome, Outcome::Won(Local));
                }
                Local => {
                    a.local.cue(Cue::Ready);
                    assert_eq!(one.join().unwrap().outcome, Outcome::Won(Local));
                    b.local.hears("start");
                    b.local.cue(Cue::Ready);
                    assert_eq!(other.join().unwrap().outcome, Outcome::Won(Local));
                }
            }
        });
        a.course.reaper.drain();
    }
}

#[test]
fn d8_an_interrupt_ends_both_and_leaves_nothing() {
    let stage = Stage::new(rules(), None, course(0, 4));
    let finished = stage.play(|stage| {
        // Again and again: the second time there is nothing to do.
        (0..50).for_each(|_| stage.cancel.cancel());
        stage.local.hears("stop");
        stage.remote.hears("stop");
    });
    assert_eq!((finished.outcome, finished.published), (Outcome::Canceled, None));
    let mut logged = stage.logged();
    assert_eq!(logged.pop().unwrap(), "return");
    logged.sort();
    assert_eq!(logged, ["end local", "end remote"]);
}

#[test]
fn an_interrupt_before_the_start_starts_nothing_that_lasts() {
    let stage = Stage::new(rules(), None, course(0, 4));
    stage.cancel.cancel();
    let finished = stage.run();
    assert_eq!(finished.outcome, Outcome::Canceled);
    assert!(!stage.logged().iter().any(|line| line.starts_with("publish")));
}

#[test]
fn d9_it_returns_after_both_ended_or_were_handed_over() {
    for (cue, outcome) in [(Cue::Ready, Outcome::Won(Local)), (Cue::Failed, Outcome::Failed(Local))] {
        let stage = Stage::new(rules(), Some(Remote), course(0, 4));
        let finished = stage.play(|stage| {
            stage.local.cue(cue);
            stage.remote.hears("stop");
            stage.remote.cue(Cue::Canceled);
        });
        assert_eq!(finished.outcome, outcome);
        let logged = stage.logged();
        let at = |line: &str| logged.iter().position(|logged| logged == line).unwrap();
        assert!(at("end remote") < at("return"), "{logged:?}");
        assert_eq!(at("return"), logged.len() - 1);
        assert!(finished.report.remote.ended_at.is_some());
    }
    // With an interrupt, and a loser that takes its time.
    let stage = Stage::new(rules(), Some(Remote), course(0, 4));
    stage.play(|stage| {
        stage.cancel.cancel();
        stage.remote.hears("stop");
        stage.remote.cue(Cue::Ready);
    });
    let logged = stage.logged();
    assert_eq!(logged.last().unwrap(), "return");
    assert!(logged.contains(&"discard remote".to_owned()), "{logged:?}");
}

#[test]
fn d10_a_bug_propagates_and_cancels_the_other() {
    for side in BOTH {
        let stage = Stage::new(rules(), None, course(0, 4));
        let caught = catch_unwind(AssertUnwindSafe(|| {
            stage.play(|stage| {
                stage.strings(side).cue(Cue::Panic);
                stage.strings(side.other()).hears("stop");
            })
        }));
        let panic = caught.err().unwrap();
        assert_eq!(*panic.downcast::<String>().unwrap(), format!("a bug of the {side} branch"));
        assert_eq!(stage.logged(), [format!("end {}", side.other())]);
    }
}

#[test]
fn a_bug_of_the_loser_does_not_undo_the_win() {
    let stage = Stage::new(rules(), Some(Remote), course(0, 4));
    let finished = stage.play(|stage| {
        stage.local.cue(Cue::Ready);
        stage.remote.hears("stop");
        stage.remote.cue(Cue::Panic);
    });
    assert_eq!(finished.outcome, Outcome::Won(Local));
    assert_eq!(stage.course.totals.now().late_bugs, 1);
}

#[test]
fn d11_a_remote_that_says_interrupted_leaves_the_win_to_local() {
    // After it was cancelled.
    let after = Stage::new(rules(), None, course(0, 4));
    let won = |stage: &Stage, finished: Outcome| {
        assert_eq!(finished, Outcome::Won(Local), "{:?}", stage.logged());
    };
    let finished = after.play(|stage| stage.local.cue(Cue::Ready));
    won(&after, finished.outcome);
    // Just before it would commit, with nobody having told it so.
    let before = stage(None);
    let finished = before.play(|stage| {
        stage.remote.cue(Cue::Canceled);
        stage.local.cue(Cue::Ready);
    });
    won(&before, finished.outcome);
    // Local too, at the same time: one definite end, and no internal error.
    let both = stage(None);
    let finished = both.play(|stage| {
        stage.remote.cue(Cue::Canceled);
        stage.local.cue(Cue::Canceled);
    });
    assert_eq!(finished.outcome, Outcome::NoResult);
    // While it cancels local: it has the claim by then, and what it says of itself comes too late to matter.
    let while_cancelling = stage(Some(Local));
    let finished = while_cancelling.play(|stage| {
        stage.remote.cue(Cue::Ready);
        stage.remote.cue(Cue::Canceled);
        stage.local.hears("stop");
        stage.local.cue(Cue::Canceled);
    });
    assert_eq!(finished.outcome, Outcome::Won(Remote));
    while_cancelling.course.reaper.drain();
}

#[test]
fn infrastructure_and_listed_signals_leave_the_other_side_its_chance() {
    let mut listed = rules();
    listed.ignored_signals.insert(9);
    for (side, cue) in [(Local, Cue::Infra), (Remote, Cue::Infra), (Local, Cue::Signal(9))] {
        let stage = Stage::new(listed, None, course(0, 4));
        let finished = stage.play(|stage| {
            stage.strings(side).cue(cue);
            stage.strings(side.other()).cue(Cue::Ready);
        });
        if !matches!(finished.outcome, Outcome::Won(won) if won == side.other()) {
            panic!("{:?} {:?}", finished.outcome, stage.logged());
        }
    }
    let stage = stage(None);
    let finished = stage.play(|stage| {
        stage.local.cue(Cue::Infra);
        stage.remote.cue(Cue::Infra);
    });
    assert_eq!(finished.outcome, Outcome::NoResult);
    assert_eq!(finished.local_why.unwrap(), "the local side is gone");
    assert_eq!(finished.remote_why.unwrap(), "the remote side is gone");
}

#[test]
fn a_publication_that_fails_is_told_and_the_loser_is_gone() {
    let stage = Stage::new(rules(), None, course(0, 4));
    let finished = std::thread::scope(|scope| {
        let race = scope.spawn(|| {
            stage.run_with(|claim, _| {
                drop(claim);
                Err("the disk is full".to_owned())
            })
        });
        stage.local.hears("start");
        stage.local.cue(Cue::Ready);
        race.join().unwrap()
    });
    assert_eq!(finished.outcome, Outcome::Broken(Local));
    assert_eq!(finished.broken.unwrap(), "the disk is full");
}

#[test]
fn what_happened_is_said() {
    let stage = Stage::new(rules(), None, course(0, 4));
    let finished = stage.play(|stage| stage.local.cue(Cue::Ready));
    assert_eq!(
        finished.report.lines,
        [
            "Dynamic execution of out.o beginning",
            "Local branch of out.o finished and was not cancelled",
            "Cancelling remote branch of out.o",
            "Remote branch of out.o finished and was cancelled",
            "Dynamic execution of out.o ended with local Ready, remote Canceled",
        ]
    );
    let (report, totals) = (&finished.report, stage.course.totals.now());
    assert_eq!((report.local.why, report.remote.why), (Some(Why::AtOnce), Some(Why::AtOnce)));
    assert_eq!(report.answer.unwrap().0, CacheAnswer::Miss);
    assert_eq!((report.margin(), report.wasted().1), (None, Duration::from_millis(7)));
    assert!(report.time_to_quiet().is_some() && report.published_at.is_some());
    assert_eq!((totals.local_wins, totals.wasted_cpu_us), (1, 7000));
}

/// A place that is waited for goes to an action that the remote has not begun.
#[test]
fn once_the_remote_executes_the_place_is_for_another() {
    let gate = LocalGate::new(1, 1);
    let shared = Course { gate: Arc::new(gate.clone()), ..course(8, 1) };
    let stage = |executing| {
        let late = Duration::from_secs(3600);
        let local = LocalStart::OnAnswer { miss: Duration::ZERO, hit: late, silence: late, executing };
        Stage::new(Rules { plan: Plan { local, ..rules().plan }, ..rules() }, None, shared.clone())
    };
    let waiting = |count| {
        while gate.counts() != (1, count) {
            std::thread::yield_now();
        }
    };
    let [first, begun, late, other] =
        [stage(None), stage(Some(Duration::from_secs(3600))), stage(Some(Duration::ZERO)), stage(None)];
    std::thread::scope(|scope| {
        let first_race = scope.spawn(|| first.run());
        first.local.hears("start");
        let begun_race = scope.spawn(|| begun.run());
        waiting(1);
        begun.remote.cue(Cue::Executing);
        waiting(0);
        let late_race = scope.spawn(|| late.run());
        waiting(1);
        // Withdrawn, and there again at once.
        late.remote.cue(Cue::Executing);
        let other_race = scope.spawn(|| other.run());
        waiting(2);
        // Which of the two that wait is the newer one is nobody's business here.
        [&first, &late, &other].iter().for_each(|stage| stage.local.cue(Cue::Ready));
        for race in [first_race, late_race, other_race] {
            assert_eq!(race.join().unwrap().outcome, Outcome::Won(Local));
        }
        begun.remote.cue(Cue::Ready);
        let finished = begun_race.join().unwrap();
        assert_eq!((finished.outcome, finished.report.local.started_at), (Outcome::Won(Remote), None));
        let told = finished.report.execution;
        assert!(told.permitted_at.is_some() && told.permitted_at <= told.begun_at, "{told:?}");
    });
    assert_eq!(gate.counts(), (0, 0));
}

/// A branch that writes into the destination, and is interrupted in the middle.
struct Writer {
    out: PathBuf,
    wrote: SyncSender<()>,
}

struct Bytes(&'static str);

impl Product for Bytes {
    fn discard(self, _: Side) {}
}

impl LocalBranch<Bytes> for Writer {
    fn run(self: Box<Self>, cancel: &Cancel) -> Ended<Bytes> {
        let (stop, stopped) = sync_channel(1);
        cancel.arm(move || {
            let _ = stop.try_send(());
        });
        fs::write(self.out.join("file"), "half of loc").unwrap();
        fs::create_dir(self.out.join("tree/deep")).unwrap();
        fs::write(self.out.join("tree/deep/leaf"), "half of loc").unwrap();
        self.wrote.send(()).unwrap();
        stopped.recv().unwrap();
        // What the duties of a branch in place say: before it returns, it has removed what it wrote.
        fs::remove_file(self.out.join("file")).unwrap();
        fs::remove_dir_all(self.out.join("tree/deep")).unwrap();
        Ended { end: BranchEnd::Canceled, cpu: Duration::ZERO }
    }
}

struct Fetcher(Receiver<()>);

impl RemoteBranch<Bytes> for Fetcher {
    fn run(self: Box<Self>, _: &Cancel, desk: &dyn Desk) -> Ended<Bytes> {
        assert!(desk.answer(CacheAnswer::Hit));
        self.0.recv().unwrap();
        Ended { end: BranchEnd::Ready(Bytes("all of remote")), cpu: Duration::ZERO }
    }
}

#[test]
fn d12_what_was_half_written_in_place_is_gone_before_the_winner_publishes() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().to_owned();
    fs::create_dir(out.join("tree")).unwrap();
    let (wrote, written) = sync_channel(1);
    let request =
        Request { load_factor: 1.0, slow_remote_time: Duration::ZERO, low_pass: false, sole: false };
    let race = Race {
        name: "file".to_owned(),
        rules: Rules { in_place: true, ..rules() },
        cell: ClaimCell::new(1),
        request,
        local: Some(Box::new(Writer { out: out.clone(), wrote }) as _),
        remote: Some(Box::new(Fetcher(written)) as _),
        debug: false,
    };
    let publish = |claim: Claim, bytes: Bytes| {
        assert_eq!(names(&out), ["tree"]);
        assert!(names(&out.join("tree")).is_empty());
        fs::write(out.join("file"), bytes.0).unwrap();
        claim.settle();
        Ok(())
    };
    let finished = run(race, &course(8, 1), &Cancel::default(), publish);
    assert_eq!(finished.outcome, Outcome::Won(Remote));
    assert_eq!(
        (names(&out), fs::read_to_string(out.join("file")).unwrap()),
        (vec!["file".to_owned(), "tree".to_owned()], "all of remote".to_owned(),)
    );
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
