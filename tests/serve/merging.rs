//! One action that many ask for is run once, and each of them gets what came of it.

use crate::Shared;
use crate::action::Order;
use crate::client::{Client, Running, code};
use crate::daemon::{Home, pids_with};
use tonic::Code;

pub const SHARED: &[Shared] = &[
    ("merging::g20_fifty_clients_and_one_run", fifty),
    ("merging::g20_the_last_to_leave_ends_it", last_to_leave),
    ("merging::g21_waiting_again_after_the_stream_was_dropped", waiting_again),
    ("merging::g21_names_cannot_be_guessed", names),
];

/// What it prints is different at every run.
const UNIQUE: &str = "cat /proc/sys/kernel/random/uuid";

fn fifty(client: &Client, _: &Home) {
    let order = Order::held(UNIQUE, "echo over");
    let action = order.upload(client);
    let mut running: Vec<Running> = (0..50).map(|_| client.execute(&action)).collect();
    let held = order.until_held();
    for one in &mut running {
        one.until_executing();
    }
    let mut names: Vec<&str> = running.iter().map(|one| one.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 50, "operations are told apart");
    assert_eq!(pids_with(order.word()).len(), 1, "one shell, and one alone");
    let left = running.swap_remove(7);
    client.cancel(&left.name).unwrap();
    assert_eq!(code(left.response().status.as_ref()), Code::Cancelled);
    assert_eq!(pids_with(order.word()).len(), 1, "it was killed for one who left");
    held.release();
    let mut printed = Vec::new();
    for one in running {
        let response = one.response();
        assert_eq!(code(response.status.as_ref()), Code::Ok, "{response:?}");
        assert!(!response.cached_result);
        printed.push(client.stdout(&response.result.unwrap()));
    }
    printed.dedup();
    assert_eq!(printed.len(), 1, "{printed:?}");
    assert!(printed[0].ends_with("over\n"));
    let later = client.execute(&action).response();
    assert!(later.cached_result);
    assert_eq!(client.stdout(&later.result.unwrap()), printed[0]);
}

fn last_to_leave(client: &Client, _: &Home) {
    let order = Order::held("echo so far", "true");
    let action = order.upload(client);
    let running: Vec<Running> = (0..3).map(|_| client.execute(&action)).collect();
    let held = order.until_held();
    for one in &running {
        assert!(!pids_with(order.word()).is_empty());
        client.cancel(&one.name).unwrap();
    }
    let mut printed = 0;
    for one in running {
        let response = one.response();
        assert_eq!(code(response.status.as_ref()), Code::Cancelled);
        printed += usize::from(response.result.is_some_and(|result| client.stdout(&result) == "so far\n"));
    }
    assert_eq!(printed, 1, "who left last gets what was printed");
    assert_eq!(pids_with(order.word()), Vec::<u32>::new());
    drop(held);
    // Whoever asks now gets a run of their own.
    let again = client.execute(&action);
    order.release();
    assert_eq!(code(again.response().status.as_ref()), Code::Ok);
}

fn waiting_again(client: &Client, _: &Home) {
    let order = Order::held(UNIQUE, "echo over");
    let mut running = client.execute(&order.upload(client));
    running.until_executing();
    let held = order.until_held();
    let name = running.name.clone();
    drop(running);
    let again = client.watch(&name).unwrap();
    let beside = client.watch(&name).unwrap();
    held.release();
    let (one, other) = (again.response(), beside.response());
    assert_eq!(code(one.status.as_ref()), Code::Ok, "{one:?}");
    assert_eq!(one, other);
    // It can be asked for when it is over, too.
    assert_eq!(client.watch(&name).unwrap().response(), one);
}

fn names(client: &Client, _: &Home) {
    let order = Order::held("true", "true");
    let one = client.execute(&order.upload(client));
    let other_order = Order::sh("true");
    let other = client.execute(&other_order.upload(client));
    let digits = |name: &str| u128::from_str_radix(name.strip_prefix("operations/").unwrap(), 16).unwrap();
    let (first, second) = (digits(&one.name), digits(&other.name));
    // Neighbors of a random number of 128 bits are nobody's, and two of them share no more bits than chance gives.
    assert!((first ^ second).count_ones() > 20, "{first:x} {second:x}");
    let near = |number: u128| format!("operations/{number:032x}");
    let guesses = [
        near(first.wrapping_add(1)),
        near(first.wrapping_sub(1)),
        near(0),
        one.name.to_uppercase(),
        one.name[..20].to_owned(),
        format!("{}0", one.name),
        String::new(),
        "operations/../x".to_owned(),
    ];
    for guess in guesses {
        let check = |status: tonic::Status| assert_eq!(status.code(), Code::NotFound, "{guess}");
        check(client.watch(&guess).map(|_| ()).unwrap_err());
        check(client.cancel(&guess).unwrap_err());
        check(client.operation(&guess).map(|_| ()).unwrap_err());
    }
    order.release();
    assert_eq!(code(one.response().status.as_ref()), Code::Ok);
    other.response();
}
