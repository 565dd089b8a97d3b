//! What a client must not ask for is refused before anything is staged, and what is missing is named exactly.

use crate::Shared;
use crate::action::Order;
use crate::client::{Client, code, missing_in, named, subject};
use crate::daemon::Home;
use fulgurite_proto::reapi;
use prost::Message;
use tonic::Code;

pub const SHARED: &[Shared] = &[
    ("refusals::o14_output_paths_that_leave_the_root", output_paths),
    ("refusals::g09_names_in_input_trees", names),
    ("refusals::f14_a_symlink_with_a_child_beneath_it", symlink_with_child),
    ("refusals::g10_what_is_missing_is_named_exactly", missing),
    ("refusals::g11_g12_g13_commands", commands),
];

fn output_paths(client: &Client, home: &Home) {
    let canary = home.path("canary");
    std::fs::write(&canary, "the host's").unwrap();
    let absolute = canary.to_str().unwrap();
    for path in ["../canary", "a/../../canary", "a/..", "..", absolute, "a\0b", "/"] {
        let action = Order::sh("true").outputs(&[path]).upload(client);
        assert_eq!(code(Some(&client.refusal(&action))), Code::InvalidArgument, "{path:?}");
    }
    for path in ["../..", "/work", "a/../.."] {
        let mut order = Order::sh("true");
        order.command.working_directory = path.to_owned();
        assert_eq!(code(Some(&client.refusal(&order.upload(client)))), Code::InvalidArgument, "{path:?}");
    }
    assert_eq!(std::fs::read(&canary).unwrap(), b"the host's");
}

fn file(name: &str) -> reapi::FileNode {
    reapi::FileNode { name: name.to_owned(), digest: Some(named(b"x")), ..reapi::FileNode::default() }
}

fn files(names: &[&str]) -> reapi::Directory {
    reapi::Directory { files: names.iter().map(|name| file(name)).collect(), ..reapi::Directory::default() }
}

/// An action on an input root of the caller's making.
fn on(client: &Client, root: &reapi::Directory) -> reapi::Digest {
    let order = Order::sh("ls -la");
    let mut action = order.action.clone();
    action.command_digest = Some(client.put(&order.command.encode_to_vec()));
    action.input_root_digest = Some(client.put(&root.encode_to_vec()));
    client.put(&action.encode_to_vec())
}

fn check_refused(client: &Client, home: &Home, what: &str, root: &reapi::Directory) {
    let nested = reapi::Directory {
        directories: vec![reapi::DirectoryNode {
            name: "below".to_owned(),
            digest: Some(client.put(&root.encode_to_vec())),
        }],
        ..reapi::Directory::default()
    };
    for root in [root, &nested] {
        let status = client.refusal(&on(client, root));
        assert_eq!(code(Some(&status)), Code::InvalidArgument, "{what}: {status:?}");
        let staged = named(&root.encode_to_vec()).hash;
        let found = home.state_names("roots").into_iter().filter(|name| name.contains(&staged)).count();
        assert_eq!(found, 0, "{what} was staged");
    }
}

fn names(client: &Client, home: &Home) {
    client.put(b"x");
    let long = "n".repeat(256);
    let cases: [&[&str]; 9] =
        [&[".."], &["."], &[""], &["a/b"], &["/etc"], &["nul\0"], &["a", "a"], &["b", "a"], &[long.as_str()]];
    for names in cases {
        check_refused(client, home, &format!("{names:?}"), &files(names));
    }
    let mut twice = files(&["a"]);
    twice.directories = vec![reapi::DirectoryNode { name: "a".to_owned(), digest: Some(client.put(b"")) }];
    check_refused(client, home, "a file and a directory", &twice);
    let node = reapi::DirectoryNode { name: "..".to_owned(), digest: Some(client.put(b"")) };
    let climbing = reapi::Directory { directories: vec![node], ..reapi::Directory::default() };
    check_refused(client, home, "a directory ..", &climbing);
    // The control: such a tree with good names is fine.
    let response = client.execute(&on(client, &files(&["a", "b", "nul"]))).response();
    assert_eq!(response.result.unwrap().exit_code, 0);
}

fn symlink_with_child(client: &Client, home: &Home) {
    let mut planted = files(&["a/passwd"]);
    planted.symlinks = vec![reapi::SymlinkNode {
        name: "a".to_owned(),
        target: "/etc".to_owned(),
        ..reapi::SymlinkNode::default()
    }];
    check_refused(client, home, "a symlink and a path through it", &planted);
}

fn missing(client: &Client, _: &Home) {
    let order = Order::sh("true")
        .input("there", b"there")
        .input("lost", b"g10: a file that is lost")
        .input("deep/lost", b"g10: another")
        .input("deep/there", b"there")
        .input("gone/x", b"g10: below a directory that is lost");
    let (lost_file, lost_below) = (b"g10: a file that is lost".to_vec(), b"g10: another".to_vec());
    let mut lost_directory = crate::action::Tree::default();
    lost_directory.add("x", b"g10: below a directory that is lost", false);
    let lost_directory = lost_directory.blobs().pop().unwrap();
    let lost = [lost_file, lost_below, lost_directory];
    let blobs = order.blobs();
    let below = b"g10: below a directory that is lost".to_vec();
    let kept: Vec<Vec<u8>> =
        blobs.iter().filter(|blob| !lost.contains(blob) && **blob != below).cloned().collect();
    client.upload(&kept);
    let action = named(blobs.last().unwrap());
    let check = |expected: &[Vec<u8>]| {
        let status = client.refusal(&action);
        assert_eq!(code(Some(&status)), Code::FailedPrecondition, "{status:?}");
        let mut expected: Vec<String> = expected.iter().map(|blob| subject(&named(blob))).collect();
        expected.sort();
        assert_eq!(missing_in(&status), expected);
    };
    check(&lost);
    client.upload(&lost[1..]);
    // The directory is there now, so that what is below it is known to be missing.
    check(&[lost[0].clone(), below.clone()]);
    client.upload(&[lost[0].clone(), below]);
    assert_eq!(client.execute(&action).response().result.unwrap().exit_code, 0);
    // Without its command, and without itself.
    let other = Order::sh("true");
    let blobs = other.blobs();
    let (command, action) = (&blobs[blobs.len() - 2], &blobs[blobs.len() - 1]);
    let status = client.refusal(&named(action));
    assert_eq!(missing_in(&status), [subject(&named(action))]);
    client.upload(&[blobs[0].clone(), action.clone()]);
    let status = client.refusal(&named(action));
    assert_eq!(code(Some(&status)), Code::FailedPrecondition);
    assert_eq!(missing_in(&status), [subject(&named(command))]);
}

fn commands(client: &Client, _: &Home) {
    let refused = |what: &str, order: &Order, wanted: Code| {
        let status = client.refusal(&order.upload(client));
        assert_eq!(code(Some(&status)), wanted, "{what}: {status:?}");
        assert!(!status.message.is_empty(), "{what}");
    };
    refused("no arguments", &Order::of(&[]), Code::InvalidArgument);
    refused("an argument with NUL", &Order::of(&["/bin/echo", "a\0b"]), Code::InvalidArgument);
    let variable = |name: &str| {
        let mut order = Order::sh("true");
        let variable = reapi::command::EnvironmentVariable { name: name.to_owned(), value: "x".to_owned() };
        order.command.environment_variables = vec![variable];
        order
    };
    refused("a variable with =", &variable("A=B"), Code::InvalidArgument);
    refused("a variable without name", &variable(""), Code::InvalidArgument);
    refused("too long a timeout", &Order::sh("true").timeout(1_000_000_000), Code::InvalidArgument);
    refused("a negative timeout", &Order::sh("true").timeout(-1), Code::InvalidArgument);
    refused("an unknown property", &Order::sh("true").property("colour", "blue"), Code::InvalidArgument);
    refused("another machine", &Order::sh("true").property("OSFamily", "plan9"), Code::FailedPrecondition);
    refused(
        "no number",
        &Order::sh("true").property("fulgurite-memory-bytes", "much"),
        Code::FailedPrecondition,
    );
    // A working directory that is not there, and one that is a symlink to the host's.
    let mut nowhere = Order::sh("true");
    nowhere.command.working_directory = "not/there".to_owned();
    refused("a working directory that is not there", &nowhere, Code::InvalidArgument);
    // What cannot be executed is the command's failure, and says so.
    let response = client.run(&Order::of(&["/no/such/program", "x"]));
    let result = response.result.unwrap();
    assert_eq!(result.exit_code, 127);
    assert!(
        client.stderr(&result).contains("cannot execute \"/no/such/program\""),
        "{}",
        client.stderr(&result)
    );
    let response = client.run(&Order::of(&["/etc/passwd", "x"]));
    assert_eq!(response.result.unwrap().exit_code, 126);
}
