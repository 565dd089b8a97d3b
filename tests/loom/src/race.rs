//! Claims, cancellations, failures and crashes against each other: two and three actors under every schedule, four
//! under all with at most three preemptions (without a bound they take hours).
use crate::claim::{ClaimCell, Lost, Side, State};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

/// What an actor of a race does.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// Finishes, claims, publishes.
    Finish(Side),
    /// Finishes, claims, and dies before it has published.
    Crash(Side),
    /// Fails: the action's failure, if nobody was first.
    Fail,
    /// The caller cancels.
    Cancel,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Came {
    Published(Side),
    Crashed(Side),
    Ended,
    Lost(Lost),
    TooLate,
}

fn perform(cell: &ClaimCell, act: Act, visible: &AtomicUsize) -> Came {
    match act {
        Act::Finish(side) => match cell.claim(side) {
            Ok(claim) => {
                visible.fetch_add(1, Ordering::Relaxed);
                claim.settle();
                Came::Published(side)
            }
            Err(lost) => Came::Lost(lost),
        },
        Act::Crash(side) => match cell.claim(side) {
            Ok(claim) => {
                drop(claim);
                Came::Crashed(side)
            }
            Err(lost) => Came::Lost(lost),
        },
        Act::Fail | Act::Cancel if cell.abandon() => Came::Ended,
        Act::Fail | Act::Cancel => Came::TooLate,
    }
}

/// All actors at once; exactly one decides, and all others agree on who it was.
fn explore(acts: &'static [Act]) {
    let mut model = loom::model::Builder::new();
    if acts.len() > 3 {
        model.preemption_bound = Some(3);
    }
    model.check(move || {
        let cell = ClaimCell::new(7);
        let visible = Arc::new(AtomicUsize::new(0));
        let threads: Vec<_> = acts[1..]
            .iter()
            .map(|act| {
                let (cell, visible) = (cell.clone(), visible.clone());
                thread::spawn(move || perform(&cell, *act, &visible))
            })
            .collect();
        let mut came = vec![perform(&cell, acts[0], &visible)];
        came.extend(threads.into_iter().map(|thread| thread.join().unwrap()));

        let deciders: Vec<_> =
            came.iter().filter(|came| !matches!(came, Came::Lost(_) | Came::TooLate)).collect();
        assert_eq!(deciders.len(), 1, "{came:?}");
        let (state, lost) = match deciders[0] {
            Came::Published(side) => (State::Published(*side), Lost::To(*side)),
            Came::Crashed(side) => (State::Broken(*side), Lost::To(*side)),
            _ => (State::Abandoned, Lost::Abandoned),
        };
        assert_eq!(cell.state(), state);
        assert_eq!(cell.epoch(), 7);
        assert!(came.iter().all(|came| !matches!(came, Came::Lost(other) if *other != lost)), "{came:?}");
        assert_eq!(visible.load(Ordering::Relaxed), usize::from(matches!(state, State::Published(_))));
    });
}

use Act::{Cancel, Crash, Fail, Finish};
use Side::{Local, Remote};

#[test]
fn both_finish_at_once() {
    explore(&[Finish(Local), Finish(Remote)]);
}

#[test]
fn one_finishes_while_the_other_fails() {
    explore(&[Finish(Local), Fail]);
    explore(&[Finish(Remote), Fail]);
}

#[test]
fn both_fail() {
    explore(&[Fail, Fail]);
}

#[test]
fn a_branch_dies_between_its_claim_and_its_publication() {
    explore(&[Crash(Local), Finish(Remote)]);
    explore(&[Finish(Local), Crash(Remote)]);
    explore(&[Crash(Local), Crash(Remote), Cancel]);
}

#[test]
fn both_finish_while_the_caller_cancels() {
    explore(&[Finish(Local), Finish(Remote), Cancel]);
}

#[test]
fn one_finishes_and_one_fails_while_the_caller_cancels() {
    explore(&[Finish(Local), Fail, Cancel]);
    explore(&[Crash(Local), Fail, Cancel]);
}

#[test]
fn four_meet() {
    explore(&[Finish(Local), Finish(Remote), Fail, Cancel]);
    explore(&[Crash(Local), Finish(Remote), Fail, Cancel]);
}

#[test]
fn a_branch_that_asks_twice_wins_once() {
    explore(&[Finish(Local), Finish(Local), Finish(Remote)]);
}
