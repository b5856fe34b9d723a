//! As much of HTTP/1.1 as a VMM's API needs: one request after the other on a Unix socket.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// How long a process may take until it listens.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long to wait until the next try. The client's time isn't counted.
const BETWEEN_TRIES: Duration = Duration::from_millis(1);

/// A connection to an API.
pub(super) struct Api {
    stream: BufReader<UnixStream>,
}

impl Api {
    /// Connects as soon as somebody listens: nothing tells when.
    ///
    /// # Errors
    ///
    /// Fails when nobody does for a long time.
    pub(super) fn connect(socket: &Path) -> Result<Self> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match UnixStream::connect(socket) {
                Ok(stream) => return Ok(Self { stream: BufReader::new(stream) }),
                Err(error) if is_early(&error) && Instant::now() < deadline => {
                    thread::sleep(BETWEEN_TRIES);
                }
                Err(error) => {
                    return Err(error)
                        .with_context(|| format!("cannot connect to {}", socket.display()));
                }
            }
        }
    }

    /// Sends a request and returns the answer's body, which is null if there's none.
    ///
    /// # Errors
    ///
    /// Fails when the connection does, and when the answer isn't one of success.
    pub(super) fn request(&mut self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let answer = (self.stream.get_mut().write_all(request.as_bytes()))
            .and_then(|()| read_answer(&mut self.stream))
            .with_context(|| format!("{method} {path} wasn't answered"))?;
        let text = String::from_utf8_lossy(&answer.body);
        ensure!((200..300).contains(&answer.status), "{method} {path}: {} {text}", answer.status);
        if text.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&text).with_context(|| format!("{method} {path} answered {text}"))
    }

    /// Asks what the VM is.
    ///
    /// # Errors
    ///
    /// See [`request`](Self::request).
    pub(super) fn get_root(&mut self) -> Result<()> {
        let answer = self.request("GET", "/", &Value::Null)?;
        if answer.get("state").is_none() {
            bail!("GET / answered {answer}");
        }
        Ok(())
    }
}

/// Whether the socket's owner may still be on its way.
fn is_early(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

struct Answer {
    status: u16,
    body: Vec<u8>,
}

fn read_answer(stream: &mut impl BufRead) -> io::Result<Answer> {
    let malformed = |line: &str| io::Error::other(format!("the answer has the line {line:?}"));
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| malformed(&line))?;
    let mut length = 0;
    loop {
        line.clear();
        stream.read_line(&mut line)?;
        let header = line.trim_end();
        if header.is_empty() {
            break;
        }
        let (name, value) = header.split_once(':').ok_or_else(|| malformed(header))?;
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().map_err(|_| malformed(header))?;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(Answer { status, body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_answer_is_read_and_no_byte_of_the_next() {
        let text = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}HTTP/1.1 204 No Content\r\n\r\n";
        let mut stream = text.as_bytes();
        let first = read_answer(&mut stream).unwrap();
        assert_eq!((first.status, first.body.as_slice()), (200, b"{}".as_slice()));
        let second = read_answer(&mut stream).unwrap();
        assert_eq!((second.status, second.body.len()), (204, 0));
        assert!(read_answer(&mut stream).is_err());
    }
}
