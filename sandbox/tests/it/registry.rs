//! What a test needs, where it runs, and how it is skipped: loudly and by name.
use crate::fixture::{Checked, Fixture};
use libtest_mimic::Trial;
use std::sync::Arc;

/// Where a test happens.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Nowhere: it is about pure code.
    Here,
    /// In sandboxes of this process.
    Sandboxes,
    /// In processes of its own, which start their own runtimes.
    Processes,
}

/// What a test wants of the host beside sandboxes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Want {
    Nothing,
    Limits,
    SeatZygotes,
    Patience,
}

/// Which tests this process is to run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All: as root a process may start runtimes and have one itself.
    All,
    /// All but those with processes of their own, which must be started outside of this one's user namespace.
    Inside,
    /// Only those.
    Outside,
    /// None, they are listed.
    Listing,
}

/// One test.
pub struct Test {
    name: &'static str,
    body: fn(&Fixture) -> Checked,
    is_alone: bool,
    place: Place,
    want: Want,
}

/// A test with sandboxes.
pub fn test(name: &'static str, body: fn(&Fixture) -> Checked) -> Test {
    Test { name, body, is_alone: false, place: Place::Sandboxes, want: Want::Nothing }
}

/// A test with sandboxes that nothing else may run beside, and that must leave everything as it was.
pub fn alone(name: &'static str, body: fn(&Fixture) -> Checked) -> Test {
    Test { is_alone: true, ..test(name, body) }
}

/// A test of pure code.
pub fn pure(name: &'static str, body: fn(&Fixture) -> Checked) -> Test {
    Test { place: Place::Here, ..test(name, body) }
}

/// A test with processes of its own.
pub fn apart(name: &'static str, body: fn(&Fixture) -> Checked) -> Test {
    Test { place: Place::Processes, ..alone(name, body) }
}

impl Test {
    /// The test needs cgroups that limit and count.
    pub fn with_limits(self) -> Test {
        Test { want: Want::Limits, ..self }
    }

    /// The test needs seats with zygotes of their own, as there are where cgroup v1 limits.
    pub fn with_seat_zygotes(self) -> Test {
        Test { want: Want::SeatZygotes, ..self }
    }

    /// The test takes long and wants the machine for itself.
    pub fn with_patience(self) -> Test {
        Test { want: Want::Patience, ..self }
    }

    /// As libtest-mimic wants it; `None` if it is not for this process.
    pub fn into_trial(self, fixture: &Arc<Fixture>, part: Part) -> Option<Trial> {
        let is_for_us = match part {
            Part::All | Part::Listing => true,
            Part::Inside => self.place != Place::Processes,
            Part::Outside => self.place == Place::Processes,
        };
        if !is_for_us {
            return None;
        }
        let missing = if part == Part::Listing { None } else { self.missing(fixture) };
        if let Some(why) = &missing {
            eprintln!("SKIP {}: {why}", self.name);
        }
        let fixture = fixture.clone();
        let Test { name, body, is_alone, .. } = self;
        Some(Trial::test(name, move || fixture.run(body, is_alone)).with_ignored_flag(missing.is_some()))
    }

    /// Why it cannot run here.
    fn missing(&self, fixture: &Fixture) -> Option<String> {
        if self.want == Want::Patience && std::env::var_os("FULGURITE_IT_HEAVY").is_none() {
            return Some("FULGURITE_IT_HEAVY is not set".to_owned());
        }
        if self.place != Place::Sandboxes {
            return None;
        }
        let runtime = match fixture.started() {
            Err(why) => return Some(why.clone()),
            Ok(runtime) => runtime,
        };
        let (features, host) = (runtime.features(), runtime.cgroup_host());
        let has_tree = features.cgroup_v2 || features.shares_memory_cgroup;
        let has_limits = has_tree && [&host.memory, &host.cpu, &host.pids].iter().all(|has| has.is_yes());
        let why = match self.want {
            Want::Limits if !has_limits => "needs cgroups with limits",
            Want::SeatZygotes if !features.shares_memory_cgroup => "seats share one zygote here",
            _ => return None,
        };
        Some(why.to_owned())
    }
}
