//! What is at a path in the container.

use std::os::fd::AsFd;

use agent_proto::PathStat;
use rustix::fs::{FileType, fstat, readlinkat};

use crate::fault::{Context, ErrorKind, Result};
use crate::in_root;

/// Looks at a path.
pub(crate) fn stat(root: impl AsFd, path: &str, follow: bool) -> Result<PathStat> {
    let what = || format!("cannot find {path} in the container");
    let place = in_root::open_place(root, path, follow).context(ErrorKind::NoSuchPath, what)?;
    let stat = fstat(&place).context(ErrorKind::NoSuchPath, what)?;
    let is_link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
    let link_target = if is_link {
        let target = readlinkat(&place, "", Vec::new()).context(ErrorKind::NoSuchPath, what)?;
        target.to_string_lossy().into_owned()
    } else {
        String::new()
    };
    let name = std::path::Path::new(path).file_name();
    Ok(PathStat {
        // The root has no name.
        name: name.map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
        size_bytes: u64::try_from(stat.st_size).unwrap_or(0),
        mode: stat.st_mode,
        modified_at_s: stat.st_mtime,
        link_target,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_are_told_and_followed_within_the_root() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "12345").unwrap();
        symlink("/file", dir.path().join("link")).unwrap();
        symlink("/etc/passwd", dir.path().join("out")).unwrap();
        let root = File::open(dir.path()).unwrap();
        let link = stat(&root, "/link", false).unwrap();
        assert!(link.is_symbolic_link());
        assert_eq!((&*link.name, &*link.link_target), ("link", "/file"));
        assert_eq!(stat(&root, "/link", true).unwrap().size_bytes, 5);
        assert!(stat(&root, "/", true).unwrap().is_directory());
        assert_eq!(stat(&root, "/out", true).unwrap_err().kind, ErrorKind::NoSuchPath);
    }
}
