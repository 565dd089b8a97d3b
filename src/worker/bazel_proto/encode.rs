//! Requests as bytes, written straight from the domain type: a request may name 100,000 inputs.

use crate::worker::wire::{WorkInput, WorkRequest};
use prost::encoding::{
    WireType, bool, bytes, encode_key, encode_varint, encoded_len_varint, int32, key_len, string,
};

/// The request with its length before it, as it goes to the worker.
#[must_use]
pub fn encode(request: &WorkRequest) -> Vec<u8> {
    let length = encoded_len(request);
    let mut buffer = Vec::with_capacity(length + encoded_len_varint(length as u64));
    encode_varint(length as u64, &mut buffer);
    for argument in &request.arguments {
        string::encode(1, argument, &mut buffer);
    }
    for input in &request.inputs {
        encode_key(2, WireType::LengthDelimited, &mut buffer);
        encode_varint(input_len(input) as u64, &mut buffer);
        if !input.path.is_empty() {
            string::encode(1, &input.path, &mut buffer);
        }
        if !input.digest.is_empty() {
            // Of type bytes; on the wire that is the same as a string.
            string::encode(2, &input.digest, &mut buffer);
        }
    }
    if request.request_id != 0 {
        int32::encode(3, &request.request_id, &mut buffer);
    }
    if request.cancel {
        bool::encode(4, &request.cancel, &mut buffer);
    }
    if request.verbosity != 0 {
        int32::encode(5, &request.verbosity, &mut buffer);
    }
    if !request.sandbox_dir.is_empty() {
        string::encode(6, &request.sandbox_dir, &mut buffer);
    }
    buffer
}

/// Bytes of the request without its length: to be compared with the largest that is sent, before it is encoded.
#[must_use]
pub fn encoded_len(request: &WorkRequest) -> usize {
    let arguments: usize = request.arguments.iter().map(|argument| string::encoded_len(1, argument)).sum();
    let inputs: usize = request.inputs.iter().map(|input| delimited_len(2, input_len(input))).sum();
    let number = |field, value: i32| if value == 0 { 0 } else { int32::encoded_len(field, &value) };
    arguments
        + inputs
        + number(3, request.request_id)
        + if request.cancel { bool::encoded_len(4, &true) } else { 0 }
        + number(5, request.verbosity)
        + text_len(6, &request.sandbox_dir)
}

fn input_len(input: &WorkInput) -> usize {
    text_len(1, &input.path) + text_len(2, &input.digest)
}

fn text_len(field: u32, text: &str) -> usize {
    if text.is_empty() { 0 } else { delimited_len(field, text.len()) }
}

fn delimited_len(field: u32, length: usize) -> usize {
    key_len(field) + encoded_len_varint(length as u64) + length
}

/// A response as [`decode`](super::decode) reads it, its text perhaps no text. Without a length.
pub(super) fn encode_response(
    exit_code: i32,
    output: &Vec<u8>,
    request_id: i32,
    is_cancelled: bool,
) -> Vec<u8> {
    let mut buffer = Vec::with_capacity(output.len() + 32);
    if exit_code != 0 {
        int32::encode(1, &exit_code, &mut buffer);
    }
    if !output.is_empty() {
        bytes::encode(2, output, &mut buffer);
    }
    if request_id != 0 {
        int32::encode(3, &request_id, &mut buffer);
    }
    if is_cancelled {
        bool::encode(4, &is_cancelled, &mut buffer);
    }
    buffer
}
