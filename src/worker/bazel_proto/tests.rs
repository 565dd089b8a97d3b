//! Requests against the generated messages; responses in all pieces, and from workers that lie.

use super::*;
use crate::uring::{Framing, FramingError};
use crate::worker::limits::{JUNK_BYTES_MAX, MESSAGE_BYTES_MAX, OUTPUT_KEPT_BYTES_MAX};
use crate::worker::wire::{WorkInput, WorkRequest, WorkResponse};
use fulgurite_proto::bazel;
use proptest::prelude::*;
use prost::Message;

/// All that comes of these bytes when they come in pieces that end at `cuts`, and what the end of the stream says.
fn feed(bytes: &[u8], cuts: &[usize]) -> Result<Vec<Vec<u8>>, FramingError> {
    let mut framing = ProtoFraming::new();
    let mut messages = Vec::new();
    let mut from = 0;
    for &cut in cuts.iter().chain([&bytes.len()]) {
        framing.feed(&bytes[from..cut], &mut messages)?;
        from = cut;
    }
    framing.finish()?;
    Ok(messages)
}

fn responses(bytes: &[u8]) -> Vec<WorkResponse> {
    feed(bytes, &[]).unwrap().iter().map(|message| decode(message).unwrap()).collect()
}

/// What comes of bytes that are not followed by anything: not even by the stream's end.
fn refused(bytes: &[u8]) -> FramingError {
    ProtoFraming::new().feed(bytes, &mut Vec::new()).unwrap_err()
}

fn wire(response: &WorkResponse) -> Vec<u8> {
    let WorkResponse { exit_code, output, request_id, was_cancelled, .. } = response.clone();
    bazel::WorkResponse { exit_code, output, request_id, was_cancelled }.encode_length_delimited_to_vec()
}

fn response() -> impl Strategy<Value = WorkResponse> {
    (any::<i32>(), ".{0,40}", any::<i32>(), any::<bool>()).prop_map(
        |(exit_code, output, request_id, was_cancelled)| WorkResponse {
            exit_code,
            output,
            request_id,
            was_cancelled,
            timed_out: false,
        },
    )
}

fn request() -> impl Strategy<Value = WorkRequest> {
    let input = (".{0,9}", "[0-9a-f]{0,64}").prop_map(|(path, digest)| WorkInput { path, digest });
    let numbers = (prop_oneof![Just(0), any::<i32>()], any::<bool>(), prop_oneof![Just(0), any::<i32>()]);
    (prop::collection::vec(".{0,20}", 0..5), prop::collection::vec(input, 0..5), numbers, ".{0,9}").prop_map(
        |(arguments, inputs, (request_id, cancel, verbosity), sandbox_dir)| WorkRequest {
            arguments,
            inputs,
            request_id,
            cancel,
            verbosity,
            sandbox_dir,
            ..WorkRequest::default()
        },
    )
}

proptest! {
    #[test]
    fn a_request_is_what_the_generated_message_says(request in request()) {
        let bytes = encode(&request);
        let read = bazel::WorkRequest::decode_length_delimited(bytes.as_slice()).unwrap();
        prop_assert_eq!(&read.arguments, &request.arguments);
        let inputs: Vec<_> = read.inputs.iter().map(|input| (input.path.clone(), input.digest.clone())).collect();
        let expected: Vec<_> =
            request.inputs.iter().map(|input| (input.path.clone(), input.digest.clone().into_bytes())).collect();
        prop_assert_eq!(inputs, expected);
        prop_assert_eq!((read.request_id, read.cancel), (request.request_id, request.cancel));
        prop_assert_eq!((read.verbosity, &read.sandbox_dir), (request.verbosity, &request.sandbox_dir));
        prop_assert_eq!(read.encoded_len(), encoded_len(&request));
        prop_assert_eq!(read.encode_length_delimited_to_vec(), bytes);
    }

    #[test]
    fn responses_come_back_cut_at_every_place(sent in prop::collection::vec(response(), 1..4)) {
        let bytes: Vec<u8> = sent.iter().flat_map(wire).collect();
        for cut in 0..=bytes.len() {
            let messages = feed(&bytes, &[cut]).unwrap();
            let read: Vec<_> = messages.iter().map(|message| decode(message).unwrap()).collect();
            prop_assert_eq!(&read, &sent);
        }
        let each: Vec<usize> = (0..bytes.len()).collect();
        prop_assert_eq!(feed(&bytes, &each).unwrap().len(), sent.len());
    }

    #[test]
    fn a_stream_that_ends_early_is_an_error(sent in response(), part in 0.0..1.0) {
        let bytes = wire(&sent);
        let length = (bytes.len() as f64 * part) as usize;
        match feed(&bytes[..length], &[]) {
            Ok(messages) => prop_assert!(length == 0 && messages.is_empty()),
            Err(error) => prop_assert_eq!(error.seen, &bytes[..length.min(JUNK_BYTES_MAX)]),
        }
    }

    #[test]
    fn pieces_change_nothing(bytes in prop::collection::vec(any::<u8>(), 0..60), cut in 0usize..60) {
        let whole = feed(&bytes, &[]);
        let pieces = feed(&bytes, &[cut.min(bytes.len())]);
        prop_assert_eq!(whole.map_err(|error| error.why), pieces.map_err(|error| error.why));
    }

    #[test]
    fn what_is_cut_out_can_be_decoded_or_is_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut messages = Vec::new();
        let _ = ProtoFraming::new().feed(&bytes, &mut messages);
        for message in messages {
            match decode(&message) {
                Ok(_) => {}
                // Nothing but the text is left to be wrong.
                Err(error) => prop_assert!(error.request_id.is_some()),
            }
        }
    }
}

#[test]
fn singleplex_requests_have_no_id() {
    let request = WorkRequest { arguments: vec!["-a".to_owned()], ..WorkRequest::default() };
    assert_eq!(encode(&request), b"\x04\x0a\x02-a");
    let cancel = WorkRequest { request_id: 7, cancel: true, ..WorkRequest::default() };
    assert_eq!(encode(&cancel), b"\x04\x18\x07\x20\x01");
    assert_eq!(encode(&WorkRequest::default()), b"\0");
}

#[test]
fn reads_what_writers_may_write() {
    assert_eq!(responses(b"\0\0"), [WorkResponse::default(), WorkResponse::default()]);
    // Fields in any order, twice, with overlong varints, and unknown ones after the first.
    let bytes = b"\x26\x18\x83\x80\x00\x12\x03old\x12\x02ok\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x72\x03abc\x29\
                  12345678";
    assert_eq!(bytes.len(), 0x26 + 1);
    let expected =
        WorkResponse { exit_code: -1, output: "ok".to_owned(), request_id: 3, ..WorkResponse::default() };
    assert_eq!(responses(bytes), [expected]);
}

#[test]
fn text_is_noticed_at_once() {
    let lines = [
        "hello\n",
        "hello\r\n",
        "Picked up JAVA_TOOL_OPTIONS: -Xmx1g\n",
        "WARNING: An illegal reflective access operation has occurred\n",
        "\n\n",
        "[info] ready\n",
        "I am ready\n",
        "1) first\n",
        "1 + 1 is 2\n",
        "(node:12) Warning: x\n",
        "{\"exitCode\":0}\n",
        "\x1b[31merror\x1b[0m\n",
        "\u{feff}text\n",
        "Übersetzer\n",
    ];
    for line in lines {
        let error = refused(line.as_bytes());
        assert_eq!(error.seen, line.as_bytes(), "{line:?}");
        let shown = crate::worker::junk::unparseable(&error.why, &error.seen);
        assert!(shown.contains("Did you try to print something to stdout?"));
        assert!(!shown.contains('\x1b'));
    }
    // One line end alone claims ten bytes; what comes next, or the end, shows what it is.
    assert!(feed(b"\n", &[]).is_err());
    // After a good response as well, without the good one in the excerpt.
    let mut bytes = wire(&WorkResponse { output: "fine".to_owned(), ..WorkResponse::default() });
    bytes.extend_from_slice(b"oops\n");
    assert_eq!(refused(&bytes).seen, b"oops\n");
}

#[test]
fn refuses_lengths_before_anything_is_kept() {
    let check = |bytes: &[u8], why: &str| {
        let error = refused(bytes);
        assert!(error.why.contains(why), "{bytes:?}: {}", error.why);
    };
    check(b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "it claims 9223372036854775807 bytes");
    check(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "it claims 18446744073709551615 bytes");
    check(&[0xff; 10], "a varint does not end after 10 bytes");
    check(&[0x80; 10], "a varint does not end after 10 bytes");
    check(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", "a varint does not end after 10 bytes");
    let mut claim = Vec::new();
    prost::encoding::encode_varint(MESSAGE_BYTES_MAX + 1, &mut claim);
    check(&claim, "at most 268435456 are read");
    // What is allowed costs nothing until it comes.
    let mut framing = ProtoFraming::new();
    claim.clear();
    prost::encoding::encode_varint(MESSAGE_BYTES_MAX, &mut claim);
    claim.extend_from_slice(b"\x12\x80\x80\x80\x40");
    framing.feed(&claim, &mut Vec::new()).unwrap();
    framing.feed(b"text", &mut Vec::new()).unwrap();
}

#[test]
fn refuses_fields_that_do_not_fit() {
    let check = |bytes: &[u8], why: &str| {
        let error = refused(bytes);
        assert!(error.why.contains(why), "{bytes:?}: {}", error.why);
    };
    check(b"\x04\x12\x05ab", "field 2 has 5 bytes, and the response has 2 more");
    check(b"\x09\x12\xff\xff\xff\xff\xff\xff\xff\x7f", "the response has 0 more");
    check(b"\x01\x08", "ends within a field");
    check(b"\x02\x08\x80", "ends within a field");
    check(b"\x03\x00\x00\x00", "there is no field 0");
    check(b"\x03\x0a\x01a", "field 1 has wire type 2");
    check(b"\x02\x13\x14", "field 2 has wire type 3");
    check(b"\x02\x20\x02", "was_cancelled is 2");
    check(b"\x04\x08\x00\x29\x00", "ends within a field");
}

#[test]
fn an_early_end_is_never_a_success() {
    let error = feed(b"\xe8\x07\x08\x00", &[]).unwrap_err();
    assert_eq!(error.why, "the stream ended within a response: 998 bytes are missing");
    assert_eq!(error.seen, b"\xe8\x07\x08\x00");
    assert!(feed(b"\xe8", &[]).unwrap_err().why.contains("within the length"));
}

#[test]
fn text_that_is_none_fails_its_own_request() {
    let messages = feed(b"\x07\x12\x03a\xffb\x18\x05", &[]).unwrap();
    let error = decode(&messages[0]).unwrap_err();
    assert_eq!(error.request_id, Some(5));
    assert!(error.to_string().contains("Its output is not UTF-8 at byte 1."), "{error}");
    assert!(error.to_string().contains("61 ff 62"), "{error}");
    assert_eq!(decode(b"\x12\x05ab").unwrap_err().request_id, None);
}

#[test]
fn a_long_output_is_cut() {
    let text = "é".repeat(32 << 20);
    let sent =
        WorkResponse { output: format!("a{text}"), request_id: 9, exit_code: 1, ..WorkResponse::default() };
    let bytes = wire(&sent);
    let mut framing = ProtoFraming::new();
    let mut messages = Vec::new();
    for piece in bytes.chunks(64 << 10) {
        framing.feed(piece, &mut messages).unwrap();
    }
    let read = decode(&messages[0]).unwrap();
    assert_eq!((read.request_id, read.exit_code), (9, 1));
    let (kept, note) = read.output.rsplit_once('\n').unwrap();
    assert_eq!(kept.len(), OUTPUT_KEPT_BYTES_MAX - 1);
    assert!(sent.output.starts_with(kept));
    assert_eq!(note, "[the worker wrote more: output cut after 4 MiB]");
}
