//! Opening a database of redb whatever its file is like.
//!
//! ```text
//!   a thread of its own ─ opens ─► the database
//!                        └ panics ─► told here; the thread stays parked with what it holds, and the process goes on
//! ```
//! Redb asserts what it expects of a file, and after a full disk and a kill a file can be otherwise. This program ends
//! at a panic, so that such a file would end every start. The panic hook comes before the end: on an opening thread it
//! tells and never returns.
//!
//! Invariants: hooks that others set before see all other panics; who opens never waits for a thread that is parked.
//! Limits: nobody can set another hook while a thread is parked in this one, and nobody here does; a parked thread
//! keeps its stack and its descriptors, and the lock of the file, which is therefore to be moved away before anybody
//! opens it again; after [`PANICS_MAX`] in one process nothing is opened any more.

use std::cell::RefCell;
use std::panic::PanicHookInfo;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};

/// Openings of one process that may panic: the files of a daemon are two, each is opened anew after it was moved away,
/// and what panics then is no matter of the file.
const PANICS_MAX: u32 = 8;

static PANICS: AtomicU32 = AtomicU32::new(0);

type Teller = Box<dyn Fn(String)>;

thread_local! {
    /// On an opening thread: whom to tell.
    static TELLER: RefCell<Option<Teller>> = const { RefCell::new(None) };
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NotOpened {
    /// The opening panicked: the file is bad.
    Panicked(String),
    /// It was not tried.
    NotTried(String),
}

/// Does `open` so that a panic in it is an answer.
pub(crate) fn guarded<T: Send + 'static>(open: impl FnOnce() -> T + Send + 'static) -> Result<T, NotOpened> {
    if PANICS.load(Ordering::Relaxed) >= PANICS_MAX {
        return Err(NotOpened::NotTried(format!("{PANICS_MAX} openings have panicked")));
    }
    set_hook();
    let (sender, answers) = sync_channel(1);
    let work = move || {
        let of_hook: SyncSender<Result<T, NotOpened>> = sender.clone();
        let tell = move |why| {
            // There is room for it, and whoever asked waits.
            let _ = of_hook.send(Err(NotOpened::Panicked(why)));
        };
        TELLER.set(Some(Box::new(tell)));
        let opened = open();
        TELLER.set(None);
        let _ = sender.send(Ok(opened));
    };
    let thread = std::thread::Builder::new().name("opening".to_owned()).spawn(work);
    let thread = thread.map_err(|error| NotOpened::NotTried(format!("cannot start a thread: {error}")))?;
    let answer = answers.recv().unwrap_or_else(|_| Err(NotOpened::NotTried("nobody answered".to_owned())));
    if answer.is_ok() {
        // It has answered, and has nothing else to do.
        let _ = thread.join();
    }
    answer
}

/// Once a process.
fn set_hook() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let teller = TELLER.try_with(RefCell::take).ok().flatten();
            match teller {
                None => before(info),
                Some(tell) => {
                    PANICS.fetch_add(1, Ordering::Relaxed);
                    tell(shown(info));
                    // Where a panic unwinds, it ends this thread and nothing else.
                    while cfg!(panic = "abort") {
                        std::thread::park();
                    }
                }
            }
        }));
    });
}

fn shown(info: &PanicHookInfo<'_>) -> String {
    let payload = info.payload();
    let said =
        payload.downcast_ref::<&str>().copied().or(payload.downcast_ref::<String>().map(String::as_str));
    let place = info.location().map_or_else(String::new, |at| format!(" ({}:{})", at.file(), at.line()));
    format!("opening it panicked: {}{place}", said.unwrap_or("no reason given"))
}

/// Moves a file out of the way, over one that was moved earlier. Gives where it is.
pub(crate) fn move_aside(path: &Path) -> std::io::Result<PathBuf> {
    let mut name = path.as_os_str().to_owned();
    name.push(".corrupt");
    let to = PathBuf::from(name);
    std::fs::rename(path, &to)?;
    Ok(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_answer_and_others_go_on() {
        assert_eq!(guarded(|| 7), Ok(7));
        let before = PANICS.load(Ordering::Relaxed);
        for number in 0..2 {
            let answer: Result<(), _> = guarded(move || panic!("bad page {number}"));
            let Err(NotOpened::Panicked(why)) = answer else { panic!("{answer:?}") };
            assert!(why.contains(&format!("bad page {number}")) && why.contains("opening.rs"), "{why}");
        }
        assert!(PANICS.load(Ordering::Relaxed) >= before + 2);
        assert_eq!(guarded(|| 8), Ok(8));
        // A panic of anybody else is what it always was.
        let other = std::thread::spawn(|| panic!("somebody else's")).join();
        assert!(other.is_err());
    }
}
