//! Random histories against a model of a least-recently-used store.

use super::*;
use crate::cas::Pin;
use crate::cas::limits::{USE_BUCKET_SECONDS, charge};
use proptest::prelude::*;
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
enum Step {
    Put(u64),
    Use(u64),
    Pin(u64),
    Unpin,
    Wait(u64),
    Checkpoint,
    Restart,
    /// To so many blocks.
    Evict(u64),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u64..40).prop_map(Step::Put),
        6 => (0u64..40).prop_map(Step::Use),
        2 => (0u64..40).prop_map(Step::Pin),
        1 => Just(Step::Unpin),
        3 => (1u64..5).prop_map(Step::Wait),
        2 => Just(Step::Checkpoint),
        1 => Just(Step::Restart),
        3 => (0u64..40).prop_map(Step::Evict),
    ]
}

/// Sizes differ, and follow from the number.
fn size_of(number: u64) -> usize {
    (number as usize % 5) * 3000 + 8
}

/// What must be true of an eviction: it took the oldest of what was not pinned, and no more than was needed.
fn check_eviction(before: &BTreeMap<u64, u32>, after: &Cas, pinned: &[u64], goal: u64) {
    let is_there = |number: &u64| after.contains(&sha(&bytes(*number, size_of(*number))));
    let (stay, go): (Vec<u64>, Vec<u64>) = before.keys().copied().partition(is_there);
    assert!(go.iter().all(|number| !pinned.contains(number)), "{go:?} of {pinned:?}");
    let oldest = stay.iter().filter(|number| !pinned.contains(number)).map(|number| before[number]).min();
    let youngest = go.iter().map(|number| before[number]).max();
    if let (Some(oldest), Some(youngest)) = (oldest, youngest) {
        assert!(youngest <= oldest, "took {go:?}, left {stay:?} of {before:?}");
    }
    let charged = |numbers: &[u64]| numbers.iter().map(|it| charge(size_of(*it) as u64)).sum::<u64>();
    assert!(charged(&stay) <= goal || stay.iter().all(|number| pinned.contains(number)));
    let largest = go.iter().map(|number| charge(size_of(*number) as u64)).max().unwrap_or(0);
    assert!(go.is_empty() || charged(&stay) + largest > goal, "took {go:?}, more than was needed");
    assert_eq!(after.stats().bytes, charged(&stay));
}

fn run(steps: &[Step]) {
    let scene = Scene::new();
    let mut cas = scene.open();
    let mut model: BTreeMap<u64, u32> = BTreeMap::new();
    let mut pins: Vec<(u64, Pin)> = Vec::new();
    for step in steps {
        let now = cas.store().clock.now();
        match step {
            Step::Put(number) => {
                put(&cas, *number, size_of(*number));
                model.insert(*number, now);
            }
            Step::Use(number) => {
                let is_there = cas.contains(&sha(&bytes(*number, size_of(*number))));
                assert_eq!(is_there, model.contains_key(number));
                model.entry(*number).and_modify(|used| *used = now);
            }
            Step::Pin(number) => {
                let pin = cas.pin(&[sha(&bytes(*number, size_of(*number)))]);
                assert_eq!(pin.is_ok(), model.contains_key(number));
                model.entry(*number).and_modify(|used| *used = now);
                pins.extend(pin.ok().map(|pin| (*number, pin)));
            }
            Step::Unpin => drop(pins.pop()),
            Step::Wait(buckets) => cas.store().clock.advance(buckets * USE_BUCKET_SECONDS),
            Step::Checkpoint => cas.checkpoint().unwrap(),
            Step::Restart => {
                pins.clear();
                cas.close();
                cas = scene.open();
            }
            Step::Evict(blocks) => {
                let goal = blocks * 4096;
                let pinned: Vec<u64> = pins.iter().map(|(number, _)| *number).collect();
                cas.store().evict_to(goal).unwrap();
                check_eviction(&model, &cas, &pinned, goal);
                let is_there = |number: &u64| cas.contains(&sha(&bytes(*number, size_of(*number))));
                // Looking was a use, and eviction keeps what is pinned young.
                let now = cas.store().clock.now();
                model = model.keys().filter(|number| is_there(number)).map(|number| (*number, now)).collect();
            }
        }
    }
    assert_eq!(check_objects(&scene.path()).len() as u64, cas.stats().blobs);
    assert_eq!(cas.stats().blobs, model.len() as u64 + 2);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_longest_unused_go_and_no_others(steps in prop::collection::vec(any_step(), 1..40)) {
        run(&steps);
    }
}
