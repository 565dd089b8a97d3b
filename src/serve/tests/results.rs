//! The action cache: who writes it, and that what is served is whole.

use super::scene::*;
use crate::action::Digest;
use crate::action::encode::digest as wire;
use crate::serve::Results;
use fulgurite_proto::reapi;
use prost::Message;
use tonic::Code;

fn get(action: &Digest) -> reapi::GetActionResultRequest {
    reapi::GetActionResultRequest { action_digest: Some(wire(action)), ..Default::default() }
}

fn update(action: &Digest, result: &reapi::ActionResult) -> reapi::UpdateActionResultRequest {
    reapi::UpdateActionResultRequest {
        action_digest: Some(wire(action)),
        action_result: Some(result.clone()),
        ..Default::default()
    }
}

fn with_file(digest: &Digest) -> reapi::ActionResult {
    let file = reapi::OutputFile { path: "out".to_owned(), digest: Some(wire(digest)), ..Default::default() };
    reapi::ActionResult { output_files: vec![file], ..Default::default() }
}

#[tokio::test]
async fn g18_clients_do_not_write_where_the_executor_does() {
    let scene = Scene::new().await;
    let action = scene.action("a", |_| {});
    let result = with_file(&scene.put(b"x"));
    let status = scene.action_cache().update_action_result(update(&action, &result)).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert_eq!(
        scene.action_cache().get_action_result(get(&action)).await.unwrap_err().code(),
        Code::NotFound
    );
    scene.end().await;
}

#[tokio::test]
async fn clients_write_where_they_may_and_read_again() {
    let scene = Scene::cache().await;
    let action = scene.action("a", |_| {});
    let result = with_file(&scene.put(b"x"));
    scene.action_cache().update_action_result(update(&action, &result)).await.unwrap();
    let got = scene.action_cache().get_action_result(get(&action)).await.unwrap().into_inner();
    assert_eq!(got, result);
    let inline =
        reapi::GetActionResultRequest { inline_output_files: vec!["out".to_owned()], ..get(&action) };
    let got = scene.action_cache().get_action_result(inline).await.unwrap().into_inner();
    assert_eq!(&got.output_files[0].contents[..], b"x");
    // A cache executes nothing.
    let status = scene.execute(request(&action)).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    scene.end().await;
}

#[tokio::test]
async fn g18_results_need_their_action_their_command_and_their_blobs() {
    let scene = Scene::cache().await;
    let nowhere = Digest::of(SHA, b"nowhere");
    let action = scene.action("a", |_| {});
    let commandless = scene.action("a", |action| action.command_digest = Some(wire(&nowhere)));
    let tree = reapi::Tree {
        root: Some(reapi::Directory {
            files: vec![reapi::FileNode {
                name: "f".to_owned(),
                digest: Some(wire(&nowhere)),
                ..Default::default()
            }],
            ..Default::default()
        }),
        ..Default::default()
    };
    let tree = scene.put(&tree.encode_to_vec());
    let directory =
        reapi::OutputDirectory { path: "d".to_owned(), tree_digest: Some(wire(&tree)), ..Default::default() };
    let with_tree = reapi::ActionResult { output_directories: vec![directory], ..Default::default() };
    let good = with_file(&scene.put(b"x"));
    for (action, result) in
        [(&nowhere, &good), (&commandless, &good), (&action, &with_file(&nowhere)), (&action, &with_tree)]
    {
        let status = scene.action_cache().update_action_result(update(action, result)).await.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert_eq!(missing_in(&details(&status)), [format!("blobs/{nowhere}")]);
    }
    scene.end().await;
}

#[tokio::test]
async fn entries_whose_blobs_are_gone_are_not_served() {
    let scene = Scene::new().await;
    let action = scene.action("a", |_| {});
    let gone = with_file(&Digest::of(SHA, b"gone"));
    scene.results.put("", &action, gone.encode_to_vec().into()).unwrap();
    assert_eq!(
        scene.action_cache().get_action_result(get(&action)).await.unwrap_err().code(),
        Code::NotFound
    );
    // Nor does Execute answer with one, nor with what is no entry at all.
    assert!(!scene.run(&action).await.cached_result);
    scene.results.put("", &action, bytes::Bytes::from_static(b"\xff\xff")).unwrap();
    assert!(!scene.run(&action).await.cached_result);
    assert!(scene.run(&action).await.cached_result);
    scene.end().await;
}

#[tokio::test]
async fn a_cached_failure_does_not_keep_an_action_from_running() {
    let scene = Scene::new().await;
    let action = scene.action("a", |_| {});
    let failed = reapi::ActionResult { exit_code: 1, ..Default::default() };
    scene.results.put("", &action, failed.encode_to_vec().into()).unwrap();
    let response = scene.run(&action).await;
    assert_eq!((response.cached_result, response.result.unwrap().exit_code), (false, 0));
    scene.end().await;
}
