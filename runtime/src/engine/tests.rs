//! The engine over a store and images of a temporary directory, with a supervisor that's a thread.

mod agent;
mod control;
mod create;
mod list;
mod volumes;

use std::collections::BTreeMap;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::SystemTime;

use image::{ImageConfig, NewImage};
use serde_json::{Value, json};

use super::*;
use crate::config::ContainerConfig;
use crate::files::LockFile;
use crate::options::{EventOptions, ListOptions};
use crate::record::{State, Status};
use crate::wire::{self, Request};

/// A host of its own.
struct Host {
    _dir: tempfile::TempDir,
    engine: Arc<Engine>,
}

impl Host {
    /// With the image `web`.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = EngineOptions {
            data_root: Some(dir.path().join("data")),
            runtime_root: Some(dir.path().join("run")),
            supervisor: None,
        };
        let engine = Arc::new(Engine::open(options).unwrap());
        let host = Self { _dir: dir, engine };
        host.add_image(
            "web",
            json!({
                "Cmd": ["serve"], "Env": ["PATH=/bin"], "Labels": { "from": "image" },
                "ExposedPorts": { "80/tcp": {} }, "Volumes": { "/data": {} },
            }),
        );
        host
    }

    fn add_image(&self, name: &str, config: Value) {
        let config = ImageConfig {
            os: "linux".to_owned(),
            architecture: image::Platform::host().architecture,
            config,
            ..ImageConfig::default()
        };
        let tags = vec![name.parse().unwrap()];
        let image = NewImage { config, tags, ..NewImage::default() };
        self.engine.images().unwrap().add(image).unwrap();
    }

    fn config(&self, name: &str) -> ContainerConfig {
        ContainerConfig {
            image: "web".to_owned(),
            name: Some(name.to_owned()),
            ..ContainerConfig::default()
        }
    }

    /// A container that was never started.
    fn create(&self, name: &str) -> String {
        self.engine.create(&self.config(name)).unwrap().id
    }

    /// A container with a supervisor.
    fn run(&self, name: &str) -> Supervisor {
        Supervisor::start(&self.engine, &self.create(name))
    }

    /// A container whose supervisor was killed.
    fn lose(&self, config: &ContainerConfig) -> String {
        let id = self.engine.create(config).unwrap().id;
        self.engine.store.update(&id, |state| state.status = Status::Running).unwrap();
        id
    }

    fn state(&self, id: &str) -> State {
        self.engine.store.state(id).unwrap()
    }

    fn names(&self, all: bool, filters: &[(&str, &str)]) -> Vec<String> {
        let options = ListOptions { all, filters: filter_map(filters), last: None };
        let listed = self.engine.list(&options).unwrap();
        listed.into_iter().map(|listed| listed.state.summary.name).collect()
    }

    /// What happened so far.
    fn actions(&self) -> Vec<String> {
        let options = EventOptions {
            since: Some(SystemTime::UNIX_EPOCH),
            until: Some(SystemTime::now()),
            filters: BTreeMap::new(),
        };
        let events = self.engine.events(&options).unwrap();
        events.map(|event| event.unwrap()).map(|it| format!("{} {}", it.kind, it.action)).collect()
    }
}

fn filter_map(filters: &[(&str, &str)]) -> BTreeMap<String, Vec<String>> {
    let mut map: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in filters {
        map.entry((*name).to_owned()).or_default().push((*value).to_owned());
    }
    map
}

/// Does what a supervisor does for its clients, without a virtual machine.
struct Supervisor {
    id: String,
    thread: JoinHandle<Vec<Request>>,
}

impl Supervisor {
    fn start(engine: &Arc<Engine>, id: &str) -> Self {
        let life = engine.store.take_life(id).unwrap().expect("it has no supervisor");
        let socket = engine.store.paths(id).supervisor_socket();
        let listener = UnixListener::bind(socket).unwrap();
        let running = |state: &mut State| {
            state.status = Status::Running;
            state.started = Some(SystemTime::now());
        };
        engine.store.update(id, running).unwrap();
        let (engine, name) = (Arc::clone(engine), id.to_owned());
        let thread = std::thread::spawn(move || serve(&engine, &name, &listener, life));
        Self { id: id.to_owned(), thread }
    }

    /// What it was asked, once it has ended.
    fn asked(self) -> Vec<Request> {
        self.thread.join().unwrap()
    }
}

/// Answers until it's to stop.
fn serve(engine: &Engine, id: &str, listener: &UnixListener, life: LockFile) -> Vec<Request> {
    let (mut asked, mut waiting) = (Vec::new(), Vec::<UnixStream>::new());
    loop {
        let (mut client, _) = listener.accept().unwrap();
        let request = wire::receive_request(&mut client).unwrap();
        asked.push(request.clone());
        let set = |status| engine.store.update(id, |state| state.status = status).unwrap();
        match request {
            Request::Wait | Request::Watch => {
                waiting.push(client);
                continue;
            }
            Request::Stop { signal, .. } => {
                let code = 128 + signal.unwrap_or(15);
                let ended = |state: &mut State| {
                    state.status = Status::Exited;
                    state.exit_code = code;
                    state.finished = Some(SystemTime::now());
                };
                engine.store.update(id, ended).unwrap();
                std::fs::remove_file(engine.store.paths(id).supervisor_socket()).unwrap();
                drop(life);
                for mut client in waiting.into_iter().chain([client]) {
                    let _ = wire::send_answer(&mut client, &Ok(code));
                }
                return asked;
            }
            Request::Pause => set(Status::Paused),
            Request::Unpause => set(Status::Running),
            _ => {}
        }
        wire::send_answer(&mut client, &Ok(0)).unwrap();
    }
}
