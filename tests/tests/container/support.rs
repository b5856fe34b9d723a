//! One host for all tests: what one of them has pulled, the next one has.

use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, ensure};
use integration_tests::containers::Host;

static HOST: Mutex<Option<Host>> = Mutex::new(None);

/// The host, for one test at a time; it's left without containers.
pub(crate) struct Lease(MutexGuard<'static, Option<Host>>);

/// Waits for the host.
pub(crate) fn host() -> Result<Lease> {
    // Whatever a test that failed has left, the next one begins without.
    let mut host = HOST.lock().unwrap_or_else(PoisonError::into_inner);
    if host.is_none() {
        *host = Some(Host::new()?);
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

impl Drop for Lease {
    fn drop(&mut self) {
        // What's left is of a test that failed.
        let Ok(all) = self.say("ps --all --quiet") else { return };
        for container in all.out.split_whitespace() {
            let _ = self.say(&format!("rm --force --volumes {container}"));
        }
    }
}

/// Asks a web server that may still be starting.
pub(crate) fn curl(url: &str) -> Result<String> {
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--fail", "--max-time", "60"])
        .args(["--retry", "60", "--retry-delay", "1", "--retry-all-errors", url])
        .output()
        .context("run curl")?;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{url}: {error}");
    Ok(String::from_utf8(output.stdout)?)
}

/// The lines of a listing without its heading.
pub(crate) fn rows(listing: &str) -> Vec<&str> {
    listing.lines().skip(1).collect()
}
