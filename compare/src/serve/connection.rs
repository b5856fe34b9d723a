//! Connections: one request each, bounded in number, headers and time.

use std::io;
use std::net::TcpListener as StdListener;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use futures_util::future::{Either, select};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore, watch};

/// How many clients may be connected.
const MAX_CONNECTIONS: usize = 64;

/// How long a request's head may take.
const HEAD_TIME: Duration = Duration::from_secs(10);

/// How large it may be, and what hyper buffers of an answer.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// How many headers it may have.
const MAX_HEADERS: usize = 64;

/// How long to wait when the system has no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a connection's handlers may end it by, at once: its answer is one without an end.
#[derive(Clone, Default)]
pub(super) struct HangUp(pub(super) Arc<Notify>);

/// Serves on this thread, until told to stop; then all connections are closed.
///
/// # Errors
/// There's no runtime.
pub(super) fn serve(
    listener: StdListener,
    router: Router,
    stop: &watch::Sender<bool>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut stop = stop.subscribe();
    runtime.block_on(async {
        let listener = TcpListener::from_std(listener)?;
        let stopped = pin!(stop.wait_for(|stop| *stop));
        select(stopped, pin!(accept(listener, router))).await;
        Ok(())
    })
    // Dropping the runtime drops its tasks, and so the connections.
}

async fn accept(listener: TcpListener, router: Router) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                log::warn!("the live page can't accept a client: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let router = router.clone();
        tokio::spawn(async move {
            serve_one(stream, router).await;
            drop(place);
        });
    }
}

async fn serve_one(stream: TcpStream, router: Router) {
    let hang_up = HangUp::default();
    let handlers = hang_up.clone();
    let service = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(handlers.clone());
        hyper::service::Service::call(&service, request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .keep_alive(false)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    match select(pin!(connection), pin!(hang_up.0.notified())).await {
        Either::Left((Err(error), _)) => log::debug!("a client of the live page: {error}"),
        Either::Left(_) => {}
        Either::Right(_) => log::debug!("a client of the live page didn't read its events"),
    }
}
