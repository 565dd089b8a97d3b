//! Bounds on what is reported about outputs. The bounds on trees are `stage::limits`.

/// Undeclared paths that are listed: enough to see what an action does, not to store it.
pub const UNDECLARED_SHOWN_MAX: usize = 1000;

/// Missing outputs that an error message names; the error value holds all of them.
pub const MISSING_SHOWN_MAX: usize = 20;
