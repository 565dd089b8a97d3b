//! Wire messages of Fulgurite's doors, compiled from the `.proto` files of this crate.
//!
//! | module | protocol | spoken with |
//! |---|---|---|
//! | [`bazel`] | Bazel's persistent worker protocol, length-delimited | workers, over stdin and stdout |
//! | [`buck2`] | Buck2's worker protocol | workers, over a Unix socket |
//! | [`v1`] | `fulgurite.v1`, the local API | callers on the same machine |
//! | [`reapi`] | REAPI v2.12 with byte streams and operations ([`google`]) | Bazel and every other client of it |
//! | [`buildbarn`] | resource usage, as Buildbarn's viewers read it | whoever shows metadata of a result |
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

/// `build.bazel`: REAPI and what it needs.
#[allow(missing_docs, clippy::all, rustdoc::all, reason = "generated")]
pub mod build {
    /// `build.bazel`.
    pub mod bazel {
        /// `build.bazel.remote`.
        pub mod remote {
            /// `build.bazel.remote.execution`.
            pub mod execution {
                /// REAPI v2 (`build.bazel.remote.execution.v2`).
                pub mod v2 {
                    include!(concat!(env!("OUT_DIR"), "/build.bazel.remote.execution.v2.rs"));
                }
            }
        }
        /// Versions (`build.bazel.semver`).
        pub mod semver {
            include!(concat!(env!("OUT_DIR"), "/build.bazel.semver.rs"));
        }
    }
}

/// `google`: the general protocols that REAPI is built on.
#[allow(missing_docs, clippy::all, rustdoc::all, reason = "generated")]
pub mod google {
    /// Byte streams (`google.bytestream`).
    pub mod bytestream {
        include!(concat!(env!("OUT_DIR"), "/google.bytestream.rs"));
    }
    /// Operations (`google.longrunning`).
    pub mod longrunning {
        include!(concat!(env!("OUT_DIR"), "/google.longrunning.rs"));
    }
    /// Statuses and their details (`google.rpc`).
    pub mod rpc {
        include!(concat!(env!("OUT_DIR"), "/google.rpc.rs"));
    }
}

/// What Buildbarn's viewers read of an action's usage (`buildbarn.resourceusage`).
#[allow(missing_docs, clippy::all, rustdoc::all, reason = "generated")]
pub mod buildbarn {
    /// `buildbarn.resourceusage`.
    pub mod resourceusage {
        include!(concat!(env!("OUT_DIR"), "/buildbarn.resourceusage.rs"));
    }
}

pub use build::bazel::remote::execution::v2 as reapi;

/// The descriptors of all of the above, as an encoded `google.protobuf.FileDescriptorSet`: for the reflection service.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

#[cfg(test)]
mod tests;
