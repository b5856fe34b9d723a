//! The flags of the `vmm` binary.

use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Parser};
use log::LevelFilter;

/// Runs one virtual machine in this process. People use `vmctl`, which starts this.
#[derive(Debug, Parser)]
#[command(name = "vmm", version, group(ArgGroup::new("job").required(true)))]
pub struct Cli {
    /// The machine's configuration, as JSON.
    #[arg(long, value_name = "PATH", group = "job")]
    pub config_file: Option<PathBuf>,

    /// Prints what this host can do as JSON, and nothing else.
    #[arg(long, group = "job")]
    pub probe_host: bool,

    /// Starts the machine from the configuration file and offers no API.
    #[arg(long, requires = "config_file")]
    pub no_api: bool,

    /// An open file descriptor that gets one JSON event per line. The machine also ends when the
    /// process that started it does.
    #[arg(long, value_name = "FD", requires = "config_file")]
    pub status_fd: Option<RawFd>,

    /// How long a guest may take to power off after SIGTERM, in seconds; 0 ends it at once.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub shutdown_timeout: u32,

    /// Which messages to log: off, error, warn, info, debug or trace.
    #[arg(long, value_name = "LEVEL", default_value = "warn", ignore_case = true)]
    pub level: LevelFilter,

    /// Where to log; standard error otherwise.
    #[arg(long, value_name = "PATH")]
    pub log_path: Option<PathBuf>,
}

impl Cli {
    /// Returns how long a guest may take to power off.
    pub fn shutdown_timeout(&self) -> Duration {
        Duration::from_secs(self.shutdown_timeout.into())
    }
}
