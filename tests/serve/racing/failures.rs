//! Commands that fail, on one side or on both.

use super::{AT_ONCE, Pair, begin, check_told, pids_below, stubborn, told, until, until_gone};
use crate::Alone;
use crate::client::code;
use tonic::Code;

pub const ALONE: &[Alone] = &[
    ("racing::d03_the_first_failure_fails_the_action", fails_first),
    ("racing::d04_the_other_may_succeed_if_told_so", fails_other),
    ("racing::a_killed_local_command_leaves_it_to_remote", killed),
    ("racing::memory_that_is_short_here_is_not_there", out_of_memory),
];

fn fails_first() {
    let pair = Pair::start(&[AT_ONCE], &[]);
    let client = pair.racing.client();
    for first in ["local exit", "remote exit"] {
        let order = stubborn();
        let action = order.upload(&client);
        let running = client.execute(&action);
        let (here, there) = pair.gates(order.word());
        let (fails, hangs) = if first.starts_with("local") { (here, there) } else { (there, here) };
        fails.say(first);
        let response = running.response();
        assert_eq!(code(response.status.as_ref()), Code::Ok, "{response:?}");
        let result = response.result.unwrap();
        assert_eq!((result.exit_code, client.stdout(&result)), (3, format!("{first}\n")));
        until_gone(order.word());
        drop(hangs);
        assert_eq!(client.cached(&action), None, "a failure was kept");
    }
    drop(client);
    pair.end();
}

fn fails_other() {
    let pair = Pair::start(&[AT_ONCE, "--race", "failure=other"], &[]);
    let client = pair.racing.client();
    for (here_says, there_says) in [("local exit", "remote"), ("local", "remote exit")] {
        let order = told();
        let running = begin(&client, &order);
        let (here, there) = pair.gates(order.word());
        let (first, second, good) = match here_says.contains("exit") {
            true => ((here, here_says), (there, there_says), "remote"),
            false => ((there, there_says), (here, here_says), "local"),
        };
        first.0.say(first.1);
        until("the first one has failed", || {
            let daemon = if good == "local" { &pair.cluster } else { &pair.racing };
            pids_below(daemon, order.word()).is_empty()
        });
        second.0.say(second.1);
        check_told(&client, &running.response(), good);
    }
    let order = told();
    let running = begin(&client, &order);
    let (here, there) = pair.gates(order.word());
    here.say("local exit");
    there.say("remote exit");
    let response = running.response();
    let result =
        response.result.unwrap_or_else(|| panic!("D04: no error of the action: {:?}", response.status));
    assert_eq!(result.exit_code, 3);
    let said = client.stdout(&result);
    assert!(said == "local exit\n" || said == "remote exit\n", "{said:?}");
    drop(client);
    pair.end();
}

fn killed() {
    let pair = Pair::start(&[AT_ONCE, "--experimental_dynamic_ignore_local_signals=9"], &[]);
    let client = pair.racing.client();
    let order = told();
    let running = begin(&client, &order);
    let (here, there) = pair.gates(order.word());
    here.say("kill");
    until("nothing of it runs here", || pids_below(&pair.racing, order.word()).is_empty());
    there.say("remote");
    check_told(&client, &running.response(), "remote");
    drop(client);
    pair.end();
    // What is not listed is a failure as any other.
    let pair = Pair::start(&[AT_ONCE], &[]);
    let client = pair.racing.client();
    let order = told();
    let running = begin(&client, &order);
    let (here, there) = pair.gates(order.word());
    here.say("kill");
    let result = running.response().result.unwrap();
    assert_eq!((result.exit_code, client.stdout(&result)), (137, "kill\n".to_owned()));
    until_gone(order.word());
    drop((there, client));
    pair.end();
}

fn out_of_memory() {
    let pair = Pair::start(&[AT_ONCE], &[]);
    let client = pair.racing.client();
    let order = told().property("fulgurite-memory-bytes", &(64u64 << 20).to_string());
    let running = begin(&client, &order);
    let (here, there) = pair.gates(order.word());
    here.say("memory");
    until("nothing of it runs here", || pids_below(&pair.racing, order.word()).is_empty());
    there.say("remote");
    check_told(&client, &running.response(), "remote");
    // If neither has enough, that is what is told.
    let order = told().property("fulgurite-memory-bytes", &(64u64 << 20).to_string());
    let running = begin(&client, &order);
    let (here, there) = pair.gates(order.word());
    there.say("memory");
    until("nothing of it runs there", || pids_below(&pair.cluster, order.word()).is_empty());
    here.say("memory");
    assert_eq!(code(running.response().status.as_ref()), Code::ResourceExhausted);
    drop(client);
    pair.end();
}
