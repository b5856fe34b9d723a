//! Container images from Debian's packages, by the recipes in `resources/images`, in a registry of
//! their own: what the tests and the demo run where no public registry can be reached.

mod layer;
mod oci;
mod recipe;
pub(crate) mod registry;

use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use self::recipe::Recipe;
use self::registry::Registry;
use crate::cache::{self, Key};
use crate::packages::{self, Consent, Purpose};
use crate::progress::step;
use crate::{guest, process};

/// Raised when the way images are made changes, so that those in the cache are made anew.
const FORMAT: &str = "1";

/// Where images are served for a command in the lab.
const SERVED_AT: &str = "127.0.0.1:5000";

/// What names the registry that stands in for Docker's.
const MIRROR: &str = "VMCTL_REGISTRY_MIRROR";

/// Command line of `cargo xtask images`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Serve them at this address, as a registry without a password, until interrupted.
    #[arg(long, value_name = "ADDRESS:PORT")]
    serve: Option<SocketAddr>,

    /// Serve them only while this command runs, whose `vmctl` pulls from there whatever it would
    /// from Docker's registry.
    #[arg(last = true, value_name = "COMMAND", requires = "serve")]
    command: Vec<String>,
}

/// Builds the images, and what containers need beside `vmctl`; returns a command that serves the
/// images while `command` runs.
///
/// # Errors
///
/// Fails when something can't be built.
pub(crate) fn served(command: Vec<String>) -> Result<Vec<String>> {
    packages::install(&[Purpose::Images], Consent::Ask)?;
    guest::install()?;
    obtain()?;
    let xtask = std::env::current_exe().context("cannot find this program")?;
    let mut words = vec![xtask.to_string_lossy().into_owned()];
    words.extend(["images", "--serve", SERVED_AT, "--"].map(str::to_owned));
    words.extend(command);
    Ok(words)
}

/// Runs `cargo xtask images`.
///
/// # Errors
///
/// Fails when an image can't be built or the registry can't be run.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    packages::install(&[Purpose::Images], Consent::Ask)?;
    let storage = obtain()?;
    match (args.serve, args.command.split_first()) {
        (Some(address), Some((program, arguments))) => {
            let registry = Registry::start(&storage, address)?;
            let mut command = Command::new(program);
            command.args(arguments).env(MIRROR, format!("http://{}", registry.address()));
            let status = command.status().map_err(|error| process::spawn_error(&command, error))?;
            // A signal ends it as it would end a shell's command.
            let signalled = || status.signal().map(|signal| 128 + signal);
            let code = status.code().or_else(signalled).and_then(|code| u8::try_from(code).ok());
            Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
        }
        (Some(address), None) => registry::serve(&storage, address),
        (None, _) => {
            println!("{}", storage.display());
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Returns the storage directory of a `docker-registry` that holds all images, built if a recipe
/// has changed. To be copied, or served by somebody who doesn't write.
///
/// # Errors
///
/// Fails when an image can't be built or stored.
pub(crate) fn obtain() -> Result<PathBuf> {
    let recipes = Recipe::all()?;
    let mut key = Key::default().with(FORMAT);
    for recipe in &recipes {
        key = recipe.add_to(key)?;
    }
    cache::entry(&format!("images/{}", key.finish()), |dir| {
        step("Building the container images", || {
            let scratch = tempfile::tempdir()?;
            let images = recipe::build_all(&recipes, scratch.path())?;
            registry::fill(dir, &images)
        })
    })
}
