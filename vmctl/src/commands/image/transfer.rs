//! `vmctl pull|push`, and the pull that `run` begins with.

use clap::Args;
use image::{Image, Reference};
use image::{ImageError, Images, Platform, Progress, PullOptions, Pulled, PushOptions, Silent};
use runtime::Engine;

use super::progress::{Layers, Stream};
use super::reference;
use crate::commands::container::Pull;
use crate::commands::stores;
use crate::errors::containers::ContainerError;
use crate::errors::{CliError, notice};
use crate::output;

/// Download an image from a registry.
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub(crate) struct PullArgs {
    /// Set platform if the image is for several: OS/ARCHITECTURE[/VARIANT].
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<Platform>,

    /// Suppress verbose output.
    #[arg(long, short)]
    quiet: bool,

    /// Speak plain HTTP to the registry, or TLS with any certificate. For a registry on this host
    /// that's tried without.
    #[arg(long)]
    insecure: bool,

    /// The image.
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    image: String,
}

/// Upload an image to a registry.
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub(crate) struct PushArgs {
    /// Push all tags of an image to the repository.
    #[arg(long, short)]
    all_tags: bool,

    /// Suppress verbose output.
    #[arg(long, short)]
    quiet: bool,

    /// Speak plain HTTP to the registry, or TLS with any certificate. For a registry on this host
    /// that's tried without.
    #[arg(long)]
    insecure: bool,

    /// The image.
    #[arg(value_name = "NAME[:TAG]")]
    image: String,
}

pub(super) fn pull(engine: &Engine, images: &Images, args: &PullArgs) -> Result<u8, CliError> {
    let reference = reference(&args.image)?;
    let options = PullOptions { platform: args.platform.clone(), insecure: args.insecure };
    if !args.quiet
        && let Some(tag) = default_tag(&args.image, &reference)
    {
        Stream::Stdout.line(&format!("Using default tag: {tag}"));
    }
    let stream = (!args.quiet).then_some(Stream::Stdout);
    fetch(engine, images, &reference, &options, stream)?;
    output::print(&format!("{reference}\n"))?;
    Ok(api::exit::STOPPED)
}

/// The tag of a name that was given without one.
fn default_tag<'a>(given: &str, reference: &'a Reference) -> Option<&'a str> {
    let last = given.rsplit('/').next().unwrap_or(given);
    reference.tag().filter(|_| !last.contains([':', '@']))
}

/// Fetches an image and says so on `stream`.
fn fetch(
    engine: &Engine,
    images: &Images,
    reference: &Reference,
    options: &PullOptions,
    stream: Option<Stream>,
) -> Result<Pulled, ContainerError> {
    let pulled = fetch_shown(images, reference, options, stream)?;
    engine.emit("image", "pull", &reference.familiar(), [("name", reference.familiar_name())]);
    Ok(pulled)
}

fn fetch_shown(
    images: &Images,
    reference: &Reference,
    options: &PullOptions,
    stream: Option<Stream>,
) -> Result<Pulled, ContainerError> {
    let Some(stream) = stream else { return Ok(images.pull(reference, options, &Silent)?) };
    let tag = reference.tag().or(reference.digest()).unwrap_or_default();
    stream.line(&format!("{tag}: Pulling from {}", reference.repository()));
    let pulled = watched(stream, |progress| images.pull(reference, options, progress))?;
    stream.line(&format!("Digest: {}", pulled.digest));
    let status = if pulled.is_new { "Downloaded newer image" } else { "Image is up to date" };
    stream.line(&format!("Status: {status} for {}", reference.familiar()));
    Ok(pulled)
}

/// Does a transfer whose progress is shown.
fn watched<T>(
    stream: Stream,
    transfer: impl FnOnce(&dyn Progress) -> Result<T, ImageError>,
) -> Result<T, ImageError> {
    let layers = Layers::new(stream);
    let result = transfer(&layers);
    layers.finish();
    result
}

pub(super) fn push(engine: &Engine, images: &Images, args: &PushArgs) -> Result<u8, CliError> {
    let reference = reference(&args.image)?;
    let names =
        if args.all_tags { tags_of(images, &args.image, &reference)? } else { vec![reference] };
    let options = PushOptions { insecure: args.insecure };
    let stream = Stream::Stdout;
    if !args.quiet
        && let Some(first) = names.first()
    {
        if !args.all_tags
            && let Some(tag) = default_tag(&args.image, first)
        {
            stream.line(&format!("Using default tag: {tag}"));
        }
        let (registry, repository) = (first.registry(), first.repository());
        stream.line(&format!("The push refers to repository [{registry}/{repository}]"));
    }
    for name in names {
        if args.quiet {
            images.push(&name, &options, &Silent).map_err(ContainerError::from)?;
            note_push(engine, &name);
            output::print(&format!("{name}\n"))?;
            continue;
        }
        let pushed = watched(stream, |progress| images.push(&name, &options, progress));
        let (digest, size) = pushed.map_err(ContainerError::from)?;
        note_push(engine, &name);
        let tag = name.tag().unwrap_or_default();
        stream.line(&format!("{tag}: digest: {digest} size: {size}"));
    }
    Ok(api::exit::STOPPED)
}

/// Has `events` tell of an image that was sent.
fn note_push(engine: &Engine, name: &Reference) {
    engine.emit("image", "push", &name.familiar(), [("name", name.familiar_name())]);
}

/// All names in the repository that there are here.
fn tags_of(
    images: &Images,
    given: &str,
    reference: &Reference,
) -> Result<Vec<Reference>, ContainerError> {
    if default_tag(given, reference).is_none() {
        return Err(ContainerError::options("tag can't be used with --all-tags/-a"));
    }
    let is_same = |name: &Reference| {
        (name.registry(), name.repository()) == (reference.registry(), reference.repository())
    };
    let tags = images.list()?.into_iter().flat_map(|image| image.tags);
    let names: Vec<_> = tags.filter(is_same).collect();
    if names.is_empty() {
        return Err(ImageError::NotFound { reference: reference.familiar_name() }.into());
    }
    Ok(names)
}

/// Sees that an image is there for `run` and `create`, and pulls it if it isn't, or each time, as
/// `pull` says.
pub(crate) fn provide(
    engine: &Engine,
    name: &str,
    platform: Option<&str>,
    pull: Pull,
    quiet: bool,
) -> Result<(), CliError> {
    let platform: Option<Platform> =
        match platform {
            Some(text) => Some(text.parse().map_err(|problem| {
                ContainerError::options(format!("--platform {text}: {problem}"))
            })?),
            None => None,
        };
    let images = stores::images(engine)?;
    if pull != Pull::Always {
        match images.find(name) {
            Ok(found) if fits(&found.image, platform.as_ref()) => return Ok(()),
            Ok(_) | Err(ImageError::NotFound { .. }) if pull == Pull::Missing => {}
            Ok(_) => return Err(not_for(name, platform.as_ref()).into()),
            Err(error) => return Err(ContainerError::from(error).into()),
        }
    }
    let reference = reference(name)?;
    if !quiet && pull == Pull::Missing {
        notice(&format!("Unable to find image '{}' locally", reference.familiar()));
    }
    let options = PullOptions { platform, insecure: false };
    fetch(engine, &images, &reference, &options, (!quiet).then_some(Stream::Stderr))?;
    Ok(())
}

/// Whether an image is for a platform that was asked for.
fn fits(image: &Image, platform: Option<&Platform>) -> bool {
    platform.is_none_or(|wanted| {
        let config = &image.config;
        wanted.os == config.os
            && wanted.architecture == config.architecture
            && (wanted.variant.is_none() || wanted.variant == config.variant)
    })
}

fn not_for(name: &str, platform: Option<&Platform>) -> ContainerError {
    let platform = platform.map(ToString::to_string).unwrap_or_default();
    ImageError::NotFound { reference: format!("{name} for {platform}") }.into()
}
