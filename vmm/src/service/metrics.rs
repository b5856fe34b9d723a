//! What the VM counts, as JSON lines in the shape that Firecracker's tools read: an object per
//! subject, `block_ID` for the drive `ID`, totals of all drives under `block`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};
use sys::forbidden_call::{self, Destination};

use crate::logger;

/// Counters of one subject, by name.
pub(crate) type Counters = Vec<(&'static str, u64)>;

/// Something that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subject {
    /// Its sort: `block`, `net`, `vcpu` and so on.
    pub(crate) kind: &'static str,
    /// Its identifier among several of its sort.
    pub(crate) id: Option<String>,
    /// What it has counted since it was made.
    pub(crate) counters: Counters,
}

/// How often each action was asked for, and how often in vain.
#[derive(Clone, Copy, Debug, Default)]
struct Requests {
    count: u64,
    fails: u64,
}

/// How long the last action of a sort took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Latency {
    FullSnapshot,
    DiffSnapshot,
    LoadSnapshot,
    Pause,
    Resume,
    ForkPause,
}

impl Latency {
    fn name(self) -> &'static str {
        match self {
            Self::FullSnapshot => "full_create_snapshot",
            Self::DiffSnapshot => "diff_create_snapshot",
            Self::LoadSnapshot => "load_snapshot",
            Self::Pause => "pause_vm",
            Self::Resume => "resume_vm",
            Self::ForkPause => "fork_pause",
        }
    }
}

/// The service's own counters, and where all metrics are written.
pub(super) struct Metrics {
    destination: Option<File>,
    requests: BTreeMap<&'static str, Requests>,
    latencies: BTreeMap<Latency, Duration>,
    missed_writes: u64,
    startup_us: u64,
}

impl Metrics {
    /// Starts counting in a process that started at `started_ns` by `CLOCK_MONOTONIC`.
    pub(super) fn new(started_ns: u64) -> Self {
        let startup_ns = crate::status::monotonic_ns().saturating_sub(started_ns);
        Self {
            destination: None,
            requests: BTreeMap::new(),
            latencies: BTreeMap::new(),
            missed_writes: 0,
            startup_us: startup_ns / 1000,
        }
    }

    /// Writes metrics to the file or named pipe at `path` from now on.
    ///
    /// # Errors
    /// When it can't be opened.
    pub(super) fn write_to(&mut self, path: &Path) -> io::Result<()> {
        let file = logger::open(path)?;
        forbidden_call::tell(Destination::Metrics, Some(file.as_fd()));
        self.destination = Some(file);
        Ok(())
    }

    /// Tells whether metrics are written anywhere.
    pub(super) fn has_destination(&self) -> bool {
        self.destination.is_some()
    }

    pub(super) fn count_request(&mut self, name: &'static str, succeeded: bool) {
        let requests = self.requests.entry(name).or_default();
        requests.count += 1;
        requests.fails += u64::from(!succeeded);
    }

    pub(super) fn set_latency(&mut self, latency: Latency, duration: Duration) {
        self.latencies.insert(latency, duration);
    }

    /// Lists what the service itself has counted.
    pub(super) fn subjects(&self) -> Vec<Subject> {
        let mut subjects = vec![
            Subject {
                kind: "api_server",
                id: None,
                counters: vec![("process_startup_time_us", self.startup_us)],
            },
            Subject {
                kind: "latencies_us",
                id: None,
                counters: self
                    .latencies
                    .iter()
                    .map(|(latency, duration)| (latency.name(), micros(*duration)))
                    .collect(),
            },
            Subject {
                kind: "logger",
                id: None,
                counters: vec![("missed_metrics_count", self.missed_writes)],
            },
            // The first one ends the process, which says so itself.
            Subject { kind: "seccomp", id: None, counters: vec![("num_faults", 0)] },
        ];
        subjects.extend(self.requests.iter().map(|(name, requests)| Subject {
            kind: "request",
            id: Some((*name).to_owned()),
            counters: vec![("count", requests.count), ("fails", requests.fails)],
        }));
        subjects
    }

    /// Writes all `subjects` as one line, in one `write`: a reader of a pipe sees lines.
    ///
    /// # Errors
    /// When the file can't be written; a pipe that is full is an error too.
    pub(super) fn flush(&mut self, subjects: &[Subject]) -> io::Result<()> {
        let Some(mut file) = self.destination.as_ref() else { return Ok(()) };
        let mut line = serde_json::to_vec(&to_json(subjects))?;
        line.push(b'\n');
        file.write_all(&line).inspect_err(|_| self.missed_writes += 1)
    }
}

/// Puts counters under their subjects' names, and those of several devices of a sort also in sum.
fn to_json(subjects: &[Subject]) -> Value {
    let mut object = Map::new();
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let timestamp = u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX);
    object.insert("utc_timestamp_ms".to_owned(), timestamp.into());
    for subject in subjects {
        if let Some(id) = &subject.id {
            add(&mut object, format!("{}_{id}", subject.kind), &subject.counters);
        }
        add(&mut object, subject.kind.to_owned(), &subject.counters);
    }
    Value::Object(object)
}

/// Adds counters to the object `name`.
fn add(object: &mut Map<String, Value>, name: String, counters: &[(&'static str, u64)]) {
    let entry = object.entry(name).or_insert_with(|| Value::Object(Map::new()));
    let Some(entry) = entry.as_object_mut() else { return };
    for (name, value) in counters {
        let before = entry.get(*name).and_then(Value::as_u64).unwrap_or_default();
        entry.insert((*name).to_owned(), before.saturating_add(*value).into());
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn drive(id: &str, reads: u64) -> Subject {
        let counters = vec![("read_count", reads)];
        Subject { kind: "block", id: Some(id.to_owned()), counters }
    }

    #[test]
    fn drives_are_listed_one_by_one_and_in_sum() {
        let json = to_json(&[drive("root", 3), drive("data", 4)]);
        assert_eq!(json["block_root"]["read_count"], 3);
        assert_eq!(json["block_data"]["read_count"], 4);
        assert_eq!(json["block"]["read_count"], 7);
        assert!(json["utc_timestamp_ms"].as_u64().unwrap() > 1_600_000_000_000);
    }

    #[test]
    fn each_flush_is_one_line_of_json() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics");
        let mut metrics = Metrics::new(0);
        metrics.count_request("pause", false);
        metrics.write_to(&path).unwrap();
        for _ in 0..2 {
            let subjects = metrics.subjects();
            metrics.flush(&subjects).unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[1]["request_pause"]["fails"], 1);
    }

    #[test]
    fn pipe_that_nobody_reads_holds_up_nobody_and_the_loss_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        let mut metrics = Metrics::new(0);
        metrics.write_to(&path).unwrap();
        let subjects: Vec<_> = (0..500).map(|n| drive(&n.to_string(), 1)).collect();
        let lost = (0..100).filter(|_| metrics.flush(&subjects).is_err()).count();
        assert!(lost > 0, "a pipe holds 64 KiB");
        assert_eq!(metrics.missed_writes, u64::try_from(lost).unwrap());
        let mut reader = File::open(&path).unwrap();
        assert_ne!(reader.read(&mut [0; 16]).unwrap(), 0);
    }
}
