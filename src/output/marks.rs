//! What the kernel's overlay filesystem writes into an upper layer besides the action's own files.
//!
//! ```text
//!   whiteout         char device 0:0, or an empty file with <ns>.overlay.whiteout     the name is gone
//!   opaque directory <ns>.overlay.opaque = "y"                       nothing of lower shows in it
//!   <ns> = trusted (mounted by root), user (mounted with `userxattr` in a user namespace)
//! ```
//!
//! Invariant: an action cannot write these marks. Making a 0:0 device through an overlay is refused by the
//! kernel, and attributes of the mount's own namespace are escaped or refused. The other namespace is the
//! action's to write, and is never read.

use std::ffi::CStr;
use std::os::fd::BorrowedFd;

use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

use crate::stage::beneath;

/// The attribute namespace that an overlay was mounted with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marks {
    /// `trusted.overlay.*`: mounted with CAP_SYS_ADMIN in the initial user namespace.
    Trusted,
    /// `user.overlay.*`: mounted with the option `userxattr`.
    User,
}

impl Marks {
    fn opaque(self) -> &'static CStr {
        match self {
            Self::Trusted => c"trusted.overlay.opaque",
            Self::User => c"user.overlay.opaque",
        }
    }

    fn whiteout(self) -> &'static CStr {
        match self {
            Self::Trusted => c"trusted.overlay.whiteout",
            Self::User => c"user.overlay.whiteout",
        }
    }

    /// Says of a file that its bytes are those of another layer.
    pub(super) fn metacopy(self) -> &'static CStr {
        match self {
            Self::Trusted => c"trusted.overlay.metacopy",
            Self::User => c"user.overlay.metacopy",
        }
    }

    /// True if the directory shows what the lower layer has elsewhere.
    pub(super) fn is_redirected(self, upper_dir: BorrowedFd<'_>) -> Result<bool, Errno> {
        let name = match self {
            Self::Trusted => c"trusted.overlay.redirect",
            Self::User => c"user.overlay.redirect",
        };
        match rustix::fs::fgetxattr(upper_dir, name, &mut [0u8; 1][..]) {
            Ok(_) | Err(Errno::RANGE) => Ok(true),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(false),
            Err(why) => Err(why),
        }
    }

    /// True if the directory hides what the lower layer has at its place.
    pub fn is_opaque(self, upper_dir: BorrowedFd<'_>) -> Result<bool, Errno> {
        let mut value = [0; 2];
        match rustix::fs::fgetxattr(upper_dir, self.opaque(), &mut value[..]) {
            Ok(length) => Ok(&value[..length] == b"y"),
            Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(false),
            Err(why) => Err(why),
        }
    }

    /// True if `name`, which has been looked at, says that the name is gone.
    pub fn is_whiteout(self, upper_dir: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> Result<bool, Errno> {
        match beneath::kind(stat) {
            FileType::CharacterDevice => Ok(stat.st_rdev == 0),
            FileType::RegularFile if stat.st_size == 0 => {
                let opened = match beneath::open_file(upper_dir, name) {
                    // Not readable by its owner: the action's work. The kernel's own marks are on readable
                    // files.
                    Err(Errno::ACCESS) => return Ok(false),
                    answer => answer?,
                };
                match rustix::fs::fgetxattr(&opened, self.whiteout(), &mut [0u8; 1][..]) {
                    Ok(_) | Err(Errno::RANGE) => Ok(true),
                    Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(false),
                    Err(why) => Err(why),
                }
            }
            _ => Ok(false),
        }
    }
}
