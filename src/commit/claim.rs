//! The claim: which branch of a race may publish, decided by one compare-exchange.
//!
//! ```text
//!            claim(Local) ──► Local  ──┬─ settle ──► Published(Local)
//!   Open ──┤ claim(Remote) ─► Remote ─┤  settle ──► Published(Remote)
//!          │                          └─ token dropped ──► Broken(side)     died between claim and publish
//!          └ abandon ───────► Abandoned                                     cancelled, or the first failure counts
//!
//!   word:  epoch (60 bits) │ state (4 bits)
//! ```
//! A branch claims when all that can fail lies behind it: its outputs are complete, verified, and on the destination's
//! filesystem. Nobody waits for anybody: the exchange is the only place where two branches meet.
//!
//! Invariants: `Open` is left once and never entered again, so that there is at most one [`Claim`] per cell, and none
//! after an abandonment; only the holder of the [`Claim`] changes a claimed state. What a branch wrote before `claim`
//! is seen by whoever sees its state (release, acquire); the same holds of what the publisher wrote before `settle`.
//! `tests/loom` explores every interleaving of these, this very file being its subject.
//!
//! Limits: a cell decides and wakes nobody. That a claim is taken late enough is the caller's part.

#[cfg(loom)]
use loom::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
#[cfg(not(loom))]
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// Bits of the word that hold the state.
const STATE_BITS: u32 = 4;
const STATE_MASK: u64 = (1 << STATE_BITS) - 1;

/// One of the two branches of a race.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// Runs on this machine.
    Local,
    /// Runs elsewhere, or comes from a remote cache.
    Remote,
}

impl Side {
    /// The one against it.
    pub fn other(self) -> Self {
        match self {
            Self::Local => Self::Remote,
            Self::Remote => Self::Local,
        }
    }
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Local => "local",
            Self::Remote => "remote",
        })
    }
}

/// How far a race has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Both may still claim.
    Open,
    /// This side may publish, and is about to.
    Claimed(Side),
    /// This side has published.
    Published(Side),
    /// This side claimed, and ended without having published all.
    Broken(Side),
    /// Nobody may publish, ever.
    Abandoned,
}

impl State {
    const fn bits(self) -> u64 {
        match self {
            Self::Open => 0,
            Self::Claimed(Side::Local) => 1,
            Self::Claimed(Side::Remote) => 2,
            Self::Published(Side::Local) => 3,
            Self::Published(Side::Remote) => 4,
            Self::Broken(Side::Local) => 5,
            Self::Broken(Side::Remote) => 6,
            Self::Abandoned => 7,
        }
    }

    /// The state in a word. None but those above is ever written.
    const fn of(word: u64) -> Self {
        match word & STATE_MASK {
            0 => Self::Open,
            1 => Self::Claimed(Side::Local),
            2 => Self::Claimed(Side::Remote),
            3 => Self::Published(Side::Local),
            4 => Self::Published(Side::Remote),
            5 => Self::Broken(Side::Local),
            6 => Self::Broken(Side::Remote),
            _ => Self::Abandoned,
        }
    }

    /// True once nothing changes any more.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Published(_) | Self::Broken(_) | Self::Abandoned)
    }
}

/// Why a branch may not publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Lost {
    /// This side was first (it may be the asking one, which then has asked twice).
    #[error("the {0} branch has claimed the outputs")]
    To(Side),
    /// The action was cancelled, or has failed.
    #[error("the race was abandoned")]
    Abandoned,
}

/// Gives out cells, each with an epoch of its own.
#[derive(Debug)]
pub struct Claims {
    next: AtomicU64,
}

impl Claims {
    /// The first cell gets `epoch`. A start that is later than all of earlier processes (microseconds since 1970, say)
    /// makes epochs unique in a journal that outlives them.
    pub fn new(epoch: u64) -> Self {
        Self { next: AtomicU64::new(epoch) }
    }

    /// An open cell.
    pub fn cell(&self) -> ClaimCell {
        ClaimCell::new(self.next.fetch_add(1, Ordering::Relaxed))
    }
}

/// The word on which the branches of one race meet. Clones are the same cell.
#[derive(Clone, Debug)]
pub struct ClaimCell {
    word: Arc<AtomicU64>,
    /// As in the word, which never changes it: one exchange decides, and nothing is read before.
    epoch: u64,
}

impl ClaimCell {
    /// An open cell. Of the epoch, the lower 60 bits count.
    pub fn new(epoch: u64) -> Self {
        let epoch = epoch & (u64::MAX >> STATE_BITS);
        Self { word: Arc::new(AtomicU64::new((epoch << STATE_BITS) | State::Open.bits())), epoch }
    }

    /// The right to publish, for `side`, if nobody had it yet and the race was not abandoned.
    ///
    /// # Errors
    /// Who was first.
    pub fn claim(&self, side: Side) -> Result<Claim, Lost> {
        match self.leave_open(State::Claimed(side)) {
            Ok(()) => Ok(Claim { word: self.word.clone(), side, epoch: self.epoch, settled: false }),
            Err(State::Claimed(first) | State::Published(first) | State::Broken(first)) => {
                Err(Lost::To(first))
            }
            Err(State::Open | State::Abandoned) => Err(Lost::Abandoned),
        }
    }

    /// Ends the race without a publication. True if this call did it: then nobody publishes, and the caller's reason
    /// (a cancellation, a failure) is the action's. False if a branch has claimed, or somebody was first.
    pub fn abandon(&self) -> bool {
        self.leave_open(State::Abandoned).is_ok()
    }

    /// How far the race has come. Who sees a state sees what was written before it was entered.
    pub fn state(&self) -> State {
        State::of(self.word.load(Ordering::Acquire))
    }

    /// The side that has claimed.
    pub fn winner(&self) -> Option<Side> {
        match self.state() {
            State::Claimed(side) | State::Published(side) | State::Broken(side) => Some(side),
            State::Open | State::Abandoned => None,
        }
    }

    /// What distinguishes this race from others.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The only way out of `Open`; on failure the state that was there.
    fn leave_open(&self, to: State) -> Result<(), State> {
        let open = (self.epoch << STATE_BITS) | State::Open.bits();
        let then = (self.epoch << STATE_BITS) | to.bits();
        let answer = self.word.compare_exchange(open, then, Ordering::AcqRel, Ordering::Acquire);
        answer.map(drop).map_err(State::of)
    }
}

/// The right to publish, of which there is one per race at most: it cannot be copied, and publishing consumes it.
///
/// Dropped without having published, it leaves the race `Broken`: nobody waits for an outcome that cannot come.
#[derive(Debug)]
#[must_use = "who claims has to publish; dropping the claim breaks the race"]
pub struct Claim {
    word: Arc<AtomicU64>,
    side: Side,
    epoch: u64,
    settled: bool,
}

impl Claim {
    /// The side that may publish.
    pub fn side(&self) -> Side {
        self.side
    }

    /// What distinguishes this race from others.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// All is published. Only what publishes calls this, after its last step.
    pub fn settle(mut self) {
        self.settled = true;
        self.enter(State::Published(self.side));
    }

    /// Nobody else writes to a claimed word.
    fn enter(&self, state: State) {
        self.word.store((self.epoch << STATE_BITS) | state.bits(), Ordering::Release);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.settled {
            self.enter(State::Broken(self.side));
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const EPOCH: u64 = 0x7_1234_5678_9abc;

    fn all_states() -> [State; 8] {
        let of = |side| [State::Claimed(side), State::Published(side), State::Broken(side)];
        let [a, b, c] = of(Side::Local);
        let [d, e, f] = of(Side::Remote);
        [State::Open, State::Abandoned, a, b, c, d, e, f]
    }

    #[test]
    fn a_state_survives_its_word() {
        for state in all_states() {
            assert_eq!(State::of((EPOCH << STATE_BITS) | state.bits()), state);
        }
    }

    #[test]
    fn the_first_claim_wins_and_is_the_only_one() {
        for side in [Side::Local, Side::Remote] {
            let cell = ClaimCell::new(EPOCH);
            assert_eq!((cell.state(), cell.winner(), cell.epoch()), (State::Open, None, EPOCH));
            let claim = cell.claim(side).unwrap();
            assert_eq!((claim.side(), claim.epoch()), (side, EPOCH));
            assert_eq!(cell.claim(side).unwrap_err(), Lost::To(side));
            assert_eq!(cell.claim(side.other()).unwrap_err(), Lost::To(side));
            assert!(!cell.abandon());
            assert_eq!((cell.state(), cell.winner()), (State::Claimed(side), Some(side)));
            claim.settle();
            assert_eq!((cell.state(), cell.epoch()), (State::Published(side), EPOCH));
            assert!(!cell.abandon());
            assert_eq!(cell.claim(side.other()).unwrap_err(), Lost::To(side));
        }
    }

    #[test]
    fn an_abandoned_race_is_claimed_by_nobody() {
        let cell = ClaimCell::new(EPOCH);
        assert!(cell.abandon());
        assert!(!cell.abandon());
        assert_eq!(cell.claim(Side::Local).unwrap_err(), Lost::Abandoned);
        assert_eq!((cell.state(), cell.winner()), (State::Abandoned, None));
    }

    #[test]
    fn a_claim_that_is_dropped_breaks_the_race() {
        let cell = ClaimCell::new(EPOCH);
        drop(cell.claim(Side::Remote).unwrap());
        assert_eq!((cell.state(), cell.winner()), (State::Broken(Side::Remote), Some(Side::Remote)));
        assert_eq!(cell.claim(Side::Local).unwrap_err(), Lost::To(Side::Remote));
        assert!(cell.state().is_final());
    }

    #[test]
    fn cells_have_epochs_of_their_own() {
        let claims = Claims::new(EPOCH);
        assert_eq!([claims.cell().epoch(), claims.cell().epoch()], [EPOCH, EPOCH + 1]);
    }

    #[test]
    fn of_many_threads_one_claims() {
        for epoch in 0..200 {
            let cell = ClaimCell::new(epoch);
            let winners: usize = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..4)
                    .map(|n| {
                        let side = if n % 2 == 0 { Side::Local } else { Side::Remote };
                        let cell = &cell;
                        scope.spawn(move || cell.claim(side).map(Claim::settle).is_ok())
                    })
                    .collect();
                threads.into_iter().map(|thread| usize::from(thread.join().unwrap())).sum()
            });
            assert_eq!(winners, 1);
            assert!(matches!(cell.state(), State::Published(_)));
        }
    }
}
