//! The flags of the `vmm` binary: those that Firecracker's SDKs start their VMM with, and ours.

use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Parser};
use log::LevelFilter;

/// The identifier of a VM that was given none, as SDKs expect it.
const ANONYMOUS: &str = "anonymous-instance";

/// The largest request that the API reads, and the most metadata that a guest can be given, in
/// bytes, unless flags say otherwise.
const DEFAULT_MAX_PAYLOAD_BYTES: usize = 51_200;

/// Runs one virtual machine in this process. People use `vmctl`, which starts this.
#[derive(Debug, Parser)]
#[command(name = "vmm", version, group(ArgGroup::new("job").required(true).multiple(true)))]
pub struct Cli {
    /// The Unix socket of the HTTP API.
    #[arg(long, value_name = "PATH", group = "job")]
    pub api_sock: Option<PathBuf>,

    /// The VM's identifier: letters, digits and `-`, at most 64.
    #[arg(long, value_name = "ID", default_value = ANONYMOUS, value_parser = instance_id)]
    pub id: String,

    /// The machine's configuration, as JSON: the machine is started at once.
    #[arg(long, value_name = "PATH", group = "job")]
    pub config_file: Option<PathBuf>,

    /// Metadata for the guest, as JSON; needs a configuration with `mmds-config`.
    #[arg(long, value_name = "PATH")]
    pub metadata: Option<PathBuf>,

    /// Prints what this host can do as JSON, and nothing else.
    #[arg(long, group = "job", exclusive = true)]
    pub probe_host: bool,

    /// Offers no API.
    #[arg(long, requires = "config_file", conflicts_with = "api_sock")]
    pub no_api: bool,

    /// Prints the format version of a snapshot's state file, and nothing else.
    #[arg(long, value_name = "PATH", group = "job", exclusive = true)]
    pub describe_snapshot: Option<PathBuf>,

    /// Prints the version of the snapshot format that this program writes, and nothing else.
    #[arg(long, group = "job", exclusive = true)]
    pub snapshot_version: bool,

    /// An open file descriptor that gets one JSON event per line. The machine also ends when the
    /// process that started it does.
    #[arg(long, value_name = "FD")]
    pub status_fd: Option<RawFd>,

    /// With --status-fd: goes on when the process that started this one ends.
    #[arg(long, requires = "status_fd")]
    pub outlive_parent: bool,

    /// A file that gets one JSON event per line, for whoever looks after the machine has ended.
    #[arg(long, value_name = "PATH")]
    pub event_log: Option<PathBuf>,

    /// How long a guest may take to power off after SIGTERM, in seconds; 0 ends it at once.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub shutdown_timeout: u32,

    /// Which messages to log: off, error, warn, info, debug or trace.
    #[arg(long, value_name = "LEVEL", default_value = "warn", value_parser = level)]
    pub level: LevelFilter,

    /// Where to log; standard error otherwise.
    #[arg(long, value_name = "PATH")]
    pub log_path: Option<PathBuf>,

    /// Logs only messages of this module (a path such as `devices::virtio`).
    #[arg(long, value_name = "MODULE")]
    pub module: Option<String>,

    /// Logs each message's level; always so here.
    #[arg(long)]
    pub show_level: bool,

    /// Logs where in the source each message comes from.
    #[arg(long)]
    pub show_log_origin: bool,

    /// A file or a named pipe that gets the metrics, as JSON lines.
    #[arg(long, value_name = "PATH")]
    pub metrics_path: Option<PathBuf>,

    /// Gives the guest a register to say that its `init` runs: a write of 123 to guest address
    /// 0xd0000000 logs the time since the start of the process.
    #[arg(long)]
    pub boot_timer: bool,

    /// Attaches virtio devices over PCI, as is the default here.
    #[arg(long)]
    pub enable_pci: bool,

    /// Runs without system call filters. For debugging only.
    #[arg(long)]
    pub no_seccomp: bool,

    /// The largest request that the API reads, in bytes.
    #[arg(long, value_name = "BYTES", default_value_t = DEFAULT_MAX_PAYLOAD_BYTES)]
    pub http_api_max_payload_size: usize,

    /// The most metadata that a guest can be given, in bytes; the API's limit unless given.
    #[arg(long, value_name = "BYTES")]
    pub mmds_size_limit: Option<usize>,

    /// When the process was started by CLOCK_MONOTONIC, in microseconds, for the metrics.
    #[arg(long, value_name = "US")]
    pub start_time_us: Option<u64>,

    /// CPU time of the process at its start, in microseconds, for the metrics.
    #[arg(long, value_name = "US")]
    pub start_time_cpu_us: Option<u64>,

    /// CPU time that the parent spent on the start, in microseconds, for the metrics.
    #[arg(long, value_name = "US")]
    pub parent_cpu_time_us: Option<u64>,
}

impl Cli {
    /// Returns how long a guest may take to power off.
    pub fn shutdown_timeout(&self) -> Duration {
        Duration::from_secs(self.shutdown_timeout.into())
    }

    /// Returns the most metadata that a guest can be given, in bytes.
    pub fn mmds_limit(&self) -> usize {
        self.mmds_size_limit.unwrap_or(self.http_api_max_payload_size)
    }
}

/// Reads a level by its name in any case; `Warning` is how Firecracker's users write `warn`.
fn level(text: &str) -> Result<LevelFilter, String> {
    match text.to_ascii_lowercase().as_str() {
        "warning" => Ok(LevelFilter::Warn),
        name => name.parse().map_err(|_| format!("{text:?} is no level")),
    }
}

fn instance_id(text: &str) -> Result<String, String> {
    let fits = (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if fits {
        Ok(text.to_owned())
    } else {
        Err("an identifier is 1 to 64 letters, digits and '-'".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(flags: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("vmm").chain(flags.iter().copied()))
    }

    #[test]
    fn flags_that_sdks_start_a_vmm_with_are_taken() {
        let cli = parse(&[
            "--api-sock",
            "/tmp/a.sock",
            "--id",
            "vm-1",
            "--level",
            "Warning",
            "--log-path",
            "/tmp/log",
            "--metrics-path",
            "/tmp/metrics",
            "--boot-timer",
            "--enable-pci",
            "--no-seccomp",
            "--show-level",
            "--show-log-origin",
        ])
        .unwrap();
        assert_eq!((cli.id.as_str(), cli.level), ("vm-1", LevelFilter::Warn));
        assert_eq!(cli.mmds_limit(), DEFAULT_MAX_PAYLOAD_BYTES);
    }

    #[test]
    fn flags_without_a_job_or_with_two_that_exclude_each_other_are_refused() {
        for flags in [
            &[][..],
            &["--no-api"],
            &["--api-sock", "a", "--config-file", "b", "--no-api"],
            &["--probe-host", "--api-sock", "a"],
            &["--api-sock", "a", "--id", "with_underscore"],
            &["--api-sock", "a", "--id", ""],
            &["--api-sock", "a", "--level", "loud"],
        ] {
            assert!(parse(flags).is_err(), "{flags:?}");
        }
    }
}
