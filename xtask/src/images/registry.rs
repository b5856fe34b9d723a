//! The registry that holds the images: Debian's `docker-registry` on the loopback interface.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};

use super::oci::Image;
use crate::process;

/// A running registry, killed when this is dropped.
pub(crate) struct Registry {
    child: Child,
    address: SocketAddr,
}

impl Registry {
    /// Starts a registry and waits until it listens.
    ///
    /// # Errors
    ///
    /// Fails when it can't be started, or ends.
    pub(crate) fn start(storage: &Path, address: SocketAddr) -> Result<Self> {
        let scratch = tempfile::tempdir().context("cannot create a temporary directory")?;
        let config = scratch.path().join("config.yml");
        fs::write(&config, configuration(storage, address))
            .with_context(|| format!("cannot write {}", config.display()))?;
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&config).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn().map_err(|error| process::spawn_error(&command, error))?;
        let mut registry = Self { child, address };
        registry.wait_until_it_listens()?;
        Ok(registry)
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    fn wait_until_it_listens(&mut self) -> Result<()> {
        let log = self.child.stderr.take().context("standard error is piped")?;
        let mut lines = BufReader::new(log).lines();
        let mut said = String::new();
        for line in &mut lines {
            let line = line.context("cannot read docker-registry's log")?;
            if line.contains("listening on") {
                // Read on, so that it never waits for us.
                std::thread::spawn(move || lines.for_each(drop));
                return Ok(());
            }
            said += &line;
            said.push('\n');
        }
        bail!("docker-registry doesn't listen at {}:\n{said}", self.address)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // If it has ended already, that's as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn configuration(storage: &Path, address: SocketAddr) -> String {
    // JSON strings are YAML strings.
    let storage = serde_json::Value::from(storage.to_string_lossy());
    format!(
        "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {storage}\n\
         http:\n  addr: {address}\n"
    )
}

/// Puts the images into a registry whose storage is `storage`, under `library/`.
pub(super) fn fill(storage: &Path, images: &[Image]) -> Result<()> {
    let address = {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot get a port")?;
        listener.local_addr().context("cannot get a port")?
    };
    let registry = Registry::start(storage, address)?;
    for image in images {
        for name in &image.names {
            process::run(
                Command::new("skopeo")
                    .args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"])
                    .arg(format!("oci:{}", image.dir.display()))
                    .arg(format!("docker://{}/library/{name}", registry.address)),
            )?;
        }
    }
    Ok(())
}

/// Serves until it's interrupted.
pub(super) fn serve(storage: &Path, address: SocketAddr) -> Result<ExitCode> {
    let mut registry = Registry::start(storage, address)?;
    println!("Serving at {address}: `vmctl pull {address}/library/nginx`");
    let status = registry.child.wait().context("cannot wait for docker-registry")?;
    bail!("docker-registry ended ({status})")
}
