//! Who sees a state sees what was written before it was entered. What is handed over is written and read without any
//! order of its own, so that only the cell's can make it visible.
use crate::claim::{ClaimCell, Side, State};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use loom::thread;

/// The slots into which a branch puts its result, and a publisher what it has done.
struct Slots {
    local: AtomicUsize,
    remote: AtomicUsize,
    published: AtomicUsize,
}

fn slots() -> Arc<Slots> {
    Arc::new(Slots { local: 0.into(), remote: 0.into(), published: 0.into() })
}

impl Slots {
    fn of(&self, side: Side) -> &AtomicUsize {
        match side {
            Side::Local => &self.local,
            Side::Remote => &self.remote,
        }
    }
}

fn finish(cell: &ClaimCell, slots: &Slots, side: Side) -> Option<usize> {
    slots.of(side).store(1, Relaxed);
    let Ok(claim) = cell.claim(side) else {
        // The loser may read what the winner left.
        let winner = cell.winner().expect("who loses knows to whom");
        return Some(slots.of(winner).load(Relaxed));
    };
    slots.published.store(1, Relaxed);
    claim.settle();
    None
}

#[test]
fn a_waiter_sees_the_result_of_the_winner() {
    loom::model(|| {
        let (cell, slots) = (ClaimCell::new(1), slots());
        let branches: Vec<_> = [Side::Local, Side::Remote]
            .into_iter()
            .map(|side| {
                let (cell, slots) = (cell.clone(), slots.clone());
                thread::spawn(move || finish(&cell, &slots, side))
            })
            .collect();
        match cell.state() {
            State::Open => {}
            State::Claimed(side) => assert_eq!(slots.of(side).load(Relaxed), 1),
            State::Published(side) => {
                assert_eq!(slots.of(side).load(Relaxed), 1);
                assert_eq!(slots.published.load(Relaxed), 1);
            }
            other => panic!("{other:?}"),
        }
        for branch in branches {
            assert_ne!(branch.join().unwrap(), Some(0));
        }
    });
}

#[test]
fn a_publisher_on_another_thread_sees_what_the_claimant_wrote() {
    loom::model(|| {
        let (cell, slots) = (ClaimCell::new(1), slots());
        let publisher = {
            let (cell, slots) = (cell.clone(), slots.clone());
            thread::spawn(move || {
                let State::Claimed(side) = cell.state() else { return };
                assert_eq!(slots.of(side).load(Relaxed), 1);
            })
        };
        slots.remote.store(1, Relaxed);
        let claim = cell.claim(Side::Remote).expect("nobody else claims");
        publisher.join().unwrap();
        claim.settle();
    });
}

#[test]
fn who_sees_a_broken_race_sees_what_its_branch_had_done() {
    loom::model(|| {
        let (cell, slots) = (ClaimCell::new(1), slots());
        let watcher = {
            let (cell, slots) = (cell.clone(), slots.clone());
            thread::spawn(move || {
                if cell.state() == State::Broken(Side::Local) {
                    assert_eq!(slots.published.load(Relaxed), 1);
                }
            })
        };
        let claim = cell.claim(Side::Local).expect("nobody else claims");
        slots.published.store(1, Relaxed);
        drop(claim);
        watcher.join().unwrap();
    });
}

#[test]
fn a_loser_sees_what_the_abandoner_wrote() {
    loom::model(|| {
        let (cell, slots) = (ClaimCell::new(1), slots());
        let branch = {
            let (cell, slots) = (cell.clone(), slots.clone());
            thread::spawn(move || {
                if cell.claim(Side::Local).is_err() {
                    assert_eq!(slots.published.load(Relaxed), 1);
                }
            })
        };
        // The reason of a cancellation, say.
        slots.published.store(1, Relaxed);
        cell.abandon();
        branch.join().unwrap();
    });
}
