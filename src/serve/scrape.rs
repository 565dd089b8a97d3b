//! `/metrics`: the numbers of this process, over plain HTTP, for whoever scrapes them.
//!
//! Invariants: an answer is made once, whoever asks; a peer that is slow or silent is closed, and takes nothing from
//! others but one of few places. Limits: no TLS and no check of who asks: the address is to be one of loopback.

use super::limits;
use super::listen::ListenError;
use crate::observe;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::SocketAddr;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What Prometheus asks for, and takes.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A place where numbers are told.
#[derive(Debug)]
pub(super) struct Scrape(TcpListener);

impl Scrape {
    pub(super) fn bind(address: SocketAddr) -> Result<Scrape, ListenError> {
        let failed = |why| ListenError::Tcp { address, why };
        let listener = std::net::TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        TcpListener::from_std(listener).map(Scrape).map_err(failed)
    }

    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.0.local_addr().ok()
    }

    /// Answers until `closed` says so.
    pub(super) async fn serve(self, mut closed: watch::Receiver<bool>) {
        // Those who ask belong to this task, and end with it.
        let mut peers = JoinSet::new();
        loop {
            tokio::select! {
                () = over(&mut closed) => return,
                Some(_) = peers.join_next() => {}
                accepted = self.0.accept(), if peers.len() < limits::SCRAPERS_MAX => match accepted {
                    Ok((stream, _)) => drop(peers.spawn(tokio::time::timeout(limits::SCRAPE_WITHIN, peer(stream)))),
                    Err(error) => {
                        tracing::warn!(%error, "cannot take a connection for metrics");
                        tokio::time::sleep(super::listen::PAUSE).await;
                    }
                },
            }
        }
    }
}

/// Waits until `closed` says so; an error is the end as well.
async fn over(closed: &mut watch::Receiver<bool>) {
    let _ = closed.wait_for(|closed| *closed).await;
}

async fn peer(stream: TcpStream) {
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::SCRAPE_WITHIN)
        .max_buf_size(limits::SCRAPE_HEADER_BYTES_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service_fn(answer))
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "somebody asked for metrics, and went away");
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<String>, Infallible> {
    let (is_there, may) = (request.uri().path() == "/metrics", request.method() == Method::GET);
    let mut response = match (is_there, may) {
        (true, true) => {
            // Sources look into the kernel's files.
            match tokio::task::spawn_blocking(|| {
                observe::look_at_pressure();
                observe::read().text()
            })
            .await
            {
                Ok(text) => Response::new(text),
                Err(error) => status(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
            }
        }
        (true, false) => status(StatusCode::METHOD_NOT_ALLOWED, "only GET\n"),
        (false, _) => status(StatusCode::NOT_FOUND, "there is /metrics\n"),
    };
    let is_good = response.status() == StatusCode::OK;
    let kind = if is_good { OPEN_METRICS } else { "text/plain; charset=utf-8" };
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    if is_there && !may {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
    }
    Ok(response)
}

fn status(code: StatusCode, text: &str) -> Response<String> {
    let mut response = Response::new(text.to_owned());
    *response.status_mut() = code;
    response
}

/// Looks at what changes by itself until `closed` says so, as long as anybody would hear of it.
pub(super) async fn sample(mut closed: watch::Receiver<bool>) {
    let mut sampler = observe::Sampler::default();
    let mut every = tokio::time::interval(observe::limits::SAMPLE_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = over(&mut closed) => return,
            _ = every.tick() => {}
        }
        if !observe::Sampler::is_wanted() {
            continue;
        }
        let looked = tokio::task::spawn_blocking(move || {
            observe::look_at_pressure();
            sampler.look();
            sampler
        });
        sampler = looked.await.unwrap_or_default();
    }
}
