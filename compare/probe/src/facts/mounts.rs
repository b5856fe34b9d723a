//! Mounted file systems.

use crate::results::{Mount, Text};

/// Reads `/proc/self/mountinfo` (`proc_pid_mountinfo(5)`), without lines that aren't as they
/// should be.
pub(super) fn parse(text: &str) -> Vec<Mount> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Mount> {
    // Optional fields are between the mount's own and a hyphen.
    let (mount, file_system) = line.split_once(" - ")?;
    let target = mount.split(' ').nth(4)?;
    let mut fields = file_system.split(' ');
    let (kind, source) = (fields.next()?, fields.next()?);
    Some(Mount {
        target: unescape(target),
        file_system: Text::from(kind),
        source: unescape(source),
    })
}

/// Undoes the kernel's escapes: `\040` is a space.
fn unescape(field: &str) -> Text {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let escaped = (first == b'\\')
            .then(|| std::str::from_utf8(after.get(..3)?).ok())
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(escaped.unwrap_or(first));
        rest = if escaped.is_some() { &after[3..] } else { after };
    }
    Text::from_bytes(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_with_optional_fields_and_escapes_is_read() {
        let line = r"36 35 98:0 / /mnt\040two rw,noatime shared:1 master:2 - ext3 /dev/root rw";
        let expected = Mount {
            target: "/mnt two".into(),
            file_system: "ext3".into(),
            source: "/dev/root".into(),
        };
        assert_eq!(parse(line), [expected]);
    }

    #[test]
    fn lines_that_are_no_mounts_are_left_out() {
        assert_eq!(parse("\n36 35 - ext3\nrubbish\n1 2 3 4 5 6 -\n - \n"), []);
    }

    #[test]
    fn escape_that_is_none_stays() {
        assert_eq!(&*unescape(r"\0\999\04"), r"\0\999\04");
    }
}
