//! The hidden command that stays with a container.

use clap::Args;
use runtime::EngineOptions;

use crate::errors::CliError;
use crate::errors::containers::ContainerError;

/// Stays with a container from its start to its end. Other commands start this.
#[derive(Debug, Args)]
pub(crate) struct SuperviseArgs {
    /// The container's identifier.
    id: String,
}

/// Supervises; returns when the container has ended.
pub(crate) fn supervise(args: &SuperviseArgs) -> Result<u8, CliError> {
    // Nobody waits for its exit code: the container's is on record.
    runtime::supervise(EngineOptions::default(), &args.id).map_err(ContainerError::from)?;
    Ok(api::exit::STOPPED)
}
