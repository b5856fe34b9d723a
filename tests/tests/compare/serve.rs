//! The live page's server, with real instances behind it.

use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use integration_tests::vm::signal_process;
use rustix::process::Signal;

use crate::support::host;

/// What the program of ours says first, in Base64.
const READY: &str = "cmVhZHkK";

struct Page {
    address: String,
    token: String,
}

impl Page {
    fn curl(&self, path: &str) -> Command {
        let mut command = Command::new("curl");
        command.args(["--silent", "--no-buffer", "--max-time", "900"]);
        command.args(["--header", &format!("Authorization: Bearer {}", self.token)]);
        command.arg(format!("http://{}{path}", self.address));
        command
    }

    /// Sends a request that acts; returns the answer's status.
    fn post(&self, path: &str, body: &str) -> Result<String> {
        let mut command = self.curl(path);
        command.args(["--header", "Content-Type: application/json", "--data", body]);
        let output = command.args(["--write-out", "\n%{http_code}"]).output()?;
        let text = String::from_utf8(output.stdout)?;
        println!("{path}: {text}");
        Ok(text.lines().last().unwrap_or_default().to_owned())
    }
}

/// The page's events, as they come.
struct Events {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Events {
    fn of(page: &Page) -> Result<Self> {
        let mut child = page.curl("/api/events").stdout(Stdio::piped()).spawn()?;
        let lines = BufReader::new(child.stdout.take().context("standard output")?).lines();
        Ok(Self { child, lines })
    }

    /// Waits for a line that has all of these in it.
    fn wait_for(&mut self, parts: &[&str]) -> Result<()> {
        for line in self.lines.by_ref() {
            let line = line?;
            if parts.iter().all(|part| line.contains(part)) {
                return Ok(());
            }
        }
        bail!("the events ended without {parts:?}")
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_container_and_a_vm_are_started_watched_and_stopped_from_the_page() -> Result<()> {
    let host = host()?;
    host.ok("pull busybox")?;
    let words = ["compare", "--serve", "--only", "container,microvm-warm", "busybox"];
    let mut server = host.command(words).stdout(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(server.stdout.take().context("standard output")?).lines();
    let url = lines.next().context("an address")??;
    let (address, token) = url
        .strip_prefix("http://")
        .and_then(|rest| rest.split_once("/?token="))
        .with_context(|| url.clone())?;
    let page = Page { address: address.to_owned(), token: token.to_owned() };
    // Whoever doesn't have it sees nothing; whoever wants the same port is told at once.
    let stranger = Page { address: address.to_owned(), token: "x".to_owned() };
    ensure!(stranger.post("/api/instances", "{\"way\": \"container\"}")? == "403");
    let error = host.fails(&format!("compare --serve {address} no-such-image"), 1)?;
    ensure!(error.contains(&format!("cannot listen on {address}")), "{error}");

    let mut events = Events::of(&page)?;
    for way in ["container", "microvm-warm"] {
        let body = format!("{{\"way\": \"{way}\"}}");
        ensure!(page.post("/api/instances", &body)? == "201");
        events.wait_for(&["\"bytes\"", READY])?;
    }
    ensure!(host.ok("ps --quiet")?.lines().count() == 1, "the VM is one of vmctl's");
    // Whatever state they have: meters come twice a second.
    events.wait_for(&["cpu_us", "pss_bytes"])?;
    ensure!(page.post("/api/stop", "{}")? == "202");
    for _ in 0..2 {
        events.wait_for(&["\"phase\":\"ended\""])?;
    }

    ensure!(page.post("/api/instances", "{\"way\": \"microvm-warm\"}")? == "201");
    events.wait_for(&["\"bytes\"", READY])?;
    signal_process(server.id(), Signal::INT)?;
    let status = server.wait()?;
    ensure!(status.success(), "{status}");
    ensure!(host.ok("ps --all --quiet")?.is_empty());
    ensure!(!host.path("data/compare/work").exists());
    Ok(())
}
