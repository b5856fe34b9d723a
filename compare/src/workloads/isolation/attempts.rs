//! What an instance tries, and what the host and a neighbour notice of it. All of it is harmless: a
//! clock is set to what it says, and what reaches the host is put back.

use std::fs;

use compare_probe::results::{AttemptResult, Facts, ProcSysResult};

use super::super::{Running, Session};
use super::{Pair, Seen};
use crate::model::Verdict::{self, Contained, Reached, Refused, Shared, Unclear};
use crate::ways::WayError;

/// A parameter of the kernel's that nothing notices for a moment.
const PARAMETER: &str = "vm/swappiness";

/// The most processes that are started.
const FORKS: &str = "600";

/// What's tried: its name, its arguments, its title.
const ATTEMPTS: &[(&str, &[&str], &str)] = &[
    ("hostname", &["try", "hostname", "--value", "changed"], "change the host name"),
    ("clock", &["try", "clock"], "set the clock"),
    ("module", &["try", "module"], "load a kernel module"),
    ("mount", &["try", "mount"], "mount a file system"),
    ("memory", &["try", "memory"], "read others' memory"),
    ("fork", &["try", "fork", "--limit", FORKS], "fork until refused"),
];

const METHOD: &str = "tried inside by a program of ours; then the host and another instance beside \
                      it were looked at";

/// The aspects' names, titles and methods, in order.
pub(super) fn titles() -> impl Iterator<Item = (String, String, &'static str)> {
    [("try", ""), ("all", ", with all rights")].into_iter().flat_map(|(rights, suffix)| {
        let all = ATTEMPTS.iter().map(|(what, _, title)| (*what, *title));
        let all = all.chain([("proc-sys", "write to /proc/sys")]);
        let all = all.chain((rights == "all").then_some(("panic", "panic the kernel")));
        all.map(move |(what, title)| (id(rights, what), format!("{title}{suffix}"), METHOD))
    })
}

fn id(rights: &str, what: &str) -> String {
    format!("{rights}-{what}")
}

impl Session<'_> {
    /// Tries everything but a panic.
    pub(super) fn attempts(
        &mut self,
        pair: &Pair<'_>,
        rights: &str,
        seen: &mut Seen,
    ) -> Result<(), WayError> {
        for (what, words, _) in ATTEMPTS {
            if self.is_interrupted() {
                return Err(WayError::Interrupted);
            }
            let before = Outside::before(pair.neighbour)?;
            let result: Result<AttemptResult, _> = pair.subject.probe(words);
            let after = Outside::look(pair.neighbour)?;
            let mut neighbours = after.since(&before);
            let (value, verdict) = match result {
                Ok(result) => {
                    let judged = judge(what, &result, pair.shares_kernel, after != before);
                    if judged.1 == Reached && after == before {
                        // Nobody has to be asked.
                        neighbours = format!("{}; {neighbours}", why_reached(what));
                    }
                    judged
                }
                Err(WayError::Interrupted) => return Err(WayError::Interrupted),
                Err(error) => (super::super::describe(&error), Unclear),
            };
            seen.add_all(&id(rights, what), pair.way, value, verdict, Some(neighbours));
        }
        self.proc_sys(pair, rights, seen)
    }

    fn proc_sys(&mut self, pair: &Pair<'_>, rights: &str, seen: &mut Seen) -> Result<(), WayError> {
        let path = format!("/proc/sys/{PARAMETER}");
        let Ok(before) = fs::read_to_string(&path) else { return Ok(()) };
        let value = before.trim().parse::<u32>().unwrap_or(60);
        let another = (if value > 1 { value - 1 } else { value + 1 }).to_string();
        let words = ["proc-sys", "--path", PARAMETER, "--value", &another];
        let result: Result<ProcSysResult, _> = pair.subject.probe(&words);
        let reached = fs::read_to_string(&path).is_ok_and(|now| now != before);
        if reached && let Err(error) = fs::write(&path, &before) {
            log::warn!("{path} can't be set back: {error}");
        }
        let (value, verdict) = match result {
            Ok(result) if reached => {
                drop(result);
                (format!("done: the host's {PARAMETER} was {another}, too"), Reached)
            }
            Ok(result) if result.written => ("done".to_owned(), Contained),
            Ok(result) => (refusal(result.error.as_deref()), Refused),
            Err(WayError::Interrupted) => return Err(WayError::Interrupted),
            Err(error) => (super::super::describe(&error), Unclear),
        };
        let neighbours = if reached {
            "the host had the new value; it was put back"
        } else {
            "the host's value stayed"
        };
        let id = id(rights, "proc-sys");
        seen.add_all(&id, pair.way, value, verdict, Some(neighbours.to_owned()));
        Ok(())
    }

    /// Has a VM's kernel panic. A container has no kernel of its own to do that with.
    pub(super) fn panic(&mut self, pair: &Pair<'_>, seen: &mut Seen) -> Result<(), WayError> {
        let name = id("all", "panic");
        if pair.shares_kernel {
            let value = "not tried: the kernel is the host's";
            seen.add(&name, pair.way, value, Shared);
            return Ok(());
        }
        let Some(boot_id) = pair.host.boot_id.as_ref() else { return Ok(()) };
        let before = Outside::before(pair.neighbour)?;
        let words = ["try", "panic", "--yes-in-a-vm", "--host-boot-id", boot_id];
        // Nothing answers from a kernel that's gone.
        let answer = pair.subject.probe_output(&words);
        let after = Outside::look(pair.neighbour)?;
        let still_there = pair.subject.probe_output(&["first-byte"]);
        let (value, verdict) = match still_there {
            _ if matches!(answer, Err(WayError::Interrupted)) => return Err(WayError::Interrupted),
            Err(WayError::Interrupted) => return Err(WayError::Interrupted),
            Ok(output) if output.code == 0 => {
                let said = answer.map(|output| output.stderr).unwrap_or_default();
                (format!("it's still there: {}", crate::ways::last(&said)), Unclear)
            }
            _ if after == before => ("done: its VM is gone".to_owned(), Contained),
            _ => ("done: its VM is gone, and others noticed".to_owned(), Reached),
        };
        seen.add_all(&name, pair.way, value, verdict, Some(after.since(&before)));
        Ok(())
    }
}

/// What's to be seen outside of an instance.
#[derive(Debug, PartialEq, Eq)]
struct Outside {
    host_name: String,
    neighbour_answers: bool,
    neighbour_name: Option<String>,
}

impl Outside {
    /// Looks. That nobody was asked, because it's time to end, doesn't mean that nobody answered.
    fn look(neighbour: &Running) -> Result<Self, WayError> {
        let facts: Result<Facts, _> = neighbour.probe(&["facts"]);
        if matches!(facts, Err(WayError::Interrupted)) {
            return Err(WayError::Interrupted);
        }
        let name = "/proc/sys/kernel/hostname";
        Ok(Self {
            host_name: fs::read_to_string(name).unwrap_or_default(),
            neighbour_answers: facts.is_ok(),
            neighbour_name: facts.ok().map(|facts| facts.hostname.to_string()),
        })
    }

    /// Looks before something is tried: a neighbour that doesn't answer then would notice nothing.
    fn before(neighbour: &Running) -> Result<Self, WayError> {
        let outside = Self::look(neighbour)?;
        if outside.neighbour_answers {
            return Ok(outside);
        }
        Err(WayError::Unavailable("the instance beside it doesn't answer".to_owned()))
    }

    /// What has changed, in words.
    fn since(&self, before: &Self) -> String {
        let host = if self.host_name == before.host_name {
            "the host's name stayed"
        } else {
            "the host's name changed"
        };
        let neighbour = match (self.neighbour_answers, self.neighbour_name == before.neighbour_name)
        {
            (true, true) => "the neighbour answers as before",
            (true, false) => "the neighbour's name changed",
            (false, _) => "the neighbour doesn't answer",
        };
        format!("{host}, {neighbour}")
    }
}

/// What an attempt's result means.
fn judge(
    what: &str,
    result: &AttemptResult,
    shares_kernel: bool,
    noticed: bool,
) -> (String, Verdict) {
    if noticed {
        return (format!("noticed outside: {}", result.detail), Reached);
    }
    let counts = result.tried.zip(result.succeeded);
    match what {
        "memory" => {
            let (tried, read) = counts.unwrap_or_default();
            let value = match tried {
                0 => "there's no other process".to_owned(),
                _ => format!("{read} of {tried} processes"),
            };
            (value, if read > 0 && shares_kernel { Unclear } else { Contained })
        }
        "fork" => {
            let (_, started) = counts.unwrap_or_default();
            match &result.error {
                Some(error) => {
                    (format!("refused after {started}: {}", plain(Some(error))), Contained)
                }
                None => (
                    format!("{started} started, none refused"),
                    if shares_kernel { Reached } else { Contained },
                ),
            }
        }
        _ if result.done => {
            // There's one clock and one set of modules in a kernel: whoever may change them changes
            // everybody's.
            let of_kernel = matches!(what, "clock" | "module");
            let verdict = if of_kernel && shares_kernel { Reached } else { Contained };
            let whose = if !of_kernel {
                ""
            } else if shares_kernel {
                ", the host's"
            } else {
                ", its own kernel's"
            };
            // The module is none, so that it does no harm: it's the right to load it that's tried.
            let done = if what == "module" { "allowed" } else { "done" };
            (format!("{done}{whose}"), verdict)
        }
        _ if result.refused => (refusal(result.error.as_deref()), Refused),
        // A kernel without modules can't be made to load one.
        "module" => ("refused: the kernel has no modules".to_owned(), Refused),
        _ => (format!("not there: {}", plain(result.error.as_deref())), Unclear),
    }
}

/// Why something reaches the host that neither its name nor a neighbour shows.
fn why_reached(what: &str) -> &'static str {
    match what {
        "clock" => "the host has this clock and no other",
        "module" => "the host's kernel would have taken the module",
        _ => "the host's kernel has these processes among its own",
    }
}

fn refusal(error: Option<&str>) -> String {
    format!("refused: {}", plain(error))
}

/// An error without the number that Rust adds.
pub(super) fn plain(error: Option<&str>) -> &str {
    let error = error.unwrap_or_default();
    error.split(" (os error").next().unwrap_or(error)
}

#[cfg(test)]
mod tests {
    use std::io::PipeReader;
    use std::net::SocketAddr;
    use std::time::Instant;

    use super::*;
    use crate::model::Step;
    use crate::ways::{Instance, Output, PROBE_PATH, Usage};

    fn result(done: bool, refused: bool) -> AttemptResult {
        AttemptResult { done, refused, ..AttemptResult::default() }
    }

    #[test]
    fn what_is_done_to_a_kernel_reaches_everybody_who_shares_it() {
        assert_eq!(judge("clock", &result(true, false), true, false).1, Reached);
        assert_eq!(judge("clock", &result(true, false), false, false).1, Contained);
        assert_eq!(judge("hostname", &result(true, false), true, false).1, Contained);
        assert_eq!(judge("hostname", &result(false, true), true, false).1, Refused);
        assert_eq!(judge("mount", &result(false, false), true, false).1, Unclear);
    }

    #[test]
    fn what_somebody_else_notices_has_reached_them() {
        assert_eq!(judge("hostname", &result(true, false), false, true).1, Reached);
    }

    #[test]
    fn forks_without_end_reach_whoever_shares_the_kernel() {
        let endless =
            AttemptResult { tried: Some(600), succeeded: Some(600), ..result(true, false) };
        assert_eq!(judge("fork", &endless, true, false).1, Reached);
        assert_eq!(judge("fork", &endless, false, false).1, Contained);
        let error = Some("Resource temporarily unavailable (os error 11)".to_owned().into());
        let bounded = AttemptResult { error, ..endless };
        assert_eq!(judge("fork", &bounded, true, false).1, Contained);
    }

    /// An instance beside another one, which answers in one way only.
    struct Neighbour(fn() -> Result<Output, WayError>);

    impl Instance for Neighbour {
        fn exec(&self, command: &[&str]) -> Result<Output, WayError> {
            assert_eq!(command, [PROBE_PATH, "facts"]);
            (self.0)()
        }

        fn started(&self) -> Instant {
            Instant::now()
        }

        fn output(&mut self) -> Option<PipeReader> {
            None
        }

        fn address(&mut self, _port: u16) -> Result<SocketAddr, WayError> {
            Err(WayError::Interrupted)
        }

        fn steps(&mut self) -> Vec<Step> {
            Vec::new()
        }

        fn usage(&self) -> Result<Usage, WayError> {
            Ok(Usage::default())
        }

        fn try_wait(&mut self) -> Result<Option<i32>, WayError> {
            Ok(None)
        }

        fn wait(&mut self) -> Result<i32, WayError> {
            Ok(0)
        }

        fn stop(&mut self) -> Result<(), WayError> {
            Ok(())
        }
    }

    #[test]
    fn a_look_that_is_ended_says_nothing_of_the_neighbour() {
        let look = |answer| Outside::look(&Running { instance: Box::new(Neighbour(answer)) });
        let interrupted = look(|| Err(WayError::Interrupted));
        assert!(matches!(interrupted, Err(WayError::Interrupted)), "{interrupted:?}");
        let gone = look(|| Ok(Output { code: 137, ..Output::default() })).unwrap();
        assert!(!gone.neighbour_answers);
        let facts = || {
            let stdout = serde_json::to_string(&Facts::default()).unwrap();
            Ok(Output { stdout, ..Output::default() })
        };
        let there = look(facts).unwrap();
        assert!(there.neighbour_answers && there.neighbour_name.is_some());
        // Nobody can be asked what they notice who don't answer before anything is tried.
        let before = |answer| Outside::before(&Running { instance: Box::new(Neighbour(answer)) });
        assert_eq!(before(facts).unwrap(), there);
        assert!(before(|| Ok(Output { code: 137, ..Output::default() })).is_err());
    }

    #[test]
    fn every_attempt_has_a_title_once() {
        let ids: Vec<_> = titles().map(|(id, _, _)| id).collect();
        let unique: std::collections::BTreeSet<_> = ids.iter().collect();
        assert_eq!(unique.len(), ids.len());
        assert_eq!(ids.len(), 2 * (ATTEMPTS.len() + 1) + 1);
    }
}
