//! Tests of the door: what is refused, by which field, and what comes through unchanged.
use super::*;

const FUNCTION: DigestFunction = DigestFunction::Sha256;

fn file(name: &str) -> reapi::FileNode {
    let empty = Digest::empty(FUNCTION);
    let digest = reapi::Digest { hash: empty.hex(), size_bytes: 0 };
    reapi::FileNode { name: name.to_owned(), digest: Some(digest), ..reapi::FileNode::default() }
}

fn link(name: &str, target: &str) -> reapi::SymlinkNode {
    reapi::SymlinkNode { name: name.to_owned(), target: target.to_owned(), node_properties: None }
}

fn decoded(files: &[&str], links: &[(&str, &str)]) -> Result<Directory, DecodeError> {
    let sent = reapi::Directory {
        files: files.iter().map(|name| file(name)).collect(),
        symlinks: links.iter().map(|(name, target)| link(name, target)).collect(),
        ..reapi::Directory::default()
    };
    directory(FUNCTION, &sent.encode_to_vec())
}

#[test]
fn names_that_are_paths_are_refused() {
    let long = "x".repeat(256);
    for name in ["", ".", "..", "a/b", "/", "a\0b", &long] {
        assert!(matches!(decoded(&[name], &[]), Err(DecodeError::Name { .. })), "{name:?}");
        assert!(matches!(decoded(&[], &[(name, "t")]), Err(DecodeError::Name { .. })), "{name:?}");
    }
    assert!(decoded(&["...", "a", "a b", "ä"], &[]).is_ok());
}

#[test]
fn names_are_sorted_and_unique_over_all_lists() {
    assert!(matches!(decoded(&["b", "a"], &[]), Err(DecodeError::Order { .. })));
    assert!(matches!(decoded(&["a", "a"], &[]), Err(DecodeError::Order { .. })));
    assert!(matches!(decoded(&["a"], &[("a", "x")]), Err(DecodeError::Order { .. })));
    assert!(decoded(&["a", "c"], &[("b", "../anywhere")]).is_ok());
}

#[test]
fn targets_of_symlinks_have_bytes_and_no_nul() {
    for target in ["", "a\0", &"x".repeat(4096)] {
        assert!(matches!(decoded(&[], &[("l", target)]), Err(DecodeError::Field { .. })), "{target:?}");
    }
}

#[test]
fn what_was_encoded_is_read_again() {
    let mut whole = decoded(&["a", "c"], &[("b", "t")]).unwrap();
    whole.files[0].executable = true;
    whole.files[1].properties.mtime = Some(Timestamp { seconds: -5, nanos: 7 });
    whole.files[1].properties.unix_mode = Some(0o640);
    whole.directories.push(DirectoryNode { name: "d".to_owned(), digest: Digest::of(FUNCTION, b"d") });
    assert_eq!(directory(FUNCTION, &crate::action::encode::directory(&whole)), Ok(whole));
}

fn simple() -> reapi::Command {
    reapi::Command { arguments: vec!["true".to_owned()], ..reapi::Command::default() }
}

#[test]
fn output_paths_are_relative_to_the_working_directory() {
    let sent = reapi::Command {
        working_directory: "w".to_owned(),
        output_paths: vec!["a/b".to_owned(), String::new()],
        ..simple()
    };
    let command = command(&sent.encode_to_vec()).unwrap();
    assert_eq!(command.outputs[0].path, Some(ExecPath::new("w/a/b").unwrap()));
    assert_eq!(command.outputs[1].path, Some(ExecPath::new("w").unwrap()));
    assert!(!command.outputs_are_typed);
}

#[test]
fn outputs_may_leave_the_working_directory_but_not_the_input_root() {
    let decoded = |path: &str| {
        let sent = reapi::Command {
            working_directory: "v/w".to_owned(),
            output_paths: vec![path.to_owned()],
            ..simple()
        };
        command(&sent.encode_to_vec()).map(|command| command.outputs[0].path.clone())
    };
    assert_eq!(decoded("../a").unwrap(), Some(ExecPath::new("v/a").unwrap()));
    assert_eq!(decoded("../..a").unwrap(), Some(ExecPath::new("v/..a").unwrap()));
    assert_eq!(decoded("../../a/b").unwrap(), Some(ExecPath::new("a/b").unwrap()));
    assert_eq!(decoded("..").unwrap(), Some(ExecPath::new("v").unwrap()));
    assert_eq!(decoded("../..").unwrap(), None);
    for outside in ["../../..", "../../../a", "a/../b", "../a/../b"] {
        assert!(decoded(outside).is_err(), "{outside}");
    }
}

#[test]
#[allow(deprecated, reason = "the older fields are what is tested")]
fn the_older_fields_count_only_without_the_newer() {
    let mut sent = reapi::Command {
        output_files: vec!["f".to_owned()],
        output_directories: vec!["d".to_owned(), String::new()],
        ..simple()
    };
    let older = command(&sent.encode_to_vec()).unwrap();
    let kinds: Vec<_> = older.outputs.iter().map(|output| output.kind).collect();
    assert_eq!(kinds, [OutputKind::File, OutputKind::Directory, OutputKind::Directory]);
    assert_eq!(older.outputs[2].path, None);
    sent.output_paths = vec!["p".to_owned()];
    assert_eq!(command(&sent.encode_to_vec()).unwrap().outputs.len(), 1);
}

#[test]
fn bad_commands_say_which_field() {
    let refused = |sent: reapi::Command| command(&sent.encode_to_vec()).unwrap_err().to_string();
    assert!(refused(reapi::Command::default()).contains("arguments"));
    let variable = reapi::command::EnvironmentVariable { name: "A=B".to_owned(), value: String::new() };
    assert!(refused(reapi::Command { environment_variables: vec![variable], ..simple() }).contains("A=B"));
    for path in ["a/", "a//b", "./a", "a/./b", ".", "a/."] {
        let outputs = reapi::Command { output_paths: vec![path.to_owned()], ..simple() };
        assert!(refused(outputs).contains("output_paths"), "{path}");
    }
    for path in ["../x", "/x", "a/../../x"] {
        let outputs = reapi::Command { output_paths: vec![path.to_owned()], ..simple() };
        assert!(refused(outputs).contains("output_paths"), "{path}");
        let directory = reapi::Command { working_directory: path.to_owned(), ..simple() };
        assert!(refused(directory).contains("working_directory"), "{path}");
    }
    let property = reapi::Command { output_node_properties: vec!["color".to_owned()], ..simple() };
    assert!(refused(property).contains("color"));
}

#[test]
fn timeouts_are_durations() {
    let blob = Digest::empty(FUNCTION);
    let name = Some(reapi::Digest { hash: blob.hex(), size_bytes: 0 });
    let mut sent =
        reapi::Action { command_digest: name.clone(), input_root_digest: name, ..reapi::Action::default() };
    sent.timeout = Duration::from_millis(1500).try_into().ok();
    let read = action(FUNCTION, &sent.encode_to_vec()).unwrap();
    assert_eq!(read.timeout, Some(Duration::from_millis(1500)));
    sent.timeout.as_mut().unwrap().seconds = -1;
    assert!(action(FUNCTION, &sent.encode_to_vec()).is_err());
}
