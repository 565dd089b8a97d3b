//! However an action ends: what it had printed is there, its client is told why, and no process of it lives on.

use crate::Shared;
use crate::action::Order;
use crate::client::{Client, code};
use crate::daemon::{Home, pids_with};
use fulgurite_proto::reapi;
use tonic::Code;

pub const SHARED: &[Shared] = &[
    ("endings::x27_r07_a_canceled_action_is_killed_at_once", canceled),
    ("endings::x27_canceled_before_it_starts", canceled_before),
    ("endings::r07_a_timeout_kills_all_of_it", timed_out),
    ("endings::r03_r04_out_of_memory", out_of_memory),
    ("endings::signals_end_a_command_that_is_not_pid_1", signals),
    ("endings::o12_half_an_output_set", half),
    ("endings::o09_children_that_hold_the_streams", children),
    ("endings::r09_too_much_is_printed", floods),
    ("endings::r09_what_prints_without_end_is_killed", prints_without_end),
];

/// Leaves behind what does not want to die: one that ignores signals, one of another session, one that is stopped.
const STUBBORN: &str = "(trap '' TERM INT HUP; while :; do /bin/sleep 1000; done) &
setsid /bin/sleep 1000 &
(kill -STOP $(/bin/sh -c 'echo $PPID'); true) &
echo so far; echo also here >&2";

/// Checks what every action that did not end by itself must give.
fn check_killed(client: &Client, order: &Order, response: &reapi::ExecuteResponse, wanted: Code) {
    // The barrier is behind us when the answer comes: nothing has to be waited for.
    assert_eq!(pids_with(order.word()), Vec::<u32>::new(), "processes outlive their action");
    let status = response.status.clone().unwrap_or_default();
    assert_eq!(code(Some(&status)), wanted, "{response:?}");
    assert!(!status.message.is_empty() && response.message == status.message, "{response:?}");
    let result = response.result.as_ref().expect("what was printed is lost");
    assert_eq!(client.stdout(result), "so far\n");
    // The shell may say of which of its children it heard that they were killed.
    assert!(client.stderr(result).starts_with("also here\n"), "{}", client.stderr(result));
    assert_eq!(result.exit_code, 137);
    let logged = response.server_logs.get("stdout").expect("a log for people");
    assert_eq!(logged.digest, result.stdout_digest);
    let metadata = result.execution_metadata.as_ref().unwrap();
    assert!(
        metadata.execution_completed_timestamp.is_some() && metadata.worker_completed_timestamp.is_some()
    );
    assert_eq!(client.cached(&order.upload(client)), None, "S13: a killed action was kept");
}

fn canceled(client: &Client, _: &Home) {
    let order = Order::held(STUBBORN, "echo never");
    let mut running = client.execute(&order.upload(client));
    running.until_executing();
    let held = order.until_held();
    assert!(!pids_with(order.word()).is_empty());
    client.cancel(&running.name).unwrap();
    let name = running.name.clone();
    let response = running.response();
    check_killed(client, &order, &response, Code::Cancelled);
    drop(held);
    // Once more is no error, and changes nothing.
    client.cancel(&name).unwrap();
    assert!(client.operation(&name).unwrap().done);
}

/// Whatever the moment, it ends exactly once, and as canceled unless it was over before.
fn canceled_before(client: &Client, _: &Home) {
    for round in 0..20 {
        let order = Order::sh("/bin/sleep 1000");
        let running = client.execute(&order.upload(client));
        if round % 2 == 0 {
            client.wait(tokio::task::yield_now());
        }
        client.cancel(&running.name).unwrap();
        let response = running.response();
        assert_eq!(code(response.status.as_ref()), Code::Cancelled, "{response:?}");
        assert_eq!(pids_with(order.word()), Vec::<u32>::new());
    }
}

fn timed_out(client: &Client, _: &Home) {
    let order = Order::sh(&format!("{STUBBORN}\nexec /bin/sleep 1000")).timeout(1);
    let response = client.run(&order);
    check_killed(client, &order, &response, Code::DeadlineExceeded);
    assert!(response.message.contains("1s"), "{}", response.message);
}

fn out_of_memory(client: &Client, _: &Home) {
    const LIMIT: u64 = 64 << 20;
    let script = format!("{STUBBORN}\nhead -c 400000000 /dev/zero | tail -n 1 > /dev/null");
    let order = Order::sh(&script).property("fulgurite-memory-bytes", &LIMIT.to_string());
    let response = client.run(&order);
    if code(response.status.as_ref()) == Code::FailedPrecondition {
        return crate::skip("endings::out_of_memory", &response.message);
    }
    check_killed(client, &order, &response, Code::ResourceExhausted);
    assert!(response.message.contains(&LIMIT.to_string()), "{}", response.message);
}

fn signals(client: &Client, _: &Home) {
    for (name, number) in [("SEGV", 11), ("KILL", 9), ("ABRT", 6), ("TERM", 15)] {
        let response = client.run(&Order::sh(&format!("echo before; kill -{name} $$; echo after")));
        assert_eq!(code(response.status.as_ref()), Code::Ok, "{response:?}");
        let result = response.result.unwrap();
        // No signal that it sent itself is an end of memory, or ours.
        assert_eq!(result.exit_code, 128 + number, "{name}");
        assert_eq!(client.stdout(&result), "before\n");
        assert!(response.message.contains(&format!("SIG{name}")), "{}", response.message);
    }
    let result = client.succeed(&Order::sh("echo $$; cat /proc/1/comm"));
    assert!(!client.stdout(&result).starts_with("1\n"), "the action is pid 1");
}

fn half(client: &Client, _: &Home) {
    let script = "printf new > a; mkdir d; printf new > d/b";
    for (ending, exit_code) in [("exit 7", 7), ("kill -KILL $$", 137), ("kill -ABRT $$", 134)] {
        let order = Order::sh(&format!("{script}; {ending}; printf late > c"));
        let order = order.input("a", b"old").input("c", b"old").outputs(&["a", "c", "d"]);
        let action = order.upload(client);
        let response = client.execute(&action).response();
        assert_eq!(code(response.status.as_ref()), Code::Ok, "{response:?}");
        let result = response.result.unwrap();
        assert_eq!(result.exit_code, exit_code);
        client.check_complete(&result);
        assert_eq!(client.cached(&action), None);
    }
}

fn children(client: &Client, _: &Home) {
    let script =
        "/bin/sleep 1000 &\nsetsid /bin/sh -c 'trap \"\" TERM; /bin/sleep 1000; echo late' &\necho done";
    let order = Order::sh(script);
    // It would last longer than we wait, if anybody waited for the end of the streams.
    let result = client.succeed(&order);
    assert_eq!(client.stdout(&result), "done\n");
    assert_eq!(pids_with(order.word()), Vec::<u32>::new());
}

fn floods(client: &Client, _: &Home) {
    let order = Order::sh("head -c 1000000 /dev/zero | tr '\\0' x; printf '\\033[31m\\0' >&2");
    let result = client.succeed(&order);
    let said = client.stdout(&result);
    let (kept, note) = said.split_at(64 << 10);
    assert!(kept.bytes().all(|byte| byte == b'x'));
    assert_eq!(
        note,
        format!("\n[fulgurite: {} more bytes were printed and are not kept]\n", 1_000_000 - (64 << 10))
    );
    assert_eq!(client.read(result.stderr_digest.as_ref().unwrap()), b"\x1b[31m\0");
}

fn prints_without_end(client: &Client, _: &Home) {
    for (to, stream) in [("", "standard output"), (" >&2", "standard error")] {
        let order = Order::sh(&format!("(trap '' TERM; yes{to}) & yes{to}"));
        let action = order.upload(client);
        let response = client.execute(&action).response();
        assert_eq!(pids_with(order.word()), Vec::<u32>::new(), "processes outlive their action");
        let status = response.status.clone().unwrap_or_default();
        assert_eq!(code(Some(&status)), Code::FailedPrecondition, "{response:?}");
        assert!(status.message.contains("printed more than 4194304 bytes"), "{}", status.message);
        assert!(status.message.ends_with(stream), "{}", status.message);
        let result = response.result.expect("what was printed is lost");
        assert_eq!(result.exit_code, 137);
        let kept = if to.is_empty() { client.stdout(&result) } else { client.stderr(&result) };
        assert!(kept.starts_with("y\ny\n") && kept.contains("are not kept]"), "{} bytes", kept.len());
        assert_eq!(client.cached(&action), None);
    }
}
