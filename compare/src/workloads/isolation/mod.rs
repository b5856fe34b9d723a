//! What an instance sees of the host, and what becomes of what it tries: demonstrated, not asserted.

mod attempts;
mod calls;
mod sights;

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use compare_probe::results::Facts;

use self::sights::SIGHTS;
use super::{Running, Session};
use crate::model::{Aspect, Observation, Verdict, WayId, Workload};
use crate::ways::{Runner, WayError};

/// What has been seen, by the aspect's name.
#[derive(Default)]
struct Seen {
    observations: BTreeMap<String, Vec<Observation>>,
}

impl Seen {
    fn add(&mut self, id: &str, way: WayId, value: impl Into<String>, verdict: Verdict) {
        self.add_all(id, way, value, verdict, None);
    }

    fn add_all(
        &mut self,
        id: &str,
        way: WayId,
        value: impl Into<String>,
        verdict: Verdict,
        neighbours: Option<String>,
    ) {
        let observation = Observation { way, value: value.into(), verdict, neighbours };
        self.observations.entry(id.to_owned()).or_default().push(observation);
    }

    /// The aspect, if something was seen of it.
    fn aspect(
        &mut self,
        id: &str,
        title: &str,
        method: &str,
        host: Option<String>,
    ) -> Option<Aspect> {
        let observations = self.observations.remove(id)?;
        Some(Aspect {
            id: id.to_owned(),
            title: title.to_owned(),
            method: method.to_owned(),
            host,
            observations,
        })
    }
}

/// An instance under examination, and one beside it that mustn't notice.
struct Pair<'a> {
    way: WayId,
    subject: &'a Running,
    neighbour: &'a Running,
    host: &'a Facts,
    /// Whether the kernel is the host's.
    shares_kernel: bool,
}

impl Session<'_> {
    pub(super) fn isolation(&mut self) {
        let host = match compare_probe::facts::facts() {
            Ok(host) => host,
            Err(error) => {
                self.note(format!("Isolation: the host's own facts can't be read: {error}."));
                return;
            }
        };
        let mut seen = Seen::default();
        for runner in self.runners {
            if self.is_interrupted() {
                break;
            }
            if let Err(error) = self.examine(runner, &host, &mut seen)
                && !matches!(error, WayError::Interrupted)
            {
                self.table.fail(Workload::Isolation, runner.id(), &error);
                let way = runner.id().title();
                self.note(format!("Isolation, {way}: {}.", super::describe(&error)));
            }
        }
        let mut aspects = Vec::new();
        for sight in SIGHTS {
            let host = Some((sight.of_host)(&host));
            aspects.extend(seen.aspect(sight.id, sight.title, sight.method, host));
        }
        for (id, title, method) in attempts::titles().chain(calls::titles()) {
            aspects.extend(seen.aspect(&id, &title, method, None));
        }
        self.findings.isolation = aspects;
    }

    fn examine(
        &mut self,
        runner: &Arc<dyn Runner>,
        host: &Facts,
        seen: &mut Seen,
    ) -> Result<(), WayError> {
        let way = runner.id();
        self.observer.progress(&format!("isolation: {}, what it sees", way.title()));
        let subject = self.idle(&**runner, false)?;
        let neighbour = self.idle(&**runner, false)?;
        let facts: Facts = subject.probe(&["facts"])?;
        let shares_kernel = facts.boot_id.is_some() && facts.boot_id == host.boot_id;
        for sight in SIGHTS {
            let (value, verdict) = (sight.of)(&facts, host, shares_kernel);
            seen.add(sight.id, way, value, verdict);
        }
        seen.add("seen-from-host", way, from_host(&subject), seen_from_host(shares_kernel));
        let pair = Pair { way, subject: &subject, neighbour: &neighbour, host, shares_kernel };
        self.observer.progress(&format!("isolation: {}, what it can do", way.title()));
        self.attempts(&pair, "try", seen)?;
        self.observer.progress(&format!("isolation: {}, the host's system calls", way.title()));
        self.calls(&pair, seen);
        drop(subject);
        self.observer.progress(&format!("isolation: {}, with all rights", way.title()));
        let privileged = self.run_probe(&**runner, &["idle"], false, true)?;
        let pair = Pair { way, subject: &privileged, neighbour: &neighbour, host, shares_kernel };
        self.attempts(&pair, "all", seen)?;
        self.panic(&pair, seen)
    }
}

/// The names of the instance's processes on the host.
fn from_host(running: &Running) -> String {
    let mut names: Vec<String> = running
        .instance
        .processes()
        .into_iter()
        .filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).ok())
        .map(|name| name.trim().chars().filter(|c| !c.is_control()).collect())
        .collect();
    names.sort();
    names.dedup();
    if names.is_empty() { "can't be counted".to_owned() } else { names.join(", ") }
}

fn seen_from_host(shares_kernel: bool) -> Verdict {
    if shares_kernel { Verdict::Shared } else { Verdict::Own }
}
