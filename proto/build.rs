//! Compiles the `.proto` files beside it to Rust, without a system `protoc`.

use prost::Message;
use std::error::Error;
use std::path::PathBuf;

/// Relative to this crate, which is also the root of imports.
const FILES: &[&str] = &[
    "bazel/worker_protocol.proto",
    "build/bazel/remote/execution/v2/remote_execution.proto",
    "buck2/worker.proto",
    "buildbarn/resourceusage/resourceusage.proto",
    "fulgurite/v1/details.proto",
    "fulgurite/v1/local.proto",
    "google/bytestream/bytestream.proto",
    "google/rpc/error_details.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=.");
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    // What the reflection service shows.
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        // Blobs and serialized messages are passed on, not copied.
        .bytes(".build.bazel.remote.execution.v2")
        .bytes(".google.bytestream")
        // What is digested has one encoding.
        .btree_map(".fulgurite")
        .compile_fds(descriptors)?;
    Ok(())
}
