//! Clients that go away while their action runs. What is a lost connection, `socket` tests.

use super::scene::*;
use crate::sched::SchedulerLimits;
use fulgurite_proto::reapi::execution_client::ExecutionClient;
use std::time::Duration;

const NEVER: Duration = Duration::from_secs(1 << 20);

/// A scene that cancels at once what is left, and never what is lost.
async fn scene(canceled: &Latch, go: &Latch) -> (Scene, Latch) {
    let began = Latch::default();
    let scheduler =
        SchedulerLimits { left_after: Duration::ZERO, lost_after: NEVER, ..SchedulerLimits::default() };
    let scene = Scene::tuned(holding(&began, canceled, go), |options| options.scheduler = scheduler).await;
    (scene, began)
}

#[tokio::test]
async fn a_stream_that_ends_on_a_living_connection_is_left() {
    let (canceled, go): (Latch, Latch) = Default::default();
    let (scene, began) = scene(&canceled, &go).await;
    let mut stream = scene.execute(request(&scene.action("a", |_| {}))).await.unwrap();
    next(&mut stream).await;
    began.opened(1).await;
    drop(stream);
    canceled.opened(1).await;
    scene.end().await;
}

#[tokio::test]
async fn a_stream_that_ends_with_its_connection_closed_is_left() {
    let (canceled, go): (Latch, Latch) = Default::default();
    let (scene, began) = scene(&canceled, &go).await;
    let mut client = ExecutionClient::new(connect(scene.dir.path()));
    let mut stream = client.execute(request(&scene.action("a", |_| {}))).await.unwrap().into_inner();
    next(&mut stream).await;
    began.opened(1).await;
    drop((stream, client));
    canceled.opened(1).await;
    scene.end().await;
}
