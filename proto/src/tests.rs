//! The messages against bytes written by hand from the protocols' field numbers.

use std::fmt::Debug;

use prost::Message;

use crate::{bazel, buck2, v1};

/// A message is these bytes, and these bytes are the message.
fn check<M: Message + Default + PartialEq + Debug>(message: &M, bytes: &[u8]) {
    assert_eq!(message.encode_to_vec(), bytes);
    assert_eq!(&M::decode(bytes).unwrap(), message);
}

/// The same, with the length in front.
fn check_delimited<M: Message + Default + PartialEq + Debug>(message: &M, bytes: &[u8]) {
    assert_eq!(message.encode_length_delimited_to_vec(), bytes);
    assert_eq!(&M::decode_length_delimited(bytes).unwrap(), message);
}

#[test]
fn work_request_has_every_field_at_its_number() {
    let request = bazel::WorkRequest {
        arguments: vec!["-d".into(), "x".into()],
        inputs: vec![bazel::Input { path: "a".into(), digest: b"ab".to_vec() }],
        request_id: 1,
        cancel: true,
        verbosity: 10,
        sandbox_dir: "s".into(),
    };
    let bytes = b"\x19\x0a\x02-d\x0a\x01x\x12\x07\x0a\x01a\x12\x02ab\x18\x01\x20\x01\x28\x0a\x32\x01s";
    check_delimited(&request, bytes);
}

#[test]
fn work_response_has_every_field_at_its_number() {
    let response =
        bazel::WorkResponse { exit_code: 1, output: "no".into(), request_id: 7, was_cancelled: true };
    check_delimited(&response, b"\x0a\x08\x01\x12\x02no\x18\x07\x20\x01");
}

#[test]
fn a_negative_exit_code_takes_ten_bytes() {
    let response = bazel::WorkResponse { exit_code: -1, ..Default::default() };
    check_delimited(&response, b"\x0b\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01");
}

#[test]
fn an_empty_message_is_a_zero_length() {
    check_delimited(&bazel::WorkResponse::default(), b"\0");
}

#[test]
fn a_length_above_127_takes_two_bytes() {
    let response = bazel::WorkResponse { output: "o".repeat(200), ..Default::default() };
    let mut bytes = b"\xcb\x01\x12\xc8\x01".to_vec();
    bytes.extend([b'o'; 200]);
    check_delimited(&response, &bytes);
}

#[test]
fn messages_follow_each_other_in_a_stream() {
    let mut stream: &[u8] = b"\x02\x18\x01\x00\x04\x12\x02hi";
    let mut next = || bazel::WorkResponse::decode_length_delimited(&mut stream).unwrap();
    assert_eq!(next().request_id, 1);
    assert_eq!(next(), bazel::WorkResponse::default());
    assert_eq!(next().output, "hi");
    assert!(stream.is_empty());
}

#[test]
fn fields_of_a_newer_protocol_are_passed_over() {
    let response = bazel::WorkResponse::decode(&b"\x08\x02\xfa\x01\x03new\x18\x05"[..]).unwrap();
    assert_eq!((response.exit_code, response.request_id), (2, 5));
}

#[test]
fn a_cut_or_wrong_message_is_an_error() {
    for bytes in [
        &b"\x05\x12\x02hi"[..],
        b"\x04\x12\x05hi",
        b"\x02\x12\xff",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    ] {
        assert!(bazel::WorkResponse::decode_length_delimited(bytes).is_err(), "{bytes:?}");
    }
    assert!(bazel::WorkResponse::decode(&b"\x12\x01\xff"[..]).is_err(), "output is UTF-8");
}

#[test]
fn buck2_command_has_every_field_at_its_number() {
    let entry = buck2::execute_command::EnvironmentEntry { key: b"k".to_vec(), value: b"\xff".to_vec() };
    let command = buck2::ExecuteCommand { argv: vec![b"a".to_vec()], env: vec![entry], timeout_s: Some(0) };
    let bytes = b"\x0a\x01a\x12\x06\x0a\x01k\x12\x01\xff\x18\x00";
    check(&command, bytes);
    let mut streamed = b"\x0a\x0d".to_vec();
    streamed.extend(bytes);
    streamed.extend(b"\x10\x09");
    check(&buck2::ExecuteCommandStream { request: Some(command), id: 9 }, &streamed);
}

#[test]
fn buck2_response_tells_a_timeout_of_zero_from_none() {
    let response = buck2::ExecuteResponse { exit_code: 1, stderr: "e".into(), timed_out_after_s: Some(0) };
    check(&response, b"\x08\x01\x12\x01e\x18\x00");
    let response = buck2::ExecuteResponse { timed_out_after_s: None, ..response };
    check(&response, b"\x08\x01\x12\x01e");
    check(
        &buck2::ExecuteResponseStream { response: Some(response), id: 9 },
        b"\x0a\x05\x08\x01\x12\x01e\x10\x09",
    );
}

#[test]
fn buck2_cancel_is_an_event_of_its_own() {
    let event =
        buck2::ExecuteEvent { data: Some(buck2::execute_event::Data::Cancel(buck2::ExecuteCancel {})) };
    check(&event, b"\x12\x00");
}

#[test]
fn an_exit_code_of_zero_is_an_outcome() {
    let outcome = v1::ActionOutcome { end: Some(v1::action_outcome::End::ExitCode(0)), ..Default::default() };
    check(&outcome, b"\x08\x00");
    check(&v1::ActionOutcome::default(), b"");
}

#[test]
fn a_run_keeps_paths_that_are_not_utf8() {
    let request = v1::RunRequest {
        exec_root: b"/\xff".to_vec(),
        arguments: vec![b"cc".to_vec()],
        limits: Some(v1::Limits { memory_bytes_max: Some(1 << 30), ..Default::default() }),
        network: v1::Network::Loopback.into(),
        ..Default::default()
    };
    check(&request, b"\x0a\x02/\xff\x12\x02cc\x32\x06\x08\x80\x80\x80\x80\x04\x38\x02");
}
