//! Instances: started, watched, stopped.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

use compare::model::WayId;
use compare::serve::{MAX_INSTANCES, MAX_OUTPUT_BYTES, ServeError};
use compare::ways::{Instance, Runner, Spec, WayError};

use crate::fake::{self, Act, Does, FakeRunner};
use crate::{Live, instance_of};

fn act(does: Does) -> Act {
    Act { after: Duration::ZERO, does }
}

fn one(runner: FakeRunner) -> Live {
    Live::start(fake::show(vec![Arc::new(runner)]))
}

#[test]
fn a_full_vm_arrives_at_its_login_prompt_and_not_when_its_console_speaks() {
    let mut script = fake::greeting("kernel entered", "[  OK  ] Reached target");
    let print = |text: &str| Does::Print(text.as_bytes().to_vec());
    script.push(Act { after: Duration::from_millis(50), does: print("\r\nvm log") });
    script.push(Act { after: Duration::from_millis(50), does: print("in: ") });
    let live = one(FakeRunner::new(WayId::FullVm, script));
    let mut events = live.events(None);
    let name = instance_of(&live.post("/api/instances", r#"{"way": "full-vm"}"#));
    let steps = events
        .until(|event| event.name == "steps" && event.data["steps"].as_array().unwrap().len() == 4);
    let at = |name: &str| {
        let steps = steps.data["steps"].as_array().unwrap();
        steps.iter().find(|step| step["name"] == name).map(|step| step["at_us"].as_f64().unwrap())
    };
    assert!(at("ready").unwrap() >= at("console speaks").unwrap(), "{steps:?}");
    assert_eq!(at("first byte"), None);
    assert_eq!(live.post(&format!("/api/instances/{name}/stop"), "{}").status, 202);
}

#[test]
fn instance_prints_reaches_steps_uses_something_and_is_stopped() {
    let runner = FakeRunner::new(WayId::MicrovmCold, fake::greeting("kernel entered", "hi\x1b[0m"));
    let alive = runner.alive.clone();
    let live = one(runner);
    let mut events = live.events(None);
    let name = instance_of(&live.post("/api/instances", r#"{"way": "microvm-cold"}"#));
    let output = events.until(|event| event.name == "output");
    assert_eq!(output.data["instance"], name.as_str());
    assert_eq!(output.data["bytes"], "aGkbWzBt", "the bytes as they are, in Base64");
    let steps = events
        .until(|event| event.name == "steps" && event.data["steps"].as_array().unwrap().len() == 3);
    let names: Vec<_> =
        steps.data["steps"].as_array().unwrap().iter().map(|step| &step["name"]).collect();
    assert_eq!(names, ["command started", "kernel entered", "first byte"]);
    let usage = events.until(|event| event.name == "usage");
    assert!(usage.data["pss_bytes"].as_u64().unwrap() >= 20 << 20, "{usage:?}");
    assert_eq!(live.post(&format!("/api/instances/{name}/stop"), "{}").status, 202);
    events.phase(&name, "stopping");
    let ended = events.phase(&name, "ended");
    assert_eq!(ended["exit_code"], serde_json::Value::Null);
    assert_eq!(ended["steps"].as_array().unwrap().last().unwrap()["name"], "stopped");
    assert_eq!(alive.load(Ordering::SeqCst), 0, "it's gone before it's said to be");
}

#[test]
fn instance_that_ends_by_itself_shows_its_exit_code() {
    let script = vec![act(Does::Print(b"bye\n".to_vec())), act(Does::Exit(42))];
    let live = one(FakeRunner::new(WayId::Container, script));
    let mut events = live.events(None);
    let name = instance_of(&live.post("/api/instances", r#"{"way": "container"}"#));
    let ended = events.phase(&name, "ended");
    assert_eq!(ended["exit_code"], 42);
    assert_eq!(live.state()["instances"][0]["output"], "YnllCg==");
}

#[test]
fn instance_that_closes_its_output_goes_on_until_it_is_stopped() {
    let script = vec![act(Does::Close), act(Does::Step("went on"))];
    let runner = FakeRunner::new(WayId::Container, script);
    let alive = runner.alive.clone();
    let live = one(runner);
    let mut events = live.events(None);
    let name = instance_of(&live.post("/api/instances", r#"{"way": "container"}"#));
    events.until(|event| event.name == "steps" && event.data["steps"][0]["name"] == "went on");
    events.until(|event| event.name == "usage");
    assert_eq!(live.state()["instances"][0]["phase"], "running");
    assert_eq!(alive.load(Ordering::SeqCst), 1);
    live.post(&format!("/api/instances/{name}/stop"), "{}");
    assert_eq!(events.phase(&name, "ended")["failure"], serde_json::Value::Null);
}

#[test]
fn instance_that_cannot_start_says_why_and_others_go_on() {
    let mut refusing = FakeRunner::new(WayId::Container, Vec::new());
    refusing.refuses = Some("no container runtime: install crun".to_owned());
    let other = FakeRunner::new(WayId::MicrovmCold, fake::greeting("ready", "up"));
    let live = Live::start(fake::show(vec![Arc::new(refusing), Arc::new(other)]));
    let mut events = live.events(None);
    let names = live.post("/api/race", r#"{"ways": ["container", "microvm-cold"]}"#).json();
    let failed = events.phase(names["instances"][0].as_str().unwrap(), "ended");
    assert_eq!(failed["failure"], "no container runtime: install crun");
    assert_eq!(live.post("/api/stop", "{}").status, 202);
    let other = events.phase(names["instances"][1].as_str().unwrap(), "ended");
    assert_eq!(other["failure"], serde_json::Value::Null);
}

/// Starts only when all of a race do.
struct Together(FakeRunner, Arc<Barrier>);

impl Runner for Together {
    fn id(&self) -> WayId {
        self.0.id()
    }

    fn detail(&self) -> String {
        self.0.detail()
    }

    fn start(&self, spec: &Spec) -> Result<Box<dyn Instance>, WayError> {
        self.1.wait();
        self.0.start(spec)
    }
}

#[test]
fn race_starts_all_ways_at_the_same_moment() {
    let barrier = Arc::new(Barrier::new(WayId::ALL.len()));
    let runner = |way| {
        let runner = FakeRunner::new(way, fake::greeting("ready", "here"));
        Arc::new(Together(runner, barrier.clone())) as Arc<dyn Runner>
    };
    let live = Live::start(fake::show(WayId::ALL.map(runner).to_vec()));
    let mut events = live.events(None);
    let body = r#"{"ways": ["container", "microvm-cold", "microvm-warm", "full-vm"]}"#;
    let answer = live.post("/api/race", body);
    assert_eq!(answer.status, 201);
    assert_eq!(answer.json()["instances"].as_array().unwrap().len(), 4);
    for _ in WayId::ALL {
        events.until(|event| event.name == "output");
    }
}

#[test]
fn instances_are_limited_and_make_room_when_they_end() {
    let live = Live::greeting();
    let start = || live.post("/api/instances", r#"{"way": "container"}"#);
    let first = instance_of(&start());
    for _ in 1..MAX_INSTANCES {
        assert_eq!(start().status, 201);
    }
    let refused = start();
    assert_eq!(refused.status, 409);
    assert!(refused.body.contains("16 instances at most"), "{}", refused.body);
    assert_eq!(live.post("/api/race", r#"{"ways": ["container", "microvm-cold"]}"#).status, 409);
    let mut events = live.events(None);
    live.post(&format!("/api/instances/{first}/stop"), "{}");
    events.phase(&first, "ended");
    assert_eq!(start().status, 201);
    events.until(|event| event.name == "removed" && event.data["instance"] == first.as_str());
    assert_eq!(live.state()["instances"].as_array().unwrap().len(), MAX_INSTANCES);
}

#[test]
fn flood_of_output_is_bounded_and_says_what_is_left_out() {
    let line = [b'y'; 4096];
    let live = one(FakeRunner::new(WayId::Container, vec![act(Does::Flood(line.to_vec()))]));
    let mut events = live.events(None);
    let name = instance_of(&live.post("/api/instances", r#"{"way": "container"}"#));
    let mut told = 0;
    // Until more was told than is remembered.
    while told <= MAX_OUTPUT_BYTES {
        let output = events.until(|event| event.name == "output");
        told += output.data["bytes"].as_str().unwrap().len() / 4 * 3;
    }
    events.until(|event| event.name == "output" && event.data["skipped"].as_u64().unwrap() > 0);
    let state = live.state();
    let remembered = state["instances"][0]["output"].as_str().unwrap().len();
    assert!(remembered <= MAX_OUTPUT_BYTES.div_ceil(3) * 4, "{remembered}");
    live.post(&format!("/api/instances/{name}/stop"), "{}");
    events.phase(&name, "ended");
}

#[test]
fn end_of_the_server_removes_all_instances() {
    let runner = FakeRunner::new(WayId::Container, fake::greeting("ready", "here"));
    let alive = runner.alive.clone();
    let live = one(runner);
    let mut events = live.events(None);
    for _ in 0..5 {
        assert_eq!(live.post("/api/instances", r#"{"way": "container"}"#).status, 201);
        events.until(|event| event.name == "output");
    }
    assert_eq!(alive.load(Ordering::SeqCst), 5);
    live.end().unwrap();
    assert_eq!(alive.load(Ordering::SeqCst), 0);
    while events.next().is_some() {}
}

/// Its stop fails, and its removal waits until it's allowed.
struct Stuck {
    inner: Box<dyn Instance>,
    removal: Arc<Removal>,
}

/// Told when an instance is being removed, and when it may be.
struct Removal {
    begins: Sender<()>,
    may_go_on: Mutex<Receiver<()>>,
}

impl Drop for Stuck {
    fn drop(&mut self) {
        // Nobody may be there to tell, or to allow it.
        let _ = self.removal.begins.send(());
        let _ = self.removal.may_go_on.lock().unwrap().recv();
    }
}

impl Instance for Stuck {
    fn started(&self) -> std::time::Instant {
        self.inner.started()
    }

    fn output(&mut self) -> Option<std::io::PipeReader> {
        self.inner.output()
    }

    fn address(&mut self, port: u16) -> Result<std::net::SocketAddr, WayError> {
        self.inner.address(port)
    }

    fn steps(&mut self) -> Vec<compare::model::Step> {
        self.inner.steps()
    }

    fn usage(&self) -> Result<compare::ways::Usage, WayError> {
        Err(WayError::Unavailable("no cgroup".to_owned()))
    }

    fn exec(&self, command: &[&str]) -> Result<compare::ways::Output, WayError> {
        self.inner.exec(command)
    }

    fn try_wait(&mut self) -> Result<Option<i32>, WayError> {
        self.inner.try_wait()
    }

    fn wait(&mut self) -> Result<i32, WayError> {
        self.inner.wait()
    }

    fn stop(&mut self) -> Result<(), WayError> {
        self.inner.stop()?;
        Err(WayError::Late { what: "unmounting".to_owned(), seconds: 7 })
    }
}

struct StuckRunner(FakeRunner, Arc<Removal>);

impl Runner for StuckRunner {
    fn id(&self) -> WayId {
        self.0.id()
    }

    fn detail(&self) -> String {
        "x".repeat(100_000)
    }

    fn start(&self, spec: &Spec) -> Result<Box<dyn Instance>, WayError> {
        Ok(Box::new(Stuck { inner: self.0.start(spec)?, removal: self.1.clone() }))
    }
}

/// A server whose instances get stuck; what tells that one is being removed, and what allows that.
fn stuck() -> (Live, Receiver<()>, Sender<()>) {
    let (begins, began) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel();
    let removal = Arc::new(Removal { begins, may_go_on: Mutex::new(may_go_on) });
    let runner = FakeRunner::new(WayId::FullVm, fake::greeting("ready", "here"));
    let live = Live::start(fake::show(vec![Arc::new(StuckRunner(runner, removal))]));
    (live, began, go_on)
}

#[test]
fn instance_has_not_ended_until_it_is_removed() {
    let (live, began, go_on) = stuck();
    let mut events = live.events(None);
    let name = instance_of(&live.post("/api/instances", r#"{"way": "full-vm"}"#));
    events.phase(&name, "running");
    live.post(&format!("/api/instances/{name}/stop"), "{}");
    began.recv().unwrap();
    assert_eq!(live.state()["instances"][0]["phase"], "stopping");
    go_on.send(()).unwrap();
    assert_eq!(events.phase(&name, "ended")["failure"], "unmounting took more than 7 s");
}

#[test]
fn what_is_left_of_an_instance_is_told_at_the_end() {
    let (live, _began, go_on) = stuck();
    drop(go_on);
    let mut events = live.events(None);
    assert!(events.next().unwrap().data["ways"][0]["detail"].as_str().unwrap().len() < 1000);
    assert_eq!(live.post("/api/instances", r#"{"way": "full-vm"}"#).status, 201);
    events.until(|event| event.name == "output");
    let left = match live.end() {
        Err(ServeError::Left(left)) => left,
        other => panic!("{other:?}"),
    };
    assert_eq!(left.len(), 1);
    assert!(left[0].ends_with("unmounting took more than 7 s"), "{left:?}");
}
