//! Many small blobs, trees, and what is advertised.

use super::scene::*;
use crate::action::encode::digest as wire;
use crate::action::{Digest, DigestFunction};
use crate::serve::limits::{BATCH_BYTES_MAX, FIND_DIGESTS_MAX};
use bytes::Bytes;
use fulgurite_proto::reapi;
use fulgurite_proto::reapi::batch_update_blobs_request::Request;
use prost::Message;
use tonic::Code;

fn update(digest: &Digest, data: &[u8], compressor: i32) -> Request {
    Request { digest: Some(wire(digest)), data: Bytes::copy_from_slice(data), compressor }
}

fn updates(requests: Vec<Request>) -> reapi::BatchUpdateBlobsRequest {
    reapi::BatchUpdateBlobsRequest { requests, ..Default::default() }
}

fn find(digests: &[Digest]) -> reapi::FindMissingBlobsRequest {
    reapi::FindMissingBlobsRequest { blob_digests: digests.iter().map(wire).collect(), ..Default::default() }
}

fn read(digests: &[Digest]) -> reapi::BatchReadBlobsRequest {
    reapi::BatchReadBlobsRequest { digests: digests.iter().map(wire).collect(), ..Default::default() }
}

async fn is_missing(scene: &Scene, digest: &Digest) -> bool {
    let answer = scene.storage().find_missing_blobs(find(&[*digest])).await.unwrap();
    !answer.into_inner().missing_blob_digests.is_empty()
}

#[tokio::test]
async fn the_empty_blob_is_always_there() {
    let scene = Scene::new().await;
    let empty = Digest::empty(SHA);
    assert!(!is_missing(&scene, &empty).await);
    let answer = scene.storage().batch_read_blobs(read(&[empty])).await.unwrap().into_inner();
    assert_eq!(answer.responses[0].status.as_ref().unwrap().code, 0);
    // Its size alone does not make it one.
    assert!(is_missing(&scene, &Digest { hash: [7; 32], ..empty }).await);
    scene.end().await;
}

#[tokio::test]
async fn blobs_go_up_and_come_down_in_both_functions_and_compressed() {
    let scene = Scene::new().await;
    for function in DigestFunction::ALL {
        let (plain, zipped) = (Digest::of(function, b"plain"), Digest::of(function, &[7; 5000]));
        let number = crate::serve::instance::function_number(function);
        let compressed = zstd::bulk::compress(&[7; 5000], 1).unwrap();
        let request = reapi::BatchUpdateBlobsRequest {
            digest_function: number,
            ..updates(vec![update(&plain, b"plain", 0), update(&zipped, &compressed, 1)])
        };
        let answer = scene.storage().batch_update_blobs(request).await.unwrap().into_inner();
        assert!(answer.responses.iter().all(|one| one.status.as_ref().unwrap().code == 0), "{answer:?}");
        let request = reapi::BatchReadBlobsRequest { digest_function: number, ..read(&[plain, zipped]) };
        let answer = scene.storage().batch_read_blobs(request).await.unwrap().into_inner();
        assert_eq!(&answer.responses[0].data[..], b"plain");
        assert_eq!(&answer.responses[1].data[..], &[7; 5000]);
    }
    scene.end().await;
}

#[tokio::test]
async fn g01_digests_that_are_none_are_refused() {
    let scene = Scene::new().await;
    let good = wire(&Digest::of(SHA, b"x"));
    for (hash, size_bytes) in [
        (good.hash.to_uppercase(), 1),
        (good.hash[1..].to_owned(), 1),
        (format!("{}g", &good.hash[1..]), 1),
        (good.hash.clone(), -1),
        (String::new(), 0),
    ] {
        let request = reapi::FindMissingBlobsRequest {
            blob_digests: vec![reapi::Digest { hash, size_bytes }],
            ..Default::default()
        };
        let status = scene.storage().find_missing_blobs(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
    }
    for digest_function in [3, 8, 10, 99, -1] {
        let request = reapi::FindMissingBlobsRequest { digest_function, ..find(&[]) };
        let status = scene.storage().find_missing_blobs(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
    }
    scene.end().await;
}

#[tokio::test]
async fn g02_bytes_that_are_not_their_digest_are_refused_one_by_one() {
    let scene = Scene::new().await;
    let (good, bad) = (Digest::of(SHA, b"good"), Digest::of(SHA, b"bad!"));
    // A right hash with a wrong size is another blob.
    let size = Digest { size_bytes: 5, ..Digest::of(SHA, b"size") };
    let requests = vec![update(&good, b"good", 0), update(&bad, b"baD!", 0), update(&size, b"size", 0)];
    let answer = scene.storage().batch_update_blobs(updates(requests)).await.unwrap().into_inner();
    let codes: Vec<i32> = answer.responses.iter().map(|one| one.status.as_ref().unwrap().code).collect();
    assert_eq!(codes, [0, Code::InvalidArgument as i32, Code::InvalidArgument as i32]);
    assert!(!is_missing(&scene, &good).await && is_missing(&scene, &bad).await);
    assert!(is_missing(&scene, &size).await);
    let codes: Vec<i32> = scene
        .storage()
        .batch_read_blobs(read(&[good, bad]))
        .await
        .unwrap()
        .into_inner()
        .responses
        .iter()
        .map(|one| one.status.as_ref().unwrap().code)
        .collect();
    assert_eq!(codes, [0, Code::NotFound as i32]);
    scene.end().await;
}

#[tokio::test]
async fn g03_batches_beyond_what_is_advertised_are_refused() {
    let scene = Scene::new().await;
    let half = vec![1; usize::try_from(BATCH_BYTES_MAX / 2 + 1).unwrap()];
    let digest = Digest::of(SHA, &half);
    let requests = vec![update(&digest, &half, 0), update(&digest, &half, 0)];
    let status = scene.storage().batch_update_blobs(updates(requests)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    // Claims count, not only bytes: a batch of bombs is small on the wire.
    let claim = Digest { size_bytes: BATCH_BYTES_MAX + 1, ..digest };
    let status = scene.storage().batch_update_blobs(updates(vec![update(&claim, b"", 1)])).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let status = scene.storage().batch_read_blobs(read(&[claim])).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let status = scene.storage().batch_read_blobs(read(&vec![Digest::empty(SHA); 20_000])).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let many = vec![Digest::empty(SHA); FIND_DIGESTS_MAX + 1];
    let status = scene.storage().find_missing_blobs(find(&many)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    scene.end().await;
}

#[tokio::test]
async fn a_bomb_in_a_batch_is_stopped_at_its_claim() {
    let scene = Scene::new().await;
    let bomb = zstd::bulk::compress(&vec![0; 32 << 20], 3).unwrap();
    let claim = Digest::of(SHA, b"small");
    let answer = scene.storage().batch_update_blobs(updates(vec![update(&claim, &bomb, 1)])).await.unwrap();
    let code = answer.into_inner().responses[0].status.as_ref().unwrap().code;
    assert_eq!(code, Code::InvalidArgument as i32);
    scene.end().await;
}

/// A chain of directories, each of which names the next one twice: 2^depth paths.
fn chain(scene: &Scene, depth: usize) -> (Digest, usize) {
    let mut below = scene.put(&reapi::Directory::default().encode_to_vec());
    for _ in 0..depth {
        let child = |name: &str| reapi::DirectoryNode { name: name.to_owned(), digest: Some(wire(&below)) };
        let directory = reapi::Directory { directories: vec![child("a"), child("b")], ..Default::default() };
        below = scene.put(&directory.encode_to_vec());
    }
    (below, depth + 1)
}

#[tokio::test]
async fn g08_trees_are_walked_by_directories_and_not_by_paths() {
    let scene = Scene::new().await;
    let (root, distinct) = chain(&scene, 40);
    let request = reapi::GetTreeRequest { root_digest: Some(wire(&root)), ..Default::default() };
    let mut pages = scene.storage().get_tree(request).await.unwrap().into_inner();
    let mut count = 0;
    while let Some(page) = pages.message().await.unwrap() {
        count += page.directories.len();
    }
    assert_eq!(count, distinct);
    scene.end().await;
}

#[tokio::test]
async fn trees_come_in_pages_that_can_be_resumed() {
    let scene = Scene::new().await;
    let (root, distinct) = chain(&scene, 10);
    let mut token = String::new();
    let mut all = Vec::new();
    loop {
        let request = reapi::GetTreeRequest {
            root_digest: Some(wire(&root)),
            page_size: 3,
            page_token: token.clone(),
            ..Default::default()
        };
        let mut pages = scene.storage().get_tree(request).await.unwrap().into_inner();
        let page = pages.message().await.unwrap().unwrap();
        assert!(page.directories.len() <= 3);
        all.extend(page.directories);
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(all.len(), distinct);
    let bad = reapi::GetTreeRequest {
        root_digest: Some(wire(&root)),
        page_token: "x".to_owned(),
        ..Default::default()
    };
    assert_eq!(scene.storage().get_tree(bad).await.unwrap_err().code(), Code::InvalidArgument);
    scene.end().await;
}

#[tokio::test]
async fn a_tree_without_its_root_is_not_found_and_one_with_holes_is_given_as_far_as_it_goes() {
    let scene = Scene::new().await;
    let hole = Digest::of(SHA, b"hole");
    let request =
        |root: &Digest| reapi::GetTreeRequest { root_digest: Some(wire(root)), ..Default::default() };
    assert_eq!(scene.storage().get_tree(request(&hole)).await.unwrap_err().code(), Code::NotFound);
    let child = reapi::DirectoryNode { name: "hole".to_owned(), digest: Some(wire(&hole)) };
    let root = reapi::Directory { directories: vec![child], ..Default::default() };
    let root = scene.put(&root.encode_to_vec());
    let mut pages = scene.storage().get_tree(request(&root)).await.unwrap().into_inner();
    assert_eq!(pages.message().await.unwrap().unwrap().directories.len(), 1);
    scene.end().await;
}

#[tokio::test]
async fn what_is_not_advertised_is_not_implemented() {
    let scene = Scene::new().await;
    let status = scene.storage().split_blob(reapi::SplitBlobRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    let status = scene.storage().splice_blob(reapi::SpliceBlobRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    scene.end().await;
}

#[tokio::test]
async fn capabilities_say_what_the_instance_does() {
    use reapi::symlink_absolute_path_strategy::Value as Symlinks;
    for (scene, executes) in [(Scene::new().await, true), (Scene::cache().await, false)] {
        let answer = scene.capabilities().get_capabilities(reapi::GetCapabilitiesRequest::default()).await;
        let answer = answer.unwrap().into_inner();
        let cache = answer.cache_capabilities.unwrap();
        assert_eq!(cache.action_cache_update_capabilities.unwrap().update_enabled, !executes);
        assert_eq!(cache.supported_compressors, [1]);
        assert_ne!(cache.symlink_absolute_path_strategy, Symlinks::Unknown as i32);
        assert_eq!(cache.max_batch_total_size_bytes, i64::try_from(BATCH_BYTES_MAX).unwrap());
        assert!(!cache.split_blob_support && !cache.splice_blob_support);
        assert_eq!(answer.high_api_version.unwrap().minor, 12);
        assert_eq!(answer.execution_capabilities.is_some(), executes);
        if let Some(execution) = answer.execution_capabilities {
            assert!(execution.exec_enabled);
            assert_eq!(execution.digest_function, 1);
            assert_eq!(execution.digest_functions, cache.digest_functions);
        }
        scene.end().await;
    }
}
