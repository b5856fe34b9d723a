//! `vmctl container inspect`.

use clap::Args;
use runtime::Engine;

use crate::commands::inspect::{Shown, show};
use crate::errors::CliError;
use crate::errors::containers::ContainerError;

/// Display detailed information on one or more containers.
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub(crate) struct InspectArgs {
    /// Format output: json, or a Go template.
    #[arg(long, short, value_name = "FORMAT")]
    format: Option<String>,

    /// The containers.
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

pub(super) fn run(engine: &Engine, args: &InspectArgs) -> Result<u8, CliError> {
    show("container", &args.containers, args.format.as_deref(), |name| {
        container_value(engine, name)
    })
}

/// What's known of a container, as JSON.
pub(crate) fn container_value(engine: &Engine, name: &str) -> Shown {
    match engine.inspect(name) {
        Ok(value) => Ok(Some(value)),
        Err(runtime::RuntimeError::NotFound { .. }) => Ok(None),
        Err(error) => Err(ContainerError::from(error).into()),
    }
}
