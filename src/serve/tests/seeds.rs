//! The seeds of the fuzz targets: small inputs that are right, from which a fuzzer goes on.
//!
//! They stand in `fuzz/seeds/<target>/`. FULGURITE_WRITE_SEEDS=1 writes them; else the test says which are not as they
//! should be.

use crate::action::{Digest, DigestFunction};
use fulgurite_proto::reapi;
use prost::Message;
use std::path::Path;

fn wire(bytes: &[u8]) -> Option<reapi::Digest> {
    let digest = Digest::of(DigestFunction::Sha256, bytes);
    Some(reapi::Digest { hash: digest.hex(), size_bytes: digest.size_bytes as i64 })
}

fn directory() -> reapi::Directory {
    let file = |name: &str| reapi::FileNode {
        name: name.to_owned(),
        digest: wire(name.as_bytes()),
        is_executable: name == "b",
        ..Default::default()
    };
    let child = reapi::DirectoryNode { name: "d".to_owned(), digest: wire(b"") };
    let link = reapi::SymlinkNode { name: "s".to_owned(), target: "../a".to_owned(), ..Default::default() };
    reapi::Directory {
        files: vec![file("a"), file("b")],
        directories: vec![child],
        symlinks: vec![link],
        ..Default::default()
    }
}

fn result() -> reapi::ActionResult {
    let file = reapi::OutputFile { path: "out/a".to_owned(), digest: wire(b"a"), ..Default::default() };
    let below = reapi::OutputDirectory {
        path: "out/d".to_owned(),
        tree_digest: wire(b"tree"),
        root_directory_digest: wire(b"root"),
        ..Default::default()
    };
    reapi::ActionResult {
        output_files: vec![file],
        output_directories: vec![below],
        stdout_digest: wire(b"stdout"),
        ..Default::default()
    }
}

fn seeds() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let command = reapi::Command {
        arguments: vec!["cc".to_owned(), "-c".to_owned(), "a.c".to_owned()],
        output_paths: vec!["out/a.o".to_owned()],
        working_directory: "src".to_owned(),
        ..Default::default()
    };
    let action =
        reapi::Action { command_digest: wire(b"c"), input_root_digest: wire(b"i"), ..Default::default() };
    let tree = reapi::Tree { root: Some(directory()), children: vec![reapi::Directory::default()] };
    let metadata =
        reapi::RequestMetadata { tool_invocation_id: "one-build".to_owned(), ..Default::default() };
    let hash = Digest::of(DigestFunction::Sha256, b"a").hex();
    let zstd = |level| zstd::bulk::compress(&b"seed ".repeat(100), level).unwrap();
    // Kind, function, zeros; the target makes the checksum fit.
    let mut record = [0; 64];
    record[..2].copy_from_slice(&[1, 1]);
    vec![
        ("action", "plain", action.encode_to_vec()),
        ("action_result", "outputs", result().encode_to_vec()),
        ("command", "compile", command.encode_to_vec()),
        ("directory", "all-kinds", directory().encode_to_vec()),
        ("tree", "tree", tree.encode_to_vec()),
        ("tree", "directory", directory().encode_to_vec()),
        ("metadata", "plain", metadata.encode_to_vec()),
        ("resource_name", "read", format!("tenant/blobs/{hash}/1").into_bytes()),
        ("resource_name", "read-zstd", format!("compressed-blobs/zstd/blake3/{hash}/1").into_bytes()),
        ("resource_name", "write", format!("a/b/uploads/u-1/blobs/{hash}/1/name").into_bytes()),
        ("zstd", "small", [vec![7], zstd(1)].concat()),
        ("zstd", "two-frames", [vec![255], zstd(1), zstd(19)].concat()),
        ("log_record", "put", record.to_vec()),
    ]
}

#[test]
fn fuzzers_start_from_what_is_right() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    let writes = std::env::var_os("FULGURITE_WRITE_SEEDS").is_some();
    for (target, name, bytes) in seeds() {
        let dir = root.join(target);
        let path = dir.join(name);
        if writes {
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(&path, bytes).unwrap();
        } else {
            let found = std::fs::read(&path).unwrap_or_default();
            assert!(found == bytes, "{}: write it anew with FULGURITE_WRITE_SEEDS=1", path.display());
        }
    }
}
