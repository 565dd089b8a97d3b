//! What an action is made of, before anything touches a disk.
//!
//! ```text
//!   "src/a.c=in/a.c"  --InputSpec::parse-->   InputSpec { source, dest }
//!   "out/", "log.txt" --OutputSpec::parse-->  Outputs   (sorted, no duplicate, no prefix conflict)
//!                           both over          ExecPath  (relative, normalized, never `..`)
//! ```
//!
//! What a client of REAPI sends is bytes until [`decode`] has made domain types of it, and what it gets is domain types
//! until [`encode`]: nothing between the two knows a wire message.
//!
//! Invariants:
//! - an [`ExecPath`] is relative, has at least one component, and no component is empty, `.`, `..`, longer
//!   than 255 bytes or contains NUL; two spellings of one path are equal;
//! - an [`Outputs`] has no two outputs of which one is the other or lies below it.
//!
//! Limits: purely lexical. Whether a path meets a symlink on the way is decided by the modules that open it
//! (`stage`, `output`, `commit`), through descriptors.

mod command;
pub mod decode;
mod digest;
pub mod encode;
mod input;
pub mod limits;
mod output;
mod path;
mod result;
mod tree;

pub use command::{ActionSpec, Command, CommandOutput, OutputDirectoryFormat, OutputKind, OutputProperty};
pub use digest::{Digest, DigestError, DigestFunction, Hasher};
pub use input::{InputSpec, InputSpecError, Source, parse_inputs_from};
pub use output::{OutputConflict, OutputSpec, OutputSpecError, Outputs};
pub use path::{ExecPath, PathError};
pub use result::{
    ActionResult, Handoff, OutputDirectory, OutputFile, OutputSymlink, PersistentWorker, RaceSummary,
    Timeline, Usage,
};
pub use tree::{Directory, DirectoryNode, FileNode, NodeProperties, SymlinkNode, TOOL_INPUT, Timestamp};
