//! Answers, read from whoever sends them.

use std::io::{self, Read};

use super::{MAX_HEAD_BYTES, MAX_HEADERS};

/// The longest body.
const MAX_BODY_BYTES: u64 = 256 << 20;

/// The longest line that says how long the next piece of a body is.
const MAX_CHUNK_LINE: usize = 1024;

/// An answer, without its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Response {
    /// Its status.
    pub(super) status: u16,
    /// How long its body was.
    pub(super) body_bytes: u64,
    /// Whether the server closes the connection.
    pub(super) closes: bool,
}

/// Why an answer can't be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ResponseError {
    /// The connection failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The server closed the connection before it said anything.
    #[error("the connection was closed")]
    Closed,
    /// It's no HTTP.
    #[error("{0}")]
    Invalid(String),
}

fn invalid<T>(reason: impl Into<String>) -> Result<T, ResponseError> {
    Err(ResponseError::Invalid(reason.into()))
}

/// How the end of a body is found (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Body {
    Length(u64),
    Chunked,
    UntilClosed,
}

struct Head {
    status: u16,
    body: Body,
    closes: bool,
    bytes: usize,
}

/// Reads answers from a connection; what comes after one is the next one's beginning.
pub(super) struct Reader<R> {
    source: R,
    buffer: Vec<u8>,
    start: usize,
}

impl<R: Read> Reader<R> {
    pub(super) fn new(source: R) -> Self {
        Self { source, buffer: Vec::new(), start: 0 }
    }

    /// Reads an answer to a GET, to its end.
    pub(super) fn response(&mut self) -> Result<Response, ResponseError> {
        let mut informational = 0;
        loop {
            let head = self.head()?;
            self.start += head.bytes;
            // Such as "continue": the answer itself comes after it.
            if (100..200).contains(&head.status) {
                informational += 1;
                if informational > 8 {
                    return invalid("one interim answer after another");
                }
                continue;
            }
            let body_bytes = match head.body {
                Body::Length(length) => self.skip(length)?,
                Body::Chunked => self.skip_chunks()?,
                Body::UntilClosed => self.skip_rest()?,
            };
            let closes = head.closes || head.body == Body::UntilClosed;
            return Ok(Response { status: head.status, body_bytes, closes });
        }
    }

    fn head(&mut self) -> Result<Head, ResponseError> {
        loop {
            if let Some(head) = parse_head(self.rest())? {
                return Ok(head);
            }
            if self.rest().len() >= MAX_HEAD_BYTES {
                return invalid(format!("a head of more than {MAX_HEAD_BYTES} bytes"));
            }
            let nothing_yet = self.rest().is_empty();
            if self.fill()? == 0 {
                return if nothing_yet {
                    Err(ResponseError::Closed)
                } else {
                    invalid("the connection was closed in the middle of a head")
                };
            }
        }
    }

    fn rest(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// Reads what has come, after what's left.
    fn fill(&mut self) -> io::Result<usize> {
        self.buffer.drain(..self.start);
        self.start = 0;
        let kept = self.buffer.len();
        self.buffer.resize(kept + MAX_HEAD_BYTES, 0);
        let read = self.source.read(&mut self.buffer[kept..]);
        self.buffer.truncate(kept + *read.as_ref().unwrap_or(&0));
        read
    }

    fn skip(&mut self, length: u64) -> Result<u64, ResponseError> {
        let mut left = length;
        loop {
            let here = usize::try_from(left).unwrap_or(usize::MAX).min(self.rest().len());
            self.start += here;
            left -= here as u64;
            if left == 0 {
                return Ok(length);
            }
            if self.fill()? == 0 {
                return invalid(format!("{left} bytes of the body are missing"));
            }
        }
    }

    fn skip_rest(&mut self) -> Result<u64, ResponseError> {
        let mut count = 0_u64;
        loop {
            count += self.rest().len() as u64;
            self.start = self.buffer.len();
            if count > MAX_BODY_BYTES {
                return invalid("an endless body");
            }
            if self.fill()? == 0 {
                return Ok(count);
            }
        }
    }

    fn skip_chunks(&mut self) -> Result<u64, ResponseError> {
        let mut count = 0_u64;
        loop {
            let size = self.chunk_size()?;
            if size == 0 {
                self.skip_trailers()?;
                return Ok(count);
            }
            count = count.saturating_add(size);
            if count > MAX_BODY_BYTES {
                return invalid("an endless body");
            }
            self.skip(size)?;
            if self.line()? != 0 {
                return invalid("a piece of the body that is longer than it says");
            }
        }
    }

    fn chunk_size(&mut self) -> Result<u64, ResponseError> {
        loop {
            match httparse::parse_chunk_size(self.rest()) {
                Ok(httparse::Status::Complete((bytes, size))) => {
                    self.start += bytes;
                    return Ok(size);
                }
                Ok(httparse::Status::Partial) if self.rest().len() < MAX_CHUNK_LINE => {
                    if self.fill()? == 0 {
                        return invalid("the connection was closed in the middle of a body");
                    }
                }
                _ => return invalid("a piece of the body that has no size"),
            }
        }
    }

    /// Reads lines up to an empty one.
    fn skip_trailers(&mut self) -> Result<(), ResponseError> {
        let mut bytes = 0;
        loop {
            match self.line()? {
                0 => return Ok(()),
                length => bytes += length,
            }
            if bytes > MAX_HEAD_BYTES {
                return invalid("endless trailers");
            }
        }
    }

    /// Reads a line, and returns how long it was without its end.
    fn line(&mut self) -> Result<usize, ResponseError> {
        loop {
            if let Some(end) = self.rest().windows(2).position(|pair| pair == b"\r\n") {
                self.start += end + 2;
                return Ok(end);
            }
            if self.rest().len() > MAX_HEAD_BYTES {
                return invalid("an endless line");
            }
            if self.fill()? == 0 {
                return invalid("the connection was closed in the middle of a line");
            }
        }
    }
}

/// Reads a head, if it's there to its end.
fn parse_head(bytes: &[u8]) -> Result<Option<Head>, ResponseError> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Response::new(&mut headers);
    let size = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(size)) => size,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return invalid(format!("no HTTP ({error})")),
    };
    if size > MAX_HEAD_BYTES {
        return invalid(format!("a head of more than {MAX_HEAD_BYTES} bytes"));
    }
    let status = parsed.code.unwrap_or_default();
    let http_1_0 = parsed.version == Some(0);
    let body = body(status, parsed.headers)?;
    let closes = has_token(parsed.headers, "connection", "close")
        || (http_1_0 && !has_token(parsed.headers, "connection", "keep-alive"));
    Ok(Some(Head { status, body, closes, bytes: size }))
}

fn body(status: u16, headers: &[httparse::Header<'_>]) -> Result<Body, ResponseError> {
    if (100..200).contains(&status) || status == 204 || status == 304 {
        return Ok(Body::Length(0));
    }
    let is = |header: &&httparse::Header<'_>, name| header.name.eq_ignore_ascii_case(name);
    if headers.iter().any(|header| is(&header, "transfer-encoding")) {
        return if has_token(headers, "transfer-encoding", "chunked") {
            Ok(Body::Chunked)
        } else {
            invalid("a transfer encoding that nobody asked for")
        };
    }
    let mut length = None;
    for header in headers.iter().filter(|header| is(header, "content-length")) {
        let digits = std::str::from_utf8(header.value).unwrap_or_default().trim();
        // Only digits: the number's own parser takes a sign.
        let number = if digits.bytes().all(|byte| byte.is_ascii_digit()) {
            digits.parse().ok()
        } else {
            None
        };
        match number {
            Some(number) if number <= MAX_BODY_BYTES && length.is_none_or(|l| l == number) => {
                length = Some(number);
            }
            _ => return invalid("a length that is none, or beyond all bounds"),
        }
    }
    Ok(length.map_or(Body::UntilClosed, Body::Length))
}

fn has_token(headers: &[httparse::Header<'_>], name: &str, token: &str) -> bool {
    headers
        .iter()
        .filter(|header| header.name.eq_ignore_ascii_case(name))
        .filter_map(|header| std::str::from_utf8(header.value).ok())
        .flat_map(|value| value.split(','))
        .any(|value| value.trim().eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hands out a byte at a time, as a network may.
    struct Drops<'a>(&'a [u8]);

    impl Read for Drops<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let size = self.0.len().min(buffer.len()).min(1);
            let (now, later) = self.0.split_at(size);
            buffer[..size].copy_from_slice(now);
            self.0 = later;
            Ok(size)
        }
    }

    fn read(bytes: &[u8]) -> Result<Response, ResponseError> {
        let whole = Reader::new(bytes).response();
        let drops = Reader::new(Drops(bytes)).response();
        assert_eq!(whole.is_ok(), drops.is_ok(), "{whole:?} {drops:?}");
        if let (Ok(whole), Ok(drops)) = (&whole, &drops) {
            assert_eq!(whole, drops);
        }
        whole
    }

    #[test]
    fn answers_follow_each_other_whatever_their_bodies_ends() {
        let bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc\
            HTTP/1.1 404 Gone\r\ntransfer-ENCODING: gzip, chunked\r\n\r\n\
            4;x=y\r\nabcd\r\n1\r\ne\r\n0\r\nTrailer: x\r\n\r\n\
            HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No\r\n\r\n\
            HTTP/1.1 500 No\r\n\r\nuntil the end";
        let mut reader = Reader::new(Drops(bytes));
        let mut next = || reader.response().unwrap();
        assert_eq!(next(), Response { status: 200, body_bytes: 3, closes: false });
        assert_eq!(next(), Response { status: 404, body_bytes: 5, closes: false });
        assert_eq!(next(), Response { status: 204, body_bytes: 0, closes: false });
        assert_eq!(next(), Response { status: 500, body_bytes: 13, closes: true });
        assert!(matches!(reader.response(), Err(ResponseError::Closed)));
    }

    #[test]
    fn connection_that_will_be_closed_is_told() {
        let close = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: x, Close\r\n\r\n";
        assert!(read(close).unwrap().closes);
        assert!(read(b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap().closes);
        let kept = b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n";
        assert!(!read(kept).unwrap().closes);
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        let cases: [&[u8]; 15] = [
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b"\0\0\0\0",
            b"HTTP/1.1 200 OK\r\nContent-Le",
            b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc",
            b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\nx",
            b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999999\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nab",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nabc",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na",
        ];
        for bytes in cases {
            let result = read(bytes);
            assert!(
                matches!(result, Err(ResponseError::Invalid(_))),
                "{}: {result:?}",
                String::from_utf8_lossy(bytes)
            );
        }
        assert!(matches!(read(b""), Err(ResponseError::Closed)));
    }

    #[test]
    fn sizes_beyond_the_bound_are_refused_before_anything_of_them_is_read() {
        for (head, reason) in [
            ("Content-Length: 268435457\r\n\r\n", "beyond all bounds"),
            ("Transfer-Encoding: chunked\r\n\r\n10000001\r\n", "endless body"),
            ("Transfer-Encoding: chunked\r\n\r\n1\r\na\r\nffffffffffffffff\r\n", "endless body"),
        ] {
            let error = read(format!("HTTP/1.1 200 OK\r\n{head}").as_bytes()).unwrap_err();
            assert!(error.to_string().contains(reason), "{head}: {error}");
        }
    }

    #[test]
    fn endless_answers_are_errors() {
        let invalid = |source: Box<dyn Read>| {
            let result = Reader::new(source).response();
            assert!(matches!(result, Err(ResponseError::Invalid(_))), "{result:?}");
        };
        let start = |text: &'static str| text.as_bytes();
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        invalid(Box::new(start("HTTP/1.1 200 OK\r\nX: ").chain(io::repeat(b'x'))));
        invalid(Box::new(start("HTTP/1.1 200 OK\r\n\r\n").chain(io::repeat(b'x'))));
        invalid(Box::new(start(chunked).chain(io::repeat(b'0'))));
        invalid(Box::new(start(chunked).chain(&b"0\r\n"[..]).chain(io::repeat(b'x'))));
        let interim = b"HTTP/1.1 100 Continue\r\n\r\n".repeat(9);
        invalid(Box::new(io::Cursor::new(interim)));
        let headers = [&b"HTTP/1.1 200 OK\r\n"[..], &b"A: b\r\n".repeat(65), b"\r\n"].concat();
        invalid(Box::new(io::Cursor::new(headers)));
    }
}
