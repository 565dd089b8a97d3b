//! Plans in words: what `fulgurite explain` prints and what failures quote.
//!
//! Each step reads as the end of "cannot …", so that one text serves both.
use super::{Op, Phase, Plan};
use crate::sys::mount::attr;
use crate::sys::process::clone_flag;
use std::ffi::CString;
use std::fmt;

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last = None;
        for (index, step) in self.steps.iter().enumerate() {
            if last != Some(step.phase) {
                writeln!(f, "{}", heading(step.phase))?;
                last = Some(step.phase);
            }
            writeln!(f, "{:4}. {}", index + 1, step.op)?;
        }
        Ok(())
    }
}

fn heading(phase: Phase) -> &'static str {
    match phase {
        Phase::View => "view (once for this kind of sandbox):",
        Phase::Create => "sandbox (once for each):",
        Phase::Lease => "lease (at creation and at every reset):",
        Phase::Action => "action (each; all before \"await\" is done before it arrives):",
    }
}

struct At<'a>(&'a CString);

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", self.0.to_string_lossy())
    }
}

fn namespaces(flags: u64) -> String {
    const NAMES: [(u64, &str); 7] = [
        (clone_flag::NEW_USER, "user"),
        (clone_flag::NEW_NS, "mount"),
        (clone_flag::NEW_PID, "pid"),
        (clone_flag::NEW_IPC, "ipc"),
        (clone_flag::NEW_UTS, "uts"),
        (clone_flag::NEW_NET, "net"),
        (clone_flag::NEW_CGROUP, "cgroup"),
    ];
    NAMES.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| *name).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::Clone { .. } | Op::MapIds { .. } | Op::Settle { .. } | Op::Namespaces { .. } => {
                self.text_identity(f)
            }
            Op::Rlimit { .. } | Op::Seccomp { .. } => self.text_hardening(f),
            Op::Tmpfs { .. } | Op::Attach { .. } | Op::Devpts { .. } => self.text_mount(f),
            Op::Directory { at, .. } => write!(f, "create directory {}", At(at)),
            Op::File { at, content, .. } if content.is_empty() => write!(f, "create empty file {}", At(at)),
            Op::File { at, .. } => write!(f, "write {}", At(at)),
            Op::Symlink { at, target } => {
                write!(f, "create symlink {} to {}", At(at), target.to_string_lossy())
            }
            Op::SealView => f.write_str("make the root of the view read-only"),
            Op::LoopbackUp => f.write_str("bring up the loopback device"),
            Op::HostName { name } => write!(f, "set the host name to {}", name.to_string_lossy()),
            Op::OpenProc => f.write_str("make a new proc for the pid namespace"),
            Op::EnterView => f.write_str("enter the root of the view"),
            Op::AttachProc { at } => write!(f, "attach the new proc at {}", At(at)),
            Op::MaskFile { at } => write!(f, "mask {}", At(at)),
            Op::MaskDirectory { at } => write!(f, "mask directory {}", At(at)),
            Op::ReadOnly { at } => write!(f, "make {} read-only", At(at)),
            Op::ForbidUserNamespaces => f.write_str("set user.max_user_namespaces to 0 inside"),
            Op::NotDumpable => f.write_str("make init not dumpable"),
            Op::NewSession => f.write_str("start a new session"),
            Op::Umask { mask } => write!(f, "set the umask to {mask:04o}"),
            Op::DropBounding => f.write_str("empty the bounding and ambient capability sets"),
            Op::SetIds { uid, gid } => write!(f, "become user {uid} and group {gid}"),
            Op::DropCapabilities => f.write_str("empty the remaining capability sets"),
            Op::NoNewPrivileges => f.write_str("set no_new_privs"),
            Op::LandlockCreate { .. } => f.write_str("make a landlock ruleset"),
            Op::LandlockAllow { at, .. } => {
                write!(f, "allow access below {} by landlock", at.to_string_lossy())
            }
            Op::LandlockRestrict => f.write_str("come under the landlock ruleset"),
            Op::Await => f.write_str("await the action"),
            Op::Stdio => f.write_str("take standard input, output and error"),
            Op::ChangeDirectory => f.write_str("change to the working directory"),
            Op::CloseDescriptors => f.write_str("close all other descriptors"),
            Op::Exec => f.write_str("execute the command"),
        }
    }
}

impl Op {
    fn text_identity(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::Clone { namespaces: flags, in_cgroup } => {
                write!(f, "clone init with new {} namespaces", namespaces(*flags))?;
                if *in_cgroup { f.write_str(", in its cgroup") } else { Ok(()) }
            }
            Op::MapIds { init, action } if init == action => {
                write!(f, "map user {} and group {} inside to the caller outside", action[0], action[1])
            }
            Op::MapIds { init, action } => {
                let [users, groups] = [0, 1].map(|kind| format!("{} and {}", init[kind], action[kind]));
                write!(f, "map users {users} and groups {groups} inside to the sandbox's own outside")
            }
            Op::Settle { uid, gid } => {
                write!(f, "become user {uid} and group {gid} inside, to end with the zygote")
            }
            Op::Namespaces { flags } => write!(f, "take new {} namespaces", namespaces(*flags)),
            _ => Ok(()),
        }
    }

    fn text_mount(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::Tmpfs { at, size_bytes, inodes, mode, attributes } => {
                write!(f, "mount tmpfs at {} (", At(at))?;
                if *size_bytes != 0 {
                    write!(f, "{size_bytes} bytes, ")?;
                }
                if *inodes != 0 {
                    write!(f, "{inodes} inodes, ")?;
                }
                write!(f, "mode {mode:04o}")?;
                for (bit, name) in
                    [(attr::NO_SUID, "nosuid"), (attr::NO_DEV, "nodev"), (attr::NO_EXEC, "noexec")]
                {
                    if attributes & bit != 0 {
                        write!(f, ", {name}")?;
                    }
                }
                f.write_str(")")
            }
            Op::Attach { at, what, read_only, .. } => {
                let how = if *read_only { "read-only" } else { "writable" };
                write!(f, "attach {} {how} at {}", what.to_string_lossy(), At(at))
            }
            Op::Devpts { at, max } => {
                write!(f, "mount devpts at {} ({} terminals)", At(at), max.to_string_lossy())
            }
            _ => Ok(()),
        }
    }

    fn text_hardening(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::Rlimit { name, soft, hard, .. } => {
                let show =
                    |value: u64| if value == u64::MAX { "unlimited".to_owned() } else { value.to_string() };
                write!(f, "set {name} to {} (hard {})", show(*soft), show(*hard))
            }
            Op::Seccomp { program } => {
                write!(f, "install the seccomp filter ({} instructions)", program.len() / 8)
            }
            _ => Ok(()),
        }
    }
}
