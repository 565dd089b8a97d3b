//! Outputs that stay at the cluster until somebody needs them.

use super::{Pair, counter, counters, start_racing, until};
use crate::Alone;
use crate::action::Order;
use crate::client::{Client, code};
use crate::daemon::{Home, PATIENCE};
use fulgurite_proto::reapi;
use fulgurite_sandbox::testing::settles;
use std::path::Path;
use tonic::Code;

pub const ALONE: &[Alone] = &[
    ("racing::lazily_bytes_come_when_somebody_needs_them", when_needed),
    ("racing::lazily_made_inputs_come_for_a_local_run", as_inputs),
    ("racing::lazily_what_the_cluster_lost_is_not_found", lost),
    ("racing::lazily_never_where_local_could_win", not_in_a_race),
];

const LAZILY: &[&str] = &["--set", "remote.outputs=lazy", "--exec-strategy", "remote"];

/// Whether the bytes of a blob are in the store of a home.
fn is_stored(home: &Home, digest: &reapi::Digest) -> bool {
    fn below(dir: &Path, name: &str) -> bool {
        std::fs::read_dir(dir).into_iter().flatten().flatten().any(|entry| {
            let is_it = entry.file_name().to_string_lossy().contains(name);
            is_it || (entry.path().is_dir() && below(&entry.path(), name))
        })
    }
    // By the end of its hash: the beginning is a directory's name.
    below(&home.state().join("store/objects"), &digest.hash[8..])
}

fn made(client: &Client, script: &str) -> (reapi::ActionResult, reapi::Digest) {
    let result = client.succeed(&Order::sh(script).outputs(&["out"]));
    let digest = result.output_files[0].digest.clone().unwrap();
    (result, digest)
}

fn when_needed() {
    let pair = Pair::start(LAZILY, &[]);
    let client = pair.racing.client();
    let (result, digest) = made(&client, "head -c 100000 /dev/urandom > out; echo said");
    // What was printed is there at once.
    assert_eq!(client.stdout(&result), "said\n");
    assert!(!is_stored(&pair.here, &digest), "its bytes came though nobody wants them");
    assert_eq!(client.missing(std::slice::from_ref(&digest)), []);
    let bytes = client.read(&digest);
    assert_eq!(bytes.len(), 100_000);
    assert!(is_stored(&pair.here, &digest));
    // A small one, which is read in a batch.
    let (_, small) = made(&client, "echo small > out");
    assert_eq!((is_stored(&pair.here, &small), client.read(&small)), (false, b"small\n".to_vec()));
    drop(client);
    pair.end();
}

fn as_inputs() {
    let (here, there) = (Home::new(), Home::new());
    let cluster = there.start(&[]);
    let lazily = ["--set", "remote.outputs=lazy", "--exec-strategy", "remote_local_fallback"];
    // What only this daemon offers, the cluster refuses, and it runs here.
    let offers = ["--set", "execution.platform=here=1,OSFamily=linux"];
    let racing = start_racing(&here, &there, &[&lazily[..], &offers[..]].concat());
    let client = racing.client();
    let (_, digest) = made(&client, "echo made > out");
    assert!(!is_stored(&here, &digest));
    // The next action needs it. The cluster has it, so that nothing comes here.
    let uses = || {
        let mut order = Order::sh("wc -c < in; cat in in > out").outputs(&["out"]);
        order.inputs.add_known("in", &digest, false);
        order
    };
    let result = client.succeed(&uses());
    assert_eq!((client.stdout(&result).as_str(), is_stored(&here, &digest)), ("5\n", false));
    // Here it has to come first.
    let result = client.succeed(&uses().property("here", "1"));
    assert_eq!((client.stdout(&result).as_str(), is_stored(&here, &digest)), ("5\n", true));
    assert_eq!(counter(&here, "local wins"), 1);
    drop(client);
    racing.end(&here);
    cluster.end(&there);
}

fn lost() {
    let pair = Pair::start(LAZILY, &[]);
    let client = pair.racing.client();
    let (_, digest) = made(&client, "echo made > out");
    let Pair { here, there, racing, cluster } = pair;
    cluster.end(&there);
    std::fs::remove_dir_all(there.state()).unwrap();
    // It is not taken to be lost while nobody answers; it is unavailable.
    let cluster = there.start(&[]);
    let found = settles(PATIENCE, || {
        let read = client.try_read(&digest);
        read.is_err_and(|status| status.code() == Code::NotFound)
            && client.missing(std::slice::from_ref(&digest)).len() == 1
    });
    assert!(found, "it is never said to be lost");
    drop(client);
    racing.end(&here);
    cluster.end(&there);
}

fn not_in_a_race() {
    let pair = Pair::start(&["--set", "remote.outputs=lazy", "--dynamic_local_execution_delay=10000"], &[]);
    let there = pair.cluster.client();
    // Local may start before the cluster has answered, and must not be the first.
    let order = Order::sh("sleep 5; echo made > out").outputs(&["out"]);
    there.succeed(&order);
    let client = pair.racing.client();
    let response = client.run(&order);
    assert_eq!(code(response.status.as_ref()), Code::Ok);
    let digest = response.result.unwrap().output_files[0].digest.clone().unwrap();
    until("it is counted", || counter(&pair.here, "races") == 1);
    let names = ["local wins", "remote wins", "remote hits"];
    assert_eq!(counters(&pair.here, &names), [0, 1, 1]);
    assert!(is_stored(&pair.here, &digest));
    drop((client, there));
    pair.end();
}
