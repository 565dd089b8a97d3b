//! Compiles the `.proto` files beside it to Rust, without a system `protoc`.

use std::error::Error;

/// Relative to this crate, which is also the root of imports.
const FILES: &[&str] = &["bazel/worker_protocol.proto", "buck2/worker.proto", "fulgurite/v1/local.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    for file in FILES {
        println!("cargo::rerun-if-changed={file}");
    }
    let descriptors = protox::compile(FILES, ["."])?;
    prost_build::Config::new().compile_fds(descriptors)?;
    Ok(())
}
