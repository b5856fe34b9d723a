//! Container images from Debian's packages, by the recipes in `resources/images`, in a registry of
//! their own: what the tests and the demo run where no public registry can be reached.

mod layer;
mod oci;
mod recipe;
pub(crate) mod registry;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;

use self::recipe::Recipe;
use crate::cache::{self, Key};
use crate::packages::{self, Consent, Purpose};
use crate::progress::step;

/// Raised when the way images are made changes, so that those in the cache are made anew.
const FORMAT: &str = "1";

/// Command line of `cargo xtask images`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Serve them at this address, as a registry without a password, until interrupted.
    #[arg(long, value_name = "ADDRESS:PORT")]
    serve: Option<SocketAddr>,
}

/// Runs `cargo xtask images`.
///
/// # Errors
///
/// Fails when an image can't be built or the registry can't be run.
pub(crate) fn run(args: &Args) -> Result<()> {
    packages::install(&[Purpose::Images], Consent::Ask)?;
    let storage = obtain()?;
    match args.serve {
        Some(address) => registry::serve(&storage, address),
        None => {
            println!("{}", storage.display());
            Ok(())
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
