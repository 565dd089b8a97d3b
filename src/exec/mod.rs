//! Execution of one action on this machine: its view, its run, its sealed outputs.
//!
//! ```text
//! inputs ─stage─► lower ┐
//!                       ├─ overlay ─► sandbox runs the command ─► quiet ─► collect ─► the caller publishes
//!   private layer ─────┘
//! ```
//! Knows nothing of who publishes the outputs, or whether.
pub mod executor;
pub mod local;
pub mod platform;
pub mod quiet;
pub mod sandboxed;
pub mod verdict;
pub mod view;
pub mod workered;

pub use executor::{Cancel, Execution, Executor, Job, Verdict, Watch};
pub use local::{Executed, LocalAction, Phases, execute};
pub use platform::{Offer, Platform, PlatformError};
pub use quiet::Quiet;
pub use sandboxed::{Allowance, Sandboxed, SandboxedOptions};
pub use view::{Strategy, View};
pub use workered::{Cacheable, Workered, WorkeredOptions};
