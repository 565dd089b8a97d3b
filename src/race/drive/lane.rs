//! The parts of a race that is driven: what it hears, its branches, and what comes when nobody listens any more.

use super::Course;
use crate::commit::Side;
use crate::race::branch::{BranchEnd, Cancel, Desk, Ended, Product};
use crate::race::mailbox::Mailbox;
use crate::race::report::BranchReport;
use crate::race::step::CacheAnswer;
use std::any::Any;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// What a race hears.
pub(super) enum Message<P> {
    Cancel,
    /// That many times it was asked for.
    Admitted(u32),
    Answer(CacheAnswer),
    Executing,
    Ended(Side, Ended<P>),
    Panicked(Side, Box<dyn Any + Send>),
}

/// Whether a remote branch may execute.
#[derive(Default)]
pub(super) struct Permit {
    may: Mutex<Option<bool>>,
    bell: Condvar,
}

impl Permit {
    /// The first word counts, but for a stop.
    pub(super) fn say(&self, may: bool) {
        let mut said = self.may.lock().unwrap_or_else(PoisonError::into_inner);
        *said = Some(said.unwrap_or(true) && may);
        self.bell.notify_all();
    }

    fn wait(&self) -> bool {
        let mut said = self.may.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match *said {
                Some(may) => return may,
                None => said = self.bell.wait(said).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

/// The desk of one race.
pub(super) struct RemoteDesk<P> {
    mailbox: Arc<Mailbox<Message<P>>>,
    permit: Arc<Permit>,
    /// A branch answers once; more would fill the mailbox.
    answered: AtomicBool,
    /// So may a cluster say again and again that it executes.
    executes: AtomicBool,
}

impl<P> RemoteDesk<P> {
    pub(super) fn new(mailbox: Arc<Mailbox<Message<P>>>, permit: Arc<Permit>) -> Self {
        RemoteDesk { mailbox, permit, answered: AtomicBool::new(false), executes: AtomicBool::new(false) }
    }
}

impl<P: Send> Desk for RemoteDesk<P> {
    fn answer(&self, answer: CacheAnswer) -> bool {
        // Nobody reads: the race is over, and the permit says so.
        if !self.answered.swap(true, Ordering::Relaxed) {
            let _ = self.mailbox.send(Message::Answer(answer));
        }
        answer == CacheAnswer::Hit || self.permit.wait()
    }

    fn executing(&self) {
        if !self.executes.swap(true, Ordering::Relaxed) {
            let _ = self.mailbox.send(Message::Executing);
        }
    }
}

/// A branch while it is driven.
pub(super) struct Lane<P> {
    pub(super) cancel: Cancel,
    pub(super) thread: Option<JoinHandle<()>>,
    pub(super) product: Option<P>,
    pub(super) why: Option<String>,
    pub(super) report: BranchReport,
}

impl<P> Lane<P> {
    pub(super) fn new() -> Self {
        let (cancel, report) = (Cancel::default(), BranchReport::default());
        Lane { cancel, thread: None, product: None, why: None, report }
    }
}

/// What came when nobody read any more.
pub(super) fn dispose<P: Product>(unread: Message<P>, course: &Course, name: &str, wall: Duration) {
    match unread {
        Message::Ended(side, Ended { end, cpu }) => {
            course.totals.waste(wall, cpu);
            if let BranchEnd::Ready(product) | BranchEnd::Failed(product) | BranchEnd::Signal(_, product) =
                end
            {
                product.discard(side);
            }
        }
        Message::Panicked(side, panic) => late_bug(course, name, side, panic.as_ref()),
        Message::Cancel | Message::Admitted(_) | Message::Answer(_) | Message::Executing => {}
    }
}

/// A branch that had lost already has panicked.
pub(super) fn late_bug(course: &Course, name: &str, side: Side, panic: &(dyn Any + Send)) {
    course.totals.count_late_bug();
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text");
    tracing::error!("the {side} branch of {name}, which had lost, has panicked: {text}");
}
