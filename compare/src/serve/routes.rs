//! Requests and answers.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{DefaultBodyLimit, Extension, Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{BoxError, Router};
use futures_util::stream;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::board::Board;
use super::connection::HangUp;
use super::floor::{Floor, NotDone};
use super::guard::{Guard, Refusal};
use super::page::{self, Document};
use crate::model::{WayId, Workload};

/// How large a request's body may be.
const MAX_BODY_BYTES: usize = 4096;

/// How long a request's body and its answer's head may take.
const REQUEST_TIME: Duration = Duration::from_secs(10);

/// What the handlers share.
pub(super) struct Site {
    pub(super) guard: Guard,
    pub(super) board: Arc<Board>,
    pub(super) floor: Arc<Floor>,
}

type Shared = State<Arc<Site>>;
type Answer = Result<Response, Failure>;

/// Why a request isn't served.
struct Failure(StatusCode, String);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        json_response(self.0, &json!({ "error": self.1 }).to_string())
    }
}

impl From<NotDone> for Failure {
    fn from(reason: NotDone) -> Self {
        let status = match reason {
            NotDone::NoSuchWay(_) | NotDone::NoRace => StatusCode::BAD_REQUEST,
            NotDone::NoSuchInstance | NotDone::NoSuchWorkload => StatusCode::NOT_FOUND,
            NotDone::TooMany | NotDone::Busy => StatusCode::CONFLICT,
            NotDone::Unable => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self(status, reason.to_string())
    }
}

/// All paths, behind the guard.
pub(super) fn router(site: Arc<Site>) -> Router {
    Router::new()
        .route("/", get(live))
        .route("/api/state", get(state))
        .route("/api/events", get(events))
        .route("/api/instances", post(start))
        .route("/api/instances/{name}/stop", post(stop))
        .route("/api/race", post(race))
        .route("/api/stop", post(stop_all))
        .route("/api/workloads/{name}", post(measure))
        .fallback(|| async { Failure(StatusCode::NOT_FOUND, "there is no such path".to_owned()) })
        .method_not_allowed_fallback(|| async {
            Failure(StatusCode::METHOD_NOT_ALLOWED, "this path has no such method".to_owned())
        })
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(middleware::from_fn_with_state(site.clone(), admit))
        .with_state(site)
}

/// Lets a request in, or answers it; and tells the browser what it may do with the answer.
async fn admit(State(site): Shared, request: Request, next: Next) -> Response {
    let mut response = match check(&site.guard, &request) {
        Err(refusal) => refuse(refusal, &request),
        // One that's known to be too long isn't waited for.
        Ok(()) if request.body().size_hint().lower() > MAX_BODY_BYTES as u64 => {
            Failure(StatusCode::PAYLOAD_TOO_LARGE, "the body is too long".to_owned())
                .into_response()
        }
        Ok(()) => match tokio::time::timeout(REQUEST_TIME, next.run(request)).await {
            Ok(response) => response,
            Err(_) => {
                Failure(StatusCode::REQUEST_TIMEOUT, "it took too long".to_owned()).into_response()
            }
        },
    };
    let headers = response.headers_mut();
    let fixed = [
        ("cache-control", "no-store"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
        ("referrer-policy", "no-referrer"),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(HeaderValue::from_static(
        "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    ));
    response
}

fn check(guard: &Guard, request: &Request) -> Result<(), Refusal> {
    guard.check_place(request.headers())?;
    if is_page(request) {
        return guard.check_query(request.uri().query());
    }
    Guard::check_site(request.headers())?;
    guard.check_header(request.headers())
}

fn is_page(request: &Request) -> bool {
    request.method() == Method::GET && request.uri().path() == "/"
}

fn refuse(refusal: Refusal, request: &Request) -> Response {
    if refusal == Refusal::Token && is_page(request) {
        return document(StatusCode::FORBIDDEN, &page::NO_TOKEN);
    }
    Failure(StatusCode::FORBIDDEN, refusal.reason().to_owned()).into_response()
}

fn document(status: StatusCode, document: &Document) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, document.policy.as_str()),
    ];
    (status, headers, document.html.clone()).into_response()
}

fn json_response(status: StatusCode, json: &str) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], json.to_owned()).into_response()
}

async fn live() -> Response {
    document(StatusCode::OK, &page::LIVE)
}

async fn state(State(site): Shared) -> Response {
    json_response(StatusCode::OK, &site.board.state())
}

async fn events(
    State(site): Shared,
    Extension(hang_up): Extension<HangUp>,
    headers: HeaderMap,
) -> Answer {
    let last = headers.get("last-event-id").and_then(|last| last.to_str().ok()?.parse().ok());
    let listener = site.board.listen(last, hang_up.0).ok_or_else(|| {
        Failure(StatusCode::SERVICE_UNAVAILABLE, "too many pages are open".to_owned())
    })?;
    site.floor.wake();
    // It ends when the listener has missed something.
    let events = stream::unfold(listener, |mut listener| async {
        let bytes = listener.next().await?;
        Some((Ok::<Bytes, BoxError>(bytes), listener))
    });
    let headers = [(header::CONTENT_TYPE, "text/event-stream")];
    Ok((headers, Body::from_stream(events)).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Start {
    way: WayId,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Race {
    ways: Vec<WayId>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

async fn start(State(site): Shared, headers: HeaderMap, body: Bytes) -> Answer {
    let Start { way } = parse(&headers, &body)?;
    let names = site.floor.start(&[way])?;
    Ok(json_response(StatusCode::CREATED, &json!({ "instance": names.first() }).to_string()))
}

async fn race(State(site): Shared, headers: HeaderMap, body: Bytes) -> Answer {
    let Race { ways } = parse(&headers, &body)?;
    let names = site.floor.start(&ways)?;
    Ok(json_response(StatusCode::CREATED, &json!({ "instances": names }).to_string()))
}

async fn stop(
    State(site): Shared,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let Nothing {} = parse(&headers, &body)?;
    site.floor.stop(&name)?;
    Ok(json_response(StatusCode::ACCEPTED, "{}"))
}

async fn stop_all(State(site): Shared, headers: HeaderMap, body: Bytes) -> Answer {
    let Nothing {} = parse(&headers, &body)?;
    site.floor.stop_all();
    Ok(json_response(StatusCode::ACCEPTED, "{}"))
}

async fn measure(
    State(site): Shared,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let Nothing {} = parse(&headers, &body)?;
    let workload = Workload::ALL.into_iter().find(|workload| workload.name() == name);
    site.floor.measure(workload.ok_or(NotDone::NoSuchWorkload)?)?;
    Ok(json_response(StatusCode::ACCEPTED, "{}"))
}

/// Reads a body. Other pages' forms can't send this content type.
fn parse<T: DeserializeOwned>(headers: &HeaderMap, body: &Bytes) -> Result<T, Failure> {
    let content_type = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    if content_type != Some(b"application/json") {
        let message = "the body must be application/json".to_owned();
        return Err(Failure(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    let bad = |error: serde_json::Error| Failure(StatusCode::BAD_REQUEST, error.to_string());
    // By way of a value, so that a structure can't be given as a list.
    let value: Value = serde_json::from_slice(body).map_err(bad)?;
    if !value.is_object() {
        return Err(Failure(StatusCode::BAD_REQUEST, "the body must be an object".to_owned()));
    }
    serde_json::from_value(value).map_err(bad)
}
