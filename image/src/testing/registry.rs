//! A registry that does as it's told: right, or wrong in each way that tests need.

use std::collections::{HashMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

use serde_json::json;

use super::config;
use crate::digest;
use crate::manifest::media;

/// What's done with the next request for a path instead of the right thing.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// A status with a body.
    Status(u16, &'static str),
    /// Elsewhere.
    Redirect(String),
    /// The right headers and so many bytes, then the connection's end.
    Cut(usize),
    /// The same, then a reset.
    Reset(usize),
    /// The right headers and so many bytes, then nothing.
    Hang(usize),
    /// Nothing at all.
    Silence,
    /// All of it, whatever range was asked for.
    NoRange,
}

/// Whom the registry serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Everybody,
    /// `user` with the password `pass`.
    Password,
    /// The same, by tokens.
    Token,
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
}

struct State {
    access: Access,
    pages: Mutex<HashMap<String, (String, Vec<u8>)>>,
    acts: Mutex<HashMap<String, VecDeque<Act>>>,
    requests: Mutex<Vec<String>>,
    /// Connections that hang.
    held: Mutex<Vec<TcpStream>>,
}

impl Server {
    pub(crate) fn new() -> Self {
        Self::for_whom(Access::Everybody)
    }

    pub(crate) fn for_whom(access: Access) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let (pages, acts) = (Mutex::default(), Mutex::default());
        let (requests, held) = (Mutex::default(), Mutex::default());
        let state = Arc::new(State { access, pages, acts, requests, held });
        let shared = Arc::clone(&state);
        // It ends with the tests' process.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let state = Arc::clone(&shared);
                thread::spawn(move || serve(&state, address, stream.unwrap()));
            }
        });
        Self { address, state }
    }

    /// The name of an image here.
    pub(crate) fn name(&self, rest: &str) -> crate::Reference {
        super::name(&format!("{}/{rest}", self.address))
    }

    /// Serves something at a path.
    pub(crate) fn put(&self, path: &str, kind: &str, bytes: &[u8]) {
        self.pages().insert(path.to_owned(), (kind.to_owned(), bytes.to_vec()));
    }

    fn pages(&self) -> MutexGuard<'_, HashMap<String, (String, Vec<u8>)>> {
        self.state.pages.lock().unwrap()
    }

    /// What's at a path.
    pub(crate) fn page(&self, path: &str) -> Option<Vec<u8>> {
        self.pages().get(path).map(|it| it.1.clone())
    }

    /// Does this with the next requests for a path.
    pub(crate) fn act(&self, path: &str, acts: impl IntoIterator<Item = Act>) {
        let mut all = self.state.acts.lock().unwrap();
        all.entry(path.to_owned()).or_default().extend(acts);
    }

    /// What was asked for so far that begins so: `GET /v2/…`.
    pub(crate) fn requests(&self, start: &str) -> Vec<String> {
        let all = self.state.requests.lock().unwrap();
        all.iter().filter(|it| it.starts_with(start)).cloned().collect()
    }

    /// Serves an image of compressed layers, `app:1`; returns the layers' paths.
    pub(crate) fn image(&self, archives: &[Vec<u8>], layers: &[Vec<u8>]) -> Vec<String> {
        let mut config = config();
        config.rootfs.diff_ids = archives.iter().map(|it| digest::of(it)).collect();
        self.image_of(&serde_json::to_vec(&config).unwrap(), layers)
    }

    pub(crate) fn image_of(&self, config: &[u8], layers: &[Vec<u8>]) -> Vec<String> {
        let blob = |bytes: &[u8]| {
            let path = format!("/v2/app/blobs/{}", digest::of(bytes));
            self.put(&path, "application/octet-stream", bytes);
            path
        };
        blob(config);
        let manifest = manifest(config, layers);
        let digest = digest::of(&manifest);
        for name in ["1", "latest", &digest] {
            self.put(&format!("/v2/app/manifests/{name}"), media::DOCKER_MANIFEST, &manifest);
        }
        layers.iter().map(|it| blob(it)).collect()
    }
}

pub(crate) fn manifest(config: &[u8], layers: &[Vec<u8>]) -> Vec<u8> {
    let descriptor = |bytes: &[u8]| json!({ "digest": digest::of(bytes), "size": bytes.len() });
    let layers: Vec<_> = layers.iter().map(|it| descriptor(it)).collect();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": media::DOCKER_MANIFEST,
        "config": descriptor(config), "layers": layers,
    });
    serde_json::to_vec(&manifest).unwrap()
}

struct Request {
    method: String,
    target: String,
    headers: HashMap<String, String>,
    body: Vec<u8>,
}

fn read_request(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) => headers.insert(name.to_ascii_lowercase(), value.to_owned()),
            None => break,
        };
    }
    let length = headers.get("content-length").and_then(|it| it.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request { method, target, headers, body })
}

fn serve(state: &State, address: SocketAddr, stream: TcpStream) {
    let Some(request) = read_request(&stream) else { return };
    let path = request.target.split('?').next().unwrap().to_owned();
    let range = request.headers.get("range").map(|it| format!(" {it}")).unwrap_or_default();
    let line = format!("{} {}{range}", request.method, request.target);
    state.requests.lock().unwrap().push(line);
    let act = state.acts.lock().unwrap().get_mut(&path).and_then(VecDeque::pop_front);
    let allowed = is_allowed(state.access, &request);
    let mut out = Response { stream, head_only: request.method == "HEAD", length: None };
    match act {
        Some(Act::Silence) => state.held.lock().unwrap().push(out.stream),
        Some(Act::Status(status, body)) => out.send(status, "", body.as_bytes()),
        Some(Act::Redirect(to)) => out.send(307, &format!("Location: {to}\r\n"), b""),
        _ if path == "/token" => match is_user(&request) {
            true => out.send(200, "", br#"{"token":"right"}"#),
            false => out.send(401, "", b""),
        },
        _ if !allowed => {
            let challenge = match state.access {
                Access::Token => format!("Bearer realm=\"http://{address}/token\",service=\"s\""),
                _ => "Basic realm=\"x\"".to_owned(),
            };
            out.send(401, &format!("WWW-Authenticate: {challenge}\r\n"), b"");
        }
        act => answer(state, &request, &path, act, out),
    }
}

fn is_user(request: &Request) -> bool {
    // user:pass
    request.headers.get("authorization").is_some_and(|it| it == "Basic dXNlcjpwYXNz")
}

fn is_allowed(access: Access, request: &Request) -> bool {
    match access {
        Access::Everybody => true,
        Access::Password => is_user(request),
        Access::Token => {
            request.headers.get("authorization").is_some_and(|it| it == "Bearer right")
        }
    }
}

fn answer(state: &State, request: &Request, path: &str, act: Option<Act>, mut out: Response) {
    if path == "/v2/" {
        return out.send(200, "", b"{}");
    }
    let mut pages = state.pages.lock().unwrap();
    match &*request.method {
        "POST" => return out.send(202, "Location: /upload/1?x=y\r\n", b""),
        "PUT" => {
            let digest = request.target.split("digest=").nth(1);
            let path = digest.map_or(path.to_owned(), |it| format!("/v2/app/blobs/{it}"));
            let kind = request.headers.get("content-type").cloned().unwrap_or_default();
            pages.insert(path, (kind, request.body.clone()));
            return out.send(201, "", b"");
        }
        _ => {}
    }
    let Some((kind, bytes)) = pages.get(path).cloned() else {
        let body = br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
        return out.send(404, "", body);
    };
    drop(pages);
    let start = request.headers.get("range").filter(|_| !matches!(act, Some(Act::NoRange)));
    let start = start.and_then(|it| it.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    let (status, part, mut headers) = match start {
        Some(start) if start < bytes.len() => {
            let range =
                format!("Content-Range: bytes {start}-{}/{}\r\n", bytes.len() - 1, bytes.len());
            (206, &bytes[start..], range)
        }
        _ => (200, &bytes[..], String::new()),
    };
    headers += &format!("Content-Type: {kind}\r\n");
    out.length = Some(part.len());
    match act {
        Some(Act::Cut(most)) => out.send(status, &headers, &part[..most.min(part.len())]),
        Some(Act::Reset(most)) => {
            out.send(status, &headers, &part[..most.min(part.len())]);
            let now = Some(std::time::Duration::ZERO);
            rustix::net::sockopt::set_socket_linger(&out.stream, now).unwrap();
        }
        Some(Act::Hang(most)) => {
            out.send(status, &headers, &part[..most.min(part.len())]);
            state.held.lock().unwrap().push(out.stream);
        }
        _ => out.send(status, &headers, part),
    }
}

struct Response {
    stream: TcpStream,
    head_only: bool,
    length: Option<usize>,
}

impl Response {
    fn send(&mut self, status: u16, headers: &str, body: &[u8]) {
        let length = self.length.unwrap_or(body.len());
        let head = format!(
            "HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n"
        );
        let body = if self.head_only { b"" } else { body };
        // Who has gone away doesn't want it.
        let _ = self.stream.write_all(head.as_bytes()).and_then(|()| self.stream.write_all(body));
    }
}
