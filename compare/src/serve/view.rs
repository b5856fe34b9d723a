//! What the page is told, as it goes over the wire.

use std::collections::VecDeque;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Serialize, Serializer};

use super::MAX_OUTPUT_BYTES;
use crate::model::{Row, Step, WayId, Workload};

/// How many steps of an instance are kept.
pub(super) const MAX_STEPS: usize = 64;

/// The longest text of a way's or a workload's that's passed on, in characters.
const MAX_TEXT: usize = 500;

/// Where an instance is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Phase {
    /// Its start was ordered.
    Starting,
    /// It's there.
    Running,
    /// Its end was ordered.
    Stopping,
    /// Nothing of it is left.
    Ended,
}

/// An instance, apart from what it printed.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Instance {
    pub(super) name: String,
    pub(super) way: WayId,
    pub(super) phase: Phase,
    /// How it ended, if it did so by itself.
    pub(super) exit_code: Option<i32>,
    /// What went wrong.
    pub(super) failure: Option<String>,
    pub(super) steps: Vec<Step>,
    pub(super) usage: Option<UsageSample>,
}

/// What an instance uses.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct UsageSample {
    /// Processors, since the sample before: 1 is all of one.
    pub(super) cpus: f64,
    /// CPU time since its start, in microseconds.
    pub(super) cpu_us: u64,
    /// The proportional set size of its processes.
    pub(super) pss_bytes: u64,
    pub(super) processes: u32,
}

/// The end of what an instance printed.
#[derive(Clone, Debug, Default)]
pub(super) struct Ring {
    bytes: VecDeque<u8>,
}

impl Ring {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
        let excess = self.bytes.len().saturating_sub(MAX_OUTPUT_BYTES);
        self.bytes.drain(..excess);
    }
}

impl Serialize for Ring {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes: Vec<u8> = self.bytes.iter().copied().collect();
        serializer.serialize_str(&STANDARD.encode(bytes))
    }
}

/// A way.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Way {
    pub(super) id: WayId,
    pub(super) title: &'static str,
    pub(super) detail: String,
}

/// How far a workload is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Progress {
    pub(super) workload: Workload,
    pub(super) phase: ProgressPhase,
    pub(super) text: String,
}

/// See [`Progress`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum ProgressPhase {
    Running,
    Done,
    Failed,
}

/// All that there is.
#[derive(Serialize)]
pub(super) struct State<'a> {
    pub(super) image: &'a str,
    pub(super) ways: &'a [Way],
    pub(super) instances: Vec<Remembered<'a>>,
    pub(super) rows: &'a [Row],
    pub(super) workloads: &'a [Workload],
    pub(super) progress: Option<&'a Progress>,
}

/// An instance with its output.
#[derive(Serialize)]
pub(super) struct Remembered<'a> {
    #[serde(flatten)]
    pub(super) instance: &'a Instance,
    /// In Base64.
    pub(super) output: &'a Ring,
}

/// What changes.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Event<'a> {
    /// An instance is new, or in another phase.
    Instance(&'a Instance),
    /// It printed something.
    Output {
        instance: &'a str,
        /// How many bytes before these are left out, as they came too fast.
        skipped: usize,
        /// In Base64.
        bytes: String,
    },
    /// Its start has come further: all its steps.
    Steps { instance: &'a str, steps: &'a [Step] },
    /// What it uses.
    Usage {
        instance: &'a str,
        #[serde(flatten)]
        usage: UsageSample,
    },
    /// It's forgotten.
    Removed { instance: &'a str },
    /// A workload has come further.
    Progress(&'a Progress),
    /// A workload's rows.
    Rows { workload: Workload, rows: &'a [Row] },
}

impl Event<'_> {
    /// What the stream calls it.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Instance(_) => "instance",
            Self::Output { .. } => "output",
            Self::Steps { .. } => "steps",
            Self::Usage { .. } => "usage",
            Self::Removed { .. } => "removed",
            Self::Progress(_) => "progress",
            Self::Rows { .. } => "rows",
        }
    }
}

/// Output, ready to be told.
pub(super) fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// A text that's short enough to be passed on.
pub(super) fn shortened(text: &str) -> String {
    if text.chars().nth(MAX_TEXT).is_none() {
        return text.to_owned();
    }
    text.chars().take(MAX_TEXT).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ring_keeps_the_end_and_no_more() {
        let mut ring = Ring::default();
        ring.push(&vec![b'a'; MAX_OUTPUT_BYTES]);
        ring.push(b"the end");
        assert_eq!(ring.bytes.len(), MAX_OUTPUT_BYTES);
        assert!(
            ring.bytes.iter().rev().eq(b"the end"
                .iter()
                .rev()
                .chain(std::iter::repeat_n(&b'a', MAX_OUTPUT_BYTES - 7)))
        );
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(shortened("ä"), "ä");
        assert_eq!(shortened(&"ä".repeat(MAX_TEXT + 1)).chars().count(), MAX_TEXT + 1);
        assert_eq!(shortened(&"ä".repeat(MAX_TEXT)), "ä".repeat(MAX_TEXT));
    }
}
