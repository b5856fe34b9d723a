//! The board: what there is, what has changed, and who is told.
//!
//! Changes go into one log of bounded length, and each listener has its place in it. Whoever falls
//! behind its beginning is disconnected: nothing is ever kept for a listener alone.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::Bytes;
use tokio::sync::{Notify, watch};

use super::view::{
    Event, Instance, MAX_STEPS, Phase, Progress, ProgressPhase, Remembered, Ring, State,
    UsageSample, Way, encode, shortened,
};
use super::{MAX_INSTANCES, Show};
use crate::model::{Row, Step, WayId, Workload};

/// Changes that are kept.
const MAX_LOG_EVENTS: usize = 4096;

/// Their bytes.
const MAX_LOG_BYTES: usize = 4 * 1024 * 1024;

/// Who may listen at once.
const MAX_LISTENERS: usize = 16;

/// How many bytes of changes a connection is given at once, unless one change has more.
const BATCH_BYTES: usize = 64 * 1024;

/// See the module.
pub(super) struct Board {
    content: Mutex<Content>,
    newest: watch::Sender<u64>,
    listening: AtomicUsize,
}

struct Content {
    image: String,
    ways: Vec<Way>,
    workloads: Vec<Workload>,
    instances: Vec<(Instance, Ring)>,
    rows: Vec<Row>,
    progress: Option<Progress>,
    log: VecDeque<(u64, Bytes)>,
    log_bytes: usize,
    newest: u64,
    listeners: Vec<Arc<Place>>,
}

/// A listener's place in the log, and what disconnects it.
struct Place {
    told: AtomicU64,
    fallen_behind: Arc<Notify>,
}

/// What a listener reads from.
pub(super) struct Listener {
    board: Arc<Board>,
    place: Arc<Place>,
    newest: watch::Receiver<u64>,
    first: Option<Bytes>,
}

impl Board {
    pub(super) fn new(show: &Show) -> Self {
        let way = |runner: &Arc<dyn crate::ways::Runner>| {
            let id = runner.id();
            Way { id, title: id.title(), detail: shortened(&runner.detail()) }
        };
        let content = Content {
            image: shortened(&show.image),
            ways: show.runners.iter().map(way).collect(),
            workloads: if show.workload_runner.is_some() {
                show.workloads.clone()
            } else {
                Vec::new()
            },
            instances: Vec::new(),
            rows: show.rows.clone(),
            progress: None,
            log: VecDeque::new(),
            log_bytes: 0,
            newest: 0,
            listeners: Vec::new(),
        };
        let listening = AtomicUsize::new(0);
        Self { content: Mutex::new(content), newest: watch::Sender::new(0), listening }
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the content, and wakes the listeners if that has changed it.
    fn change<T>(&self, work: impl FnOnce(&mut Content) -> T) -> T {
        let mut content = self.content();
        let result = work(&mut content);
        let newest = content.newest;
        drop(content);
        self.newest.send_if_modified(|known| std::mem::replace(known, newest) != newest);
        result
    }

    /// Whether anybody listens.
    pub(super) fn has_listeners(&self) -> bool {
        self.listening.load(Ordering::Relaxed) > 0
    }

    /// All that there is, in JSON.
    pub(super) fn state(&self) -> String {
        self.content().state()
    }

    /// Adds instances that are to be started, and forgets ended ones in their place; `false` if there
    /// would be too many.
    pub(super) fn add(&self, new: &[(String, WayId)]) -> bool {
        self.change(|content| {
            let alive = |instance: &Instance| instance.phase != Phase::Ended;
            let count = content.instances.iter().filter(|(instance, _)| alive(instance)).count();
            if count + new.len() > MAX_INSTANCES {
                return false;
            }
            while content.instances.len() + new.len() > MAX_INSTANCES {
                let ended = content.instances.iter().position(|(instance, _)| !alive(instance));
                let Some(ended) = ended else { break };
                let (instance, _) = content.instances.remove(ended);
                content.publish(&Event::Removed { instance: &instance.name });
            }
            for (name, way) in new {
                let instance = Instance {
                    name: name.clone(),
                    way: *way,
                    phase: Phase::Starting,
                    exit_code: None,
                    failure: None,
                    steps: Vec::new(),
                    usage: None,
                };
                content.publish(&Event::Instance(&instance));
                content.instances.push((instance, Ring::default()));
            }
            true
        })
    }

    /// Changes what's said of an instance; `false` if there's none of that name.
    pub(super) fn update(&self, name: &str, work: impl FnOnce(&mut Instance)) -> bool {
        self.with(name, |content, at| {
            work(&mut content.instances[at].0);
            let instance = content.instances[at].0.clone();
            content.publish(&Event::Instance(&instance));
        })
    }

    /// Adds output, of which `skipped` bytes were left out before.
    pub(super) fn output(&self, name: &str, skipped: usize, bytes: &[u8]) {
        self.with(name, |content, at| {
            content.instances[at].1.push(bytes);
            content.publish(&Event::Output { instance: name, skipped, bytes: encode(bytes) });
        });
    }

    /// Replaces an instance's steps, unless they're the same.
    pub(super) fn steps(&self, name: &str, mut steps: Vec<Step>) {
        steps.truncate(MAX_STEPS);
        steps.iter_mut().for_each(|step| step.name = shortened(&step.name));
        self.with(name, |content, at| {
            if content.instances[at].0.steps != steps {
                content.publish(&Event::Steps { instance: name, steps: &steps });
                content.instances[at].0.steps = steps;
            }
        });
    }

    /// Says what an instance uses.
    pub(super) fn usage(&self, name: &str, usage: UsageSample) {
        self.with(name, |content, at| {
            content.instances[at].0.usage = Some(usage);
            content.publish(&Event::Usage { instance: name, usage });
        });
    }

    /// Says that a workload is being measured from now on; `false` if one is already.
    pub(super) fn begin(&self, workload: Workload) -> bool {
        self.change(|content| {
            let is_running = |progress: &Progress| progress.phase == ProgressPhase::Running;
            if content.progress.as_ref().is_some_and(is_running) {
                return false;
            }
            let phase = ProgressPhase::Running;
            let progress = Progress { workload, phase, text: "starting".to_owned() };
            content.publish(&Event::Progress(&progress));
            content.progress = Some(progress);
            true
        })
    }

    /// Says how far a workload is.
    pub(super) fn progress(&self, mut progress: Progress) {
        progress.text = shortened(&progress.text);
        self.change(|content| {
            content.publish(&Event::Progress(&progress));
            content.progress = Some(progress);
        });
    }

    /// Replaces a workload's rows.
    pub(super) fn rows(&self, workload: Workload, rows: Vec<Row>) {
        self.change(|content| {
            content.publish(&Event::Rows { workload, rows: &rows });
            content.rows.retain(|row| row.workload != workload);
            content.rows.extend(rows);
        });
    }

    fn with(&self, name: &str, work: impl FnOnce(&mut Content, usize)) -> bool {
        self.change(|content| {
            let at = content.instances.iter().position(|(instance, _)| instance.name == name);
            at.map(|at| work(content, at)).is_some()
        })
    }

    /// Begins to listen: behind the change of that number if what came after it is still known, else
    /// with all that there is. `None` if too many listen.
    pub(super) fn listen(
        self: &Arc<Self>,
        last: Option<u64>,
        fallen_behind: Arc<Notify>,
    ) -> Option<Listener> {
        let mut content = self.content();
        if content.listeners.len() >= MAX_LISTENERS {
            return None;
        }
        let oldest = content.log.front().map_or(content.newest + 1, |(number, _)| *number);
        let known = last.filter(|last| {
            last.checked_add(1).is_some_and(|next| (oldest..=content.newest + 1).contains(&next))
        });
        let first = match known {
            Some(_) => None,
            None => Some(format(content.newest, "state", &content.state())),
        };
        let told = AtomicU64::new(known.unwrap_or(content.newest));
        let place = Arc::new(Place { told, fallen_behind });
        content.listeners.push(place.clone());
        self.listening.store(content.listeners.len(), Ordering::Relaxed);
        drop(content);
        Some(Listener { board: self.clone(), place, newest: self.newest.subscribe(), first })
    }
}

impl Content {
    fn state(&self) -> String {
        let remember = |(instance, output)| Remembered { instance, output };
        let state = State {
            image: &self.image,
            ways: &self.ways,
            instances: self.instances.iter().map(|(one, ring)| remember((one, ring))).collect(),
            rows: &self.rows,
            workloads: &self.workloads,
            progress: self.progress.as_ref(),
        };
        json(&state)
    }

    fn publish(&mut self, event: &Event<'_>) {
        self.newest += 1;
        let entry = format(self.newest, event.name(), &json(event));
        self.log_bytes += entry.len();
        self.log.push_back((self.newest, entry));
        let mut gone = 0;
        while self.log.len() > MAX_LOG_EVENTS || self.log_bytes > MAX_LOG_BYTES {
            let Some((number, entry)) = self.log.pop_front() else { break };
            self.log_bytes -= entry.len();
            gone = number;
        }
        for place in &self.listeners {
            if place.told.load(Ordering::Relaxed) < gone {
                place.fallen_behind.notify_one();
            }
        }
    }
}

impl Listener {
    /// Waits for what comes next. `None` when it has missed something.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        loop {
            self.newest.borrow_and_update();
            match self.batch() {
                Err(()) => return None,
                Ok(batch) if !batch.is_empty() => return Some(batch),
                Ok(_) => self.newest.changed().await.ok()?,
            }
        }
    }

    fn batch(&self) -> Result<Bytes, ()> {
        let content = self.board.content();
        let told = self.place.told.load(Ordering::Relaxed);
        let oldest = content.log.front().map_or(content.newest + 1, |(number, _)| *number);
        // Numbers in the log have no gaps.
        let at = (told + 1).checked_sub(oldest).ok_or(())?;
        let mut batch = Vec::new();
        let mut last = told;
        for (number, entry) in content.log.iter().skip(usize::try_from(at).map_err(|_| ())?) {
            if !batch.is_empty() && batch.len() + entry.len() > BATCH_BYTES {
                break;
            }
            batch.extend_from_slice(entry);
            last = *number;
        }
        self.place.told.store(last, Ordering::Relaxed);
        Ok(batch.into())
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut content = self.board.content();
        content.listeners.retain(|place| !Arc::ptr_eq(place, &self.place));
        self.board.listening.store(content.listeners.len(), Ordering::Relaxed);
    }
}

/// A server-sent event. JSON has no line breaks of its own.
fn format(number: u64, name: &str, data: &str) -> Bytes {
    format!("id: {number}\nevent: {name}\ndata: {data}\n\n").into()
}

/// These are all plain values, which always have a form in JSON.
fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|error| {
        log::error!("the live page has a value that isn't one of JSON: {error}");
        "null".to_owned()
    })
}

#[cfg(test)]
mod tests;
