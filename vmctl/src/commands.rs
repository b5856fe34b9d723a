//! One module per command, each with its flags and a `run` that returns the exit code.

pub(crate) mod bench;
pub(crate) mod boot;
pub(crate) mod build;
pub(crate) mod compare;
pub(crate) mod container;
pub(crate) mod doctor;
pub(crate) mod generate;
pub(crate) mod image;
pub(crate) mod inspect;
pub(crate) mod lab;
pub(crate) mod network;
pub(crate) mod snapshot;
mod stores;
pub(crate) mod system;
pub(crate) mod vm;
pub(crate) mod volume;

use std::io::{self, BufRead};

use crate::errors::{CliError, notice};

/// Asks whether something that can't be undone is meant; nobody's answer is no.
fn confirm(warning: &str) -> Result<bool, CliError> {
    notice(&format!("WARNING! {warning}\nAre you sure you want to continue? [y/N] "));
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    read.map_err(|source| CliError::System { what: "standard input can't be read", source })?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
