//! Whole actions: nothing that the remote says wrongly becomes a result.

use super::liar::Script;
use super::*;
use std::sync::Mutex;
use tonic::Status;

/// Notes what it is told.
#[derive(Default)]
struct Noted(Mutex<Vec<String>>);

impl RemoteWatch for Noted {
    async fn answered(&self, hit: bool) -> bool {
        self.0.lock().unwrap().push(format!("hit {hit}"));
        true
    }

    fn stage(&self, stage: Stage) {
        self.0.lock().unwrap().push(format!("{stage:?}"));
    }
}

/// An action with one input and the output `a`, all in our store.
fn job(scene: &Scene) -> RemoteJob {
    let put = |bytes: &[u8]| scene.cas.put_bytes(DigestFunction::Sha256, bytes).unwrap();
    let input = put(b"input");
    let node = reapi::FileNode {
        name: "input".to_owned(),
        digest: liar::sent(&input),
        ..reapi::FileNode::default()
    };
    let inner = reapi::Directory { files: vec![node.clone()], ..reapi::Directory::default() };
    let below =
        reapi::DirectoryNode { name: "d".to_owned(), digest: liar::sent(&put(&inner.encode_to_vec())) };
    // A file with the very bytes of a directory: both count.
    let same = reapi::FileNode { name: "e".to_owned(), digest: below.digest.clone(), ..node };
    let root =
        reapi::Directory { files: vec![same], directories: vec![below], ..reapi::Directory::default() };
    let action = reapi::Action {
        command_digest: liar::sent(&put(&wire_command(&["a"]).encode_to_vec())),
        input_root_digest: liar::sent(&put(&root.encode_to_vec())),
        ..reapi::Action::default()
    };
    let action_digest = put(&action.encode_to_vec());
    RemoteJob {
        action_digest,
        action: decode::action(DigestFunction::Sha256, &action.encode_to_vec()).unwrap(),
        command: command(&["a"]),
        mnemonic: "Test".to_owned(),
        executes: true,
        accept_cached: true,
        lazily: false,
    }
}

async fn run_it(scene: &Scene, job: &RemoteJob) -> (Result<RemoteEnd, ClusterError>, Vec<String>) {
    let noted = Noted::default();
    let ended = soon(run(&scene.cluster, job, &scene.cas, &noted)).await;
    (ended, noted.0.into_inner().unwrap())
}

fn with_output(blob: &Digest) -> reapi::ActionResult {
    reapi::ActionResult { output_files: vec![file("a", blob)], ..reapi::ActionResult::default() }
}

pub(super) fn gives(blob: &Digest) -> Script {
    Ok(vec![executions::going(reapi::execution_stage::Value::Executing), executions::done(with_output(blob))])
}

#[tokio::test]
async fn a_miss_is_uploaded_executed_and_fetched() {
    let scene = Scene::new().await;
    let job = job(&scene);
    let output = scene.liar().put(b"output");
    scene.liar().lie(|lies| lies.executes.push_back(gives(&output)));
    let (ended, noted) = run_it(&scene, &job).await;
    match ended.unwrap() {
        RemoteEnd::Result { result, cached: false, fetched_bytes, .. } => {
            assert_eq!((result.files[0].digest, fetched_bytes), (output, 6));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(noted, ["hit false", "Executing"]);
    assert_eq!(scene.cas.read(&output, 100).unwrap(), b"output");
    for bytes in [&b"input"[..], &wire_command(&["a"]).encode_to_vec()] {
        assert!(scene.liar().state().uploads.contains_key(&digest(bytes)));
    }
    assert_eq!(scene.liar().state().uploads.len(), 5, "action, command, input, two directories");
    // And a hit.
    scene.liar().state().results.insert(job.action_digest, with_output(&output));
    let (ended, noted) = run_it(&scene, &job).await;
    assert!(matches!(ended.unwrap(), RemoteEnd::Result { cached: true, .. }));
    assert_eq!(noted, ["hit true"]);
    assert_eq!(scene.liar().calls("Execute"), 1);
}

#[tokio::test]
async fn a_hit_whose_blobs_are_gone_is_executed() {
    let scene = Scene::new().await;
    let mut job = job(&scene);
    let (gone, output) = (digest(b"gone"), scene.liar().put(b"output"));
    scene.liar().state().results.insert(job.action_digest, with_output(&gone));
    scene.liar().lie(|lies| lies.executes.push_back(gives(&output)));
    let (ended, _) = run_it(&scene, &job).await;
    assert!(matches!(ended.unwrap(), RemoteEnd::Result { cached: false, .. }));
    // A cache alone has missed it.
    job.executes = false;
    assert!(matches!(run_it(&scene, &job).await.0.unwrap(), RemoteEnd::Miss));
    // What failed somewhere is no result to take.
    let failure = reapi::ActionResult { exit_code: 1, ..reapi::ActionResult::default() };
    scene.liar().state().results.insert(job.action_digest, failure);
    assert!(matches!(run_it(&scene, &job).await.0.unwrap(), RemoteEnd::Miss));
}

#[tokio::test]
async fn success_then_not_found_is_executed_again_and_then_given_up() {
    let scene = Scene::new().await;
    let job = job(&scene);
    let (gone, output) = (digest(b"gone"), scene.liar().put(b"output"));
    scene.liar().lie(|lies| lies.executes = [gives(&gone), gives(&output)].into());
    let (ended, _) = run_it(&scene, &job).await;
    assert!(matches!(ended.unwrap(), RemoteEnd::Result { .. }));
    assert_eq!(scene.liar().calls("Execute"), 2);
    scene.liar().lie(|lies| lies.executes = [gives(&gone)].into());
    let (ended, _) = run_it(&scene, &job).await;
    assert!(matches!(&ended, Err(ClusterError::Missing(missing)) if missing == &[gone]), "{ended:?}");
    assert_eq!(scene.liar().calls("Execute"), 2 + limits::EXECUTIONS_MAX);
}

#[tokio::test]
async fn inputs_that_are_only_said_to_be_there_are_sent_when_they_are_missed() {
    let scene = Scene::new().await;
    let job = job(&scene);
    let input = digest(b"input");
    let output = scene.liar().put(b"output");
    scene.liar().lie(|lies| {
        lies.only_said.insert(input);
        lies.executes = [executions::lacking(&[input]), gives(&output)].into();
    });
    // Said to be there; then named as missing; then it is asked for again, and the remote has to say the truth.
    let honest = {
        let liar = scene.liar().clone();
        async move {
            liar.until(|state| state.calls.contains_key("Execute")).await;
            liar.lie(|lies| lies.only_said.clear());
        }
    };
    let (_, (ended, _)) = tokio::join!(honest, run_it(&scene, &job));
    assert!(matches!(ended.unwrap(), RemoteEnd::Result { .. }));
    // One that always says so, and always misses it.
    scene.liar().lie(|lies| lies.executes = [executions::lacking(&[input])].into());
    let (ended, _) = run_it(&scene, &job).await;
    assert!(matches!(&ended, Err(ClusterError::Missing(missing)) if missing == &[input]), "{ended:?}");
}

#[tokio::test]
async fn lies_about_outputs_are_errors_and_no_results() {
    let scene = Scene::new().await;
    let job = job(&scene);
    let corrupt = scene.liar().put(b"output");
    scene.liar().lie(|lies| drop(lies.instead.insert(corrupt, b"other!".to_vec())));
    for hit in [false, true] {
        let mut escape = with_output(&corrupt);
        "../../a".clone_into(&mut escape.output_files[0].path);
        for lie in [with_output(&corrupt), escape] {
            if hit {
                scene.liar().state().results.insert(job.action_digest, lie.clone());
            }
            scene.liar().lie(|lies| lies.executes = [Ok(vec![executions::done(lie)])].into());
            let (ended, _) = run_it(&scene, &job).await;
            let error = ended.unwrap_err();
            assert!(
                matches!(error, ClusterError::Corrupt { .. } | ClusterError::Malformed { .. }),
                "{error}"
            );
            assert!(!scene.cas.contains(&corrupt));
        }
    }
    scene.check_store();
}

#[tokio::test]
async fn a_remote_that_dies_midway_is_an_outage() {
    let mut scene = Scene::with(|options| options.breaker.failures_in_a_row = 3).await;
    let job = job(&scene);
    scene.liar().lie(|lies| {
        lies.executes =
            [Ok(vec![executions::going(reapi::execution_stage::Value::Executing), liar::Step::Hang])].into();
        lies.waits = [Err(Status::unavailable("it ends"))].into();
    });
    let liar = scene.liar().clone();
    let (cluster, cas, of) = (scene.cluster.clone(), scene.cas.clone(), job.clone());
    let running = tokio::spawn(async move { run(&cluster, &of, &cas, &Noted::default()).await });
    liar.until(|state| state.calls.contains_key("Execute")).await;
    // Its connection goes with it.
    scene.server = Listening::start();
    let error = soon(running).await.unwrap().unwrap_err();
    assert!(error.is_outage(), "{error}");
}
