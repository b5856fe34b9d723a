//! The image's own `fio`.

use std::env;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;
use serde_json::Value;

use super::disk::{DiskJob, FLUSHES, SEQUENTIAL_BYTES};
use crate::ProbeError;
use crate::results::{DiskResult, Latency, Text, Throughput};

/// The most that is read of its output.
const MAX_OUTPUT: u64 = 4 << 20;

/// Where programs are, where an image doesn't say it.
const PATHS: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Looks for it.
pub(super) fn find() -> Option<PathBuf> {
    let paths = env::var_os("PATH").unwrap_or_else(|| PATHS.into());
    env::split_paths(&paths)
        .filter(|path| path.is_absolute())
        .map(|path| path.join("fio"))
        .find(|path| path.is_file())
}

/// What it prints, as far as it matters.
#[derive(Deserialize)]
struct Output {
    #[serde(rename = "fio version")]
    version: Text,
    jobs: Vec<Job>,
}

#[derive(Deserialize)]
struct Job {
    read: Direction,
    write: Direction,
    #[serde(default)]
    sync: Sync,
}

#[derive(Deserialize)]
struct Direction {
    #[serde(default)]
    bw_bytes: f64,
    #[serde(default)]
    iops: f64,
    #[serde(default)]
    clat_ns: Times,
}

#[derive(Default, Deserialize)]
struct Sync {
    #[serde(default)]
    lat_ns: Times,
}

#[derive(Default, Deserialize)]
struct Times {
    #[serde(default)]
    min: f64,
    #[serde(default, rename = "N")]
    count: u64,
    #[serde(default)]
    percentile: std::collections::BTreeMap<String, Value>,
}

impl Times {
    fn latency(&self) -> Latency {
        let at = |key: &str| self.percentile.get(key).and_then(Value::as_u64).unwrap_or_default();
        Latency {
            count: self.count,
            min_ns: whole(self.min),
            median_ns: at("50.000000"),
            p99_ns: at("99.000000"),
        }
    }
}

/// Rounds a number of nanoseconds; what's no such number is 0.
#[expect(clippy::cast_possible_truncation, reason = "the cast saturates")]
fn whole(number: f64) -> u64 {
    number.round() as u64
}

impl Direction {
    fn throughput(&self) -> Throughput {
        Throughput {
            bytes_per_second: self.bw_bytes.max(0.0),
            operations_per_second: self.iops.max(0.0),
            latency: self.clat_ns.latency(),
        }
    }
}

/// Has it do the work, a run for each kind.
pub(super) fn run(
    program: &Path,
    job: &DiskJob,
    file: &Path,
    direct: bool,
    direct_error: Option<Text>,
) -> Result<DiskResult, ProbeError> {
    let run = |arguments: &[String]| output(program, job, file, arguments);
    let sequential = |kind: &str, more: &str| {
        run(&[format!("--rw={kind}"), format!("--bs={SEQUENTIAL_BYTES}"), more.to_owned()])
    };
    let random = |kind: &str, operations: u64, more: &str| {
        run(&[
            format!("--rw={kind}"),
            format!("--bs={}", job.block_bytes),
            format!("--number_ios={operations}"),
            // As many as were asked for, also when the file has fewer blocks.
            format!("--io_size={}", operations.saturating_mul(job.block_bytes)),
            format!("--direct={}", u8::from(direct)),
            more.to_owned(),
        ])
    };
    let (version, written) = sequential("write", "--end_fsync=1")?;
    let (_, read) = sequential("read", "--invalidate=1")?;
    let (_, random_read) = random("randread", job.operations, "--invalidate=1")?;
    let (_, random_write) = random("randwrite", job.operations, "--overwrite=1")?;
    let (_, flushed) = random("randwrite", job.operations.min(FLUSHES), "--fsync=1")?;
    Ok(DiskResult {
        tool: version,
        bytes: job.bytes,
        block_bytes: job.block_bytes,
        operations: job.operations,
        direct,
        direct_error,
        sequential_write: written.write.throughput(),
        sequential_read: read.read.throughput(),
        random_read: random_read.read.throughput(),
        random_write: random_write.write.throughput(),
        fsync: flushed.sync.lat_ns.latency(),
    })
}

fn output(
    program: &Path,
    job: &DiskJob,
    file: &Path,
    arguments: &[String],
) -> Result<(Text, Job), ProbeError> {
    // A colon would separate two files.
    let name = file.to_string_lossy().replace(':', "\\:");
    let mut child = Command::new(program)
        .args(["--name=probe", "--ioengine=psync", "--randrepeat=1", "--output-format=json"])
        .arg(format!("--filename={name}"))
        .arg(format!("--size={}", job.bytes))
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(ProbeError::system("start the image's fio"))?;
    let mut text = String::new();
    let read = child.stdout.take().map(|stdout| stdout.take(MAX_OUTPUT).read_to_string(&mut text));
    let status = child.wait().map_err(ProbeError::system("wait for the image's fio"))?;
    if !status.success() {
        return Err(ProbeError::Fio(format!("{arguments:?}: {status}: {}", Text::from(text))));
    }
    if let Some(Err(error)) = read {
        return Err(ProbeError::Fio(error.to_string()));
    }
    parse(&text)
}

/// Reads what it printed; some versions print notes before it.
fn parse(text: &str) -> Result<(Text, Job), ProbeError> {
    let json = text.find('{').map_or("", |start| &text[start..]);
    let mut output: Output =
        serde_json::from_str(json).map_err(|error| ProbeError::Fio(error.to_string()))?;
    if output.jobs.len() != 1 {
        return Err(ProbeError::Fio(format!("{} jobs instead of 1", output.jobs.len())));
    }
    Ok((output.version, output.jobs.remove(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = r#"note: something
{"fio version" : "fio-3.33", "jobs": [{"jobname": "probe",
 "read": {"bw_bytes": 1048576, "iops": 256.5, "clat_ns": {"min": 1000, "N": 20,
   "percentile": {"50.000000": 2000, "99.000000": 9000}}},
 "write": {"bw_bytes": 0, "iops": 0.0, "clat_ns": {"min": 0}},
 "sync": {"lat_ns": {"min": 5, "N": 3, "percentile": {"50.000000": 6, "99.000000": 7}}}}]}"#;

    #[test]
    fn figures_of_fio_are_passed_on() {
        let (version, job) = parse(OUTPUT).unwrap();
        assert_eq!(&*version, "fio-3.33");
        let read = job.read.throughput();
        let expected = Latency { count: 20, min_ns: 1000, median_ns: 2000, p99_ns: 9000 };
        assert_eq!(read.latency, expected);
        assert!((read.operations_per_second - 256.5).abs() < f64::EPSILON);
        assert_eq!(job.sync.lat_ns.latency().median_ns, 6);
        assert_eq!(job.write.throughput().latency.median_ns, 0);
    }

    #[test]
    fn output_that_is_none_of_fio_is_an_error() {
        let none = OUTPUT.replace("\"jobname\"", "\"read\"");
        for wrong in ["", "{", "{}", "[]", r#"{"fio version":"x","jobs":[]}"#, &none] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
