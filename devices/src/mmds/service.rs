//! What each request is answered, as Firecracker's metadata service does.

use std::time::Instant;

use super::Mmds;
use super::config::MmdsVersion;
use super::http::{Header, Method, Request, Response, Status};
use super::store::{Format, LookupError};
use super::token::TTL_SECONDS;

/// Where tokens are made.
const TOKEN_PATH: &str = "/latest/api/token";

impl Mmds {
    /// Answers `request`, which came at `now`.
    pub(super) fn answer(&self, request: &Request, now: Instant) -> Response {
        if request.path.is_empty() {
            return Response::text(Status::BadRequest, "Invalid URI.");
        }
        match request.method {
            Method::Get => match self.check_token(request, now) {
                Ok(()) => self.read(request),
                Err(refusal) => refusal,
            },
            Method::Put => self.make_token(request, now),
            Method::Head | Method::Other => {
                let body = "Not allowed HTTP method.";
                let body = if request.method == Method::Head { "" } else { body };
                let mut response = Response::text(Status::MethodNotAllowed, body);
                response.headers.push(("Allow".to_owned(), "GET, PUT".to_owned()));
                response
            }
        }
    }

    /// Counts reads without a valid token, and refuses them where one is needed.
    fn check_token(&self, request: &Request, now: Instant) -> Result<(), Response> {
        let (missing, reason) = match &request.token {
            None => (
                &self.metrics.rx_no_token,
                "No MMDS token provided. Use `X-metadata-token` or `X-aws-ec2-metadata-token` \
                 header to specify the session token.",
            ),
            Some(token) if self.tokens.is_valid(token, now) => return Ok(()),
            Some(_) => (&self.metrics.rx_invalid_token, "MMDS token not valid."),
        };
        missing.add(1);
        match self.lock().config.version {
            MmdsVersion::V1 => Ok(()),
            MmdsVersion::V2 => Err(Response::text(Status::Unauthorized, reason)),
        }
    }

    fn read(&self, request: &Request) -> Response {
        let state = self.lock();
        let json = request.wants_json && !state.config.imds_compat;
        let (format, content_type) = if json {
            (Format::Json, "application/json")
        } else {
            (Format::PlainText, "text/plain")
        };
        match state.store.look_up(&without_empty_segments(&request.path), format) {
            Ok(body) => Response { content_type, ..Response::text(Status::Ok, body) },
            Err(LookupError::NotFound) => not_found(request),
            Err(LookupError::NoPlainText) => Response::text(
                Status::NotImplemented,
                "Cannot retrieve value. The value has an unsupported type.",
            ),
        }
    }

    /// Makes a token, unless a proxy asks: it may do so for somebody outside of the guest.
    fn make_token(&self, request: &Request, now: Instant) -> Response {
        let bad = |reason: String| Response::text(Status::BadRequest, reason);
        if let Some(name) = &request.forwarded_for {
            return bad(format!("Invalid header. Reason: Unsupported header name. Key: {name}"));
        }
        if without_empty_segments(&request.path) != TOKEN_PATH {
            return not_found(request);
        }
        let Some(Header { name, value }) = &request.ttl else {
            return bad(
                "Token time to live value not found. Use `X-metadata-token-ttl-seconds` or \
                        `X-aws-ec2-metadata-token-ttl-seconds` header to specify the token's \
                        lifetime."
                    .to_owned(),
            );
        };
        let Some(ttl) = str::from_utf8(value).ok().and_then(|text| text.parse().ok()) else {
            let value = String::from_utf8_lossy(value);
            return bad(format!(
                "Invalid header. Reason: Invalid value. Key:{name}; Value:{value}"
            ));
        };
        let Some(token) = self.tokens.issue(ttl, now) else {
            let (min, max) = (TTL_SECONDS.start(), TTL_SECONDS.end());
            return bad(format!(
                "Invalid time to live value provided for token: {ttl}. Please provide a value \
                 between {min} and {max}."
            ));
        };
        let mut response = Response::text(Status::Ok, token);
        response.headers.push((name.clone(), ttl.to_string()));
        response
    }
}

fn not_found(request: &Request) -> Response {
    Response::text(Status::NotFound, format!("Resource not found: {}.", request.path))
}

/// Makes one `/` of several in a row.
fn without_empty_segments(path: &str) -> String {
    let mut clean = String::with_capacity(path.len());
    for character in path.chars() {
        if character != '/' || !clean.ends_with('/') {
            clean.push(character);
        }
    }
    clean
}

#[cfg(test)]
mod tests;
