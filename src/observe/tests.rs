//! What is told as a whole: the page and the document agree, labels are bounded, events come in order.
//!
//! Other tests of this process count as well: nothing here takes a number to be zero.

use super::events::{ActionName, Seen, What, tell, watch};
use super::limits::{EVENTS_MAX, LABEL_VALUES_MAX};
use super::{
    ActionSeen, Family, Metrics, Outcome, Phase, Reading, Strategy, Word, WorkerGone, action, documentation,
    label, metrics, read, source,
};
use std::collections::BTreeSet;
use std::time::Duration;

const DOCUMENT: &str = "docs/metrics.md";

/// The table stands between these in the document.
const MARKS: [&str; 2] = ["<!-- table -->\n", "<!-- end of table -->\n"];

#[test]
fn the_document_says_what_there_is() {
    let path = format!("{}/{DOCUMENT}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(MARKS[0]).unwrap();
    let (_, after) = rest.split_once(MARKS[1]).unwrap();
    let wanted = [before, MARKS[0], &documentation(), MARKS[1], after].concat();
    if std::env::var_os("FULGURITE_TEST_WRITE").is_some() {
        std::fs::write(&path, &wanted).unwrap();
    }
    assert_eq!(text, wanted, "write it: FULGURITE_TEST_WRITE=1 cargo test -p fulgurite --lib observe::");
}

#[test]
fn names_are_what_prometheus_takes() {
    let mut names = BTreeSet::new();
    for family in Family::ALL {
        let facts = family.facts();
        let is_word = |text: &str| text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'));
        assert!(is_word(facts.name) && facts.labels.iter().all(|label| is_word(label)), "{family:?}");
        assert!(!facts.name.ends_with("_total") && !facts.about.ends_with('.'), "{family:?}");
        assert!(names.insert(family.told()), "{family:?}");
    }
}

fn seen(outcome: Outcome, strategy: Strategy) -> ActionSeen {
    ActionSeen {
        digest: "d".to_owned(),
        mnemonic: "M".to_owned(),
        outcome,
        strategy,
        queued_us: 1_000,
        began_us: 3_000,
        ended_us: 9_000,
        phases: vec![(Phase::Run, 4_000, 8_000)],
        work_us: 4_000,
        worker: None,
        cpu: Duration::from_millis(3),
        exit_code: 0,
    }
}

#[test]
fn the_page_is_what_was_counted() {
    let before = metrics().actions.of(Outcome::TimedOut).of(Strategy::Worker).value();
    action(&seen(Outcome::TimedOut, Strategy::Worker));
    let guard = source(|reading| reading.put(Family::Slots, &[], 5));
    let page = read().text();
    drop(guard);
    assert!(page.ends_with("# EOF\n"), "{page}");
    let has = |line: &str| assert!(page.lines().any(|found| found == line), "no {line:?} in {page}");
    has(&format!("fulgurite_actions_total{{outcome=\"timed_out\",strategy=\"worker\"}} {}", before + 1));
    has("# TYPE fulgurite_slots gauge");
    has("fulgurite_slots 5");
    has("# TYPE fulgurite_action_seconds histogram");
    let is_run = |line: &&str| line.contains("le=\"+Inf\"") && line.contains("phase=\"run\"");
    assert!(page.lines().any(|line| is_run(&line)), "{page}");
    assert!(!read().text().contains("fulgurite_slots 5"), "the source is gone");
    // A sample's name is in the document.
    let known: BTreeSet<String> = Family::ALL.iter().map(|family| family.told()).collect();
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap();
        let of_times = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
        assert!(known.contains(name) || of_times.is_some_and(|name| known.contains(name)), "{line}");
    }
}

#[test]
fn what_clients_call_things_does_not_fill_the_page() {
    let metrics = Metrics::default();
    for number in 0..10 * LABEL_VALUES_MAX {
        metrics.worker_started(&format!("Kind{number}"));
    }
    metrics.worker_ended("Kind1", WorkerGone::Hung);
    metrics.worker_ended("never seen", WorkerGone::Idle);
    let mut reading = Reading::default();
    metrics.read(&mut reading);
    assert_eq!(reading.all(Family::WorkerStarts).count(), LABEL_VALUES_MAX + 1);
    assert_eq!(reading.get(Family::WorkerStarts, &["other"]), Some(9 * LABEL_VALUES_MAX as u64));
    assert_eq!(reading.get(Family::WorkerEnds, &["Kind1", "hung"]), Some(1));
    assert_eq!(reading.get(Family::WorkerEnds, &["other", "idle"]), Some(1));
    assert_eq!(label("a\nb\"ü"), "a?b\"ü");
    assert_eq!(label(&"ü".repeat(100)).len(), 64);
    let mut reading = Reading::default();
    reading.put(Family::WorkerStarts, &["\"\\"], 1);
    let page = reading.text();
    assert!(page.contains(r#"{mnemonic="\"\\"} 1"#), "{page}");
    assert_eq!(Strategy::ALL.len(), 4);
}

fn queued(number: usize) -> What {
    What::Queued(ActionName { operation: number.to_string(), ..ActionName::default() })
}

/// Events of this test alone: others tell things as well.
const TENANT: &str = "the tenant of a test of events";

#[tokio::test]
async fn a_watcher_gets_what_happens_in_order_and_hears_what_it_missed() {
    let mut quick = watch();
    let slow = watch();
    for number in 0..10 {
        tell(Some(TENANT), || queued(number));
    }
    let next = async |watcher: &mut super::events::Watcher| loop {
        match watcher.next().await {
            Seen::Event(event) if event.tenant.as_deref() == Some(TENANT) => match &event.what {
                What::Queued(name) => return Ok(name.operation.parse::<usize>().unwrap()),
                other => panic!("{other:?}"),
            },
            Seen::Event(_) => {}
            Seen::Missed(count) => return Err(count),
        }
    };
    for number in 0..10 {
        assert_eq!(next(&mut quick).await, Ok(number));
    }
    drop(quick);
    // Nobody is waited for.
    for number in 10..10 + 2 * EVENTS_MAX {
        tell(Some(TENANT), || queued(number));
    }
    let mut slow = slow;
    let missed = next(&mut slow).await.unwrap_err();
    assert!(missed >= 10 + EVENTS_MAX as u64, "{missed}");
    let first = next(&mut slow).await.unwrap();
    assert_eq!(next(&mut slow).await, Ok(first + 1));
}
