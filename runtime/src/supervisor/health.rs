//! Whether a container is healthy: a command is run in it again and again, by Docker's rules.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use agent_proto::{
    Client, ProcessId, ProcessSpec, ProtocolError, Request, Response, Stdio, Stream,
};

use super::shared::{Phase, Running, Shared};
use crate::agent::{AGENT_TIMEOUT, agent_error};
use crate::config::HealthConfig;
use crate::error::system;
use crate::record::{Health, HealthResult, HealthStatus};
use crate::signals::SIGKILL;
use crate::{RuntimeError, Status};

/// Docker's defaults.
const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(30);
const START_INTERVAL: Duration = Duration::from_secs(5);
const RETRIES: u32 = 3;

/// How many checks are kept, and how much of what each printed, in bytes: Docker's.
const MAX_RESULTS: usize = 5;
const MAX_OUTPUT_BYTES: usize = 4096;

/// The exit code of a check that took too long or couldn't be run.
const NO_RESULT: i32 = -1;

/// How health is checked, everything said.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Plan {
    command: Vec<String>,
    interval: Duration,
    timeout: Duration,
    start_period: Duration,
    start_interval: Duration,
    retries: u32,
}

/// Checks a container's health as long as its process runs, on a thread of its own.
pub(super) fn watch(shared: &Arc<Shared>, running: &Arc<Running>) -> Result<(), RuntimeError> {
    let Some(plan) = shared.record.resolved.health.as_ref().and_then(Plan::of) else {
        return Ok(());
    };
    let (shared, running) = (Arc::clone(shared), Arc::clone(running));
    let work = move || check_on(&shared, &running, &plan);
    let thread = thread::Builder::new().name("health".to_owned()).spawn(work);
    thread.map(drop).map_err(system("start a thread"))
}

fn check_on(shared: &Shared, running: &Arc<Running>, plan: &Plan) {
    let began = Instant::now();
    let mut health = Health::default();
    loop {
        let pause = plan.pause(health.status, began.elapsed());
        let deadline = Instant::now().checked_add(pause);
        let is_over =
            |phase: &Phase| !matches!(phase, Phase::Running(now) if Arc::ptr_eq(now, running));
        if shared.wait(deadline, is_over) {
            return;
        }
        // Nothing answers in a VM that stands still.
        let state = shared.engine.store().state(&shared.id);
        if state.is_ok_and(|state| state.status == Status::Paused) {
            continue;
        }
        let result = check(&shared.paths.vsock(), plan);
        let before = health.status;
        health.add(result, began.elapsed() < plan.start_period, plan.retries);
        let now = health.clone();
        shared.note(|state| {
            if matches!(state.status, Status::Running | Status::Paused) {
                state.health = Some(now);
            }
        });
        if health.status != before {
            shared.emit(&format!("health_status: {}", health.status.as_str()), None);
        }
    }
}

impl Plan {
    fn of(config: &HealthConfig) -> Option<Self> {
        let (kind, words) = config.test.as_deref()?.split_first()?;
        let command = match kind.as_str() {
            "CMD" => words.to_vec(),
            "CMD-SHELL" => ["/bin/sh", "-c"]
                .map(str::to_owned)
                .into_iter()
                .chain(words.first().cloned())
                .collect(),
            _ => return None,
        };
        let time = |value: Option<u64>, default| value.map_or(default, Duration::from_nanos);
        Some(Self {
            command,
            interval: time(config.interval_ns, INTERVAL),
            timeout: time(config.timeout_ns, TIMEOUT),
            start_period: time(config.start_period_ns, Duration::ZERO),
            start_interval: time(config.start_interval_ns, START_INTERVAL),
            retries: config.retries.unwrap_or(RETRIES),
        })
    }

    /// How long until the next check.
    fn pause(&self, status: HealthStatus, since_start: Duration) -> Duration {
        let is_starting = status == HealthStatus::Starting && since_start < self.start_period;
        if is_starting { self.start_interval } else { self.interval }
    }
}

impl Health {
    /// Takes a check's result.
    fn add(&mut self, result: HealthResult, in_start_period: bool, retries: u32) {
        if result.exit_code == 0 {
            self.failing_streak = 0;
            self.status = HealthStatus::Healthy;
        } else if !(in_start_period && self.status == HealthStatus::Starting) {
            self.failing_streak = self.failing_streak.saturating_add(1);
            if self.failing_streak >= retries {
                self.status = HealthStatus::Unhealthy;
            }
        }
        self.log.push(result);
        let surplus = self.log.len().saturating_sub(MAX_RESULTS);
        self.log.drain(..surplus);
    }
}

/// Runs one check.
fn check(vsock: &Path, plan: &Plan) -> HealthResult {
    let start = SystemTime::now();
    let (exit_code, output) =
        run(vsock, plan).unwrap_or_else(|error| (NO_RESULT, error.to_failure().message));
    HealthResult { start, end: SystemTime::now(), exit_code, output }
}

fn run(vsock: &Path, plan: &Plan) -> Result<(i32, String), RuntimeError> {
    let client = Client::connect(vsock, AGENT_TIMEOUT).map_err(agent_error)?;
    let spec = ProcessSpec {
        args: plan.command.clone(),
        stdio: Stdio { stdin: false, stdout: true, stderr: true },
        ..ProcessSpec::default()
    };
    let process = client.exec(spec).map_err(agent_error)?;
    let open = |target| Client::stream(vsock, target, AGENT_TIMEOUT).map_err(agent_error);
    let (stdout, stderr) = (open(Stream::Stdout { process })?, open(Stream::Stderr { process })?);
    client.start(process).map_err(agent_error)?;
    thread::scope(|scope| {
        let readers = [&stdout, &stderr].map(|from| scope.spawn(move || read_start(from)));
        let outcome = wait(&client, process, plan.timeout);
        client.close();
        for socket in [&stdout, &stderr] {
            // The other side may be gone.
            let _ = socket.shutdown(std::net::Shutdown::Both);
        }
        let output: Vec<u8> =
            readers.into_iter().filter_map(|reader| reader.join().ok()).flatten().collect();
        let output = output.get(..MAX_OUTPUT_BYTES).unwrap_or(&output);
        let text = String::from_utf8_lossy(output).into_owned();
        Ok(outcome?.map_or_else(
            || (NO_RESULT, format!("Health check exceeded timeout ({:?})", plan.timeout)),
            |code| (code, text),
        ))
    })
}

/// Waits for a check's end; none if it takes too long, and was killed.
fn wait(
    client: &Client,
    process: ProcessId,
    timeout: Duration,
) -> Result<Option<i32>, RuntimeError> {
    match client.call(&Request::Wait { process }, Some(timeout)) {
        Ok(Response::Exited(status)) => Ok(Some(status.code)),
        Ok(other) => {
            Err(agent_error(ProtocolError::Violation(format!("{other:?} isn't the answer"))))
        }
        Err(ProtocolError::TimedOut) => {
            client.signal(process, SIGKILL, false).map_err(agent_error)?;
            Ok(None)
        }
        Err(error) => Err(agent_error(error)),
    }
}

/// Reads an output to its end, and keeps its first bytes.
fn read_start(mut from: &UnixStream) -> Vec<u8> {
    let (mut kept, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(read) = from.read(&mut buffer) {
        if read == 0 {
            break;
        }
        let room = MAX_OUTPUT_BYTES.saturating_sub(kept.len()).min(read);
        kept.extend_from_slice(buffer.get(..room).unwrap_or_default());
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(exit_code: i32) -> HealthResult {
        let now = SystemTime::now();
        HealthResult { start: now, end: now, exit_code, output: String::new() }
    }

    #[test]
    fn too_many_failures_in_a_row_are_unhealthy_and_one_success_heals() {
        let mut health = Health::default();
        for (code, status, streak) in [
            (1, HealthStatus::Starting, 1),
            (0, HealthStatus::Healthy, 0),
            (1, HealthStatus::Healthy, 1),
            (-1, HealthStatus::Unhealthy, 2),
            (1, HealthStatus::Unhealthy, 3),
            (0, HealthStatus::Healthy, 0),
        ] {
            health.add(result(code), false, 2);
            assert_eq!((health.status, health.failing_streak), (status, streak));
        }
        assert_eq!(health.log.len(), MAX_RESULTS);
        assert_eq!(health.log.first().map(|it| it.exit_code), Some(0));
    }

    #[test]
    fn failures_in_the_start_period_dont_count_until_the_first_success() {
        let mut health = Health::default();
        for _ in 0..9 {
            health.add(result(1), true, 1);
            assert_eq!(health.status, HealthStatus::Starting);
        }
        health.add(result(0), true, 1);
        health.add(result(1), true, 1);
        assert_eq!(health.status, HealthStatus::Unhealthy);
    }

    #[test]
    fn plan_has_dockers_defaults() {
        let test = |words: &[&str]| HealthConfig {
            test: Some(words.iter().map(ToString::to_string).collect()),
            ..HealthConfig::default()
        };
        let plan = Plan::of(&test(&["CMD-SHELL", "true || false"])).unwrap();
        assert_eq!(plan.command, ["/bin/sh", "-c", "true || false"]);
        assert_eq!((plan.interval, plan.retries), (INTERVAL, 3));
        assert_eq!(Plan::of(&test(&["CMD", "a", "b"])).unwrap().command, ["a", "b"]);
        assert_eq!(Plan::of(&test(&["NONE"])), None);
        let config = HealthConfig { start_period_ns: Some(60_000_000_000), ..test(&["CMD", "a"]) };
        let plan = Plan::of(&config).unwrap();
        assert_eq!(plan.pause(HealthStatus::Starting, Duration::ZERO), START_INTERVAL);
        assert_eq!(plan.pause(HealthStatus::Healthy, Duration::ZERO), INTERVAL);
        assert_eq!(plan.pause(HealthStatus::Starting, Duration::from_secs(61)), INTERVAL);
    }
}
