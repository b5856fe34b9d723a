//! Starting and stopping.

use std::io::{PipeReader, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use compare_probe::ProbeError;
use compare_probe::http::{self, Answer};

use super::{PATIENCE, Plan, Round, Session, Sizes, drain, us};
use crate::interrupt::Interrupt;
use crate::model::{Step, Timeline, WayId, Workload};
use crate::ways::{Instance, LOGIN_MARK, Runner, WayError, read_some, wait_for};

/// How much of an output is kept for a failure's message, in bytes.
const KEPT_BYTES: usize = 4096;

/// A moment in a start.
#[derive(Clone, Copy, Debug)]
struct Moment {
    at: Instant,
    cpu_us: Option<u64>,
}

impl Moment {
    fn now(instance: &dyn Instance) -> Self {
        Self { at: Instant::now(), cpu_us: instance.cpu_us() }
    }
}

impl Session<'_> {
    /// What's known of the image without running it.
    pub(super) fn sizes(&mut self, sizes: &Sizes) {
        let ids: Vec<_> = self.runners.iter().map(|runner| runner.id()).collect();
        let ours = |way: &WayId| ids.contains(way);
        for (way, bytes) in sizes.disk.iter().filter(|(way, _)| ours(way)) {
            self.table.add("image.disk", *way, *bytes as f64);
        }
        for (way, bytes) in sizes.wire.iter().filter(|(way, _)| ours(way)) {
            self.table.add("image.wire", *way, *bytes as f64);
        }
        if ours(&WayId::FullVm) {
            let reason = "its disk doesn't come from a registry";
            self.table.not_applicable("image.wire", WayId::FullVm, reason);
        }
        for (way, text) in sizes.file_systems.iter().filter(|(way, _)| ours(way)) {
            self.table.say("filesystem", *way, text.clone());
        }
    }

    pub(super) fn start(&mut self) {
        let ways = self.runners.iter().map(|runner| (Arc::clone(runner), ())).collect();
        self.rounds(Workload::Start, ways, |session, runner, (), round| {
            session.start_once(runner, round)
        });
    }

    fn start_once(&mut self, runner: &dyn Runner, round: Round) -> Result<(), WayError> {
        let way = runner.id();
        let spec = self.plan.spec(self.name()).to_look_at(way);
        let mut instance = runner.start(&spec)?;
        let started = instance.started();
        let output = instance
            .output()
            .ok_or_else(|| WayError::Unavailable("its output is read already".to_owned()))?;
        let seen = if way == WayId::FullVm {
            self.watch_console(&mut *instance, output)?
        } else if spec.network {
            self.watch_server(&mut *instance, output)?
        } else {
            self.watch_output(&mut *instance, output)?
        };
        if spec.network && seen.ready.is_none() {
            // It was only found out what its server speaks: that start is no sample.
            drop(instance);
            return self.start_once(runner, round);
        }
        let mut steps = instance.steps();
        // What has ended by itself has no memory any more.
        let usage = if seen.runs { instance.usage().ok() } else { None };
        let before = Moment::now(&*instance);
        if seen.runs {
            instance.stop()?;
        }
        let after = Moment::now(&*instance);
        let Some(run) = round.run else { return Ok(()) };
        let add = |session: &mut Self, id: &str, moment: Option<Moment>, cpu_from: Option<u64>| {
            let Some(moment) = moment else { return };
            session.table.add(id, way, us(moment.at.saturating_duration_since(started)));
            if let (Some(cpu), Some(from)) = (moment.cpu_us, cpu_from) {
                session.table.add(&format!("{id}.cpu"), way, cpu.saturating_sub(from) as f64);
            }
        };
        let reason = match way {
            WayId::FullVm => Some("a full VM runs its own system, not the image"),
            _ if spec.network => Some("a server's first sign of life is its answer"),
            _ => None,
        };
        if let Some(reason) = reason {
            self.table.not_applicable("start.first-byte", way, reason);
            self.table.not_applicable("start.first-byte.cpu", way, reason);
        } else {
            add(self, "start.first-byte", seen.first, Some(0));
        }
        add(self, "start.ready", seen.ready, Some(0));
        if seen.runs {
            self.table.add("stop", way, us(after.at - before.at));
            if let (Some(after), Some(before)) = (after.cpu_us, before.cpu_us) {
                self.table.add("stop.cpu", way, after.saturating_sub(before) as f64);
            }
        }
        if let Some(usage) = usage {
            self.table.add("memory.pss", way, usage.pss_bytes as f64);
        }
        // Watching one that stays isn't its own time.
        let whole = match seen.ready.or(seen.first) {
            Some(up) if seen.runs => {
                up.at.saturating_duration_since(started) + (after.at - before.at)
            }
            _ => after.at.saturating_duration_since(started),
        };
        self.table.add("churn", way, 60e6 / us(whole).max(1.0));
        let mut reach = |name: &str, at: Option<Moment>| {
            if let Some(moment) = at {
                let at_us = us(moment.at.saturating_duration_since(started));
                steps.push(Step { name: name.to_owned(), at_us });
            }
        };
        reach(if way == WayId::FullVm { "console speaks" } else { "first byte" }, seen.first);
        reach("ready", seen.ready);
        reach("stopped", Some(after));
        steps.insert(0, Step { name: "command started".to_owned(), at_us: 0.0 });
        steps.sort_by(|one, other| one.at_us.total_cmp(&other.at_us));
        self.findings.timelines.push(Timeline { way, run, steps });
        Ok(())
    }

    /// A command's first byte. If it's the user's, it ends by itself or it doesn't.
    fn watch_output(
        &self,
        instance: &mut dyn Instance,
        mut output: PipeReader,
    ) -> Result<Seen, WayError> {
        let deadline = Instant::now() + PATIENCE;
        let read = |output: &mut PipeReader| {
            read_some(output, deadline, self.interrupt)
                .map_err(|stopped| stopped.into_way_error("the first byte", PATIENCE))
        };
        let mut said = read(&mut output)?;
        let first = (!said.is_empty()).then(|| Moment::now(instance));
        if self.plan.command.is_empty() {
            let runs = first.is_some();
            if !runs {
                return Err(ended(instance.wait()?, &said));
            }
            drain(output);
            return Ok(Seen { first, ready: None, runs });
        }
        // The user's command: its end is awaited for a while, and its exit code looked at.
        let watched = Instant::now() + WATCHED;
        loop {
            let settled = watched.min(Instant::now() + SETTLED);
            let more = match read_some(&mut output, settled, self.interrupt) {
                Ok(more) if more.is_empty() => break,
                Ok(more) => more,
                Err(crate::ways::Stopped::Late) => {
                    drain(output);
                    return Ok(Seen { first, ready: None, runs: true });
                }
                Err(stopped) => {
                    return Err(stopped.into_way_error("the command's output", PATIENCE));
                }
            };
            said.extend(more);
            said.truncate(KEPT_BYTES);
            // One that never pauses is never late.
            if Instant::now() >= watched {
                drain(output);
                return Ok(Seen { first, ready: None, runs: true });
            }
        }
        match instance.wait()? {
            0 => Ok(Seen { first, ready: None, runs: false }),
            code => Err(ended(code, &said)),
        }
    }

    /// A server's first answer. What it says on its output is for a failure's message only.
    pub(super) fn watch_server(
        &mut self,
        instance: &mut dyn Instance,
        mut output: PipeReader,
    ) -> Result<Seen, WayError> {
        let port = self.plan.port.unwrap_or_default();
        let address = instance.address(port)?;
        let deadline = Instant::now() + PATIENCE;
        let (answered, tell) = UnixStream::pair()
            .map_err(|source| WayError::System { what: "make a socket".to_owned(), source })?;
        let given_up = AtomicBool::new(false);
        let (plan, interrupt, wanted) = (self.plan, self.interrupt, self.answer);
        let (mut seen, knows) = thread::scope(|scope| {
            let asking = scope.spawn(|| {
                let answer = ask(address, wanted, plan, deadline, &given_up, interrupt);
                let at = Instant::now();
                // Whoever waits sees the end of it if it can't be told.
                let _ = (&tell).write_all(b"!");
                answer.map(|knows| (at, knows))
            });
            let mut said = Vec::new();
            let watched = loop {
                match wait_for(&[answered.as_fd(), output.as_fd()], deadline, Some(self.interrupt))
                {
                    Ok(ready) if ready[0] => break Ok(Moment::now(instance)),
                    Ok(_) => {}
                    Err(stopped) => {
                        break Err(stopped.into_way_error("the server's answer", PATIENCE));
                    }
                }
                match read_some(&mut output, deadline, self.interrupt) {
                    Ok(more) if more.is_empty() => {
                        break instance.wait().and_then(|code| Err(ended(code, &said)));
                    }
                    Ok(more) => {
                        said.extend(more);
                        let kept = said.len().saturating_sub(KEPT_BYTES);
                        said.drain(..kept);
                    }
                    Err(stopped) => {
                        break Err(stopped.into_way_error("the server's output", PATIENCE));
                    }
                }
            };
            given_up.store(true, Ordering::Relaxed);
            let answer = asking.join().unwrap_or(Err(WayError::Interrupted));
            let moment = watched?;
            drain(output);
            let (at, knows) = answer?;
            let ready = Some(Moment { at, ..moment });
            Ok::<_, WayError>((Seen { first: None, ready, runs: true }, knows))
        })?;
        if knows != self.answer {
            self.answer = knows;
            // It was there long before that was known.
            seen.ready = None;
            self.note(format!(
                "What listens at port {port} doesn't speak HTTP: it's ready when it answers \
                 anything, or closes a connection that it took."
            ));
        }
        Ok(seen)
    }

    /// Waits for a full VM's login prompt.
    pub(super) fn until_login(&self, instance: &mut dyn Instance) -> Result<(), WayError> {
        let output = instance
            .output()
            .ok_or_else(|| WayError::Unavailable("its output is read already".to_owned()))?;
        self.watch_console(instance, output).map(drop)
    }

    /// A console's first byte, and its login prompt.
    fn watch_console(
        &self,
        instance: &mut dyn Instance,
        mut output: PipeReader,
    ) -> Result<Seen, WayError> {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = Seen { runs: true, ..Seen::default() };
        let mut text = Vec::new();
        loop {
            let more = read_some(&mut output, deadline, self.interrupt)
                .map_err(|stopped| stopped.into_way_error("the login prompt", PATIENCE))?;
            if more.is_empty() {
                return Err(ended(instance.wait()?, &text));
            }
            seen.first.get_or_insert_with(|| Moment::now(instance));
            text.extend(more);
            let mark = LOGIN_MARK.as_bytes();
            if text.windows(mark.len()).any(|window| window == mark) {
                seen.ready = Some(Moment::now(instance));
                drain(output);
                return Ok(seen);
            }
            // The mark may be in two pieces.
            let kept = text.len().saturating_sub(KEPT_BYTES);
            text.drain(..kept);
        }
    }
}

/// How long a command must be silent to be taken for one that stays, and how long it may talk.
const SETTLED: Duration = Duration::from_secs(5);
const WATCHED: Duration = Duration::from_secs(60);

/// What a start has shown.
#[derive(Debug, Default)]
pub(super) struct Seen {
    first: Option<Moment>,
    ready: Option<Moment>,
    /// Whether it still runs.
    runs: bool,
}

/// Asks a server until it answers; returns what it's known to answer then.
fn ask(
    address: std::net::SocketAddr,
    wanted: Answer,
    plan: &Plan,
    deadline: Instant,
    given_up: &AtomicBool,
    interrupt: &Interrupt,
) -> Result<Answer, WayError> {
    let left = || {
        let is_over = given_up.load(Ordering::Relaxed) || interrupt.is_told();
        let left = deadline.checked_duration_since(Instant::now());
        left.filter(|left| !is_over && !left.is_zero())
    };
    match http::connect_while(address, &plan.path, wanted, plan.attempt, left) {
        Ok(_) => Ok(wanted),
        Err(_) if interrupt.is_told() => Err(WayError::Interrupted),
        Err(ProbeError::Protocol { .. }) => Ok(Answer::Any),
        Err(error) => Err(WayError::Unavailable(error.to_string())),
    }
}

pub(super) fn ended(code: i32, said: &[u8]) -> WayError {
    WayError::Program {
        program: "the command".to_owned(),
        status: format!("exit code {code}"),
        message: crate::ways::last(&String::from_utf8_lossy(said)),
    }
}
