//! G4 through whole races: a loser takes nothing with it that another action needs.

use crate::action::{ActionResult, DigestFunction, OutputFile, Timeline, Timestamp};
use crate::cas::{Cas, CasOptions};
use crate::exec::executor::{Cancel, Execution, Executor, Job, Placement, Verdict, Watch};
use crate::race::executor::{Place, Racing, RacingOptions, RemoteUse};
use crate::race::knobs::Knobs;
use crate::remote::RemoteJob;
use crate::remote::tests::slow::Slow;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};

/// Runs actions here: `quick` ends when it is told, all others when they are canceled.
struct Here {
    go: Mutex<Receiver<()>>,
}

impl Executor for Here {
    fn execute(&self, job: &Job, cancel: &Cancel, _: &dyn Watch) -> Execution {
        if job.mnemonic == "quick" {
            self.go.lock().unwrap().recv().unwrap();
            return Execution { verdict: Verdict::Exited, result: ActionResult::default() };
        }
        let (send, stopped) = sync_channel(1);
        cancel.arm(move || {
            // Told once is enough.
            let _ = send.try_send(());
        });
        stopped.recv().unwrap();
        cancel.disarm();
        Execution { verdict: Verdict::Canceled, result: ActionResult::default() }
    }

    fn slots(&self) -> usize {
        4
    }
}

struct Nobody;

impl Watch for Nobody {
    fn started(&self, _: &Timeline) {}
}

fn job(of: RemoteJob) -> Job {
    Job {
        tenant: String::new(),
        function: DigestFunction::Sha256,
        action_digest: of.action_digest,
        action: of.action,
        command: of.command,
        queued: Timestamp { seconds: 0, nanos: 0 },
        mnemonic: of.mnemonic,
        invocation: String::new(),
        placement: Placement::Configured,
        fresh: false,
    }
}

#[test]
fn g4_a_loser_takes_no_upload_along_that_another_action_needs() {
    let dir = tempfile::tempdir().unwrap();
    let cas = Cas::open(&CasOptions { dir: dir.path().join("store"), size_bytes_max: 1 << 30 }).unwrap();
    let runtime = Arc::new(tokio::runtime::Runtime::new().unwrap());
    let slow = Slow::start(b"made there");
    let (go, told) = sync_channel(1);
    let mut knobs = Knobs::default();
    knobs.set("local_execution_delay", "0").unwrap();
    let options = RacingOptions {
        place: Place::Racing,
        remote: RemoteUse::Execute,
        jobs: 4,
        lazily: None,
        upload_local_results: false,
        knobs,
        history: None,
    };
    let cluster = {
        let _context = runtime.enter();
        slow.cluster()
    };
    let here = Arc::new(Here { go: Mutex::new(told) });
    let racing = Racing::new(here, cluster, cas.clone(), runtime.clone(), options, 1).unwrap();
    let (quick, input) = slow.action(&cas, "quick");
    let (other, _) = slow.action(&cas, "other");
    let (quick, other) = (job(quick), job(other));
    let run = |job| racing.execute(job, &Cancel::default(), &Nobody);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| run(&quick));
        // It has begun the upload of what both need.
        runtime.block_on(slow.until_called("BatchUpdateBlobs", 1));
        let second = scope.spawn(|| run(&other));
        runtime.block_on(slow.until_called("GetActionResult", 2));
        go.send(()).unwrap();
        let local = first.join().unwrap();
        assert_eq!(local.result.usage.race.unwrap().winner, "local");
        slow.take_uploads();
        let remote = second.join().unwrap();
        assert_eq!(remote.verdict, Verdict::Exited);
        assert_eq!(remote.result.usage.race.unwrap().winner, "remote");
        let made = OutputFile {
            path: "a".to_owned(),
            digest: slow.output(),
            executable: false,
            properties: Default::default(),
        };
        assert_eq!(remote.result.files, [made]);
    });
    assert_eq!(slow.uploads(&input), 1, "what both need came once");
    assert!(cas.contains(&slow.output()));
    drop(racing);
}
