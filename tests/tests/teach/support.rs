//! A host with a registry, and podman beside it with a storage of its own.

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Result, bail, ensure};
use integration_tests::artifacts;
use integration_tests::containers::{Host, Said, finish};

static HOST: Mutex<Option<Host>> = Mutex::new(None);

/// The host, for one test at a time: what one of them has pulled, the next one has.
pub(crate) struct Lease(MutexGuard<'static, Option<Host>>);

/// Waits for the host.
pub(crate) fn host() -> Result<Lease> {
    let mut host = HOST.lock().unwrap_or_else(PoisonError::into_inner);
    if host.is_none() {
        let made = Host::new()?;
        // No overlay file systems: this host's root may be one already.
        let (storage, run) = (made.path("podman"), made.path("podman-run"));
        fs::write(
            made.path("storage.conf"),
            format!("[storage]\ndriver = \"vfs\"\ngraphroot = {storage:?}\nrunroot = {run:?}\n"),
        )?;
        fs::write(
            made.path("containers.conf"),
            "[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\nruntime = \"crun\"\n",
        )?;
        // podman doesn't start without the file.
        fs::create_dir_all(made.path("docker"))?;
        fs::write(made.path("docker/config.json"), "{}")?;
        // The default network stays when it was used once.
        made.ok("run --rm busybox true")?;
        made.ok("rmi busybox")?;
        *host = Some(made);
    }
    Ok(Lease(host))
}

impl std::ops::Deref for Lease {
    type Target = Host;

    fn deref(&self) -> &Host {
        let Some(host) = self.0.as_ref() else { unreachable!("made before it's leased") };
        host
    }
}

impl Lease {
    /// `vmctl lab`, whose scripts may use podman.
    pub(crate) fn lab<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = self.command(["lab"]);
        command.args(arguments);
        self.add_podman(&mut command);
        command
    }

    fn add_podman(&self, command: &mut Command) {
        command.env("CONTAINERS_STORAGE_CONF", self.path("storage.conf"));
        command.env("CONTAINERS_CONF", self.path("containers.conf"));
    }

    /// Runs `vmctl lab` to its end, whatever that is.
    pub(crate) fn say_lab(&self, line: &str) -> Result<Said> {
        finish(&mut self.lab(line.split_whitespace()), b"")
    }

    /// Runs what a student would do.
    pub(crate) fn solve(&self, exercise: &str) -> Result<()> {
        let value = self.exercise(exercise)?;
        let directory = PathBuf::from(value["directory"].as_str().unwrap_or_default());
        let files = self.path("data/lab-state").join(exercise).join("files");
        let mut solution = Command::new(directory.join("solution"));
        for (name, value) in self.lab([""; 0]).get_envs() {
            if let Some(value) = value {
                solution.env(name, value);
            }
        }
        let prefix = exercise.split_once('-').map_or(exercise, |(_, rest)| rest);
        solution.env("VMCTL", artifacts::vmctl()).env("LAB_NAME", format!("lab-{prefix}"));
        solution.env("LAB_DIR", files).current_dir(self.path("."));
        let said = finish(&mut solution, b"")?;
        if said.code != 0 {
            let all = self.ok("ps --all --no-trunc")?;
            bail!("{exercise}: {said:#?}\n{all}{}", self.logs());
        }
        Ok(())
    }

    /// What `list` tells of an exercise.
    pub(crate) fn exercise(&self, name: &str) -> Result<serde_json::Value> {
        let said = self.say_lab("list --json")?;
        ensure!(said.code == 0, "{said:#?}");
        let all: Vec<serde_json::Value> = serde_json::from_str(&said.out)?;
        let found = all.into_iter().find(|value| value["name"] == name);
        found.ok_or_else(|| anyhow::anyhow!("no exercise {name}: {}", said.out))
    }

    /// All that there is of containers, images, networks, volumes and rules, podman's included.
    pub(crate) fn everything(&self) -> Result<String> {
        let mut text = String::new();
        for line in [
            "ps --all --format {{.Names}}",
            "images --format {{.Repository}}:{{.Tag}}",
            "network ls --format {{.Name}}",
            "volume ls --quiet",
        ] {
            text += &format!("{line}:\n{}", self.ok(line)?);
        }
        for line in ["podman ps --all", "podman images", "podman network ls -q", "nft list ruleset"]
        {
            let words: Vec<_> = line.split(' ').collect();
            let mut command = Command::new(words[0]);
            command.args(&words[1..]);
            self.add_podman(&mut command);
            let said = finish(&mut command, b"")?;
            // Silence would be taken for nothing being there.
            ensure!(said.code == 0, "{line}: {said:#?}");
            text += &format!("{line}:\n{}", said.out);
        }
        let state = fs::read_dir(self.path("data/lab-state")).into_iter().flatten().flatten();
        text += &format!("state: {:?}\n", state.map(|it| it.file_name()).collect::<Vec<_>>());
        Ok(text)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // What's left is of a test that failed.
        let _ = self.say_lab("reset --all");
    }
}
