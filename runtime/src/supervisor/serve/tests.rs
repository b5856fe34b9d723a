//! A supervisor's requests against an agent of the tests' own.

use super::*;
use crate::record::{ContainerRecord, Resolved};
use crate::supervisor::hub::{Hub, Shape};
use crate::vmm::VmmKiller;
use crate::{ContainerConfig, Engine, EngineOptions};
use agent_proto::{Client, Response};
use std::process::{Child, Command};
use std::sync::mpsc::{self, Receiver};
use std::time::SystemTime;

/// A container that seems to run: its "VM" is another program, its agent tells what it's asked.
struct Fake {
    shared: Arc<Shared>,
    running: Arc<Running>,
    asked: Receiver<agent_proto::Request>,
    vm: Child,
    _dir: tempfile::TempDir,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.vm.kill().unwrap();
        self.vm.wait().unwrap();
    }
}

fn record() -> ContainerRecord {
    ContainerRecord {
        id: "ab".repeat(32),
        name: "web".to_owned(),
        created: SystemTime::now(),
        config: ContainerConfig::default(),
        resolved: Resolved { stop_signal: 15, ..Resolved::default() },
        mounts: Vec::new(),
    }
}

fn fake() -> Fake {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(EngineOptions {
        data_root: Some(dir.path().join("data")),
        runtime_root: Some(dir.path().join("run")),
        supervisor: None,
    })
    .unwrap();
    let record = record();
    engine.store().registry().unwrap().enter(&record).unwrap();
    engine.store().update(&record.id, |state| state.status = Status::Running).unwrap();
    let paths = engine.store().paths(&record.id);
    crate::paths::make_dir(&paths.run).unwrap();
    let shared = Arc::new(Shared::new(engine, paths, record));
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (tell, asked) = mpsc::channel();
    thread::spawn(move || {
        let mut agent =
            agent_proto::accept(theirs.try_clone().unwrap(), theirs, "a test's").unwrap();
        while let Ok(Some(incoming)) = agent.requests.next_request() {
            tell.send(incoming.request.unwrap()).unwrap();
            agent.responder.answer(incoming.id, Ok(Response::Done)).unwrap();
        }
    });
    let client = Client::open(ours, Duration::from_secs(10)).unwrap();
    let vm = Command::new("sleep").arg("1000").spawn().unwrap();
    let running = Arc::new(Running {
        client,
        hub: Arc::new(Hub::new(Shape::default(), None)),
        killer: VmmKiller::of(&vm),
    });
    shared.enter(Phase::Running(Arc::clone(&running)));
    Fake { shared, running, asked, vm, _dir: dir }
}

fn signals(fake: &Fake) -> i32 {
    match fake.asked.recv().unwrap() {
        agent_proto::Request::Signal { process: ProcessId::MAIN, signal, all: false } => signal,
        other => panic!("{other:?}"),
    }
}

fn ask(fake: &Fake, request: Request) -> thread::JoinHandle<i32> {
    let socket = fake.shared.paths.supervisor_socket();
    thread::spawn(move || wire::ask(&socket, &request).unwrap())
}

#[test]
fn stop_asks_then_kills_and_is_answered_when_all_is_over() {
    let fake = fake();
    let listener = serve(&fake.shared).unwrap();
    let waiting = ask(&fake, Request::Wait);
    let stopped = ask(&fake, Request::Stop { signal: None, timeout_s: Some(0) });
    assert_eq!(signals(&fake), 15);
    assert_eq!(signals(&fake), SIGKILL);
    assert!(fake.shared.is_ending(), "its policy doesn't start it again");
    fake.shared.enter(Phase::Between);
    assert!(!stopped.is_finished());
    fake.shared.enter(Phase::Over(137));
    assert_eq!((stopped.join().unwrap(), waiting.join().unwrap()), (137, 137));
    fake.shared.wait_answered(Duration::from_secs(10));
    let state = fake.shared.engine.store().state(&fake.shared.id).unwrap();
    assert!(state.stopped_by_user);
    drop(listener);
}

#[test]
fn stop_that_may_take_for_ever_doesnt_kill() {
    let fake = fake();
    let _listener = serve(&fake.shared).unwrap();
    let stopped = ask(&fake, Request::Stop { signal: Some(2), timeout_s: Some(-1) });
    assert_eq!(signals(&fake), 2);
    fake.shared.enter(Phase::Over(0));
    assert_eq!(stopped.join().unwrap(), 0);
    fake.asked.try_recv().unwrap_err();
}

#[test]
fn signals_and_sizes_reach_the_process_and_leave_the_policy_alone() {
    let fake = fake();
    let _listener = serve(&fake.shared).unwrap();
    ask(&fake, Request::Signal(10)).join().unwrap();
    assert_eq!(signals(&fake), 10);
    assert!(!fake.shared.is_ending());
    ask(&fake, Request::Resize { rows: 7, cols: 9 }).join().unwrap();
    let size = TerminalSize { rows: 7, columns: 9 };
    let resized = agent_proto::Request::Resize { process: ProcessId::MAIN, size };
    assert_eq!(fake.asked.recv().unwrap(), resized);
}

#[test]
fn container_that_doesnt_run_refuses_and_nonsense_is_hung_up_on() {
    use std::io::{Read, Write};
    let fake = fake();
    let _listener = serve(&fake.shared).unwrap();
    fake.shared.enter(Phase::Waiting);
    let socket = fake.shared.paths.supervisor_socket();
    for request in [Request::Signal(10), Request::Pause, Request::Unpause] {
        match wire::ask(&socket, &request) {
            Err(wire::AskError::Refused(error)) => assert_eq!(error.kind(), ErrorKind::Conflict),
            other => panic!("{request:?}: {other:?}"),
        }
    }
    for bytes in [&b"\xff\xff\xff\xff\xff"[..], b"\0\x04\0\0\0nope", b"\x04\0\0\0\0"] {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.write_all(bytes).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0, "{bytes:?}");
    }
    assert!(Arc::strong_count(&fake.running) >= 1);
}
