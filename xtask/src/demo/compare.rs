//! The end of the demo: an nginx image as a container and as a virtual machine, side by side.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use super::{in_lab, path_text};
use crate::lab::{RESULTS_DIR, Spec};
use crate::probe::Place;
use crate::{dirs, images, process};

/// How long it may take in the lab.
const LAB_LIMIT: Duration = Duration::from_secs(60 * 60);

/// What is compared.
const IMAGE: &str = "nginx";

/// The full VM's disk, where `vmctl compare` looks for it.
const DISK: &str = "debian.img";

/// The page and the report.
const PAGE: &str = "compare.html";
const REPORT: &str = "compare.json";

/// Compares, and says where the page is.
///
/// # Errors
///
/// Fails when the image can't be built, or nothing could be compared.
pub(super) fn run(place: &Place, vmctl: &Path, disk: &Path) -> Result<()> {
    let beside = vmctl.parent().context("vmctl is in a directory")?;
    dirs::link(disk, &beside.join(DISK))?;
    let results = dirs::target().join("xtask/demo");
    fs::create_dir_all(&results).with_context(|| format!("cannot create {}", results.display()))?;
    match place {
        Place::Native(_) => {
            let words = images::served(command(vmctl, &results, &[]))?;
            let (program, arguments) = words.split_first().context("a command has a program")?;
            let mut command = Command::new(program);
            process::run_shown(command.args(arguments).stdin(Stdio::null()))?;
        }
        Place::Lab(_) => {
            // Where everything is a hundred times slower, a little work shows as much.
            let light = [
                "--runs=2",
                "--scale=0.05",
                "--most=3",
                "--workload=start,cpu,syscall,net,web,density,isolation",
            ];
            let words = images::served(command(vmctl, Path::new(RESULTS_DIR), &light))?;
            let mut spec = Spec::new(words);
            spec.timeout = Some(LAB_LIMIT);
            spec.results = Some(results.clone());
            in_lab(&spec, "the comparison")?;
        }
    }
    println!("\nThe comparison as a page: {}", shown(&results.join(PAGE)).display());
    Ok(())
}

fn command(vmctl: &Path, results: &Path, flags: &[&str]) -> Vec<String> {
    let mut words = vec![path_text(vmctl), "compare".to_owned()];
    words.extend(flags.iter().map(|flag| (*flag).to_owned()));
    words.push(format!("--html={}", results.join(PAGE).display()));
    words.push(format!("--save={}", results.join(REPORT).display()));
    words.push(IMAGE.to_owned());
    words
}

fn shown(path: &Path) -> PathBuf {
    super::shortened(path)
}
