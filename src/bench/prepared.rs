//! Actions for benchmarks of the daemon, ready to be sent: all that a client of REAPI uploads before it asks.
//!
//! `cat in > out`, after a loop if wanted, among any number of input files that it does not read. Actions of different
//! numbers are different, and so are their input roots, unless these shall be known.
use crate::action::{
    ActionSpec, Command, CommandOutput, Digest, DigestFunction, Directory, ExecPath, FileNode,
    NodeProperties, OutputDirectoryFormat, OutputKind, encode,
};
use bytes::Bytes;
use std::time::Duration;

/// How blobs are named.
pub const FUNCTION: DigestFunction = DigestFunction::Sha256;
/// The command, without its shell.
const SCRIPT: &str = "cat in > out";
/// The longest that it may run.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The command for its shell, which first makes so many turns of a loop.
#[must_use]
pub fn script(turns: u32) -> String {
    match turns {
        0 => SCRIPT.to_owned(),
        turns => format!("i=0; while [ $i -lt {turns} ]; do i=$((i+1)); done; {SCRIPT}"),
    }
}

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
    /// Reads `in`, which is different for each number, among others that it does not read.
    pub fn among(number: u64, others: &Others, state: RootState) -> Prepared {
        let content = if state == RootState::New { number } else { 0 };
        let blob = |bytes: Vec<u8>| (Digest::of(FUNCTION, &bytes), Bytes::from(bytes));
        let input = blob(format!("fulgurite {content} {}\n", std::process::id()).into_bytes());
        let first = Directory { files: vec![node("in".to_owned(), input.0)], ..Directory::default() };
        let root = blob([encode::directory(&first), others.encoded.clone()].concat());
        let action = ActionSpec {
            command_digest: others.command.0,
            input_root_digest: root.0,
            timeout: Some(TIMEOUT),
            do_not_cache: false,
            platform: Vec::new(),
        };
        let action = blob(encode::action(&action, &number.to_le_bytes()));
        let (output, name) = (input.0, action.0);
        Prepared {
            action: name,
            output,
            blobs: vec![input, root, action],
            shared: vec![others.command.clone(), others.filler.clone()],
        }
    }
}

/// What all actions of a block have in common, encoded once: the command, and the input files that none of them reads.
/// Two directories one after the other are a directory with the files of both (protobuf concatenates repeated fields),
/// and these come after `in`.
#[derive(Debug)]
pub struct Others {
    encoded: Vec<u8>,
    filler: (Digest, Bytes),
    command: (Digest, Bytes),
}

impl Others {
    /// All input files but one of so many, for a shell with this [`script`].
    #[must_use]
    pub fn new(files: usize, script: &str) -> Others {
        let command = Bytes::from(encode::command(&command(script)));
        let bytes = b"another input\n".as_slice();
        let filler = (Digest::of(FUNCTION, bytes), Bytes::from_static(bytes));
        let files = (1..files).map(|index| node(format!("input-{index:06}"), filler.0));
        let encoded = encode::directory(&Directory { files: files.collect(), ..Directory::default() });
        Others { encoded, filler, command: (Digest::of(FUNCTION, &command), command) }
    }
}

fn node(name: String, digest: Digest) -> FileNode {
    FileNode { name, digest, executable: false, properties: NodeProperties::default() }
}

fn command(script: &str) -> Command {
    Command {
        arguments: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_are_canonical_however_they_are_put_together() {
        let prepared = Prepared::among(7, &Others::new(4, &script(0)), RootState::New);
        let (digest, bytes) = &prepared.blobs[1];
        let root = crate::action::decode::directory(FUNCTION, bytes).unwrap();
        assert_eq!(root.files.len(), 4);
        assert!(root.files.is_sorted_by(|one, other| one.name < other.name));
        assert_eq!((encode::directory(&root), *digest), (bytes.to_vec(), Digest::of(FUNCTION, bytes)));
    }
}
