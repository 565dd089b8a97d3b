//! Views of a worker: what init does so that a live process sees another /work.
//!
//! ```text
//! /work: old                               the worker stands at the root of old
//!   attach          old ◄ new              new lies on old, for paths; nobody has moved
//!   [subdirectory]  the same for the mount at old/sub, which then moves to new/sub
//!   exchange        new ◄ old              pivot_root with old as root: who stood at old's root stands at new's
//!   store           new                    old lies in the cellar, where no path leads: the answer is sent
//!   detach                                 old is gone, but for what somebody holds open
//! ```
//! A process keeps the mount of its working directory whatever is mounted over the path, so that mounting alone would
//! not reach it. pivot_root(2) is the one call that moves the working directories of others: those that stand at the
//! caller's root. So init makes the old view its root for the length of one call.
//!
//! Invariants: no allocation, lock or panic; a step that fails before anybody has moved is taken back, and the worker
//! has the view that it had; one that fails later leaves the view *broken*, and the worker is killed; init is at its
//! own root again whatever happens, or ends, and everything with it; an answer is sent when no path leads to the old
//! view any more, and not before; what could not be detached after it is tried again after the next change.
//!
//! Limits: a process in a directory below (other than the one that the worker was started in), or with a descriptor of
//! the old view, keeps it; what it can write there ends with the seal, which must come before the view goes:
//! the kernel changes no mount that is in no namespace.
use super::Init;
use super::cellar::Cellar;
use super::interpret::Failed;
use super::sweeper::Sweeper;
use super::wire::{FromInit, SLOT_NONE, SLOTS_MAX, ToInit, Viewed};
use crate::plan::machinery;
use crate::sys::{Errno, Result, mount, process};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ffi::CStr;

/// A change of views that failed.
#[derive(Clone, Copy, Debug)]
pub struct NotChanged {
    /// Why.
    pub errno: Errno,
    /// Whether it could not be taken back.
    pub broken: bool,
}

impl NotChanged {
    fn kept(errno: Errno) -> Self {
        NotChanged { errno, broken: false }
    }
    fn broken(errno: Errno) -> Self {
        NotChanged { errno, broken: true }
    }
}

/// A change of views, or why there was none.
type Changed = core::result::Result<(), NotChanged>;

/// The views of one worker.
pub struct Views {
    /// Where answers go.
    pub answers: OwnedFd,
    /// Whether the owner knows that the program was executed.
    pub executed: bool,
    /// Init's own root.
    root: OwnedFd,
    /// The empty directory below whatever is mounted at /work.
    bare: OwnedFd,
    /// What the views are mounted on, and where they go.
    cellar: Cellar,
    /// What is mounted at /work.
    top: OwnedFd,
    /// What is mounted where the worker was started, if that is below /work.
    below: Option<OwnedFd>,
    slots: [Option<OwnedFd>; SLOTS_MAX as usize],
}

/// What a worker that is over has left at /work.
pub struct Left {
    cellar: Cellar,
    top: OwnedFd,
    root: OwnedFd,
}

impl Left {
    /// Detaches it, with whatever was mounted on it since.
    pub fn end(self) -> Result<()> {
        let ended = self.cellar.fill_in(self.top.as_fd());
        go_home(self.root.as_fd());
        ended
    }
}

/// Everything that init does is relative to its root; without it there is nothing that it could do right.
fn go_home(root: BorrowedFd<'_>) {
    if mount::return_to(root).is_err() {
        process::exit_now(1);
    }
}

/// The part below /work of a directory, if it is below.
fn below_work(directory: &CStr) -> Option<&CStr> {
    const WORK: &[u8] = b"/work/";
    let rest = directory.to_bytes_with_nul().strip_prefix(WORK)?;
    CStr::from_bytes_with_nul(rest).ok().filter(|rest| !rest.is_empty())
}

/// Opens what is below every view of /work, before anything is mounted there.
///
/// # Errors
/// As openat2(2).
pub fn bare() -> Result<OwnedFd> {
    mount::mount_point(mount::here(), c"work")
}

impl Views {
    /// Mounts `work`, or an empty directory, at /work, and what the worker will stand on if it starts in a directory
    /// below.
    pub fn begin(
        answers: OwnedFd,
        work: Option<OwnedFd>,
        directory: &CStr,
    ) -> core::result::Result<Views, Failed> {
        let wrap = |errno| Failed { step: machinery::HOST, errno };
        let bare = bare().map_err(wrap)?;
        let top = match work {
            Some(work) => work,
            None => mount::clone_mount(bare.as_fd(), c"").map_err(wrap)?,
        };
        let root = mount::opath(mount::here(), c".").map_err(wrap)?;
        let cellar = Cellar::dig(bare.as_fd()).map_err(wrap)?;
        let mut views = Views {
            answers,
            executed: false,
            root,
            bare,
            cellar,
            top,
            below: None,
            slots: [const { None }; SLOTS_MAX as usize],
        };
        let attached = mount::attach(views.top.as_fd(), views.cellar.root());
        match attached.and_then(|()| views.stand(directory)) {
            // The start itself says what is wrong with the directory.
            Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => Ok(views),
            Err(errno) => {
                let _ = views.leave().end();
                Err(wrap(errno))
            }
        }
    }

    /// Makes the directory that the worker starts in a mount of its own, so that it can be exchanged.
    fn stand(&mut self, directory: &CStr) -> Result<()> {
        let Some(path) = below_work(directory) else { return Ok(()) };
        let place = mount::directory_below(self.top.as_fd(), path)?;
        let below = mount::clone_mount(place.as_fd(), c"")?;
        mount::attach(below.as_fd(), place.as_fd())?;
        self.below = Some(below);
        Ok(())
    }

    /// Replaces what is at /work by `view`, or by an empty directory. Part `fail_at` fails (0: none).
    ///
    /// `view` must have the directory that the worker was started in, which an empty one has only if that is /work.
    pub fn swap(&mut self, view: Option<OwnedFd>, directory: &CStr, fail_at: u32) -> Changed {
        let parts = Parts { fail_at };
        self.make_room()?;
        let new = match view {
            Some(view) => view,
            None => mount::clone_mount(self.bare.as_fd(), c"").map_err(NotChanged::kept)?,
        };
        let place = match (&self.below, below_work(directory)) {
            (Some(_), Some(path)) => match mount::directory_below(new.as_fd(), path) {
                Ok(place) => Some(place),
                Err(errno) => return Err(NotChanged::kept(errno)),
            },
            _ => None,
        };
        let changed = self.replace(&parts, new, place);
        go_home(self.root.as_fd());
        changed
    }

    fn replace(&mut self, parts: &Parts, new: OwnedFd, place: Option<OwnedFd>) -> Changed {
        parts.number(1, || mount::attach(new.as_fd(), self.top.as_fd())).map_err(NotChanged::kept)?;
        if let (Some(place), Some(old)) = (place, self.below.take()) {
            match move_below(parts, [self.root.as_fd(), place.as_fd()], old, &mut self.cellar) {
                Ok(below) => self.below = Some(below),
                Err((old, failed)) => {
                    self.below = Some(old);
                    return Err(failed.broken_unless(|| mount::detach_mount(new.as_fd())));
                }
            }
        }
        let moved = parts.number(6, || mount::exchange(self.top.as_fd(), new.as_fd()));
        if let Err(errno) = moved {
            // Who stands below has moved already.
            let failed = NotChanged { errno, broken: self.below.is_some() };
            return Err(failed.broken_unless(|| mount::detach_mount(new.as_fd())));
        }
        parts.number(7, || self.cellar.take(self.top.as_fd())).map_err(NotChanged::broken)?;
        self.top = new;
        // They were mounted in the old view, and went with it.
        for slot in &mut self.slots {
            *slot = None;
        }
        Ok(())
    }

    /// Attaches `view` at its place below /work.
    pub fn attach(&mut self, slot: u32, view: OwnedFd) -> Changed {
        let top = self.top.as_fd();
        let held = self.slots.get_mut(slot as usize).ok_or(NotChanged::kept(Errno::RANGE))?;
        if held.is_some() {
            return Err(NotChanged::kept(Errno::BUSY));
        }
        let mut buffer = [0u8; 16];
        let attached = slot_path(&mut buffer, slot)
            .and_then(|path| mount::directory_below(top, path))
            .and_then(|place| mount::attach(view.as_fd(), place.as_fd()));
        attached.map_err(NotChanged::kept)?;
        *held = Some(view);
        Ok(())
    }

    /// Takes away what was attached there, wherever the worker has moved the directory to.
    pub fn detach(&mut self, slot: u32) -> Changed {
        self.make_room()?;
        let held = self.slots.get_mut(slot as usize).ok_or(NotChanged::kept(Errno::RANGE))?;
        let view = held.as_ref().ok_or(NotChanged::kept(Errno::NOENT))?;
        self.cellar.take(view.as_fd()).map_err(NotChanged::kept)?;
        *held = None;
        Ok(())
    }

    fn make_room(&mut self) -> Changed {
        if self.cellar.has_room() {
            return Ok(());
        }
        let made = self.cellar.clear();
        go_home(self.root.as_fd());
        made.map_err(NotChanged::kept)
    }

    /// Starts the thread that detaches what was taken away, if that can be had.
    ///
    /// # Safety
    /// As `Sweeper::start`.
    pub unsafe fn start(&self, sweeper: &mut Sweeper) {
        if rustix::process::fchdir(self.cellar.store()).is_ok() {
            // SAFETY: the caller vouches for it.
            let _ = unsafe { sweeper.start() };
        }
        go_home(self.root.as_fd());
    }

    /// Has what was taken away detached. Nobody waits for it; what stays is tried again after the next change.
    fn sweep(&mut self, sweeper: &Sweeper) {
        if self.cellar.is_used() && !sweeper.sweep() {
            let _ = self.cellar.clear();
            go_home(self.root.as_fd());
        }
    }

    /// What is left at /work when the worker is over. Whoever waits for an answer hears that there will be none.
    pub fn leave(self) -> Left {
        Left { cellar: self.cellar, top: self.top, root: self.root }
    }

    /// Makes what is there read-only; `EBUSY` while somebody can write.
    pub fn seal(&self, slot: u32) -> Changed {
        let held = match slot {
            SLOT_NONE => Some(&self.top),
            slot => self.slots.get(slot as usize).ok_or(NotChanged::kept(Errno::RANGE))?.as_ref(),
        };
        let view = held.ok_or(NotChanged::kept(Errno::NOENT))?;
        match mount::seal(view.as_fd()) {
            Ok(true) => Ok(()),
            Ok(false) => Err(NotChanged::kept(Errno::BUSY)),
            Err(errno) => Err(NotChanged::kept(errno)),
        }
    }
}

/// Exchanges `old`, the mount that the worker stands on, for a mount of `place`, and moves that to `place`.
fn move_below(
    parts: &Parts,
    [root, place]: [BorrowedFd<'_>; 2],
    old: OwnedFd,
    cellar: &mut Cellar,
) -> core::result::Result<OwnedFd, (OwnedFd, NotChanged)> {
    let new = match parts.number(2, || {
        let new = mount::clone_mount(place, c"")?;
        mount::attach(new.as_fd(), old.as_fd()).map(|()| new)
    }) {
        Ok(new) => new,
        Err(errno) => return Err((old, NotChanged::kept(errno))),
    };
    if let Err(errno) = parts.number(3, || mount::exchange(old.as_fd(), new.as_fd())) {
        return Err((old, NotChanged::kept(errno).broken_unless(|| mount::detach_mount(new.as_fd()))));
    }
    let rest = parts
        .number(4, || cellar.take(old.as_fd()))
        .and_then(|()| mount::return_to(root))
        .and_then(|()| parts.number(5, || mount::attach(new.as_fd(), place)));
    match rest {
        Ok(()) => Ok(new),
        Err(errno) => Err((old, NotChanged::broken(errno))),
    }
}

impl NotChanged {
    /// Takes the change back, unless it is too late for that.
    fn broken_unless(self, undo: impl FnOnce() -> Result<()>) -> Self {
        NotChanged { broken: self.broken || undo().is_err(), ..self }
    }
}

/// The part that comes after the answer: to detach the old view.
const STAYS: u32 = 8;

/// The parts of an exchange, one of which may be told to fail.
struct Parts {
    fail_at: u32,
}

impl Parts {
    fn number<T>(&self, number: u32, part: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.fail_at == number { Err(Errno::IO) } else { part() }
    }
}

/// `_w/<slot>` in a buffer of the caller.
fn slot_path(buffer: &mut [u8; 16], slot: u32) -> Result<&CStr> {
    let mut digits = [0u8; 10];
    let (mut at, mut rest) = (digits.len(), slot);
    loop {
        at -= 1;
        *digits.get_mut(at).ok_or(Errno::RANGE)? = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    let digits = digits.get(at..).unwrap_or(&[]);
    buffer.get_mut(..3).ok_or(Errno::RANGE)?.copy_from_slice(b"_w/");
    buffer.get_mut(3..3 + digits.len()).ok_or(Errno::RANGE)?.copy_from_slice(digits);
    CStr::from_bytes_until_nul(buffer).map_err(|_| Errno::RANGE)
}

impl Init<'_> {
    /// The socket of a worker that has not executed its program yet.
    pub(super) fn starting_worker(&self) -> Option<BorrowedFd<'_>> {
        let views = self.views.as_ref()?;
        if views.executed { None } else { self.parked.as_ref().map(|parked| parked.link.as_fd()) }
    }

    /// The worker's socket has something: its end, since it executed, or why it could not, which is read when it ended.
    pub(super) fn executed(&mut self) {
        let silent = self.read_failure();
        if let Some(views) = &mut self.views {
            views.executed = true;
            if silent {
                let _ = FromInit::Executed.send(views.answers.as_fd());
            }
        }
    }

    /// Does what the owner asks for, and answers.
    pub(super) fn change_view(&mut self, message: &ToInit, view: Option<OwnedFd>) {
        // A worker that is over needs no answer: its end has been sent.
        let Some(views) = &mut self.views else { return };
        let missing = || NotChanged::kept(Errno::BADF);
        let mut keeps = false;
        let (ticket, changed) = match *message {
            ToInit::Swap { ticket, fail_at } => {
                keeps = fail_at == STAYS;
                let directory = self.launch.directory().unwrap_or(c"/work");
                (ticket, views.swap(view, directory, fail_at))
            }
            ToInit::Attach { ticket, slot } => {
                (ticket, view.ok_or(missing()).and_then(|view| views.attach(slot, view)))
            }
            ToInit::Detach { ticket, slot } => (ticket, views.detach(slot)),
            ToInit::Seal { ticket, slot } => (ticket, views.seal(slot)),
            _ => return,
        };
        let mut answer = Viewed { ticket, ..Viewed::default() };
        if let Err(failed) = changed {
            (answer.errno, answer.broken) = (failed.errno.raw_os_error(), failed.broken);
        }
        if answer.broken {
            // Nobody shall see what it does from now on, nor it what it has.
            self.run.kill_requested = true;
            let _ = process::kill_all_others();
        }
        let _ = FromInit::Viewed(answer).send(views.answers.as_fd());
        if !answer.broken && !keeps {
            views.sweep(&self.sweeper);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_have_their_number_as_name() {
        for (slot, path) in [(0, c"_w/0"), (7, c"_w/7"), (10, c"_w/10"), (255, c"_w/255")] {
            assert_eq!(slot_path(&mut [0; 16], slot), Ok(path));
        }
        assert_eq!(slot_path(&mut [0; 16], u32::MAX), Ok(c"_w/4294967295"));
    }

    #[test]
    fn only_what_is_below_work_is_below() {
        assert_eq!(below_work(c"/work"), None);
        assert_eq!(below_work(c"/work/"), None);
        assert_eq!(below_work(c"/workers/a"), None);
        assert_eq!(below_work(c"/tmp"), None);
        assert_eq!(below_work(c"/work/a/b"), Some(c"a/b"));
    }
}
