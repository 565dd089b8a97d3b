//! Blobs of any size, one at a time.

use super::scene::*;
use crate::action::{Digest, DigestFunction};
use bytes::Bytes;
use fulgurite_proto::google::bytestream::*;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

fn piece(name: &str, write_offset: i64, data: &[u8], finish_write: bool) -> WriteRequest {
    let data = Bytes::copy_from_slice(data);
    WriteRequest { resource_name: name.to_owned(), write_offset, finish_write, data }
}

async fn write(scene: &Scene, pieces: Vec<WriteRequest>) -> Result<i64, Status> {
    let answer = scene.bytes().write(tokio_stream::iter(pieces)).await;
    answer.map(|answer| answer.into_inner().committed_size)
}

async fn status(scene: &Scene, name: &str) -> (i64, bool) {
    let request = QueryWriteStatusRequest { resource_name: name.to_owned() };
    let answer = scene.bytes().query_write_status(request).await.unwrap().into_inner();
    (answer.committed_size, answer.complete)
}

async fn read(scene: &Scene, name: String, read_offset: i64, read_limit: i64) -> Result<Vec<u8>, Status> {
    let request = ReadRequest { resource_name: name, read_offset, read_limit };
    let mut stream = scene.bytes().read(request).await?.into_inner();
    let mut bytes = Vec::new();
    while let Some(answer) = stream.message().await? {
        bytes.extend_from_slice(&answer.data);
    }
    Ok(bytes)
}

/// Bytes that do not compress to nothing.
fn sample(size: usize) -> Vec<u8> {
    (0..size as u64).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

#[tokio::test]
async fn blobs_go_up_in_pieces_and_come_down_whole_in_every_form() {
    let scene = Scene::new().await;
    for (function, size) in
        [(DigestFunction::Sha256, 0), (DigestFunction::Sha256, 7), (DigestFunction::Blake3, 3_000_000)]
    {
        let bytes = sample(size);
        let digest = Digest::of(function, &bytes);
        let name = format!("uploads/u/blobs/{digest}");
        let mut pieces = Vec::new();
        for chunk in bytes.chunks(100_000) {
            let at = i64::try_from(pieces.len() * 100_000).unwrap();
            pieces.push(piece(if at == 0 { &name } else { "" }, at, chunk, false));
        }
        pieces.push(piece(&name, i64::try_from(size).unwrap(), b"", true));
        assert_eq!(write(&scene, pieces).await.unwrap(), i64::try_from(size).unwrap());
        assert_eq!(read(&scene, format!("blobs/{digest}"), 0, 0).await.unwrap(), bytes);
        let zipped = read(&scene, format!("compressed-blobs/zstd/{digest}"), 0, 0).await.unwrap();
        assert_eq!(zstd::decode_all(&zipped[..]).unwrap(), bytes);
    }
    scene.end().await;
}

#[tokio::test]
async fn compressed_uploads_are_answered_with_minus_one() {
    let scene = Scene::new().await;
    let bytes = sample(500_000);
    let digest = Digest::of(SHA, &bytes);
    let zipped = zstd::bulk::compress(&bytes, 3).unwrap();
    let name = format!("uploads/u/compressed-blobs/zstd/{digest}");
    let (head, tail) = zipped.split_at(zipped.len() / 2);
    let at = i64::try_from(head.len()).unwrap();
    let pieces = vec![piece(&name, 0, head, false), piece(&name, at, tail, true)];
    assert_eq!(write(&scene, pieces).await.unwrap(), -1);
    assert_eq!(read(&scene, format!("blobs/{digest}"), 0, 0).await.unwrap(), bytes);
    // Once more: it is there already.
    assert_eq!(write(&scene, vec![piece(&name, 0, b"not even zstd", false)]).await.unwrap(), -1);
    scene.end().await;
}

#[tokio::test]
async fn g05_an_upload_of_what_is_there_ends_at_once() {
    let scene = Scene::new().await;
    let bytes = sample(1_000_000);
    let digest = scene.put(&bytes);
    let name = format!("uploads/u/blobs/{digest}");
    // The stream stays open: nothing more will come, and nothing more is needed.
    let (sender, receiver) = mpsc::channel(1);
    sender.send(piece(&name, 0, &bytes[..10], false)).await.unwrap();
    let answer = scene.bytes().write(ReceiverStream::new(receiver)).await.unwrap();
    assert_eq!(answer.into_inner().committed_size, 1_000_000);
    assert_eq!(status(&scene, &name).await, (1_000_000, true));
    scene.end().await;
}

#[tokio::test]
async fn an_upload_that_broke_off_goes_on_where_it_was() {
    let scene = Scene::new().await;
    let bytes = sample(300_000);
    let digest = Digest::of(SHA, &bytes);
    let name = format!("uploads/u/blobs/{digest}");
    assert_eq!(status(&scene, &name).await, (0, false));
    assert_eq!(write(&scene, vec![piece(&name, 0, &bytes[..100_000], false)]).await.unwrap(), 100_000);
    assert_eq!(status(&scene, &name).await, (100_000, false));
    let wrong = write(&scene, vec![piece(&name, 99_999, &bytes[99_999..], true)]).await;
    assert_eq!(wrong.unwrap_err().code(), Code::InvalidArgument);
    let rest = vec![piece(&name, 100_000, &bytes[100_000..], true)];
    assert_eq!(write(&scene, rest).await.unwrap(), 300_000);
    assert_eq!(read(&scene, format!("blobs/{digest}"), 0, 0).await.unwrap(), bytes);
    scene.end().await;
}

#[tokio::test]
async fn an_upload_may_always_begin_anew() {
    let scene = Scene::new().await;
    let bytes = sample(1000);
    let digest = Digest::of(SHA, &bytes);
    let name = format!("uploads/u/blobs/{digest}");
    assert_eq!(write(&scene, vec![piece(&name, 0, b"wrong start", false)]).await.unwrap(), 11);
    assert_eq!(write(&scene, vec![piece(&name, 0, &bytes, true)]).await.unwrap(), 1000);
    scene.end().await;
}

#[tokio::test]
async fn g04_uploads_that_break_a_rule_are_refused_and_leave_nothing() {
    let scene = Scene::new().await;
    let bytes = sample(1000);
    let digest = Digest::of(SHA, &bytes);
    let name = format!("uploads/u/blobs/{digest}");
    let zstd_name = format!("uploads/u/compressed-blobs/zstd/{digest}");
    let zipped = zstd::bulk::compress(&bytes, 1).unwrap();
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 3).unwrap();
    let other = Digest { size_bytes: 999, ..digest };
    for (why, pieces) in [
        ("a gap", vec![piece(&name, 0, &bytes[..10], false), piece(&name, 11, &bytes[11..], true)]),
        ("an overlap", vec![piece(&name, 0, &bytes[..10], false), piece(&name, 9, &bytes[9..], true)]),
        ("a negative offset", vec![piece(&name, -1, &bytes, true)]),
        ("other bytes", vec![piece(&name, 0, &[9; 1000], true)]),
        ("too few bytes", vec![piece(&name, 0, &bytes[..999], true)]),
        ("too many bytes", vec![piece(&name, 0, &bytes, false), piece(&name, 1000, b"x", true)]),
        ("a wrong size", vec![piece(&format!("uploads/u/blobs/{other}"), 0, &bytes[..999], true)]),
        ("another name", vec![piece(&name, 0, &bytes[..9], false), piece(&zstd_name, 9, b"", true)]),
        ("no name", vec![piece("", 0, &bytes, true)]),
        ("a bomb", vec![piece(&zstd_name, 0, &bomb, true)]),
        ("a cut frame", vec![piece(&zstd_name, 0, &zipped[..zipped.len() - 3], true)]),
        ("no zstd", vec![piece(&zstd_name, 0, &bytes, true)]),
        ("nothing at all", vec![]),
    ] {
        let refused = write(&scene, pieces).await.expect_err(why);
        assert_eq!(refused.code(), Code::InvalidArgument, "{why}: {refused}");
        assert!(!scene.cas.contains(&digest), "{why}");
    }
    scene.end().await;
}

#[tokio::test]
async fn blobs_above_the_maximum_are_refused_before_they_come() {
    let tune = |options: &mut crate::serve::ServeOptions| options.limits.blob_bytes_max = 10;
    let scene = Scene::tuned(|_| Fake::new(1, |_, _, _| exited(0)), tune).await;
    let digest = Digest::of(SHA, &sample(11));
    let pieces = vec![piece(&format!("uploads/u/blobs/{digest}"), 0, b"x", false)];
    assert_eq!(write(&scene, pieces).await.unwrap_err().code(), Code::InvalidArgument);
    scene.end().await;
}

#[tokio::test]
async fn g06_uploads_that_say_nothing_are_given_up() {
    let scene = Scene::tuned(
        |_| Fake::new(1, |_, _, _| exited(0)),
        |options| options.limits.next_message_within = Duration::from_millis(20),
    )
    .await;
    let name = format!("uploads/u/blobs/{}", Digest::of(SHA, &sample(100)));
    let (sender, receiver) = mpsc::channel(1);
    sender.send(piece(&name, 0, b"x", false)).await.unwrap();
    let refused = scene.bytes().write(ReceiverStream::new(receiver)).await.unwrap_err();
    assert_eq!(refused.code(), Code::DeadlineExceeded);
    drop(sender);
    scene.end().await;
}

#[tokio::test]
async fn g06_uploads_that_are_under_way_are_bounded() {
    let scene =
        Scene::tuned(|_| Fake::new(1, |_, _, _| exited(0)), |options| options.limits.partial_uploads = 2)
            .await;
    let mut open = Vec::new();
    let names: Vec<String> =
        (0..3).map(|n| format!("uploads/{n}/blobs/{}", Digest::of(SHA, &sample(100)))).collect();
    for name in &names[..2] {
        let (sender, receiver) = mpsc::channel(1);
        sender.send(piece(name, 0, b"x", false)).await.unwrap();
        let mut client = scene.bytes();
        open.push((sender, tokio::spawn(async move { client.write(ReceiverStream::new(receiver)).await })));
        while status(&scene, name).await.0 == 0 {
            tokio::task::yield_now().await;
        }
    }
    let refused = write(&scene, vec![piece(&names[2], 0, b"x", false)]).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(retry_info(&details(&refused)));
    // A second stream for the same upload waits for its turn, too.
    let refused = write(&scene, vec![piece(&names[0], 0, b"x", false)]).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    // What has broken off gives its place to what comes.
    let (sender, upload) = open.pop().unwrap();
    drop(sender);
    assert_eq!(upload.await.unwrap().unwrap().into_inner().committed_size, 1);
    assert_eq!(write(&scene, vec![piece(&names[2], 0, b"xy", false)]).await.unwrap(), 2);
    drop(open);
    scene.end().await;
}

#[tokio::test]
async fn g07_reads_are_within_the_blob() {
    let scene = Scene::new().await;
    let bytes = sample(1_000_000);
    let digest = scene.put(&bytes);
    let plain = || format!("blobs/{digest}");
    for (offset, limit, range) in [
        (0, 10, 0..10),
        (999_990, 0, 999_990..1_000_000),
        (5, 500_000, 5..500_005),
        (999_999, 500, 999_999..1_000_000),
        (1_000_000, 0, 0..0),
    ] {
        assert_eq!(read(&scene, plain(), offset, limit).await.unwrap(), bytes[range]);
    }
    for (name, offset, limit, code) in [
        (plain(), -1, 0, Code::OutOfRange),
        (plain(), 1_000_001, 0, Code::OutOfRange),
        (plain(), i64::MAX, 0, Code::OutOfRange),
        (plain(), 0, -1, Code::InvalidArgument),
        (format!("compressed-blobs/zstd/{digest}"), 0, 1, Code::InvalidArgument),
        (format!("compressed-blobs/deflate/{digest}"), 0, 0, Code::InvalidArgument),
        (format!("blobs/{}", Digest::of(SHA, b"absent")), 0, 0, Code::NotFound),
        (format!("other/blobs/{digest}"), 0, 0, Code::InvalidArgument),
        ("garbage".to_owned(), 0, 0, Code::InvalidArgument),
    ] {
        assert_eq!(read(&scene, name.clone(), offset, limit).await.unwrap_err().code(), code, "{name}");
    }
    // The offset of a compressed read counts uncompressed bytes.
    let zipped = read(&scene, format!("compressed-blobs/zstd/{digest}"), 400_000, 0).await.unwrap();
    assert_eq!(zstd::decode_all(&zipped[..]).unwrap(), bytes[400_000..]);
    scene.end().await;
}

#[tokio::test]
async fn a_resource_name_in_the_header_must_be_the_requests() {
    let scene = Scene::new().await;
    let digest = scene.put(b"x");
    for (header, is_right) in [(format!("blobs/{digest}"), true), ("blobs/other".to_owned(), false)] {
        let request = ReadRequest { resource_name: format!("blobs/{digest}"), ..Default::default() };
        let mut request = tonic::Request::new(request);
        let value = header.parse().unwrap();
        request.metadata_mut().insert("build.bazel.remote.execution.v2.resource-name", value);
        assert_eq!(scene.bytes().read(request).await.is_ok(), is_right);
    }
    scene.end().await;
}
