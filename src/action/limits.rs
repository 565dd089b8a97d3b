//! Bounds on what a caller may declare, each with its reason.
//!
//! Invariant: nothing in `action` grows with input beyond one of these.

/// Longest path, in bytes: one less than the kernel's PATH_MAX, so that a declared path can be opened in one
/// call.
pub const PATH_BYTES_MAX: usize = 4095;

/// Longest component, in bytes: the kernel's NAME_MAX on every filesystem that can hold a layer.
pub const NAME_BYTES_MAX: usize = 255;

/// Largest `--inputs-from` list, in bytes: a million inputs with paths of usual length.
pub const INPUTS_FROM_BYTES_MAX: usize = 256 << 20;

/// Most inputs of one action: beyond this a directory input is the better declaration.
pub const INPUTS_MAX: usize = 1 << 20;

/// Most outputs of one action: each is opened, checked and renamed on its own.
pub const OUTPUTS_MAX: usize = 1 << 17;
