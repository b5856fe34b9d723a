//! The live page's server, over real sockets, by requests written byte by byte.

mod events;
#[path = "../../examples/live_fake/fake.rs"]
mod fake;
mod instances;
mod strangers;
mod workloads;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use compare::model::WayId;
use compare::serve::{ServeError, Server, Show, Stop};
use compare::ways::Runner;
use fake::FakeRunner;
use serde_json::Value;

/// How long anything may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server that runs, and ends with the test.
struct Live {
    address: SocketAddr,
    token: String,
    stop: Stop,
    thread: Option<JoinHandle<Result<(), ServeError>>>,
}

impl Live {
    fn start(show: Show) -> Self {
        let server = Server::bind(None, false).expect("a port");
        let url = server.url();
        let rest = url.strip_prefix("http://").expect("plain HTTP");
        let (address, token) = rest.split_once("/?token=").expect("a token");
        let (address, token) = (address.parse().expect("an address"), token.to_owned());
        let stop = server.stop_handle();
        let thread = Some(thread::spawn(move || server.run(show)));
        Self { address, token, stop, thread }
    }

    /// One with a container and a microVM that greet and stay.
    fn greeting() -> Self {
        let ways = [WayId::Container, WayId::MicrovmCold];
        let runner = |way| {
            let script = fake::greeting("kernel entered", "hello\r\n");
            Arc::new(FakeRunner::new(way, script)) as Arc<dyn Runner>
        };
        Self::start(fake::show(ways.map(runner).to_vec()))
    }

    /// Sends bytes, and returns all that comes back until the server closes the connection.
    fn raw(&self, request: &[u8]) -> String {
        let mut stream = self.connect();
        // A server that has refused it may have closed before all is sent.
        let _ = stream.write_all(request);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        stream
    }

    fn get(&self, path: &str, headers: &str) -> Answer {
        let host = self.address;
        Answer::of(
            &self.raw(format!("GET {path} HTTP/1.0\r\nHost: {host}\r\n{headers}\r\n").as_bytes()),
        )
    }

    fn post_with(&self, path: &str, headers: &str, body: &str) -> Answer {
        let (host, length) = (self.address, body.len());
        Answer::of(&self.raw(
            format!(
                "POST {path} HTTP/1.0\r\nHost: {host}\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
            )
            .as_bytes(),
        ))
    }

    fn bearer(&self) -> String {
        format!("Authorization: Bearer {}\r\n", self.token)
    }

    fn post(&self, path: &str, body: &str) -> Answer {
        let headers = format!("{}Content-Type: application/json\r\n", self.bearer());
        self.post_with(path, &headers, body)
    }

    fn state(&self) -> Value {
        self.get("/api/state", &self.bearer()).json()
    }

    /// Listens; HTTP/1.0 gets the events as they are.
    fn events(&self, last: Option<&str>) -> Events {
        let mut stream = self.connect();
        let last = last.map(|last| format!("Last-Event-ID: {last}\r\n")).unwrap_or_default();
        let (host, bearer) = (self.address, self.bearer());
        write!(stream, "GET /api/events HTTP/1.0\r\nHost: {host}\r\n{bearer}{last}\r\n").unwrap();
        let mut reader = BufReader::new(stream);
        let mut status = String::new();
        reader.read_line(&mut status).unwrap();
        let mut line = String::new();
        while reader.read_line(&mut line).unwrap() > 0 && line != "\r\n" {
            line.clear();
        }
        Events { status, reader }
    }

    /// Ends it, and tells how it has ended.
    fn end(mut self) -> Result<(), ServeError> {
        self.stop.stop();
        self.thread.take().expect("it runs").join().expect("it doesn't panic")
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.stop.stop();
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn of(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Self { status, head: head.to_lowercase(), body: body.to_owned() }
    }

    fn json(&self) -> Value {
        assert!((200..300).contains(&self.status), "{}\n{}", self.head, self.body);
        serde_json::from_str(&self.body).expect("JSON")
    }
}

struct Events {
    status: String,
    reader: BufReader<TcpStream>,
}

#[derive(Debug)]
struct Event {
    id: String,
    name: String,
    data: Value,
}

impl Events {
    /// The next event, or `None` when there are no more.
    fn next(&mut self) -> Option<Event> {
        let mut event = Event { id: String::new(), name: String::new(), data: Value::Null };
        let mut line = String::new();
        loop {
            line.clear();
            if self.reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            match line.trim_end().split_once(": ") {
                Some(("id", id)) => event.id = id.to_owned(),
                Some(("event", name)) => event.name = name.to_owned(),
                Some(("data", data)) => event.data = serde_json::from_str(data).expect("JSON"),
                _ => return Some(event),
            }
        }
    }

    /// Reads on until an event that is as asked for.
    fn until(&mut self, wanted: impl Fn(&Event) -> bool) -> Event {
        loop {
            let event = self.next().expect("the event comes before the end");
            if wanted(&event) {
                return event;
            }
        }
    }

    /// Reads on until an instance is in a phase.
    fn phase(&mut self, name: &str, phase: &str) -> Value {
        self.until(|event| {
            event.name == "instance" && event.data["name"] == name && event.data["phase"] == phase
        })
        .data
    }
}

fn instance_of(answer: &Answer) -> String {
    answer.json()["instance"].as_str().expect("a name").to_owned()
}
