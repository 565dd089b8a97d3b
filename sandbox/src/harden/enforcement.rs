//! What was really enforced: filled in by the one who made the syscalls, shown to the user with the result.
//!
//! One line, for example `no_new_privs, no capabilities, seccomp (253 instructions), landlock abi 7,
//! rlimits`, and after a semicolon what was wanted by best effort and could not be had, each with its reason.

use std::fmt;

/// The hardening that a process really has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Enforcement {
    /// `PR_SET_NO_NEW_PRIVS` is set.
    pub no_new_privs: bool,
    /// All five capability sets are empty.
    pub capabilities: bool,
    /// A filter of this many instructions is installed.
    pub seccomp: Option<usize>,
    /// A Landlock ruleset is in force, made for this version of its ABI.
    pub landlock_abi: Option<u32>,
    /// The limits of the table are set.
    pub rlimits: bool,
    /// What was wanted by best effort and is not there: the item and why.
    pub missing: Vec<String>,
}

impl fmt::Display for Enforcement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let items = [
            self.no_new_privs.then(|| "no_new_privs".to_owned()),
            self.capabilities.then(|| "no capabilities".to_owned()),
            self.seccomp.map(|instructions| format!("seccomp ({instructions} instructions)")),
            self.landlock_abi.map(|abi| format!("landlock abi {abi}")),
            self.rlimits.then(|| "rlimits".to_owned()),
        ];
        let items: Vec<String> = items.into_iter().flatten().collect();
        if items.is_empty() {
            f.write_str("nothing enforced")?;
        } else {
            f.write_str(&items.join(", "))?;
        }
        if !self.missing.is_empty() {
            write!(f, "; missing: {}", self.missing.join(", "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Enforcement;

    #[test]
    fn says_what_is_there_and_what_is_not() {
        assert_eq!(Enforcement::default().to_string(), "nothing enforced");
        let all = Enforcement {
            no_new_privs: true,
            capabilities: true,
            seccomp: Some(253),
            landlock_abi: Some(7),
            rlimits: true,
            missing: vec![],
        };
        let line = "no_new_privs, no capabilities, seccomp (253 instructions), landlock abi 7, rlimits";
        assert_eq!(all.to_string(), line);
        let missing = vec!["landlock (not in this kernel)".to_owned()];
        let some = Enforcement { no_new_privs: true, missing, ..Enforcement::default() };
        assert_eq!(some.to_string(), "no_new_privs; missing: landlock (not in this kernel)");
    }
}
