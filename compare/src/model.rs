//! What a comparison has found: plain values, as they stand in its JSON file.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The format of [`Report`]; another one has another number.
pub const FORMAT: &str = "vmctl-compare/1";

/// All that a comparison has found, and where and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "A comparison by vmctl compare")]
pub struct Report {
    /// [`FORMAT`].
    pub format: String,
    /// When it began, in RFC 3339's format, UTC.
    pub started_at: String,
    /// When it was over.
    pub finished_at: String,
    /// Whether it was ended before all was measured.
    pub interrupted: bool,
    /// The command that repeats it.
    pub command_line: Vec<String>,
    /// Where it ran.
    pub host: Host,
    /// What ran.
    pub image: ImageSummary,
    /// How it ran.
    pub settings: Settings,
    /// The ways in which the image ran, in the order of the table's columns.
    pub ways: Vec<Way>,
    /// The table.
    pub rows: Vec<Row>,
    /// What happened when, in each measured start.
    pub timelines: Vec<Timeline>,
    /// What changes as instances are added.
    pub curves: Vec<Curve>,
    /// What each way isolates.
    pub isolation: Vec<Aspect>,
    /// Sentences that a reader should know before any figure.
    pub notes: Vec<String>,
}

/// The host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Host {
    /// The kernel's release.
    pub kernel: String,
    /// `x86_64`, `aarch64`.
    pub architecture: String,
    /// The processor, by its own name.
    pub cpu_model: String,
    /// How many processors are online.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// The 1-minute load average when it began.
    pub load: f64,
    /// How the first processor's frequency is governed, where it is.
    pub cpu_governor: Option<String>,
    /// The kernel's module that runs virtual machines: `kvm_intel`, `kvm_amd`, `kvm`.
    pub kvm_module: Option<String>,
    /// Whether the host itself is an emulated machine.
    pub emulated: bool,
    /// Whether its clock counts instructions.
    pub counts_instructions: bool,
    /// The version of `vmctl`.
    pub vmctl_version: String,
}

/// The image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ImageSummary {
    /// As it was named.
    pub reference: String,
    /// Its identifier, `sha256:…`.
    pub id: String,
    /// Its layers.
    pub layers: u32,
    /// Bytes of its compressed layers: what goes over the wire.
    pub wire_bytes: u64,
    /// Bytes of its file systems on the host's disk.
    pub disk_bytes: u64,
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Settings {
    /// Measured runs of each figure.
    pub runs: u32,
    /// Runs before those, not counted.
    pub warm_ups: u32,
    /// Processors of an instance.
    pub cpus: u32,
    /// Memory of an instance, in MiB.
    pub memory_mib: u32,
    /// The command in place of the image's, or empty.
    pub command: Vec<String>,
    /// What was measured.
    pub workloads: Vec<Workload>,
    /// How much work each of them did.
    #[serde(default = "whole")]
    pub scale: f64,
    /// The port of the server that was asked, if there was one.
    #[serde(default)]
    pub port: Option<u16>,
    /// The path that it was asked for.
    #[serde(default = "root")]
    pub path: String,
}

const fn whole() -> f64 {
    1.0
}

fn root() -> String {
    "/".to_owned()
}

/// A group of measurements.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Workload {
    /// Starting, stopping, sizes.
    Start,
    /// A fixed loop of arithmetic.
    Cpu,
    /// Memory's bandwidth and latency.
    Memory,
    /// Random and sequential reads and writes.
    Disk,
    /// Round trips and throughput between the host and an instance.
    Net,
    /// System calls.
    Syscall,
    /// How many instances fit.
    Density,
    /// A web server's answers.
    Web,
    /// What an instance sees and can do.
    Isolation,
}

impl Workload {
    /// All of them, in the order that they run in.
    pub const ALL: [Self; 9] = [
        Self::Start,
        Self::Cpu,
        Self::Memory,
        Self::Syscall,
        Self::Disk,
        Self::Net,
        Self::Web,
        Self::Density,
        Self::Isolation,
    ];

    /// The name, as in the JSON file and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Net => "net",
            Self::Syscall => "syscall",
            Self::Density => "density",
            Self::Web => "web",
            Self::Isolation => "isolation",
        }
    }
}

/// A way to run an image.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum WayId {
    /// A container: the host's kernel, namespaces and a cgroup.
    Container,
    /// A microVM, booted.
    MicrovmCold,
    /// A microVM, restored from a template.
    MicrovmWarm,
    /// A whole distribution's machine, booted with its init system.
    FullVm,
}

impl WayId {
    /// All of them, in the order of the table's columns.
    pub const ALL: [Self; 4] =
        [Self::Container, Self::MicrovmCold, Self::MicrovmWarm, Self::FullVm];

    /// The name, as in the JSON file and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::MicrovmCold => "microvm-cold",
            Self::MicrovmWarm => "microvm-warm",
            Self::FullVm => "full-vm",
        }
    }

    /// The name, for people.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::MicrovmCold => "microVM, cold",
            Self::MicrovmWarm => "microVM, warm",
            Self::FullVm => "full VM",
        }
    }
}

impl fmt::Display for WayId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A way that was taken.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Way {
    /// Which one.
    pub id: WayId,
    /// By what: `crun 1.8.1`, `vmctl 0.1.0, kernel 6.12.117-vmctl`.
    pub detail: String,
    /// Why it couldn't be taken at all.
    pub failure: Option<String>,
}

/// A row of the table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Row {
    /// A name that stays: `start.first-byte`.
    pub id: String,
    /// The name, for people.
    pub title: String,
    /// What it belongs to.
    pub workload: Workload,
    /// What its numbers are.
    pub unit: Unit,
    /// Which numbers are good.
    pub better: Better,
    /// What a reader should know of it.
    pub note: Option<String>,
    /// At most one for each way.
    pub cells: Vec<Cell>,
}

/// What numbers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Elapsed time.
    Microseconds,
    /// Processor time.
    CpuMicroseconds,
    /// A time so short that it's a loop's mean.
    Nanoseconds,
    /// A size.
    Bytes,
    /// A rate.
    BytesPerSecond,
    /// A rate.
    PerSecond,
    /// A rate.
    PerMinute,
    /// A number.
    Count,
    /// No number: the cells have texts.
    Text,
}

/// Which numbers are good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Better {
    /// Small ones.
    Lower,
    /// Large ones.
    Higher,
    /// Neither.
    Neither,
}

/// What a row says of a way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Cell {
    /// The way.
    pub way: WayId,
    /// What was found.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    /// Numbers.
    Measured(Figure),
    /// A text.
    Said {
        /// The text.
        text: String,
    },
    /// It was tried, in vain.
    Failed {
        /// Why.
        reason: String,
    },
    /// There's no such thing to be measured.
    NotApplicable {
        /// Why.
        reason: String,
    },
}

/// Numbers of the same kind, in the row's unit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Figure {
    /// All that were taken, in the order that they were taken in.
    pub samples: Vec<f64>,
    /// Their median.
    pub median: f64,
    /// The lower end of the median's 95 % interval, by bootstrap. Of fewer than five samples there's
    /// none: then it's the least of them.
    pub low: f64,
    /// Its upper end, or the largest sample.
    pub high: f64,
    /// Which samples are outliers: beyond 1.5 times the interquartile range from the quartiles.
    /// They count all the same.
    pub outliers: Vec<u32>,
}

/// A start, step by step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Timeline {
    /// The way.
    pub way: WayId,
    /// Which measured run, from 0.
    pub run: u32,
    /// What happened, in the order that it happened in.
    pub steps: Vec<Step>,
}

/// Something that a start has reached.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Step {
    /// A name, for people: `command started`, `kernel entered`, `first byte`, `ready`, `stopped`.
    pub name: String,
    /// When, in microseconds since the command was started.
    pub at_us: f64,
}

/// What becomes of the host as instances are added.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Curve {
    /// The way.
    pub way: WayId,
    /// One for each number of instances.
    pub points: Vec<Point>,
    /// Bytes that another instance takes: the slope of the host's memory or of the proportional set
    /// size, whichever is larger.
    pub bytes_per_instance: Option<f64>,
    /// Instances that a GiB is enough for, by the slope.
    pub instances_per_gib: Option<f64>,
    /// Why no more were added.
    pub stopped_by: String,
}

/// So many instances.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Point {
    /// How many.
    pub instances: u32,
    /// The proportional set size of all their processes, in bytes.
    pub pss_bytes: u64,
    /// What the host has less memory available than without any, in bytes.
    pub host_bytes: u64,
    /// CPU time to start the last one, in microseconds.
    pub start_cpu_us: Option<f64>,
}

/// Something that's isolated or isn't.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Aspect {
    /// A name that stays: `kernel-release`.
    pub id: String,
    /// The name, for people: `Kernel release`.
    pub title: String,
    /// How it was found out, in a sentence.
    pub method: String,
    /// What the host has, where it has something to compare with.
    pub host: Option<String>,
    /// At most one for each way.
    pub observations: Vec<Observation>,
}

/// What was seen in one way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Observation {
    /// The way.
    pub way: WayId,
    /// What was seen.
    pub value: String,
    /// What it means.
    pub verdict: Verdict,
    /// What happened to the host and the neighbours, where something could have.
    pub neighbours: Option<String>,
}

/// What an observation means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The instance has one of its own.
    Own,
    /// The instance and the host have the same.
    Shared,
    /// It was tried and refused.
    Refused,
    /// It was done, and nobody outside noticed.
    Contained,
    /// It was done, and reached the host or a neighbour.
    Reached,
    /// It couldn't be found out, or is neither.
    Unclear,
}

impl Verdict {
    /// The name, as in the JSON file and for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Shared => "shared",
            Self::Refused => "refused",
            Self::Contained => "contained",
            Self::Reached => "reached",
            Self::Unclear => "unclear",
        }
    }
}

impl Report {
    /// The row of that name.
    pub fn row(&self, id: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.id == id)
    }

    /// Reads a report.
    ///
    /// # Errors
    /// It's no JSON, no report, or of another format.
    pub fn from_json(text: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Header {
            format: String,
        }
        let header: Header = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if header.format != FORMAT {
            return Err(format!("its format is {:?}, not {FORMAT:?}", header.format));
        }
        serde_json::from_str(text).map_err(|error| error.to_string())
    }
}

impl Row {
    /// What it says of a way.
    pub fn cell(&self, way: WayId) -> Option<&Outcome> {
        self.cells.iter().find(|cell| cell.way == way).map(|cell| &cell.outcome)
    }

    /// Whether there's such a thing for any way.
    pub fn applies(&self) -> bool {
        self.cells.iter().any(|cell| !matches!(cell.outcome, Outcome::NotApplicable { .. }))
    }

    /// The numbers of a way, if there are some.
    pub fn figure(&self, way: WayId) -> Option<&Figure> {
        match self.cell(way)? {
            Outcome::Measured(figure) => Some(figure),
            _ => None,
        }
    }
}
