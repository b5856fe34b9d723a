//! Finding a command in the container's root, as `execvp(3)` does, with the reason when it fails.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, accessat};

use crate::fault::{AgentError, ErrorKind, Result, fault};

/// `PATH` when the environment has none.
pub(crate) const DEFAULT_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Returns the file that the command names.
///
/// # Errors
///
/// [`ErrorKind::NotFound`] when there's no such file, [`ErrorKind::NotExecutable`] when there is
/// one that can't be executed.
pub(crate) fn find(command: &str, path: Option<&str>, cwd: &Path) -> Result<PathBuf> {
    if command.is_empty() {
        return fault(ErrorKind::NotFound, "exec: \"\": no command");
    }
    if command.contains('/') {
        let file = cwd.join(command);
        return check(&file).map(|()| file).map_err(|reason| reason.error(command));
    }
    let mut worst = Reason::NotInPath;
    for dir in path.unwrap_or(DEFAULT_PATH).split(':') {
        // An empty part is the working directory.
        let file = cwd.join(dir).join(command);
        match check(&file) {
            Ok(()) => return Ok(file),
            Err(Reason::Missing) => {}
            Err(reason) => worst = reason,
        }
    }
    Err(worst.error(command))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    Missing,
    NotInPath,
    Directory,
    Denied,
}

impl Reason {
    /// Docker's words, which people search for.
    fn error(self, command: &str) -> AgentError {
        let (kind, words) = match self {
            Self::Missing => (ErrorKind::NotFound, "no such file or directory"),
            Self::NotInPath => (ErrorKind::NotFound, "executable file not found in $PATH"),
            Self::Directory => (ErrorKind::NotExecutable, "is a directory"),
            Self::Denied => (ErrorKind::NotExecutable, "permission denied"),
        };
        AgentError::new(kind, format!("exec: {command:?}: {words}"))
    }
}

fn check(file: &Path) -> std::result::Result<(), Reason> {
    let metadata = fs::metadata(file).map_err(|error| match error.kind() {
        std::io::ErrorKind::PermissionDenied => Reason::Denied,
        _ => Reason::Missing,
    })?;
    if metadata.is_dir() {
        return Err(Reason::Directory);
    }
    // Root may access everything, but executes only what someone may.
    let executable = metadata.is_file() && metadata.permissions().mode() & 0o111 != 0;
    let allowed = accessat(rustix::fs::CWD, file, Access::EXEC_OK, rustix::fs::AtFlags::EACCESS);
    if executable && allowed.is_ok() { Ok(()) } else { Err(Reason::Denied) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (name, mode) in [("bin/run", 0o755), ("bin/data", 0o644), ("sbin/data", 0o755)] {
            let file = root.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, "").unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        }
        fs::create_dir(root.path().join("bin/dir")).unwrap();
        root
    }

    #[test]
    fn commands_are_found_in_path() {
        let root = root();
        let path = format!("{0}/none:{0}/bin:{0}/sbin", root.path().display());
        let found = |command| find(command, Some(&path), root.path());
        assert_eq!(found("run").unwrap(), root.path().join("bin/run"));
        assert_eq!(found("data").unwrap(), root.path().join("sbin/data"));
        assert_eq!(found("bin/run").unwrap(), root.path().join("bin/run"));
    }

    #[test]
    fn why_a_command_is_none_is_told() {
        let root = root();
        let path = format!("{}/bin", root.path().display());
        for (command, kind) in [
            ("absent", ErrorKind::NotFound),
            ("", ErrorKind::NotFound),
            ("./absent", ErrorKind::NotFound),
            ("bin/run/below", ErrorKind::NotFound),
            ("data", ErrorKind::NotExecutable),
            ("dir", ErrorKind::NotExecutable),
            ("bin/data", ErrorKind::NotExecutable),
            ("/dev/null", ErrorKind::NotExecutable),
        ] {
            let error = find(command, Some(&path), root.path()).unwrap_err();
            assert_eq!(error.kind, kind, "{command:?}: {error}");
        }
    }
}
