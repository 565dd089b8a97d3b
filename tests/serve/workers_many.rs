//! Many workers, many callers, and everything goes wrong now and then: each caller gets one answer, the right one, and
//! nothing is left.
//!
//! Faults are drawn from a seed, which is printed; `FULGURITE_IT_SEED` asks for one again. FULGURITE_IT_HEAVY=1: 100
//! workers and 10,000 requests in place of 8 and 300.
//!
//! ```text
//!   draw ─ Plain, Leave ─► its own input comes back, by a worker that saw no other's
//!     ├─── Refuse ───────► the exit code that it asked for
//!     ├─── Crash, Junk ──► once more on a fresh worker, and then an end that says what the worker did
//!     ├─── Mortal ───────► the worker dies at its second request: as Plain, as the next worker's first
//!     ├─── Hang ─────────► DEADLINE_EXCEEDED
//!     └─── Cancel ───────► CANCELLED, or the right answer where that was faster
//! ```
//! In multiplex, whoever is in flight beside a worker's end is sent once more, and may end as the crash of others the
//! second time: such ends are counted, and allowed there alone.

use crate::Alone;
use crate::action::Order;
use crate::client::{Client, code, named};
use crate::daemon::{Home, PATIENCE, pids_with};
use fulgurite_proto::{reapi, v1};
use fulgurite_sandbox::testing::settles;
use prost::Message;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};
use tonic::Code;

pub const ALONE: &[Alone] = &[("workers_many::every_caller_gets_one_right_answer", every_caller)];

/// What a worker's crash looks like to a caller.
const CRASHED: i32 = 134;

/// Connections and idle sandboxes come and go; what leaks does so with every request, or with every tenth.
const DESCRIPTORS_SLACK: usize = 32;
/// Of one sandbox that waits: its init's, its sockets.
const DESCRIPTORS_OF_SANDBOX: usize = 6;

/// How much of everything.
struct Scale {
    workers: u64,
    requests: u64,
    callers: u64,
}

impl Scale {
    fn asked() -> Scale {
        if std::env::var_os("FULGURITE_IT_HEAVY").is_some() {
            return Scale { workers: 100, requests: 10_000, callers: 150 };
        }
        Scale { workers: 8, requests: 300, callers: 16 }
    }
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Plain,
    Leave,
    Refuse,
    Crash,
    Junk,
    Mortal,
    Hang,
    Cancel,
}

/// A splittable sequence of numbers: the same seed and request, the same numbers, whoever draws first.
struct Dice(u64);

impl Dice {
    fn of(seed: u64, request: u64) -> Dice {
        let mut dice = Dice(seed ^ request.wrapping_mul(0xd134_2543_de82_ef95));
        dice.next();
        dice
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }

    fn fate(&mut self) -> Fate {
        match self.below(100) {
            0..64 => Fate::Plain,
            64..68 => Fate::Leave,
            68..74 => Fate::Refuse,
            74..79 => Fate::Crash,
            79..83 => Fate::Junk,
            83..89 => Fate::Mortal,
            89..94 => Fate::Hang,
            _ => Fate::Cancel,
        }
    }
}

/// One request, with what is to come of it.
struct Case {
    order: Order,
    fate: Fate,
    multiplex: bool,
    name: String,
    content: String,
}

impl Case {
    fn new(seed: u64, number: u64, tag: &str, worker: &reapi::Digest) -> Case {
        let mut dice = Dice::of(seed, number);
        let (fate, wire, kind) = (dice.fate(), dice.pick(&["proto", "json"]), dice.below(3));
        let multiplex = kind == 2;
        let (name, content) = (format!("in{number}"), format!("{seed} {number}"));
        let (protocol, tag) = (format!("--protocol={wire}"), format!("--tag={tag}"));
        let mut startup = vec!["tools/worker".to_owned(), protocol, tag, format!("--kind={kind}")];
        if multiplex {
            startup.push("--multiplex".to_owned());
        }
        let mut orders = vec!["--list=.".to_owned(), format!("--read={name}"), format!("--copy={name}=out")];
        match fate {
            Fate::Plain | Fate::Leave => {}
            Fate::Refuse => orders.push(format!("--exit-code={}", 2 + number % 7)),
            Fate::Crash => orders.push(dice.pick(&["--fault=exit", "--fault=signal:9"]).to_owned()),
            Fate::Junk => orders.push(
                dice.pick(&["--fault=junk", "--fault=unknown-id", "--fault=truncated", "--fault=hex-junk"])
                    .to_owned(),
            ),
            Fate::Mortal => startup.push("--fault=exit@2".to_owned()),
            Fate::Hang => {
                // In multiplex only the one request: whoever shares a stopped process waits as long as itself may.
                let faults: &[&str] = if multiplex {
                    &["--fault=hang"]
                } else {
                    &["--fault=hang", "--fault=stop", "--fault=half"]
                };
                orders.push(dice.pick(faults).to_owned());
            }
            Fate::Cancel => {
                orders.insert(
                    0,
                    dice.pick(&["--sleep-ms=200", "--sleep-ms=2000", "--sleep-ms=60000"]).to_owned(),
                );
            }
        }
        startup.push("@flags".to_owned());
        let arguments: Vec<&str> = startup.iter().map(String::as_str).collect();
        let mut order = Order::of(&arguments).uncached().outputs(&["out"]);
        order = order.property("persistentWorkerProtocol", wire);
        order = match multiplex {
            true => order
                .property("supports-multiplex-workers", "1")
                .property("supports-multiplex-sandboxing", "1"),
            false => order.property("persistentWorkerKey", "many"),
        };
        if dice.below(2) == 0 {
            order = order.property("supports-worker-cancellation", "1");
        }
        if fate == Fate::Hang {
            order = order.timeout(1);
        }
        order.inputs.add_known("tools/worker", worker, true);
        let order = order.input("flags", orders.join("\n").as_bytes()).input(&name, content.as_bytes());
        Case { order, fate, multiplex, name, content }
    }

    /// Has it run; gives what came of it in a word.
    fn play(&self, client: &Client) -> &'static str {
        let digest = self.order.upload(client);
        let mut running = client.execute(&digest);
        match self.fate {
            Fate::Leave => {
                let name = running.name.clone();
                drop(running);
                running = client.watch(&name).unwrap();
            }
            // Of a busy server the end may be the first that is heard.
            Fate::Cancel if running.is_executing() => {
                client.cancel(&running.name.clone()).unwrap();
            }
            _ => {}
        }
        self.judge(client, &running.only_response())
    }

    fn judge(&self, client: &Client, response: &reapi::ExecuteResponse) -> &'static str {
        let result = response.result.clone().unwrap_or_default();
        let end = (code(response.status.as_ref()), result.exit_code);
        let can_crash = self.multiplex || matches!(self.fate, Fate::Crash | Fate::Junk);
        match (self.fate, end) {
            (Fate::Hang, (Code::DeadlineExceeded, _)) => "timed out",
            (Fate::Cancel, (Code::Cancelled, _)) => "canceled",
            (Fate::Plain | Fate::Leave | Fate::Mortal | Fate::Cancel, (Code::Ok, 0)) => {
                self.check_right(client, &result);
                "right"
            }
            (Fate::Refuse, (Code::Ok, exit_code)) if exit_code == self.refusal() => {
                self.check_right(client, &result);
                "refused"
            }
            (_, (Code::Ok, CRASHED)) if can_crash => {
                let said = client.stderr(&result);
                assert!(said.contains("Worker process"), "{:?}: {said}", self.fate);
                if self.fate == Fate::Crash || self.fate == Fate::Junk { "crashed" } else { "crashed beside" }
            }
            (fate, end) => {
                panic!("{} {fate:?} ends {end:?}: {response:?} {}", self.name, client.stderr(&result))
            }
        }
    }

    fn refusal(&self) -> i32 {
        let number: i32 = self.name["in".len()..].parse().unwrap();
        2 + number % 7
    }

    /// The bytes of its own input, made by a worker that saw its inputs and no others.
    fn check_right(&self, client: &Client, result: &reapi::ActionResult) {
        assert_eq!(client.output(result, "out"), self.content.as_bytes());
        let metadata = result.execution_metadata.as_ref().unwrap();
        let ours = metadata.auxiliary_metadata.iter().find(|any| any.type_url.ends_with("ExecutionDetails"));
        let details = v1::ExecutionDetails::decode(ours.unwrap().value.as_slice()).unwrap();
        assert!(details.persistent_worker.is_some(), "{}: {}", self.name, details.one_shot_because);
        let text = client.stderr(result);
        let report: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        assert_eq!(report["reads"][&self.name]["text"], self.content, "{report}");
        let listed: Vec<&str> =
            report["lists"]["."].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        let of_requests: Vec<&&str> = listed.iter().filter(|path| path.starts_with("in")).collect();
        assert_eq!(of_requests, [&self.name.as_str()], "{report}");
    }
}

/// What a daemon holds when it has nothing to do.
#[derive(Debug)]
struct Held {
    /// Sandboxes that it ever needed at a time: their control groups are kept.
    sandboxes: usize,
    /// By what they are; those of control groups are left out.
    descriptors: BTreeMap<String, usize>,
    resident_kib: u64,
}

impl Held {
    /// Of a daemon, once no worker with this tag is alive, and all of their views are taken apart.
    fn at_rest(home: &Home, pid: u32, tag: &str) -> Held {
        let mut left = Vec::new();
        let rests = settles(PATIENCE, || {
            left = pids_with(tag);
            left.is_empty()
        });
        assert!(rests, "workers stay: {left:?}");
        let mut layers = 0;
        let is_clean = settles(PATIENCE, || {
            layers = std::fs::read_dir(home.state().join("layers")).unwrap().count();
            layers == 0
        });
        assert!(is_clean, "{layers} layers stay");
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let resident_kib = resident.trim().trim_end_matches(" kB").parse().unwrap();
        let mut held = Held { sandboxes: 0, descriptors: BTreeMap::new(), resident_kib };
        for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
            // One that has been closed since is none.
            let Ok(target) = std::fs::read_link(entry.path()) else { continue };
            let target = target.to_string_lossy().into_owned();
            if target.starts_with("/sys/fs/cgroup/") {
                held.sandboxes += usize::from(target.ends_with("/action/cgroup.kill"));
                continue;
            }
            let kind = match target.strip_prefix('/') {
                Some(path) => shape(path),
                None => target.split(":[").next().unwrap().to_owned(),
            };
            *held.descriptors.entry(kind).or_default() += 1;
        }
        held
    }

    /// Whether what is held now is no more than what was held then, but for what more sandboxes need.
    fn is_flat_since(&self, then: &Held) -> bool {
        let count = |held: &Held| held.descriptors.values().sum::<usize>();
        let more_sandboxes = self.sandboxes.saturating_sub(then.sandboxes);
        count(self) <= count(then) + DESCRIPTORS_SLACK + more_sandboxes * DESCRIPTORS_OF_SANDBOX
    }
}

/// A path without what makes it unlike others of its kind: names with a digit in them.
fn shape(path: &str) -> String {
    let is_unlike = |name: &&str| name.contains(|one: char| one.is_ascii_digit());
    let names = path.split('/').map(|name| Some(name).filter(|name| !is_unlike(name)).unwrap_or("#"));
    format!("/{}", names.collect::<Vec<_>>().join("/"))
}

/// A number of requests, from many callers at a time; how many ended how.
fn play(
    client: &Client,
    (seed, tag): (u64, &str),
    numbers: std::ops::Range<u64>,
    callers: u64,
    worker: &reapi::Digest,
) -> BTreeMap<&'static str, u64> {
    let (next, ends) = (AtomicU64::new(numbers.start), Mutex::new(BTreeMap::new()));
    std::thread::scope(|scope| {
        for _ in 0..callers {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= numbers.end {
                        return;
                    }
                    let end = Case::new(seed, number, tag, worker).play(client);
                    *ends.lock().unwrap().entry(end).or_default() += 1;
                }
            });
        }
    });
    ends.into_inner().unwrap()
}

fn seed() -> u64 {
    let asked = std::env::var("FULGURITE_IT_SEED").ok().map(|text| text.parse().unwrap());
    asked.unwrap_or_else(|| u64::from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos()))
}

fn every_caller() {
    let Some(path) = option_env!("CARGO_BIN_EXE_fulgurite-fake-worker") else {
        return println!("SKIP workers_many: built without --features test-fakes");
    };
    let (scale, seed) = (Scale::asked(), seed());
    println!(
        "workers_many: FULGURITE_IT_SEED={seed}, {} workers, {} requests",
        scale.workers, scale.requests
    );
    let home = Home::new();
    let count = |name: &str| format!("worker.{name}={}", scale.workers);
    let settings = [
        count("workers_max"),
        count("per_mnemonic_max"),
        format!("worker.per_key_max={}", scale.workers.div_ceil(4)),
        // What nobody waits for is given up soon, and whoever has nothing to do ends.
        "worker.finish_max=500ms".to_owned(),
        "worker.cancel_grace=500ms".to_owned(),
        "worker.idle_max=2s".to_owned(),
    ];
    let slots = scale.workers.to_string();
    let mut arguments = vec!["--slots", &slots];
    settings.iter().for_each(|setting| arguments.extend(["--set", setting]));
    let daemon = home.start(&arguments);
    let client = daemon.client();
    let bytes = std::fs::read(path).unwrap();
    client.put_large(&bytes);
    let (worker, tag) = (named(&bytes), format!("many-{}-{seed}", std::process::id()));
    let half = scale.requests / 2;
    let halves = [0..half, half..scale.requests].map(|numbers| {
        let asked = numbers.end - numbers.start;
        let ends = play(&client, (seed, &tag), numbers, scale.callers, &worker);
        let held = Held::at_rest(&home, daemon.pid(), &tag);
        println!("workers_many: {ends:?}; at rest {held:?}");
        assert_eq!(ends.values().sum::<u64>(), asked, "one answer each");
        (ends, held)
    });
    let seen: BTreeSet<&str> = halves.iter().flat_map(|(ends, _)| ends.keys().copied()).collect();
    for end in ["right", "refused", "crashed", "timed out", "canceled"] {
        assert!(seen.contains(end), "nothing was {end}: the dice are loaded");
    }
    let [(_, first), (_, second)] = halves;
    assert!(second.is_flat_since(&first), "{first:?} {second:?}");
    if std::env::var_os("FULGURITE_IT_HEAVY").is_some() {
        assert!(second.resident_kib <= first.resident_kib * 3 / 2 + (32 << 10), "{first:?} {second:?}");
    }
    drop(client);
    daemon.end(&home);
}
