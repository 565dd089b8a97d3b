//! The policies that are compared: when does which side start, and who may stop whom.
//!
//! - `bazel`: its defaults. The local branches of all jobs start at once, and take the cores in the order in which
//!   they came; after the first hit, local waits 1 s.
//! - `reclient`: `racing`. Local starts on a miss; on a hit after 1.5 × the 90th percentile of downloads, or a minute
//!   as long as there were less than 50. A local run that began is never stopped: its result counts.
//! - `siso`: a miss runs locally *instead of* remotely if a local slot is free at that moment; no race.
//! - `fulgurite`: this program's own code.
use crate::race::gate::Request;
use crate::race::knobs::{Knobs, LocalStrategy};
use crate::race::limits::QUIET_WITHIN;
use crate::race::policy::{
    Abilities, Facts, LocalStart, Plan, RemoteAbility, RemoteStart, Situation, choose,
};
use crate::race::sketch::Ring;
use crate::race::step::{FailureRule, Rules, SignalSet};
use std::time::Duration;

/// Who decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Everything here.
    LocalOnly,
    /// Everything there.
    RemoteOnly,
    /// Bazel's dynamic execution with its defaults.
    Bazel,
    /// reclient's `racing`.
    Reclient,
    /// Siso's fast local runs.
    Siso,
    /// This program.
    Fulgurite,
}

impl Policy {
    /// All, the floors first.
    pub const ALL: [Policy; 6] = [
        Policy::LocalOnly,
        Policy::RemoteOnly,
        Policy::Bazel,
        Policy::Reclient,
        Policy::Siso,
        Policy::Fulgurite,
    ];

    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Policy::LocalOnly => "local-only",
            Policy::RemoteOnly => "remote-only",
            Policy::Bazel => "bazel",
            Policy::Reclient => "reclient",
            Policy::Siso => "siso",
            Policy::Fulgurite => "fulgurite",
        }
    }

    /// How the gate treats its local branches.
    #[must_use]
    pub fn request(self) -> Request {
        // All take turns at the cores. Those of others in the order in which they came, ours the newest first.
        let oldest_first = Duration::from_nanos(1);
        let slow_remote_time = if self == Policy::Fulgurite { Duration::ZERO } else { oldest_first };
        Request { load_factor: 1.0, slow_remote_time, low_pass: true, sole: self == Policy::LocalOnly }
    }

    /// A local run that began is never stopped, and its result is the one that counts.
    #[must_use]
    pub fn local_is_final(self) -> bool {
        self == Policy::Reclient
    }

    /// A remote execution goes on after a local win.
    #[must_use]
    pub fn remote_goes_on(self) -> bool {
        self == Policy::Reclient
    }
}

/// What reclient waits before it has seen enough downloads.
const RECLIENT_HOLD: Duration = Duration::from_secs(60);
/// Downloads that it wants to have seen.
const RECLIENT_SAMPLES: usize = 50;
/// Its `racing_bias` of 0.75, twice.
const RECLIENT_BIAS: f64 = 1.5;

/// The rules of one action's race.
#[must_use]
pub fn rules(policy: Policy, mnemonic: &str, knobs: &Knobs, situation: &Situation, fetches: &Ring) -> Rules {
    let at_once = RemoteStart::AtOnce { execute_after: Duration::ZERO };
    let plan = match policy {
        Policy::LocalOnly => Plan { local: LocalStart::AtOnce, remote: RemoteStart::Never },
        Policy::RemoteOnly => Plan { local: LocalStart::Never, remote: at_once },
        Policy::Siso => Plan { local: LocalStart::Fallback, remote: at_once },
        Policy::Reclient => {
            let hit = match fetches.quantiles(RECLIENT_SAMPLES) {
                Some(fetches) => fetches.at(0.9).mul_f64(RECLIENT_BIAS).min(RECLIENT_HOLD),
                None => RECLIENT_HOLD,
            };
            let (miss, silence) = (Duration::ZERO, RECLIENT_HOLD);
            let local = LocalStart::OnAnswer { miss, hit, silence, executing: None };
            Plan { local, remote: at_once }
        }
        Policy::Bazel | Policy::Fulgurite => {
            let facts = Facts::of_tags(mnemonic, false, []);
            let abilities = Abilities { local: &[LocalStrategy::Sandboxed], remote: RemoteAbility::Execute };
            match choose(&facts, &abilities, knobs, situation) {
                Ok(choice) => return choice.rules,
                Err(_) => Plan { local: LocalStart::AtOnce, remote: at_once },
            }
        }
    };
    Rules {
        plan,
        in_place: false,
        local_holds: false,
        failure: FailureRule::First,
        publish_failures: false,
        let_remote_finish: false,
        may_reap: true,
        ignored_signals: SignalSet::default(),
        deadline: None,
        quiet_within: QUIET_WITHIN,
    }
}
