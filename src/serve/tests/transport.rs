//! Sockets, TLS, tokens, and which instance a peer reaches.

use super::scene::*;
use crate::action::{Digest, DigestFunction, encode};
use crate::serve::*;
use fulgurite_proto::reapi;
use fulgurite_proto::reapi::capabilities_client::CapabilitiesClient;
use fulgurite_proto::reapi::content_addressable_storage_client::ContentAddressableStorageClient;
use fulgurite_proto::reapi::execution_client::ExecutionClient;
use prost::Message;
use sha2::Digest as _;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use tokio::sync::oneshot;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status};

const AUTHORITY: &str = include_str!("pem/authority.pem");
const SERVER: (&str, &str) = (include_str!("pem/server.pem"), include_str!("pem/server.key"));
const CLIENT: (&str, &str) = (include_str!("pem/client.pem"), include_str!("pem/client.key"));
const SECOND: (&str, &str) = (include_str!("pem/second.pem"), include_str!("pem/second.key"));
/// A second authority, whose certificates `EXPIRED`, of a day in 2020, and `CURRENT` differ in nothing else.
const ANOTHER: &str = include_str!("pem/another.pem");
const EXPIRED: (&str, &str) = (include_str!("pem/expired.pem"), include_str!("pem/expired.key"));
const CURRENT: (&str, &str) = (include_str!("pem/current.pem"), include_str!("pem/current.key"));
const FOREIGN: (&str, &str) = (include_str!("pem/foreign.pem"), include_str!("pem/foreign.key"));

/// A server by TCP, with instances `one` and `two/deep`.
struct Tcp {
    address: SocketAddr,
    _dir: tempfile::TempDir,
    stores: Vec<crate::cas::Cas>,
    stop: oneshot::Sender<()>,
    serving: tokio::task::JoinHandle<Result<(), ServeError>>,
}

impl Tcp {
    async fn start(tls: Option<TlsOptions>, access: Access) -> Tcp {
        let dir = tempfile::tempdir().unwrap();
        let stores: Vec<_> = ["one", "two"].iter().map(|name| open_cas(&dir.path().join(name))).collect();
        let results = Arc::new(ResultsInMemory::new(10));
        let mut options = options(dir.path(), &stores[0], &results);
        options.listen = vec![Listen::Tcp { address: ([127, 0, 0, 1], 0).into(), tls }];
        options.access = access;
        options.instances[0].name = "one".to_owned();
        let mut second = options.instances[0].clone();
        second.name = "two/deep".to_owned();
        second.cas = stores[1].clone();
        options.instances.push(second);
        let server = Server::bind(options, Some(Fake::new(1, |_, _, _| exited(0)))).await.unwrap();
        let address = server.addresses()[0];
        let (stop, stopped) = oneshot::channel::<()>();
        let end = async {
            let _ = stopped.await;
        };
        let serving = tokio::spawn(server.run(end, std::future::pending()));
        Tcp { address, _dir: dir, stores, stop, serving }
    }

    fn plain(&self) -> Channel {
        Endpoint::new(format!("http://{}", self.address)).unwrap().connect_lazy()
    }

    fn tls(&self, identity: Option<(&str, &str)>) -> Channel {
        let mut config =
            ClientTlsConfig::new().ca_certificate(Certificate::from_pem(AUTHORITY)).domain_name("localhost");
        if let Some((certificate, key)) = identity {
            config = config.identity(Identity::from_pem(certificate, key));
        }
        let endpoint = Endpoint::new(format!("https://{}", self.address)).unwrap();
        endpoint.tls_config(config).unwrap().connect_lazy()
    }

    async fn end(self) {
        self.stop.send(()).unwrap();
        self.serving.await.unwrap().unwrap();
    }
}

async fn ask(channel: Channel, instance: &str, authorization: Option<&str>) -> Result<(), Status> {
    let mut request = Request::new(reapi::GetCapabilitiesRequest { instance_name: instance.to_owned() });
    if let Some(authorization) = authorization {
        request.metadata_mut().insert("authorization", authorization.parse().unwrap());
    }
    CapabilitiesClient::new(channel).get_capabilities(request).await.map(drop)
}

fn code(answer: Result<(), Status>) -> Code {
    answer.map_or_else(|status| status.code(), |()| Code::Ok)
}

fn token(secret: &str, reach: Reach) -> Token {
    Token { sha256: Digest::of(DigestFunction::Sha256, secret.as_bytes()).hash, reach }
}

#[tokio::test]
async fn instances_that_are_not_there_are_named_to_who_may_know() {
    let server = Tcp::start(None, Access::default()).await;
    for instance in ["one", "two/deep"] {
        ask(server.plain(), instance, None).await.unwrap();
    }
    for instance in ["", "two", "../one", "one/", "%6fne", "оne"] {
        let status = ask(server.plain(), instance, None).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains("two/deep"), "{status}");
    }
    server.end().await;
}

#[tokio::test]
async fn g17_tokens_open_what_they_are_for_and_nothing_else() {
    let access = Access {
        tokens: vec![token("all", Reach::Every), token("first", Reach::Only(vec!["one".to_owned()]))],
        ..Access::default()
    };
    let server = Tcp::start(None, access).await;
    for (authorization, instance, expected) in [
        (Some("Bearer all"), "two/deep", Code::Ok),
        (Some("bearer first"), "one", Code::Ok),
        (Some("Bearer first"), "two/deep", Code::PermissionDenied),
        (Some("Bearer first"), "nowhere", Code::PermissionDenied),
        (Some("Bearer wrong"), "one", Code::Unauthenticated),
        (Some("Bearer "), "one", Code::Unauthenticated),
        (Some("all"), "one", Code::Unauthenticated),
        (None, "one", Code::Unauthenticated),
    ] {
        let answer = ask(server.plain(), instance, authorization).await;
        assert_eq!(code(answer), expected, "{authorization:?} {instance}");
    }
    // Whether there is such an instance is told only to who may use all.
    let forbidden = ask(server.plain(), "two/deep", Some("Bearer first")).await.unwrap_err();
    let absent = ask(server.plain(), "nowhere", Some("Bearer first")).await.unwrap_err();
    assert_eq!(forbidden.message(), absent.message());
    // Health needs no token.
    let mut health = tonic_health::pb::health_client::HealthClient::new(server.plain());
    health.check(tonic_health::pb::HealthCheckRequest::default()).await.unwrap();
    server.end().await;
}

#[tokio::test]
async fn g17_certificates_open_what_they_are_for() {
    let der = der(CLIENT.0);
    let access = Access {
        certificates: vec![CertificateGrant {
            sha256: sha2::Sha256::digest(der).into(),
            reach: Reach::Only(vec!["one".to_owned()]),
        }],
        ..Access::default()
    };
    let tls = TlsOptions {
        certificate_pem: SERVER.0.to_owned(),
        key_pem: SERVER.1.to_owned(),
        client_authorities_pem: Some(AUTHORITY.to_owned()),
    };
    let server = Tcp::start(Some(tls), access).await;
    assert_eq!(code(ask(server.tls(Some(CLIENT)), "one", None).await), Code::Ok);
    assert_eq!(code(ask(server.tls(Some(CLIENT)), "two/deep", None).await), Code::PermissionDenied);
    assert_eq!(code(ask(server.tls(Some(SECOND)), "one", None).await), Code::Unauthenticated);
    // Without a certificate, or with a stranger's, there is no connection.
    assert!(ask(server.tls(None), "one", None).await.is_err());
    assert!(ask(server.tls(Some(FOREIGN)), "one", None).await.is_err());
    assert!(ask(server.plain(), "one", None).await.is_err());
    server.end().await;
}

#[tokio::test]
async fn g17_a_certificate_that_has_expired_opens_nothing() {
    let tls = TlsOptions {
        certificate_pem: SERVER.0.to_owned(),
        key_pem: SERVER.1.to_owned(),
        client_authorities_pem: Some(format!("{AUTHORITY}{ANOTHER}")),
    };
    let server = Tcp::start(Some(tls), Access::default()).await;
    assert_eq!(code(ask(server.tls(Some(CURRENT)), "one", None).await), Code::Ok);
    assert!(ask(server.tls(Some(EXPIRED)), "one", None).await.is_err());
    assert_eq!(code(ask(server.tls(Some(CLIENT)), "one", None).await), Code::Ok);
    server.end().await;
}

/// The bytes within a PEM file of one certificate.
fn der(pem: &str) -> Vec<u8> {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let text: Vec<u8> = pem.lines().filter(|line| !line.starts_with("--")).flat_map(str::bytes).collect();
    let mut bytes = Vec::new();
    for four in text.chunks(4) {
        let digits = four.iter().filter_map(|digit| alphabet.iter().position(|known| known == digit));
        let digits: Vec<usize> = digits.collect();
        let value = digits.iter().fold(0, |sum, digit| sum << 6 | digit) << (6 * (4 - digits.len()));
        let three = [(value >> 16) as u8, (value >> 8) as u8, value as u8];
        bytes.extend_from_slice(&three[..digits.len() - 1]);
    }
    bytes
}

#[tokio::test]
async fn g19_one_tenant_does_not_see_what_another_has() {
    let server = Tcp::start(None, Access::default()).await;
    let digest: Digest = server.stores[0].put_bytes(SHA, b"secret").unwrap();
    for (instance, missing) in [("one", 0), ("two/deep", 1)] {
        let request = reapi::FindMissingBlobsRequest {
            instance_name: instance.to_owned(),
            blob_digests: vec![crate::action::encode::digest(&digest)],
            ..Default::default()
        };
        let answer = ContentAddressableStorageClient::new(server.plain()).find_missing_blobs(request).await;
        assert_eq!(answer.unwrap().into_inner().missing_blob_digests.len(), missing);
    }
    server.end().await;
}

#[tokio::test]
async fn g21_operations_are_found_by_their_own_tenant_alone() {
    use fulgurite_proto::google::longrunning::GetOperationRequest;
    use fulgurite_proto::google::longrunning::operations_client::OperationsClient;
    let only = |name: &str| token(name, Reach::Only(vec![name.to_owned()]));
    let access = Access { tokens: vec![only("one"), only("two/deep")], ..Access::default() };
    let server = Tcp::start(None, access).await;
    let put = |bytes: &[u8]| Some(encode::digest(&server.stores[0].put_bytes(SHA, bytes).unwrap()));
    let command = reapi::Command { arguments: vec!["true".to_owned()], ..Default::default() };
    let action = reapi::Action {
        command_digest: put(&command.encode_to_vec()),
        input_root_digest: put(b""),
        ..Default::default()
    };
    fn with<T>(message: T, token: &str) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        request
    }
    let request = reapi::ExecuteRequest {
        instance_name: "one".to_owned(),
        action_digest: put(&action.encode_to_vec()),
        ..Default::default()
    };
    let mut client = ExecutionClient::new(server.plain());
    let mut stream = client.execute(with(request, "one")).await.unwrap().into_inner();
    let name = stream.message().await.unwrap().unwrap().name;
    let wait = || reapi::WaitExecutionRequest { name: name.clone() };
    let get = || GetOperationRequest { name: name.clone() };
    assert!(client.wait_execution(with(wait(), "one")).await.is_ok());
    let refused = client.wait_execution(with(wait(), "two/deep")).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    let mut operations = OperationsClient::new(server.plain());
    assert!(operations.get_operation(with(get(), "one")).await.is_ok());
    assert_eq!(operations.get_operation(with(get(), "two/deep")).await.unwrap_err().code(), Code::NotFound);
    drop(stream);
    server.end().await;
}

#[tokio::test]
async fn g23_the_socket_is_for_its_owner_alone() {
    let scene = Scene::new().await;
    let mode = std::fs::metadata(scene.dir.path().join("socket")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    scene.end().await;
}

#[tokio::test]
async fn a_living_daemon_keeps_its_socket_and_a_dead_one_loses_it() {
    let scene = Scene::new().await;
    let bind = async || {
        let results = Arc::new(ResultsInMemory::new(1));
        Server::bind(options(scene.dir.path(), &scene.cas, &results), None).await
    };
    assert!(matches!(bind().await.err(), Some(ServeError::Listen(ListenError::Taken(_)))));
    scene.action_cache(); // Still served.
    let path = scene.dir.path().join("other").join("socket");
    std::fs::create_dir(path.parent().unwrap()).unwrap();
    let results = Arc::new(ResultsInMemory::new(1));
    let other = || options(path.parent().unwrap(), &scene.cas, &results);
    // What a killed daemon leaves behind: a file at which nobody listens.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    drop(Server::bind(other(), None).await.unwrap());
    assert!(!path.exists(), "the file goes with the daemon");
    // A daemon that knows nothing of the lock.
    let living = std::os::unix::net::UnixListener::bind(&path).unwrap();
    assert!(matches!(
        Server::bind(other(), None).await.err(),
        Some(ServeError::Listen(ListenError::Taken(_)))
    ));
    drop(living);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "precious").unwrap();
    let refused = Server::bind(other(), None).await.err();
    assert!(matches!(refused, Some(ServeError::Listen(ListenError::NoSocket(_)))));
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    scene.end().await;
}

#[tokio::test]
async fn the_services_describe_themselves() {
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    let scene = Scene::new().await;
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = ServerReflectionClient::new(scene.channel.clone())
        .server_reflection_info(tokio_stream::iter([request]))
        .await
        .unwrap()
        .into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(list) = answer else { panic!("{answer:?}") };
    let names: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
    for name in ["build.bazel.remote.execution.v2.Execution", "google.bytestream.ByteStream"] {
        assert!(names.iter().any(|known| known == name), "{names:?}");
    }
    scene.end().await;
}
