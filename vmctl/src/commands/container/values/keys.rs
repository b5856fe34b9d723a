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
}
