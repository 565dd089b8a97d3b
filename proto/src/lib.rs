//! Wire messages of Fulgurite's doors, compiled from the `.proto` files of this crate.
//!
//! | module | protocol | spoken with |
//! |---|---|---|
//! | [`bazel`] | Bazel's persistent worker protocol, length-delimited | workers, over stdin and stdout |
//! | [`buck2`] | Buck2's worker protocol | workers, over a Unix socket |
//! | [`v1`] | `fulgurite.v1`, the local API | callers on the same machine |
//!
//! The crate holds data and no behavior, and knows no other crate of the project: nothing but a door may name these
//! types, and everything behind the door takes the domain types instead.

/// Bazel's persistent worker protocol (`bazel_worker`).
///
/// Every message is preceded by its length: see `prost::Message::encode_length_delimited`.
pub mod bazel {
    include!(concat!(env!("OUT_DIR"), "/bazel_worker.rs"));
}

/// Buck2's worker protocol (`worker`).
#[allow(missing_docs, reason = "generated")]
pub mod buck2 {
    include!(concat!(env!("OUT_DIR"), "/worker.rs"));
}

/// Fulgurite's local API (`fulgurite.v1`).
#[allow(missing_docs, clippy::large_enum_variant, reason = "generated")]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/fulgurite.v1.rs"));
}

#[cfg(test)]
mod tests;
