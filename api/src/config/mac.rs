//! Ethernet addresses.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

/// An Ethernet address that a single station may have: unicast, and not all zeros.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct MacAddr([u8; 6]);

/// Why a string is no station's Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ParseMacError {
    /// It isn't six pairs of hexadecimal digits with colons between them.
    #[error("expected six hexadecimal bytes such as 52:54:00:12:34:56")]
    Syntax,
    /// Its group bit is set.
    #[error("a multicast address can't be an interface's own: its first byte must be even")]
    Multicast,
    /// It's all zeros.
    #[error("the all-zero address can't be an interface's own")]
    Zero,
}

impl MacAddr {
    /// Checks six bytes in transmission order.
    ///
    /// # Errors
    /// The address is multicast or zero.
    pub fn new(bytes: [u8; 6]) -> Result<Self, ParseMacError> {
        if bytes[0] & 1 != 0 {
            return Err(ParseMacError::Multicast);
        }
        if bytes == [0; 6] {
            return Err(ParseMacError::Zero);
        }
        Ok(Self(bytes))
    }

    /// The bytes in transmission order.
    #[must_use]
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }
}

impl FromStr for MacAddr {
    type Err = ParseMacError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().ok_or(ParseMacError::Syntax)?;
            if part.len() != 2 || !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(ParseMacError::Syntax);
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| ParseMacError::Syntax)?;
        }
        if parts.next().is_some() {
            return Err(ParseMacError::Syntax);
        }
        Self::new(bytes)
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for MacAddr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MacAddr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}
