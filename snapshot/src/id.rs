//! What tells one snapshot from every other.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A snapshot's identity: 128 random bits, written as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SnapshotId([u8; 16]);

impl SnapshotId {
    /// Draws an identity from the kernel's random numbers.
    ///
    /// # Errors
    /// When the kernel has none to give.
    pub fn random() -> std::io::Result<Self> {
        let mut bytes = [0; 16];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
        Ok(Self(bytes))
    }

    /// Makes the identity out of its bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Returns its bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What was given isn't 32 hexadecimal digits.
#[derive(Debug, thiserror::Error)]
#[error("a snapshot's id has 32 hexadecimal digits")]
pub struct ParseIdError;

impl FromStr for SnapshotId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let value = u128::from_str_radix(text, 16).map_err(|_| ParseIdError)?;
        if digits { Ok(Self(value.to_be_bytes())) } else { Err(ParseIdError) }
    }
}

impl TryFrom<String> for SnapshotId {
    type Error = ParseIdError;

    fn try_from(text: String) -> Result<Self, ParseIdError> {
        text.parse()
    }
}

impl From<SnapshotId> for String {
    fn from(id: SnapshotId) -> Self {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_survives_its_text() {
        let id = SnapshotId::random().unwrap();
        assert_eq!(id.to_string().parse::<SnapshotId>().unwrap(), id);
        assert_eq!(id.to_string().len(), 32);
        assert_ne!(SnapshotId::random().unwrap(), id);
    }

    #[test]
    fn other_text_is_no_id() {
        for text in ["", "+0000000000000000000000000000000", "00", &"0".repeat(33), &"g".repeat(32)]
        {
            assert!(text.parse::<SnapshotId>().is_err(), "{text}");
        }
    }
}
