//! What an action does to its inputs stays with it: neither the store nor the next action sees it.

use crate::Shared;
use crate::action::Order;
use crate::client::{Client, named};
use crate::daemon::Home;
use fulgurite_proto::reapi;

pub const SHARED: &[Shared] = &[
    ("poisoning::f11_inputs_are_not_changed_for_the_next_action", inputs_are_not_changed),
    ("poisoning::o07_a_changed_link_to_an_input_has_a_name_of_its_own", changed_links),
    ("poisoning::do_not_cache_is_honored", do_not_cache),
    ("poisoning::s13_failures_are_not_kept", failures_are_not_kept),
    ("poisoning::g18_clients_do_not_write_the_action_cache", clients_do_not_write),
];

/// One input for each way to change it.
const WAYS: [(&str, &str); 8] = [
    ("rewrite", "echo evil > rewrite"),
    ("truncate", ": > truncate"),
    ("append", "echo evil >> append"),
    ("chmod", "chmod 777 chmod && echo evil >> chmod"),
    ("link", "ln link other && echo evil >> other"),
    ("rename", "mv rename moved && echo evil > moved"),
    ("inplace", "printf evil | dd of=inplace conv=notrunc"),
    ("deep/remove", "rm -rf deep && mkdir deep && echo evil > deep/remove"),
];

fn content(name: &str) -> String {
    format!("the true content of {name}\n")
}

fn with_inputs(mut order: Order) -> Order {
    for (name, _) in WAYS {
        order = order.input(name, content(name).as_bytes());
    }
    order
}

fn inputs_are_not_changed(client: &Client, _: &Home) {
    let attack: Vec<String> = WAYS
        .iter()
        .map(|(name, how)| format!("({how}) && echo changed {name} || echo kept {name}\n"))
        .collect();
    let attacker = with_inputs(Order::sh(&format!("{} cat chmod", attack.concat())));
    let names: Vec<&str> = WAYS.iter().map(|(name, _)| *name).collect();
    let look = format!("cat {0}; stat -c '%a %h %s' {0}; ls", names.join(" "));
    // Known by the second look: the first stages the root, others take what is staged.
    let before = client.stdout(&client.succeed(&with_inputs(Order::sh(&look))));
    let expected: String = names.iter().map(|name| content(name)).collect();
    assert!(before.starts_with(&expected), "{before}");
    let said = client.stdout(&client.succeed(&attacker));
    assert_eq!(said.matches("changed ").count(), WAYS.len(), "the attack proves nothing: {said}");
    let after = client.stdout(&client.succeed(&with_inputs(Order::sh(&look))));
    assert_eq!(after, before);
    for (name, _) in WAYS {
        client.read(&named(content(name).as_bytes()));
    }
}

fn changed_links(client: &Client, _: &Home) {
    // Where files are shared between trees they have more names than one, which must not become more.
    let look = || {
        client.stdout(&client.succeed(&Order::sh("cat input; stat -c %h input").input("input", b"good\n")))
    };
    let before = look();
    assert!(before.starts_with("good\n"), "{before}");
    let order = Order::sh("ln input linked && ln linked again && echo evil >> linked");
    let result = client.succeed(&order.input("input", b"good\n").outputs(&["again", "input", "linked"]));
    // Links to one file show one content, and the input's blob is none of them.
    for path in ["again", "input", "linked"] {
        assert_eq!(client.output(&result, path), b"good\nevil\n", "{path}");
    }
    assert_eq!(client.read(&named(b"good\n")), b"good\n");
    assert_eq!(look(), before);
}

fn do_not_cache(client: &Client, _: &Home) {
    let order = Order::sh("cat /proc/sys/kernel/random/uuid").uncached();
    let action = order.upload(client);
    let run = || {
        let response = client.execute(&action).response();
        assert!(!response.cached_result);
        client.stdout(&response.result.unwrap())
    };
    assert_ne!(run(), run());
    assert_eq!(client.cached(&action), None);
    // The control: the same, cached.
    let mut order = order;
    order.action.do_not_cache = false;
    let action = order.upload(client);
    let first = client.execute(&action).response();
    let second = client.execute(&action).response();
    assert_eq!((first.cached_result, second.cached_result), (false, true));
    assert_eq!(first.result.unwrap().stdout_digest, second.result.unwrap().stdout_digest);
    assert!(client.cached(&action).is_some());
}

fn failures_are_not_kept(client: &Client, _: &Home) {
    let order = Order::sh("echo out; echo err >&2; echo half > out; exit 3").outputs(&["out"]);
    let action = order.upload(client);
    let response = client.execute(&action).response();
    assert_eq!(response.status.unwrap_or_default().code, 0, "a command that fails is no failure of ours");
    let result = response.result.unwrap();
    assert_eq!(result.exit_code, 3);
    assert_eq!((client.stdout(&result), client.stderr(&result)), ("out\n".to_owned(), "err\n".to_owned()));
    assert_eq!(client.cached(&action), None);
    assert!(!client.execute(&action).response().cached_result);
}

fn clients_do_not_write(client: &Client, _: &Home) {
    let action = Order::sh("echo true").upload(client);
    let forged = reapi::ActionResult { exit_code: 0, ..reapi::ActionResult::default() };
    let status = client.update(&action, forged).unwrap_err();
    assert_eq!(status.code(), tonic::Code::PermissionDenied, "{status:?}");
    assert_eq!(client.cached(&action), None);
}
