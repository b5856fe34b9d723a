//! Docker's daemon, with directories of its own, that nobody has installed.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::containers::finish;
use crate::vm::{signal_process, wait_process};
use crate::{PATIENCE, artifacts};

/// What the daemon says once it can be asked.
const READY: &str = "API listen on";

/// A running daemon; stopped when it's dropped.
pub struct Docker {
    child: Child,
    client: PathBuf,
    log: PathBuf,
}

impl Docker {
    /// Starts one in an empty directory, which may be on an overlay. Images and containers take the
    /// room of all their files there.
    ///
    /// # Errors
    /// It doesn't start.
    pub fn start(dir: &Path) -> Result<Self> {
        let root = artifacts::docker();
        let socket = dir.join("docker.sock");
        fs::create_dir_all(dir)?;
        let log = dir.join("dockerd.log");
        let path = std::env::var("PATH").unwrap_or_default();
        let (bin, sbin) = (root.join("usr/bin"), root.join("usr/sbin"));
        let path = format!("{}:{}:{path}", bin.display(), sbin.display());
        let mut command = Command::new(sbin.join("dockerd"));
        command.arg(format!("--host=unix://{}", socket.display()));
        for (flag, name) in [("data-root", "data"), ("exec-root", "run"), ("pidfile", "pid")] {
            command.arg(format!("--{flag}={}", dir.join(name).display()));
        }
        command.args(["--storage-driver=vfs", "--exec-opt=native.cgroupdriver=cgroupfs"]);
        command.env("PATH", &path).env(
            "LD_LIBRARY_PATH",
            format!("{0}/lib/x86_64-linux-gnu:{0}/usr/lib/x86_64-linux-gnu", root.display()),
        );
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().context("run dockerd")?;
        let said = child.stderr.take().context("standard error is piped")?;
        let client = dir.join("docker");
        // A client by name, as `--runtime` takes it.
        let script = format!(
            "#!/bin/sh\nDOCKER_HOST=unix://{} exec {} \"$@\"\n",
            socket.display(),
            bin.join("docker").display()
        );
        fs::write(&client, script)?;
        fs::set_permissions(&client, fs::Permissions::from_mode(0o755))?;
        let docker = Self { child, client, log };
        docker.wait_until_ready(said)?;
        Ok(docker)
    }

    /// Logs what it says; that has to be read as long as it runs.
    fn wait_until_ready(&self, said: impl Read + Send + 'static) -> Result<()> {
        let mut log = File::create(&self.log)?;
        let (ready, told) = channel();
        thread::spawn(move || {
            for line in BufReader::new(said).lines().map_while(Result::ok) {
                let _ = log.write_all(format!("{line}\n").as_bytes());
                if line.contains(READY) {
                    let _ = ready.send(());
                }
            }
        });
        // The channel closes when the daemon ends.
        match told.recv_timeout(PATIENCE) {
            Ok(()) => Ok(()),
            Err(error) => bail!("dockerd isn't ready ({error}): {}", self.log()),
        }
    }

    /// The client, which asks this daemon.
    pub fn client(&self) -> &Path {
        &self.client
    }

    /// Asks the daemon for what the client's arguments say.
    ///
    /// # Errors
    /// The client fails.
    pub fn ok(&self, line: &str) -> Result<String> {
        let said = finish(Command::new(&self.client).args(line.split_whitespace()), b"")?;
        if said.code == 0 {
            return Ok(said.out);
        }
        bail!("docker {line}: {said:#?}\n{}", self.log())
    }

    /// What the daemon has said.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        // It ends containerd; if it has ended already, that's as good.
        let _ = signal_process(self.child.id(), Signal::TERM);
        if !matches!(wait_process(self.child.id(), PATIENCE), Ok(true)) {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}
