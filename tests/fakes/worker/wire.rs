//! Bazel's two wires as a worker speaks them, with the ways to speak them wrongly.

use super::{Reply, Request};
use fulgurite_proto::bazel;
use prost::Message;
use serde_json::{Value, json};
use std::io::{self, BufRead, Read};

/// No request of a test is larger.
const REQUEST_BYTES_MAX: u64 = 512 << 20;

/// A wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// Protobuf after its length.
    Proto,
    /// Objects of JSON, in one line or in several.
    Json {
        /// Several lines an object.
        pretty: bool,
    },
}

impl Wire {
    /// The requests in `input`, to its end. Blocks while there is none.
    pub fn requests<'a>(
        self,
        input: impl BufRead + 'a,
    ) -> Box<dyn Iterator<Item = io::Result<Request>> + 'a> {
        match self {
            Wire::Proto => Box::new(Delimited(input)),
            Wire::Json { .. } => {
                let values = serde_json::Deserializer::from_reader(input).into_iter::<Value>();
                Box::new(values.map(|value| Ok(of_json(&value?))))
            }
        }
    }

    /// One reply as it goes over the wire.
    pub fn encode(self, reply: &Reply) -> Vec<u8> {
        match self {
            Wire::Proto => message(reply).encode_length_delimited_to_vec(),
            Wire::Json { pretty } => {
                let value = json!({"exitCode": reply.exit_code, "output": reply.output, "requestId": reply.id,
                    "wasCancelled": reply.was_cancelled});
                let text = if pretty { format!("{value:#}") } else { value.to_string() };
                text.into_bytes()
            }
        }
    }

    /// The claim of a message that has no end. What follows it has to be endless as well for JSON.
    pub fn huge(self) -> &'static [u8] {
        match self {
            // 2^63 - 1
            Wire::Proto => &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
            Wire::Json { .. } => b"{\"exitCode\":0,\"output\":\"",
        }
    }

    /// A length, or a nesting, that never ends.
    pub fn endless(self) -> Vec<u8> {
        match self {
            Wire::Proto => vec![0xff; 1 << 16],
            Wire::Json { .. } => vec![b'['; 1_000_000],
        }
    }

    /// The beginning of a message that would be a success if the end of the stream were the end of it.
    pub fn truncated(self) -> Vec<u8> {
        match self {
            // A length of 1000, and then exit_code = 0.
            Wire::Proto => vec![0xe8, 0x07, 0x08, 0x00],
            Wire::Json { .. } => b"{\"exitCode\":0,\"requestId\":0".to_vec(),
        }
    }

    /// A reply whose text is not UTF-8.
    pub fn bad_utf8(self, reply: &Reply) -> Vec<u8> {
        const MARK: &str = "\u{1}\u{1}";
        let good = self.encode(&Reply { output: format!("before {MARK} after"), ..reply.clone() });
        let mark: &[u8] = if self == Wire::Proto { MARK.as_bytes() } else { b"\\u0001\\u0001" };
        let Some(at) = good.windows(mark.len()).position(|window| window == mark) else { return good };
        // As many bytes as before, so that the lengths stay right.
        let mut bad = good;
        bad[at..at + mark.len()].fill(0xfe);
        bad
    }

    /// A reply with a field that can't be one.
    pub fn bad_field(self, reply: &Reply) -> Vec<u8> {
        match self {
            Wire::Proto => {
                // exit_code = 0, request_id, and an output of 100 bytes of which three are there.
                let mut body = message(&Reply { output: String::new(), ..reply.clone() }).encode_to_vec();
                body.extend([0x12, 100, b'a', b'b', b'c']);
                let mut framed = vec![u8::try_from(body.len()).unwrap_or(0x7f)];
                framed.extend(body);
                framed
            }
            Wire::Json { .. } => {
                format!("{{\"exitCode\":\"none\",\"output\":[],\"requestId\":{}}}", reply.id).into_bytes()
            }
        }
    }
}

fn message(reply: &Reply) -> bazel::WorkResponse {
    bazel::WorkResponse {
        exit_code: reply.exit_code,
        output: reply.output.clone(),
        request_id: reply.id,
        was_cancelled: reply.was_cancelled,
    }
}

struct Delimited<R>(R);

impl<R: BufRead> Delimited<R> {
    fn read(&mut self) -> io::Result<Option<Request>> {
        loop {
            match self.0.fill_buf() {
                Ok([]) => return Ok(None),
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let (mut length, mut shift) = (0_u64, 0);
        loop {
            let mut byte = [0];
            self.0.read_exact(&mut byte)?;
            length |= u64::from(byte[0] & 0x7f) << shift;
            shift += 7;
            if byte[0] & 0x80 == 0 {
                break;
            }
            if shift > 56 {
                return Err(io::Error::other("a length of more than nine bytes"));
            }
        }
        if length > REQUEST_BYTES_MAX {
            return Err(io::Error::other(format!("a request of {length} bytes")));
        }
        let mut body = Vec::new();
        if self.0.by_ref().take(length).read_to_end(&mut body)? as u64 != length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let request = bazel::WorkRequest::decode(&*body).map_err(io::Error::other)?;
        Ok(Some(of_proto(request)))
    }
}

impl<R: BufRead> Iterator for Delimited<R> {
    type Item = io::Result<Request>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

fn of_proto(request: bazel::WorkRequest) -> Request {
    let inputs = request.inputs.into_iter();
    Request {
        arguments: request.arguments,
        inputs: inputs
            .map(|input| (input.path, String::from_utf8_lossy(&input.digest).into_owned()))
            .collect(),
        id: request.request_id,
        cancel: request.cancel,
        verbosity: request.verbosity,
        sandbox_dir: request.sandbox_dir,
    }
}

fn of_json(value: &Value) -> Request {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let number = |name: &str| i32::try_from(value[name].as_i64().unwrap_or(0)).unwrap_or(i32::MAX);
    let list = |name: &str| value[name].as_array().cloned().unwrap_or_default();
    Request {
        arguments: list("arguments").iter().map(text).collect(),
        inputs: list("inputs").iter().map(|input| (text(&input["path"]), text(&input["digest"]))).collect(),
        id: number("requestId"),
        cancel: value["cancel"].as_bool().unwrap_or(false),
        verbosity: number("verbosity"),
        sandbox_dir: text(&value["sandboxDir"]),
    }
}
