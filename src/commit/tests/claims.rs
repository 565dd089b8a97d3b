//! Who may publish, and what becomes of what was prepared when another one did.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;

use super::{Fixture, listing};
use crate::commit::{
    ClaimCell, Lost, PublishError, PublishOptions, Side, State, clear, prepare, publish, publish_cleared,
};
use crate::exec::Quiet;
use crate::failpoint::arm;
use crate::stage::tests::{open, outputs};
use rustix::io::Errno;

#[test]
fn a_claim_is_consumed_and_the_cell_tells_of_it() {
    let fixture = Fixture::new();
    fixture.wrote("a", "1");
    let (journal, cell) = (fixture.journal(), ClaimCell::new(3));
    let prepared = fixture.prepare(&journal, &["a"]);
    assert!(!fixture.dest.join("a").exists());
    publish(cell.claim(Side::Local).unwrap(), prepared).unwrap();
    assert_eq!(cell.state(), State::Published(Side::Local));
    assert_eq!(fs::read_to_string(fixture.dest.join("a")).unwrap(), "1");
    // The slot is used again by the next publication.
    fixture.wrote("b", "2");
    let prepared = fixture.prepare(&journal, &["b"]);
    assert_eq!(fs::read_dir(fixture.home.join("journal")).unwrap().count(), 1);
    publish(ClaimCell::new(4).claim(Side::Local).unwrap(), prepared).unwrap();
    assert_eq!(fs::read_dir(fixture.home.join("journal")).unwrap().count(), 1);
    journal.close();
    assert!(fixture.no_journal());
}

#[test]
fn what_a_loser_prepared_leaves_nothing() {
    let (winner, loser) = (Fixture::new(), Fixture::new());
    loser.wrote("new/dir/x", "loser").wrote("out", "loser").had("kept", "k");
    winner.wrote("out", "winner");
    let before = listing(&loser.dest);
    let (journal, cell) = (loser.journal(), ClaimCell::new(1));
    let losing = loser.prepare(&journal, &["new/dir/x", "out"]);
    let options = PublishOptions::default();
    let winning =
        prepare(winner.collect(&["out"]), open(&winner.dest).as_fd(), &journal, b"", &options).unwrap();
    let claim = cell.claim(Side::Remote).unwrap();
    assert_eq!(cell.claim(Side::Local).unwrap_err(), Lost::To(Side::Remote));
    losing.discard();
    assert_eq!(listing(&loser.dest), before);
    publish(claim, winning).unwrap();
    assert_eq!(fs::read_to_string(winner.dest.join("out")).unwrap(), "winner");
}

#[test]
fn a_journal_that_cannot_be_written_is_found_before_the_claim() {
    let fixture = Fixture::new();
    fixture.wrote("new/a", "1");
    let journal = fixture.journal();
    let before = listing(&fixture.dest);
    let _full = arm("commit.record", 1, Errno::NOSPC);
    let dest = open(&fixture.dest);
    let error = prepare(fixture.collect(&["new/a"]), dest.as_fd(), &journal, b"", &PublishOptions::default())
        .unwrap_err();
    assert!(error.to_string().contains("no space left") && error.left_untouched(), "{error}");
    assert!(error.hint().is_some());
    assert_eq!(listing(&fixture.dest), before);
}

#[test]
fn each_rename_that_fails_leaves_all_old() {
    for visit in 1..=3 {
        for place in ["commit.rename", "commit.intent", "commit.intended"] {
            let fixture = Fixture::new();
            fixture
                .wrote("a", "new")
                .wrote("d/f", "new")
                .wrote("new/z", "new")
                .had("a", "old")
                .had("d/g", "old");
            let before = listing(&fixture.dest);
            let armed = arm(place, visit, Errno::NOSPC);
            let answer = fixture.publish(&["a", "d", "new/z"]);
            drop(armed);
            let Err(error) = answer else {
                assert!(visit > 1 && place != "commit.rename", "{place}:{visit}");
                continue;
            };
            assert!(error.left_untouched(), "{place}:{visit}: {error}");
            assert_eq!(listing(&fixture.dest), before, "{place}:{visit}");
            assert!(fixture.no_journal());
            assert_eq!(fixture.recover().completed, 0);
        }
    }
}

#[test]
fn beside_a_standalone_command_nothing_is_published_without_proof() {
    let fixture = Fixture::new();
    fixture.wrote("out", "remote").wrote("tree/r", "remote").wrote("kept/k", "remote");
    fixture.had("kept/old", "old");
    let declared = outputs(&["out", "tree/", "kept/k"]);
    let options = PublishOptions { beside_standalone: true, ..PublishOptions::default() };
    let journal = fixture.journal();
    let dest = open(&fixture.dest);
    let prepared = || {
        let collected = fixture.collect(&["out", "tree/", "kept/k"]);
        prepare(collected, dest.as_fd(), &journal, b"", &options).unwrap()
    };
    let cell = ClaimCell::new(1);
    let error = publish(cell.claim(Side::Remote).unwrap(), prepared()).unwrap_err();
    assert_eq!((error, cell.state()), (PublishError::NotQuiet, State::Broken(Side::Remote)));

    let prepared = prepared();
    // The command is killed in the middle of writing.
    fixture.had("out", "par").had("tree/l1", "local").had("tree/deep/l2", "lo");
    symlink("/etc/passwd", fixture.dest.join("tree/link")).unwrap();
    let elsewhere = Fixture::new();
    let other = clear(Quiet::assumed(), open(&elsewhere.dest).as_fd(), &declared).unwrap();
    assert_eq!(other.removed, 0);
    let cleared = clear(Quiet::assumed(), dest.as_fd(), &declared).unwrap();
    assert_eq!(cleared.removed, 5, "out, l1, l2, deep, link");
    assert!(!fixture.dest.join("out").exists());
    assert_eq!(fs::read_dir(fixture.dest.join("tree")).unwrap().count(), 0, "the directory itself stays");
    let claim = ClaimCell::new(2).claim(Side::Remote).unwrap();
    publish_cleared(claim, prepared, cleared).unwrap();
    assert_eq!(fs::read_to_string(fixture.dest.join("out")).unwrap(), "remote");
    assert_eq!(fs::read_to_string(fixture.dest.join("tree/r")).unwrap(), "remote");
    assert_eq!(fs::read_to_string(fixture.dest.join("kept/old")).unwrap(), "old");
}

#[test]
fn clearing_follows_no_symlink() {
    let fixture = Fixture::new();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("x"), "theirs").unwrap();
    symlink(outside.path(), fixture.dest.join("link")).unwrap();
    let dest = open(&fixture.dest);
    assert!(clear(Quiet::assumed(), dest.as_fd(), &outputs(&["link/x"])).is_err());
    assert_eq!(clear(Quiet::assumed(), dest.as_fd(), &outputs(&["link"])).unwrap().removed, 1);
    assert!(outside.path().join("x").exists());
}
