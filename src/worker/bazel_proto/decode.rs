//! A whole response to the domain type.

use crate::worker::junk::WireError;
use crate::worker::wire::WorkResponse;
use prost::Message;

/// `WorkResponse`, its text not yet believed to be text: a response that breaks that rule still says which request it
/// answers.
#[derive(Clone, PartialEq, Message)]
struct RawResponse {
    #[prost(int32, tag = "1")]
    exit_code: i32,
    #[prost(bytes = "vec", tag = "2")]
    output: Vec<u8>,
    #[prost(int32, tag = "3")]
    request_id: i32,
    #[prost(bool, tag = "4")]
    was_cancelled: bool,
}

/// Reads a response without its length.
///
/// # Errors
/// When it is no `WorkResponse`, or its output is no UTF-8; then the error knows the request.
pub fn decode(message: &[u8]) -> Result<WorkResponse, WireError> {
    let raw = RawResponse::decode(message)
        .map_err(|error| WireError::new(format!("It is no WorkResponse: {error}."), None, message))?;
    let output = String::from_utf8(raw.output).map_err(|error| {
        let why = format!("Its output is not UTF-8 at byte {}.", error.utf8_error().valid_up_to());
        // From where it went wrong, with what stands before.
        let from = error.utf8_error().valid_up_to().saturating_sub(64);
        WireError::new(why, Some(raw.request_id), error.as_bytes().get(from..).unwrap_or_default())
    })?;
    Ok(WorkResponse {
        exit_code: raw.exit_code,
        output,
        request_id: raw.request_id,
        was_cancelled: raw.was_cancelled,
        timed_out: false,
    })
}
