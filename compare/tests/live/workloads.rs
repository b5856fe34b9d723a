//! Workloads that are measured again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};

use compare::model::{Row, Workload};
use compare::serve::{Show, WorkloadRunner};

use crate::{Live, fake};

/// Measures one row, with a note of that many bytes.
struct Large(usize);

impl WorkloadRunner for Large {
    fn run(&self, workload: Workload, _: &dyn Fn(String)) -> Result<Vec<Row>, String> {
        Ok(vec![Row { note: Some("x".repeat(self.0)), ..fake::row(workload, 1) }])
    }

    fn cancel(&self) {}
}

pub(crate) fn large_rows(bytes: usize) -> Show {
    Show { workload_runner: Some(Arc::new(Large(bytes))), ..fake::show(Vec::new()) }
}

#[test]
fn rows_of_a_workload_are_replaced_and_others_stay() {
    let live = Live::start(fake::show(Vec::new()));
    let mut events = live.events(None);
    assert_eq!(events.next().unwrap().data["rows"].as_array().unwrap().len(), 2);
    assert_eq!(live.post("/api/workloads/cpu", "{}").status, 202);
    let progress = |event: &crate::Event| event.name == "progress";
    assert_eq!(events.until(progress).data["text"], "starting");
    assert_eq!(events.until(progress).data["text"], "run 1");
    let rows = events.until(|event| event.name == "rows").data;
    assert_eq!(rows["workload"], "cpu");
    assert_eq!(rows["rows"][0]["cells"][0]["median"], 1000.0);
    assert_eq!(events.until(progress).data["phase"], "done");
    let state = live.state();
    let rows: Vec<_> = state["rows"].as_array().unwrap().iter().map(|row| &row["id"]).collect();
    assert_eq!(rows, ["start.fake", "cpu.fake"]);
    assert_eq!(state["rows"][1]["cells"][0]["median"], 1000.0);
    assert_eq!(state["rows"][0]["cells"][0]["median"], 0.0);
}

#[test]
fn workload_that_fails_says_why_and_leaves_its_rows() {
    let live = Live::start(fake::show(Vec::new()));
    let mut events = live.events(None);
    assert_eq!(live.post("/api/workloads/disk", "{}").status, 202);
    let failed =
        events.until(|event| event.name == "progress" && event.data["phase"] == "failed").data;
    assert_eq!(failed["text"], "this disk is <b>not</b> there");
    assert_eq!(live.state()["rows"].as_array().unwrap().len(), 2);
}

/// Measures until it's cancelled.
#[derive(Default)]
struct Endless {
    cancelled: Mutex<bool>,
    changed: Condvar,
    ended: AtomicBool,
}

impl WorkloadRunner for Endless {
    fn run(&self, _: Workload, _: &dyn Fn(String)) -> Result<Vec<Row>, String> {
        let going_on = |cancelled: &mut bool| !*cancelled;
        drop(self.changed.wait_while(self.cancelled.lock().unwrap(), going_on));
        self.ended.store(true, Ordering::SeqCst);
        Err("cancelled".to_owned())
    }

    fn cancel(&self) {
        *self.cancelled.lock().unwrap() = true;
        self.changed.notify_all();
    }
}

#[test]
fn one_workload_runs_at_once_and_is_cancelled_with_the_server() {
    let runner = Arc::new(Endless::default());
    let show = Show { workload_runner: Some(runner.clone()), ..fake::show(Vec::new()) };
    let live = Live::start(show);
    assert_eq!(live.post("/api/workloads/cpu", "{}").status, 202);
    let busy = live.post("/api/workloads/start", "{}");
    assert_eq!(busy.status, 409);
    assert!(busy.body.contains("being measured already"), "{}", busy.body);
    live.end().unwrap();
    assert!(runner.ended.load(Ordering::SeqCst));
}

#[test]
fn without_a_runner_nothing_can_be_measured_again() {
    let live = Live::start(Show { workload_runner: None, ..fake::show(Vec::new()) });
    assert_eq!(live.state()["workloads"].as_array().unwrap().len(), 0);
    assert_eq!(live.post("/api/workloads/cpu", "{}").status, 404);
}
