//! Requests by `curl`, a client that nobody here wrote.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::PATIENCE;

/// What a request was answered with.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status, such as 204.
    pub status: u16,
    /// The body's media type; empty where there is no body.
    pub content_type: String,
    /// The body.
    pub body: String,
}

/// Sends a request to the API on `socket`; an empty body is none.
pub fn curl(socket: &Path, method: &str, path: &str, body: &str) -> Result<Answer> {
    let limit = PATIENCE.as_secs().to_string();
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--globoff", "--path-as-is", "--max-time", &limit]);
    command.args([OsStr::new("--unix-socket"), socket.as_os_str()]);
    command.args(["--write-out", "\n%{http_code} %{content_type}", "--request", method]);
    if !body.is_empty() {
        command.args(["--header", "Content-Type: application/json", "--data-raw", body]);
    }
    let output = command.arg(format!("http://localhost{path}")).output().context("run curl")?;
    let text = String::from_utf8(output.stdout)?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "curl: {method} {path} {body}: {errors}");
    let (body, about) = text.rsplit_once('\n').context("curl told no status")?;
    let (status, content_type) = about.split_once(' ').context("curl told no media type")?;
    Ok(Answer {
        status: status.parse()?,
        content_type: content_type.to_owned(),
        body: body.to_owned(),
    })
}

/// Sends a request that must succeed, and returns the answer's body as JSON; `null` if empty.
pub fn ask(socket: &Path, method: &str, path: &str, body: &str) -> Result<Value> {
    let answer = curl(socket, method, path, body)?;
    let succeeded = answer.status == 200 || answer.status == 204;
    ensure!(succeeded, "{method} {path} {body} was answered with {answer:?}");
    if answer.body.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_str(&answer.body).with_context(|| answer.body.clone())
}
