//! Networks and web servers, asked from the host.

use std::sync::Arc;

use compare_probe::http::{self, Answer};
use compare_probe::network;

use super::{Running, Session};
use crate::model::{WayId, Workload};
use crate::ways::{Runner, WayError};

/// Where the program of our own listens.
const PORT: u16 = 7777;

/// Round trips at a scale of 1, bytes in one direction, requests, and over how many connections.
const ROUND_TRIPS: f64 = 500.0;
const BYTES: f64 = (32 << 20) as f64;
const REQUESTS: f64 = 500.0;
const CONNECTIONS: u64 = 4;

impl Session<'_> {
    pub(super) fn net(&mut self) {
        let ways = self.serving(Workload::Net, |session, runner| {
            let words = ["net-server", "--port", &PORT.to_string()];
            session.run_probe(runner, &words, true, false).map(Some)
        });
        let (trips, bytes) = (self.whole(ROUND_TRIPS), self.whole(BYTES));
        self.rounds(Workload::Net, ways, |session, runner, running, round| {
            let address = running.instance.address(PORT)?;
            let latency = network::round_trips(address, trips).map_err(refused)?.latency;
            let up = network::send(address, bytes).map_err(refused)?;
            let down = network::receive(address, bytes).map_err(refused)?;
            if round.run.is_some() {
                let way = runner.id();
                session.table.add("net.latency", way, latency.median_ns as f64);
                session.table.add("net.up", way, up.bytes_per_second);
                session.table.add("net.down", way, down.bytes_per_second);
            }
            Ok(())
        });
    }

    pub(super) fn web(&mut self) {
        let port = self.plan.port.unwrap_or(PORT);
        let ways = self.serving(Workload::Web, |session, runner| {
            if runner.id() == WayId::FullVm && session.plan.port.is_some() {
                let reason = "a full VM runs its own system, not the image's server";
                session.no_web(runner.id(), reason);
                return Ok(None);
            }
            let running = session.web_server(runner, port)?;
            if session.answer == Answer::Any {
                session.no_web(runner.id(), "the image's server doesn't speak HTTP");
                return Ok(None);
            }
            Ok(Some(running))
        });
        if self.plan.port.is_none() {
            self.note(
                "The image has no server of its own: a small one of ours was asked.".to_owned(),
            );
        }
        let requests = self.whole(REQUESTS).max(CONNECTIONS);
        let path = self.plan.path.clone();
        self.rounds(Workload::Web, ways, |session, runner, running, round| {
            let address = running.instance.address(port)?;
            let before = running.instance.cpu_us();
            let result = http::web_client_while(address, &path, requests, CONNECTIONS, &|| {
                !session.is_interrupted()
            });
            if session.is_interrupted() {
                return Err(WayError::Interrupted);
            }
            let result = result.map_err(refused)?;
            let after = running.instance.cpu_us();
            if round.run.is_some() {
                let way = runner.id();
                session.table.add("web.requests", way, result.requests_per_second);
                session.table.add("web.latency", way, result.latency.median_ns as f64);
                if let (Some(before), Some(after)) = (before, after) {
                    let each = after.saturating_sub(before) as f64 / requests as f64;
                    session.table.add("web.cpu", way, each);
                }
            }
            Ok(())
        });
    }

    fn no_web(&mut self, way: WayId, reason: &str) {
        for row in ["web.requests", "web.latency", "web.cpu"] {
            self.table.not_applicable(row, way, reason);
        }
    }

    /// The image's server, or one of our own.
    fn web_server(&mut self, runner: &dyn Runner, port: u16) -> Result<Running, WayError> {
        if self.plan.port.is_none() {
            // It says so when it listens.
            return self.run_probe(
                runner,
                &["web-server", "--port", &port.to_string()],
                true,
                false,
            );
        }
        let spec = self.plan.spec(self.name());
        let mut instance = runner.start(&spec)?;
        let output = instance
            .output()
            .ok_or_else(|| WayError::Unavailable("its output is read already".to_owned()))?;
        self.watch_server(&mut *instance, output)?;
        Ok(Running { instance })
    }

    /// Starts a server in each way that has one.
    fn serving(
        &mut self,
        workload: Workload,
        mut start: impl FnMut(&mut Self, &dyn Runner) -> Result<Option<Running>, WayError>,
    ) -> Vec<(Arc<dyn Runner>, Running)> {
        let mut ways = Vec::new();
        for runner in self.runners.iter().cloned() {
            if self.is_interrupted() {
                break;
            }
            self.observer.progress(&format!("{}: {} starts", workload.name(), runner.id().title()));
            match start(self, &*runner) {
                Ok(running) => ways.extend(running.map(|running| (runner, running))),
                Err(WayError::Interrupted) => break,
                Err(error) => self.table.fail(workload, runner.id(), &error),
            }
        }
        ways
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it's at least 1")]
    fn whole(&self, of: f64) -> u64 {
        (of * self.plan.scale).max(1.0) as u64
    }
}

fn refused(error: compare_probe::ProbeError) -> WayError {
    WayError::Unavailable(error.to_string())
}
