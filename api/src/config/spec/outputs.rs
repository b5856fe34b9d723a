//! Where a VMM writes its log, its metrics and its guest's serial port.

use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize, de};
use utoipa::ToSchema;

use super::TokenBucket;
use crate::schema::HostPath;

/// `logger`: where the VMM's log goes and what's in it. A key that's absent leaves its setting as
/// it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LoggerSpec {
    /// The file or named pipe that messages are appended to; without one it's standard error.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<HostPath>)]
    pub log_path: Option<PathBuf>,
    /// The least grave message that is written, `Info` unless said; upper and lower case are one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<LogLevel>,
    /// Whether a message's level is written before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub show_level: Option<bool>,
    /// Whether the place in the source that a message comes from is written before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub show_log_origin: Option<bool>,
    /// Only messages from this module, and those below it, are written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
}

/// How grave a log message is.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, ToSchema,
)]
pub enum LogLevel {
    /// Nothing is written.
    Off,
    /// What was asked for can't be done.
    Error,
    /// Something is amiss.
    Warning,
    /// What a user may want to know.
    #[default]
    Info,
    /// What an engineer may want to know.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// Every level as it's written, the gravest first.
    pub const ALL: [(&'static str, Self); 6] = [
        ("Off", Self::Off),
        ("Error", Self::Error),
        ("Warning", Self::Warning),
        ("Info", Self::Info),
        ("Debug", Self::Debug),
        ("Trace", Self::Trace),
    ];
}

impl std::str::FromStr for LogLevel {
    type Err = ParseLevelError;

    /// Reads a level's name, in upper or lower case; `Warn` is `Warning`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = if text.eq_ignore_ascii_case("warn") { "Warning" } else { text };
        Self::ALL
            .into_iter()
            .find_map(|(name, level)| name.eq_ignore_ascii_case(text).then_some(level))
            .ok_or_else(|| ParseLevelError(text.to_owned()))
    }
}

/// A string that names no level.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown level {0:?}, expected Off, Error, Warning, Info, Debug or Trace")]
pub struct ParseLevelError(String);

impl<'de> Deserialize<'de> for LogLevel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// `metrics`: where the VMM's metrics go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MetricsSpec {
    /// The file or named pipe that a JSON line is appended to at each flush.
    #[schema(value_type = HostPath)]
    pub metrics_path: PathBuf,
}

/// `serial`: where the output of the guest's serial port goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SerialSpec {
    /// The file or named pipe that output is written to; without one it's standard output.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<HostPath>)]
    pub serial_out_path: Option<PathBuf>,
    /// A limit of the output, in bytes; what's over it is dropped and counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limiter: Option<TokenBucket>,
}
