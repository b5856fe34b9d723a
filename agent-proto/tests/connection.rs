//! A client against servers that behave, and against those that don't.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use agent_proto::{
    AgentError, Change, ChangeKind, ChangeReader, ChangeWriter, Client, ErrorKind, Event,
    ExitStatus, ProcessId, ProtocolError, Request, Response, Stream, accept, accept_stream,
    answer_stream, dial, frame, open_stream,
};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);

/// Runs `serve` as the agent of a client.
fn against(serve: impl FnOnce(UnixStream) + Send + 'static) -> (UnixStream, JoinHandle<()>) {
    let (client, server) = UnixStream::pair().unwrap();
    (client, thread::spawn(move || serve(server)))
}

/// A server that answers the handshake with `reply`, reads one request, and writes `bytes`.
fn answering(reply: Value, bytes: Vec<u8>) -> UnixStream {
    let (client, _) = against(move |mut server| {
        let _hello: Value = frame::expect(&mut server).unwrap();
        frame::write(&mut server, &reply).unwrap();
        let _request: Option<Value> = frame::read(&mut server).unwrap();
        server.write_all(&bytes).unwrap();
    });
    client
}

fn good_hello() -> Value {
    json!({"versions": {"min": 1, "max": 1}, "version": 1, "agent": "test", "later": []})
}

fn framed(value: &Value) -> Vec<u8> {
    frame::encode(value).unwrap()
}

#[test]
fn answers_come_back_to_who_asked_in_any_order() {
    let (socket, server) = against(|server| {
        let mut accepted = accept(server.try_clone().unwrap(), server, "test").unwrap();
        let mut requests = Vec::new();
        for _ in 0..8 {
            requests.push(accepted.requests.next_request().unwrap().unwrap());
        }
        for incoming in requests.iter().rev() {
            let Ok(Request::Wait { process }) = incoming.request else { panic!("{incoming:?}") };
            let code = i32::try_from(process.0).unwrap();
            let status = ExitStatus { code, ..ExitStatus::default() };
            accepted.responder.answer(incoming.id, Ok(Response::Exited(status))).unwrap();
        }
        assert!(accepted.requests.next_request().unwrap().is_none());
    });
    let client = Client::open(socket, SOON).unwrap();
    assert_eq!(client.hello().agent, "test");
    let waits: Vec<_> = (0..8)
        .map(|number| {
            let client = client.clone();
            thread::spawn(move || (number, client.wait(ProcessId(number)).unwrap().code))
        })
        .collect();
    for wait in waits {
        let (number, code) = wait.join().unwrap();
        assert_eq!(number, u64::try_from(code).unwrap());
    }
    drop(client);
    server.join().unwrap();
}

#[test]
fn events_reach_the_subscriber() {
    let (socket, server) = against(|server| {
        let mut accepted = accept(server.try_clone().unwrap(), server, "test").unwrap();
        let subscribe = accepted.requests.next_request().unwrap().unwrap();
        assert_eq!(subscribe.request, Ok(Request::Subscribe));
        accepted.responder.answer(subscribe.id, Ok(Response::Done)).unwrap();
        accepted.responder.event(Event::OutOfMemory { kills: 3 }).unwrap();
    });
    let events = Client::open(socket, SOON).unwrap();
    let subscription = events.subscribe().unwrap();
    assert_eq!(subscription.recv_timeout(SOON).unwrap(), Event::OutOfMemory { kills: 3 });
    server.join().unwrap();
    assert!(subscription.recv_timeout(SOON).is_err());
    assert!(matches!(events.ping(), Err(ProtocolError::Closed)));
}

#[test]
fn an_unknown_request_is_answered_and_the_connection_holds() {
    let (mut socket, server) = against(|server| {
        let mut accepted = accept(server.try_clone().unwrap(), server, "test").unwrap();
        let unknown = accepted.requests.next_request().unwrap().unwrap();
        let error = unknown.request.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unsupported);
        accepted.responder.answer(unknown.id, Err(error)).unwrap();
        let known = accepted.requests.next_request().unwrap().unwrap();
        assert_eq!(known.request, Ok(Request::Ping));
    });
    frame::write(&mut socket, &json!({"versions": {"min": 1, "max": 9}})).unwrap();
    let _hello: Value = frame::expect(&mut socket).unwrap();
    frame::write(&mut socket, &json!({"id": 5, "request": {"op": "levitate"}})).unwrap();
    let answer: Value = frame::expect(&mut socket).unwrap();
    assert_eq!(answer["answer"]["id"], 5);
    assert_eq!(answer["answer"]["result"]["Err"]["kind"], "unsupported");
    let ping = json!({"id": 6, "request": {"op": "ping", "later": 1}, "later": {}});
    frame::write(&mut socket, &ping).unwrap();
    server.join().unwrap();
}

#[test]
fn errors_of_the_agent_come_without_control_characters() {
    let error = json!({"kind": "not_found", "message": "\u{1b}[2Jno \"x\""});
    let answer = json!({"answer": {"id": 0, "result": {"Err": error}}});
    let client = Client::open(answering(good_hello(), framed(&answer)), SOON).unwrap();
    let error = client.ping().unwrap_err();
    assert_eq!(error.agent_kind(), Some(ErrorKind::NotFound));
    assert_eq!(error.to_string(), "?[2Jno \"x\"");
}

#[test]
fn handshakes_without_a_common_version_fail() {
    for (reply, version_error) in [
        (json!({"versions": {"min": 7, "max": 9}}), true),
        (json!({"versions": {"min": 1, "max": 9}, "version": 8}), false),
    ] {
        let error = Client::open(answering(reply, Vec::new()), SOON).unwrap_err();
        assert_eq!(matches!(error, ProtocolError::Version { .. }), version_error, "{error}");
        assert_eq!(matches!(error, ProtocolError::Violation(_)), !version_error, "{error}");
    }
}

#[test]
fn whatever_breaks_the_protocol_closes_the_connection() {
    let impossible = json!({"is": "exited", "value": {"code": 4096}});
    let cases: [(&str, Vec<u8>); 7] = [
        (
            "an id that nobody used",
            framed(&json!({"answer": {"id": 9, "result": {"Ok": {"is": "done"}}}})),
        ),
        ("a frame too long", vec![0xff; 8]),
        ("a frame cut short", vec![9, 0, 0, 0, b'{']),
        ("no JSON", [&4_u32.to_le_bytes()[..], b"nope"].concat()),
        ("an unknown frame", framed(&json!({"gift": {}}))),
        (
            "an impossible answer",
            framed(&json!({"answer": {"id": 0, "result": {"Ok": impossible}}})),
        ),
        (
            "an impossible event",
            framed(
                &json!({"event": {"is": "exited", "value": {"process": 0, "status": {"signal": 99}}}}),
            ),
        ),
    ];
    for (what, bytes) in cases {
        let client = Client::open(answering(good_hello(), bytes), SOON).unwrap();
        let error = client.ping().unwrap_err();
        assert!(matches!(error, ProtocolError::Violation(_)), "{what}: {error:?}");
        assert!(matches!(client.ping(), Err(ProtocolError::Violation(_))), "{what}");
    }
}

#[test]
fn an_answer_of_the_wrong_kind_is_an_error() {
    let answer =
        json!({"answer": {"id": 0, "result": {"Ok": {"is": "started", "value": {"pid": 1}}}}});
    let client = Client::open(answering(good_hello(), framed(&answer)), SOON).unwrap();
    assert!(matches!(client.ping(), Err(ProtocolError::Violation(_))));
}

#[test]
fn an_agent_that_says_nothing_times_out() {
    let (client, _silent) = UnixStream::pair().unwrap();
    let error = Client::open(client, Duration::from_millis(20)).unwrap_err();
    assert!(matches!(error, ProtocolError::TimedOut), "{error:?}");

    let (socket, server) = against(|server| {
        let mut accepted = accept(server.try_clone().unwrap(), server, "test").unwrap();
        let ignored = accepted.requests.next_request().unwrap().unwrap();
        let second = accepted.requests.next_request().unwrap().unwrap();
        accepted.responder.answer(ignored.id, Ok(Response::Done)).unwrap();
        accepted.responder.answer(second.id, Ok(Response::Done)).unwrap();
    });
    let client = Client::open(socket, SOON).unwrap();
    let error = client.call(&Request::Ping, Some(Duration::from_millis(20))).unwrap_err();
    assert!(matches!(error, ProtocolError::TimedOut), "{error:?}");
    client.ping().unwrap();
    server.join().unwrap();
}

#[test]
fn dialling_reads_no_more_than_the_answers_line() {
    let dir = std::env::temp_dir().join(format!("agent-proto-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("vsock.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let answers: [(&[u8], bool); 4] =
        [(b"OK 1073741824\nhello", true), (b"no\n", false), (b"", false), (&[b'O'; 64], false)];
    let server = thread::spawn(move || {
        for (answer, _) in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = [0; 13];
            stream.read_exact(&mut line).unwrap();
            assert_eq!(&line, b"CONNECT 1025\n");
            stream.write_all(answer).unwrap();
        }
    });
    for (answer, good) in answers {
        let stream = dial(&path, 1025, SOON);
        assert_eq!(stream.is_ok(), good, "{answer:?}");
        if let Ok(mut stream) = stream {
            let mut rest = String::new();
            stream.read_to_string(&mut rest).unwrap();
            assert_eq!(rest, "hello");
        }
    }
    server.join().unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn a_stream_opens_with_a_header_and_an_answer() {
    let (mut socket, server) = against(|mut server| {
        let stream = accept_stream(&mut server).unwrap();
        assert_eq!(stream, Stream::Stdout { process: ProcessId(4) });
        answer_stream(&mut server, None).unwrap();
        server.write_all(b"raw\0bytes").unwrap();
    });
    open_stream(&mut socket, Stream::Stdout { process: ProcessId(4) }).unwrap();
    let mut bytes = Vec::new();
    socket.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, b"raw\0bytes");
    server.join().unwrap();
}

#[test]
fn a_bad_stream_header_is_answered() {
    for header in [json!({"version": 99, "stream": "stdin", "process": 1}), json!({"version": 1})] {
        let (mut socket, server) = against(|mut server| {
            assert!(accept_stream(&mut server).is_err());
        });
        frame::write(&mut socket, &header).unwrap();
        let reply: Value = frame::expect(&mut socket).unwrap();
        assert_eq!(reply["error"]["kind"], "unsupported");
        server.join().unwrap();
    }
    let (mut socket, server) = against(|mut server| {
        accept_stream(&mut server).unwrap();
        let error = AgentError::new(ErrorKind::NoSuchProcess, "no\tprocess 4");
        answer_stream(&mut server, Some(error)).unwrap();
    });
    let error = open_stream(&mut socket, Stream::Tty { process: ProcessId(4) }).unwrap_err();
    assert_eq!(error.to_string(), "no?process 4");
    server.join().unwrap();
}

#[test]
fn a_long_list_of_changes_comes_through_whole() {
    let mut bytes = Vec::new();
    let mut writer = ChangeWriter::new(&mut bytes);
    for number in 0..20_000 {
        let path = format!("/var/lib/\n{number}");
        writer.push(Change { path, kind: ChangeKind::Added }).unwrap();
    }
    writer.finish().unwrap();
    let mut reader = ChangeReader::new(&bytes[..]);
    let mut count = 0;
    while let Some(batch) = reader.next_batch().unwrap() {
        assert!(batch.iter().all(|change| change.path.starts_with("/var/lib/?")));
        count += batch.len();
    }
    assert_eq!(count, 20_000);
    let cut = &bytes[..bytes.len() - 6];
    let mut reader = ChangeReader::new(cut);
    assert!(std::iter::from_fn(|| reader.next_batch().transpose()).any(|batch| batch.is_err()));
}
