//! The keeper of an instance: starts it, tells the board of it, stops it. Each is a thread, as all
//! that an instance is asked may take its time.

use std::collections::VecDeque;
use std::error::Error;
use std::io::{self, PipeReader, Read};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::board::Board;
use super::view::{Phase, UsageSample};
use crate::model::{Step, WayId};
use crate::ways::{self, LOGIN_MARK, Runner, Spec, Usage};

/// How often an instance is asked for what it uses, while somebody listens.
const USAGE_PERIOD: Duration = Duration::from_millis(500);

/// How often it's asked for its steps while it's coming up.
const STEPS_PERIOD: Duration = Duration::from_millis(50);

/// How long that is, at most.
const COMING_UP: Duration = Duration::from_secs(180);

/// How long after the last output an instance counts as up.
const QUIET: Duration = Duration::from_secs(5);

/// Output is told at most that often: a browser has to draw it.
const OUTPUT_PERIOD: Duration = Duration::from_millis(50);

/// Output that's told at once; what comes faster is left out, all but its end.
const MAX_PENDING: usize = 16 * 1024;

/// How long the rest of the output is waited for when an instance is gone.
const LAST_OUTPUT: Duration = Duration::from_secs(1);

/// What a keeper is told.
pub(super) enum Order {
    /// End it.
    Stop,
    /// There's output, or a listener.
    Look,
}

/// See the module.
pub(super) struct Keeper {
    spec: Spec,
    board: Arc<Board>,
    inbox: Receiver<Order>,
    orders: Sender<Order>,
    tap: Arc<Tap>,
}

/// What has come out of an instance and wasn't told yet.
#[derive(Default)]
struct Tap {
    pending: Mutex<Pending>,
    ended: Condvar,
    /// Whether it's a full VM's console, which speaks long before it can be used.
    is_console: bool,
}

#[derive(Default)]
struct Pending {
    bytes: VecDeque<u8>,
    skipped: usize,
    first_byte: Option<Instant>,
    last_byte: Option<Instant>,
    /// A console's end, in which its login prompt is looked for, and when that was there.
    tail: Vec<u8>,
    login: Option<Instant>,
    ended: Option<Instant>,
}

/// An instance while it's there.
struct Kept<'a> {
    keeper: &'a Keeper,
    instance: Box<dyn ways::Instance>,
    extra: Vec<Step>,
    told: Option<Instant>,
    asked: Option<Instant>,
    usage: Option<(Instant, Usage)>,
}

impl Keeper {
    pub(super) fn new(
        spec: Spec,
        board: Arc<Board>,
        inbox: Receiver<Order>,
        orders: Sender<Order>,
    ) -> Self {
        Self { spec, board, inbox, orders, tap: Arc::default() }
    }

    /// Runs an instance to its end. Returns what's left of it, if something is.
    pub(super) fn keep(mut self, runner: &dyn Runner) -> Option<String> {
        self.tap = Arc::new(Tap { is_console: runner.id() == WayId::FullVm, ..Tap::default() });
        let mut instance = match runner.start(&self.spec.to_look_at(runner.id())) {
            Ok(instance) => instance,
            Err(error) => {
                end(&self.board, &self.spec.name, None, Some(chain(&error)));
                return None;
            }
        };
        self.board.update(&self.spec.name, |view| {
            if view.phase == Phase::Starting {
                view.phase = Phase::Running;
            }
        });
        if let Some(output) = instance.output()
            && let Err(error) = self.read(output)
        {
            log::warn!("the live page can't read the output of {}: {error}", self.spec.name);
        }
        let extra = Vec::new();
        Kept { keeper: &self, instance, extra, told: None, asked: None, usage: None }.run()
    }

    /// Reads the output on a thread that ends with it.
    fn read(&self, mut output: PipeReader) -> io::Result<()> {
        let (tap, orders) = (self.tap.clone(), self.orders.clone());
        thread::Builder::new().name("output".to_owned()).spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            loop {
                match output.read(&mut buffer) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Ok(count @ 1..) => {
                        // The keeper needs to be told once until it looks.
                        if tap.push(buffer.get(..count).unwrap_or_default()) {
                            let _ = orders.send(Order::Look);
                        }
                    }
                    Ok(_) | Err(_) => break,
                }
            }
            tap.end();
            let _ = orders.send(Order::Look);
        })?;
        Ok(())
    }
}

impl Pending {
    fn look_for_login(&mut self, bytes: &[u8], now: Instant) {
        let mark = LOGIN_MARK.as_bytes();
        self.tail.extend(bytes);
        if self.tail.windows(mark.len()).any(|window| window == mark) {
            self.login = Some(now);
        }
        // It may come in two pieces.
        let kept = self.tail.len().saturating_sub(mark.len());
        self.tail.drain(..kept);
    }
}

impl Tap {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds output; returns whether there was none.
    fn push(&self, bytes: &[u8]) -> bool {
        let mut pending = self.pending();
        let was_empty = pending.bytes.is_empty();
        let now = Instant::now();
        pending.first_byte.get_or_insert(now);
        pending.last_byte = Some(now);
        if self.is_console && pending.login.is_none() {
            pending.look_for_login(bytes, now);
        }
        pending.bytes.extend(bytes);
        let excess = pending.bytes.len().saturating_sub(MAX_PENDING);
        pending.bytes.drain(..excess);
        pending.skipped += excess;
        was_empty
    }

    fn end(&self) {
        self.pending().ended = Some(Instant::now());
        self.ended.notify_all();
    }

    fn take(&self) -> (usize, Vec<u8>) {
        let mut pending = self.pending();
        (std::mem::take(&mut pending.skipped), pending.bytes.drain(..).collect())
    }

    fn wait_for_the_end(&self) {
        let going_on = |pending: &mut Pending| pending.ended.is_none();
        drop(self.ended.wait_timeout_while(self.pending(), LAST_OUTPUT, going_on));
    }
}

impl Kept<'_> {
    fn run(mut self) -> Option<String> {
        loop {
            self.tell_output();
            self.tell_steps();
            self.tell_usage();
            let (output_ended, all_told) = {
                let pending = self.keeper.tap.pending();
                (pending.ended.is_some(), pending.bytes.is_empty())
            };
            // What has closed its output may go on all the same.
            if output_ended && all_told {
                match self.instance.try_wait() {
                    Ok(None) => {}
                    Ok(Some(code)) => return self.finish(Some(code), None),
                    Err(error) => return self.finish(None, Some(chain(&error))),
                }
            }
            let order = match self.patience() {
                None => self.keeper.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(patience) => self.keeper.inbox.recv_timeout(patience),
            };
            match order {
                Ok(Order::Stop) | Err(RecvTimeoutError::Disconnected) => return self.stop(),
                Ok(Order::Look) | Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// How long to wait for an order; `None` is for ever, if there's nothing to be told.
    fn patience(&self) -> Option<Duration> {
        let pending = self.keeper.tap.pending();
        let until = |since: Option<Instant>, period: Duration| {
            since.map_or(Duration::ZERO, |since| period.saturating_sub(since.elapsed()))
        };
        if !pending.bytes.is_empty() {
            return Some(until(self.told, OUTPUT_PERIOD));
        }
        if let Some(ended) = pending.ended {
            let soon = ended.elapsed() < QUIET;
            return Some(if soon { STEPS_PERIOD } else { USAGE_PERIOD });
        }
        if !self.keeper.board.has_listeners() {
            return None;
        }
        if self.is_coming_up(&pending) {
            return Some(STEPS_PERIOD);
        }
        Some(until(self.asked, USAGE_PERIOD))
    }

    fn is_coming_up(&self, pending: &Pending) -> bool {
        let young = self.instance.started().elapsed() < COMING_UP;
        young && pending.last_byte.is_none_or(|last| last.elapsed() < QUIET)
    }

    fn tell_output(&mut self) {
        if self.told.is_some_and(|told| told.elapsed() < OUTPUT_PERIOD) {
            return;
        }
        let (skipped, bytes) = self.keeper.tap.take();
        if !bytes.is_empty() {
            self.told = Some(Instant::now());
            self.keeper.board.output(&self.keeper.spec.name, skipped, &bytes);
        }
    }

    fn tell_steps(&mut self) {
        let (first_byte, login) = {
            let pending = self.keeper.tap.pending();
            (pending.first_byte, pending.login)
        };
        let first = if self.keeper.tap.is_console { "console speaks" } else { "first byte" };
        let mut steps = self.instance.steps();
        for (name, at) in [(first, first_byte), ("ready", login)] {
            if let Some(at) = at
                && steps.iter().all(|step| step.name != name)
            {
                steps.push(self.step(name, at));
            }
        }
        steps.extend_from_slice(&self.extra);
        steps.sort_by(|one, other| one.at_us.total_cmp(&other.at_us));
        self.keeper.board.steps(&self.keeper.spec.name, steps);
    }

    fn step(&self, name: &str, at: Instant) -> Step {
        let since_start = at.saturating_duration_since(self.instance.started());
        Step { name: name.to_owned(), at_us: since_start.as_secs_f64() * 1e6 }
    }

    fn tell_usage(&mut self) {
        let due = self.asked.is_none_or(|asked| asked.elapsed() >= USAGE_PERIOD);
        if !due || !self.keeper.board.has_listeners() {
            return;
        }
        let now = Instant::now();
        self.asked = Some(now);
        let usage = match self.instance.usage() {
            Ok(usage) => usage,
            Err(error) => {
                // One that's only coming up, or has just ended, has none either.
                log::debug!("no usage of {}: {}", self.keeper.spec.name, chain(&error));
                return;
            }
        };
        // The first sample is of the time since the start.
        let (since, before) = self.usage.unwrap_or((self.instance.started(), Usage::default()));
        let cpu_us = usage.cpu_us.saturating_sub(before.cpu_us);
        let elapsed_us = now.saturating_duration_since(since).as_secs_f64() * 1e6;
        let cpus = if elapsed_us > 0.0 { cpu_us as f64 / elapsed_us } else { 0.0 };
        self.usage = Some((now, usage));
        let sample = UsageSample {
            cpus,
            cpu_us: usage.cpu_us,
            pss_bytes: usage.pss_bytes,
            processes: usage.processes,
        };
        self.keeper.board.usage(&self.keeper.spec.name, sample);
    }

    /// It has ended by itself.
    fn finish(self, code: Option<i32>, failure: Option<String>) -> Option<String> {
        self.leave("ended", code, failure);
        None
    }

    /// It's ended.
    fn stop(mut self) -> Option<String> {
        self.keeper.board.update(&self.keeper.spec.name, |view| view.phase = Phase::Stopping);
        let failure = self.instance.stop().err().map(|error| chain(&error));
        self.leave("stopped", None, failure.clone());
        failure
    }

    fn leave(mut self, step: &str, code: Option<i32>, failure: Option<String>) {
        self.extra.push(self.step(step, Instant::now()));
        self.keeper.tap.wait_for_the_end();
        self.told = None;
        self.tell_output();
        self.tell_steps();
        // Dropping it removes it, however it ended; only then may it be said to be gone.
        let keeper = self.keeper;
        drop(self);
        end(&keeper.board, &keeper.spec.name, code, failure);
    }
}

/// Tells the board that an instance has ended.
pub(super) fn end(board: &Board, name: &str, code: Option<i32>, failure: Option<String>) {
    board.update(name, |view| {
        view.phase = Phase::Ended;
        view.exit_code = code;
        view.failure = failure.as_deref().map(super::view::shortened);
        view.usage = None;
    });
}

/// An error with its causes.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
