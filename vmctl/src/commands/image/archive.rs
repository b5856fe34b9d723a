//! `vmctl save|load`.

use std::fs::{self, File};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use image::{Found, Images, Reference, Silent};
use runtime::Engine;
use tempfile::NamedTempFile;

use super::progress::{Layers, Stream};
use crate::errors::CliError;
use crate::errors::containers::ContainerError;
use crate::output;

/// Save one or more images to a tar archive (streamed to STDOUT by default).
///
/// docker load, podman load and vmctl load read it; it's an OCI layout, too.
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub(crate) struct SaveArgs {
    /// Write to a file, instead of STDOUT.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,

    /// The images.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

/// Load an image from a tar archive or STDIN.
///
/// It reads what docker save, podman save and vmctl save write, and OCI layouts: archives,
/// compressed or not, and directories.
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub(crate) struct LoadArgs {
    /// Read from tar archive file, or the directory of an OCI layout, instead of STDIN.
    #[arg(long, short, value_name = "FILE")]
    input: Option<PathBuf>,

    /// Suppress the load output.
    #[arg(long, short)]
    quiet: bool,
}

pub(super) fn save(images: &Images, args: &SaveArgs) -> Result<u8, CliError> {
    match &args.output {
        Some(path) => save_to_file(images, &args.images, path)?,
        None if io::stdout().is_terminal() => {
            return Err(ContainerError::TerminalOutput.into());
        }
        None => {
            let mut stdout = BufWriter::new(io::stdout().lock());
            images.save(&args.images, &mut stdout).map_err(ContainerError::from)?;
            stdout.flush().map_err(CliError::Output)?;
        }
    }
    Ok(api::exit::STOPPED)
}

/// Writes the archive beside its place first: what can't be written whole leaves the old file.
fn save_to_file(images: &Images, names: &[String], path: &Path) -> Result<(), ContainerError> {
    let failed = |source| ContainerError::File { what: "write", path: path.to_owned(), source };
    if path.exists() && !path.is_file() {
        let mut file = BufWriter::new(File::options().write(true).open(path).map_err(failed)?);
        images.save(names, &mut file)?;
        return file.flush().map_err(failed);
    }
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = BufWriter::new(NamedTempFile::new_in(dir).map_err(failed)?);
    images.save(names, &mut file)?;
    let file = file.into_inner().map_err(|error| failed(error.into_error()))?;
    file.persist(path).map(drop).map_err(|error| failed(error.error))
}

pub(super) fn load(engine: &Engine, images: &Images, args: &LoadArgs) -> Result<u8, CliError> {
    let found = match &args.input {
        Some(path) if path.is_dir() => images.load_directory(path).map_err(ContainerError::from)?,
        Some(path) => {
            let failed = |source| ContainerError::File { what: "read", path: path.clone(), source };
            load_from(images, fs::File::open(path).map_err(failed)?, args.quiet)?
        }
        None if io::stdin().is_terminal() => {
            return Err(ContainerError::options(
                "requested load from stdin, but stdin is a terminal: give --input FILE",
            )
            .into());
        }
        None => load_from(images, io::stdin().lock(), args.quiet)?,
    };
    for found in &found {
        let name = found.reference.as_ref().map(Reference::familiar);
        engine.emit("image", "load", &found.image.id, name.map(|name| ("name", name)));
    }
    let lines = found.iter().map(|found| match &found.reference {
        Some(name) => format!("Loaded image: {}\n", name.familiar()),
        None => format!("Loaded image ID: {}\n", found.image.id),
    });
    output::print(&lines.collect::<String>())?;
    Ok(api::exit::STOPPED)
}

fn load_from(
    images: &Images,
    mut archive: impl io::Read,
    quiet: bool,
) -> Result<Vec<Found>, ContainerError> {
    // Elsewhere than on a terminal only what was loaded is of use.
    if quiet || !io::stdout().is_terminal() {
        return Ok(images.load(&mut archive, &Silent)?);
    }
    let layers = Layers::new(Stream::Stdout);
    let found = images.load(&mut archive, &layers);
    layers.finish();
    Ok(found?)
}
