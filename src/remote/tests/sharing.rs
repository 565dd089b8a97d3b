//! Uploads that actions share.

use super::*;
use std::sync::atomic::{AtomicUsize, Ordering};

#[tokio::test]
async fn who_goes_away_cancels_nobodys_upload() {
    for large in [false, true] {
        let scene = Scene::new().await;
        let call = if large { "Write" } else { "BatchUpdateBlobs" };
        let size = if large { 4 << 20 } else { 10 };
        let bytes = [noise(size, 1), noise(size, 3)];
        let blobs: Vec<Digest> =
            bytes.iter().map(|one| scene.cas.put_bytes(DigestFunction::Sha256, one).unwrap()).collect();
        scene
            .liar()
            .lie(|lies| drop(lies.fail.insert(call, vec![tonic::Status::unavailable("later")].into())));
        let begin = || {
            let (cluster, cas, blobs) = (scene.cluster.clone(), scene.cas.clone(), blobs.clone());
            tokio::spawn(async move { cluster.upload(&cas, &blobs).await })
        };
        let (first, second) = (begin(), begin());
        scene.liar().until(|state| state.calls.contains_key(call)).await;
        first.abort();
        assert!(first.await.is_err_and(|error| error.is_cancelled()));
        soon(second).await.unwrap().unwrap();
        for blob in &blobs {
            assert_eq!(scene.liar().state().uploads[blob], 1, "no blob is sent twice");
        }
    }
}

#[tokio::test]
async fn an_upload_goes_on_when_all_have_gone() {
    let scene = Scene::new().await;
    let blob = scene.cas.put_bytes(DigestFunction::Sha256, &noise(4 << 20, 1)).unwrap();
    let upload = {
        let (cluster, cas) = (scene.cluster.clone(), scene.cas.clone());
        tokio::spawn(async move { cluster.upload(&cas, &[blob]).await })
    };
    scene.liar().until(|state| state.calls.contains_key("Write")).await;
    upload.abort();
    scene.liar().until(|state| state.uploads.contains_key(&blob)).await;
}

#[tokio::test]
async fn many_actions_send_a_blob_once() {
    let scene = Scene::new().await;
    let blobs: Vec<Digest> = (0..200u64)
        .map(|seed| scene.cas.put_bytes(DigestFunction::Sha256, &noise(100, 2 * seed + 1)).unwrap())
        .collect();
    let sent = AtomicUsize::new(0);
    let one = |from: usize| {
        let (scene, sent, blobs) = (&scene, &sent, &blobs[from..from + 100]);
        async move {
            let bytes = scene.cluster.upload(&scene.cas, blobs).await.unwrap();
            sent.fetch_add(usize::try_from(bytes).unwrap(), Ordering::Relaxed);
        }
    };
    let (a, b, c, d) = (one(0), one(50), one(100), one(0));
    soon(async { tokio::join!(a, b, c, d) }).await;
    assert_eq!(sent.into_inner(), 200 * 100);
    assert!(scene.liar().state().uploads.values().all(|count| *count == 1));
}

#[test]
fn a_task_of_a_runtime_that_is_gone_is_no_end_for_others() {
    let dir = tempfile::tempdir().unwrap();
    let cas = open_cas(dir.path());
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let first = runtime();
    let blob = cas.put_bytes(DigestFunction::Sha256, b"blob").unwrap();
    let cluster = first.block_on(async {
        let scene = Listening::start();
        scene.liar.hang("BatchUpdateBlobs");
        scene.liar.hang("Write");
        let cluster = Cluster::new(options(&scene.address.to_string())).unwrap();
        let upload = cluster.upload(&cas, std::slice::from_ref(&blob));
        tokio::select! {
            ended = upload => panic!("{ended:?}"),
            () = scene.liar.until(|state| state.calls.contains_key("Write")) => (),
        }
        cluster
    });
    drop(first);
    let ended = runtime().block_on(soon(cluster.upload(&cas, &[blob])));
    assert!(ended.is_err(), "its connection is gone, and it says so");
}

#[test]
fn without_a_runtime_there_is_no_cluster() {
    let error = Cluster::new(options("127.0.0.1:1")).unwrap_err();
    assert!(matches!(error, ClusterError::Options { .. }), "{error}");
}
