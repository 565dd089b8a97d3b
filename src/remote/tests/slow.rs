//! A remote for tests of races: it executes whatever it is asked to, and takes uploads only when it is told.

use super::liar::Listening;
use super::*;

/// The call that is held.
const UPLOAD: &str = "BatchUpdateBlobs";

/// See the module's documentation.
pub(crate) struct Slow {
    server: Listening,
    output: Digest,
}

impl Slow {
    /// Every action's output `a` has these bytes.
    pub(crate) fn start(output: &[u8]) -> Slow {
        let server = Listening::start();
        let output = server.liar.put(output);
        server.liar.lie(|lies| {
            lies.hold.insert(UPLOAD);
            lies.executes = vec![branch::gives(&output)].into();
        });
        Slow { server, output }
    }

    /// What an action gives here.
    pub(crate) fn output(&self) -> Digest {
        self.output
    }

    /// A client of it. Must be called within a runtime.
    pub(crate) fn cluster(&self) -> Cluster {
        Cluster::new(options(&self.server.address.to_string())).unwrap()
    }

    /// Waits until a call was made so often.
    pub(crate) async fn until_called(&self, call: &'static str, times: usize) {
        self.server.liar.until(|state| state.calls.get(call).is_some_and(|made| *made >= times)).await;
    }

    /// Takes what waits, and all that comes.
    pub(crate) fn take_uploads(&self) {
        self.server.liar.let_go(UPLOAD);
    }

    /// How often a blob came.
    pub(crate) fn uploads(&self, blob: &Digest) -> usize {
        self.server.liar.state().uploads.get(blob).copied().unwrap_or(0)
    }

    /// An action with output `a`, whose input another action has as well.
    pub(crate) fn action(&self, cas: &Cas, name: &str) -> (RemoteJob, Digest) {
        let put = |bytes: &[u8]| cas.put_bytes(DigestFunction::Sha256, bytes).unwrap();
        let input = put(b"shared input");
        let node = reapi::FileNode {
            name: "input".to_owned(),
            digest: liar::sent(&input),
            ..reapi::FileNode::default()
        };
        let root = reapi::Directory { files: vec![node], ..reapi::Directory::default() };
        let mut command = wire_command(&["a"]);
        command.arguments.push(name.to_owned());
        let action = reapi::Action {
            command_digest: liar::sent(&put(&command.encode_to_vec())),
            input_root_digest: liar::sent(&put(&root.encode_to_vec())),
            ..reapi::Action::default()
        };
        let job = RemoteJob {
            action_digest: put(&action.encode_to_vec()),
            action: decode::action(DigestFunction::Sha256, &action.encode_to_vec()).unwrap(),
            command: decode::command(&command.encode_to_vec()).unwrap(),
            mnemonic: name.to_owned(),
            executes: true,
            accept_cached: true,
            lazily: false,
        };
        (job, input)
    }
}
