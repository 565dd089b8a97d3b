//! Requests as the printer of protocol buffers writes them; responses in all pieces, and from workers that lie.

use super::*;
use crate::uring::{Framing, FramingError};
use crate::worker::limits::{JSON_DEPTH_MAX, OUTPUT_KEPT_BYTES_MAX};
use crate::worker::wire::{WorkInput, WorkRequest, WorkResponse};
use proptest::prelude::*;
use serde_json::{Value, json};

fn feed(bytes: &[u8], cuts: &[usize]) -> Result<Vec<Vec<u8>>, FramingError> {
    let mut framing = JsonFraming::new();
    let mut messages = Vec::new();
    let mut from = 0;
    for &cut in cuts.iter().chain([&bytes.len()]) {
        framing.feed(&bytes[from..cut], &mut messages)?;
        from = cut;
    }
    framing.finish()?;
    Ok(messages)
}

fn responses(text: &str) -> Vec<WorkResponse> {
    feed(text.as_bytes(), &[]).unwrap().iter().map(|message| decode(message).unwrap()).collect()
}

fn refused(text: &str) -> FramingError {
    JsonFraming::new().feed(text.as_bytes(), &mut Vec::new()).unwrap_err()
}

fn answer(exit_code: i32, output: &str, request_id: i32) -> WorkResponse {
    WorkResponse { exit_code, output: output.to_owned(), request_id, ..WorkResponse::default() }
}

/// Any JSON, not deep.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f32>().prop_map(|number| json!(number)),
        "(\\PC|[\"\\\\\n\u{1}\u{1f600}]){0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map("[a-z\"{}]{0,4}", inner, 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

fn object() -> impl Strategy<Value = Value> {
    prop::collection::hash_map("[a-z\"{}]{1,4}", value(), 0..4)
        .prop_map(|fields| Value::Object(fields.into_iter().collect()))
}

proptest! {
    #[test]
    fn objects_come_back_cut_at_every_place(
        objects in prop::collection::vec(object(), 1..3),
        is_pretty in any::<bool>(),
        between in "[ \t\r\n]{0,3}",
    ) {
        let printed: Vec<String> = objects
            .iter()
            .map(|object| if is_pretty { format!("{object:#}") } else { object.to_string() })
            .collect();
        let text = format!("{between}{}{between}", printed.join(&between));
        let expected: Vec<_> = printed.iter().map(|object| object.clone().into_bytes()).collect();
        for cut in 0..=text.len() {
            prop_assert_eq!(feed(text.as_bytes(), &[cut]), Ok(expected.clone()));
        }
        let each: Vec<usize> = (0..text.len()).collect();
        prop_assert_eq!(feed(text.as_bytes(), &each), Ok(expected));
    }

    #[test]
    fn responses_come_back_with_fields_nobody_knows(
        exit_code in any::<i32>(),
        output in ".{0,30}",
        request_id in any::<i32>(),
        was_cancelled in any::<bool>(),
        unknown in value(),
    ) {
        let printed = json!({
            "unknown": unknown, "exitCode": exit_code, "output": output, "requestId": request_id,
            "wasCancelled": was_cancelled, "more": unknown,
        });
        let expected = WorkResponse { exit_code, output, request_id, was_cancelled, timed_out: false };
        prop_assert_eq!(decode(printed.to_string().as_bytes()), Ok(expected));
    }

    #[test]
    fn pieces_change_nothing(text in "[{}\\[\\]\",:\\\\ua0d8 \n-]{0,40}", cut in 0usize..40) {
        let whole = feed(text.as_bytes(), &[]).map_err(|error| error.why);
        let pieces = feed(text.as_bytes(), &[cut.min(text.len())]).map_err(|error| error.why);
        prop_assert_eq!(whole, pieces);
    }

    #[test]
    fn a_stream_that_ends_early_is_an_error(object in object(), part in 0.0..1.0) {
        let text = object.to_string();
        let length = (text.len() as f64 * part) as usize;
        prop_assert_eq!(feed(&text.as_bytes()[..length], &[]).is_ok(), length == 0);
    }

    /// What the grammar refuses is no JSON for anybody.
    #[test]
    fn refuses_nothing_that_is_json(text in "\\{[{}\\[\\]\",:\\\\un0d8e \n-]{0,12}") {
        if feed(text.as_bytes(), &[]).is_err() {
            let values = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
            let all: Result<Vec<_>, _> = values.collect();
            prop_assert!(all.is_err() || all.is_ok_and(|all| all.iter().any(|value| !value.is_object())));
        }
    }

    #[test]
    fn a_request_says_everything(arguments in prop::collection::vec(".{0,9}", 0..4), request_id in any::<i32>()) {
        let request = WorkRequest { arguments: arguments.clone(), request_id, ..WorkRequest::default() };
        let line = encode(&request);
        prop_assert_eq!(line.iter().filter(|&&byte| byte == b'\n').count(), 1);
        let read: Value = serde_json::from_slice(&line).unwrap();
        let argument = |value: &Value| value.as_str().unwrap().to_owned();
        let list = read.get("arguments").map(|list| list.as_array().unwrap().clone()).unwrap_or_default();
        let read_arguments: Vec<String> = list.iter().map(argument).collect();
        prop_assert_eq!(read_arguments, arguments);
        prop_assert_eq!(read.get("requestId").map_or(0, |id| id.as_i64().unwrap()), i64::from(request_id));
    }
}

#[test]
fn prints_as_protocol_buffers_do() {
    let check = |request: &WorkRequest, expected: &str| {
        assert_eq!(String::from_utf8(encode(request)).unwrap(), format!("{expected}\n"));
    };
    check(&WorkRequest::default(), "{}");
    check(
        &WorkRequest {
            arguments: vec!["-a".to_owned(), "say \"é\"\n".to_owned()],
            inputs: vec![
                WorkInput { path: "A.java".to_owned(), digest: "0a1b".to_owned() },
                WorkInput { path: "B.java".to_owned(), digest: String::new() },
            ],
            request_id: 7,
            cancel: false,
            verbosity: 10,
            sandbox_dir: "_w/1".to_owned(),
            ..WorkRequest::default()
        },
        // echo -n 0a1b | base64
        concat!(
            r#"{"arguments":["-a","say \"é\"\n"],"#,
            r#""inputs":[{"path":"A.java","digest":"MGExYg=="},{"path":"B.java"}],"#,
            r#""requestId":7,"verbosity":10,"sandboxDir":"_w/1"}"#
        ),
    );
    check(
        &WorkRequest { request_id: 7, cancel: true, ..WorkRequest::default() },
        r#"{"requestId":7,"cancel":true}"#,
    );
}

#[test]
fn reads_what_writers_write() {
    // The reference writer of Java: all fields, no line end.
    let java = r#"{"exitCode":0,"output":"","requestId":0}{"exitCode":1,"output":"a\nb","requestId":3}"#;
    assert_eq!(responses(java), [answer(0, "", 0), answer(1, "a\nb", 3)]);
    let pretty = "{\n  \"exitCode\": 2,\n  \"requestId\": 4\n}\n\n \t{}\r\n";
    assert_eq!(responses(pretty), [answer(2, "", 4), answer(0, "", 0)]);
    let nested = r#"{"more":{"exitCode":9,"a":[{"}":"{"},[]]},"exitCode":3}"#;
    assert_eq!(responses(nested), [answer(3, "", 0)]);
    let spelled = r#"{"exit_code":"-3","request_id":5.0,"output":null,"was_cancelled":true}"#;
    let expected = WorkResponse { was_cancelled: true, ..answer(-3, "", 5) };
    assert_eq!(responses(spelled), [expected]);
    assert_eq!(responses(r#"{"output":"\ud83d\ude00\u00e9\/"}"#), [answer(0, "😀é/", 0)]);
}

#[test]
fn decoding_fails_with_the_request_if_it_can() {
    let check = |text: &str, why: &str, request_id: Option<i32>| {
        let error = decode(text.as_bytes()).unwrap_err();
        assert!(error.why.contains(why), "{text}: {}", error.why);
        assert_eq!(error.request_id, request_id, "{text}");
    };
    check(r#"{"exitCode":0,"exitCode":0,"requestId":2}"#, "duplicate field `exitCode`", Some(2));
    check(r#"{"exitCode":0,"exit_code":0,"requestId":2}"#, "duplicate field `exitCode`", Some(2));
    check(r#"{"requestId":1,"requestId":2}"#, "duplicate field `requestId`", None);
    check(r#"{"exitCode":4294967296,"requestId":2}"#, "a number of 32 bits", Some(2));
    check(r#"{"exitCode":0.5}"#, "a number of 32 bits", Some(0));
    check(r#"{"output":3}"#, "expected a string", Some(0));
    check(r#"{"exitCode":tru}"#, "expected ident", None);
    check(r#"[]"#, "no JSON object", None);
    let latin = decode(b"{\"output\":\"a\xff\",\"requestId\":2}").unwrap_err();
    assert_eq!(latin.request_id, Some(2));
    assert!(latin.to_string().contains("Not UTF-8, printed as hex:"), "{latin}");
}

#[test]
fn text_is_noticed_at_once() {
    let check = |text: &str, why: &str| {
        let error = refused(text);
        assert!(error.why.contains(why), "{text}: {}", error.why);
        assert_eq!(error.seen, text.trim_start().as_bytes());
    };
    check("WARNING: x", "begins with 'W'");
    check("\n3", "begins with '3'");
    check("[1]", "begins with '['");
    check("{oops, I printed", "'o' where a field should be");
    check("{\"a\" is", "'i' where a colon should be");
    check("{\"a\": yes", "'y' where a value should be");
    check("{\"a\n", "'\\n' in a string");
    check("{\"\\x", "'x' in a string");
    check("{\"\\u12g", "'g' in a string");
    check("{\"\\ud800x", "half a character");
    check("{\"a\":1 2", "'2' where a comma or the end should be");
    check("{\"a\":[1}", "'}' in a number or word");
    check("{\"a\":{]", "']' where a field should be");
    check("{\"a\":1,}", "'}' where a field should be");
    check("{\"a\":[1,]", "']' where a value should be");
    check("{\"a\":1A", "'A' in a number or word");
    let error = refused("{}\n\x1b[31moops");
    assert_eq!(error.seen, b"\x1b[31moops");
}

#[test]
fn nesting_has_a_bound() {
    let nested = |depth: u32| {
        let depth = depth as usize - 1;
        format!("{{\"a\":{}1{}}}", "[".repeat(depth), "]".repeat(depth))
    };
    assert_eq!(responses(&nested(JSON_DEPTH_MAX)), [answer(0, "", 0)]);
    assert!(refused(&nested(JSON_DEPTH_MAX + 1)).why.contains("deeper than 64 levels"));
    assert!(refused(&"{\"a\":".repeat(100_000)).why.contains("deeper than 64 levels"));
}

#[test]
fn a_long_output_is_cut_between_characters() {
    let note = "[the worker wrote more: output cut after 4 MiB]";
    for unit in ["a", "é", "\\n", "\\ud83d\\ude00", "\\u00e9", "a\\\\\\\""] {
        let text = unit.repeat((OUTPUT_KEPT_BYTES_MAX + 4096) / unit.len());
        let bytes = format!("{{\"exitCode\":1,\"output\":\"x{text}\",\"requestId\":9}}").into_bytes();
        let mut framing = JsonFraming::new();
        let mut messages = Vec::new();
        for piece in bytes.chunks(10_007) {
            framing.feed(piece, &mut messages).unwrap();
        }
        assert!(messages[0].len() < OUTPUT_KEPT_BYTES_MAX + 200);
        let read = decode(&messages[0]).unwrap();
        assert_eq!((read.exit_code, read.request_id), (1, 9));
        let (kept, last) = read.output.rsplit_once('\n').unwrap();
        assert_eq!(last, note);
        let whole: String = serde_json::from_str(&format!("\"x{text}\"")).unwrap();
        assert!(whole.starts_with(kept), "{unit}");
    }
}

#[test]
fn what_nobody_asked_for_has_a_bound() {
    let field = format!("\"a\":\"{}\",", "a".repeat(OUTPUT_KEPT_BYTES_MAX - 1));
    let error = refused(&format!("{{{}", field.repeat(2)));
    assert!(error.why.contains("it holds more than"), "{}", error.why);
    let error = refused(&format!("{{\"a\":[{}", "1,".repeat(OUTPUT_KEPT_BYTES_MAX)));
    assert!(error.why.contains("it holds more than"), "{}", error.why);
}
