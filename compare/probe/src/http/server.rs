//! A web server for images that have none.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::{MAX_HEAD_BYTES, MAX_HEADERS};
use crate::ProbeError;
use crate::network::serve;

/// The size of what it answers.
const BODY_BYTES: usize = 1024;

/// How long a request may take to arrive.
const REQUEST_TIME: Duration = Duration::from_secs(10);

/// Answers any GET by a KiB, until the process ends.
///
/// # Errors
///
/// The listener fails for good.
pub fn web_server(listener: &TcpListener) -> Result<(), ProbeError> {
    serve(listener, serve_connection)
}

/// What to do with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    /// It isn't there to its end.
    Incomplete,
    /// It's a GET of so many bytes.
    Get { bytes: usize, closes: bool },
    /// It's answered by this status, and the connection closed.
    Refused(&'static str),
}

fn serve_connection(mut stream: TcpStream) -> io::Result<()> {
    let answers = [answer("200 OK", false), answer("200 OK", true)];
    let mut buffer = Vec::with_capacity(MAX_HEAD_BYTES);
    let mut since = Instant::now();
    loop {
        match parse(&buffer) {
            Request::Get { bytes, closes } => {
                buffer.drain(..bytes);
                stream.write_all(&answers[usize::from(closes)])?;
                if closes {
                    return Ok(());
                }
                since = Instant::now();
            }
            Request::Refused(status) => return stream.write_all(&answer(status, true)),
            Request::Incomplete => {
                // Also for one that sends a byte now and then.
                let left = REQUEST_TIME.saturating_sub(since.elapsed());
                if left.is_zero() {
                    return Ok(());
                }
                stream.set_read_timeout(Some(left))?;
                let mut chunk = [0; 4096];
                match stream.read(&mut chunk)? {
                    0 => return Ok(()),
                    size => buffer.extend_from_slice(&chunk[..size]),
                }
            }
        }
    }
}

fn answer(status: &str, closes: bool) -> Vec<u8> {
    let size = if status.starts_with("200") { BODY_BYTES } else { 0 };
    let connection = if closes { "Connection: close\r\n" } else { "" };
    let mut answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {size}\r\n{connection}\r\n"
    )
    .into_bytes();
    answer.resize(answer.len() + size, b'x');
    answer
}

fn parse(bytes: &[u8]) -> Request {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let size = match request.parse(bytes) {
        Ok(httparse::Status::Complete(size)) if size <= MAX_HEAD_BYTES => size,
        Ok(httparse::Status::Partial) if bytes.len() < MAX_HEAD_BYTES => {
            return Request::Incomplete;
        }
        Ok(_) | Err(httparse::Error::TooManyHeaders) => {
            return Request::Refused("431 Request Header Fields Too Large");
        }
        Err(_) => return Request::Refused("400 Bad Request"),
    };
    if request.method != Some("GET") {
        return Request::Refused("405 Method Not Allowed");
    }
    let names = |name: &str| request.headers.iter().any(|h| h.name.eq_ignore_ascii_case(name));
    // A GET with a body: what follows isn't the next request.
    if names("content-length") || names("transfer-encoding") {
        return Request::Refused("400 Bad Request");
    }
    let closes = request.version == Some(0)
        || request.headers.iter().any(|header| {
            header.name.eq_ignore_ascii_case("connection")
                && header.value.eq_ignore_ascii_case(b"close")
        });
    Request::Get { bytes: size, closes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn get_is_taken_up_to_its_end() {
        let bytes = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\nGET /b";
        assert_eq!(parse(bytes), Request::Get { bytes: 28, closes: false });
        assert_eq!(parse(&bytes[28..]), Request::Incomplete);
        assert_eq!(parse(b""), Request::Incomplete);
    }

    #[test]
    fn client_that_closes_is_heard() {
        let bytes = b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n";
        assert!(matches!(parse(bytes), Request::Get { closes: true, .. }));
        assert!(matches!(parse(b"GET / HTTP/1.0\r\n\r\n"), Request::Get { closes: true, .. }));
    }

    #[test]
    fn requests_that_are_wrong_or_endless_are_refused() {
        let many = [&b"GET / HTTP/1.1\r\n"[..], &b"A: b\r\n".repeat(65), b"\r\n"].concat();
        let long = [&b"GET / HTTP/1.1\r\nA: "[..], &[b'x'; MAX_HEAD_BYTES]].concat();
        for (bytes, status) in [
            (&b"POST / HTTP/1.1\r\n\r\n"[..], "405"),
            (b"\0\x01\x02\r\n\r\n", "400"),
            (b"GET / HTTP/9.9\r\n\r\n", "400"),
            (b"GET / HTTP/1.1\r\nContent-Length: 5\r\n\r\n", "400"),
            (b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", "400"),
            (&many, "431"),
            (&long, "431"),
        ] {
            let request = parse(bytes);
            let refused = matches!(request, Request::Refused(text) if text.starts_with(status));
            assert!(refused, "{status}: {request:?}");
        }
    }
}
