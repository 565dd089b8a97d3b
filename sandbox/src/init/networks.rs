//! The network and IPC namespaces that a zygote passes on, the next ones made ahead.
use crate::sys::{Result, process};
use rustix::fd::{AsFd, OwnedFd};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// The network namespaces that this zygote passes on.
///
/// Making one costs as much as all the rest of a cold sandbox, so the next one is made ahead, in the zygote itself:
/// a clone inherits it, and then it is nobody else's. It belongs to the zygote's user namespace, so that init, whose
/// capabilities end at its own, cannot even configure it.
pub(super) struct Networks {
    /// The daemon's, for sandboxes that share it.
    host: OwnedFd,
    can_return: bool,
    now: NetworkNow,
    /// What the last sandbox wanted: loopback up (`true`), down (`false`), or none of its own.
    wanted: Option<bool>,
}

/// The network namespace that the zygote is in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum NetworkNow {
    Host,
    /// Fresh and unused, with loopback up or down.
    Prepared(bool),
    /// A sandbox has it.
    Taken,
}

impl Networks {
    /// The zygote is in the daemon's namespace. `once`: one sandbox at most will be made, so that nothing is made
    /// ahead.
    pub(super) fn new(host: OwnedFd, once: bool) -> Self {
        // Who cannot come back must not leave: an ordinary user's zygote has no power over the host's namespace.
        let kind = Some(LinkNameSpaceType::Network);
        let can_return = !once && move_into_link_name_space(host.as_fd(), kind).is_ok();
        Networks { host, can_return, now: NetworkNow::Host, wanted: None }
    }

    /// Gets ready to clone a sandbox. True: the clone inherits a fresh namespace and must not ask for another.
    pub(super) fn hand_over(&mut self, wanted: Option<bool>) -> Result<bool> {
        self.wanted = wanted;
        match wanted {
            Some(up) if self.now == NetworkNow::Prepared(up) => {
                self.now = NetworkNow::Taken;
                Ok(true)
            }
            Some(_) => Ok(false),
            None => {
                if self.now != NetworkNow::Host {
                    move_into_link_name_space(self.host.as_fd(), Some(LinkNameSpaceType::Network))?;
                    self.now = NetworkNow::Host;
                }
                Ok(false)
            }
        }
    }

    /// In another zygote that was forked from this one: the namespace that both are in is this one's to give.
    pub(super) fn inherited(&mut self) {
        if self.now != NetworkNow::Host {
            self.now = NetworkNow::Taken;
        }
    }

    /// Makes the next namespace, when there is time. Without it, the next sandbox makes its own.
    pub(super) fn prepare(&mut self) {
        let Some(up) = self.wanted else { return };
        if !self.can_return || matches!(self.now, NetworkNow::Prepared(_)) {
            return;
        }
        // SAFETY: unshare(2) takes an integer; the zygote has one thread.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0 {
            let ready = !up || process::loopback_up().is_ok();
            self.now = if ready { NetworkNow::Prepared(up) } else { NetworkNow::Taken };
        }
    }
}

/// The IPC namespace of a sandbox's first action, made ahead like its network. From the second action on, each makes
/// its own during the reset.
pub(super) struct IpcAhead {
    /// The daemon's.
    host: OwnedFd,
    can_return: bool,
    /// Whether the zygote is in a fresh one.
    fresh: bool,
}

impl IpcAhead {
    pub(super) fn new(host: OwnedFd, once: bool) -> Self {
        let can_return = !once
            && move_into_link_name_space(host.as_fd(), Some(LinkNameSpaceType::InterProcessCommunication))
                .is_ok();
        IpcAhead { host, can_return, fresh: false }
    }

    /// Whether the next clone inherits a fresh namespace. Afterwards [`IpcAhead::leave`] must follow.
    pub(super) fn hand_over(&mut self) -> bool {
        std::mem::take(&mut self.fresh)
    }

    /// Goes back to the daemon's, so that what an action leaves in its namespace ends with the namespace.
    pub(super) fn leave(&mut self) {
        self.fresh = false;
        if self.can_return {
            // It worked when the zygote started. If it should not work now, nothing is made ahead any more.
            let kind = Some(LinkNameSpaceType::InterProcessCommunication);
            self.can_return = move_into_link_name_space(self.host.as_fd(), kind).is_ok();
        }
    }

    /// Makes the next one, when there is time.
    pub(super) fn prepare(&mut self) {
        if self.can_return && !self.fresh {
            // SAFETY: unshare(2) takes an integer; the zygote has one thread.
            self.fresh = unsafe { libc::unshare(libc::CLONE_NEWIPC) } == 0;
        }
    }
}
