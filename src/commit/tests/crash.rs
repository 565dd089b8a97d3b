//! Killed with SIGKILL at every failpoint while publishing 100 outputs; after recovery all are old or all are new.
//!
//! The one that is killed is this test program again, with a failpoint armed, running [`the_one_that_dies`]. With
//! FULGURITE_IT_HEAVY=1 there are 10,000 kills, at each place in turn (FULGURITE_IT_KILLS asks for another number).

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Fixture;
use crate::commit::{Durability, Handoff, PublishOptions, Recovered, publish_unopposed, recover};
use crate::stage::tests::{open, root_or_skip};
use std::os::fd::AsFd;

const OUTPUTS: usize = 100;
const WHERE: &str = "FULGURITE_TEST_CRASH_AT";
const TASK: &str = "FULGURITE_TEST_CRASH_TASK";

/// What stands at the path of output `n`, before and after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Nothing,
    File,
    Directory,
    Symlink,
}

fn kinds(n: usize) -> (Kind, Kind) {
    use Kind::{Directory, File, Nothing, Symlink};
    [
        (Nothing, File),
        (File, File),
        (Directory, Directory),
        (Symlink, Symlink),
        (Directory, File),
        (File, Directory),
        (Nothing, Directory),
        (Symlink, Directory),
        (File, Symlink),
        (Nothing, Symlink),
    ][n % 10]
}

fn path(n: usize) -> String {
    // Some in directories that are new.
    match n % 3 {
        0 => format!("out{n}"),
        1 => format!("dir{}/out{n}", n % 7),
        _ => format!("new{}/deep/out{n}", n % 5),
    }
}

fn make(root: &Path, n: usize, kind: Kind, text: &str) {
    let at = root.join(path(n));
    if kind != Kind::Nothing {
        fs::create_dir_all(at.parent().unwrap()).unwrap();
    }
    match kind {
        Kind::Nothing => {}
        Kind::File => fs::write(&at, format!("{text} {n}")).unwrap(),
        Kind::Symlink => symlink(format!("{text} {n}"), &at).unwrap(),
        Kind::Directory => {
            fs::create_dir(&at).unwrap();
            fs::write(at.join(text), format!("{text} {n}")).unwrap();
            fs::write(at.join("both"), text).unwrap();
        }
    }
}

/// Whether `kind` with `text` is what stands there, wholly.
fn stands(root: &Path, n: usize, kind: Kind, text: &str) -> bool {
    let at = root.join(path(n));
    let whole = format!("{text} {n}");
    match kind {
        Kind::Nothing => at.symlink_metadata().is_err(),
        Kind::File => {
            at.symlink_metadata().is_ok_and(|is| is.is_file()) && fs::read_to_string(&at).unwrap() == whole
        }
        Kind::Symlink => fs::read_link(&at).is_ok_and(|to| to == Path::new(&whole)),
        Kind::Directory => {
            at.symlink_metadata().is_ok_and(|is| is.is_dir())
                && fs::read_dir(&at).unwrap().count() == 2
                && fs::read_to_string(at.join(text)).is_ok_and(|found| found == whole)
                && fs::read_to_string(at.join("both")).is_ok_and(|found| found == text)
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    AllOld,
    AllNew,
}

fn state(root: &Path) -> State {
    let new: Vec<bool> = (0..OUTPUTS)
        .map(|n| {
            let (before, after) = kinds(n);
            let (old, new) = (stands(root, n, before, "old"), stands(root, n, after, "new"));
            assert!(old != new, "output {n} is neither old nor new");
            new
        })
        .collect();
    match new.iter().filter(|new| **new).count() {
        0 => State::AllOld,
        OUTPUTS => State::AllNew,
        some => panic!("{some} of {OUTPUTS} outputs are new"),
    }
}

fn scene() -> Fixture {
    let shared = Path::new("/dev/shm");
    let fixture = if shared.is_dir() { Fixture::new_in(shared) } else { Fixture::new() };
    for n in 0..OUTPUTS {
        let (before, after) = kinds(n);
        make(&fixture.dest, n, before, "old");
        make(&fixture.upper, n, after, "new");
    }
    fixture
}

fn declared() -> Vec<String> {
    (0..OUTPUTS).map(path).collect()
}

/// Does nothing unless it was started by a test of this file.
#[test]
fn the_one_that_dies() {
    let Some(at) = std::env::var_os(WHERE) else { return };
    let fixture = Fixture::at(PathBuf::from(at));
    match std::env::var(TASK).as_deref() {
        Ok("recover") => {
            recover(open(&fixture.home).as_fd(), Durability::Process).unwrap();
        }
        task => {
            let declared = declared();
            let collected = fixture.collect(&declared.iter().map(String::as_str).collect::<Vec<_>>());
            let durability = if task == Ok("power") { Durability::Power } else { Durability::Process };
            let journal = crate::commit::Journal::open(open(&fixture.home).as_fd(), durability).unwrap();
            let dest = open(&fixture.dest);
            publish_unopposed(collected, dest.as_fd(), &journal, b"//t", &PublishOptions::default()).unwrap();
        }
    }
}

/// Runs it until the failpoint kills it; `false` if it came through.
fn kill_at(fixture: &Fixture, task: &str, failpoint: &str) -> bool {
    let name = "commit::tests::crash::the_one_that_dies";
    let starting = crate::stage::tests::STARTING_CHILDREN.write().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--test-threads=1", "-q"])
        .env(WHERE, &fixture.home)
        .env(TASK, task)
        .env("FULGURITE_FAILPOINT", failpoint)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    drop(starting);
    let status = child.wait().unwrap();
    assert!(status.success() || status.signal() == Some(9), "{failpoint}: {status}");
    !status.success()
}

/// No temporary name and no replaced directory is left.
fn nothing_is_left_beside(root: &Path) {
    for (path, _) in super::listing(root) {
        assert!(!path.to_string_lossy().contains(".fulgurite-"), "{}", path.display());
    }
}

fn recover_and_check(fixture: &Fixture, failpoint: &str) -> State {
    let recovered = fixture.recover();
    assert!(recovered.lost.is_empty() && recovered.failed.is_empty(), "{failpoint}: {recovered:?}");
    assert_eq!(recovered.completed + recovered.dropped, 1, "{failpoint}: {recovered:?}");
    assert!(fixture.no_journal(), "{failpoint}");
    nothing_is_left_beside(&fixture.dest);
    state(&fixture.dest)
}

fn before_the_intent(failpoint: &str) -> bool {
    ["commit.record", "commit.recorded", "commit.copy", "commit.intent"]
        .iter()
        .any(|early| failpoint.split(':').next() == Some(early))
}

fn once(task: &str, failpoint: &str) {
    let fixture = scene();
    assert!(kill_at(&fixture, task, failpoint), "{failpoint} was never reached");
    let expected = if before_the_intent(failpoint) { State::AllOld } else { State::AllNew };
    if failpoint == "commit.record" || failpoint == "commit.finished" {
        // The slot says that there is nothing to do.
        assert_eq!(fixture.recover(), Recovered::default(), "{failpoint}");
        assert_eq!(state(&fixture.dest), expected, "{failpoint}");
        return;
    }
    assert_eq!(recover_and_check(&fixture, failpoint), expected, "{failpoint}");
    // Once more is no harm.
    assert_eq!(fixture.recover(), Recovered::default());
}

/// Every failpoint of a publication by renames, at the given visits of those that are reached once per output.
fn places(visits: impl Iterator<Item = usize> + Clone) -> Vec<String> {
    let once = ["record", "recorded", "intent", "intended", "done", "finished"];
    let each = ["rename", "renamed"];
    let mut places: Vec<_> = once.iter().map(|name| format!("commit.{name}")).collect();
    places.extend(each.iter().flat_map(|name| visits.clone().map(move |n| format!("commit.{name}:{n}"))));
    places
}

#[test]
fn killed_at_every_failpoint() {
    for failpoint in places([1, 2, 50, 99, 100].into_iter()) {
        once("publish", &failpoint);
    }
}

#[test]
fn killed_at_every_failpoint_with_everything_synced() {
    for failpoint in places([1, 57, 100].into_iter()) {
        once("power", &failpoint);
    }
}

#[test]
fn killed_ten_thousand_times() {
    let kills = std::env::var("FULGURITE_IT_KILLS").ok().and_then(|text| text.parse().ok());
    let kills: usize = match std::env::var_os("FULGURITE_IT_HEAVY") {
        Some(_) => kills.unwrap_or(10_000),
        None => return,
    };
    let places = places(1..=OUTPUTS);
    for n in 0..kills {
        once("publish", &places[n % places.len()]);
        if n % 1000 == 999 {
            eprintln!("{} kills, at {} places in turn: all old or all new", n + 1, places.len());
        }
    }
}

#[test]
fn a_recovery_that_is_killed_goes_on_at_the_next() {
    for (first, second) in [(1, 1), (1, 60), (50, 30), (100, 1)] {
        let fixture = scene();
        assert!(kill_at(&fixture, "publish", &format!("commit.rename:{first}")));
        assert!(kill_at(&fixture, "recover", &format!("commit.recover:{second}")));
        assert_eq!(recover_and_check(&fixture, "commit.recover"), State::AllNew);
    }
}

#[test]
fn killed_while_copying_to_another_filesystem() {
    if !root_or_skip("killed_while_copying_to_another_filesystem") {
        return;
    }
    let once_copied =
        ["commit.record", "commit.recorded:2", "commit.intent", "commit.intended", "commit.finished"];
    let mut failpoints: Vec<String> = once_copied.iter().map(|name| (*name).to_owned()).collect();
    for n in [1, 50, 100] {
        failpoints.extend(["copy", "rename", "renamed"].iter().map(|name| format!("commit.{name}:{n}")));
    }
    failpoints.push("commit.tidy:3".to_owned());
    for failpoint in failpoints {
        let fixture = scene();
        let dest = fixture.dest.clone();
        rustix::mount::mount_bind(&dest, &dest).unwrap();
        let answer = std::panic::catch_unwind(|| {
            assert!(kill_at(&fixture, "publish", &failpoint), "{failpoint} was never reached");
            let done = failpoint == "commit.finished" || failpoint.starts_with("commit.tidy");
            let expected = if before_the_intent(&failpoint) { State::AllOld } else { State::AllNew };
            if done || failpoint == "commit.record" {
                // Replaced things stay under hidden names: nobody knows of them any more.
                fixture.recover();
                assert_eq!(state(&dest), expected, "{failpoint}");
            } else {
                assert_eq!(recover_and_check(&fixture, &failpoint), expected, "{failpoint}");
            }
        });
        rustix::mount::unmount(&dest, rustix::mount::UnmountFlags::DETACH).unwrap();
        answer.unwrap();
    }
}

#[test]
fn readers_see_every_output_old_or_new() {
    for _ in 0..5 {
        let fixture = scene();
        let over = std::sync::atomic::AtomicBool::new(false);
        let reading = std::sync::Barrier::new(2);
        let looks = std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut looks = 0u64;
                reading.wait();
                loop {
                    let last = over.load(std::sync::atomic::Ordering::Acquire);
                    for n in (0..OUTPUTS).filter(|n| kinds(*n) == (Kind::File, Kind::File)) {
                        let found = fs::read_to_string(fixture.dest.join(path(n))).unwrap();
                        assert!(found == format!("old {n}") || found == format!("new {n}"), "{found}");
                        looks += 1;
                    }
                    for n in (0..OUTPUTS).filter(|n| kinds(*n) == (Kind::Directory, Kind::Directory)) {
                        // One open directory is one output, whatever is renamed over it.
                        let dir = open(&fixture.dest.join(path(n)));
                        let mut names: Vec<_> = crate::stage::beneath::list(dir.as_fd(), 9)
                            .unwrap()
                            .0
                            .into_iter()
                            .map(|(name, _)| name.into_string().unwrap())
                            .collect();
                        names.sort();
                        assert!(names == ["both", "old"] || names == ["both", "new"], "{names:?}");
                        looks += 1;
                    }
                    if last {
                        return looks;
                    }
                }
            });
            let declared = declared();
            reading.wait();
            let published =
                fixture.publish(&declared.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
            over.store(true, std::sync::atomic::Ordering::Release);
            assert_eq!((published.renamed, published.handoff), (OUTPUTS as u64, Handoff::Rename));
            reader.join().unwrap()
        });
        assert_eq!(state(&fixture.dest), State::AllNew);
        assert!(looks > 0);
    }
}
