//! A command that runs straight in a tree, written down: what it leaves if its process dies can be found and removed.
//!
//! ```text
//!   announce ─► record `in place`: who runs it, its outputs and what they are like now ─► it runs, `beat` now and then
//!      │                              └ the process dies ─► recovery:
//!      │                                   it lives: wait ─► it does not end: kept for the next recovery
//!      │                                   no output has changed: left as they are
//!      │                                   changed long after the last beat: by somebody else; left, and said loudly
//!      │                                   changed: all outputs go, as after a lost race
//!      └► over ─► it has won, or what it left is gone; only then may another publish
//! ```
//! Whoever runs it is the first process of a pid namespace: when that has ended, nothing else of the command lives.
//!
//! Invariants: an output that nobody touched since the announcement stays; of those that the command touched, all go or
//! none; nothing is removed while the command may still write.
//!
//! Limits: what the command overwrote is gone. A change is told by inodes and the newest change time below an output. A
//! process is found by its number and its start, in the pid namespace of whoever recovers.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FileType, Timespec, Timestamps};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};

use super::error::PublishError;
use super::journal::{Journal, Slot};
use super::limits::{BEAT_GRACE, CLEAR_BATCH, END_PATIENCE, STAMP_ENTRIES_MAX};
use super::prepare::anchor;
use super::record::{Anchor, Entry, Identity, Record};
use crate::action::{ExecPath, Outputs};
use crate::output::OutputKind;
use crate::stage::beneath::{self, Way};
use crate::stage::{Fault, process_start};

/// A command that runs in place, until [`Announced::over`]. What is merely dropped is found by the next recovery.
#[derive(Debug)]
#[must_use = "a command that runs in place has to be over some time"]
pub struct Announced {
    slot: Slot,
}

/// Writes down that the processes of pid namespace init `runner` are about to write `outputs` below `root`.
///
/// # Errors
/// [`PublishError`]; then nothing may run in place.
pub fn announce(
    root: BorrowedFd<'_>,
    outputs: &Outputs,
    runner: u32,
    journal: &Journal,
    action: &[u8],
) -> Result<Announced, PublishError> {
    let count = outputs.iter().count();
    let failed = |why| PublishError::Journal { outputs: count, why };
    let path = Path::new("/proc").join(runner.to_string());
    let started = process_start(runner).map_err(Fault::of("find the start of", &path)).map_err(failed)?;
    let mut slot = journal.take().map_err(failed)?;
    let entry = |path: &ExecPath| -> Result<Entry, Fault> {
        let old = stamp(root, path).map_err(Fault::of("look at", path.as_path()))?;
        Ok(Entry { path: path.clone(), kind: OutputKind::File, temporary: false, new: 0, old })
    };
    let record = Record {
        tag: slot.tag,
        epoch: 0,
        action: action.to_vec(),
        layer: Anchor { path, inode: started },
        root: anchor(root, "the destination").map_err(failed)?,
        outputs: outputs
            .iter()
            .map(|output| entry(&output.path))
            .collect::<Result<_, _>>()
            .map_err(failed)?,
    };
    let written = slot.announce(&record).map_err(Fault::of("write", "the record of a command in place"));
    written.map_err(failed)?;
    Ok(Announced { slot })
}

impl Announced {
    /// Says that whoever runs it still lives: what changes long after the last of these is somebody else's.
    pub fn beat(&self) {
        let now = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
        if let Some(file) = self.slot.file() {
            // A beat that is missing makes a recovery more careful.
            let _ = rustix::fs::futimens(file, &Timestamps { last_access: now, last_modification: now });
        }
    }

    /// The command is over, and what it left is to stay, or is gone.
    ///
    /// # Errors
    /// The record could not be ended: a recovery may remove the outputs once more, so nothing may be published.
    pub fn over(self) -> Result<(), PublishError> {
        let why = Fault::of("mark as done", "the record of a command in place");
        self.slot.finish().map_err(|errno| PublishError::Journal { outputs: 0, why: why(errno) })
    }
}

/// What came of a command in place whose process has died.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// It had changed nothing.
    Untouched,
    /// Its outputs are gone.
    Cleared,
    /// Somebody else has changed this output since.
    MovedOn(String),
}

/// Ends it: removes its outputs if it has changed any.
pub(super) fn end(record: &Record, root: BorrowedFd<'_>, last_beat: i64) -> Result<Ended, Fault> {
    wait_for_the_end(&record.layer)?;
    let mut touched = false;
    for entry in &record.outputs {
        let now = stamp(root, &entry.path).map_err(Fault::of("look at", entry.path.as_path()))?;
        touched |= now != entry.old;
        let grace = i64::try_from(BEAT_GRACE.as_nanos()).unwrap_or(i64::MAX);
        if now != entry.old && now.is_some_and(|now| now.mtime > last_beat.saturating_add(grace)) {
            return Ok(Ended::MovedOn(entry.path.to_string()));
        }
    }
    if !touched {
        return Ok(Ended::Untouched);
    }
    for entry in &record.outputs {
        super::standalone::clear_one(root, &entry.path).map_err(|error| match error {
            PublishError::Prepare { why: crate::stage::TreeError::Fault(fault), .. } => fault,
            _ => Fault::new("clear", entry.path.as_path(), Errno::IO),
        })?;
    }
    Ok(Ended::Cleared)
}

/// Nobody kills it here: it ends with the process that made it, and its number may be another's by now.
fn wait_for_the_end(runner: &Anchor) -> Result<(), Fault> {
    let fault = |why| Fault::new("wait for the end of", &runner.path, why);
    let number = runner.path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
    let Some(pid) = number.and_then(Pid::from_raw) else { return Err(fault(Errno::INVAL)) };
    let handle: OwnedFd = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Err(Errno::SRCH) => return Ok(()),
        handle => handle.map_err(fault)?,
    };
    // Asked when the handle is there: it is this process's, or the number's next owner's.
    match process_start(pid.as_raw_nonzero().get().cast_unsigned()) {
        Ok(started) if started == runner.inode => {}
        _ => return Ok(()),
    }
    let patience = Timespec {
        tv_sec: i64::try_from(END_PATIENCE.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(END_PATIENCE.subsec_nanos()),
    };
    let mut events = [PollFd::new(&handle, PollFlags::IN)];
    loop {
        match poll(&mut events, Some(&patience)) {
            Ok(0) => return Err(fault(Errno::TIMEDOUT)),
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(why) => return Err(fault(why)),
        }
    }
}

/// What is at an output: its inode, and the newest change of anything below it. `None`: nothing.
fn stamp(root: BorrowedFd<'_>, path: &ExecPath) -> Result<Option<Identity>, Errno> {
    let parent = path.parent();
    let parent = parent.as_ref().map_or(Path::new("."), ExecPath::as_path);
    let dir = match beneath::open_dir_at(root, parent, Way::NoSymlinks) {
        Err(Errno::NOENT) => return Ok(None),
        dir => dir?,
    };
    let name = super::standalone::name_of(path);
    let Some(top) = beneath::look(dir.as_fd(), &name)? else { return Ok(None) };
    let changed = |stat: &rustix::fs::Stat| stat.st_ctime * 1_000_000_000 + stat.st_ctime_nsec.cast_signed();
    let mut newest = changed(&top);
    let mut ahead = match beneath::kind(&top) {
        FileType::Directory => vec![beneath::open_dir(dir.as_fd(), &name)?],
        _ => Vec::new(),
    };
    let mut seen = 0;
    while let Some(dir) = ahead.pop() {
        let (entries, _) = beneath::list(dir.as_fd(), STAMP_ENTRIES_MAX)?;
        for (name, _) in entries {
            let Some(stat) = beneath::look(dir.as_fd(), &name)? else { continue };
            newest = newest.max(changed(&stat));
            seen += 1;
            if beneath::kind(&stat) == FileType::Directory && ahead.len() < CLEAR_BATCH {
                ahead.push(beneath::open_dir(dir.as_fd(), &name)?);
            }
        }
        if seen > STAMP_ENTRIES_MAX {
            return Err(Errno::FBIG);
        }
    }
    Ok(Some(Identity { inode: top.st_ino, mtime: newest }))
}

/// When a slot was last written to or beaten, in nanoseconds.
pub(super) fn last_beat(slot: &OwnedFd) -> i64 {
    rustix::fs::fstat(slot).map_or(0, |stat| stat.st_mtime * 1_000_000_000 + stat.st_mtime_nsec.cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commit::{Durability, recover};
    use crate::stage::tests::{open, outputs};
    use std::fs;
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    /// A tree with outputs `file` and `tree/`, and a journal.
    struct Scene {
        temp: tempfile::TempDir,
        runner: std::process::Child,
    }

    impl Scene {
        fn new() -> Self {
            let temp = tempfile::tempdir().unwrap();
            fs::create_dir_all(temp.path().join("root/tree")).unwrap();
            fs::write(temp.path().join("root/file"), "old").unwrap();
            fs::write(temp.path().join("root/tree/kept"), "old").unwrap();
            fs::create_dir(temp.path().join("home")).unwrap();
            let runner = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
            Scene { temp, runner }
        }

        fn path(&self, path: &str) -> std::path::PathBuf {
            self.temp.path().join("root").join(path)
        }

        fn announced(&self) -> (Announced, Journal) {
            let home = open(&self.temp.path().join("home"));
            let journal = Journal::open(home.as_fd(), Durability::Process).unwrap();
            let root = open(&self.path(""));
            let announced =
                announce(root.as_fd(), &outputs(&["file", "tree/"]), self.runner.id(), &journal, b"cc")
                    .unwrap();
            (announced, journal)
        }

        fn die(&mut self) {
            self.runner.kill().unwrap();
            self.runner.wait().unwrap();
        }

        fn recovered(&self) -> crate::commit::Recovered {
            recover(open(&self.temp.path().join("home")).as_fd(), Durability::Process).unwrap()
        }

        fn left(&self) -> Vec<String> {
            ["file", "tree", "tree/kept", "tree/part"]
                .into_iter()
                .filter(|path| self.path(path).exists())
                .map(str::to_owned)
                .collect()
        }
    }

    #[test]
    fn what_nobody_touched_stays() {
        let mut scene = Scene::new();
        drop(scene.announced());
        scene.die();
        let recovered = scene.recovered();
        assert_eq!((recovered.cleared.len(), recovered.failed.len()), (0, 0), "{recovered:?}");
        assert_eq!(scene.left(), ["file", "tree", "tree/kept"]);
        assert_eq!(scene.recovered(), crate::commit::Recovered::default());
    }

    #[test]
    fn of_what_was_touched_all_goes_and_the_directory_stays() {
        let mut scene = Scene::new();
        drop(scene.announced());
        fs::write(scene.path("tree/part"), "half").unwrap();
        scene.die();
        let recovered = scene.recovered();
        assert_eq!(recovered.cleared.len(), 1, "{recovered:?}");
        assert!(recovered.cleared[0].contains("cc"), "{recovered:?}");
        assert_eq!(scene.left(), ["tree"]);
        assert_eq!(scene.recovered(), crate::commit::Recovered::default());
    }

    #[test]
    fn who_lives_is_left_alone() {
        let mut scene = Scene::new();
        let (announced, _journal) = scene.announced();
        fs::write(scene.path("file"), "half").unwrap();
        assert_eq!(scene.recovered().alive, 1);
        announced.over().unwrap();
        scene.die();
        assert_eq!(scene.left(), ["file", "tree", "tree/kept"]);
        assert_eq!(scene.recovered().cleared.len(), 0);
    }

    #[test]
    fn what_somebody_else_wrote_later_stays_and_is_said() {
        let mut scene = Scene::new();
        let (announced, journal) = scene.announced();
        let long_ago = SystemTime::now() - BEAT_GRACE - Duration::from_secs(60);
        let since = long_ago.duration_since(UNIX_EPOCH).unwrap();
        let then = Timespec { tv_sec: since.as_secs().cast_signed(), tv_nsec: 0 };
        let times = Timestamps { last_access: then, last_modification: then };
        rustix::fs::futimens(announced.slot.file().unwrap(), &times).unwrap();
        drop((announced, journal));
        scene.die();
        fs::write(scene.path("file"), "by make").unwrap();
        let recovered = scene.recovered();
        assert_eq!((recovered.cleared.len(), recovered.lost.len()), (0, 1), "{recovered:?}");
        assert!(recovered.lost[0].contains("file"), "{recovered:?}");
        assert_eq!(scene.left(), ["file", "tree", "tree/kept"]);
    }
}
