//! `vmctl inspect`: whatever has the name.

use clap::{Args, ValueEnum};
use log::LevelFilter;
use runtime::Engine;
use serde_json::Value;

use super::container::{container_value, engine};
use super::image::image_value;
use super::network::network_value;
use super::volume::volume_value;
use crate::errors::containers::ContainerError;
use crate::errors::{self, CliError};
use crate::format;
use crate::output;

/// What's known of something, as JSON; none if there's no such thing.
pub(crate) type Shown = Result<Option<Value>, CliError>;

/// Return low-level information on objects: containers, images, volumes, networks.
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub(crate) struct InspectArgs {
    /// Format output: json, or a Go template.
    #[arg(long, short, value_name = "FORMAT")]
    format: Option<String>,

    /// Only inspect objects of the given type.
    #[arg(long = "type", value_name = "TYPE", value_enum)]
    kind: Option<Kind>,

    /// The objects.
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

/// Finds something by its name.
type Source = fn(&Engine, &str) -> Shown;

/// What can be inspected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Containers.
    Container,
    /// Images.
    Image,
    /// Volumes.
    Volume,
    /// Networks.
    Network,
}

/// Runs `vmctl inspect`.
pub(crate) fn run(args: &InspectArgs, level: LevelFilter) -> Result<u8, CliError> {
    let engine = engine(level)?;
    // In Docker's order: of several with one name the first is meant.
    let sources: [(Kind, Source); 4] = [
        (Kind::Container, container_value),
        (Kind::Image, image_value),
        (Kind::Volume, volume_value),
        (Kind::Network, network_value),
    ];
    show("object", &args.names, args.format.as_deref(), |name| {
        for (kind, value) in sources {
            if args.kind.is_none_or(|wanted| wanted == kind)
                && let Some(value) = value(&engine, name)?
            {
                return Ok(Some(value));
            }
        }
        Ok(None)
    })
}

/// Prints what's found of several, and says of each that isn't there that it isn't.
pub(crate) fn show(
    what: &'static str,
    names: &[String],
    format: Option<&str>,
    find: impl Fn(&str) -> Shown,
) -> Result<u8, CliError> {
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for name in names {
        match find(name)? {
            Some(value) => found.push(value),
            None => missing.push(name.clone()),
        }
    }
    match format {
        Some(format) => {
            let text = format::render_each(&found, format).map_err(ContainerError::from)?;
            output::print(&text)?;
        }
        None => output::print_json(&found)?,
    }
    for reference in &missing {
        let reference = reference.clone();
        errors::report(&ContainerError::NoObject { what, reference }.into());
    }
    Ok(if missing.is_empty() { api::exit::STOPPED } else { api::exit::FAILURE })
}
