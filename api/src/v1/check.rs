//! Checks of what requests say and no configuration does: files, sockets and identifiers.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::error::ApiError;

/// The longest path of a file in bytes: `PATH_MAX` less the terminating NUL.
const MAX_PATH_BYTES: usize = 4095;

/// The longest path of a Unix socket in bytes: `sun_path` less the terminating NUL.
const MAX_SOCKET_PATH_BYTES: usize = 107;

/// Refuses a path that no file can have.
pub(crate) fn file(key: impl fmt::Display, path: &Path) -> Result<(), ApiError> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.is_empty() {
        return Err(wrong(key, "is empty; it must be a path"));
    }
    if bytes.contains(&0) {
        return Err(wrong(key, "has a NUL in it"));
    }
    if bytes.len() > MAX_PATH_BYTES {
        let problem = format!("is {} bytes long; a path has at most {MAX_PATH_BYTES}", bytes.len());
        return Err(wrong(key, &problem));
    }
    Ok(())
}

/// Refuses a path that no Unix socket can have.
pub(crate) fn socket(key: &str, path: &Path) -> Result<(), ApiError> {
    file(key, path)?;
    let len = path.as_os_str().len();
    if len > MAX_SOCKET_PATH_BYTES {
        let problem =
            format!("is {len} bytes long; a socket's path has at most {MAX_SOCKET_PATH_BYTES}");
        return Err(wrong(key, &problem));
    }
    Ok(())
}

/// Refuses files that are to be written if two of them are one.
pub(crate) fn distinct_files<'a>(
    files: impl IntoIterator<Item = (String, &'a Path)>,
) -> Result<(), ApiError> {
    let mut seen = HashSet::new();
    for (key, path) in files {
        file(&key, path)?;
        if !seen.insert(path) {
            let problem = format!("{path:?} is named twice; each file must be another one");
            return Err(wrong(key, &problem));
        }
    }
    Ok(())
}

/// Refuses a list in which an identifier is there twice, or an empty one.
pub(crate) fn distinct_ids<'a>(
    key: &str,
    ids: impl IntoIterator<Item = &'a str>,
) -> Result<(), ApiError> {
    let mut seen = HashSet::new();
    for id in ids {
        if id.is_empty() {
            return Err(wrong(key, "an identifier is empty"));
        }
        if !seen.insert(OsStr::new(id)) {
            return Err(wrong(key, &format!("{id:?} is there twice")));
        }
    }
    Ok(())
}

pub(crate) fn wrong(key: impl fmt::Display, problem: &str) -> ApiError {
    ApiError::bad_request(format!("{key}: {problem}."))
}
