//! Where a VMM writes its log, its metrics and its guest's serial port.

use std::path::PathBuf;

use super::super::{LogLevel, LoggerSpec, MetricsSpec, SerialSpec, TokenBucket};

/// The VMM's log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoggerConfig {
    /// The file or named pipe that messages are appended to; without one it's standard error.
    pub path: Option<PathBuf>,
    /// The least grave message that is written.
    pub level: LogLevel,
    /// Whether a message's level is written before it.
    pub show_level: bool,
    /// Whether the place in the source that a message comes from is written before it.
    pub show_origin: bool,
    /// Only messages from this module, and those below it, are written.
    pub module: Option<String>,
}

/// The VMM's metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MetricsConfig {
    /// The file or named pipe that a JSON line is appended to at each flush.
    pub path: PathBuf,
}

/// The output of the guest's serial port.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SerialConfig {
    /// The file or named pipe that output is written to, in place of where the console's goes.
    pub path: Option<PathBuf>,
    /// A limit of the output, in bytes; what's over it is dropped.
    pub rate_limiter: Option<TokenBucket>,
}

impl From<LoggerConfig> for LoggerSpec {
    fn from(logger: LoggerConfig) -> Self {
        Self {
            log_path: logger.path,
            level: Some(logger.level),
            show_level: Some(logger.show_level),
            show_log_origin: Some(logger.show_origin),
            module: logger.module,
        }
    }
}

impl From<MetricsConfig> for MetricsSpec {
    fn from(metrics: MetricsConfig) -> Self {
        Self { metrics_path: metrics.path }
    }
}

impl From<SerialConfig> for SerialSpec {
    fn from(serial: SerialConfig) -> Self {
        Self { serial_out_path: serial.path, rate_limiter: serial.rate_limiter }
    }
}
