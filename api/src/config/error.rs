//! What can be wrong with a configuration, and where in it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

use crate::event::ErrorKind;

/// A configuration that can't be honoured, and the place that's wrong.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// It isn't JSON, or has a key or a type that the format doesn't know.
    #[error("{}", self.problem())]
    Syntax(#[source] serde_json::Error),
    /// A value that has no default isn't there.
    #[error("{field}: {}", self.problem())]
    Missing {
        /// Where it should be.
        field: Field,
    },
    /// A number is too small or too large.
    #[error("{field}: {}", self.problem())]
    OutOfRange {
        /// Where it is.
        field: Field,
        /// The number.
        value: u64,
        /// What it should be, such as `from 1 to 32`.
        expected: String,
    },
    /// A value is malformed.
    #[error("{field}: {}", self.problem())]
    Invalid {
        /// Where it is.
        field: Field,
        /// The value as it was given.
        value: String,
        /// What's wrong with it, as the rest of a sentence.
        reason: String,
    },
    /// A value that must be unique is in two places.
    #[error("{field}: {} by {first}", self.problem())]
    Duplicate {
        /// The later place.
        field: Field,
        /// The value.
        value: String,
        /// The earlier place.
        first: Field,
    },
    /// A value asks for what this version doesn't offer.
    #[error("{field}: {}", self.problem())]
    Unsupported {
        /// Where it is.
        field: Field,
        /// The value, as JSON.
        value: String,
        /// The only value that's accepted, as JSON.
        accepted: &'static str,
    },
}

impl ConfigError {
    /// The stable name of the sort of error.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Syntax(_) => ErrorKind::ConfigSyntax,
            Self::Unsupported { .. } => ErrorKind::ConfigUnsupported,
            Self::Missing { .. }
            | Self::OutOfRange { .. }
            | Self::Invalid { .. }
            | Self::Duplicate { .. } => ErrorKind::ConfigInvalid,
        }
    }

    /// What's wrong, without the place: for a reader to whom the place has another name, such as a
    /// flag's.
    #[must_use]
    pub fn problem(&self) -> String {
        match self {
            Self::Syntax(_) => "the configuration can't be read".to_owned(),
            Self::Missing { .. } => "is required".to_owned(),
            Self::OutOfRange { value, expected, .. } => format!("{value} is not {expected}"),
            Self::Invalid { value, reason, .. } => format!("{value:?} {reason}"),
            Self::Duplicate { value, .. } => format!("{value:?} is already used"),
            Self::Unsupported { value, accepted, .. } => {
                format!("{value} is not supported; only {accepted} is")
            }
        }
    }

    /// The place that's wrong; none when the text as a whole can't be read.
    #[must_use]
    pub const fn field(&self) -> Option<&Field> {
        match self {
            Self::Syntax(_) => None,
            Self::Missing { field }
            | Self::OutOfRange { field, .. }
            | Self::Invalid { field, .. }
            | Self::Duplicate { field, .. }
            | Self::Unsupported { field, .. } => Some(field),
        }
    }
}

/// A top-level key of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// `boot-source`
    BootSource,
    /// `drives`
    Drives,
    /// `network-interfaces`
    NetworkInterfaces,
    /// `machine-config`
    MachineConfig,
    /// `vsock`
    Vsock,
    /// `entropy`
    Entropy,
    /// `balloon`
    Balloon,
    /// `console`
    Console,
    /// `pmem`
    Pmem,
    /// `filesystems`
    Filesystems,
    /// `memory-hotplug`
    MemoryHotplug,
    /// `mmds-config`
    MmdsConfig,
    /// `cpu-config`
    CpuConfig,
    /// `logger`
    Logger,
    /// `metrics`
    Metrics,
    /// `serial`
    Serial,
    /// None that this version knows: the key is the field's.
    Other,
}

impl Section {
    const ALL: [Self; 16] = [
        Self::BootSource,
        Self::Drives,
        Self::NetworkInterfaces,
        Self::MachineConfig,
        Self::Vsock,
        Self::Entropy,
        Self::Balloon,
        Self::Console,
        Self::Pmem,
        Self::Filesystems,
        Self::MemoryHotplug,
        Self::MmdsConfig,
        Self::CpuConfig,
        Self::Logger,
        Self::Metrics,
        Self::Serial,
    ];

    /// The key as the configuration has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BootSource => "boot-source",
            Self::Drives => "drives",
            Self::NetworkInterfaces => "network-interfaces",
            Self::MachineConfig => "machine-config",
            Self::Vsock => "vsock",
            Self::Entropy => "entropy",
            Self::Balloon => "balloon",
            Self::Console => "console",
            Self::Pmem => "pmem",
            Self::Filesystems => "filesystems",
            Self::MemoryHotplug => "memory-hotplug",
            Self::MmdsConfig => "mmds-config",
            Self::CpuConfig => "cpu-config",
            Self::Logger => "logger",
            Self::Metrics => "metrics",
            Self::Serial => "serial",
            Self::Other => "",
        }
    }
}

/// A place in a configuration, written `drives[0].path_on_host` or `boot-source.initrd_path`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// The top-level key.
    pub section: Section,
    /// Which element of the section's list, counted from 0; only for `drives`,
    /// `network-interfaces`, `pmem` and `filesystems`.
    pub index: Option<usize>,
    /// The key within the section, nested keys with dots; empty for the section as a whole.
    pub key: String,
}

impl Field {
    /// A key of a section that isn't a list.
    #[must_use]
    pub fn new(section: Section, key: &str) -> Self {
        Self { section, index: None, key: key.to_owned() }
    }

    /// A key of the drive at `index`.
    #[must_use]
    pub fn drive(index: usize, key: &str) -> Self {
        Self { section: Section::Drives, index: Some(index), key: key.to_owned() }
    }

    /// A key of the network interface at `index`.
    #[must_use]
    pub fn net(index: usize, key: &str) -> Self {
        Self { section: Section::NetworkInterfaces, index: Some(index), key: key.to_owned() }
    }

    /// A key of the persistent memory at `index`.
    #[must_use]
    pub fn pmem(index: usize, key: &str) -> Self {
        Self { section: Section::Pmem, index: Some(index), key: key.to_owned() }
    }

    /// A key of the file system at `index`.
    #[must_use]
    pub fn filesystem(index: usize, key: &str) -> Self {
        Self { section: Section::Filesystems, index: Some(index), key: key.to_owned() }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.section.as_str())?;
        if let Some(index) = self.index {
            write!(f, "[{index}]")?;
        }
        let needs_dot = !self.key.is_empty() && self.section != Section::Other;
        if needs_dot {
            f.write_str(".")?;
        }
        f.write_str(&self.key)
    }
}

impl FromStr for Field {
    type Err = std::convert::Infallible;

    /// Reads what [`Display`](fmt::Display) writes; anything else becomes a key of no section.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (head, key) = text.split_once('.').unwrap_or((text, ""));
        let (name, index) = match head.strip_suffix(']').and_then(|head| head.split_once('[')) {
            Some((name, index)) => (name, index.parse().ok()),
            None => (head, None),
        };
        let section = Section::ALL.into_iter().find(|section| section.as_str() == name);
        Ok(match section {
            Some(section) => Self { section, index, key: key.to_owned() },
            None => Self::new(Section::Other, text),
        })
    }
}

impl Serialize for Field {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Field {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}
