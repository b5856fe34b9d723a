//! The keys that leave a container to itself.

use super::Problem;

/// Docker's: ctrl-p, ctrl-q.
pub(crate) const DEFAULT: &str = "ctrl-p,ctrl-q";

/// Reads keys: single characters, or `ctrl-` and a letter or one of `@ [ \ ] ^ _`, separated by
/// commas.
pub(crate) fn parse(text: &str) -> Result<Vec<u8>, Problem> {
    let invalid = |key: &str| {
        format!(
            "invalid detach key {key:?}: expected a character, or ctrl- and one of a-z @ [ \\ ] ^ _"
        )
    };
    text.split(',')
        .map(|key| match key.strip_prefix("ctrl-").map(str::as_bytes) {
            Some([letter @ b'a'..=b'z']) => Ok(letter - b'a' + 1),
            Some(b"@") => Ok(0),
            Some([mark @ b'['..=b'_']) => Ok(mark - b'@'),
            None if key.len() == 1 && key.is_ascii() => Ok(key.as_bytes()[0]),
            _ => Err(invalid(key)),
        })
        .collect()
}

/// Watches what's typed for the keys.
#[derive(Clone, Debug)]
pub(crate) struct DetachKeys {
    keys: Vec<u8>,
    /// How many of them were typed so far, and are held back.
    typed: usize,
}

impl DetachKeys {
    /// Watches for `keys`; never for none.
    pub(crate) fn new(keys: Vec<u8>) -> Self {
        Self { keys, typed: 0 }
    }

    /// Appends to `onward` what's meant for the container; returns whether the keys were typed, in
    /// which case nothing after them is looked at.
    pub(crate) fn feed(&mut self, input: &[u8], onward: &mut Vec<u8>) -> bool {
        for &byte in input {
            if self.keys.get(self.typed) == Some(&byte) {
                self.typed += 1;
                if self.typed == self.keys.len() {
                    return true;
                }
                continue;
            }
            onward.extend(&self.keys[..self.typed]);
            // What broke the sequence may begin it anew.
            self.typed = usize::from(self.keys.first() == Some(&byte));
            if self.typed == 0 {
                onward.push(byte);
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_control_codes_and_characters() {
        assert_eq!(parse(DEFAULT), Ok(vec![0x10, 0x11]));
        assert_eq!(parse("a,ctrl-@,ctrl-[,ctrl-_"), Ok(vec![b'a', 0, 0x1b, 0x1f]));
        for text in ["", "ctrl-", "ctrl-A", "ctrl-aa", "ab", "a,,b", "ü", "ctrl-1"] {
            assert!(parse(text).unwrap_err().starts_with("invalid detach key"), "{text}");
        }
    }

    fn feed(pieces: &[&[u8]]) -> (Vec<u8>, bool) {
        let mut keys = DetachKeys::new(vec![0x10, 0x11]);
        let mut onward = Vec::new();
        let detached = pieces.iter().any(|piece| keys.feed(piece, &mut onward));
        (onward, detached)
    }

    #[test]
    fn keys_are_found_across_pieces_and_all_else_goes_on() {
        assert_eq!(feed(&[b"ls\r"]), (b"ls\r".to_vec(), false));
        assert_eq!(feed(&[b"a\x10\x11b"]), (b"a".to_vec(), true));
        assert_eq!(feed(&[b"a\x10", b"\x11"]), (b"a".to_vec(), true));
        assert_eq!(feed(&[b"\x10x"]), (b"\x10x".to_vec(), false));
        assert_eq!(feed(&[b"\x10\x10\x11"]), (b"\x10".to_vec(), true));
        assert_eq!(feed(&[b"\x11\x10"]), (b"\x11".to_vec(), false));
    }

    #[test]
    fn single_key_detaches_at_once() {
        let mut onward = Vec::new();
        assert!(DetachKeys::new(vec![b'q']).feed(b"aq", &mut onward));
        assert_eq!(onward, b"a");
    }
}
