use super::*;
use std::io::{BufWriter, Read, Write};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Mutex, PoisonError};

use agent_proto::{
    AgentError, ChangeWriter, ErrorKind as Kind, ProcessInfo, Request as Asked, Response, Stream,
    TransferId,
};

use crate::ErrorKind;
use crate::options::{ChangeKind, CommitOptions};

/// What the agent does, and what it got.
#[derive(Default)]
struct Plan {
    /// What it answers at the end of a copy; streams are closed at once then.
    failure: Option<AgentError>,
    /// Whether lists of changes end early.
    is_cut_off: bool,
    asked: Vec<Asked>,
}

struct Agent {
    plan: Arc<Mutex<Plan>>,
}

type Shared = Arc<Mutex<Plan>>;

fn plan(shared: &Shared) -> std::sync::MutexGuard<'_, Plan> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Agent {
    /// Listens where the VMM's vsock device would.
    fn start(host: &Host, id: &str) -> Self {
        let listener = UnixListener::bind(host.engine.store.paths(id).vsock()).unwrap();
        let shared = Shared::default();
        let agent = Self { plan: Arc::clone(&shared) };
        let (sent, received) = mpsc::channel();
        let received = Arc::new(Mutex::new(received));
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let (shared, sent) = (Arc::clone(&shared), sent.clone());
                let received = Arc::clone(&received);
                std::thread::spawn(move || {
                    talk(connection.unwrap(), &shared, &sent, &received);
                });
            }
        });
        agent
    }

    fn asked(&self) -> Vec<Asked> {
        plan(&self.plan).asked.clone()
    }
}

fn talk(
    mut stream: UnixStream,
    shared: &Shared,
    sent: &Sender<Vec<u8>>,
    received: &Mutex<Receiver<Vec<u8>>>,
) {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        line.push(byte[0]);
    }
    stream.write_all(b"OK 5000\n").unwrap();
    if line == b"CONNECT 1025\n" {
        return transfer(stream, shared, sent);
    }
    assert_eq!(line, b"CONNECT 1024\n");
    let writer = stream.try_clone().unwrap();
    let mut accepted = agent_proto::accept(stream, writer, "test").unwrap();
    while let Ok(Some(incoming)) = accepted.requests.next_request() {
        let request = incoming.request.unwrap();
        plan(shared).asked.push(request.clone());
        let number = |transfer| Ok(Response::Transfer { transfer: TransferId(transfer) });
        let answer = match request {
            Asked::CopyIn { .. } => number(1),
            Asked::CopyOut { .. } => number(2),
            Asked::Changes => number(3),
            Asked::CopyLayer { .. } => number(4),
            Asked::Finish { transfer } => {
                let failure = plan(shared).failure.clone();
                match failure {
                    Some(error) => Err(error),
                    None => {
                        // What was copied in is there before this is answered.
                        if transfer == TransferId(1) {
                            let bytes = received.lock().unwrap().recv().unwrap();
                            assert_eq!(bytes, b"an archive");
                        }
                        Ok(Response::Done)
                    }
                }
            }
            Asked::Processes => Ok(Response::Processes(vec![ProcessInfo {
                user: "root".to_owned(),
                pid: 1,
                command: "evil\x1b[2J\nline".to_owned(),
                ..ProcessInfo::default()
            }])),
            Asked::Stats => {
                let mut stats = agent_proto::Stats::default();
                stats.pids.current = 3;
                stats.cpu.total_us = 7;
                Ok(Response::Stats(Box::new(stats)))
            }
            other => Err(AgentError::new(Kind::Unsupported, format!("{other:?}"))),
        };
        accepted.responder.answer(incoming.id, answer).unwrap();
    }
}

fn transfer(mut stream: UnixStream, shared: &Shared, sent: &Sender<Vec<u8>>) {
    let target = agent_proto::accept_stream(&mut stream).unwrap();
    agent_proto::answer_stream(&mut stream, None).unwrap();
    if plan(shared).failure.is_some() {
        return;
    }
    let Stream::Transfer { transfer } = target else { panic!("{target:?}") };
    match transfer.0 {
        1 => {
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).unwrap();
            sent.send(bytes).unwrap();
        }
        2 => stream.write_all(b"a file").unwrap(),
        3 => {
            let mut changes = ChangeWriter::new(BufWriter::new(&stream));
            for (path, kind) in [
                ("/new", agent_proto::ChangeKind::Added),
                ("/etc", agent_proto::ChangeKind::Modified),
                ("/bin/x\x07", agent_proto::ChangeKind::Deleted),
            ] {
                let path = path.to_owned();
                changes.push(agent_proto::Change { path, kind }).unwrap();
            }
            if !plan(shared).is_cut_off {
                changes.finish().unwrap();
            }
        }
        // The end of an archive that has nothing in it.
        _ => stream.write_all(&[0; 1024]).unwrap(),
    }
}

fn running() -> (Host, Supervisor, Agent) {
    let host = Host::new();
    let supervisor = host.run("one");
    let agent = Agent::start(&host, &supervisor.id);
    (host, supervisor, agent)
}

fn stop(host: &Host, supervisor: Supervisor) {
    host.engine.stop("one", None, None).unwrap();
    supervisor.asked();
}

#[test]
fn archives_go_in_and_come_out() {
    let (host, supervisor, agent) = running();
    host.engine.files("one").unwrap().copy_in("/dir", &mut &b"an archive"[..]).unwrap();
    let mut out = Vec::new();
    host.engine.files("one").unwrap().copy_out("/file", &mut out).unwrap();
    assert_eq!(out, b"a file");
    assert!(
        matches!(&agent.asked()[0], Asked::CopyIn { path, keep_owners: false, .. } if path == "/dir")
    );
    stop(&host, supervisor);
}

#[test]
fn agents_reason_is_told_rather_than_the_closed_stream() {
    let (host, supervisor, agent) = running();
    plan(&agent.plan).failure = Some(AgentError::new(Kind::NoSuchPath, "/absent"));
    // More than a socket holds: writing it fails.
    let archive = vec![0; 16 << 20];
    let error =
        host.engine.files("one").unwrap().copy_in("/absent", &mut archive.as_slice()).unwrap_err();
    assert_eq!(error.to_string(), "no such file or directory: /absent");
    let error = host.engine.files("one").unwrap().copy_out("/absent", &mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoObject);
    stop(&host, supervisor);
}

#[test]
fn changes_are_sorted_and_free_of_control_characters() {
    let (host, supervisor, agent) = running();
    let changes = host.engine.diff("one").unwrap();
    let changes: Vec<_> = changes.iter().map(|it| (it.path.as_str(), it.kind)).collect();
    assert_eq!(changes[1..], [("/etc", ChangeKind::Modified), ("/new", ChangeKind::Added)]);
    assert!(!changes[0].0.contains('\x07') && changes[0].1 == ChangeKind::Deleted);
    plan(&agent.plan).is_cut_off = true;
    let error = host.engine.diff("one").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol, "half a list is none");
    stop(&host, supervisor);
}

#[test]
fn processes_and_use_are_the_agents_with_the_hosts_beside_them() {
    let (host, supervisor, _agent) = running();
    let processes = host.engine.top("one").unwrap();
    assert_eq!(processes.titles.len(), processes.rows[0].len());
    assert!(processes.rows[0].iter().all(|field| !field.contains(['\x1b', '\n'])));
    let own = crate::process::ProcessIdentity::of(std::process::id()).unwrap();
    host.engine.store.update(&supervisor.id, |state| state.vmm = Some(own)).unwrap();
    let stats = host.engine.stats("one").unwrap();
    assert_eq!((stats.pids, stats.cpu_total_ns), (3, 7000));
    assert!(stats.host_memory_bytes > 0);
    host.engine.pause("one").unwrap();
    let paused = host.engine.stats("one").unwrap();
    assert_eq!((paused.pids, paused.host_memory_bytes > 0), (0, true));
    host.engine.store.update(&supervisor.id, |state| state.vmm = None).unwrap();
    stop(&host, supervisor);
}

#[test]
fn image_of_a_container_has_its_changes_and_its_configuration() {
    let (host, supervisor, agent) = running();
    let options = CommitOptions {
        reference: Some("kept:1".to_owned()),
        author: Some("Ada".to_owned()),
        message: Some("why".to_owned()),
        changes: vec!["CMD [\"other\"]".to_owned(), "ENV B=2".to_owned()],
        no_pause: false,
    };
    let id = host.engine.commit("one", &options).unwrap();
    let image = host.engine.images().unwrap().find("kept:1").unwrap().image;
    assert_eq!(image.id, id);
    assert_eq!(image.config.config["Cmd"], json!(["other"]));
    assert_eq!(image.config.config["Env"], json!(["PATH=/bin", "B=2"]));
    assert_eq!(image.config.config["ExposedPorts"], json!({ "80/tcp": {} }));
    assert_eq!(image.config.rootfs.diff_ids.len(), 1);
    let step = image.config.history.last().unwrap();
    assert_eq!((step.author.as_deref(), step.comment.as_deref()), (Some("Ada"), Some("why")));
    assert_eq!(host.actions().last().unwrap(), "container commit");
    assert!(agent.asked().contains(&Asked::CopyLayer { freeze: true }));

    for changes in [vec!["RUN true".to_owned()], vec!["NONSENSE".to_owned()]] {
        let options = CommitOptions { changes, ..CommitOptions::default() };
        assert_eq!(host.engine.commit("one", &options).unwrap_err().kind(), ErrorKind::Invalid);
    }
    let reference = Some("Bad/NAME".to_owned());
    host.engine.commit("one", &CommitOptions { reference, ..options }).unwrap_err();
    assert_eq!(host.engine.images().unwrap().list().unwrap().len(), 2, "nothing half-made");
    stop(&host, supervisor);
}
