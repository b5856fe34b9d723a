//! Programs from PyPI, each list of them in an environment of its own.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, ensure};

use crate::artifacts;
use crate::transfer::sha256;

/// Makes an environment with the packages, each with its version, once for each list of them, and
/// returns its Python.
pub fn environment(requirements: &str) -> Result<PathBuf> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let environment =
        artifacts::tools().join(format!("python-{}", sha256(requirements.as_bytes())?));
    let (python, complete) = (environment.join("bin/python3"), environment.join("complete"));
    if complete.exists() {
        return Ok(python);
    }
    if environment.exists() {
        fs::remove_dir_all(&environment)?;
    }
    fs::create_dir_all(&environment)?;
    let list = environment.join("requirements.txt");
    fs::write(&list, requirements)?;
    run(Command::new("python3").args(["-m", "venv"]).arg(&environment))?;
    run(Command::new(&python)
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"])
        .arg("--requirement")
        .arg(&list))?;
    File::create(&complete)?;
    Ok(python)
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {errors}");
    Ok(())
}
