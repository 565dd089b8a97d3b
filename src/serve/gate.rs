//! The gate before all services: who is it, is there room, and has the message come in time.

use super::instance::Caller;
use super::limits::ServeLimits;
use super::metrics::ServeMetrics;
use super::options::{Access, Reach};
use super::socket::{Origin, Peer};
use super::status;
use sha2::{Digest as _, Sha256};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::Semaphore;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::service::Routes;
use tonic::transport::server::TlsConnectInfo;

type Request = http::Request<Body>;
type Response = http::Response<Body>;

/// Calls that last as long as their stream does, and have bounds of their own.
const UPLOAD: &str = "/google.bytestream.ByteStream/Write";

/// Open to everybody: it tells whether the server serves, and load balancers have no tokens.
const HEALTH: &str = "/grpc.health.v1.Health/";

/// One message for every reason: a guesser learns nothing.
const REFUSED: &str = "this peer has not shown who it is";

/// The gate.
#[derive(Clone, Debug)]
pub(super) struct Gate {
    routes: Routes,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    tokens: Vec<([u8; 32], Arc<Reach>)>,
    certificates: Vec<([u8; 32], Arc<Reach>)>,
    every: Arc<Reach>,
    calls: Arc<Semaphore>,
    call_within: Duration,
    metrics: Arc<ServeMetrics>,
}

impl Gate {
    pub(super) fn new(
        routes: Routes,
        access: &Access,
        limits: &ServeLimits,
        metrics: Arc<ServeMetrics>,
    ) -> Self {
        let token = |token: &super::options::Token| (token.sha256, Arc::new(token.reach.clone()));
        let shared = Shared {
            tokens: access.tokens.iter().map(token).collect(),
            certificates: access
                .certificates
                .iter()
                .map(|grant| (grant.sha256, Arc::new(grant.reach.clone())))
                .collect(),
            every: Arc::new(Reach::Every),
            calls: Arc::new(Semaphore::new(limits.calls)),
            call_within: limits.call_within,
            metrics,
        };
        Gate { routes, shared: Arc::new(shared) }
    }
}

/// The reach of what was shown. Takes as long for a wrong secret as for a right one.
fn find(known: &[([u8; 32], Arc<Reach>)], shown: [u8; 32]) -> Option<Arc<Reach>> {
    let mut found = None;
    for (secret, reach) in known {
        let difference = secret.iter().zip(shown).fold(0u8, |sum, (left, right)| sum | (left ^ right));
        if std::hint::black_box(difference) == 0 {
            found = Some(reach.clone());
        }
    }
    found
}

impl Shared {
    /// Who makes a call. A peer that comes by a Unix socket has been looked at when it came.
    fn identify(&self, request: &Request) -> Result<Caller, Status> {
        let refused = || Status::unauthenticated(REFUSED);
        let tls = request.extensions().get::<TlsConnectInfo<Peer>>();
        let peer = tls.map(TlsConnectInfo::get_ref).or_else(|| request.extensions().get::<Peer>());
        let peer = peer.ok_or_else(refused)?;
        let mut reaches = Vec::with_capacity(2);
        if let Origin::Tcp(_) = peer.origin {
            if !self.tokens.is_empty() {
                let token = bearer(request.headers()).ok_or_else(refused)?;
                reaches.push(find(&self.tokens, Sha256::digest(token).into()).ok_or_else(refused)?);
            }
            if !self.certificates.is_empty() {
                let shown = tls.and_then(TlsConnectInfo::peer_certs).ok_or_else(refused)?;
                let leaf = shown.first().ok_or_else(refused)?;
                let found = find(&self.certificates, Sha256::digest(leaf.as_ref()).into());
                reaches.push(found.ok_or_else(refused)?);
            }
        }
        if reaches.is_empty() {
            reaches.push(self.every.clone());
        }
        peer.called.store(true, Ordering::Relaxed);
        let is_daemons_own = peer.origin.is_user(rustix::process::geteuid().as_raw());
        Ok(Caller { reaches, line: peer.line.clone(), is_daemons_own })
    }
}

fn bearer(headers: &http::HeaderMap) -> Option<&[u8]> {
    let header = headers.get(http::header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = header.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
}

impl Service<Request> for Gate {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // The routes are always ready; room is looked for when a call comes, so that it is refused and does not wait.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let mut routes = self.routes.clone();
        let shared = self.shared.clone();
        if request.uri().path().starts_with(HEALTH) {
            return Box::pin(async move { routes.call(request).await });
        }
        let refuse = |status: Status| -> Self::Future {
            self.shared.metrics.calls_refused.count();
            Box::pin(std::future::ready(Ok(status.into_http())))
        };
        let caller = match shared.identify(&request) {
            Ok(caller) => caller,
            Err(status) => return refuse(status),
        };
        let Ok(permit) = shared.calls.clone().try_acquire_owned() else {
            return refuse(status::exhausted("too many calls at the same time"));
        };
        shared.metrics.calls.count();
        request.extensions_mut().insert(caller);
        let is_upload = request.uri().path() == UPLOAD;
        Box::pin(async move {
            // Until the answer begins: what a stream then says is paced by its reader, and costs no message here.
            let _permit = permit;
            if is_upload {
                return routes.call(request).await;
            }
            match tokio::time::timeout(shared.call_within, routes.call(request)).await {
                Ok(response) => response,
                Err(_) => Ok(Status::deadline_exceeded("the call took too long").into_http()),
            }
        })
    }
}
