//! The little of HTTP/1 that a metadata service needs (RFC 9112).

use std::fmt::Write;

/// How long the head of a request can be, in bytes.
pub(super) const MAX_HEAD_SIZE: usize = 4096;
/// How long its body can be: nobody reads it.
const MAX_BODY_SIZE: usize = 4096;
/// How many headers it can have.
const MAX_HEADERS: usize = 32;

const TOKEN_HEADERS: [&str; 2] = ["x-metadata-token", "x-aws-ec2-metadata-token"];
const TTL_HEADERS: [&str; 2] =
    ["x-metadata-token-ttl-seconds", "x-aws-ec2-metadata-token-ttl-seconds"];

/// The methods that mean something here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Get,
    Put,
    /// Its answers have no body.
    Head,
    Other,
}

/// A header that counts by its name too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// The name as the client wrote it.
    pub(super) name: String,
    /// The value, without the white space around it.
    pub(super) value: Vec<u8>,
}

/// What matters of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) method: Method,
    /// The path, beginning with `/`; empty if the target has none.
    pub(super) path: String,
    /// The client would rather have JSON than plain text.
    pub(super) wants_json: bool,
    pub(super) token: Option<Vec<u8>>,
    pub(super) ttl: Option<Header>,
    /// The name of the header by which a proxy says that it is one.
    pub(super) forwarded_for: Option<String>,
    /// The connection goes on after the answer.
    pub(super) keep_alive: bool,
    /// The last digit of the version: HTTP/1.0 or HTTP/1.1.
    pub(super) minor_version: u8,
}

/// What the bytes received so far are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// The beginning of a request.
    Incomplete,
    /// A request whose head is `head_size` bytes, with `body_size` bytes behind it.
    Request { request: Box<Request>, head_size: usize, body_size: usize },
    /// No request. What follows can't be told from it, so the connection must end.
    Invalid(Status),
}

/// The statuses in use (RFC 9110 §15).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Ok = 200,
    BadRequest = 400,
    Unauthorized = 401,
    NotFound = 404,
    MethodNotAllowed = 405,
    ContentTooLarge = 413,
    HeadTooLarge = 431,
    NotImplemented = 501,
}

impl Status {
    /// Returns the phrase that goes with the number.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::BadRequest => "Bad Request",
            Self::Unauthorized => "Unauthorized",
            Self::NotFound => "Not Found",
            Self::MethodNotAllowed => "Method Not Allowed",
            Self::ContentTooLarge => "Content Too Large",
            Self::HeadTooLarge => "Request Header Fields Too Large",
            Self::NotImplemented => "Not Implemented",
        }
    }
}

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Response {
    pub(super) status: Status,
    pub(super) content_type: &'static str,
    /// Headers beyond those that every answer has.
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: String,
}

impl Response {
    /// Creates an answer in plain text.
    pub(super) fn text(status: Status, body: impl Into<String>) -> Self {
        Self { status, content_type: "text/plain", headers: Vec::new(), body: body.into() }
    }

    /// Writes the answer to a client of HTTP/1.`minor_version`.
    pub(super) fn encode(&self, minor_version: u8, keep_alive: bool) -> Vec<u8> {
        let connection = if keep_alive { "keep-alive" } else { "close" };
        let mut text = format!(
            "HTTP/1.{minor_version} {} {}\r\nConnection: {connection}\r\nContent-Type: {}\r\n\
             Content-Length: {}\r\n",
            self.status as u16,
            self.status.reason(),
            self.content_type,
            self.body.len(),
        );
        for (name, value) in &self.headers {
            // Writing to a string doesn't fail.
            let _ = write!(text, "{name}: {value}\r\n");
        }
        text.push_str("\r\n");
        text.push_str(&self.body);
        text.into_bytes()
    }
}

/// Looks for a request at the start of `bytes`.
pub(super) fn parse(bytes: &[u8]) -> Parsed {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Request::new(&mut headers);
    let head_size = match head.parse(bytes.get(..MAX_HEAD_SIZE).unwrap_or(bytes)) {
        Ok(httparse::Status::Complete(size)) => size,
        Ok(httparse::Status::Partial) if bytes.len() < MAX_HEAD_SIZE => return Parsed::Incomplete,
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            return Parsed::Invalid(Status::HeadTooLarge);
        }
        Err(_) => return Parsed::Invalid(Status::BadRequest),
    };
    let (Some(method), Some(target), Some(minor_version)) = (head.method, head.path, head.version)
    else {
        return Parsed::Invalid(Status::BadRequest);
    };
    let body_size = match body_size(head.headers) {
        Ok(size) => size,
        Err(status) => return Parsed::Invalid(status),
    };
    let method = match method {
        "GET" => Method::Get,
        "PUT" => Method::Put,
        "HEAD" => Method::Head,
        _ => Method::Other,
    };
    let request = Box::new(read_head(head.headers, method, path_of(target), minor_version));
    Parsed::Request { request, head_size, body_size }
}

fn read_head(
    headers: &[httparse::Header<'_>],
    method: Method,
    path: &str,
    minor_version: u8,
) -> Request {
    let close = has_option(headers, "connection", "close");
    let stay = has_option(headers, "connection", "keep-alive");
    Request {
        method,
        path: path.to_owned(),
        wants_json: wants_json(headers),
        token: find(headers, &TOKEN_HEADERS).map(|header| header.value),
        ttl: find(headers, &TTL_HEADERS),
        forwarded_for: find(headers, &["x-forwarded-for"]).map(|header| header.name),
        keep_alive: !close && (minor_version > 0 || stay),
        minor_version,
    }
}

/// Takes the path from a request target (RFC 9112 §3.2), which may name the host.
fn path_of(target: &str) -> &str {
    if target.starts_with('/') {
        return target;
    }
    let authority = match target.split_at_checked(7) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http://") => rest,
        _ => return "",
    };
    authority.find('/').and_then(|start| authority.get(start..)).unwrap_or("")
}

/// Finds the first header that has one of `names`.
fn find(headers: &[httparse::Header<'_>], names: &[&str]) -> Option<Header> {
    let header = headers
        .iter()
        .find(|header| names.iter().any(|name| header.name.eq_ignore_ascii_case(name)))?;
    let value = header.value.trim_ascii().to_owned();
    Some(Header { name: header.name.to_owned(), value })
}

/// Iterates over the members of all headers called `name`, which are lists (RFC 9110 §5.6.1).
fn members<'a>(
    headers: &'a [httparse::Header<'a>],
    name: &'a str,
) -> impl Iterator<Item = &'a [u8]> {
    headers
        .iter()
        .filter(move |header| header.name.eq_ignore_ascii_case(name))
        .flat_map(|header| header.value.split(|&byte| byte == b','))
        .map(<[u8]>::trim_ascii)
}

fn has_option(headers: &[httparse::Header<'_>], name: &str, option: &str) -> bool {
    members(headers, name).any(|member| member.eq_ignore_ascii_case(option.as_bytes()))
}

/// Tells whether the first type in Accept that we can write is JSON. Weights are not looked at.
fn wants_json(headers: &[httparse::Header<'_>]) -> bool {
    let types = members(headers, "accept")
        .filter_map(|member| member.split(|&byte| byte == b';').next())
        .map(<[u8]>::trim_ascii);
    for media_type in types {
        if media_type.eq_ignore_ascii_case(b"application/json") {
            return true;
        }
        if [&b"text/plain"[..], b"text/*", b"*/*"]
            .iter()
            .any(|plain| media_type.eq_ignore_ascii_case(plain))
        {
            return false;
        }
    }
    false
}

/// Finds out how much follows the head (RFC 9112 §6.3).
fn body_size(headers: &[httparse::Header<'_>]) -> Result<usize, Status> {
    if members(headers, "transfer-encoding").next().is_some() {
        return Err(Status::NotImplemented);
    }
    let mut size = None;
    for member in members(headers, "content-length") {
        let digits = !member.is_empty() && member.iter().all(u8::is_ascii_digit);
        let text = str::from_utf8(member).ok().filter(|_| digits).ok_or(Status::BadRequest)?;
        // More digits than a number can have are only too many.
        let this = text.parse().unwrap_or(usize::MAX);
        if size.is_some_and(|other| other != this) {
            return Err(Status::BadRequest);
        }
        size = Some(this);
    }
    match size.unwrap_or(0) {
        size if size > MAX_BODY_SIZE => Err(Status::ContentTooLarge),
        size => Ok(size),
    }
}

#[cfg(test)]
mod tests;
