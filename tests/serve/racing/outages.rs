//! Clusters that are not there, go, and come back.

use super::{
    AT_ONCE, Pair, begin, check_told, counter, counters, gate, start_racing, stubborn, told, try_gate,
};
use super::{until, until_gone};
use crate::Alone;
use crate::action::Order;
use crate::client::code;
use crate::daemon::{Home, pids_with};
use crate::starting::check;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use tonic::Code;

pub const ALONE: &[Alone] = &[
    ("racing::a_cluster_that_is_not_there_is_noticed_once", noticed_once),
    ("racing::a_cluster_that_comes_back_is_used_again", comes_back),
    ("racing::d11_a_cluster_that_dies_in_the_middle", dies),
    ("racing::fallback_to_local_when_the_cluster_dies", falls_back),
    ("racing::a_cluster_that_lost_its_store", lost_its_store),
    ("racing::remote_alone_says_that_it_is_not_there", remote_alone),
    ("racing::d09_the_racing_daemon_dies_in_the_middle", racing_dies),
    ("racing::mistakes_in_a_line", mistakes),
];

/// Takes connections, and closes them; counts them.
struct Refuser {
    address: String,
    taken: Arc<AtomicU32>,
    over: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Refuser {
    fn start() -> Refuser {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (taken, over) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, is_over) = (taken.clone(), over.clone());
        let thread = std::thread::spawn(move || {
            while let (Ok(_), false) = (listener.accept(), is_over.load(Ordering::SeqCst)) {
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        Refuser { address, taken, over, thread: Some(thread) }
    }

    fn end(mut self) -> u32 {
        self.over.store(true, Ordering::SeqCst);
        drop(std::net::TcpStream::connect(&self.address));
        self.thread.take().unwrap().join().unwrap();
        self.taken.load(Ordering::SeqCst)
    }
}

fn noticed_once() {
    const ACTIONS: u64 = 50;
    // Trials come ever more rarely: this is many minutes of them.
    const CONNECTIONS_MAX: u32 = 20;
    let nowhere = Home::new();
    let missing = format!("unix:{}", nowhere.path("socket").display());
    for is_there in [false, true] {
        for delay in [AT_ONCE, "--dynamic_local_execution_delay=auto"] {
            let (home, refuser) = (Home::new(), Refuser::start());
            let address = if is_there { &refuser.address } else { &missing };
            let daemon = home.start(&["--remote", address, delay]);
            let client = daemon.client();
            for _ in 0..ACTIONS {
                assert_eq!(client.stdout(&client.succeed(&Order::sh("echo here"))), "here\n");
            }
            assert_eq!(counters(&home, &["local wins", "remote wins"]), [ACTIONS, 0]);
            let said = home.said();
            let is_notice = |line: &&str| line.contains(" WARN ") && line.contains("taken to be gone");
            let noticed = said.lines().filter(is_notice).count();
            assert!((1..=CONNECTIONS_MAX as usize).contains(&noticed), "{noticed} times: {said}");
            drop(client);
            daemon.end(&home);
            let taken = refuser.end();
            assert!(taken <= CONNECTIONS_MAX, "{taken} connections for {ACTIONS} actions, {delay}: {said}");
        }
    }
}

fn comes_back() {
    let (here, there) = (Home::new(), Home::new());
    // Without uploads, which would find it out as well.
    let options = [AT_ONCE, "--set", "remote.upload_local_results=false", "--log", "info"];
    let racing = start_racing(&here, &there, &options);
    let client = racing.client();
    let one = || drop(client.succeed(&Order::sh("echo here")));
    until("it is taken to be gone", || {
        one();
        here.said().contains("taken to be gone")
    });
    let cluster = there.start(&[]);
    until("it is found again", || {
        one();
        here.said().contains("the remote is there again")
    });
    let order = told();
    let running = begin(&client, &order);
    gate(&cluster, order.word()).say("remote");
    check_told(&client, &running.response(), "remote");
    until_gone(order.word());
    drop(client);
    racing.end(&here);
    cluster.end(&there);
}

fn dies() {
    let Pair { here, there, racing, cluster } = Pair::start(&[AT_ONCE], &[]);
    let client = racing.client();
    let order = stubborn();
    let action = order.upload(&client);
    let running = client.execute(&action);
    let (held, lost) = (gate(&racing, order.word()), gate(&cluster, order.word()));
    let dead = cluster.pid();
    cluster.kill();
    drop(lost);
    let cluster = there.start(&[]);
    assert_ne!(dead, cluster.pid());
    held.say("local");
    check_told(&client, &running.response(), "local");
    until_gone(order.word());
    until("nothing runs there", || counters(&there, &["running", "queued"]) == [0, 0]);
    assert_eq!(counters(&here, &["local wins", "remote wins"]), [1, 0]);
    assert_eq!(client.stdout(&client.succeed(&Order::sh("echo next"))), "next\n");
    drop(client);
    racing.end(&here);
    cluster.end(&there);
}

fn falls_back() {
    let strategy = ["--exec-strategy", "remote_local_fallback"];
    let Pair { here, there, racing, cluster } = Pair::start(&strategy, &[]);
    let client = racing.client();
    let order = stubborn();
    let running = begin(&client, &order);
    let lost = gate(&cluster, order.word());
    cluster.kill();
    drop(lost);
    let cluster = there.start(&[]);
    // It is begun again there, if that comes back soon enough, and else here.
    let mut held = None;
    until("it waits somewhere", || {
        held = try_gate(&racing, order.word()).or_else(|| try_gate(&cluster, order.word()));
        held.is_some()
    });
    held.unwrap().say("somewhere");
    check_told(&client, &running.response(), "somewhere");
    until_gone(order.word());
    drop(client);
    racing.end(&here);
    cluster.end(&there);
}

fn lost_its_store() {
    let Pair { here, there, racing, cluster } = Pair::start(&["--exec-strategy", "remote"], &[]);
    let client = racing.client();
    let order = |number: u8| Order::sh(&format!("cat in; echo {number}")).input("in", b"the same\n");
    assert_eq!(client.stdout(&client.succeed(&order(1))), "the same\n1\n");
    cluster.kill();
    std::fs::remove_dir_all(there.state().join("store")).unwrap();
    let cluster = there.start(&[]);
    // What it had is believed to be there; that it is not is no failure.
    let mut number = 1;
    until("the line is there again", || {
        number += 1;
        let response = client.run(&order(number));
        match code(response.status.as_ref()) {
            Code::Ok => {
                let said = client.stdout(&response.result.unwrap());
                assert_eq!(said, format!("the same\n{number}\n"));
                true
            }
            Code::Unavailable => false,
            _ => panic!("{response:?}"),
        }
    });
    drop(client);
    racing.end(&here);
    cluster.end(&there);
}

fn remote_alone() {
    let (here, nowhere) = (Home::new(), Home::new());
    let racing = start_racing(&here, &nowhere, &["--exec-strategy", "remote"]);
    let client = racing.client();
    for _ in 0..4 {
        let status = client.run(&Order::sh("echo never")).status.unwrap();
        assert_eq!(Code::from_i32(status.code), Code::Unavailable, "{status:?}");
        let is_clear = status.message.contains("remote") && !status.message.ends_with(' ');
        assert!(is_clear, "{status:?}");
    }
    assert_eq!(counters(&here, &["local wins", "remote wins", "raced"]), [0, 0, 0]);
    drop(client);
    racing.end(&here);
}

fn racing_dies() {
    let Pair { here, there, racing, cluster } = Pair::start(&[AT_ONCE], &[]);
    let client = racing.client();
    let order = stubborn();
    let running = begin(&client, &order);
    let gates = (gate(&racing, order.word()), gate(&cluster, order.word()));
    racing.kill();
    running.try_response().unwrap_err();
    drop(client);
    until_gone(order.word());
    until("nothing runs there", || counters(&there, &["running", "queued"]) == [0, 0]);
    drop(gates);
    here.check_blobs();
    let racing = start_racing(&here, &there, &[AT_ONCE]);
    let client = racing.client();
    let running = begin(&client, &order);
    let (held, free) = (gate(&racing, order.word()), gate(&cluster, order.word()));
    free.say("remote");
    check_told(&client, &running.response(), "remote");
    until_gone(order.word());
    assert_eq!(pids_with(order.word()), Vec::<u32>::new());
    assert_eq!(counter(&here, "remote wins"), 1);
    drop((held, client));
    racing.end(&here);
    cluster.end(&there);
}

fn mistakes() {
    let home = Home::new();
    let socket = home.path("socket").display().to_string();
    let token = home.path("token").display().to_string();
    std::fs::write(&token, "secret\n").unwrap();
    let readable = format!("remote.token_file={token}");
    let with =
        |more: &[&str], parts: &[&str]| check(&home, &[&["--unix", &socket][..], more].concat(), parts);
    with(&["--remote", "ftp://there"], &["ftp", "grpcs"]);
    for address in ["grpc://there:port", "grpc://", "there:0", "grpcs://:443", "unix:", "unix://"] {
        with(&["--remote", address], &["cannot use the remote", address, "unix:/path"]);
    }
    with(&["--exec-strategy", "fast"], &["fast", "remote_local_fallback"]);
    with(&["--dynamic_local_execution_delay=soon"], &["local_execution_delay", "soon", "milliseconds"]);
    with(&["--experimental_dynamic_local_load_factor=2"], &["local_load_factor", "0 to 1"]);
    with(&["--experimental_dynamic_ignore_local_signals=9,99"], &["No such signal 99"]);
    with(&["--dynamic_local_strategy=dynamic"], &["dynamic"]);
    with(&["--dynamic_remote_strategy=Javac=worker"], &["worker", "remote"]);
    with(&["--race", "nonsense"], &["nonsense", "NAME=VALUE"]);
    with(&["--race", "speed=1"], &["speed"]);
    with(&["--race", "low_pass=perhaps"], &["low_pass", "perhaps", "true or false"]);
    with(&["--race", "low_pass==true"], &["low_pass", "mnemonic"]);
    with(&["--set", "remote.mode=both"], &["remote.mode", "cache"]);
    with(
        &["--remote", "unix:/nowhere", "--set", "remote.headers=[\"plain\"]"],
        &["remote.headers", "NAME=VALUE"],
    );
    with(&["--remote", "unix:/nowhere", "--set", &readable], &["token", "others can read it", "chmod"]);
    let daemon = home.start(&["--remote", "unix:/nowhere", "--dynamic_local_execution_delay=Javac=2s"]);
    daemon.end(&home);
}
