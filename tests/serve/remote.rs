//! The client of clusters against a daemon: whole actions, large blobs, and who leaves.

use crate::Shared;
use crate::action::Order;
use crate::client::{Client, named};
use crate::daemon::{Home, PATIENCE, pids_with};
use fulgurite::action::{Digest, DigestFunction, decode};
use fulgurite::cas::{Cas, CasOptions};
use fulgurite::remote::{
    Cluster, ClusterError, ClusterOptions, RemoteEnd, RemoteJob, RemoteWatch, Stage, run,
};
use fulgurite_sandbox::testing::settles;
use prost::Message;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::runtime::Runtime;

pub const SHARED: &[Shared] = &[
    ("remote::whole_actions_and_then_hits", whole),
    ("remote::large_blobs_both_ways", large),
    ("remote::who_leaves_ends_the_action", leaves),
    ("remote::what_is_missing_is_sent", missing),
];

const SHA: DigestFunction = DigestFunction::Sha256;

/// A client, and a store of its own.
struct Scene {
    runtime: Runtime,
    cluster: Cluster,
    cas: Cas,
    _dir: tempfile::TempDir,
}

impl Scene {
    fn new(home: &Home) -> Scene {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let options = ClusterOptions::at(&format!("unix:{}", home.path("socket").display()));
        let cluster = runtime.block_on(async { Cluster::new(options) }).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let cas = Cas::open(&CasOptions { dir: dir.path().join("store"), size_bytes_max: 1 << 30 }).unwrap();
        Scene { runtime, cluster, cas, _dir: dir }
    }

    fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        let bounded = async { tokio::time::timeout(PATIENCE, future).await };
        self.runtime.block_on(bounded).expect("a call does not end")
    }

    /// Puts all that an action needs into our own store.
    fn job(&self, order: &Order) -> RemoteJob {
        let blobs = order.blobs();
        let digests: Vec<Digest> =
            blobs.iter().map(|bytes| self.cas.put_bytes(SHA, bytes).unwrap()).collect();
        RemoteJob {
            action_digest: *digests.last().unwrap(),
            action: decode::action(SHA, blobs.last().unwrap()).unwrap(),
            command: decode::command(&order.command.encode_to_vec()).unwrap(),
            mnemonic: "Test".to_owned(),
            executes: true,
            accept_cached: true,
            lazily: false,
        }
    }

    fn run(&self, job: &RemoteJob) -> Result<RemoteEnd, ClusterError> {
        self.wait(run(&self.cluster, job, &self.cas, &Runs::default()))
    }

    fn read(&self, digest: &Digest) -> Vec<u8> {
        if digest.is_empty() { Vec::new() } else { self.cas.read(digest, u64::MAX).unwrap() }
    }
}

/// Notes that the command runs.
#[derive(Default)]
struct Runs(AtomicBool);

impl RemoteWatch for Runs {
    async fn answered(&self, _: bool) -> bool {
        true
    }

    fn stage(&self, stage: Stage) {
        self.0.fetch_or(stage == Stage::Executing, Ordering::Relaxed);
    }
}

fn whole(_: &Client, home: &Home) {
    let script =
        "echo printed; echo wrong >&2; cat in/deep > file; chmod +x file; mkdir -p tree/deep tree/empty
        echo one > tree/one; echo two > tree/deep/two; ln -s ../one tree/deep/link; ln -s file link";
    let order = Order::sh(script).input("in/deep", b"input").outputs(&["file", "link", "tree", "not-made"]);
    for cached_then in [false, true] {
        // Each time a store without the outputs.
        let scene = Scene::new(home);
        let RemoteEnd::Result { result, cached, fetched_bytes, .. } = scene.run(&scene.job(&order)).unwrap()
        else {
            panic!("no result");
        };
        assert_eq!((cached, result.exit_code), (cached_then, 0));
        assert!(fetched_bytes > 0);
        assert_eq!(scene.read(&result.stdout.unwrap()), b"printed\n");
        assert_eq!(scene.read(&result.stderr.unwrap()), b"wrong\n");
        assert_eq!((result.files.len(), result.files[0].path.as_str()), (1, "file"));
        assert!(result.files[0].executable);
        assert_eq!(scene.read(&result.files[0].digest), b"input");
        assert_eq!((result.symlinks.len(), result.symlinks[0].target.as_str()), (1, "file"));
        let blobs = fulgurite::remote::blobs_of(&scene.cas, &result).unwrap();
        for text in ["one\n", "two\n"] {
            let digest = Digest::of(SHA, text.as_bytes());
            assert!(blobs.contains(&digest));
            assert_eq!(scene.read(&digest), text.as_bytes());
        }
    }
    // An exit code of its own is a result, and is no hit the next time.
    let failing = Order::sh("echo so; exit 7");
    let scene = Scene::new(home);
    for _ in 0..2 {
        let RemoteEnd::Result { result, cached, .. } = scene.run(&scene.job(&failing)).unwrap() else {
            panic!("no result");
        };
        assert_eq!((result.exit_code, cached), (7, false));
    }
    let late = scene.run(&scene.job(&Order::sh("sleep 60").timeout(1))).unwrap();
    assert!(matches!(late, RemoteEnd::Action { timed_out: true, .. }), "{late:?}");
}

fn large(client: &Client, home: &Home) {
    let scene = Scene::new(home);
    assert!(scene.wait(scene.cluster.capabilities()).unwrap().zstd);
    // Ten MiB that compress to half.
    let mut word = 1u64;
    let mut next = || {
        word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (word >> 60) as u8
    };
    let bytes: Vec<u8> = (0..10 << 20).map(|_| next()).collect();
    let digest = scene.cas.put_bytes(SHA, &bytes).unwrap();
    assert_eq!(scene.wait(scene.cluster.upload(&scene.cas, &[digest])).unwrap(), bytes.len() as u64);
    assert!(client.missing(&[named(&bytes)]).is_empty());
    assert_eq!(client.read(&named(&bytes)), bytes);
    assert_eq!(scene.wait(scene.cluster.upload(&scene.cas, &[digest])).unwrap(), 0, "it is there");
    let other = Scene::new(home);
    assert_eq!(other.wait(other.cluster.upload(&scene.cas, &[digest])).unwrap(), 0, "for others, too");
    assert_eq!(other.wait(other.cluster.download(&other.cas, &[digest])).unwrap(), bytes.len() as u64);
    assert_eq!(other.read(&digest), bytes);
}

fn leaves(_: &Client, home: &Home) {
    let scene = Scene::new(home);
    let order = Order::held("true", "true");
    let job = scene.job(&order);
    let held = scene.wait(async {
        let watch = Runs::default();
        let running = run(&scene.cluster, &job, &scene.cas, &watch);
        tokio::select! {
            ended = running => panic!("{ended:?}"),
            held = async { tokio::task::spawn_blocking(move || order.until_held()).await.unwrap() } => held,
        }
    });
    let word = job.command.arguments.last().unwrap();
    assert!(settles(PATIENCE, || pids_with(word).is_empty()), "it runs on");
    drop(held);
}

fn missing(client: &Client, home: &Home) {
    let scene = Scene::new(home);
    let order = Order::sh("cat in").input("in", b"what only we have");
    let job = scene.job(&order);
    // The daemon has all but the input, whatever we believe: it says which it lacks.
    let blobs = order.blobs();
    client.upload(&blobs[1..]);
    let ended = scene.wait(scene.cluster.execute(&job.action_digest, true, |_| ())).unwrap();
    let input = Digest::of(SHA, b"what only we have");
    match ended {
        fulgurite::remote::Ended::Missing(digests) => assert_eq!(digests, [input]),
        other => panic!("{other:?}"),
    }
    assert!(matches!(scene.run(&job).unwrap(), RemoteEnd::Result { .. }));
}
