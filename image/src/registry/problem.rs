//! What goes wrong between us and a registry.

use std::io;
use std::time::Duration;

use serde::Deserialize;

use super::Timing;
use crate::ImageError;
use crate::error::shown;

/// Why a registry can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    #[error("nothing listens there")]
    Refused(#[source] io::Error),
    #[error("there's no host of that name")]
    NoHost,
    #[error("it's silent for {} s", .0.as_secs_f32())]
    Silent(Duration),
    #[error("the connection broke")]
    Broken(#[source] io::Error),
    #[error("TLS: {0}")]
    Tls(String),
    #[error("it answers what makes no sense: {0}")]
    Nonsense(String),
    #[error("it answers {status}: {message}")]
    Status { status: u16, message: String },
}

/// Why a request failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// What only the registry is to blame for.
    Problem(Problem),
    /// It refuses access.
    Denied(String),
    /// It hasn't got it.
    Missing(String),
    /// It's over: nothing of the registry's.
    Final(ImageError),
}

impl Failure {
    /// Whether trying again may help.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Problem(Problem::Status { status, .. }) => {
                matches!(status, 408 | 429 | 500 | 502 | 503 | 504)
            }
            Self::Problem(Problem::Broken(_) | Problem::Silent(_)) => true,
            _ => false,
        }
    }

    /// What a request's transport says.
    pub(crate) fn of(error: ureq::Error, timing: &Timing) -> Self {
        let nonsense = |error: ureq::Error| Problem::Nonsense(shown(&error.to_string()));
        Self::Problem(match error {
            ureq::Error::Io(error) => return Self::of_io(error, timing),
            ureq::Error::Timeout(_) => Problem::Silent(timing.read),
            ureq::Error::HostNotFound => Problem::NoHost,
            ureq::Error::ConnectionFailed => Problem::Refused(io::ErrorKind::NotConnected.into()),
            ureq::Error::Rustls(error) => Problem::Tls(shown(&error.to_string())),
            ureq::Error::Tls(error) => Problem::Tls(error.to_owned()),
            ureq::Error::RequireHttpsOnly(_) => {
                Problem::Nonsense("it leads from HTTPS to plain HTTP".to_owned())
            }
            error => nonsense(error),
        })
    }

    /// What reading a body says.
    pub(crate) fn of_io(error: io::Error, timing: &Timing) -> Self {
        match error.get_ref().and_then(|it| it.downcast_ref::<ureq::Error>()) {
            Some(ureq::Error::Timeout(_)) => return Self::Problem(Problem::Silent(timing.read)),
            Some(other) => {
                let text = shown(&other.to_string());
                return Self::Problem(Problem::Broken(io::Error::other(text)));
            }
            None => {}
        }
        if let Some(error) = error.get_ref().and_then(|it| it.downcast_ref::<rustls::Error>()) {
            return Self::Problem(Problem::Tls(shown(&error.to_string())));
        }
        Self::Problem(match error.kind() {
            io::ErrorKind::ConnectionRefused => Problem::Refused(error),
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Problem::Silent(timing.read),
            _ => Problem::Broken(error),
        })
    }

    /// What a status that's no success says; `body` is what came with it.
    pub(crate) fn of_status(status: u16, body: &[u8]) -> Self {
        let message = message(body).unwrap_or_else(|| reason(status).to_owned());
        match status {
            401 | 403 => Self::Denied(message),
            404 => Self::Missing(message),
            _ => Self::Problem(Problem::Status { status, message }),
        }
    }

    /// A line for the user.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Problem(problem) => crate::error::chain(problem),
            Self::Denied(text) | Self::Missing(text) => text.clone(),
            Self::Final(error) => crate::error::chain(error),
        }
    }
}

/// Distribution-spec's "Error Codes".
#[derive(Deserialize)]
struct Envelope {
    errors: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// What a registry gives as its reason.
fn message(body: &[u8]) -> Option<String> {
    let envelope: Envelope = serde_json::from_slice(body).ok()?;
    let entry = envelope.errors.into_iter().next()?;
    let text = if entry.message.is_empty() { entry.code } else { entry.message };
    Some(shown(&text)).filter(|text| !text.is_empty())
}

fn reason(status: u16) -> &'static str {
    let status = ureq::http::StatusCode::from_u16(status).ok();
    status.and_then(|it| it.canonical_reason()).unwrap_or("no reason given")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registrys_reason_is_shown_without_control_characters() {
        let body = br#"{"errors":[{"code":"X","message":"manifest\u001b[31m unknown"}]}"#;
        let Failure::Missing(text) = Failure::of_status(404, body) else { panic!("not missing") };
        assert_eq!(text, "manifest [31m unknown");
        let long = format!(r#"{{"errors":[{{"message":"{}"}}]}}"#, "x".repeat(10_000));
        assert!(Failure::of_status(500, long.as_bytes()).text().len() < 300);
    }

    #[test]
    fn other_bodies_leave_the_statuss_own_words() {
        for body in [&b""[..], b"<html>", b"{}", br#"{"errors":[]}"#, br#"{"errors":[{}]}"#] {
            assert_eq!(Failure::of_status(403, body).text(), "Forbidden");
        }
        assert!(Failure::of_status(503, b"").is_transient());
        assert!(!Failure::of_status(400, b"").is_transient());
    }
}
