//! The difference of two archives: an image's second layer.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

/// The unit of an archive, in bytes.
const BLOCK: usize = 512;

/// What an archive says of one file: the blocks of its headers and its content's.
struct Entry {
    /// The header with all extended headers before it.
    headers: Vec<u8>,
    content: Vec<u8>,
}

impl Entry {
    /// Reads the next file's, or `None` at the archive's end.
    fn read(archive: &mut impl Read) -> Result<Option<Self>> {
        let mut headers = Vec::new();
        loop {
            let mut header = [0; BLOCK];
            archive.read_exact(&mut header).context("the archive ends in the middle")?;
            if header.iter().all(|byte| *byte == 0) {
                return Ok(None);
            }
            let size = size_of(&header)?.next_multiple_of(BLOCK);
            let mut content = vec![0; size];
            archive.read_exact(&mut content).context("the archive ends in the middle")?;
            headers.extend_from_slice(&header);
            // Extended headers (pax) and long names (GNU) belong to the file that follows.
            if !matches!(header[156], b'x' | b'L' | b'K') {
                return Ok(Some(Self { headers, content }));
            }
            headers.append(&mut content);
        }
    }

    fn fingerprint(&self) -> [u8; 32] {
        Sha256::new().chain_update(&self.headers).chain_update(&self.content).finalize().into()
    }
}

fn size_of(header: &[u8; BLOCK]) -> Result<usize> {
    let digits = header[124..136].iter().take_while(|byte| byte.is_ascii_digit());
    let text: String = digits.map(|byte| char::from(*byte)).collect();
    match usize::from_str_radix(&text, 8) {
        Ok(size) => Ok(size),
        Err(_) => bail!("a file in the archive has no octal size"),
    }
}

/// Writes to `output` what `whole` has and `base` hasn't, or has otherwise. Packages only add files:
/// what's only in `base` isn't noticed.
pub(super) fn difference(base: &Path, whole: &Path, output: &Path) -> Result<()> {
    let open = |path: &Path| {
        File::open(path)
            .map(BufReader::new)
            .with_context(|| format!("cannot open {}", path.display()))
    };
    let mut known = HashSet::new();
    let mut archive = open(base)?;
    while let Some(entry) = Entry::read(&mut archive)? {
        known.insert(entry.fingerprint());
    }
    let mut archive = open(whole)?;
    let file =
        File::create(output).with_context(|| format!("cannot create {}", output.display()))?;
    let mut writer = BufWriter::new(file);
    while let Some(entry) = Entry::read(&mut archive)? {
        if !known.contains(&entry.fingerprint()) {
            writer.write_all(&entry.headers)?;
            writer.write_all(&entry.content)?;
        }
    }
    writer.write_all(&[0; 2 * BLOCK])?;
    writer.flush().with_context(|| format!("cannot write {}", output.display()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use super::*;
    use crate::process;

    #[test]
    fn difference_has_new_and_changed_files_and_long_names_only() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        let archive = |name: &str| {
            let path = dir.path().join(name);
            let mut tar = Command::new("tar");
            tar.args(["--create", "--format=pax", "--mtime=@0", "--sort=name"]);
            tar.arg("--pax-option=delete=atime,delete=ctime");
            process::run(tar.arg("--directory").arg(&root).arg("--file").arg(&path).arg("."))
                .unwrap();
            path
        };
        fs::write(root.join("same"), "same").unwrap();
        fs::write(root.join("changed"), "before").unwrap();
        let base = archive("base.tar");
        let long = "n".repeat(180);
        fs::write(root.join("changed"), "after").unwrap();
        fs::write(root.join(&long), vec![1; 1000]).unwrap();
        let whole = archive("whole.tar");

        let output = dir.path().join("difference.tar");
        difference(&base, &whole, &output).unwrap();
        let listed =
            process::capture(Command::new("tar").arg("--list").arg("--file").arg(&output)).unwrap();
        assert_eq!(listed, format!("./changed\n./{long}\n"));

        fs::write(&whole, &fs::read(&whole).unwrap()[..700]).unwrap();
        assert!(difference(&base, &whole, &output).is_err());
    }
}
