//! Writes initramfs archives: cpio in the "newc" format, which Linux unpacks into its first root.

use std::io::{self, Write};

/// The types of file that our archives need, as bits of a Unix mode.
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;

/// Writes an archive entry by entry. Owner and time are fixed (root, 0), so that equal inputs
/// give equal archives.
pub(crate) struct Writer<W> {
    out: W,
    inode: u32,
    written: usize,
}

impl<W: Write> Writer<W> {
    /// Starts an archive.
    pub(crate) fn new(out: W) -> Self {
        Self { out, inode: 0, written: 0 }
    }

    /// Adds a directory; the parent must have been added before.
    pub(crate) fn directory(&mut self, name: &str) -> io::Result<()> {
        self.entry(name, DIRECTORY | 0o755, &[])
    }

    /// Adds a file with the given permission bits.
    pub(crate) fn file(&mut self, name: &str, permissions: u32, content: &[u8]) -> io::Result<()> {
        self.entry(name, REGULAR | permissions, content)
    }

    /// Adds a symbolic link to `target`.
    pub(crate) fn symlink(&mut self, name: &str, target: &str) -> io::Result<()> {
        self.entry(name, SYMLINK | 0o777, target.as_bytes())
    }

    /// Ends the archive and returns the writer beneath it.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.entry("TRAILER!!!", 0, &[])?;
        Ok(self.out)
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        let too_large = |_| io::Error::new(io::ErrorKind::FileTooLarge, name.to_owned());
        let size = u32::try_from(content.len()).map_err(too_large)?;
        let name_size = u32::try_from(name.len() + 1).map_err(too_large)?;
        self.inode += 1;
        // magic, inode, mode, uid, gid, links, mtime, size, device (2), rdev (2), name, checksum
        let header = format!(
            "070701{:08x}{mode:08x}{:08x}{:08x}{:08x}{:08x}{size:08x}{:08x}{:08x}{:08x}\
             {:08x}{name_size:08x}{:08x}",
            self.inode, 0, 0, 1, 0, 0, 0, 0, 0, 0
        );
        self.write(header.as_bytes())?;
        self.write(name.as_bytes())?;
        self.write(&[0])?;
        self.pad()?;
        self.write(content)?;
        self.pad()
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len();
        self.out.write_all(bytes)
    }

    fn pad(&mut self) -> io::Result<()> {
        let padding = self.written.next_multiple_of(4) - self.written;
        self.write(&[0; 3][..padding])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_have_the_documented_layout() {
        let mut writer = Writer::new(Vec::new());
        writer.directory("dev").unwrap();
        writer.file("init", 0o755, b"hello").unwrap();
        let archive = writer.finish().unwrap();

        assert_eq!(archive.len() % 4, 0);
        assert_eq!(&archive[..6], b"070701");
        assert_eq!(&archive[14..22], b"000041ed");
        // 110 bytes of header and "dev\0" make 114, padded to 116: the next entry starts there.
        assert_eq!(&archive[116..122], b"070701");
        assert_eq!(&archive[116 + 54..116 + 62], b"00000005");
        let text = String::from_utf8_lossy(&archive);
        assert!(text.contains("init\0") && text.contains("hello\0\0\0"));
        assert!(text.trim_end_matches('\0').ends_with("TRAILER!!!"));
    }
}
