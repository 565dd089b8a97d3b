//! Blobs that are missing, other ones, too short, too long, absurdly large, or garbled.

use super::*;
use crate::remote::limits;

const LARGE: usize = 4 << 20;

async fn download(scene: &Scene, digests: &[Digest]) -> Result<u64, ClusterError> {
    soon(scene.cluster.download(&scene.cas, digests)).await
}

#[tokio::test]
async fn batches_and_streams_both_ways() {
    for zstd in [false, true] {
        let scene = Scene::new().await;
        scene.liar().lie(|lies| lies.zstd = zstd);
        let blobs: Vec<Vec<u8>> =
            [0, 1, 100, 1000, LARGE, 2 * LARGE].iter().map(|count| noise(*count, *count as u64)).collect();
        let digests: Vec<Digest> = blobs.iter().map(|bytes| scene.liar().put(bytes)).collect();
        download(&scene, &digests).await.unwrap();
        for (digest, bytes) in digests.iter().zip(&blobs).filter(|(digest, _)| !digest.is_empty()) {
            assert_eq!(&scene.cas.read(digest, u64::MAX).unwrap(), bytes);
        }
        assert_eq!((scene.liar().calls("BatchReadBlobs"), scene.liar().calls("Read")), (1, 2));
        assert_eq!(download(&scene, &digests).await.unwrap(), 0, "all is here");

        let other = Scene::new().await;
        other.liar().lie(|lies| lies.zstd = zstd);
        let sent = soon(other.cluster.upload(&scene.cas, &digests)).await.unwrap();
        assert_eq!(sent, blobs.iter().map(|bytes| bytes.len() as u64).sum::<u64>());
        assert!(digests.iter().skip(1).all(|digest| other.liar().state().uploads[digest] == 1));
        assert_eq!(soon(other.cluster.upload(&scene.cas, &digests)).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn other_bytes_are_never_kept() {
    let scene = Scene::new().await;
    for (size, other) in [(100, 100), (100, 99), (100, 101), (100, 0), (LARGE, LARGE), (LARGE, LARGE - 1)] {
        for extra in [true, false] {
            let wanted = scene.liar().put(&noise(size, other as u64 + 7));
            let beside = scene.liar().put(&noise(20, size as u64 + other as u64));
            scene.liar().lie(|lies| drop(lies.instead.insert(wanted, noise(other, 99))));
            let asked = if extra { vec![wanted, beside] } else { vec![wanted] };
            let error = download(&scene, &asked).await.unwrap_err();
            assert!(
                matches!(error, ClusterError::Corrupt { wanted: named, .. } if named == wanted),
                "{error}"
            );
            assert!(!scene.cas.contains(&wanted));
        }
    }
    scene.check_store();
}

#[tokio::test]
async fn a_stream_that_is_too_long_is_ended_at_once() {
    for zstd in [false, true] {
        let scene = Scene::new().await;
        let wanted = scene.liar().put(&noise(LARGE, 5));
        scene.liar().lie(|lies| {
            lies.zstd = zstd;
            // It never ends by itself, and has far more than was announced.
            lies.stop = true;
            lies.instead.insert(wanted, vec![0; 16 * LARGE]);
        });
        let error = download(&scene, &[wanted]).await.unwrap_err();
        assert!(matches!(error, ClusterError::Corrupt { .. }), "{error}");
        assert_eq!(scene.check_store(), 0);
    }
}

#[tokio::test]
async fn absurd_sizes_are_not_even_asked_for() {
    let scene = Scene::new().await;
    let hash = digest(b"x").hex();
    let sized =
        |size: u64| Digest::parse(DigestFunction::Sha256, &hash, i64::try_from(size).unwrap()).unwrap();
    let mut asked = vec![vec![sized(i64::MAX as u64)], vec![sized(limits::BLOB_BYTES_MAX + 1)]];
    // Sums must not wrap either.
    asked.push((0..3).map(|less| sized(i64::MAX as u64 - less)).collect());
    asked.push((0..5).map(|less| sized(limits::BLOB_BYTES_MAX - less)).collect());
    for asked in asked {
        let error = download(&scene, &asked).await.unwrap_err();
        assert!(matches!(error, ClusterError::Malformed { .. }), "{error}");
    }
    // What could be, and is more than our store takes, is the store's to refuse.
    let error = download(&scene, &[sized(2 << 30)]).await.unwrap_err();
    assert!(matches!(error, ClusterError::Missing(_) | ClusterError::Store(_)), "{error}");
    assert_eq!(scene.liar().calls("BatchReadBlobs"), 0);
    assert_eq!(scene.check_store(), 0);
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let scene = Scene::new().await;
    let there = scene.liar().put(&noise(10, 1));
    let gone: Vec<Digest> = (2..5).map(|seed| digest(&noise(10, seed))).collect();
    let large = digest(&noise(LARGE, 6));
    let mut asked = gone.clone();
    asked.push(there);
    match download(&scene, &asked).await {
        Err(ClusterError::Missing(mut missing)) => {
            missing.sort_by_key(Digest::hex);
            let mut gone = gone.clone();
            gone.sort_by_key(Digest::hex);
            assert_eq!(missing, gone);
        }
        other => panic!("{other:?}"),
    }
    assert!(scene.cas.contains(&there), "what came stays");
    let error = download(&scene, &[large]).await.unwrap_err();
    assert!(matches!(&error, ClusterError::Missing(missing) if missing == &[large]), "{error}");
}

#[tokio::test]
async fn an_answer_with_doubles_is_none() {
    let scene = Scene::new().await;
    let asked = [scene.liar().put(b"one"), scene.liar().put(b"two")];
    scene.liar().lie(|lies| lies.doubled = true);
    let error = download(&scene, &asked).await.unwrap_err();
    assert!(matches!(error, ClusterError::Malformed { .. }), "{error}");
}

#[tokio::test]
async fn garbled_frames_are_asked_for_again_as_they_are() {
    let bytes = noise(LARGE, 8);
    let honest = zstd::encode_all(&*bytes, 1).unwrap();
    let mut flipped = honest.clone();
    flipped[1000] ^= 0x55;
    let mut window = zstd::Encoder::new(Vec::new(), 1).unwrap();
    window.window_log(27).unwrap();
    std::io::Write::write_all(&mut window, &bytes).unwrap();
    let wide = window.finish().unwrap();
    // A wide window may be refused or not; the blob is right in any case.
    for frames in [b"no frame at all".to_vec(), flipped, wide] {
        let scene = Scene::new().await;
        let wanted = scene.liar().put(&bytes);
        scene.liar().lie(|lies| (lies.zstd, lies.frames) = (true, Some(frames)));
        let ended = download(&scene, &[wanted]).await;
        match ended {
            Ok(_) => assert_eq!(scene.cas.read(&wanted, u64::MAX).unwrap(), bytes),
            // Frames that can be read, of other bytes.
            Err(ClusterError::Corrupt { .. }) => assert!(!scene.cas.contains(&wanted)),
            Err(error) => panic!("{error}"),
        }
        scene.check_store();
    }
    // Frames that are whole, and too few; and such that unfold to far more than was announced.
    let bomb = zstd::encode_all(&vec![0u8; 1 << 28][..], 1).unwrap();
    let scene = Scene::new().await;
    let wanted = scene.liar().put(&bytes);
    for frames in
        [honest[..honest.len() / 2].to_vec(), zstd::encode_all(&bytes[..LARGE - 1], 1).unwrap(), bomb]
    {
        scene.liar().lie(|lies| (lies.zstd, lies.frames) = (true, Some(frames)));
        let error = download(&scene, &[wanted]).await.unwrap_err();
        assert!(matches!(error, ClusterError::Corrupt { .. }), "{error}");
    }
    assert_eq!(scene.check_store(), 0);
}

#[tokio::test]
async fn a_stream_that_stands_still_is_given_up() {
    let scene = Scene::with(|options| options.call_within = SOON).await;
    let wanted = scene.liar().put(&noise(LARGE, 3));
    scene.liar().lie(|lies| {
        lies.instead.insert(wanted, noise(LARGE / 2, 3));
        lies.stop = true;
    });
    let error = download(&scene, &[wanted]).await.unwrap_err();
    assert!(error.is_outage(), "{error}");
    assert_eq!(scene.check_store(), 0);
}

#[tokio::test]
async fn uploads_that_nobody_takes_are_given_up() {
    for call in ["Write", "BatchUpdateBlobs", "FindMissingBlobs", "GetCapabilities"] {
        let scene = Scene::with(|options| options.call_within = Duration::from_secs(5)).await;
        let blobs: Vec<Digest> = [10, 20, LARGE / 2]
            .iter()
            .map(|count| scene.cas.put_bytes(DigestFunction::Sha256, &noise(*count, 1)).unwrap())
            .collect();
        scene.liar().hang(call);
        let error = soon(scene.cluster.upload(&scene.cas, &blobs)).await.unwrap_err();
        assert!(error.is_outage(), "{call}: {error}");
        scene.liar().lie(|lies| lies.hang.clear());
        soon(scene.cluster.upload(&scene.cas, &blobs)).await.unwrap();
    }
}

#[tokio::test]
async fn a_remote_that_says_it_has_less_than_it_got() {
    let scene = Scene::new().await;
    let blob = scene.cas.put_bytes(DigestFunction::Sha256, &noise(LARGE, 1)).unwrap();
    scene.liar().lie(|lies| lies.committed = Some(17));
    let error = soon(scene.cluster.upload(&scene.cas, &[blob])).await.unwrap_err();
    assert!(matches!(error, ClusterError::Status { code: tonic::Code::DataLoss, .. }), "{error}");
    // Who has it already says so, in one of two ways.
    for committed in [-1, LARGE as i64] {
        scene.liar().state().blobs.clear();
        scene.liar().lie(|lies| lies.committed = Some(committed));
        soon(scene.cluster.upload(&scene.cas, &[blob])).await.unwrap();
        scene.cluster.forget(&[blob]);
    }
}

#[tokio::test]
async fn a_blob_that_we_do_not_have_fails_its_own_upload_alone() {
    let scene = Scene::new().await;
    let there = scene.cas.put_bytes(DigestFunction::Sha256, b"there").unwrap();
    for gone in [digest(b"not there"), digest(&noise(LARGE, 2))] {
        let error = soon(scene.cluster.upload(&scene.cas, &[there, gone])).await.unwrap_err();
        assert!(matches!(error, ClusterError::Store(_)), "{error}");
        scene.liar().until(|state| state.blobs.contains_key(&there)).await;
        soon(scene.cluster.upload(&scene.cas, &[there])).await.unwrap();
        scene.liar().state().blobs.clear();
        scene.cluster.forget(&[there]);
    }
}
