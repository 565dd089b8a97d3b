//! Requests as lines of JSON.

use crate::worker::wire::{WorkInput, WorkRequest};
use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde::Serializer;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    arguments: &'a [String],
    #[serde(skip_serializing_if = "Inputs::is_empty")]
    inputs: Inputs<'a>,
    #[serde(skip_serializing_if = "is_zero")]
    request_id: i32,
    #[serde(skip_serializing_if = "is_false")]
    cancel: bool,
    #[serde(skip_serializing_if = "is_zero")]
    verbosity: i32,
    #[serde(skip_serializing_if = "str::is_empty")]
    sandbox_dir: &'a str,
}

struct Inputs<'a>(&'a [WorkInput]);

impl Inputs<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Inputs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|input| Input { path: &input.path, digest: &input.digest }))
    }
}

#[derive(Serialize)]
struct Input<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    path: &'a str,
    #[serde(skip_serializing_if = "str::is_empty", serialize_with = "as_base64")]
    digest: &'a str,
}

/// The field is of type bytes: JSON has them in base64, and Bazel puts hexadecimal digits into them.
fn as_base64<S: Serializer>(digest: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&Base64Display::new(digest.as_bytes(), &STANDARD))
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_zero(number: &i32) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_false(value: &bool) -> bool {
    !*value
}

/// The request as one line, its end included, as it goes to the worker.
#[must_use]
pub fn encode(request: &WorkRequest) -> Vec<u8> {
    let known = Request {
        arguments: &request.arguments,
        inputs: Inputs(&request.inputs),
        request_id: request.request_id,
        cancel: request.cancel,
        verbosity: request.verbosity,
        sandbox_dir: &request.sandbox_dir,
    };
    #[expect(clippy::expect_used, reason = "strings and numbers, written to memory")]
    let mut line = serde_json::to_vec(&known).expect("a request is JSON");
    line.push(b'\n');
    line
}
