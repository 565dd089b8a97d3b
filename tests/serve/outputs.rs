//! Outputs as the protocol has them: files, trees, symlinks, the older fields, what is missing.

use crate::Shared;
use crate::action::Order;
use crate::client::{Client, named};
use crate::daemon::Home;
use fulgurite_proto::{reapi, v1};
use prost::Message;

pub const SHARED: &[Shared] = &[
    ("outputs::files_and_their_executable_bits", files),
    ("outputs::symlinks_are_taken_as_symlinks", symlinks),
    ("outputs::older_fields_are_honored", older_fields),
    ("outputs::an_empty_directory", empty),
    ("outputs::a_tree", tree),
    ("outputs::two_thousand_files", many),
    ("outputs::the_whole_root_and_a_working_directory", whole_root),
    ("outputs::o18_removed_and_replaced_inputs", replaced),
    ("outputs::o17_one_content_from_many_actions", one_content),
    ("outputs::metadata_is_complete", metadata),
];

fn files(client: &Client, _: &Home) {
    let script = "umask 0; echo a > plain; echo b > run; chmod 755 run; echo c > user; chmod 700 user
                  echo d > other; chmod 645 other; : > empty; mkdir -p deep/er; echo e > deep/er/f";
    let names = ["deep/er/f", "empty", "missing", "other", "plain", "run", "user"];
    let result = client.succeed(&Order::sh(script).outputs(&names));
    let found: Vec<(&str, bool)> =
        result.output_files.iter().map(|file| (file.path.as_str(), file.is_executable)).collect();
    let expected = [
        ("deep/er/f", false),
        ("empty", false),
        ("other", false),
        ("plain", false),
        ("run", true),
        ("user", true),
    ];
    assert_eq!(found, expected);
    assert_eq!(client.output(&result, "deep/er/f"), b"e\n");
    assert_eq!(client.output(&result, "empty"), b"");
    // They can be inputs of the next.
    let mut next = Order::sh("./run; test -x run && test ! -x plain");
    next.inputs.add("run", b"#!/bin/sh\necho ran\n", true);
    next.inputs.add("plain", b"a\n", false);
    assert_eq!(client.stdout(&client.succeed(&next)), "ran\n");
}

fn symlinks(client: &Client, _: &Home) {
    let script =
        "echo x > file; ln -s file one; ln -s nowhere two; mkdir dir; ln -s dir three; ln -s ../file dir/up";
    let result = client.succeed(&Order::sh(script).outputs(&["dir", "one", "three", "two"]));
    let found: Vec<(&str, &str)> =
        result.output_symlinks.iter().map(|link| (link.path.as_str(), link.target.as_str())).collect();
    assert_eq!(found, [("one", "file"), ("three", "dir"), ("two", "nowhere")]);
    assert_eq!(client.tree(&result, "dir")[0].symlinks[0].target, "../file");
    assert!(result.output_files.is_empty());
}

#[allow(deprecated, reason = "what older clients send and read")]
fn older_fields(client: &Client, _: &Home) {
    let mut order = Order::sh(
        "mkdir dir/sub; echo x > out/file; echo y > dir/sub/f; ln -s file out/link; ln -s ../dir out/dlink",
    );
    order.command.output_files = vec!["out/file".to_owned(), "out/link".to_owned(), "out/missing".to_owned()];
    order.command.output_directories = vec!["dir/sub".to_owned(), "out/dlink".to_owned()];
    let result = client.succeed(&order);
    assert_eq!(client.output(&result, "out/file"), b"x\n");
    assert_eq!(client.tree(&result, "dir/sub")[0].files.len(), 1);
    let paths =
        |links: &[reapi::OutputSymlink]| links.iter().map(|link| link.path.clone()).collect::<Vec<_>>();
    assert_eq!(paths(&result.output_file_symlinks), ["out/link"]);
    assert_eq!(paths(&result.output_directory_symlinks), ["out/dlink"]);
}

fn empty(client: &Client, _: &Home) {
    let result = client.succeed(&Order::sh("mkdir out").outputs(&["out"]));
    assert_eq!(client.tree(&result, "out"), [reapi::Directory::default()]);
    let parent = client.succeed(&Order::sh("test -d a/b && test ! -e a/b/c").outputs(&["a/b/c"]));
    assert!(parent.output_directories.is_empty(), "a parent was made for an output, and none was declared");
}

fn tree(client: &Client, _: &Home) {
    let script = "mkdir -p out/a/b out/e out/z; echo 1 > out/a/b/f; cp -r out/a out/z
                  echo 2 > out/top; chmod +x out/top";
    let result = client.succeed(&Order::sh(script).outputs(&["out"]));
    assert!(result.output_directories[0].is_topologically_sorted);
    let tree = client.tree(&result, "out");
    let root = &tree[0];
    let names: Vec<&str> = root.directories.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(names, ["a", "e", "z"]);
    assert!(root.files[0].is_executable);
    // Each distinct directory once, and every one that is named is there.
    assert_eq!(tree.len(), 5, "{tree:#?}");
    let known: Vec<reapi::Digest> = tree.iter().map(|part| named(&part.encode_to_vec())).collect();
    for node in tree.iter().flat_map(|part| &part.directories) {
        assert!(known.contains(node.digest.as_ref().unwrap()), "{node:?}");
    }
    client.check_complete(&result);
}

fn many(client: &Client, _: &Home) {
    let script = "mkdir out; i=0; while [ $i -lt 2000 ]; do echo $i > out/f$i; i=$((i+1)); done";
    let order = Order::sh(script).outputs(&["out"]);
    let result = client.succeed(&order);
    let tree = client.tree(&result, "out");
    assert_eq!(tree[0].files.len(), 2000);
    let digests: Vec<reapi::Digest> = tree[0].files.iter().map(|file| file.digest.clone().unwrap()).collect();
    assert_eq!(client.missing(&digests), []);
    for file in tree[0].files.iter().step_by(97) {
        let expected = format!("{}\n", file.name.trim_start_matches('f'));
        assert_eq!(client.read(file.digest.as_ref().unwrap()), expected.as_bytes());
    }
    // None of them was copied by the daemon.
    let handoff = details(&result).handoff.unwrap();
    assert_eq!((handoff.renamed + handoff.known, handoff.bytes_copied), (2000, 0), "{handoff:?}");
}

fn whole_root(client: &Client, _: &Home) {
    let order =
        Order::sh("echo new > new; rm gone").input("kept", b"kept").input("gone", b"gone").input("d/f", b"f");
    let result = client.succeed(&order.outputs(&[""]));
    let tree = client.tree(&result, "");
    let names: Vec<&str> = tree[0].files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["kept", "new"]);
    assert_eq!(tree[0].directories.len(), 1);
    // Paths are relative to the working directory, which is made for the action if need be.
    let mut order = Order::sh("cat ../top > here; mkdir sub").input("top", b"top").input("w/x", b"x");
    order.command.working_directory = "w".to_owned();
    let result = client.succeed(&order.outputs(&["here", "sub"]));
    assert_eq!(client.output(&result, "here"), b"top");
    assert_eq!(client.tree(&result, "sub").len(), 1);
}

fn replaced(client: &Client, _: &Home) {
    let script =
        "rm -r d; mkdir d; echo new > d/new; rm f; mkdir f; touch same; mv e e2 || (cp -r e e2 && rm -r e)";
    let order =
        Order::sh(script).input("d/old", b"old").input("f", b"f").input("same", b"same").input("e/x", b"x");
    let result = client.succeed(&order.outputs(&["d", "e", "e2", "f", "same"]));
    let d = client.tree(&result, "d");
    let names: Vec<&str> = d[0].files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["new"], "what was removed is not there");
    assert_eq!(client.tree(&result, "e2")[0].files.len(), 1);
    assert_eq!(client.tree(&result, "f"), [reapi::Directory::default()]);
    assert!(!result.output_directories.iter().any(|directory| directory.path == "e"));
    assert_eq!(client.output(&result, "same"), b"same");
}

fn one_content(client: &Client, _: &Home) {
    let orders: Vec<Order> = (0..8)
        .map(|_| {
            Order::sh("head -c 100000 /dev/zero | tr '\\0' q > out; cp out out2").outputs(&["out", "out2"])
        })
        .collect();
    let running: Vec<_> = orders.iter().map(|order| client.execute(&order.upload(client))).collect();
    for one in running {
        let result = one.response().result.unwrap();
        assert_eq!(client.output(&result, "out"), vec![b'q'; 100_000]);
        assert_eq!(result.output_files[0].digest, result.output_files[1].digest);
    }
}

fn details(result: &reapi::ActionResult) -> v1::ExecutionDetails {
    let metadata = result.execution_metadata.as_ref().unwrap();
    let found = metadata
        .auxiliary_metadata
        .iter()
        .find(|any| any.type_url.ends_with("fulgurite.v1.ExecutionDetails"));
    v1::ExecutionDetails::decode(found.unwrap().value.as_slice()).unwrap()
}

fn metadata(client: &Client, _: &Home) {
    let order = Order::sh("cat in > out").input("in", b"some input of metadata").outputs(&["out"]);
    let result = client.succeed(&order);
    let metadata = result.execution_metadata.clone().unwrap();
    let times = [
        metadata.queued_timestamp,
        metadata.worker_start_timestamp,
        metadata.input_fetch_start_timestamp,
        metadata.input_fetch_completed_timestamp,
        metadata.execution_start_timestamp,
        metadata.execution_completed_timestamp,
        metadata.output_upload_start_timestamp,
        metadata.output_upload_completed_timestamp,
        metadata.worker_completed_timestamp,
    ];
    let times: Vec<(i64, i32)> =
        times.iter().map(|time| time.map(|time| (time.seconds, time.nanos)).unwrap()).collect();
    assert!(times.is_sorted(), "{times:?}");
    assert!(!metadata.worker.is_empty() && metadata.virtual_execution_duration.is_some());
    let details = details(&result);
    assert!(details.enforced.contains_key("hardening"), "{details:?}");
    assert!(details.staging.ends_with("new") && details.memory_peak_bytes > 0, "{details:?}");
    let handoff = details.handoff.unwrap();
    assert_eq!((handoff.renamed + handoff.known, handoff.copied), (1, 0));
    // The same root is known the second time.
    let mut again = order;
    again.action.salt = b"again".to_vec().into();
    let again = client.succeed(&again);
    assert!(self::details(&again).staging.ends_with("known"), "{:?}", self::details(&again));
}
