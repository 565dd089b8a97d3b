//! D1 to D12 with two daemons: one races, the other is its cluster. Who comes first is said by the test, through a FIFO
//! in each side's sandbox; what comes through it is what the action prints and puts into its outputs, so that a result
//! tells which side it is of.
//!
//! ```text
//!   client ─► here: serve --remote ─┬► command ◄── gate ◄─┐
//!                                   └► there: serve       │ test
//!                                        └► command ◄── gate ◄─┘
//! ```

mod failures;
mod in_place;
mod lazily;
mod outages;
mod trees;

use crate::Alone;
use crate::action::Order;
use crate::client::{Client, Running, code};
use crate::daemon::{Daemon, Home, PATIENCE, pids_with};
use fulgurite_proto::reapi;
use fulgurite_sandbox::testing::settles;
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use std::process::Command;
use tonic::Code;

pub const ALONE: &[&[Alone]] =
    &[WINS, failures::ALONE, in_place::ALONE, lazily::ALONE, outages::ALONE, trees::ALONE];

const WINS: &[Alone] = &[
    ("racing::local_wins_while_the_cluster_is_busy", cluster_is_busy),
    ("racing::remote_wins_while_the_local_command_hangs", local_hangs),
    ("racing::local_wins_while_the_remote_command_hangs", remote_hangs),
    ("racing::a_hit_of_the_cluster_starts_nothing_here", hits),
    ("racing::a_cluster_that_is_a_cache_only", cache_only),
    ("racing::a_local_win_fills_the_clusters_cache", fills),
    ("racing::d08_who_leaves_ends_both_branches", leaves),
    ("racing::what_must_not_come_from_a_cache_does_not", uncached),
    ("racing::d02_a_late_failure_of_the_loser_is_nothing", late_failure),
    ("racing::d07_one_slot_is_enough", one_slot),
    ("racing::d19_no_set_of_outputs_is_mixed", unmixed),
];

/// Both sides start at once, whatever was measured.
const AT_ONCE: &str = "--dynamic_local_execution_delay=0";
/// Clients may write the action cache.
const WRITERS: &[&str] = &["--set", "instances.\"\".action_cache_writers=clients"];

/// Prints what comes through the gate, and does as it says.
const TOLD: &str = "mkfifo gate || exit 1; echo partial > out; mkdir -p d; echo partial > d/partial
    read line < gate; echo \"$line\"
    case \"$line\" in
        *exit*) exit 3;;
        *kill*) kill -9 $$;;
        *memory*) head -c 400000000 /dev/zero | tail -n 1 > /dev/null;;
    esac
    rm d/partial; echo \"$line\" > out; echo \"$line\" > d/in";

/// An action that does what it is told.
pub fn told() -> Order {
    Order::sh(TOLD).outputs(&["d", "out"])
}

/// The same with processes that do not want to end.
fn stubborn() -> Order {
    let before = "trap '' TERM INT; /bin/sleep 1000 & setsid /bin/sh -c 'trap \"\" TERM; /bin/sleep 1000' &";
    Order::sh(&format!("{before}\n{TOLD}")).outputs(&["d", "out"])
}

/// A daemon that races, and the cluster.
pub struct Pair {
    pub here: Home,
    there: Home,
    pub racing: Daemon,
    cluster: Daemon,
}

/// A command that waits to be told. When this is dropped it is told nothing, and goes on.
pub struct Gate(OwnedFd);

impl Gate {
    pub fn say(self, line: &str) {
        rustix::io::write(&self.0, format!("{line}\n").as_bytes()).unwrap();
    }
}

/// Processes of an action below one daemon.
fn pids_below(daemon: &Daemon, word: &str) -> Vec<u32> {
    let parent = |pid: u32| -> Option<u32> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
    };
    let is_below = |pid: &u32| {
        let above = std::iter::successors(parent(*pid), |pid| parent(*pid));
        above.take(16).any(|pid| pid == daemon.pid())
    };
    pids_with(word).into_iter().filter(is_below).collect()
}

/// Whether the action waits at its gate below a daemon.
fn try_gate(daemon: &Daemon, word: &str) -> Option<Gate> {
    pids_below(daemon, word).iter().find_map(|pid| {
        let path = format!("/proc/{pid}/cwd/gate");
        // Opens only once somebody waits for what is written.
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty()).ok().map(Gate)
    })
}

fn gate(daemon: &Daemon, word: &str) -> Gate {
    let mut gate = None;
    settles(PATIENCE, || {
        gate = try_gate(daemon, word);
        gate.is_some()
    });
    gate.unwrap_or_else(|| panic!("the action {word} does not wait below {}", daemon.pid()))
}

/// A counter of `fulgurite status`.
fn counter(home: &Home, name: &str) -> u64 {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fulgurite"));
    let out = command.arg("status").arg("--daemon").arg(home.path("socket")).output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    let found = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    found.unwrap_or_else(|| panic!("no {name:?} in {text:?} {:?}", out.stderr))
}

fn counters(home: &Home, names: &[&str]) -> Vec<u64> {
    names.iter().map(|name| counter(home, name)).collect()
}

fn until(what: &str, condition: impl FnMut() -> bool) {
    assert!(settles(PATIENCE, condition), "it does not come to this: {what}");
}

fn until_gone(word: &str) {
    until("all processes are gone", || pids_with(word).is_empty());
}

impl Pair {
    pub fn start(racing: &[&str], cluster: &[&str]) -> Pair {
        let (here, there) = (Home::new(), Home::new());
        let cluster = there.start(cluster);
        let racing = start_racing(&here, &there, racing);
        Pair { here, there, racing, cluster }
    }

    /// The action waits on both sides.
    pub fn gates(&self, word: &str) -> (Gate, Gate) {
        (gate(&self.racing, word), gate(&self.cluster, word))
    }

    pub fn end(self) {
        self.racing.end(&self.here);
        self.cluster.end(&self.there);
        self.here.check_blobs();
        self.there.check_blobs();
    }
}

/// A daemon of one home that races against that of another.
fn start_racing(here: &Home, there: &Home, options: &[&str]) -> Daemon {
    let address = format!("unix:{}", there.path("socket").display());
    here.start(&[&["--remote", &address][..], options].concat())
}

fn begin(client: &Client, order: &Order) -> Running {
    client.execute(&order.upload(client))
}

/// The result is one side's alone, and whole.
fn check_told(client: &Client, response: &reapi::ExecuteResponse, line: &str) {
    assert_eq!(code(response.status.as_ref()), Code::Ok, "{response:?}");
    let result = response.result.as_ref().unwrap();
    assert_eq!((result.exit_code, client.stdout(result)), (0, format!("{line}\n")));
    assert_eq!(client.output(result, "out"), format!("{line}\n").as_bytes());
    let tree = client.tree(result, "d");
    let names: Vec<&str> = tree[0].files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!((tree.len(), names), (1, vec!["in"]));
    assert_eq!(client.read(tree[0].files[0].digest.as_ref().unwrap()), format!("{line}\n").as_bytes());
}

fn cluster_is_busy() {
    for delay in [AT_ONCE, "--dynamic_local_execution_delay=auto"] {
        let pair = Pair::start(&[delay], &["--slots", "1"]);
        let (client, there) = (pair.racing.client(), pair.cluster.client());
        let blocker = told();
        let blocking = begin(&there, &blocker);
        let blocked = gate(&pair.cluster, blocker.word());
        let order = told();
        let running = begin(&client, &order);
        until("the action is in the cluster's queue", || counter(&pair.there, "queued") == 1);
        gate(&pair.racing, order.word()).say("local");
        check_told(&client, &running.response(), "local");
        until("the action is in the queue no more", || counter(&pair.there, "queued") == 0);
        blocked.say("blocker");
        check_told(&there, &blocking.response(), "blocker");
        assert_eq!(counter(&pair.there, "runs"), 1, "the cluster ran what it need not");
        assert_eq!(counters(&pair.here, &["races", "raced", "local wins", "remote wins"]), [1, 1, 1, 0]);
        drop((client, there));
        pair.end();
    }
}

fn local_hangs() {
    let pair = Pair::start(&[AT_ONCE], &[]);
    let client = pair.racing.client();
    let order = stubborn();
    let action = order.upload(&client);
    let running = client.execute(&action);
    let (here, there) = pair.gates(order.word());
    there.say("remote");
    let response = running.response();
    check_told(&client, &response, "remote");
    until_gone(order.word());
    drop(here);
    assert_eq!(counters(&pair.here, &["local wins", "remote wins", "remote hits"]), [0, 1, 0]);
    // It is this daemon's own now.
    let cached = client.execute(&action).response();
    assert!(cached.cached_result);
    check_told(&client, &cached, "remote");
    drop(client);
    pair.end();
}

fn remote_hangs() {
    let pair = Pair::start(&[AT_ONCE], &[]);
    let client = pair.racing.client();
    let order = stubborn();
    let running = begin(&client, &order);
    let (here, there) = pair.gates(order.word());
    here.say("local");
    check_told(&client, &running.response(), "local");
    until_gone(order.word());
    until("nothing runs there", || counters(&pair.there, &["running", "queued"]) == [0, 0]);
    drop((there, client));
    pair.end();
}

fn hits() {
    // Bazel's delay counts once there was a hit. With ours, all depends on how fast this machine is.
    let pair = Pair::start(&["--dynamic_local_execution_delay=60m"], &[]);
    let (client, there) = (pair.racing.client(), pair.cluster.client());
    for (number, started) in [(1, 1), (2, 1), (3, 1)] {
        let order = told();
        let running = begin(&there, &order);
        gate(&pair.cluster, order.word()).say("remote");
        check_told(&there, &running.response(), "remote");
        check_told(&client, &client.run(&order), "remote");
        let names = ["races", "raced", "remote wins", "remote hits"];
        assert_eq!(counters(&pair.here, &names), [number, started, number, number]);
        until_gone(order.word());
    }
    assert_eq!(counter(&pair.there, "runs"), 3);
    drop((client, there));
    pair.end();
}

fn cache_only() {
    const CACHE: &[&str] = &["--set", "remote.mode=cache"];
    let pair = Pair::start(CACHE, WRITERS);
    let third = Home::new();
    let (client, there) = (pair.racing.client(), pair.cluster.client());
    let order = told();
    let action = order.upload(&client);
    let running = client.execute(&action);
    gate(&pair.racing, order.word()).say("local");
    check_told(&client, &running.response(), "local");
    until("the cache has what ran here", || there.cached(&action).is_some());
    there.check_complete(&there.cached(&action).unwrap());
    // A miss is no failure, and a hit is one although nobody opens a gate.
    let other = start_racing(&third, &pair.there, CACHE);
    let elsewhere = other.client();
    check_told(&elsewhere, &elsewhere.run(&order), "local");
    assert_eq!(counters(&third, &["remote hits", "local wins"]), [1, 0]);
    assert_eq!(counter(&pair.there, "runs"), 0, "a cache runs nothing");
    until_gone(order.word());
    drop((client, there, elsewhere));
    other.end(&third);
    pair.end();
}

fn fills() {
    let pair = Pair::start(&[AT_ONCE], &[&["--slots", "1"], WRITERS].concat());
    let third = Home::new();
    let (client, there) = (pair.racing.client(), pair.cluster.client());
    let blocker = told();
    let blocking = begin(&there, &blocker);
    let blocked = gate(&pair.cluster, blocker.word());
    let order = told();
    let action = order.upload(&client);
    let running = client.execute(&action);
    gate(&pair.racing, order.word()).say("local");
    check_told(&client, &running.response(), "local");
    until("the cluster has what ran here", || there.cached(&action).is_some());
    let other = start_racing(&third, &pair.there, &["--exec-strategy", "remote"]);
    let elsewhere = other.client();
    check_told(&elsewhere, &elsewhere.run(&order), "local");
    assert_eq!(counters(&third, &["remote hits", "local wins"]), [1, 0]);
    blocked.say("blocker");
    blocking.response();
    assert_eq!(counter(&pair.there, "runs"), 1);
    drop((client, there, elsewhere));
    other.end(&third);
    pair.end();
}

fn leaves() {
    let pair = Pair::start(&[AT_ONCE], &[]);
    let client = pair.racing.client();
    let order = stubborn();
    let action = order.upload(&client);
    let running = client.execute(&action);
    let gates = pair.gates(order.word());
    client.cancel(&running.name).unwrap();
    assert_eq!(code(running.response().status.as_ref()), Code::Cancelled);
    until_gone(order.word());
    until("nothing runs there", || counters(&pair.there, &["running", "queued"]) == [0, 0]);
    drop(gates);
    assert_eq!(client.cached(&action), None);
    drop(client);
    pair.end();
}

fn uncached() {
    let pair = Pair::start(&[AT_ONCE], WRITERS);
    let (client, cluster) = (pair.racing.client(), pair.cluster.client());
    let order = told().uncached();
    let action = order.upload(&client);
    for line in ["first", "second"] {
        let running = client.execute(&action);
        let (here, there) = pair.gates(order.word());
        if line == "first" {
            here.say(line)
        } else {
            there.say(line)
        };
        check_told(&client, &running.response(), line);
        until_gone(order.word());
        assert_eq!((client.cached(&action), cluster.cached(&action)), (None, None));
    }
    // Who wants no result of earlier gets none of the cluster's either.
    let order = told();
    let action = order.upload(&cluster);
    let running = cluster.execute(&action);
    gate(&pair.cluster, order.word()).say("earlier");
    check_told(&cluster, &running.response(), "earlier");
    order.upload(&client);
    let running = client.try_execute(&action, true).unwrap();
    let (here, there) = pair.gates(order.word());
    there.say("fresh");
    check_told(&client, &running.response(), "fresh");
    until_gone(order.word());
    drop((here, client, cluster));
    pair.end();
}

fn one_slot() {
    let racing = ["--slots", "1", "--set", "remote.jobs=1", AT_ONCE];
    let pair = Pair::start(&racing, &["--slots", "1"]);
    let client = pair.racing.client();
    let orders: Vec<Order> = (0..6).map(|_| told()).collect();
    let running: Vec<Running> = orders.iter().map(|order| begin(&client, order)).collect();
    for (number, running) in running.into_iter().enumerate() {
        // Whichever waits, wherever.
        let mut gates = Vec::new();
        until("one of them waits", || {
            let daemons =
                if number % 2 == 0 { [&pair.racing, &pair.cluster] } else { [&pair.cluster, &pair.racing] };
            gates.extend(daemons.iter().find_map(|daemon| try_gate(daemon, orders[number].word())));
            !gates.is_empty()
        });
        gates.remove(0).say("told");
        check_told(&client, &running.response(), "told");
    }
    drop(client);
    pair.end();
}

fn unmixed() {
    let pair = Pair::start(&[AT_ONCE], &[]);
    let client = pair.racing.client();
    let script = "read mark < /proc/sys/kernel/random/uuid; mkdir d
        for name in a b d/c; do echo $mark > $name; done; echo $mark";
    let orders: Vec<Order> = (0..60).map(|_| Order::sh(script).outputs(&["a", "b", "d"])).collect();
    let running: Vec<Running> = orders.iter().map(|order| begin(&client, order)).collect();
    for running in running {
        let result = running.response().result.unwrap();
        let mark = client.stdout(&result);
        let in_tree = client.tree(&result, "d")[0].files[0].digest.clone().unwrap();
        for bytes in [client.output(&result, "a"), client.output(&result, "b"), client.read(&in_tree)] {
            assert_eq!(String::from_utf8(bytes).unwrap(), mark, "outputs of two runs");
        }
    }
    assert_eq!(counter(&pair.here, "races"), 60);
    drop(client);
    pair.end();
}

/// The loser is let run, and fails when all is over.
fn late_failure() {
    let pair = Pair::start(&[AT_ONCE, "--race=let_remote_finish=true"], &[]);
    let client = pair.racing.client();
    let order = told();
    let running = begin(&client, &order);
    let (here, there) = pair.gates(order.word());
    here.say("local");
    check_told(&client, &running.response(), "local");
    there.say("exit");
    until("the cluster has ended it", || counter(&pair.there, "running") == 0);
    until_gone(order.word());
    // Asked again, it is what it was, and nobody has kept the failure.
    check_told(&client, &begin(&client, &order).response(), "local");
    assert_eq!(counters(&pair.here, &["races", "local wins", "remote wins"]), [1, 1, 0]);
    drop(client);
    pair.end();
}
