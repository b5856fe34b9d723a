//! Texts that an instance says.

use std::fmt;
use std::ops::Deref;

use serde::{Deserialize, Deserializer, Serialize};

/// The most bytes of a text; the rest is left out.
const MAX_BYTES: usize = 4096;

/// A text that is safe to show: at most 4 KiB, one that can neither move a terminal's cursor nor
/// turn the direction of what stands beside it. Lines are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Text(String);

impl Text {
    /// Makes it of bytes that should be UTF-8, without white space around it.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self::from(String::from_utf8_lossy(bytes).trim())
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        let mut safe = String::with_capacity(text.len().min(MAX_BYTES));
        for character in text.chars() {
            let shown = if is_safe(character) { character } else { char::REPLACEMENT_CHARACTER };
            if safe.len() + shown.len_utf8() > MAX_BYTES {
                break;
            }
            safe.push(shown);
        }
        Self(safe)
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

impl From<Text> for String {
    fn from(text: Text) -> Self {
        text.0
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Text {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}

/// Whether a character does nothing but stand there.
fn is_safe(character: char) -> bool {
    let turns = matches!(
        character,
        '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    let separates = matches!(character, '\u{2028}' | '\u{2029}');
    character == '\n' || !(character.is_control() || turns || separates)
}
