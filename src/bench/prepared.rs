//! Actions for benchmarks of the daemon, ready to be sent: all that a client of REAPI uploads before it asks.
//!
//! `cat in > out`, among any number of input files that it does not read. Actions of different numbers are different,
//! and so are their input roots, unless these shall be known.
use crate::action::{
    ActionSpec, Command, CommandOutput, Digest, DigestFunction, Directory, ExecPath, FileNode,
    NodeProperties, OutputDirectoryFormat, OutputKind, encode,
};
use bytes::Bytes;
use std::time::Duration;

/// How blobs are named.
pub const FUNCTION: DigestFunction = DigestFunction::Sha256;
/// The command, without its shell.
pub const SCRIPT: &str = "cat in > out";
/// The longest that it may run.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Whether an input root was seen before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootState {
    /// Each action has its own.
    New,
    /// All actions have the same one.
    Known,
}

impl RootState {
    /// Its name in reports and options.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            RootState::New => "new",
            RootState::Known => "known",
        }
    }
}

/// An action that is ready to be sent.
pub struct Prepared {
    /// The action.
    pub action: Digest,
    /// What only this action needs.
    pub blobs: Vec<(Digest, Bytes)>,
    /// What all actions of the block need: uploaded before.
    pub shared: Vec<(Digest, Bytes)>,
    /// What its output must be.
    pub output: Digest,
}

impl Prepared {
    /// Reads `in`, which is different for each number, among `files` input files.
    pub fn new(number: u64, files: usize, state: RootState) -> Prepared {
        let content = if state == RootState::New { number } else { 0 };
        let blob = |bytes: Vec<u8>| (Digest::of(FUNCTION, &bytes), Bytes::from(bytes));
        let input = blob(format!("fulgurite {content} {}\n", std::process::id()).into_bytes());
        let filler = blob(b"another input\n".to_vec());
        let command = blob(encode::command(&command()));
        let node = |name: String, digest| FileNode {
            name,
            digest,
            executable: false,
            properties: NodeProperties::default(),
        };
        let mut root = Directory { files: vec![node("in".to_owned(), input.0)], ..Directory::default() };
        root.files.extend((1..files).map(|index| node(format!("input-{index:06}"), filler.0)));
        let root = blob(encode::directory(&root));
        let action = ActionSpec {
            command_digest: command.0,
            input_root_digest: root.0,
            timeout: Some(TIMEOUT),
            do_not_cache: false,
            platform: Vec::new(),
        };
        let action = blob(encode::action(&action, &number.to_le_bytes()));
        let (output, name) = (input.0, action.0);
        Prepared { action: name, output, blobs: vec![input, root, action], shared: vec![command, filler] }
    }
}

fn command() -> Command {
    Command {
        arguments: ["/bin/sh", "-c", SCRIPT].map(str::to_owned).to_vec(),
        environment: vec![("PATH".to_owned(), super::command::PATH.to_owned())],
        outputs: vec![CommandOutput {
            declared: "out".to_owned(),
            path: ExecPath::new("out").ok(),
            kind: OutputKind::Any,
        }],
        outputs_are_typed: false,
        working_directory: None,
        platform: Vec::new(),
        output_properties: Vec::new(),
        output_directory_format: OutputDirectoryFormat::TreeOnly,
    }
}
