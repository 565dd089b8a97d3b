//! S08, S12: a blob that a client was told is there, and that is evicted before it is needed.

use crate::Alone;
use crate::action::Order;
use crate::client::{Client, code, missing_in, named, subject};
use crate::daemon::{Home, PATIENCE};
use fulgurite_proto::reapi;
use fulgurite_sandbox::testing::settles;
use tonic::Code;

pub const ALONE: &[Alone] = &[
    ("evictions::s08_an_input_evicted_before_it_is_needed", evicted),
    ("evictions::s12_an_entry_whose_blob_is_evicted", result_evicted),
    ("evictions::roots_that_are_kept_staged_make_room", staged_roots),
];

/// Puts so much into the store that nothing of these is there any more.
fn evict(client: &Client, digests: &[reapi::Digest]) {
    let mut number = 0u64;
    let mut missing = Vec::new();
    let gone = settles(PATIENCE, || {
        // Asking is a use: many at a time, so that the question keeps nothing alive.
        for _ in 0..10 {
            number += 1;
            let bulk: Vec<u8> = (0..1u64 << 16).flat_map(|at| (at ^ (number << 32)).to_le_bytes()).collect();
            client.upload(&[bulk]);
        }
        missing = client.missing(digests);
        missing.len() == digests.len()
    });
    assert!(gone, "the store keeps all of {digests:?} but {missing:?}");
}

fn names(blobs: &[Vec<u8>]) -> Vec<reapi::Digest> {
    blobs.iter().map(|blob| named(blob)).collect()
}

fn evicted() {
    let home = Home::new();
    let daemon = home.start(&["--store-size-bytes-max", "4MiB"]);
    let client = daemon.client();
    let order = Order::sh("cat deep/in").input("deep/in", b"s08: an input").input("other", b"s08: another");
    let blobs = order.blobs();
    let action = order.upload(&client);
    assert_eq!(client.missing(&names(&blobs)), []);
    evict(&client, &names(&blobs));
    // The action and the command come back, the inputs do not.
    let inputs = order.inputs.blobs();
    client.upload(&blobs[inputs.len()..]);
    let status = client.refusal(&action);
    assert_eq!(code(Some(&status)), Code::FailedPrecondition, "{status:?}");
    assert_eq!(missing_in(&status), [subject(&named(inputs.last().unwrap()))]);
    client.upload(&inputs);
    let response = client.execute(&action).response();
    assert_eq!(client.stdout(&response.result.unwrap()), "s08: an input");
    drop(client);
    daemon.end(&home);
    home.check_blobs();
}

fn result_evicted() {
    let home = Home::new();
    let daemon = home.start(&["--store-size-bytes-max", "4MiB"]);
    let client = daemon.client();
    let order = Order::sh("head -c 200000 /dev/zero > out; mkdir d; echo x > d/x").outputs(&["d", "out"]);
    let action = order.upload(&client);
    let first = client.execute(&action).response().result.unwrap();
    client.check_complete(&client.cached(&action).unwrap());
    evict(&client, &[first.output_files[0].digest.clone().unwrap()]);
    assert_eq!(client.cached(&action), None, "an entry that points at nothing is served");
    client.upload(&order.blobs());
    let again = client.execute(&action).response();
    assert!(!again.cached_result);
    client.check_complete(&again.result.unwrap());
    drop(client);
    daemon.end(&home);
    home.check_blobs();
}

/// What is staged is kept for the next action that has it, but not at the price of those that have others.
fn staged_roots() {
    let home = Home::new();
    let daemon = home.start(&["--store-size-bytes-max", "4MiB"]);
    let client = daemon.client();
    for round in 0..4u8 {
        let order = Order::sh("stat -c %s in/1 in/2 in/3");
        let order = (1..4u8)
            .fold(order, |order, file| order.input(&format!("in/{file}"), &vec![file * 16 + round; 700_000]));
        let blobs = order.blobs();
        let mut response = None;
        // What was staged is put out behind an action's back: who comes too early is told what to upload again.
        let is_over = settles(PATIENCE, || {
            // One by one: what is larger than a message goes in several.
            blobs.iter().for_each(|blob| client.upload(std::slice::from_ref(blob)));
            let Ok(running) = client.try_execute(&named(blobs.last().unwrap()), false) else { return false };
            let said = running.response();
            let is_over = code(said.status.as_ref()) != Code::FailedPrecondition;
            response = Some(said);
            is_over
        });
        assert!(is_over, "round {round}: {response:?}");
        let response = response.unwrap();
        assert_eq!(code(response.status.as_ref()), Code::Ok, "round {round}: {response:?}");
        assert_eq!(client.stdout(&response.result.unwrap()), "700000\n".repeat(3));
    }
    drop(client);
    daemon.end(&home);
    home.check_blobs();
}
