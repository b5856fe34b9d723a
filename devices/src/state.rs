//! Why devices can't be saved or restored.

use std::error::Error;
use std::fmt::Display;

use serde::de::DeserializeOwned;

/// Why a device can't be saved.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// Its workers run: it must be paused first.
    #[error("a device is saved while it runs")]
    NotPaused,
    /// What it does depends on something outside that can't be carried along.
    #[error("{device} can't be saved: {reason}")]
    Unsupported {
        /// Which device.
        device: &'static str,
        /// Why not.
        reason: &'static str,
    },
    /// Its state can't be written down.
    #[error("a device's state can't be written down")]
    Format(#[source] serde_json::Error),
}

/// Why a device can't take over a saved state, which comes from a file and can say anything. The
/// device is of no use then but to be dropped.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The state isn't of the form that this device writes.
    #[error("the saved state of {device} has an unexpected form")]
    Format {
        /// Which device.
        device: &'static str,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A value is impossible.
    #[error("the saved state has an impossible {what}: {value}")]
    Invalid {
        /// What it is.
        what: &'static str,
        /// What the state says.
        value: String,
    },
    /// The machine that was saved had something else here.
    #[error("the saved state is of a device with {what} {saved}; this one has {present}")]
    Mismatch {
        /// In what they differ.
        what: &'static str,
        /// What the state says.
        saved: String,
        /// What the device says.
        present: String,
    },
    /// The driver uses features that this device doesn't offer.
    #[error("the guest's driver uses features {missing:#x} that this device doesn't offer")]
    Features {
        /// The missing bits.
        missing: u64,
    },
    /// The device is in use: only a fresh one can be restored.
    #[error("a device that is in use can't be restored")]
    InUse,
    /// The device couldn't start, or the host refused something.
    #[error("a restored device can't start")]
    Start(#[source] Box<dyn Error + Send + Sync>),
}

impl RestoreError {
    pub(crate) fn invalid(what: &'static str, value: impl Display) -> Self {
        Self::Invalid { what, value: value.to_string() }
    }

    /// Demands that `saved` and `present` are the same.
    pub(crate) fn expect<T: PartialEq + Display>(
        what: &'static str,
        saved: T,
        present: T,
    ) -> Result<(), Self> {
        if saved == present {
            return Ok(());
        }
        Err(Self::Mismatch { what, saved: saved.to_string(), present: present.to_string() })
    }
}

/// Writes a device's own state down.
pub(crate) fn to_value(state: &impl serde::Serialize) -> Result<serde_json::Value, SaveError> {
    serde_json::to_value(state).map_err(SaveError::Format)
}

/// Reads the state that `device` wrote.
pub(crate) fn from_value<T: DeserializeOwned>(
    device: &'static str,
    state: serde_json::Value,
) -> Result<T, RestoreError> {
    serde_json::from_value(state).map_err(|source| RestoreError::Format { device, source })
}

/// The states that devices wrote in each format of snapshots that is read. A format's file stays as
/// it is once it's there.
#[cfg(test)]
pub(crate) mod kept {
    use std::path::Path;

    use serde::Serialize;
    use serde::de::DeserializeOwned;
    use serde_json::Value;

    /// The formats, by what their files are called.
    const FORMATS: [&str; 1] = ["v1"];

    /// Demands that everything that a device of this `kind` once wrote is read as a `T`.
    ///
    /// # Panics
    /// If it isn't, or if something isn't written again: then it wasn't taken over.
    pub(crate) fn expect_read_whole<T: Serialize + DeserializeOwned>(kind: &str) {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
        for format in FORMATS {
            let text =
                std::fs::read_to_string(directory.join(format!("states-{format}.json"))).unwrap();
            let mut states: Value = serde_json::from_str(&text).unwrap();
            let kept = states[kind].take();
            assert!(kept.is_object(), "{format} has no {kind}");
            let read: T = serde_json::from_value(kept.clone()).unwrap();
            assert_eq!(serde_json::to_value(read).unwrap(), kept, "{kind} of {format}");
        }
    }
}
