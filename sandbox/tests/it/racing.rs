//! A worker that looks for the view of before by every path while views change: from the answer on it finds none.
//!
//! Each view holds its number. The owner says in memory that both share which number is *asked* for and, once that is
//! answered, that nothing below it may be found (*floor*). The worker reads the floor, then a file by a path: what it
//! finds must not be below, and between two changes it must find something.
use crate::fixture::{Checked, Command, Fixture, PROBE, check, same};
use crate::registry::{Test, alone};
use crate::staging::{Worker, pool};
use fulgurite_sandbox::hosted::{Hosted, HostedError};
use fulgurite_sandbox::layer;
use fulgurite_sandbox::spec::HostMount;
use fulgurite_sandbox::sys::{Errno, mount};
use libtest_mimic::Failed;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub fn tests() -> Vec<Test> {
    vec![
        alone("racing::at_work", |fixture| swaps(fixture, "/work", &PATHS)),
        alone("racing::in_a_directory_below", |fixture| swaps(fixture, "/work/sub", &PATHS_BELOW)),
        alone("racing::a_place_beside_others", places),
        alone("racing::what_is_left_goes_with_the_next_change", what_is_left_goes),
        alone("racing::who_stands_below_comes_up_in_the_live_view", who_stands_below),
    ]
}

const CHANGES: u64 = 1000;
const PATHS: [&str; 9] = [
    "/work/n",
    "n",
    "./sub/../n",
    "../work/n",
    "/work/sub/n",
    "sub/n",
    "/proc/self/cwd/n",
    "/proc/self/root/work/n",
    "/tmp/../work/sub/../n",
];
const PATHS_BELOW: [&str; 7] =
    ["/work/n", "n", "../n", "../sub/n", "/work/sub/../n", "/proc/self/cwd/../n", "../../work/sub/n"];
const PATHS_PLACE: [&str; 4] = ["/work/_w/0/n", "_w/0/n", "_w/0/sub/../n", "/proc/self/cwd/_w/0/sub/n"];

/// Directories with a number each, and the memory that the worker shares.
struct Track {
    all: TempDir,
    shared: crate::work::Shared,
}

impl Track {
    fn new() -> Result<Track, Failed> {
        let all = tempfile::tempdir()?;
        let board = all.path().join("board");
        std::fs::create_dir(&board)?;
        for path in [all.path(), &board] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?;
        }
        std::fs::write(board.join("words"), [0; 4096])?;
        std::fs::set_permissions(board.join("words"), std::fs::Permissions::from_mode(0o666))?;
        let shared = crate::work::Shared::open(&board.join("words"))?;
        let track = Track { all, shared };
        for number in 0..2 {
            track.lay(number)?;
        }
        Ok(track)
    }

    fn lay(&self, number: u64) -> Checked {
        let place = self.place(number);
        std::fs::create_dir_all(place.join("sub"))?;
        std::fs::create_dir_all(place.join(Hosted::slot_dir(0)))?;
        std::fs::write(place.join("n"), number.to_string())?;
        Ok(std::fs::write(place.join("sub/n"), number.to_string())?)
    }

    /// Removes what was there long before: what could still be reached of it would be found.
    fn forget(&self, number: u64) -> Checked {
        let old = self.place(number.saturating_sub(50));
        if number > 51 && old.exists() {
            std::fs::remove_dir_all(old)?;
        }
        Ok(())
    }

    fn place(&self, number: u64) -> std::path::PathBuf {
        self.all.path().join(number.to_string())
    }

    fn view(&self, number: u64) -> Result<OwnedFd, Failed> {
        self.lay(number)?;
        let path = crate::fixture::c(self.place(number).to_str().ok_or("a plain name")?);
        let tree = layer::open_directory(rustix::fs::CWD, &path)?;
        Ok(mount::clone_mount(tree.as_fd(), c"")?)
    }

    fn worker(
        &self,
        fixture: &Fixture,
        pool: &fulgurite_sandbox::pool::Pool,
        at: &str,
    ) -> Result<Worker, Failed> {
        let mut spec = crate::staging::spec(fixture);
        let source = self.all.path().join("board");
        spec.mounts.push(HostMount { source, target: Path::new("/board").to_path_buf(), writable: true });
        let mut command = Command::new(&[PROBE, "probe", "work"]);
        command.directory = crate::fixture::c(at);
        let view = self.view(1)?;
        self.shared.ask(1);
        self.shared.answered(1);
        Worker::start_with(pool.lease(&spec)?, &command, Some(view.as_fd()))
            .map_err(|outcome| Failed::from(format!("{outcome:?}")))
    }
}

/// The middle of what all changes took.
fn told(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |part: usize| times.get(times.len() * part / 100).copied().unwrap_or_default();
    eprintln!("{what}: median {:?}, 10 % below {:?}, 10 % above {:?}", at(50), at(10), at(90));
}

fn swaps(fixture: &Fixture, at: &str, paths: &[&str]) -> Checked {
    let (pool, track) = (pool(fixture, 1)?, Track::new()?);
    let mut worker = track.worker(fixture, &pool, at)?;
    let mut times = Vec::new();
    for racing in [false, true] {
        if racing {
            told(&format!("a change at {at}"), std::mem::take(&mut times));
            same(worker.ask(&format!("race /board/words {}", paths.join(" ")))?.as_str(), "done", "race")?;
        }
        let first = if racing { CHANGES / 2 } else { 2 };
        for number in first..first + CHANGES / 2 - 2 {
            let view = track.view(number)?;
            track.shared.ask(number);
            let before = Instant::now();
            worker.hosted.swap(view.as_fd())?;
            times.push(before.elapsed());
            track.shared.answered(number);
            track.forget(number)?;
        }
    }
    told(&format!("a change at {at}, looked for"), times);
    let answer = worker.ask("raced")?;
    eprintln!("{answer}");
    check(answer.starts_with("looked") && !answer.contains("looked 0 "), answer)?;
    drop(worker.end()?);
    Ok(pool.stop()?)
}

fn places(fixture: &Fixture) -> Checked {
    let (pool, track) = (pool(fixture, 1)?, Track::new()?);
    let mut worker = track.worker(fixture, &pool, "/work")?;
    // What is found is judged; what is not found never is, since there may be nothing.
    track.shared.ask(u64::MAX);
    same(worker.ask(&format!("race /board/words {}", PATHS_PLACE.join(" ")))?.as_str(), "done", "race")?;
    let mut times = Vec::new();
    for number in 2..CHANGES / 2 {
        let view = track.view(number)?;
        worker.hosted.attach(0, view.as_fd())?;
        let before = Instant::now();
        worker.hosted.detach(0)?;
        times.push(before.elapsed());
        track.shared.answered(number + 1);
        track.forget(number)?;
    }
    told("taking a place's view away, looked for", times);
    let answer = worker.ask("raced")?;
    eprintln!("{answer}");
    check(answer.starts_with("looked"), answer)?;
    drop(worker.end()?);
    Ok(pool.stop()?)
}

fn what_is_left_goes(fixture: &Fixture) -> Checked {
    let (pool, track) = (pool(fixture, 1)?, Track::new()?);
    for at in ["/work", "/work/sub"] {
        let mut worker = track.worker(fixture, &pool, at)?;
        let mounts = worker.mounts()?;
        for number in 2..5 {
            // Detaching fails after the answer: the view is out of reach nevertheless, and goes with the next change.
            worker.hosted.swap_failing_at(Some(track.view(number)?.as_fd()), 8)?;
            same(worker.ask("cat n")?, number.to_string(), "relative")?;
            same(worker.ask("cat /work/n")?, number.to_string(), "absolute")?;
            same(
                worker.ask("list /work")?.as_str(),
                "_w n sub",
                "the view, and nothing of what is below it",
            )?;
            check(worker.ask("list /work/store")?.starts_with("failed"), "a place that is not there")?;
            worker.hosted.attach(0, track.view(9)?.as_fd())?;
            worker.hosted.detach(0)?;
            same(worker.mounts()?, mounts, "mounts")?;
        }
        worker.hosted.swap_failing_at(Some(track.view(6)?.as_fd()), 8)?;
        let init = worker.init();
        drop(worker.end()?);
        // So it does with a reset.
        let mut spec = crate::staging::spec(fixture);
        let source = track.all.path().join("board");
        spec.mounts.push(HostMount { source, target: Path::new("/board").to_path_buf(), writable: true });
        let mut lease = pool.lease(&spec)?;
        same(crate::pools::init_of(&lease), init, "the same sandbox")?;
        crate::pools::runs(&mut lease, "[ -z \"$(ls -A /work)\" ] && ! grep ' /work' /proc/self/mountinfo")?;
    }
    Ok(pool.stop()?)
}

fn who_stands_below(fixture: &Fixture) -> Checked {
    let (pool, track) = (pool(fixture, 1)?, Track::new()?);
    let mut worker = track.worker(fixture, &pool, "/work")?;
    same(worker.ask("hire /work/sub")?.as_str(), "0", "a child below")?;
    worker.hosted.swap_failing_at(Some(track.view(2)?.as_fd()), 8)?;
    // It stands in the old view as before, and its way up leads past what is between that and the live one.
    same(worker.ask("child 0 cat ../n")?.as_str(), "1", "one up")?;
    same(worker.ask("child 0 cat ../../n")?.as_str(), "2", "two up")?;
    check(worker.ask("child 0 cat ../../store/n")?.starts_with("failed"), "the store")?;
    same(worker.ask("child 0 list ../..")?.as_str(), "_w n sub", "two up")?;
    match worker.hosted.detach(1) {
        Err(HostedError::Kept { errno: Errno::NOENT, .. }) => {}
        other => return Err(format!("{other:?}").into()),
    }
    // Any answer has what is left detached.
    worker.mounts()?;
    same(worker.ask("child 0 cat ../n")?.as_str(), "1", "one up, later")?;
    drop(worker.end()?);
    Ok(pool.stop()?)
}
