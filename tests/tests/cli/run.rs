//! Runs `vmctl` to its end, and looks at all that it left.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail, ensure};
use integration_tests::PATIENCE;
use integration_tests::artifacts;
use integration_tests::vm::wait_process;
use tempfile::TempDir;

/// In the environment of each run: by it the processes that it started are known.
const MARK: &str = "VMCTL_TEST_RUN";

/// A directory for what a test makes, with nothing else in it.
pub(crate) struct Workshop {
    directory: TempDir,
}

impl Workshop {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self { directory: tempfile::tempdir()? })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file and returns its path.
    pub(crate) fn file(&self, name: &str, content: &[u8]) -> Result<PathBuf> {
        let path = self.path(name);
        fs::write(&path, content).with_context(|| format!("write {path:?}"))?;
        Ok(path)
    }

    /// Makes a sparse file and returns its path.
    pub(crate) fn sparse(&self, name: &str, bytes: u64) -> Result<PathBuf> {
        let path = self.path(name);
        File::create(&path)?.set_len(bytes)?;
        Ok(path)
    }
}

/// Prepares `vmctl` with these arguments.
pub(crate) fn vmctl(arguments: &[&str]) -> Command {
    let mut command = Command::new(artifacts::vmctl());
    command.args(arguments);
    command
}

/// What a run of `vmctl` left.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs a command to its end, without input. None of the processes that it started may be left.
pub(crate) fn run(mut command: Command) -> Result<Run> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let mark = format!("{}-{number}", std::process::id());
    let directory = tempfile::tempdir()?;
    let [out, err] = ["out", "err"].map(|name| directory.path().join(name));
    let mut child = command
        .env(MARK, &mark)
        .stdin(Stdio::null())
        .stdout(File::create(&out)?)
        .stderr(File::create(&err)?)
        .spawn()
        .with_context(|| format!("start {command:?}"))?;
    let ended = wait_process(child.id(), PATIENCE)?;
    if !ended {
        child.kill()?;
    }
    let status = child.wait()?;
    let read = |path: &Path| anyhow::Ok(String::from_utf8_lossy(&fs::read(path)?).into_owned());
    let (stdout, stderr) = (read(&out)?, read(&err)?);
    ensure!(ended, "{command:?} doesn't end: {stderr}{stdout}");
    let Some(code) = status.code() else {
        bail!("{command:?} was ended by signal {:?}: {stderr}", status.signal())
    };
    let left = processes_with(&format!("{MARK}={mark}"))?;
    ensure!(left.is_empty(), "{command:?} left processes behind: {left:?}");
    Ok(Run { code, stdout, stderr })
}

/// Returns the processes that have `variable` in their environment.
fn processes_with(variable: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        // Not a process, or one that ended meanwhile.
        let Ok(environment) = fs::read(path.join("environ")) else { continue };
        if environment.split(|byte| *byte == 0).any(|word| word == variable.as_bytes()) {
            found.push(fs::read_to_string(path.join("comm")).unwrap_or_default());
        }
    }
    Ok(found)
}

/// How `vmctl` refuses something.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refusal<'a> {
    /// 2 for what's wrong whatever the host, else 1.
    pub(crate) code: i32,
    /// What the message starts with: the flag and its value.
    pub(crate) place: &'a str,
    /// What the message, or one of its causes, says.
    pub(crate) words: &'a str,
    /// A part of the hint; none if there's nothing to advise.
    pub(crate) hint: Option<&'a str>,
}

impl Refusal<'_> {
    /// Checks that a run ended with exactly this.
    pub(crate) fn check(&self, run: &Run) -> Result<()> {
        let Run { code, stdout, stderr } = run;
        ensure!(*code == self.code, "exit code {code} instead of {}: {stderr}", self.code);
        ensure!(stdout.is_empty(), "on standard output: {stdout}");
        let start = format!("error: {}", self.place);
        ensure!(stderr.starts_with(&start), "no {start:?} in the first place: {stderr}");
        ensure!(stderr.matches("error: ").count() == 1, "not one error: {stderr}");
        ensure!(stderr.contains(self.words), "no {:?}: {stderr}", self.words);
        let hints: Vec<_> = stderr.lines().filter_map(|line| line.strip_prefix("hint: ")).collect();
        match (self.hint, hints.as_slice()) {
            (None, []) => Ok(()),
            (Some(words), [hint]) if hint.contains(words) => Ok(()),
            (expected, found) => bail!("hint {expected:?} expected, {found:?} found: {stderr}"),
        }
    }
}
