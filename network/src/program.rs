//! Finds programs of the host's.

use std::env;
use std::path::{Path, PathBuf};

/// Where programs for administrators are: not on the `PATH` that cron and ordinary users have.
const SYSTEM_DIRS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Finds a program on the `PATH`, else where administrators' programs are.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    find_in(env::split_paths(&env::var_os("PATH").unwrap_or_default()), name)
}

fn find_in(path: impl Iterator<Item = PathBuf>, name: &str) -> Option<PathBuf> {
    let dirs = path.chain(SYSTEM_DIRS.map(PathBuf::from));
    // An empty part of the PATH would be wherever this process happens to be.
    dirs.filter(|dir| dir.is_absolute()).map(|dir| dir.join(name)).find(|path| Path::is_file(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_is_found_without_the_administrators_path_and_never_here() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("tool"), "").unwrap();
        let path = || [PathBuf::new(), dir.path().to_owned()].into_iter();
        assert_eq!(find_in(path(), "tool"), Some(dir.path().join("tool")));
        assert_eq!(find_in(path(), "Cargo.toml"), None);
        let name = std::fs::read_dir("/usr/sbin").unwrap().next().unwrap().unwrap().file_name();
        assert!(find_in(path(), name.to_str().unwrap()).is_some());
    }
}
