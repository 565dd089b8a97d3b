//! One control file to write, and how to know that the kernel took it.
//!
//! The drivers turn a change of limits into a list of settings, purely; here they are carried out. Order in
//! the list is order of writing.

use super::node::{Cgroup, Leaf};
use super::{CgroupError, Controller, page_bytes};

/// A value for a control file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    /// Field of `Limits`, for messages.
    pub limit: &'static str,
    /// The controller that the file belongs to.
    pub controller: Controller,
    /// Name of the control file.
    pub file: &'static str,
    /// What to write.
    pub value: String,
    /// What to expect when reading.
    pub expect: Expect,
    /// Skipped where the file does not exist (a kernel without swap accounting).
    pub optional: bool,
}

/// How a value reads back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expect {
    /// As it was written.
    Same,
    /// As a number of bytes, rounded down to a page.
    Bytes(u64),
    /// As the largest number of bytes, whatever that is.
    Unlimited,
}

impl Setting {
    /// A setting that reads back as it was written.
    pub fn new(limit: &'static str, controller: Controller, file: &'static str, value: String) -> Self {
        Self { limit, controller, file, value, expect: Expect::Same, optional: false }
    }

    /// Makes it one that is skipped where the file does not exist.
    pub fn optional(self) -> Self {
        Self { optional: true, ..self }
    }

    /// Makes it one that reads back as a number of bytes, or as unlimited.
    pub fn bytes(self, bytes: Option<u64>) -> Self {
        Self { expect: bytes.map_or(Expect::Unlimited, Expect::Bytes), ..self }
    }

    /// Writes the value and reads it back.
    pub fn apply(&self, group: &Cgroup<Leaf>) -> Result<(), CgroupError> {
        if self.optional && !group.has(self.file) {
            return Ok(());
        }
        group.write(self.file, &self.value)?;
        let found = group.read(self.file)?;
        if self.expect.accepts(&self.value, found.trim()) {
            return Ok(());
        }
        let path = group.path().join(self.file);
        Err(CgroupError::ReadBack { path, wrote: self.value.clone(), found: found.trim().to_string() })
    }
}

impl Expect {
    fn accepts(self, wrote: &str, found: &str) -> bool {
        match self {
            Self::Same => found == wrote,
            Self::Bytes(asked) => {
                found.parse().is_ok_and(|found: u64| found <= asked && asked - found < page_bytes())
            }
            // v1 shows the page counter's maximum in bytes.
            Self::Unlimited => {
                found == "max" || found.parse().is_ok_and(|found: u64| found >= i64::MAX as u64 >> 1)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_modulo_the_kernel() {
        let check = |expect: Expect, wrote: &str, found: &str, expected: bool| {
            assert_eq!(expect.accepts(wrote, found), expected, "{expect:?} {wrote:?} {found:?}");
        };
        check(Expect::Same, "20000 100000", "20000 100000", true);
        check(Expect::Same, "max", "5", false);
        check(Expect::Bytes(1_000_000), "1000000", "999424", true);
        check(Expect::Bytes(1_000_000), "1000000", "1003520", false);
        check(Expect::Bytes(1_000_000), "1000000", "max", false);
        check(Expect::Bytes(1_000_000), "1000000", "", false);
        check(Expect::Unlimited, "max", "max", true);
        check(Expect::Unlimited, "-1", "9223372036854771712", true);
        check(Expect::Unlimited, "-1", "1048576", false);
    }
}
