//! Digests: their text, and readers and writers that compute them.

use std::io::{self, Read, Write};

use sha2::{Digest, Sha256};

const PREFIX: &str = "sha256:";

/// Whether a text is `sha256:` and 64 digits.
pub(crate) fn is_digest(text: &str) -> bool {
    text.strip_prefix(PREFIX).is_some_and(is_hex)
}

/// Whether a text is a digest's digits.
pub(crate) fn is_hex(text: &str) -> bool {
    text.len() == 64 && is_hex_start(text)
}

/// Whether a text may be the beginning of a digest's digits.
pub(crate) fn is_hex_start(text: &str) -> bool {
    text.len() <= 64 && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
}

/// The digits of a digest that was checked.
pub(crate) fn hex(digest: &str) -> &str {
    digest.strip_prefix(PREFIX).unwrap_or(digest)
}

/// The first 12 digits: a layer's name in messages.
pub(crate) fn short(digest: &str) -> &str {
    let hex = hex(digest);
    hex.get(..12).unwrap_or(hex)
}

/// The digest of bytes.
pub(crate) fn of(bytes: &[u8]) -> String {
    finish(Sha256::new_with_prefix(bytes))
}

fn finish(hasher: Sha256) -> String {
    let mut text = PREFIX.to_owned();
    for byte in hasher.finalize() {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(digit.into(), 16).unwrap_or('0'));
        }
    }
    text
}

/// Passes bytes through, counted and hashed.
pub(crate) struct Hashing<T> {
    inner: T,
    hasher: Sha256,
    bytes: u64,
}

impl<T> Hashing<T> {
    pub(crate) fn new(inner: T) -> Self {
        Self { inner, hasher: Sha256::new(), bytes: 0 }
    }

    /// What's below, the digest of what went through, and its length.
    pub(crate) fn finish(self) -> (T, String, u64) {
        (self.inner, finish(self.hasher), self.bytes)
    }

    fn note(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
    }
}

impl<T: Read> Read for Hashing<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.note(&buffer[..read]);
        Ok(read)
    }
}

impl<T: Write> Write for Hashing<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.note(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_of_nothing_is_the_known_one() {
        let expected = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(of(b""), expected);
        let mut reader = Hashing::new(&b"abc"[..]);
        io::copy(&mut reader, &mut io::sink()).unwrap();
        let (_, digest, bytes) = reader.finish();
        assert_eq!((digest, bytes), (of(b"abc"), 3));
    }

    #[test]
    fn other_texts_are_no_digests() {
        let upper = of(b"").to_uppercase();
        for text in ["", "sha256:", "sha256:12", "sha512:12", &upper, &of(b"")[7..], "sha256:../x"]
        {
            assert!(!is_digest(text), "{text}");
        }
        assert!(is_digest(&of(b"")) && is_hex(&of(b"")[7..]) && is_hex_start(""));
    }
}
