//! What a recovery finds, other than a publication that a kill interrupted (see `crash`).

use std::fs;
use std::os::fd::AsFd;
use std::path::PathBuf;

use super::{Fixture, listing};
use crate::commit::{ClaimCell, Durability, Journal, Recovered, Side, publish, recover};
use crate::stage::tests::open;

/// A publication of `a`, `d` and `z` that died after its first rename.
fn torn() -> Fixture {
    let fixture = Fixture::new();
    fixture.wrote("a", "new").wrote("d/new", "new").wrote("z", "new");
    fixture.had("a", "old").had("d/old", "old").had("z", "old");
    let journal = fixture.journal();
    let prepared = fixture.prepare(&journal, &["a", "d", "z"]);
    prepared.die_after(1);
    fixture
}

#[test]
fn a_publication_is_completed() {
    let fixture = torn();
    assert_eq!(fs::read_to_string(fixture.dest.join("a")).unwrap(), "new");
    assert_eq!(fs::read_to_string(fixture.dest.join("z")).unwrap(), "old");
    let recovered = fixture.recover();
    assert_eq!(recovered, Recovered { completed: 1, renamed: 2, ..Recovered::default() });
    assert_eq!(fs::read_to_string(fixture.dest.join("z")).unwrap(), "new");
    assert!(fixture.dest.join("d/new").exists() && !fixture.dest.join("d/old").exists());
    assert!(fixture.no_journal());
}

#[test]
fn a_tree_that_has_moved_on_is_not_touched() {
    let changes: [fn(&Fixture); 3] = [
        |fixture| fs::write(fixture.dest.join("z"), "by somebody else").unwrap(),
        |fixture| fs::remove_file(fixture.dest.join("a")).unwrap(),
        |fixture| {
            fs::remove_dir_all(fixture.dest.join("d")).unwrap();
            fs::write(fixture.dest.join("d"), "by somebody else").unwrap();
        },
    ];
    for change in changes {
        let fixture = torn();
        change(&fixture);
        let before = listing(&fixture.dest);
        let recovered = fixture.recover();
        assert_eq!((recovered.completed, recovered.lost.len()), (0, 1), "{recovered:?}");
        assert!(recovered.lost[0].contains("was changed since") && recovered.lost[0].contains("//a:b"));
        assert_eq!(listing(&fixture.dest), before);
        assert!(fixture.no_journal());
    }
}

#[test]
fn a_layer_that_is_gone_is_said_loudly() {
    let fixture = torn();
    fs::remove_dir_all(&fixture.upper).unwrap();
    let recovered = fixture.recover();
    assert!(
        recovered.lost[0].contains("its layer") && recovered.lost[0].contains("is gone"),
        "{recovered:?}"
    );
    assert!(recovered.needed.is_empty());
    assert_eq!(fixture.recover(), Recovered::default(), "and it is said once");
}

#[test]
fn a_publication_that_was_complete_needs_no_layer() {
    let fixture = Fixture::new();
    fixture.wrote("a", "new");
    let journal = fixture.journal();
    fixture.prepare(&journal, &["a"]).die_after(1);
    fs::remove_dir_all(&fixture.upper).unwrap();
    assert_eq!(fixture.recover(), Recovered { completed: 1, ..Recovered::default() });
}

#[test]
fn a_destination_that_is_not_there_yet_keeps_its_layer() {
    let fixture = torn();
    let aside = fixture.home.join("aside");
    fs::rename(&fixture.dest, &aside).unwrap();
    fs::create_dir(&fixture.dest).unwrap();
    let recovered = fixture.recover();
    assert_eq!((recovered.failed.len(), recovered.lost.len()), (1, 0), "{recovered:?}");
    let layer = fixture.home.file_name().unwrap().to_os_string();
    assert!(recovered.needed.contains(&layer));
    fs::remove_dir(&fixture.dest).unwrap();
    fs::rename(&aside, &fixture.dest).unwrap();
    assert_eq!(fixture.recover().completed, 1);
    assert_eq!(fs::read_to_string(fixture.dest.join("z")).unwrap(), "new");
}

#[test]
fn a_rename_that_fails_is_tried_again_at_the_next_start() {
    let fixture = torn();
    let full = crate::failpoint::arm("commit.recover", 2, rustix::io::Errno::NOSPC);
    let recovered = fixture.recover();
    drop(full);
    assert_eq!((recovered.failed.len(), recovered.needed.len()), (1, 1), "{recovered:?}");
    assert_eq!(fixture.recover().renamed, 1);
    assert_eq!(fs::read_to_string(fixture.dest.join("z")).unwrap(), "new");
}

#[test]
fn torn_and_foreign_slots_count_for_nothing() {
    let fixture = torn();
    let slots = || -> Vec<PathBuf> {
        fs::read_dir(fixture.home.join("journal")).unwrap().map(|entry| entry.unwrap().path()).collect()
    };
    let slot = slots().remove(0);
    let mut bytes = fs::read(&slot).unwrap();
    bytes[60] ^= 1;
    fs::write(&slot, &bytes).unwrap();
    fs::write(slot.with_file_name("slot-empty"), "").unwrap();
    fs::write(slot.with_file_name("slot-odd"), "what").unwrap();
    fs::write(slot.with_file_name("notes"), "not ours").unwrap();
    let recovered = fixture.recover();
    assert_eq!((recovered.torn.len(), recovered.completed), (2, 0), "{recovered:?}");
    assert_eq!(slots().len(), 1, "what is no slot stays");
    assert_eq!(fs::read_to_string(fixture.dest.join("z")).unwrap(), "old");
}

#[test]
fn living_publications_are_left_alone() {
    let fixture = Fixture::new();
    fixture.wrote("a", "1");
    let journal = fixture.journal();
    let prepared = fixture.prepare(&journal, &["a"]);
    assert_eq!(fixture.recover(), Recovered { alive: 1, ..Recovered::default() });
    publish(ClaimCell::new(1).claim(Side::Local).unwrap(), prepared).unwrap();
    assert_eq!(fs::read_to_string(fixture.dest.join("a")).unwrap(), "1");
}

#[test]
fn what_was_prepared_and_dropped_is_cleaned_up() {
    let fixture = Fixture::new();
    fixture.wrote("a", "1");
    let journal = fixture.journal();
    drop(fixture.prepare(&journal, &["a"]));
    assert_eq!(fixture.recover(), Recovered { dropped: 1, ..Recovered::default() });
    assert!(fixture.no_journal() && !fixture.dest.join("a").exists());
}

#[test]
fn many_publish_at_once() {
    let home = tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap());
    let journal = Journal::open(open(home.path()).as_fd(), Durability::Process).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for round in 0..20 {
                    let fixture = Fixture::new_in(home.path());
                    fixture.wrote("a", "new").wrote("d/f", "new").had("a", "old");
                    let prepared = fixture.prepare(&journal, &["a", "d"]);
                    publish(ClaimCell::new(round).claim(Side::Local).unwrap(), prepared).unwrap();
                    assert_eq!(fs::read_to_string(fixture.dest.join("a")).unwrap(), "new");
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..50 {
                let recovered = recover(open(home.path()).as_fd(), Durability::Process).unwrap();
                assert_eq!((recovered.completed, recovered.dropped), (0, 0), "{recovered:?}");
            }
        });
    });
    assert!(fs::read_dir(home.path().join("journal")).unwrap().count() <= 8);
    journal.close();
    assert!(!home.path().join("journal").exists());
}

#[test]
fn ten_thousand_outputs() {
    let shared = std::path::Path::new("/dev/shm");
    let fixture = if shared.is_dir() { Fixture::new_in(shared) } else { Fixture::new() };
    let declared: Vec<String> = (0..10_000).map(|n| format!("d{}/f{n}", n % 300)).collect();
    for path in &declared {
        fixture.wrote(path, path);
    }
    let names: Vec<&str> = declared.iter().map(String::as_str).collect();
    let journal = fixture.journal();
    fixture.prepare(&journal, &names).die_after(5_000);
    assert_eq!(fixture.recover().renamed, 5_000);
    assert!(declared.iter().all(|path| fs::read_to_string(fixture.dest.join(path)).unwrap() == *path));
}

/// Prints what a publication costs beside bare renames of the same files; asserts nothing about time.
#[test]
fn what_the_journal_costs() {
    if std::env::var_os("FULGURITE_IT_HEAVY").is_none() {
        return;
    }
    for outputs in [1, 10, 100] {
        let [mut bare, mut whole, mut slot_only] = [const { Vec::new() }; 3];
        let home = tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap());
        let journal = Journal::open(open(home.path()).as_fd(), Durability::Process).unwrap();
        for round in 0..300 {
            let fixture = Fixture::new_in(home.path());
            let names: Vec<String> = (0..outputs).map(|n| format!("f{n}")).collect();
            for name in &names {
                fixture.wrote(name, "x").wrote(&format!("b{name}"), "x");
            }
            let (upper, dest) = (open(&fixture.upper), open(&fixture.dest));
            let begun = std::time::Instant::now();
            for name in &names {
                let from = format!("b{name}");
                rustix::fs::renameat(&upper, from.as_str(), &dest, from.as_str()).unwrap();
            }
            bare.push(begun.elapsed());
            let collected = fixture.collect(&names.iter().map(String::as_str).collect::<Vec<_>>());
            let options = crate::commit::PublishOptions::default();
            let begun = std::time::Instant::now();
            let prepared = crate::commit::prepare(collected, dest.as_fd(), &journal, b"", &options).unwrap();
            whole.push(begun.elapsed());
            let begun = std::time::Instant::now();
            publish(ClaimCell::new(round).claim(Side::Local).unwrap(), prepared).unwrap();
            slot_only.push(begun.elapsed());
        }
        let median = |times: &mut Vec<std::time::Duration>| {
            times.sort();
            times[times.len() / 2]
        };
        eprintln!(
            "{outputs} outputs: bare renames {:?}, prepare {:?}, publish {:?}",
            median(&mut bare),
            median(&mut whole),
            median(&mut slot_only)
        );
        journal.close();
    }
}
