//! Peers that do not speak as they should: raw bytes, floods, and messages of absurd sizes.

use super::scene::*;
use crate::serve::ServeOptions;
use fulgurite_proto::reapi;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tonic::Code;
use tonic::codegen::http;

fn fake() -> std::sync::Arc<Fake> {
    Fake::new(1, |_, _, _| exited(0))
}

async fn raw(scene: &Scene) -> UnixStream {
    UnixStream::connect(scene.dir.path().join("socket")).await.unwrap()
}

/// Whether the server is still well.
async fn is_well(scene: &Scene) -> bool {
    scene.capabilities().get_capabilities(reapi::GetCapabilitiesRequest::default()).await.is_ok()
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// A header block for `POST /x`, without compression.
fn headers() -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    for (name, value) in [(":path", "/x"), (":authority", "a")] {
        block.push(0x00);
        block.push(u8::try_from(name.len()).unwrap());
        block.extend(name.bytes());
        block.push(u8::try_from(value.len()).unwrap());
        block.extend(value.bytes());
    }
    block
}

/// Sends until the server closes the connection; gives up after far more than it should bear.
async fn flood(scene: &Scene, mut next: impl FnMut(u32) -> Vec<u8>) {
    let (mut reader, mut writer) = raw(scene).await.into_split();
    let reading = tokio::spawn(async move {
        let mut sink = [0; 4096];
        while !matches!(reader.read(&mut sink).await, Ok(0) | Err(_)) {}
    });
    let mut hello = PREFACE.to_vec();
    hello.extend(frame(4, 0, 0, &[]));
    writer.write_all(&hello).await.unwrap();
    let mut closed = false;
    for round in 0..200_000 {
        if writer.write_all(&next(round)).await.is_err() {
            closed = true;
            break;
        }
    }
    assert!(closed, "the server bears it without end");
    reading.await.unwrap();
}

#[tokio::test]
async fn g15_rapid_resets_end_the_connection() {
    let scene = Scene::new().await;
    flood(&scene, |round| {
        let stream = round * 2 + 1;
        let mut bytes = frame(1, 4, stream, &headers());
        bytes.extend(frame(3, 0, stream, &8u32.to_be_bytes()));
        bytes
    })
    .await;
    assert!(is_well(&scene).await);
    scene.end().await;
}

#[tokio::test]
async fn g15_continuations_without_end_end_the_connection() {
    let scene = Scene::new().await;
    flood(
        &scene,
        |round| {
            if round == 0 { frame(1, 0, 1, &headers()) } else { frame(9, 0, 1, &[0x00; 1024]) }
        },
    )
    .await;
    assert!(is_well(&scene).await);
    scene.end().await;
}

/// Streams that the server resets for the peer's faults ("MadeYouReset"): each is a call that it may have begun.
#[tokio::test]
async fn g15_resets_that_the_server_is_made_to_send_end_the_connection() {
    let scene = Scene::new().await;
    // Each fault in a stream that was opened for it: no increment of its window, a message longer than was said,
    // a stream that depends on itself.
    let faults: [fn(u32) -> Vec<u8>; 3] = [
        |stream| frame(8, 0, stream, &0u32.to_be_bytes()),
        |stream| frame(8, 0, stream, &0x7fff_ffffu32.to_be_bytes()),
        |stream| frame(2, 0, stream, &[&stream.to_be_bytes()[..], &[0]].concat()),
    ];
    for fault in faults {
        flood(&scene, |round| {
            let stream = 2 * round + 1;
            let mut frames = frame(1, 4, stream, &headers());
            frames.extend(fault(stream));
            frames
        })
        .await;
        assert!(is_well(&scene).await);
    }
    scene.end().await;
}

/// Settings, pings and their answers: who reads the answers is served, frame for frame, with nothing kept; who does not
/// is not read from any more.
#[tokio::test]
async fn g15_settings_and_pings_without_end_are_kept_nowhere() {
    const ROUNDS: usize = 20_000;
    let scene = Scene::new().await;
    let setting = frame(4, 0, 0, &[0, 3, 0, 0, 0, 100]);
    for (kind, asked) in [(4, setting), (6, frame(6, 0, 0, &[7; 8]))] {
        let mut hello = PREFACE.to_vec();
        hello.extend(frame(4, 0, 0, &[]));
        let (mut reader, mut writer) = raw(&scene).await.into_split();
        writer.write_all(&hello).await.unwrap();
        let reading = tokio::spawn(async move {
            let mut answers = 0;
            let mut head = [0; 9];
            while answers < ROUNDS && reader.read_exact(&mut head).await.is_ok() {
                let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
                let mut payload = vec![0; length];
                reader.read_exact(&mut payload).await.unwrap();
                answers += usize::from(head[3] == kind && head[4] & 1 == 1);
            }
            answers
        });
        for _ in 0..ROUNDS {
            if writer.write_all(&asked).await.is_err() {
                break;
            }
        }
        drop(writer);
        assert!(reading.await.unwrap() > 0, "nothing is answered");
        assert!(is_well(&scene).await);
        // Nobody reads: what the server takes is bounded by what it can answer.
        let (unread, mut writer) = raw(&scene).await.into_split();
        writer.write_all(&hello).await.unwrap();
        let mut taken = 0;
        let many = asked.repeat(1000);
        // It says nothing more; that is what is waited for.
        while let Ok(Ok(())) = tokio::time::timeout(Duration::from_secs(2), writer.write_all(&many)).await {
            taken += many.len();
            assert!(taken < 64 << 20, "it takes {taken} bytes and answers nobody");
        }
        drop(unread);
        assert!(is_well(&scene).await);
    }
    scene.end().await;
}

/// A window of nothing: answers that nobody takes hold their calls, which are bounded, and nobody else's.
#[tokio::test]
async fn g15_who_opens_no_window_stalls_alone() {
    let scene = Scene::new().await;
    let digest = scene.cas.put_bytes(SHA, &vec![7; 4 << 20]).unwrap();
    let mut hello = PREFACE.to_vec();
    // SETTINGS_INITIAL_WINDOW_SIZE is zero.
    hello.extend(frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]));
    let (mut reader, mut writer) = raw(&scene).await.into_split();
    writer.write_all(&hello).await.unwrap();
    let name = format!("blobs/{}/{}", digest.hex(), digest.size_bytes);
    let mut message = vec![0, 0, 0, 0, u8::try_from(name.len() + 2).unwrap(), 0x0a];
    message.push(u8::try_from(name.len()).unwrap());
    message.extend(name.bytes());
    let mut block = vec![0x83, 0x86];
    for (name, value) in [
        (":path", "/google.bytestream.ByteStream/Read"),
        (":authority", "a"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        block.push(0x00);
        block.push(u8::try_from(name.len()).unwrap());
        block.extend(name.bytes());
        block.push(u8::try_from(value.len()).unwrap());
        block.extend(value.bytes());
    }
    for call in 0..200u32 {
        let mut frames = frame(1, 4, 2 * call + 1, &block);
        frames.extend(frame(0, 1, 2 * call + 1, &message));
        writer.write_all(&frames).await.unwrap();
    }
    // All of them have begun to answer: their headers need no window.
    let mut begun = 0;
    let mut head = [0; 9];
    while begun < 200 {
        reader.read_exact(&mut head).await.unwrap();
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; length];
        reader.read_exact(&mut payload).await.unwrap();
        assert!(head[3] != 0 || length == 0, "bytes that no window allows");
        begun += usize::from(head[3] == 1);
    }
    assert!(is_well(&scene).await);
    drop((reader, writer));
    assert!(is_well(&scene).await);
    scene.end().await;
}

#[tokio::test]
async fn g15_bytes_that_are_no_http2_end_the_connection() {
    let scene = Scene::new().await;
    let mut stream = raw(&scene).await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(is_well(&scene).await);
    scene.end().await;
}

#[tokio::test]
async fn connections_that_ask_nothing_are_closed() {
    let tune = |options: &mut ServeOptions| options.limits.first_call_within = Duration::from_millis(30);
    let scene = Scene::tuned(|_| fake(), tune).await;
    for hello in [&b""[..], &PREFACE[..5], PREFACE] {
        let mut stream = raw(&scene).await;
        stream.write_all(hello).await.unwrap();
        let mut answer = Vec::new();
        // The end of the stream is the event that is waited for.
        let _ = stream.read_to_end(&mut answer).await;
    }
    scene.end().await;
}

#[tokio::test]
async fn connections_are_bounded_and_the_next_one_is_closed_at_once() {
    let tune = |options: &mut ServeOptions| options.limits.connections = 2;
    let scene = Scene::tuned(|_| fake(), tune).await;
    assert!(is_well(&scene).await);
    let second = raw(&scene).await;
    let mut third = raw(&scene).await;
    assert!(matches!(third.read(&mut [0]).await, Ok(0) | Err(_)));
    assert_eq!(scene.metrics.connections_refused.value(), 1);
    assert!(is_well(&scene).await);
    drop(second);
    scene.end().await;
}

#[tokio::test]
async fn calls_are_bounded_and_one_too_many_is_told_to_come_back() {
    let tune = |options: &mut ServeOptions| options.limits.calls = 0;
    let scene = Scene::tuned(|_| fake(), tune).await;
    let request = reapi::GetCapabilitiesRequest::default();
    let status = scene.capabilities().get_capabilities(request).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(retry_info(&details(&status)));
    scene.end().await;
}

/// Sends a call's headers and this much of its body, and leaves it open.
async fn half_open(scene: &Scene, path: &str, body: &[u8]) -> Result<http::HeaderMap, tonic::Status> {
    use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
    #[derive(Clone, Default)]
    struct Raw;
    impl Codec for Raw {
        type Encode = bytes::Bytes;
        type Decode = ();
        type Encoder = Raw;
        type Decoder = Raw;
        fn encoder(&mut self) -> Raw {
            Raw
        }
        fn decoder(&mut self) -> Raw {
            Raw
        }
    }
    impl Encoder for Raw {
        type Item = bytes::Bytes;
        type Error = tonic::Status;
        fn encode(&mut self, item: bytes::Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), tonic::Status> {
            bytes::BufMut::put(buffer, item);
            Ok(())
        }
    }
    impl Decoder for Raw {
        type Item = ();
        type Error = tonic::Status;
        fn decode(&mut self, _: &mut DecodeBuf<'_>) -> Result<Option<()>, tonic::Status> {
            Ok(Some(()))
        }
    }
    let mut client = tonic::client::Grpc::new(scene.channel.clone()).max_encoding_message_size(usize::MAX);
    client.ready().await.unwrap();
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    if !body.is_empty() {
        sender.send(bytes::Bytes::copy_from_slice(body)).await.unwrap();
    }
    let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let path = http::uri::PathAndQuery::try_from(path).unwrap();
    let answer = client.client_streaming(tonic::Request::new(stream), path, Raw).await;
    drop(sender);
    answer.map(|answer| answer.metadata().clone().into_headers())
}

const FIND: &str = "/build.bazel.remote.execution.v2.ContentAddressableStorage/FindMissingBlobs";

#[tokio::test]
async fn g06_calls_whose_message_never_comes_are_given_up() {
    let tune = |options: &mut ServeOptions| options.limits.call_within = Duration::from_millis(30);
    let scene = Scene::tuned(|_| fake(), tune).await;
    let status = half_open(&scene, FIND, b"").await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    scene.end().await;
}

#[tokio::test]
async fn g14_messages_that_are_too_large_or_no_messages_are_refused() {
    let scene = Scene::new().await;
    let large = half_open(&scene, FIND, &vec![0; 9 << 20]).await.unwrap_err();
    assert!(matches!(large.code(), Code::OutOfRange | Code::ResourceExhausted), "{large}");
    // A field that claims two gigabytes; groups within groups; text that is none.
    let groups = [0x0b; 500];
    for body in [&[0x0a, 0xff, 0xff, 0xff, 0xff, 0x07][..], &groups, &[0x0a, 0x02, 0xff, 0xfe]] {
        let status = half_open(&scene, FIND, body).await.unwrap_err();
        assert!(matches!(status.code(), Code::Internal | Code::InvalidArgument), "{status}");
    }
    assert!(is_well(&scene).await);
    scene.end().await;
}

#[tokio::test]
async fn g16_headers_that_are_too_large_are_refused() {
    let scene = Scene::new().await;
    let mut request = tonic::Request::new(reapi::GetCapabilitiesRequest::default());
    request.metadata_mut().insert("x-large", "x".repeat(200_000).parse().unwrap());
    assert!(scene.capabilities().get_capabilities(request).await.is_err());
    assert!(is_well(&scene).await);
    scene.end().await;
}

#[tokio::test]
async fn calls_that_do_not_exist_are_not_implemented() {
    let scene = Scene::new().await;
    let status = half_open(&scene, "/no.such.Service/Call", b"x").await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    scene.end().await;
}
