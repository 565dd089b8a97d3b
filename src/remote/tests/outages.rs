//! A remote that is not there, and comes back.

use super::*;
use liar::Listening;
use tokio::net::TcpListener;
use tonic::{Code, Status};

/// A place where connections are taken and nothing is said; refused once it is dropped.
async fn silent() -> (TcpListener, std::net::SocketAddr) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[tokio::test]
async fn an_outage_is_noticed_once_and_one_trial_ends_it() {
    let (listener, address) = silent().await;
    drop(listener);
    let mut options = options(&address.to_string());
    options.breaker.failures_in_a_row = 3;
    // Long enough for a hundred refusals.
    options.breaker.recovery_delay = Duration::from_secs(3);
    let cluster = Cluster::new(options).unwrap();
    let action = digest(b"action");
    let (mut failed, mut refused) = (0, 0);
    for _ in 0..100 {
        match soon(cluster.action_result(&action)).await {
            Err(ClusterError::BreakerOpen { .. }) => refused += 1,
            Err(error) if error.is_outage() => failed += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(cluster.is_taken_to_be_gone());
    assert!(failed <= 3, "{failed} failures");
    assert!(refused >= 97);
    // It comes back.
    let dir = tempfile::tempdir().unwrap();
    let cas = open_cas(dir.path());
    let server = Listening::at(Listening::start().liar.clone(), address, None);
    server.liar.hang("GetActionResult");
    // The trial hangs: meanwhile all others are refused, and nobody else asks.
    let trial = {
        let cluster = cluster.clone();
        tokio::spawn(async move {
            while let Err(ClusterError::BreakerOpen { retry_in, .. }) = cluster.action_result(&action).await {
                let _ = tokio::time::timeout(retry_in, std::future::pending::<()>()).await;
            }
        })
    };
    server.liar.until(|state| state.calls.contains_key("GetActionResult")).await;
    for _ in 0..20 {
        let ended = cluster.action_result(&action).await;
        assert!(matches!(ended, Err(ClusterError::BreakerOpen { .. })), "{ended:?}");
    }
    assert_eq!(server.liar.calls("GetActionResult"), 1, "one trial");
    // Its caller gives up: the next may try at once.
    trial.abort();
    assert!(trial.await.is_err());
    server.liar.lie(|lies| lies.hang.clear());
    soon(cluster.action_result(&action)).await.unwrap();
    assert!(!cluster.is_taken_to_be_gone());
    for _ in 0..20 {
        soon(cluster.action_result(&action)).await.unwrap();
    }
    let blob = server.liar.put(b"blob");
    soon(cluster.download(&cas, &[blob])).await.unwrap();
}

#[tokio::test]
async fn many_who_wait_for_a_remote_that_is_silent_wait_together() {
    // It takes connections and says nothing: all wait for the same deadline, and none for a second one.
    let (listener, address) = silent().await;
    let mut options = options(&address.to_string());
    options.breaker.failures_in_a_row = 3;
    options.breaker.recovery_delay = PATIENCE;
    options.call_within = SOON;
    let cluster = Cluster::new(options).unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let cluster = cluster.clone();
        tasks.spawn(async move { cluster.action_result(&digest(b"action")).await });
    }
    while let Some(ended) = soon(tasks.join_next()).await {
        let error = ended.unwrap().unwrap_err();
        assert!(error.is_outage(), "{error}");
    }
    assert!(cluster.is_taken_to_be_gone());
    drop(listener);
}

#[tokio::test]
async fn who_waits_when_it_is_noticed_waits_no_longer() {
    // The deadline is far away: only that three others failed ends the wait.
    let scene = Scene::with(|options| {
        options.breaker.failures_in_a_row = 3;
        options.breaker.recovery_delay = PATIENCE;
        options.retry.tries_max = 1;
        options.call_within = 100 * PATIENCE;
    })
    .await;
    scene.liar().lie(|lies| {
        lies.hang.insert("GetActionResult");
        lies.fail.insert("FindMissingBlobs", vec![Status::unavailable("gone"); 3].into());
    });
    let waiting = {
        let cluster = scene.cluster.clone();
        tokio::spawn(async move { cluster.action_result(&digest(b"action")).await })
    };
    scene.liar().until(|state| state.calls.contains_key("GetActionResult")).await;
    for _ in 0..3 {
        soon(scene.cluster.find_missing(&[digest(b"x")])).await.unwrap_err();
    }
    let ended = soon(waiting).await.unwrap();
    assert!(matches!(ended, Err(ClusterError::BreakerOpen { .. })), "{ended:?}");
}

#[tokio::test]
async fn calls_are_made_again_and_not_for_ever() {
    let scene = Scene::new().await;
    let fail = |count: usize, status: Status| {
        scene.liar().lie(|lies| drop(lies.fail.insert("GetActionResult", vec![status; count].into())));
    };
    let tries = || scene.liar().calls("GetActionResult");
    fail(4, Status::unavailable("busy"));
    assert!(soon(scene.cluster.action_result(&digest(b"a"))).await.unwrap().is_none());
    assert_eq!(tries(), 5);
    fail(5, Status::unavailable("busy"));
    let error = soon(scene.cluster.action_result(&digest(b"a"))).await.unwrap_err();
    assert!(matches!(error, ClusterError::Status { code: Code::Unavailable, .. }), "{error}");
    assert_eq!(tries(), 10);
    fail(1, Status::permission_denied("no"));
    let error = soon(scene.cluster.action_result(&digest(b"a"))).await.unwrap_err();
    assert!(matches!(error, ClusterError::Status { code: Code::PermissionDenied, .. }), "{error}");
    assert_eq!(tries(), 11);
    // As long as the server wants, but no longer than we allow.
    fail(2, executions::retry_info(Code::ResourceExhausted, Duration::from_millis(20)));
    assert!(soon(scene.cluster.action_result(&digest(b"a"))).await.unwrap().is_none());
    assert_eq!(tries(), 14);
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_an_outage() {
    let scene = Scene::with(|options| {
        options.call_within = SOON;
        options.breaker.failures_in_a_row = 2;
    })
    .await;
    scene.liar().hang("GetActionResult");
    for _ in 0..3 {
        let error = soon(scene.cluster.action_result(&digest(b"a"))).await.unwrap_err();
        assert!(error.is_outage(), "{error}");
    }
    assert_eq!(scene.liar().calls("GetActionResult"), 2);
}

#[tokio::test]
async fn addresses_that_are_none() {
    for address in ["ftp://x", "grpc://", "grpc://a b", "unix", "grpcs://host:x"] {
        match Cluster::new(options(address)) {
            Err(ClusterError::Options { .. }) => {}
            Err(error) => panic!("{address}: {error}"),
            Ok(cluster) => {
                let error = soon(cluster.action_result(&digest(b"a"))).await.unwrap_err();
                assert!(error.is_outage(), "{address}: {error}");
            }
        }
    }
}

/// An address where connections are neither taken nor refused, as behind a firewall that drops them. Keep both.
fn black_hole() -> (rustix::fd::OwnedFd, Vec<std::net::TcpStream>, std::net::SocketAddr) {
    use rustix::net::{AddressFamily, SocketType};
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &std::net::SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    rustix::net::listen(&socket, 0).unwrap();
    let address = std::net::SocketAddr::try_from(rustix::net::getsockname(&socket).unwrap()).unwrap();
    // Once the queue is full, the kernel drops who else comes.
    let mut queued = Vec::new();
    while let Ok(stream) = std::net::TcpStream::connect_timeout(&address, SOON) {
        queued.push(stream);
    }
    (socket, queued, address)
}

#[tokio::test]
async fn a_black_hole_costs_one_connect_timeout_in_all() {
    let hole = black_hole();
    let mut options = options(&hole.2.to_string());
    options.connect_within = SOON;
    options.breaker.failures_in_a_row = 100;
    options.breaker.recovery_delay = PATIENCE;
    let cluster = Cluster::new(options).unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let cluster = cluster.clone();
        tasks.spawn(async move { cluster.action_result(&digest(b"action")).await });
    }
    let mut waited = 0;
    while let Some(ended) = soon(tasks.join_next()).await {
        match ended.unwrap().unwrap_err() {
            ClusterError::BreakerOpen { .. } => {}
            error => {
                assert!(error.is_outage(), "{error}");
                waited += 1;
            }
        }
    }
    // Whoever shares the connection shares its end, and nobody tries again.
    assert!(cluster.is_taken_to_be_gone(), "{waited} waited");
    let later = soon(cluster.action_result(&digest(b"action"))).await.unwrap_err();
    assert!(matches!(later, ClusterError::BreakerOpen { .. }), "{later}");
}
