//! TLS, certificates of both sides, tokens.

use super::*;
use tonic::transport::{Certificate, Identity, ServerTlsConfig};

macro_rules! pem {
    ($name:literal) => {
        include_bytes!(concat!("../../serve/tests/pem/", $name))
    };
}

fn server(wants_identity: bool) -> Listening {
    let mut tls = ServerTlsConfig::new().identity(Identity::from_pem(pem!("server.pem"), pem!("server.key")));
    if wants_identity {
        tls = tls.client_ca_root(Certificate::from_pem(pem!("authority.pem")));
    }
    Listening::secure(tls)
}

async fn ask(
    server: &Listening,
    tune: impl FnOnce(&mut ClusterOptions),
) -> Result<Capabilities, ClusterError> {
    let mut options = options(&format!("grpcs://localhost:{}", server.address.port()));
    options.authorities_pem = Some(pem!("authority.pem").to_vec());
    options.retry.tries_max = 2;
    tune(&mut options);
    soon(Cluster::new(options)?.capabilities()).await
}

#[tokio::test]
async fn both_sides_show_who_they_are() {
    let open = server(false);
    assert!(ask(&open, |_| ()).await.unwrap().executes);
    let error = ask(&open, |options| options.authorities_pem = Some(pem!("foreign.pem").to_vec())).await;
    assert!(error.as_ref().is_err_and(ClusterError::is_outage), "{error:?}");
    let error = ask(&open, |options| options.authorities_pem = Some(b"no certificate".to_vec())).await;
    assert!(error.is_err());
    // Spoken to without TLS.
    let plain = ask(&open, |options| {
        options.address = open.address.to_string();
        options.authorities_pem = None;
    });
    assert!(plain.await.is_err());
    let closed = server(true);
    let error = ask(&closed, |_| ()).await;
    assert!(error.as_ref().is_err_and(ClusterError::is_outage), "{error:?}");
    let with = |certificate: &[u8], key: &[u8]| Some((certificate.to_vec(), key.to_vec()));
    let own = with(pem!("client.pem"), pem!("client.key"));
    assert!(ask(&closed, |options| options.identity_pem = own).await.unwrap().executes);
    let foreign = with(pem!("foreign.pem"), pem!("foreign.key"));
    assert!(ask(&closed, |options| options.identity_pem = foreign).await.is_err());
    assert_eq!(closed.liar.calls("GetCapabilities"), 1);
}

#[tokio::test]
async fn certificates_without_tls_are_a_mistake() {
    let error = ask(&Listening::start(), |options| options.address = "grpc://localhost:1".to_owned()).await;
    assert!(matches!(error, Err(ClusterError::Options { .. })), "{error:?}");
}

#[tokio::test]
async fn the_token_goes_with_every_call() {
    let scene = Scene::with(|options| options.token = Some("secret".to_owned())).await;
    soon(scene.cluster.capabilities()).await.unwrap();
    let bearer = Some("Bearer secret".to_owned());
    assert_eq!(scene.liar().state().authorizations, [bearer]);
    let mut options = options("localhost:1");
    options.token = Some("new\nline".to_owned());
    assert!(matches!(Cluster::new(options), Err(ClusterError::Options { .. })));
}
