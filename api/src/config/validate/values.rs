//! Checks of single values.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::json;

use super::super::{ConfigError, Field, RateLimiter};

/// The longest identifier of a device in bytes.
const MAX_ID_BYTES: usize = 64;

/// The longest path of a Unix socket in bytes: `sun_path` less the terminating NUL.
const MAX_SOCKET_PATH_BYTES: usize = 107;

/// The longest path of a file in bytes: `PATH_MAX` less the terminating NUL.
const MAX_PATH_BYTES: usize = 4095;

/// The limiter without the buckets that limit nothing.
pub(super) fn limiter(spec: Option<RateLimiter>) -> RateLimiter {
    spec.unwrap_or_default().effective()
}

pub(super) fn check_id(field: &Field, id: &str) -> Result<(), ConfigError> {
    if id.is_empty() {
        return Err(ConfigError::Missing { field: field.clone() });
    }
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if id.len() > MAX_ID_BYTES || !id.bytes().all(is_allowed) {
        let reason = "is no identifier: 1 to 64 letters, digits, '_' and '-'";
        return Err(invalid(field.clone(), id, reason));
    }
    Ok(())
}

pub(super) fn checked_path(field: Field, path: PathBuf) -> Result<PathBuf, ConfigError> {
    if path == Path::new("") {
        return Err(ConfigError::Missing { field });
    }
    if path.as_os_str().as_bytes().contains(&0) {
        return Err(invalid(field, path.to_string_lossy(), "has a NUL in it"));
    }
    let len = path.as_os_str().len();
    if len > MAX_PATH_BYTES {
        let start: String = path.to_string_lossy().chars().take(40).collect();
        let reason =
            format!("and what follows are {len} bytes; a path has at most {MAX_PATH_BYTES}");
        return Err(invalid(field, start, &reason));
    }
    // It travels as JSON, which has no other strings.
    if path.to_str().is_none() {
        return Err(invalid(field, path.to_string_lossy(), "isn't UTF-8"));
    }
    Ok(path)
}

pub(super) fn checked_socket(field: Field, path: PathBuf) -> Result<PathBuf, ConfigError> {
    let path = checked_path(field.clone(), path)?;
    let len = path.as_os_str().len();
    if len > MAX_SOCKET_PATH_BYTES {
        let reason =
            format!("is {len} bytes long; a socket's path has at most {MAX_SOCKET_PATH_BYTES}");
        return Err(invalid(field, path.to_string_lossy(), &reason));
    }
    Ok(path)
}

pub(super) fn in_range(
    field: Field,
    value: u64,
    first: u64,
    last: u64,
) -> Result<u64, ConfigError> {
    if (first..=last).contains(&value) {
        return Ok(value);
    }
    let expected = if last == u64::MAX {
        format!("at least {first}")
    } else {
        format!("from {first} to {last}")
    };
    Err(ConfigError::OutOfRange { field, value, expected })
}

/// Refuses any value of a key that isn't honoured but its default.
pub(super) fn only<T: PartialEq + Serialize>(
    field: Field,
    value: Option<&T>,
    default: &T,
    accepted: &'static str,
) -> Result<(), ConfigError> {
    match value {
        Some(value) if value != default => {
            Err(ConfigError::Unsupported { field, value: json!(value).to_string(), accepted })
        }
        _ => Ok(()),
    }
}

pub(super) fn invalid(field: Field, value: impl Into<String>, reason: &str) -> ConfigError {
    ConfigError::Invalid { field, value: value.into(), reason: reason.to_owned() }
}

pub(super) const fn is_printable(byte: u8) -> bool {
    matches!(byte, b' '..=b'~')
}
