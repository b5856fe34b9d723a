//! A host for containers: `vmctl` with directories of its own, and a registry to pull from.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::vm::wait_process;
use crate::{PATIENCE, artifacts};

/// How long the output of a command that was killed may take to end.
const AFTER_KILL: Duration = Duration::from_secs(5);

/// Debian's `docker-registry` on the loopback interface, stopped when it's dropped.
pub struct Registry {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
    _directory: TempDir,
}

impl Registry {
    /// Starts one with the images of `cargo xtask images`, for everybody. What's pushed to it goes
    /// to a copy.
    pub fn with_images() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let storage = directory.path().join("storage");
        let mut copy = Command::new("cp");
        copy.args(["-r", "--reflink=auto"]).arg(fs::canonicalize(artifacts::registry())?);
        ensure!(copy.arg(&storage).status()?.success(), "cp of the registry's storage");
        Self::start(directory, &storage, None)
    }

    /// Starts an empty one that only this user may use.
    pub fn private(user: &str, password: &str) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let passwords = directory.path().join("htpasswd");
        let mut htpasswd = Command::new("htpasswd");
        htpasswd.args(["-B", "-b", "-c"]).arg(&passwords).args([user, password]);
        let output = htpasswd.output().context("run htpasswd")?;
        ensure!(output.status.success(), "htpasswd: {output:?}");
        let storage = directory.path().join("storage");
        Self::start(directory, &storage, Some(&passwords))
    }

    fn start(directory: TempDir, storage: &Path, passwords: Option<&Path>) -> Result<Self> {
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let mut config = format!(
            "version: 0.1\nlog:\n  level: info\nstorage:\n  delete:\n    enabled: true\n  \
             filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n",
            storage.display()
        );
        if let Some(passwords) = passwords {
            let path = passwords.display();
            config += &format!("auth:\n  htpasswd:\n    realm: tests\n    path: {path}\n");
        }
        let path = directory.path().join("config.yml");
        fs::write(&path, config)?;
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(path)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("run docker-registry")?;
        let log = child.stderr.take().context("standard error is piped")?;
        let registry = Self { child, address, _directory: directory };
        let mut lines = BufReader::new(log).lines();
        let mut said = String::new();
        for line in &mut lines {
            let line = line?;
            if line.contains("listening on") {
                thread::spawn(move || lines.for_each(drop));
                return Ok(registry);
            }
            said += &line;
        }
        bail!("docker-registry ended: {said}")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // If it has ended already, that's as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a command printed.
#[derive(Debug)]
pub struct Said {
    /// Its exit code.
    pub code: i32,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

/// Directories that `vmctl` keeps images, containers and networks in, and where it pulls from.
/// Dropping it removes every container.
pub struct Host {
    directory: TempDir,
    /// Stands in for Docker Hub.
    pub registry: Registry,
}

impl Host {
    /// Makes one without any image.
    pub fn new() -> Result<Self> {
        Ok(Self { directory: tempfile::tempdir()?, registry: Registry::with_images()? })
    }

    /// A file or directory to work in.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// `vmctl` with arguments.
    pub fn command<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new(artifacts::vmctl());
        command.args(arguments).stdin(Stdio::null());
        command.env("VMCTL_DATA_DIR", self.path("data"));
        command.env("VMCTL_RUNTIME_DIR", self.path("run"));
        command.env("DOCKER_CONFIG", self.path("docker"));
        // Not the disk that a demo may have left beside `vmctl`: tests name theirs.
        command.env("VMCTL_FULL_VM_DISK", self.path("no-disk"));
        command.env("VMCTL_REGISTRY_MIRROR", format!("http://{}", self.registry.address));
        command
    }

    /// Runs `vmctl` to its end, whatever that is. Arguments are separated by blanks; see
    /// [`command`](Self::command) for those that have some.
    pub fn say(&self, line: &str) -> Result<Said> {
        finish(&mut self.command(line.split_whitespace()), b"")
    }

    /// Runs `vmctl`, which must succeed; returns its standard output.
    pub fn ok(&self, line: &str) -> Result<String> {
        let said = self.say(line)?;
        ensure!(said.code == 0, "vmctl {line}: {said:#?}\n{}", self.logs());
        Ok(said.out)
    }

    /// Runs `vmctl`, which must fail with this code; returns its standard error.
    pub fn fails(&self, line: &str, code: i32) -> Result<String> {
        let said = self.say(line)?;
        ensure!(said.code == code, "vmctl {line}: {code} expected: {said:#?}\n{}", self.logs());
        Ok(said.err)
    }

    /// Runs a program in a running container, by its shell.
    pub fn shell(&self, container: &str, script: &str) -> Result<String> {
        let said = finish(&mut self.command(["exec", container, "sh", "-c", script]), b"")?;
        ensure!(said.code == 0, "{container}: {script}: {said:#?}");
        Ok(said.out)
    }

    /// The ends of the supervisors' and guests' logs, for messages.
    pub fn logs(&self) -> String {
        let Ok(containers) = fs::read_dir(self.path("data/containers")) else {
            return String::new();
        };
        let mut text = String::new();
        for container in containers.flatten() {
            let files = fs::read_dir(container.path()).into_iter().flatten().flatten();
            for file in files.filter(|file| file.path().extension().is_some_and(|it| it == "log")) {
                let bytes = fs::read(file.path()).unwrap_or_default();
                let end = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(4000)..])
                    .into_owned();
                text += &format!("--- {}\n{end}\n", file.path().display());
            }
        }
        text
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // What's left is of a test that failed.
        let Ok(all) = self.say("ps --all --quiet") else { return };
        for container in all.out.split_whitespace() {
            let _ = self.say(&format!("rm --force --volumes {container}"));
        }
    }
}

/// Runs a command to its end, within [`PATIENCE`], with this on its standard input.
pub fn finish(command: &mut Command, input: &[u8]) -> Result<Said> {
    finish_within(PATIENCE, command, input)
}

/// The same for one that may take longer. Whoever it leaves behind and that holds its output open
/// must be gone by then, too.
pub fn finish_within(limit: Duration, command: &mut Command, input: &[u8]) -> Result<Said> {
    let deadline = Instant::now() + limit;
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("run {command:?}"))?;
    let mut stdin = child.stdin.take().context("standard input is piped")?;
    let out = read_aside(child.stdout.take().context("standard output is piped")?);
    let err = read_aside(child.stderr.take().context("standard error is piped")?);
    let input = input.to_vec();
    thread::spawn(move || {
        // Who doesn't read it closes it.
        let _ = stdin.write_all(&input);
    });
    let ended = wait_process(child.id(), limit)?;
    if !ended {
        child.kill()?;
    }
    let status = child.wait()?;
    let deadline = deadline.max(Instant::now() + AFTER_KILL);
    let read = |from: &Receiver<Vec<u8>>| {
        let mut bytes = Vec::new();
        loop {
            match from.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(more) => bytes.extend(more),
                Err(error) => {
                    let text = String::from_utf8_lossy(&bytes).into_owned();
                    return (text, error == RecvTimeoutError::Disconnected);
                }
            }
        }
    };
    let ((out, out_ended), (err, err_ended)) = (read(&out), read(&err));
    ensure!(ended, "{command:?} isn't over after {limit:?}: {out}{err}");
    let all = out_ended && err_ended;
    ensure!(all, "{command:?} has ended, but others hold its output after {limit:?}: {out}{err}");
    Ok(Said { code: status.code().context("killed by a signal")?, out, err })
}

/// Reads in a thread of its own; the channel closes at the end.
fn read_aside(mut from: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut buffer = [0; 1 << 16];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            if sender.send(buffer[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    receiver
}
