//! Runs a race: performs what [`step`](super::step) says, on threads, with the claim.
//!
//! ```text
//!   run (the caller's thread) ◄── mailbox ◄── local branch (thread), remote branch (thread), gate, caller's cancel
//!     │ claim ─► publish(claim, product)      here: the loser was told before, and is not waited for
//!     └ return: both have ended, or the reaper has them
//! ```
//! Invariants: those of `step`; a branch's thread is joined by the race or held by the reaper; a product is published,
//! returned or discarded, once; a caller's cancel abandons the claim's word itself, so that it needs no thread of ours
//! to be in time; a panic of a branch goes on in the caller's thread, as long as nobody had won before.
//!
//! Limits: two threads a race. A build of the program that aborts on panics dies of a branch's panic at once.

mod lane;

use super::admission::{Admission, Place};
use super::branch::{Cancel, Ended, LocalBranch, Product, RemoteBranch};
use super::gate::Request;
use super::mailbox::Mailbox;
use super::reaper::{Lingering, Reaper};
use super::report::{Execution, Report, Totals};
use super::step::{CacheAnswer, Effect, Effects, End, Event, Outcome, Rules, State, Why, step};
use crate::commit::{Claim, ClaimCell, Side, State as Word};
use lane::{Lane, Message, Permit, RemoteDesk, dispose, late_bug};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What all races of a process share.
#[derive(Clone)]
pub struct Course {
    /// Lets local branches in.
    pub gate: Arc<dyn Admission>,
    /// Holds losers.
    pub reaper: Arc<Reaper>,
    /// Sums.
    pub totals: Arc<Totals>,
}

/// One race.
pub struct Race<P> {
    /// What it is called in messages.
    pub name: String,
    /// What holds for it.
    pub rules: Rules,
    /// Its claim.
    pub cell: ClaimCell,
    /// How the gate treats the local branch; whether it is alone is found out here.
    pub request: Request,
    /// The local branch.
    pub local: Option<Box<dyn LocalBranch<P>>>,
    /// The remote branch.
    pub remote: Option<Box<dyn RemoteBranch<P>>>,
    /// Collect what happened as Bazel says it.
    pub debug: bool,
}

/// What came of a race.
#[derive(Debug)]
pub struct Finished<P, T> {
    /// How it ended.
    pub outcome: Outcome,
    /// What publishing gave.
    pub published: Option<T>,
    /// The product of an action that failed and was not published.
    pub failure: Option<P>,
    /// Why publishing failed.
    pub broken: Option<String>,
    /// Why the local branch had no result.
    pub local_why: Option<String>,
    /// Why the remote branch had no result.
    pub remote_why: Option<String>,
    /// What happened.
    pub report: Report,
}

/// Runs a race to its end. `cancel` is the caller's: it may be used from any thread.
///
/// # Panics
/// With a branch's own panic, if that came before there was a winner.
pub fn run<P: Product, T>(
    race: Race<P>,
    course: &Course,
    cancel: &Cancel,
    publish: impl FnOnce(Claim, P) -> Result<T, String>,
) -> Finished<P, T> {
    let mailbox = Arc::new(Mailbox::default());
    let (letters, cell, told) = (mailbox.clone(), race.cell.clone(), AtomicBool::new(false));
    cancel.arm(move || {
        // Once: whoever cancels again and again shall not fill the mailbox.
        if !told.swap(true, Ordering::Relaxed) {
            cell.abandon();
            let _ = letters.send(Message::Cancel);
        }
    });
    let mut driver = Driver::new(race, course, mailbox, publish);
    driver.work();
    cancel.disarm();
    driver.finish()
}

struct Driver<'a, P: Product, T, F> {
    course: &'a Course,
    mailbox: Arc<Mailbox<Message<P>>>,
    began: Instant,
    state: State,
    race: Race<P>,
    lanes: [Lane<P>; 2],
    permit: Arc<Permit>,
    place: Option<Place>,
    /// How often a place was asked for: what was let in for an earlier asking has been withdrawn.
    asked: u32,
    claim: Option<Claim>,
    publish: Option<F>,
    published: Option<T>,
    broken: Option<String>,
    panic: Option<Box<dyn Any + Send>>,
    answer: Option<(CacheAnswer, Duration)>,
    execution: Execution,
    published_at: Option<Duration>,
    outcome: Option<Outcome>,
    lines: Vec<String>,
}

impl<'a, P: Product, T, F: FnOnce(Claim, P) -> Result<T, String>> Driver<'a, P, T, F> {
    fn new(race: Race<P>, course: &'a Course, mailbox: Arc<Mailbox<Message<P>>>, publish: F) -> Self {
        Driver {
            course,
            mailbox,
            began: Instant::now(),
            state: State::new(race.rules),
            race,
            lanes: [Lane::new(), Lane::new()],
            permit: Arc::default(),
            place: None,
            asked: 0,
            claim: None,
            publish: Some(publish),
            published: None,
            broken: None,
            panic: None,
            answer: None,
            execution: Execution::default(),
            published_at: None,
            outcome: None,
            lines: Vec::new(),
        }
    }

    fn lane(&mut self, side: Side) -> &mut Lane<P> {
        &mut self.lanes[usize::from(side == Side::Remote)]
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn line(&mut self, line: impl FnOnce(&str) -> String) {
        if self.race.debug {
            let line = line(&self.race.name);
            tracing::info!(target: "fulgurite::race", "{line}");
            self.lines.push(line);
        }
    }

    fn work(&mut self) {
        self.line(|name| format!("Dynamic execution of {name} beginning"));
        self.happens(Event::Begin);
        while self.outcome.is_none() {
            let until = self.state.wake_at().and_then(|at| self.began.checked_add(at));
            match self.mailbox.take(until) {
                None => self.happens(Event::Tick),
                Some(message) => self.read(message),
            }
        }
    }

    fn read(&mut self, message: Message<P>) {
        let now = self.now();
        match message {
            Message::Cancel => self.happens(Event::Cancel),
            Message::Admitted(asked) if asked != self.asked => {}
            Message::Admitted(_) => self.happens(Event::Admitted),
            Message::Executing => {
                self.execution.begun_at = Some(now);
                self.happens(Event::Executing);
            }
            Message::Answer(answer) => {
                self.answer = Some((answer, now));
                self.happens(Event::Answer(answer));
            }
            Message::Ended(side, ended) => {
                let (end, product, why) = ended.end.split();
                self.note_end(side, end, ended.cpu);
                let lane = self.lane(side);
                lane.product = product;
                lane.why = why;
                self.happens(Event::Ended(side, end));
                if side == Side::Remote && self.state.is_open() && self.outcome.is_none() && end != End::Ready
                {
                    // Who waits at the gate waits alone now.
                    self.place.iter().for_each(Place::sole);
                }
            }
            Message::Panicked(side, panic) => {
                self.note_end(side, End::Bug, Duration::ZERO);
                if self.state.is_open() {
                    self.panic = Some(panic);
                } else {
                    late_bug(self.course, &self.race.name, side, panic.as_ref());
                }
                self.happens(Event::Ended(side, End::Bug));
            }
        }
    }

    fn note_end(&mut self, side: Side, end: End, cpu: Duration) {
        let (now, decided) = (self.now(), !self.state.is_open());
        let lane = self.lane(side);
        lane.report.ended_at = Some(now);
        lane.report.end = Some(end);
        lane.report.cpu = cpu;
        if let Some(thread) = lane.thread.take() {
            // It has sent its last message, and ends.
            let _ = thread.join();
        }
        let was = if decided { "was" } else { "was not" };
        self.line(|name| format!("{} branch of {name} finished and {was} cancelled", title(side)));
    }

    /// Tells the transitions, and does what they say; what that gives at once is told them as well.
    fn happens(&mut self, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            let (state, effects) = step(self.state, event, self.now());
            self.state = state;
            // Answers are told in the order in which they were asked for.
            let mut answers = self.perform(effects);
            answers.reverse();
            events.extend(answers);
        }
    }

    fn perform(&mut self, effects: Effects) -> Vec<Event> {
        effects.into_iter().filter_map(|effect| self.perform_one(effect)).collect()
    }

    fn perform_one(&mut self, effect: Effect) -> Option<Event> {
        match effect {
            Effect::StartRemote(why) => return self.start_remote(why),
            Effect::ExecuteRemote(_) => {
                self.execution.permitted_at = Some(self.now());
                self.permit.say(true);
            }
            Effect::AskLocal(why) => return self.ask_local(why),
            Effect::WithdrawLocal => self.place = None,
            Effect::StartLocal => return self.start_local(),
            Effect::Abort(side) => self.abort(side),
            Effect::LetRun(_) => {}
            Effect::Claim(side) => return Some(self.claim(side)),
            Effect::Abandon => return Some(self.abandon()),
            Effect::Publish(side) => return Some(self.publish(side)),
            Effect::DropClaim(_) => {
                self.broken = Some("the local branch was killed, and does not end".to_owned());
                self.claim = None;
            }
            Effect::Discard(side) => {
                if let Some(product) = self.lane(side).product.take() {
                    product.discard(side);
                }
                return Some(Event::Discarded(side));
            }
            Effect::Reap(side) => return Some(self.reap(side)),
            Effect::Return(outcome) => self.outcome = Some(outcome),
        }
        None
    }

    fn started(&mut self, side: Side, thread: std::io::Result<JoinHandle<()>>) -> Option<Event> {
        let now = self.now();
        let lane = self.lane(side);
        match thread {
            Ok(thread) => {
                lane.thread = Some(thread);
                lane.report.started_at = Some(now);
                None
            }
            Err(error) => {
                lane.why = Some(format!("cannot start a thread for the {side} branch: {error}"));
                Some(Event::Ended(side, End::Infra))
            }
        }
    }

    fn start_remote(&mut self, why: Why) -> Option<Event> {
        let now = self.now();
        let lane = self.lane(Side::Remote);
        lane.report.why = Some(why);
        lane.report.wanted_at = Some(now);
        let cancel = lane.cancel.clone();
        let Some(branch) = self.race.remote.take() else {
            self.lane(Side::Remote).why = Some("there is no remote branch".to_owned());
            return Some(Event::Ended(Side::Remote, End::Infra));
        };
        let desk = RemoteDesk::new(self.mailbox.clone(), self.permit.clone());
        let thread = self.spawn(Side::Remote, None, move || branch.run(&cancel, &desk));
        self.started(Side::Remote, thread)
    }

    fn ask_local(&mut self, why: Why) -> Option<Event> {
        let now = self.now();
        let lane = self.lane(Side::Local);
        lane.report.why = Some(why);
        lane.report.wanted_at = Some(now);
        let mailbox = self.mailbox.clone();
        self.asked += 1;
        let asked = self.asked;
        let request =
            Request { sole: self.race.request.sole || why == Why::OtherCannot, ..self.race.request };
        let entered = Box::new(move || {
            let _ = mailbox.send(Message::Admitted(asked));
        });
        match self.course.gate.ask(request, entered) {
            Ok(place) => {
                self.place = Some(place);
                None
            }
            Err(full) => {
                self.lane(Side::Local).why = Some(full.to_string());
                Some(Event::Refused)
            }
        }
    }

    fn start_local(&mut self) -> Option<Event> {
        let cancel = self.lane(Side::Local).cancel.clone();
        let Some(branch) = self.race.local.take() else {
            self.lane(Side::Local).why = Some("there is no local branch".to_owned());
            return Some(Event::Ended(Side::Local, End::Infra));
        };
        // The place goes with the thread: a loser that still runs still needs its processor.
        let place = self.place.take();
        let thread = self.spawn(Side::Local, place, move || branch.run(&cancel));
        self.started(Side::Local, thread)
    }

    fn spawn(
        &self,
        side: Side,
        place: Option<Place>,
        body: impl FnOnce() -> Ended<P> + Send + 'static,
    ) -> std::io::Result<JoinHandle<()>> {
        let (mailbox, course, name) = (self.mailbox.clone(), self.course.clone(), self.race.name.clone());
        std::thread::Builder::new().name(format!("race-{side}")).spawn(move || {
            let began = Instant::now();
            let message = match catch_unwind(AssertUnwindSafe(body)) {
                Ok(ended) => Message::Ended(side, ended),
                Err(panic) => Message::Panicked(side, panic),
            };
            drop(place);
            if let Err(unread) = mailbox.send(message) {
                dispose(unread, &course, &name, began.elapsed());
            }
        })
    }

    fn abort(&mut self, side: Side) {
        let now = self.now();
        if side == Side::Remote {
            self.permit.say(false);
        }
        let lane = self.lane(side);
        lane.report.aborted_at = Some(now);
        lane.cancel.cancel();
        self.line(|name| format!("Cancelling {side} branch of {name}"));
    }

    fn claim(&mut self, side: Side) -> Event {
        match self.race.cell.claim(side) {
            Ok(claim) => {
                self.claim = Some(claim);
                Event::Claimed(side)
            }
            Err(_) => Event::Lost(side),
        }
    }

    fn abandon(&mut self) -> Event {
        // A caller's cancel may have done it before.
        match self.race.cell.abandon() || self.race.cell.state() == Word::Abandoned {
            true => Event::Abandoned,
            false => Event::NotAbandoned,
        }
    }

    fn publish(&mut self, side: Side) -> Event {
        let parts = (self.claim.take(), self.lane(side).product.take(), self.publish.take());
        let (Some(claim), Some(product), Some(publish)) = parts else {
            self.broken = Some("there is nothing to publish".to_owned());
            return Event::Broken(side);
        };
        match publish(claim, product) {
            Ok(published) => {
                self.published = Some(published);
                self.published_at = Some(self.now());
                Event::Published(side)
            }
            Err(why) => {
                self.broken = Some(why);
                Event::Broken(side)
            }
        }
    }

    fn reap(&mut self, side: Side) -> Event {
        let lane = self.lane(side);
        let told = lane.report.aborted_at.is_some();
        let cancel = lane.cancel.clone();
        let Some(thread) = lane.thread.take() else { return Event::NotReaped(side) };
        match self.course.reaper.take(Lingering { thread, cancel, told }) {
            Ok(()) => {
                self.course.totals.count_reaped();
                Event::Reaped(side)
            }
            Err(back) => {
                self.lane(side).thread = Some(back.thread);
                Event::NotReaped(side)
            }
        }
    }

    fn finish(mut self) -> Finished<P, T> {
        let outcome = self.outcome.unwrap_or(Outcome::NoResult);
        let returned_at = self.now();
        for unread in self.mailbox.close() {
            dispose(unread, self.course, &self.race.name, Duration::ZERO);
        }
        let shown = |lane: &Lane<P>| lane.report.end.map_or("null".to_owned(), |end| format!("{end:?}"));
        let (local, remote) = (shown(&self.lanes[0]), shown(&self.lanes[1]));
        self.line(|name| format!("Dynamic execution of {name} ended with local {local}, remote {remote}"));
        let [local, remote] = self.lanes;
        let report = Report {
            outcome,
            local: local.report,
            remote: remote.report,
            answer: self.answer,
            execution: self.execution,
            returned_at,
            published_at: self.published_at,
            lines: self.lines,
        };
        self.course.totals.add(&report);
        if let (Outcome::Bug(_), Some(panic)) = (outcome, self.panic) {
            resume_unwind(panic);
        }
        let failure = match outcome {
            Outcome::Failed(Side::Local) => local.product,
            Outcome::Failed(Side::Remote) => remote.product,
            _ => None,
        };
        let (published, broken) = (self.published, self.broken);
        Finished { outcome, published, failure, broken, local_why: local.why, remote_why: remote.why, report }
    }
}

fn title(side: Side) -> &'static str {
    match side {
        Side::Local => "Local",
        Side::Remote => "Remote",
    }
}
