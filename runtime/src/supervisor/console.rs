//! What a guest's console says, for messages.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// How much of a console's end is told, in bytes.
const END_BYTES: u64 = 1000;

/// The last that a guest has said on its console, for a message: one line without what terminals
/// obey.
pub(super) fn end(path: &Path) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut console = File::open(path)?;
        let length = console.metadata()?.len();
        console.seek(SeekFrom::Start(length.saturating_sub(END_BYTES)))?;
        let mut bytes = Vec::new();
        console.take(END_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = match read() {
        Ok(bytes) => bytes,
        Err(error) => return format!("it can't be read: {error}"),
    };
    let text = String::from_utf8_lossy(&bytes);
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let line = lines.collect::<Vec<_>>().join(" | ");
    let line: String = line
        .chars()
        .map(|character| if character.is_control() { '?' } else { character })
        .collect();
    if line.is_empty() { "nothing: it's empty".to_owned() } else { line }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn end_is_one_line_that_terminals_do_not_obey() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let told = |bytes: &[u8]| {
            std::fs::write(file.path(), bytes).unwrap();
            end(file.path())
        };
        assert_eq!(told(b""), "nothing: it's empty");
        assert_eq!(told(b"one\r\n\n  two\x1b[2J\xff"), "one | two?[2J\u{fffd}");
        let long = [&[b'a'; 5000][..], b"\nlast"].concat();
        let text = told(&long);
        assert!(text.ends_with("a | last") && text.len() <= 1002, "{}", text.len());
        assert!(end(Path::new("/nowhere/console")).contains("can't be read"));
    }
}
