//! One host for all tests, and reports as JSON.

use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration_tests::containers::{Host, finish_within};
use serde_json::Value;

/// How long a comparison may take: tens of boots, each of some ten seconds where all is emulated.
const LIMIT: Duration = Duration::from_secs(1200);

static HOST: Mutex<Option<Host>> = Mutex::new(None);

/// The host, for one test at a time: comparisons exclude one another.
pub(crate) struct Lease(MutexGuard<'static, Option<Host>>);

impl std::ops::Deref for Lease {
    type Target = Host;

    fn deref(&self) -> &Host {
        let Some(host) = self.0.as_ref() else { unreachable!("made before it's leased") };
        host
    }
}

pub(crate) fn host() -> Result<Lease> {
    let mut host = HOST.lock().unwrap_or_else(PoisonError::into_inner);
    if host.is_none() {
        *host = Some(Host::new()?);
    }
    Ok(Lease(host))
}

/// Runs `vmctl compare`, which must succeed; returns its report.
pub(crate) fn compare(host: &Host, line: &str) -> Result<Value> {
    let file = host.path("report.json");
    let mut command = host.command(["compare", "--save"]);
    command.arg(&file).args(line.split_whitespace());
    let said = finish_within(LIMIT, &mut command, b"")?;
    ensure!(said.code == 0, "vmctl compare {line}: {said:#?}");
    // For whoever reads the log.
    println!("{}", said.out);
    read(&file)
}

pub(crate) fn read(file: &std::path::Path) -> Result<Value> {
    let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    Ok(serde_json::from_str(&text)?)
}

/// What a row has for a way.
pub(crate) fn cell<'a>(report: &'a Value, row: &str, way: &str) -> Result<&'a Value> {
    let rows = report["rows"].as_array().context("rows")?;
    let found = rows.iter().find(|it| it["id"] == row).with_context(|| format!("no row {row}"))?;
    let cells = found["cells"].as_array().context("cells")?;
    cells.iter().find(|cell| cell["way"] == way).with_context(|| format!("{row}: no {way}"))
}

/// The median of a row's figure.
pub(crate) fn median(report: &Value, row: &str, way: &str) -> Result<f64> {
    let cell = cell(report, row, way)?;
    ensure!(cell["outcome"] == "measured", "{row}, {way}: {cell}");
    cell["median"].as_f64().with_context(|| format!("{row}, {way}: {cell}"))
}

/// What was seen of an aspect in a way: the value and the verdict.
pub(crate) fn observation(report: &Value, aspect: &str, way: &str) -> Result<(String, String)> {
    let all = report["isolation"].as_array().context("isolation")?;
    let found =
        all.iter().find(|it| it["id"] == aspect).with_context(|| format!("no aspect {aspect}"))?;
    let seen = found["observations"].as_array().context("observations")?;
    let seen = seen.iter().find(|it| it["way"] == way);
    let seen = seen.with_context(|| format!("{aspect}: no {way}"))?;
    let text = |name: &str| seen[name].as_str().unwrap_or_default().to_owned();
    Ok((text("value"), text("verdict")))
}
