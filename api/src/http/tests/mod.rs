//! A real server on a real socket, and clients that behave and misbehave.

mod clients;
mod events;
mod requests;
mod sockets;
mod stalling;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;

use super::{EventHub, Limits, Reply, Server, ServerHandle, VmmService};
use crate::ApiError;
use crate::action::{VmmAction, VmmData};
use crate::v1::{InstanceInfo, InstanceState};

/// Longer than anything that is expected to happen takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// A limit that a test waits for.
const SHORT: Duration = Duration::from_millis(200);
/// What `GET /mmds` answers: more than the sockets' buffers hold.
const LARGE_ANSWER_BYTES: usize = 8 << 20;

/// Answers at once, but for `Pause`, whose replies it hands to the test, and for `InstanceStart`,
/// whose replies it drops.
struct TestService {
    held: Mutex<mpsc::Sender<Reply>>,
}

impl VmmService for TestService {
    fn submit(&self, action: VmmAction, reply: Reply) {
        match action {
            VmmAction::Pause => self.held.lock().unwrap().send(reply).unwrap(),
            VmmAction::InstanceStart => drop(reply),
            VmmAction::GetMmds => {
                reply.send(Ok(VmmData::Mmds(json!("x".repeat(LARGE_ANSWER_BYTES)))));
            }
            VmmAction::GetInstanceInfo => reply.send(Ok(VmmData::InstanceInfo(info()))),
            VmmAction::GetVersion => reply.send(Ok(VmmData::Version("1.2.3".to_owned()))),
            VmmAction::Resume => {
                reply.send(Err(ApiError::bad_request("It isn't paused: pause it first.")));
            }
            _ => reply.send(Ok(VmmData::Empty)),
        }
    }
}

fn info() -> InstanceInfo {
    InstanceInfo {
        app_name: "vmctl".to_owned(),
        id: "test".to_owned(),
        state: InstanceState::Running,
        vmm_version: "1.2.3".to_owned(),
    }
}

/// A server in a directory of its own.
struct Fixture {
    directory: TempDir,
    events: Arc<EventHub>,
    /// The replies to `Pause` that wait to be sent.
    held: mpsc::Receiver<Reply>,
    handle: ServerHandle,
}

impl Fixture {
    fn new() -> Self {
        Self::with_limits(Limits::default())
    }

    fn with_limits(limits: Limits) -> Self {
        let directory = TempDir::new().unwrap();
        let server = Server::bind(&directory.path().join("api.sock")).unwrap();
        let (sender, held) = mpsc::channel();
        let service = Arc::new(TestService { held: Mutex::new(sender) });
        let events = Arc::new(EventHub::new(16));
        let handle = server.with_limits(limits).spawn(service, Arc::clone(&events)).unwrap();
        Self { directory, events, held, handle }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("api.sock")
    }

    fn connect(&self) -> Raw {
        Raw::connect(&self.path())
    }

    /// Asserts that a new client is answered.
    fn assert_serves(&self) {
        let answer = self.connect().ask(GET_INFO);
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    fn next_held(&self) -> Reply {
        self.held.recv_timeout(PATIENCE).expect("the action was submitted")
    }
}

const GET_INFO: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
const PAUSE: &[u8] =
    b"PATCH /vm HTTP/1.1\r\nHost: x\r\nContent-Length: 18\r\n\r\n{\"state\":\"Paused\"}";

/// A client that says whatever a test wants it to.
struct Raw(BufReader<UnixStream>);

#[derive(Debug)]
struct Answer {
    status: u16,
    headers: Vec<String>,
    body: Vec<u8>,
}

impl Raw {
    fn connect(path: &std::path::Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(BufReader::new(stream))
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).unwrap();
    }

    fn ask(&mut self, request: &[u8]) -> Answer {
        self.send(request);
        self.answer()
    }

    /// Reads one answer, whose length must be announced.
    fn answer(&mut self) -> Answer {
        let status_line = self.line();
        let status = status_line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let headers: Vec<String> =
            std::iter::from_fn(|| Some(self.line()).filter(|line| !line.is_empty())).collect();
        let length = headers.iter().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
        self.0.read_exact(&mut body).unwrap();
        Answer { status: status.unwrap_or_else(|| panic!("{status_line:?}")), headers, body }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Reads until the server closes the connection, which a test expects it to do.
    fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
        rest
    }
}

impl Answer {
    fn has_header(&self, header: &str) -> bool {
        self.headers.iter().any(|line| line == header)
    }

    fn fault(&self) -> String {
        assert!(self.has_header("content-type: application/json"), "{self:?}");
        let body: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        body["fault_message"].as_str().expect("a message").to_owned()
    }
}
