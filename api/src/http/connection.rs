//! One client: its requests, one after the other.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, SERVER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::UnixStream;
use tokio::sync::watch;

use super::body::AnswerBody;
use super::server::{IDLE_ENOUGH, Shared, Signal};
use super::stream::{GuardedStream, Progress};
use super::{Limits, Reply};
use crate::action::{VmmAction, VmmData};
use crate::{ApiError, Status, openapi, routes};

const SERVER_NAME: HeaderValue =
    HeaderValue::from_static(concat!("vmctl/", env!("CARGO_PKG_VERSION")));
const DEPRECATION: HeaderName = HeaderName::from_static("deprecation");
/// The most bytes of a request's header, and of what is read and written at a time.
const MAX_BUFFER_BYTES: usize = 16 << 10;

/// Serves a client until it closes the connection, stalls, or is told to go.
pub(super) async fn serve(
    stream: UnixStream,
    shared: &Arc<Shared>,
    mut signal: watch::Receiver<Signal>,
) {
    let progress = Progress::new();
    let stream = GuardedStream::new(stream, Arc::clone(&progress), shared.limits);
    let service = service_fn(|request| {
        let client = Client { shared: Arc::clone(shared), progress: Arc::clone(&progress) };
        async move { Ok::<_, Infallible>(client.answer(request).await) }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(shared.limits.idle_timeout)
            .max_buf_size(MAX_BUFFER_BYTES)
            .serve_connection(TokioIo::new(stream), service)
    );
    let mut closing = false;
    loop {
        let stop = signal.borrow_and_update().stop;
        if !closing && (stop || progress.idle() >= IDLE_ENOUGH) {
            closing = true;
            connection.as_mut().graceful_shutdown();
        }
        let mut signalled = pin!(signal.changed());
        let ended = poll_fn(|cx| {
            if !closing && signalled.as_mut().poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            connection.as_mut().poll(cx).map(Some)
        });
        if let Some(outcome) = ended.await {
            if let Err(error) = outcome {
                log::debug!("an API connection ended: {error}");
            }
            return;
        }
    }
}

/// What is at hand to answer one client's requests.
struct Client {
    shared: Arc<Shared>,
    progress: Arc<Progress>,
}

impl Client {
    async fn answer(&self, request: Request<Incoming>) -> Response<AnswerBody> {
        self.progress.begin();
        let (method, uri) = (request.method().clone(), request.uri().clone());
        let mut response = match self.carry_out(request).await {
            Ok(response) => response,
            Err(error) => self.fault(&error),
        };
        response.headers_mut().insert(SERVER, SERVER_NAME);
        log::debug!("{method} {uri}: {}", response.status().as_u16());
        response
    }

    async fn carry_out(
        &self,
        request: Request<Incoming>,
    ) -> Result<Response<AnswerBody>, ApiError> {
        let (head, body) = request.into_parts();
        let body = match self.receive(head.uri.path(), body).await {
            Ok(body) => body,
            Err(error) => {
                self.progress.refuse();
                return Ok(closing(self.fault(&error)));
            }
        };
        let path = head.uri.path();
        match routes::parse(head.method.as_str(), path, &body)? {
            routes::Request::Events => self.stream_events(follows(head.uri.query())?),
            routes::Request::OpenApi => Ok(self.whole(200, routes::JSON, openapi::json())),
            routes::Request::Action(action) => self.act(action).await,
        }
    }

    async fn act(&self, action: VmmAction) -> Result<Response<AnswerBody>, ApiError> {
        let deprecation = routes::deprecation(&action);
        let answer = routes::respond(&self.submit(action).await?);
        let mut response = self.whole(answer.status, answer.content_type, answer.body);
        if let Some(message) = deprecation {
            log::warn!("{message}");
            response.headers_mut().insert(DEPRECATION, HeaderValue::from_static("true"));
        }
        Ok(response)
    }

    /// Receives a request's body, if it isn't too large.
    async fn receive(&self, path: &str, mut body: Incoming) -> Result<Bytes, ApiError> {
        let limits = &self.shared.limits;
        let limit = body_limit(limits, path);
        // What is announced is refused before the client is asked for it (`Expect: 100-continue`).
        if body.size_hint().lower() > limit as u64 {
            return Err(too_large(limit));
        }
        let received = async {
            let mut bytes = Vec::new();
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| {
                    ApiError::bad_request(format!("The request's body can't be read: {error}"))
                })?;
                let chunk = frame.into_data().unwrap_or_default();
                if bytes.len() + chunk.len() > limit {
                    return Err(too_large(limit));
                }
                bytes.extend_from_slice(&chunk);
            }
            Ok(bytes.into())
        };
        tokio::time::timeout(limits.body_timeout, received).await.unwrap_or_else(|_| {
            let message = format!(
                "The request's body didn't arrive within {} seconds.",
                limits.body_timeout.as_secs()
            );
            Err(ApiError::new(Status::RequestTimeout, message))
        })
    }

    async fn submit(&self, action: VmmAction) -> Result<VmmData, ApiError> {
        let (reply, outcome) = Reply::new();
        self.shared.service.submit(action, reply);
        outcome.await.unwrap_or_else(|_| {
            Err(ApiError::internal(
                "The VMM ended or failed before it had carried out the request.",
            ))
        })
    }

    fn stream_events(&self, follow: bool) -> Result<Response<AnswerBody>, ApiError> {
        let slots = Arc::clone(&self.shared.event_slots);
        let slot = slots.try_acquire_owned().map_err(|_| {
            ApiError::unavailable(format!(
                "{} clients listen to events already.",
                self.shared.limits.max_event_streams
            ))
        })?;
        let subscription = self.shared.events.subscribe(follow);
        let body = AnswerBody::events(subscription, slot, Arc::clone(&self.progress));
        let mut response = Response::new(body);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(routes::NDJSON));
        Ok(response)
    }

    fn fault(&self, error: &ApiError) -> Response<AnswerBody> {
        let body = serde_json::to_vec(&error.body()).unwrap_or_default();
        self.whole(error.status.code(), routes::JSON, body)
    }

    fn whole(
        &self,
        status: u16,
        content_type: &'static str,
        body: impl Into<Bytes>,
    ) -> Response<AnswerBody> {
        let body = body.into();
        let has_body = !body.is_empty();
        let mut response = Response::new(AnswerBody::whole(body, Arc::clone(&self.progress)));
        *response.status_mut() =
            StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if has_body {
            let content_type = HeaderValue::from_static(content_type);
            response.headers_mut().insert(CONTENT_TYPE, content_type);
        }
        response
    }
}

/// Has the connection closed after the answer: what follows on it is the rest of the request.
fn closing(mut response: Response<AnswerBody>) -> Response<AnswerBody> {
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

fn body_limit(limits: &Limits, path: &str) -> usize {
    // As `routes::parse` has it, slashes around a path mean nothing.
    if path.trim_matches('/') == "mmds" {
        limits.max_mmds_body_bytes
    } else {
        limits.max_body_bytes
    }
}

fn too_large(limit: usize) -> ApiError {
    ApiError::too_large(format!("The request's body is larger than the limit of {limit} bytes."))
}

/// Reads the query of the event stream's path.
fn follows(query: Option<&str>) -> Result<bool, ApiError> {
    match query {
        None | Some("" | "follow=true") => Ok(true),
        Some("follow=false") => Ok(false),
        Some(query) => Err(ApiError::bad_request(format!(
            "The query {query:?} is neither follow=true nor follow=false."
        ))),
    }
}
