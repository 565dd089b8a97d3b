//! One object to the domain type.

use crate::worker::junk::WireError;
use crate::worker::wire::WorkResponse;
use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;

/// `WorkResponse` as protocol buffers read it from JSON: both spellings of a name, numbers also in quotes, `null` as
/// the default.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    #[serde(default, alias = "exit_code", deserialize_with = "int32")]
    exit_code: i32,
    #[serde(default)]
    output: Option<String>,
    #[serde(default, alias = "request_id", deserialize_with = "int32")]
    request_id: i32,
    #[serde(default, alias = "was_cancelled")]
    was_cancelled: Option<bool>,
}

/// The request that an object answers, whatever else is wrong with it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answers {
    #[serde(default, alias = "request_id", deserialize_with = "int32")]
    request_id: i32,
}

/// Reads one object.
///
/// # Errors
/// When it is no JSON, a known field comes twice, or has another type. The error knows the request if the rest can be
/// read.
pub fn decode(message: &[u8]) -> Result<WorkResponse, WireError> {
    // What serde would take for the fields in their order.
    if message.trim_ascii_start().first() != Some(&b'{') {
        return Err(WireError::new("It is no JSON object.", None, message));
    }
    let response: Response = serde_json::from_slice(message).map_err(|error| {
        let request_id = serde_json::from_slice::<Answers>(message).ok().map(|answers| answers.request_id);
        WireError::new(format!("It is no WorkResponse: {error}."), request_id, message)
    })?;
    Ok(WorkResponse {
        exit_code: response.exit_code,
        output: response.output.unwrap_or_default(),
        request_id: response.request_id,
        was_cancelled: response.was_cancelled.unwrap_or_default(),
        timed_out: false,
    })
}

fn int32<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i32, D::Error> {
    deserializer.deserialize_any(Int32)
}

struct Int32;

impl Visitor<'_> for Int32 {
    type Value = i32;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a number of 32 bits")
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<i32, E> {
        i32::try_from(number).map_err(|_| E::invalid_value(Unexpected::Signed(number), &self))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<i32, E> {
        i32::try_from(number).map_err(|_| E::invalid_value(Unexpected::Unsigned(number), &self))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<i32, E> {
        let whole = number.fract() == 0.0 && number >= f64::from(i32::MIN) && number <= f64::from(i32::MAX);
        match whole {
            true => Ok(number as i32),
            false => Err(E::invalid_value(Unexpected::Float(number), &self)),
        }
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<i32, E> {
        text.parse().map_err(|_| E::invalid_value(Unexpected::Other("another text"), &self))
    }

    fn visit_unit<E: Error>(self) -> Result<i32, E> {
        Ok(0)
    }
}
