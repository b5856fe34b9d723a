//! Requests to one registry, with what it wants of credentials.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use ureq::config::RedirectAuthHeaders;
use ureq::http::{Request, Response};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body, SendBody};

use super::challenge::Challenge;
use super::credentials::Credential;
use super::endpoint::user_agent;
use super::{Endpoint, Failure, Problem, Timing};
use crate::ImageError;
use crate::files::at;

/// Bytes of a refusal that are read.
const MAX_REFUSAL: u64 = 64 << 10;
/// Bytes of a token's response.
const MAX_TOKEN: u64 = 1 << 20;

/// What's granted for every scope.
const ANY_SCOPE: &str = "*";

/// What's done with a resource.
pub(crate) type Method = ureq::http::Method;

/// What's sent with a request; made anew for each attempt.
pub(crate) enum Payload<'a> {
    None,
    Bytes(&'a str, &'a [u8]),
    /// A file of so many bytes; hears how many are sent.
    File(&'a Path, u64, &'a dyn Fn(u64)),
}

/// A registry that's there.
pub(crate) struct Session {
    agent: Agent,
    /// `https://host:port`.
    base: String,
    /// For messages.
    pub(crate) shown: String,
    credential: Option<Credential>,
    pub(crate) timing: Timing,
    /// `Authorization` by scope.
    granted: Mutex<HashMap<String, String>>,
}

impl Session {
    /// Finds out how the registry is reached, by the specification's `/v2/`.
    pub(crate) fn connect(
        endpoint: &Endpoint,
        credential: Option<Credential>,
        timing: Timing,
    ) -> Result<Self, Failure> {
        let mut session = Self {
            agent: agent(endpoint, false, &timing),
            base: String::new(),
            shown: endpoint.shown.clone(),
            credential,
            timing,
            granted: Mutex::default(),
        };
        let mut first = None;
        for base in &endpoint.candidates {
            session.agent = agent(endpoint, base.starts_with("https:"), &timing);
            session.base.clone_from(base);
            match session.probe() {
                Ok(()) => return Ok(session),
                // Another protocol won't help.
                Err(failure @ Failure::Problem(Problem::Refused(_) | Problem::NoHost)) => {
                    return Err(failure);
                }
                Err(failure @ Failure::Problem(Problem::Silent(_))) => return Err(failure),
                Err(failure) => first = first.or(Some(failure)),
            }
        }
        Err(first.unwrap_or(Failure::Problem(Problem::NoHost)))
    }

    /// Whether the registry speaks this protocol.
    fn probe(&self) -> Result<(), Failure> {
        let url = format!("{}/v2/", self.base);
        let response = self.exchange(&Method::GET, &url, &[], &Payload::None, None)?;
        match response.status().as_u16() {
            // What a server says that is spoken with by another protocol.
            400 => Err(self.refusal(response)),
            _ => Ok(()),
        }
    }

    /// Checks the credentials.
    pub(crate) fn log_in(&self) -> Result<(), Failure> {
        self.send(&Method::GET, "/v2/", "", &[], &Payload::None).map(drop)
    }

    /// Sends a request, with what the registry wants of credentials; `place` is a path, or the URL
    /// that it gave. A success is returned.
    pub(crate) fn send(
        &self,
        method: &Method,
        place: &str,
        scope: &str,
        headers: &[(&str, &str)],
        payload: &Payload<'_>,
    ) -> Result<Response<Body>, Failure> {
        let url = self.url(place)?;
        // What was granted here is nobody else's.
        let is_own = url.starts_with(&format!("{}/", self.base));
        let granted = if is_own { self.granted(scope) } else { None };
        let mut response = self.exchange(method, &url, headers, payload, granted.as_deref())?;
        if response.status() == 401 && is_own {
            let challenge = {
                let values = response.headers().get_all("www-authenticate").into_iter();
                Challenge::choose(values.filter_map(|it| it.to_str().ok()))
            };
            let Some(challenge) = challenge else { return Err(self.refusal(response)) };
            drop(response);
            let header = self.authorize(&challenge, scope)?;
            response = self.exchange(method, &url, headers, payload, Some(&header))?;
            if response.status().is_success() {
                let mut granted = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
                // A password is the same for all.
                let scope = if challenge == Challenge::Basic { ANY_SCOPE } else { scope };
                granted.insert(scope.to_owned(), header);
            }
        }
        if response.status().is_success() { Ok(response) } else { Err(self.refusal(response)) }
    }

    fn granted(&self, scope: &str) -> Option<String> {
        let granted = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
        granted.get(scope).or_else(|| granted.get(ANY_SCOPE)).cloned()
    }

    /// Where a place is that the registry named, or we.
    fn url(&self, place: &str) -> Result<String, Failure> {
        if place.starts_with('/') {
            return Ok(format!("{}{place}", self.base));
        }
        let is_allowed = place.starts_with("https://")
            || self.base.starts_with("http://") && place.starts_with("http://");
        if is_allowed {
            return Ok(place.to_owned());
        }
        let place = crate::error::shown(place);
        Err(Failure::Problem(Problem::Nonsense(format!("it leads to {place:?}"))))
    }

    /// One request and its response.
    fn exchange(
        &self,
        method: &Method,
        url: &str,
        headers: &[(&str, &str)],
        payload: &Payload<'_>,
        authorization: Option<&str>,
    ) -> Result<Response<Body>, Failure> {
        let mut request = Request::builder().method(method.clone()).uri(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(value) = authorization {
            request = request.header("authorization", value);
        }
        let wrong = |error: ureq::http::Error| {
            Failure::Problem(Problem::Nonsense(crate::error::shown(&error.to_string())))
        };
        let failed = |error| Failure::of(error, &self.timing);
        let sends = matches!(*method, Method::POST | Method::PUT | Method::PATCH);
        match payload {
            Payload::None if !sends => {
                self.agent.run(request.body(()).map_err(wrong)?).map_err(failed)
            }
            Payload::None => self.agent.run(request.body("").map_err(wrong)?).map_err(failed),
            Payload::Bytes(kind, bytes) => {
                let request = request.header("content-type", *kind);
                self.agent.run(request.body(*bytes).map_err(wrong)?).map_err(failed)
            }
            Payload::File(path, size, progress) => {
                let open = File::open(path).map_err(at("open", path));
                let file = open.map_err(Failure::Final)?;
                let mut reader = Counted { file: file.take(*size), sent: 0, progress: *progress };
                let request = request
                    .header("content-type", "application/octet-stream")
                    .header("content-length", size.to_string());
                let body = SendBody::from_reader(&mut reader);
                self.agent.run(request.body(body).map_err(wrong)?).map_err(failed)
            }
        }
    }

    /// What a status that's no success says.
    fn refusal(&self, mut response: Response<Body>) -> Failure {
        let status = response.status().as_u16();
        let mut body = Vec::new();
        // What can't be read says nothing.
        let _ = response.body_mut().as_reader().take(MAX_REFUSAL).read_to_end(&mut body);
        Failure::of_status(status, &body)
    }

    /// Gets what a challenge asks for: the value of `Authorization`.
    fn authorize(&self, challenge: &Challenge, scope: &str) -> Result<String, Failure> {
        match (challenge, &self.credential) {
            (Challenge::Basic, Some(Credential::Password { user, password })) => {
                Ok(basic(user, password))
            }
            (Challenge::Basic, _) => Err(Failure::Denied("it wants a user's password".to_owned())),
            (Challenge::Bearer { realm, service, scope: asked }, _) => {
                let scope = if scope.is_empty() { asked.as_deref().unwrap_or("") } else { scope };
                self.token(realm, service.as_deref(), scope)
            }
        }
    }

    /// Gets a token (Docker's "Token Authentication Specification").
    fn token(&self, realm: &str, service: Option<&str>, scope: &str) -> Result<String, Failure> {
        let nonsense = |text: &str| Failure::Problem(Problem::Nonsense(text.to_owned()));
        if realm.starts_with('/') {
            return Err(nonsense("its tokens' place is no URL"));
        }
        let realm = self.url(realm)?;
        let mut fields: Vec<(&str, &str)> = Vec::new();
        fields.extend(service.map(|service| ("service", service)));
        fields.extend(scope.split(' ').filter(|it| !it.is_empty()).map(|it| ("scope", it)));
        let response = match &self.credential {
            Some(Credential::Token(token)) => {
                fields.extend([("grant_type", "refresh_token"), ("client_id", "vmctl")]);
                fields.push(("refresh_token", token));
                let form = form(&fields);
                let kind = "application/x-www-form-urlencoded";
                let payload = Payload::Bytes(kind, form.as_bytes());
                self.exchange(&Method::POST, &realm, &[], &payload, None)?
            }
            Some(Credential::Password { user, password }) => {
                fields.push(("account", user));
                let url = with_query(&realm, &form(&fields));
                let header = basic(user, password);
                self.exchange(&Method::GET, &url, &[], &Payload::None, Some(&header))?
            }
            None => {
                let url = with_query(&realm, &form(&fields));
                self.exchange(&Method::GET, &url, &[], &Payload::None, None)?
            }
        };
        if !response.status().is_success() {
            return Err(self.refusal(response));
        }
        let body = self.read(response, MAX_TOKEN)?;
        let token: Token =
            serde_json::from_slice(&body).map_err(|_| nonsense("its token is none"))?;
        let token =
            [token.token, token.access_token].into_iter().flatten().find(|it| !it.is_empty());
        token.map(|it| format!("Bearer {it}")).ok_or_else(|| nonsense("its token is empty"))
    }

    /// Reads a body that must not be longer than `limit` bytes.
    pub(crate) fn read(&self, response: Response<Body>, limit: u64) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        let reader = response.into_body().into_reader();
        let read = reader.take(limit + 1).read_to_end(&mut body);
        read.map_err(|error| Failure::of_io(error, &self.timing))?;
        if body.len() as u64 > limit {
            let text = format!("a document of more than {limit} bytes");
            return Err(Failure::Problem(Problem::Nonsense(text)));
        }
        Ok(body)
    }

    /// Runs what may be tried again, after what is likely to pass.
    pub(crate) fn retry<T>(
        &self,
        note: &dyn Fn(&str),
        mut run: impl FnMut() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let mut tried = 1;
        loop {
            match run() {
                // Who is silent once is so again, and that takes long.
                Err(failure)
                    if tried < self.timing.attempts
                        && failure.is_transient()
                        && !matches!(failure, Failure::Problem(Problem::Silent(_))) =>
                {
                    let pause = self.timing.pause(tried);
                    note(&format!("Retrying in {} s: {}", pause.as_secs_f32(), failure.text()));
                    std::thread::sleep(pause);
                    tried += 1;
                }
                result => return result,
            }
        }
    }

    /// Says it with the registry's name, and what was asked for: an image, a repository.
    pub(crate) fn error(&self, failure: Failure, what: &str) -> ImageError {
        error(&self.shown, self.credential.is_some(), failure, what)
    }
}

/// Says a failure for people.
pub(crate) fn error(
    registry: &str,
    has_credential: bool,
    failure: Failure,
    what: &str,
) -> ImageError {
    let (registry, what) = (registry.to_owned(), what.to_owned());
    match failure {
        Failure::Problem(problem) => ImageError::Registry { registry, source: Box::new(problem) },
        Failure::Denied(said) if has_credential => ImageError::Denied {
            registry,
            what,
            problem: format!(
                "the user name or the password is wrong, or they don't suffice ({said})"
            ),
        },
        Failure::Denied(said) => ImageError::Denied {
            registry,
            what,
            problem: format!("it may not exist, or need a login ({said})"),
        },
        Failure::Missing(said) => ImageError::NotInRegistry {
            reference: what,
            problem: format!("{registry} has no such image ({said})"),
        },
        Failure::Final(error) => error,
    }
}

/// A registry's token.
#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// `a=1&b=2`, encoded.
fn form(fields: &[(&str, &str)]) -> String {
    let encode = |text: &str| {
        let mut encoded = String::new();
        for byte in text.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    encoded.push(byte.into());
                }
                _ => encoded.push_str(&format!("%{byte:02X}")),
            }
        }
        encoded
    };
    let pairs: Vec<_> =
        fields.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
    pairs.join("&")
}

pub(crate) fn with_query(url: &str, query: &str) -> String {
    match (query, url.contains('?')) {
        ("", _) => url.to_owned(),
        (_, true) => format!("{url}&{query}"),
        (_, false) => format!("{url}?{query}"),
    }
}

/// A file on its way out.
struct Counted<'a> {
    file: std::io::Take<File>,
    sent: u64,
    progress: &'a dyn Fn(u64),
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.sent += read as u64;
        (self.progress)(self.sent);
        Ok(read)
    }
}

fn agent(endpoint: &Endpoint, https_only: bool, timing: &Timing) -> Agent {
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::PlatformVerifier)
        .disable_verification(endpoint.unverified)
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build();
    let mut config = Agent::config_builder()
        .http_status_as_error(false)
        .https_only(https_only)
        .max_redirects(5)
        .redirect_auth_headers(RedirectAuthHeaders::SameHost)
        .user_agent(user_agent())
        .timeout_connect(Some(timing.connect))
        .timeout_resolve(Some(timing.connect))
        .timeout_per_read(Some(timing.read))
        .timeout_per_write(Some(timing.read))
        .timeout_recv_response(Some(timing.document))
        .max_idle_connections_per_host(8)
        .tls_config(tls);
    if endpoint.is_loopback {
        config = config.proxy(None);
    }
    config.build().new_agent()
}
