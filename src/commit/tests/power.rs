//! What a loss of power leaves: everything is on disk before the step that says so.

use std::os::fd::AsFd;

use rustix::io::Errno;

use super::Fixture;
use crate::commit::{Durability, Journal, PublishError, PublishOptions, Published, publish_unopposed};
use crate::failpoint::arm;
use crate::stage::tests::open;

fn publish(fixture: &Fixture, durability: Durability) -> Result<Published, PublishError> {
    let journal = Journal::open(open(&fixture.home).as_fd(), durability).unwrap();
    let (collected, dest) = (fixture.collect(&["a", "d/b"]), open(&fixture.dest));
    let published = publish_unopposed(collected, dest.as_fd(), &journal, b"t", &PublishOptions::default());
    journal.close();
    published
}

/// How many syncs a publication makes: the first visit that nothing comes to is one more.
fn syncs(durability: Durability) -> u64 {
    (1..100)
        .find(|visit| {
            let fixture = Fixture::new();
            fixture.wrote("a", "new").wrote("d/b", "new").had("a", "old");
            let armed = arm("commit.sync", *visit, Errno::IO);
            let published = publish(&fixture, durability);
            drop(armed);
            published.is_ok()
        })
        .unwrap()
        - 1
}

#[test]
fn power_syncs_data_record_directories_and_intent() {
    assert_eq!(syncs(Durability::Process), 0);
    // The slot's directory; two files; record, intent; two directories, and the root in which one of them is new.
    assert_eq!(syncs(Durability::Power), 8);
}

#[test]
fn a_sync_that_fails_is_a_publication_that_fails() {
    for visit in 1..=8 {
        let fixture = Fixture::new();
        fixture.wrote("a", "new").wrote("d/b", "new").had("a", "old");
        let armed = arm("commit.sync", visit, Errno::IO);
        let error = publish(&fixture, Durability::Power).unwrap_err();
        drop(armed);
        let (old, new) = ("old".to_owned(), "new".to_owned());
        let now = std::fs::read_to_string(fixture.dest.join("a")).unwrap();
        // Before the intent is on disk nothing is visible; after that the next start finishes it.
        assert!(
            now == if error.left_untouched() && visit <= 5 { old } else { new.clone() },
            "{visit}: {error}"
        );
        if visit > 5 {
            fixture.recover();
            let both = ["a", "d/b"].map(|path| std::fs::read_to_string(fixture.dest.join(path)).unwrap());
            assert_eq!(both, [new.clone(), new], "{visit}");
        }
    }
}
