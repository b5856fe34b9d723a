//! `vmctl rmi|tag`.

use clap::Args;
use image::{Images, Removal};
use runtime::Engine;

use super::reference;
use crate::commands::container::for_each;
use crate::commands::stores;
use crate::errors::CliError;
use crate::errors::containers::ContainerError;
use crate::output;

/// Remove one or more images.
///
/// An image with several names loses the one that's given; with its last name it's removed.
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub(crate) struct RmArgs {
    /// Force removal of the image.
    #[arg(long, short)]
    force: bool,

    /// The images.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

/// Create a tag that refers to an image.
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub(crate) struct TagArgs {
    /// The image.
    #[arg(value_name = "SOURCE_IMAGE[:TAG]")]
    source: String,

    /// Its further name.
    #[arg(value_name = "TARGET_IMAGE[:TAG]")]
    target: String,
}

pub(super) fn rm(engine: &Engine, args: &RmArgs) -> Result<u8, CliError> {
    let images = stores::images(engine)?;
    let users = stores::users(engine)?;
    for_each(&args.images, |name| {
        let user = |id: &str| users.get(id).cloned();
        match images.remove(name, args.force, &user) {
            // With force it's as wanted.
            Err(image::ImageError::NotFound { .. }) if args.force => Ok(()),
            removal => {
                let removal = removal.map_err(ContainerError::from)?;
                note(engine, &removal);
                output::print(&removed_text(&removal, "U", "D"))
            }
        }
    })
}

/// Has `events` tell of what's gone.
pub(super) fn note(engine: &Engine, removal: &Removal) {
    for name in &removal.untagged {
        engine.emit("image", "untag", name, [("name", name.clone())]);
    }
    for id in &removal.deleted {
        engine.emit("image", "delete", id, [("name", id.clone())]);
    }
}

/// What's gone, in Docker's words, which `prune` begins with small letters.
pub(super) fn removed_text(removal: &Removal, untagged: &str, deleted: &str) -> String {
    let untagged = removal.untagged.iter().map(|name| format!("{untagged}ntagged: {name}\n"));
    let deleted = removal.deleted.iter().map(|id| format!("{deleted}eleted: {id}\n"));
    untagged.chain(deleted).collect()
}

pub(super) fn tag(engine: &Engine, images: &Images, args: &TagArgs) -> Result<u8, CliError> {
    let target = reference(&args.target)?;
    images.tag(&args.source, &target).map_err(ContainerError::from)?;
    engine.emit("image", "tag", &args.source, [("name", target.familiar())]);
    Ok(api::exit::STOPPED)
}
