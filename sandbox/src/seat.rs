//! Seats: the places in which sandboxes can be. A seat has ids outside, a cgroup, and the zygote that clones into it.
//!
//! Ids: `0x7000_0000 + 64 × pid of the zygote + 2 × place`, init first, then its actions. Pids are below 2^22 and
//! unique while the zygote lives, so that no two sandboxes of one host share an id, whatever daemons run on it. (The
//! range up to `0x7fff_ffff` is used by nobody else; see "Users, Groups, UIDs and GIDs on systemd systems".) A zygote
//! serves 32 seats; then another one is forked.
//!
//! cgroup v1: moving a process costs a grace period of several milliseconds each time, so nobody is moved. Each seat
//! has a zygote of its own that was moved once, and everything that it clones starts in the seat's cgroup.
use crate::cgroup::{CgroupTree, Slot};
use crate::runtime::SandboxError;
use crate::zygote::{OuterIds, Zygote};
use rustix::fd::BorrowedFd;
use rustix::process::Pid;
use std::sync::{Arc, Mutex, PoisonError};

/// Seats that one zygote serves.
const SEATS_PER_ZYGOTE: u32 = 32;
/// Seats that are kept for the next sandbox when theirs is gone; more are taken apart.
const SPARE_SEATS_MAX: usize = 64;
/// The range of ids.
pub(crate) const IDS: core::ops::RangeInclusive<u32> = 0x7000_0000..=0x7fff_ffff;
/// Ids for each zygote.
const IDS_PER_ZYGOTE: u32 = 64;

/// A place for one sandbox.
#[derive(Debug)]
pub struct Seat {
    /// Its number.
    pub(crate) index: usize,
    /// Its ids outside.
    pub(crate) ids: OuterIds,
    /// Clones into it.
    pub(crate) zygote: Arc<Zygote>,
    /// Its cgroup, or why there is none.
    pub(crate) cgroup: Result<Slot, Arc<str>>,
    zygote_place: Option<u32>,
    worn_out: bool,
}

impl Seat {
    /// Kills what is left in the cgroup for actions. Nothing can start in it until it is renewed: from Linux 6.14 on,
    /// `clone3` into a cgroup that was killed once kills the child.
    pub(crate) fn wear_out(&mut self) {
        self.is_killed();
        if let Ok(cgroup) = &self.cgroup {
            // The caller waits for the effect, and gives up without it.
            let _ = cgroup.kill_action();
        }
    }

    /// The cgroup for actions was killed.
    pub(crate) fn is_killed(&mut self) {
        self.worn_out = true;
    }

    /// Whether nothing can start in the cgroup for actions.
    pub(crate) fn is_worn_out(&self) -> bool {
        self.worn_out
    }

    /// After a run: a new cgroup for actions where the old one was killed or keeps its peak; `None`: the old one does.
    ///
    /// # Errors
    /// The old one is still busy, or no new one can be made; then the seat is of no use any more.
    pub(crate) fn renew(&mut self) -> Result<Option<BorrowedFd<'_>>, SandboxError> {
        let Ok(cgroup) = self.cgroup.as_mut() else { return Ok(None) };
        if cgroup.action_leaf_fd().is_none() || (cgroup.resets_peak() && !self.worn_out) {
            return Ok(None);
        }
        cgroup.renew_action_leaf()?;
        self.worn_out = false;
        Ok(cgroup.action_leaf_fd())
    }

    /// The id of its actions outside: the owner of what they write.
    #[must_use]
    pub fn action_id(&self) -> u32 {
        self.ids.action
    }

    /// Its number.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }
}

/// A seat that was taken.
#[derive(Debug)]
pub struct Taken {
    /// The seat.
    pub seat: Seat,
    /// Whether it was used before, so that its zygote may have died meanwhile.
    pub was_spare: bool,
}

#[derive(Debug)]
struct SharedZygote {
    zygote: Arc<Zygote>,
    free: Vec<u32>,
}

#[derive(Debug, Default)]
struct State {
    shared: Vec<SharedZygote>,
    spare: Vec<Seat>,
    free_indexes: Vec<usize>,
    next_index: usize,
}

/// Hands out seats.
#[derive(Debug)]
pub struct Seats {
    zygote: Arc<Zygote>,
    tree: Result<CgroupTree, Arc<str>>,
    privileged: bool,
    state: Mutex<State>,
}

impl Seats {
    pub(crate) fn new(zygote: Arc<Zygote>, tree: Result<CgroupTree, String>, privileged: bool) -> Self {
        let tree = tree.map_err(Arc::from);
        let first = SharedZygote { zygote: zygote.clone(), free: places() };
        let state = State { shared: vec![first], ..State::default() };
        Seats { zygote, tree, privileged, state: Mutex::new(state) }
    }

    /// Takes a spare seat, or makes one.
    ///
    /// # Errors
    /// [`SandboxError`], when its cgroup or zygote cannot be made.
    pub fn take(&self) -> Result<Taken, SandboxError> {
        let index = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(seat) = state.spare.pop() {
                return Ok(Taken { seat, was_spare: true });
            }
            match state.free_indexes.pop() {
                Some(index) => index,
                None => {
                    state.next_index += 1;
                    state.next_index - 1
                }
            }
        };
        let seat = self.make(index).inspect_err(|_| self.free_index(index))?;
        Ok(Taken { seat, was_spare: false })
    }

    fn make(&self, index: usize) -> Result<Seat, SandboxError> {
        let mut cgroup = match &self.tree {
            Ok(tree) => Ok(tree.slot(index)?),
            Err(why) => Err(why.clone()),
        };
        let own_zygote = cgroup.as_ref().is_ok_and(Slot::needs_v1_attach);
        let (zygote, place) = if own_zygote { (Arc::new(self.zygote.fork()?), None) } else { self.share()? };
        if let (true, Ok(slot), Some(pid)) = (own_zygote, &cgroup, Pid::from_raw(zygote.pid().cast_signed()))
        {
            slot.attach_v1(pid)?;
        }
        let ids = self.ids(&zygote, place.unwrap_or(0));
        if let (Ok(slot), true) = (&mut cgroup, self.privileged) {
            slot.delegate_to(ids.init, ids.init)?;
        }
        Ok(Seat { index, ids, zygote, cgroup, zygote_place: place, worn_out: false })
    }

    fn ids(&self, zygote: &Zygote, place: u32) -> OuterIds {
        if !self.privileged {
            // The only id of the ordinary user's namespace.
            return OuterIds { init: 0, action: 0 };
        }
        let first = *IDS.start() + zygote.pid() % (1 << 22) * IDS_PER_ZYGOTE + 2 * place;
        OuterIds { init: first, action: first + 1 }
    }

    fn share(&self) -> Result<(Arc<Zygote>, Option<u32>), SandboxError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for shared in &mut state.shared {
            if let Some(place) = shared.free.pop() {
                return Ok((shared.zygote.clone(), Some(place)));
            }
        }
        let zygote = Arc::new(self.zygote.fork()?);
        let mut free = places();
        let place = free.pop();
        state.shared.push(SharedZygote { zygote: zygote.clone(), free });
        Ok((zygote, place))
    }

    /// Gives a seat back whose sandbox is gone. It is kept for the next one if nobody is left in it.
    ///
    /// # Errors
    /// As [`Seats::discard`].
    pub fn give_back(&self, mut seat: Seat) -> Result<(), SandboxError> {
        if seat.worn_out {
            // One that cannot be renewed stays worn out.
            let _ = seat.renew();
        }
        let deserted =
            !seat.worn_out && seat.cgroup.as_ref().ok().is_none_or(|cgroup| cgroup.populated() != Some(true));
        if deserted {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.spare.len() < SPARE_SEATS_MAX {
                state.spare.push(seat);
                return Ok(());
            }
        }
        self.discard(seat)
    }

    /// Takes a seat apart.
    ///
    /// # Errors
    /// [`SandboxError::Cgroup`] with directories that cannot be removed yet; the seat's number is then not used again.
    pub fn discard(&self, seat: Seat) -> Result<(), SandboxError> {
        let Seat { index, zygote, cgroup, zygote_place, .. } = seat;
        {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(place) = zygote_place
                && let Some(shared) =
                    state.shared.iter_mut().find(|shared| Arc::ptr_eq(&shared.zygote, &zygote))
            {
                shared.free.push(place);
            }
        }
        // A zygote of its own ends here, before its cgroup is removed.
        if let Some(zygote) = Arc::into_inner(zygote) {
            zygote.stop();
        }
        if let Ok(slot) = cgroup {
            slot.destroy()?;
        }
        self.free_index(index);
        Ok(())
    }

    /// Takes a seat apart whose zygote has ended; a shared zygote serves nobody any more.
    ///
    /// # Errors
    /// As [`Seats::discard`].
    pub fn discard_dead(&self, seat: Seat) -> Result<(), SandboxError> {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .shared
            .retain(|shared| !Arc::ptr_eq(&shared.zygote, &seat.zygote));
        self.discard(seat)
    }

    fn free_index(&self, index: usize) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).free_indexes.push(index);
    }

    /// Takes all spare seats apart, with their cgroups and zygotes.
    ///
    /// # Errors
    /// As [`Seats::discard`]; the first one.
    pub fn trim(&self) -> Result<(), SandboxError> {
        let spare = std::mem::take(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner).spare);
        spare.into_iter().map(|seat| self.discard(seat)).fold(Ok(()), Result::and)
    }

    pub(crate) fn stop(self) -> Result<(), SandboxError> {
        let trimmed = self.trim();
        let Seats { zygote, tree, state, .. } = self;
        drop(zygote);
        let state = state.into_inner().unwrap_or_else(PoisonError::into_inner);
        state.shared.into_iter().filter_map(|shared| Arc::into_inner(shared.zygote)).for_each(Zygote::stop);
        let destroyed = match tree {
            Ok(tree) => tree.destroy().map_err(SandboxError::from),
            Err(_) => Ok(()),
        };
        trimmed.and(destroyed)
    }
}

fn places() -> Vec<u32> {
    (0..SEATS_PER_ZYGOTE).rev().collect()
}
