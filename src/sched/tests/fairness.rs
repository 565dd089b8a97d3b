//! Who comes next: priorities, builds and tenants, and the place beside the slots.

use super::*;

/// An action of its own that some build asks for.
fn of(operation: u128, invocation: &str) -> Submission {
    Submission { invocation: invocation.to_owned(), ..request(operation, &operation.to_string()) }
}

#[test]
fn lower_priorities_go_first_and_age_decides_among_equals() {
    let mut bench = Bench::new(0);
    for (operation, priority) in [(1, 5), (2, 0), (3, -5), (4, 0)] {
        bench.submit(Submission { priority, ..request(operation, &operation.to_string()) });
    }
    // Joining with a higher priority moves a run ahead.
    bench.submit(Submission { priority: -9, ..request(5, "4") });
    bench.scheduler.slots_free_for_tests(4);
    bench.scheduler.tick(seconds(1), &mut bench.effects);
    assert_eq!(bench.started(), [RunId(3), RunId(2), RunId(1), RunId(0)]);
}

/// Eight builds with heavy actions, and a ninth whose tiny ones come one after the other: it waits for hardly more than
/// a free slot.
#[test]
fn tiny_actions_do_not_starve_beside_heavy_ones() {
    let mut bench = Bench::new(2);
    let mut operation = 0;
    let mut submit = |bench: &mut Bench, invocation: &str| {
        operation += 1;
        let request = Submission {
            invocation: invocation.to_owned(),
            key: None,
            ..request(operation, &operation.to_string())
        };
        bench.submit(request).run
    };
    for _ in 0..50 {
        for client in 0..8 {
            submit(&mut bench, &format!("heavy{client}"));
        }
    }
    let mut running: std::collections::VecDeque<RunId> = bench.started().into();
    for round in 0..20 {
        // Until it is known what their actions cost, all nine take turns.
        let patience = if round < 4 { 9 } else { 3 };
        let tiny = submit(&mut bench, "tiny");
        let mut waited = 0;
        loop {
            let run = running.pop_front().unwrap();
            let cost = if run == tiny { Duration::from_millis(1) } else { seconds(10) };
            bench.finish(run, cost);
            running.extend(bench.started());
            if run == tiny {
                break;
            }
            waited += 1;
            assert!(waited <= patience, "round {round}: the tiny action waited for {waited} heavy ones");
        }
    }
}

/// What takes a moment does not wait for what takes long; what takes long waits, and so does what is unknown.
#[test]
fn a_light_action_runs_beside_heavy_ones_and_only_one() {
    let mut bench = Bench::new(2);
    // What the actions of each build cost becomes known.
    for (operation, invocation, cost_ms) in [(1, "heavy", 10_000), (2, "light", 2), (3, "half", 5_000)] {
        let run = bench.submit(of(operation, invocation)).run;
        bench.finish(run, Duration::from_millis(cost_ms));
    }
    bench.started();
    let heavy: Vec<RunId> = (10..14).map(|operation| bench.submit(of(operation, "heavy")).run).collect();
    assert_eq!(bench.started(), heavy[..2]);
    let light: Vec<RunId> = (20..22).map(|operation| bench.submit(of(operation, "light")).run).collect();
    assert_eq!(bench.started(), light[..1], "one beside them");
    for (operation, invocation) in [(30, "half"), (31, "unknown")] {
        bench.submit(of(operation, invocation));
        assert_eq!(bench.started(), [], "{invocation} waits");
    }
    bench.finish(light[0], Duration::from_millis(2));
    assert_eq!(bench.started(), light[1..], "the next light one");
    // A slot is free, and its place is still taken.
    bench.finish(heavy[0], seconds(10));
    assert_eq!(bench.started(), []);
    bench.finish(light[1], Duration::from_millis(2));
    assert_eq!(bench.started().len(), 1, "two that have slots, and none of those that wait is light");
}

/// A build of tiny actions has the place beside the slots also when it is the turn of another.
#[test]
fn the_place_beside_the_slots_is_given_out_of_turn() {
    let mut bench = Bench::new(1);
    let ms = Duration::from_millis;
    let run = bench.submit(of(1, "heavy")).run;
    bench.finish(run, ms(1000));
    for operation in 2..1002 {
        let run = bench.submit(of(operation, "light")).run;
        bench.finish(run, ms(2));
    }
    bench.started();
    let heavy: Vec<RunId> = (2000..2003).map(|operation| bench.submit(of(operation, "heavy")).run).collect();
    assert_eq!(bench.started(), heavy[..1]);
    // Both builds are here with something that waits, and the light one has used twice as much.
    let mut light = bench.submit(of(3000, "light")).run;
    for operation in 3001..3501 {
        assert_eq!(bench.started(), [light], "whoever's turn it is");
        let next = bench.submit(of(operation, "light")).run;
        assert_eq!(bench.started(), [], "there is one such place");
        bench.finish(light, ms(2));
        light = next;
    }
    assert_eq!(bench.started(), [light]);
}

/// Else a build that was light for an hour would owe that hour.
#[test]
fn what_is_taken_out_of_turn_is_not_charged() {
    let mut queue = FairQueue::default();
    let ms = |millis| Cost { held: Duration::from_millis(millis), work: Duration::from_millis(millis) };
    for (build, cost) in [("light", 2), ("heavy", 5)] {
        queue.push("", build, 0, build);
        let (_, bill) = queue.pop().unwrap();
        queue.settle(&bill, ms(cost));
    }
    queue.push("", "heavy", 0, "heavy");
    for _ in 0..100 {
        queue.push("", "light", 0, "light");
        let (taken, bill) = queue.pop_light(|mean| mean.work_micros < 3000).unwrap();
        assert_eq!(taken, "light");
        queue.settle(&bill, ms(2));
    }
    queue.push("", "light", 0, "light");
    // Who will have used least comes next: 200 ms of light ones would have put it behind.
    assert_eq!(queue.pop().map(|(taken, _)| taken), Some("light"));
}

/// On a full machine a tiny action takes a good part of the time that a heavy one takes: its work tells them apart. One
/// that sleeps has no work, and is told apart by its time.
#[test]
fn what_is_light_is_known_by_its_work_or_by_its_time() {
    let ms = Duration::from_millis;
    let light = Cost { held: ms(8), work: ms(2) };
    for (heavy, beside) in [
        (Cost { held: ms(15), work: ms(7) }, true),
        (Cost { held: ms(15), work: ms(3) }, false),
        (Cost { held: ms(40), work: ms(1) }, true),
        (Cost { held: ms(20), work: ms(1) }, false),
    ] {
        let mut bench = Bench::new(1);
        for (operation, invocation, cost) in [(1, "heavy", heavy), (2, "light", light)] {
            let run = bench.submit(of(operation, invocation)).run;
            bench.end(run, cost);
        }
        bench.submit(of(3, "heavy"));
        bench.started();
        bench.submit(of(4, "light"));
        assert_eq!(!bench.started().is_empty(), beside, "{heavy:?}");
    }
}

#[test]
fn tenants_share_alike_however_many_builds_they_have() {
    let mut bench = Bench::new(0);
    let mut operation = 0;
    for round in 0..20 {
        for build in 0..5 {
            operation += 1;
            bench.submit(Submission {
                invocation: format!("{build}"),
                ..request(operation, &format!("{round}{build}"))
            });
        }
        operation += 1;
        bench.submit(Submission {
            tenant: "small".to_owned(),
            ..request(operation, &format!("small{round}"))
        });
    }
    bench.scheduler.slots_free_for_tests(20);
    bench.scheduler.tick(seconds(1), &mut bench.effects);
    let started = bench.started();
    let small = started
        .iter()
        .filter(|run| {
            let operation = bench.scheduler.waiting_for(**run)[0];
            bench.scheduler.tenant(operation) == Some("small")
        })
        .count();
    assert_eq!((started.len(), small), (20, 10));
}
