//! `vmctl run|create`.

use std::fs;
use std::path::Path;

use clap::Args;
use runtime::{AttachOptions, Created, Engine, RuntimeError};

use super::flags::{CreateFlags, Stream};
use super::session::Connection;
use super::values::keys;
use crate::commands::image;
use crate::errors::containers::ContainerError;
use crate::errors::{self, CliError, notice};
use crate::output;

/// Create and run a new container from an image.
///
/// The container's exit code is this command's; 125 if the container couldn't be run, 126 if its
/// command couldn't be executed, 127 if there's no such command.
#[derive(Debug, Args)]
#[command(
    override_usage = "vmctl run [OPTIONS] IMAGE [COMMAND] [ARG...]",
    disable_help_flag = true,
    disable_version_flag = true
)]
pub(crate) struct RunArgs {
    /// Run container in background and print container ID.
    #[arg(long, short, conflicts_with = "attach")]
    detach: bool,

    /// Proxy received signals to the process.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    sig_proxy: bool,

    /// Override the key sequence for detaching a container.
    #[arg(long, value_name = "KEYS", default_value = keys::DEFAULT, value_parser = Keys::parse)]
    detach_keys: Keys,

    #[command(flatten)]
    create: CreateFlags,

    #[command(flatten)]
    words: Words,
}

/// Create a new container.
#[derive(Debug, Args)]
#[command(
    override_usage = "vmctl create [OPTIONS] IMAGE [COMMAND] [ARG...]",
    disable_help_flag = true,
    disable_version_flag = true
)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    create: CreateFlags,

    #[command(flatten)]
    words: Words,
}

/// What follows the flags: all of it belongs to the container, flags included.
#[derive(Debug, Args)]
struct Words {
    /// The image, and the command with its arguments in place of the image's.
    #[arg(required = true, trailing_var_arg = true, value_names = ["IMAGE", "COMMAND"])]
    words: Vec<String>,
}

/// The keys that leave a container to itself.
#[derive(Clone, Debug)]
pub(super) struct Keys(pub(super) Vec<u8>);

impl Keys {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        keys::parse(text).map(Self)
    }
}

impl Words {
    fn image(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    fn command(&self) -> &[String] {
        self.words.get(1..).unwrap_or(&[])
    }
}

pub(super) fn create(engine: &Engine, args: &CreateArgs) -> Result<u8, CliError> {
    let created = make(engine, &args.create, &args.words, false)?;
    output::print(&format!("{}\n", created.id))?;
    Ok(api::exit::STOPPED)
}

/// Runs a container. Whatever fails of `run` itself ends with 125, 126 or 127.
pub(super) fn run(engine: &Engine, args: &RunArgs) -> Result<u8, CliError> {
    try_run(engine, args).or_else(|error| {
        errors::report(&error);
        Ok(error.run_code())
    })
}

fn try_run(engine: &Engine, args: &RunArgs) -> Result<u8, CliError> {
    let connection = args.connection();
    connection.check()?;
    let created = make(engine, &args.create, &args.words, !args.detach)?;
    let attach = (!args.detach).then(|| AttachOptions {
        stdin: connection.stdin,
        stdout: connection.stdout,
        stderr: connection.stderr,
        size: connection.size(),
    });
    match engine.start(&created.id, attach) {
        Ok(Some(session)) => connection.relay(session),
        Ok(None) => {
            output::print(&format!("{}\n", created.id))?;
            Ok(api::exit::STOPPED)
        }
        Err(error) => {
            forget(engine, &created, args.create.cidfile.as_deref());
            Err(ContainerError::from(error).into())
        }
    }
}

impl RunArgs {
    fn connection(&self) -> Connection {
        let named = &self.create.attach;
        let wants = |stream, otherwise| {
            if named.is_empty() { otherwise } else { named.contains(&stream) }
        };
        Connection {
            tty: self.create.tty,
            stdin: !self.detach && self.create.interactive && wants(Stream::Stdin, true),
            stdout: wants(Stream::Stdout, true),
            stderr: wants(Stream::Stderr, true),
            sig_proxy: self.sig_proxy,
            detach_keys: self.detach_keys.0.clone(),
        }
    }
}

/// Sees that the image is there, and creates the container.
fn make(
    engine: &Engine,
    flags: &CreateFlags,
    words: &Words,
    attached: bool,
) -> Result<Created, CliError> {
    let mut config = flags.to_config(words.image(), words.command())?;
    // Once the client that it belongs to is gone, nobody can end the input.
    config.stdin_once = config.open_stdin && attached;
    if let Some(file) = &flags.cidfile {
        check_cid_file(file)?;
    }
    image::provide(engine, words.image(), flags.platform.as_deref(), flags.pull, flags.quiet)?;
    let created = engine.create(&config).map_err(ContainerError::from)?;
    for warning in &created.warnings {
        notice(&format!("WARNING: {warning}"));
    }
    if let Some(file) = &flags.cidfile
        && let Err(source) = fs::write(file, &created.id)
    {
        forget(engine, &created, None);
        return Err(ContainerError::File { what: "write", path: file.clone(), source }.into());
    }
    Ok(created)
}

fn check_cid_file(file: &Path) -> Result<(), ContainerError> {
    if file.exists() {
        return Err(ContainerError::options(format!(
            "container ID file found, make sure the other container isn't running or delete {}",
            file.display()
        )));
    }
    Ok(())
}

/// Removes a container that was created and couldn't be started.
fn forget(engine: &Engine, created: &Created, cid_file: Option<&Path>) {
    match engine.remove(&created.id, true, true) {
        Ok(()) | Err(RuntimeError::NotFound { .. }) => {}
        Err(error) => log::warn!("{} can't be removed: {error}", created.id),
    }
    if let Some(file) = cid_file
        && let Err(error) = fs::remove_file(file)
    {
        log::warn!("{} can't be removed: {error}", file.display());
    }
}
