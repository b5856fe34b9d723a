//! `vmctl commit`.

use clap::{ArgAction, Args};
use runtime::{CommitOptions, Engine};

use crate::errors::CliError;
use crate::errors::containers::ContainerError;
use crate::output;

/// Create a new image from a container's changes.
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub(crate) struct CommitArgs {
    /// Author, such as "Ada Lovelace <ada@example.com>".
    #[arg(long, short, value_name = "AUTHOR")]
    author: Option<String>,

    /// Apply Dockerfile instruction to the created image: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, USER,
    /// VOLUME, WORKDIR, STOPSIGNAL.
    #[arg(long, short, value_name = "INSTRUCTION")]
    change: Vec<String>,

    /// Commit message.
    #[arg(long, short, value_name = "TEXT")]
    message: Option<String>,

    /// Pause container during commit.
    #[arg(long, short, value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_value_t = true, default_missing_value = "true", action = ArgAction::Set)]
    pause: bool,

    /// The container.
    container: String,

    /// The image's name.
    #[arg(value_name = "REPOSITORY[:TAG]")]
    image: Option<String>,
}

pub(super) fn run(engine: &Engine, args: &CommitArgs) -> Result<u8, CliError> {
    let options = CommitOptions {
        reference: args.image.clone(),
        author: args.author.clone(),
        message: args.message.clone(),
        changes: args.change.clone(),
        no_pause: !args.pause,
    };
    let id = engine.commit(&args.container, &options).map_err(ContainerError::from)?;
    output::print(&format!("{id}\n"))?;
    Ok(api::exit::STOPPED)
}
