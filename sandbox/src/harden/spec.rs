//! What is asked for: the hardening part of a sandbox's spec. Plain data.
//!
//! Capabilities and no_new_privs have no level: they are always dropped and always set, and a sandbox that
//! cannot do so does not start.

use super::seccomp::{Abi, Profile, SeccompError};

/// How much an item of hardening is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Level {
    /// Without it the action does not run.
    Required,
    /// Enforced where the host can; what is missing is reported.
    BestEffort,
    /// Not wanted.
    Off,
}

/// The hardening of one sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HardeningSpec {
    /// The seccomp filter.
    pub seccomp: Level,
    /// The second wall around the file system, and the scope of signals and abstract sockets.
    pub landlock: Level,
    /// Let i386 programs run, under a filter of their own. Means nothing on other machines than x86_64: there
    /// a spec that asks for it is refused.
    pub allow_i386: bool,
    /// Let debuggers, tracers and leak checkers run; ptrace reaches only what is in the pid namespace.
    pub allow_ptrace: bool,
    /// Largest core file. 0 means none at all, neither a file nor a dump through a pipe.
    pub core_bytes_max: u64,
    /// Largest file that the action may write; `None` leaves the host's limit.
    pub file_bytes_max: Option<u64>,
    /// Most descriptors of one process (the hard limit; the soft one is at most 1024); `None` takes the table's.
    pub open_files_max: Option<u64>,
}

impl Default for HardeningSpec {
    fn default() -> Self {
        HardeningSpec {
            seccomp: Level::Required,
            landlock: Level::BestEffort,
            allow_i386: false,
            allow_ptrace: true,
            core_bytes_max: 0,
            file_bytes_max: None,
            open_files_max: None,
        }
    }
}

impl HardeningSpec {
    /// The seccomp profile that the spec asks for on this machine.
    pub fn seccomp_profile(&self) -> Result<Profile, SeccompError> {
        let native = Abi::native().ok_or(SeccompError::UnsupportedArchitecture)?;
        if self.allow_i386 && native != Abi::X86_64 {
            return Err(SeccompError::NoI386(native));
        }
        Ok(Profile { native, allow_i386: self.allow_i386, allow_ptrace: self.allow_ptrace })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_is_a_filter_and_a_second_wall_where_there_is_one() {
        let spec = HardeningSpec::default();
        assert_eq!((spec.seccomp, spec.landlock), (Level::Required, Level::BestEffort));
        assert!(spec.allow_ptrace && !spec.allow_i386);
        assert_eq!((spec.core_bytes_max, spec.file_bytes_max, spec.open_files_max), (0, None, None));
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn profile_follows_the_switches() {
        let spec = HardeningSpec { allow_i386: true, allow_ptrace: false, ..HardeningSpec::default() };
        let profile = spec.seccomp_profile().unwrap();
        assert_eq!(profile, Profile { native: Abi::X86_64, allow_i386: true, allow_ptrace: false });
    }
}
