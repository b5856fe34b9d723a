//! The flags of `vmctl compare`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use compare::model::{WayId, Workload};

use crate::size;

/// Compare an image as a container and as a virtual machine: what each costs, what each isolates.
///
/// The same image, the same bytes, runs in up to three ways, which take turns: a container by an OCI
/// runtime of this host, a microVM that boots, a microVM out of a template. A full VM with a
/// distribution of its own does the same work beside them.
#[derive(Debug, Args)]
#[command(override_usage = "vmctl compare [OPTIONS] IMAGE [-- COMMAND [ARG...]]\n       \
                      vmctl compare --from FILE [--html FILE | --json | --csv]\n       \
                      vmctl compare --diff OLD.json NEW.json [--threshold PERCENT]")]
pub(crate) struct CompareArgs {
    /// The image.
    #[arg(required_unless_present_any = ["from", "diff", "schema"])]
    pub(super) image: Option<String>,

    /// The command in place of the image's.
    #[arg(last = true, value_name = "COMMAND")]
    pub(super) command: Vec<String>,

    #[command(flatten)]
    pub(super) how: HowArgs,

    /// What to measure, separated by commas.
    #[arg(
        long,
        short,
        value_name = "WORKLOAD",
        value_enum,
        value_delimiter = ',',
        default_value = "all"
    )]
    workload: Vec<WorkloadArg>,

    /// How much work each workload does: 1 is a moment's on a machine of our days.
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, value_parser = scale)]
    pub(super) scale: f64,

    /// The most instances of the density's measurement.
    #[arg(long, value_name = "N", default_value_t = 8,
        value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) most: u32,

    /// Write the report as a web page that needs nothing else.
    #[arg(long, value_name = "FILE")]
    pub(super) html: Option<PathBuf>,

    /// Write the report as JSON to a file, too.
    #[arg(long, value_name = "FILE")]
    pub(super) save: Option<PathBuf>,

    /// Print the report as JSON in place of the table.
    #[arg(long, conflicts_with = "csv")]
    pub(super) json: bool,

    /// Print the report as CSV in place of the table.
    #[arg(long)]
    pub(super) csv: bool,

    /// Show a report that was saved, and measure nothing.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["image", "serve"])]
    pub(super) from: Option<PathBuf>,

    /// Say what changed between two reports beyond noise; exit with 1 on a regression.
    #[arg(long, num_args = 2, value_names = ["OLD.json", "NEW.json"],
        conflicts_with_all = ["image", "from", "serve", "html", "save", "csv"])]
    pub(super) diff: Vec<PathBuf>,

    /// A change that's smaller is none for --diff, in per cent.
    #[arg(long, value_name = "PERCENT", default_value_t = 10.0, requires = "diff")]
    pub(super) threshold: f64,

    /// Serve a page to start instances from and watch them.
    #[arg(long, value_name = "ADDRESS:PORT", num_args = 0..=1, default_missing_value = "127.0.0.1:0",
        conflicts_with_all = ["json", "csv", "html", "save"])]
    pub(super) serve: Option<SocketAddr>,

    /// Let the page be served at an address that other machines reach: in plain HTTP.
    #[arg(long, requires = "serve")]
    pub(super) allow_remote: bool,

    /// Print the schema of the JSON report.
    #[arg(long, exclusive = true)]
    pub(super) schema: bool,

    /// Suppress the progress.
    #[arg(long, short)]
    pub(super) quiet: bool,
}

/// How instances run.
#[derive(Debug, Args)]
pub(crate) struct HowArgs {
    /// Only these ways, separated by commas.
    #[arg(long, value_name = "WAY", value_enum, value_delimiter = ',')]
    only: Vec<WayArg>,

    /// What runs the container: a program's name or path [default: the first of crun, runc, youki,
    /// podman, docker].
    #[arg(long, value_name = "PROGRAM")]
    pub(super) runtime: Option<String>,

    /// Measured runs of each figure [default: 5; of `vmctl bench`: 200].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    runs: Option<u32>,

    /// Runs before those, which don't count.
    #[arg(long, value_name = "N", default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(0..=100))]
    pub(super) warm_ups: u32,

    /// Processors of an instance.
    #[arg(long, value_name = "N", default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=32))]
    pub(super) cpus: u32,

    /// Memory of an instance.
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = memory_mib)]
    pub(super) memory: u32,

    /// The port of the image's web server [default: the first one that the image exposes].
    #[arg(long, value_name = "PORT")]
    pub(super) port: Option<u16>,

    /// The path that the server is asked for.
    #[arg(long, value_name = "PATH", default_value = "/")]
    pub(super) path: String,

    /// The disk that full VMs boot: an image, raw or qcow2, of one file system with an init system
    /// [default: debian.img beside vmctl]. It isn't written to.
    #[arg(long, value_name = "FILE")]
    pub(super) full_vm_disk: Option<PathBuf>,

    /// The kernel that the full VM boots [default: the containers' one].
    #[arg(long, value_name = "FILE")]
    pub(super) full_vm_kernel: Option<PathBuf>,
}

impl CompareArgs {
    /// What to measure.
    pub(super) fn workloads(&self) -> Vec<Workload> {
        let chosen = |workload: &Workload| {
            self.workload.iter().any(|argument| argument.0.is_none_or(|it| it == *workload))
        };
        Workload::ALL.into_iter().filter(chosen).collect()
    }
}

impl HowArgs {
    /// The ways to go, unless said these.
    pub(crate) fn ways_or(&self, ways: &[WayId]) -> Vec<WayId> {
        if self.only.is_empty() {
            return ways.to_vec();
        }
        self.only.iter().map(|way| way.0).collect()
    }

    /// How often each figure is measured, unless said so often.
    pub(crate) fn runs_or(&self, runs: u32) -> u32 {
        self.runs.unwrap_or(runs)
    }
}

/// A way, as it's named on the command line.
#[derive(Clone, Copy, Debug)]
struct WayArg(WayId);

impl ValueEnum for WayArg {
    fn value_variants<'a>() -> &'a [Self] {
        const ALL: [WayArg; 4] = [
            WayArg(WayId::Container),
            WayArg(WayId::MicrovmCold),
            WayArg(WayId::MicrovmWarm),
            WayArg(WayId::FullVm),
        ];
        &ALL
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(clap::builder::PossibleValue::new(self.0.name()))
    }
}

/// A workload, or all of them.
#[derive(Clone, Copy, Debug)]
struct WorkloadArg(Option<Workload>);

impl ValueEnum for WorkloadArg {
    fn value_variants<'a>() -> &'a [Self] {
        const ALL: [WorkloadArg; 10] = [
            WorkloadArg(Some(Workload::Start)),
            WorkloadArg(Some(Workload::Cpu)),
            WorkloadArg(Some(Workload::Memory)),
            WorkloadArg(Some(Workload::Disk)),
            WorkloadArg(Some(Workload::Net)),
            WorkloadArg(Some(Workload::Syscall)),
            WorkloadArg(Some(Workload::Density)),
            WorkloadArg(Some(Workload::Web)),
            WorkloadArg(Some(Workload::Isolation)),
            WorkloadArg(None),
        ];
        &ALL
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(clap::builder::PossibleValue::new(self.0.map_or("all", Workload::name)))
    }
}

fn memory_mib(text: &str) -> Result<u32, String> {
    let bytes = size::parse(text).map_err(|error| error.to_string())?;
    // Less than this is no use to a kernel; more than this is a mistake.
    u32::try_from(bytes >> 20)
        .ok()
        .filter(|mib| (32..=1 << 20).contains(mib))
        .ok_or_else(|| "expected 32M to 1T".to_owned())
}

fn scale(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|scale| (0.001..=1000.0).contains(scale))
        .ok_or_else(|| "expected 0.001 to 1000".to_owned())
}
