//! `vmctl cp`.

mod look;
mod pack;
mod place;
mod unpack;

use std::fs;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::thread;

use clap::Args;
use runtime::{Engine, Files};

use self::place::{Kind, Source, Target};
use crate::errors::containers::ContainerError;
use crate::errors::{CliError, notice};
use crate::format::human;

/// Standard input or output.
const STREAM: &str = "-";

/// Copy files/folders between a container and the local filesystem.
///
/// A path in a container is CONTAINER:PATH, from its root on. A directory whose path ends with /.
/// is copied without itself. With - for the source a tar archive is read from STDIN and unpacked in
/// a directory of the container; with - for the destination one is written to STDOUT.
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub(crate) struct CpArgs {
    /// Archive mode (copy all uid/gid information).
    #[arg(long, short)]
    archive: bool,

    /// Always follow symbol link in SRC_PATH.
    #[arg(long, short = 'L')]
    follow_link: bool,

    /// Suppress progress output during copy: it's only shown on a terminal.
    #[arg(long, short)]
    quiet: bool,

    /// What's copied.
    #[arg(value_name = "[CONTAINER:]SRC_PATH|-")]
    source: String,

    /// Where it's copied to.
    #[arg(value_name = "[CONTAINER:]DEST_PATH|-")]
    destination: String,
}

/// One end of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End<'a> {
    Host(&'a str),
    Container { name: &'a str, path: &'a str },
}

impl<'a> End<'a> {
    /// Reads `CONTAINER:PATH` or a path of the host's: one that begins with a slash or a dot may
    /// have a colon.
    fn parse(text: &'a str) -> Self {
        match text.split_once(':') {
            Some((name, path)) if !name.starts_with(['/', '.']) && !name.is_empty() => {
                Self::Container { name, path }
            }
            _ => Self::Host(text),
        }
    }
}

pub(super) fn run(engine: &Engine, args: &CpArgs) -> Result<u8, CliError> {
    let copied = match (End::parse(&args.source), End::parse(&args.destination)) {
        (End::Host(source), End::Container { name, path }) => {
            copy_in(&engine.files(name).map_err(ContainerError::from)?, args, source, path)?
        }
        (End::Container { name, path }, End::Host(destination)) => {
            let files = engine.files(name).map_err(ContainerError::from)?;
            copy_out(&files, args, (name, path), destination)?
        }
        (End::Container { .. }, End::Container { .. }) => {
            return Err(
                ContainerError::options("copying between containers is not supported").into()
            );
        }
        (End::Host(_), End::Host(_)) => {
            let problem = "one of the two must be in a container: CONTAINER:PATH";
            return Err(ContainerError::options(problem).into());
        }
    };
    if let Some(bytes) = copied
        && !args.quiet
        && io::stdout().is_terminal()
    {
        let (size, destination) = (human::size(bytes), &args.destination);
        notice(&format!("Successfully copied {size} to {destination}"));
    }
    Ok(api::exit::STOPPED)
}

/// Copies into a container; returns how many bytes the archive had.
fn copy_in(
    files: &Files,
    args: &CpArgs,
    source: &str,
    path: &str,
) -> Result<Option<u64>, ContainerError> {
    let path = place::absolute(path);
    let (there, resolved) = look::follow(files, place::bare(&path))?;
    if source == STREAM {
        if there != Some(Kind::Directory) {
            return Err(ContainerError::Copy(format!("destination {path:?} must be a directory")));
        }
        files.copy_in(&resolved, &mut io::stdin().lock())?;
        return Ok(None);
    }
    let (file, facts) = local_source(source, args.follow_link)?;
    let target = place::target(&facts, &path, &resolved, there)?;
    let (reader, writer) = io::pipe().map_err(no_pipe)?;
    thread::scope(|scope| {
        let top = target.name.as_deref().unwrap_or(".");
        let packing = scope.spawn(|| pack::pack(&file, Path::new(top), args.archive, writer));
        let mut reader = Counted { inner: reader, bytes: 0 };
        let copied = files.copy_in(&target.dir, &mut reader);
        let bytes = reader.bytes;
        // Whoever still packs needn't.
        drop(reader);
        match (packing.join(), copied) {
            (Err(panic), _) => std::panic::resume_unwind(panic),
            (Ok(Err(error)), _) if !is_broken_pipe(&error) => Err(error),
            (Ok(_), copied) => Ok(copied.map(|()| Some(bytes))?),
        }
    })
}

/// What's copied from the host.
fn local_source(source: &str, follow: bool) -> Result<(PathBuf, Source), ContainerError> {
    let mut path = PathBuf::from(source);
    let failed = |source| ContainerError::File { what: "copy", path: path.clone(), source };
    let follows = follow || source.ends_with('/') || place::is_contents(source);
    let look = if follows { fs::metadata(&path) } else { fs::symlink_metadata(&path) };
    let is_dir = look.map_err(failed)?.is_dir();
    let name = place::name(source);
    // The name of `..` and the like is what it leads to.
    let whole = fs::canonicalize(&path).ok();
    let real = whole.as_ref().and_then(|path| path.file_name());
    let name = name.or_else(|| real.map(|name| name.to_string_lossy().into_owned()));
    if follows {
        path = fs::canonicalize(&path).map_err(failed)?;
    }
    let is_contents = place::is_contents(source);
    Ok((path, Source { name: name.unwrap_or_else(|| ".".to_owned()), is_dir, is_contents }))
}

/// Copies out of a container; returns how many bytes the archive had.
fn copy_out(
    files: &Files,
    args: &CpArgs,
    (container, path): (&str, &str),
    destination: &str,
) -> Result<Option<u64>, ContainerError> {
    let path = place::absolute(path);
    let asked = if args.follow_link && !path.ends_with('/') && !place::is_contents(&path) {
        look::follow(files, &path)?.1
    } else {
        path.clone()
    };
    if destination == STREAM {
        files.copy_out(&asked, &mut io::stdout().lock())?;
        return Ok(None);
    }
    let (reader, mut writer) = io::pipe().map_err(no_pipe)?;
    thread::scope(|scope| {
        let asked = &asked;
        // It's dropped at the thread's end: the reader waits for that.
        let packing = scope.spawn(move || files.copy_out(asked, &mut writer));
        let mut reader = Counted { inner: reader, bytes: 0 };
        let unpacked = unpack::unpack(&mut reader, args.archive, |is_dir| {
            let name = place::name(&path).unwrap_or_else(|| ".".to_owned());
            let is_contents = place::is_contents(&path);
            local_target(&Source { name, is_dir, is_contents }, destination)
        });
        let bytes = reader.bytes;
        drop(reader);
        let packed = match packing.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(packed) => packed,
        };
        // What the host refuses ends the container's side, too; an archive that ends early does so
        // for a reason of the container's.
        match (unpacked, packed) {
            (Ok(true), packed) => Ok(packed.map(|()| Some(bytes))?),
            (Ok(false), Ok(())) => Err(ContainerError::Copy(format!("{container} sent nothing"))),
            (Ok(false), Err(error)) => Err(error.into()),
            (Err(error), _) => Err(error),
        }
    })
}

/// Where a copy goes on the host.
fn local_target(source: &Source, destination: &str) -> Result<Target, ContainerError> {
    let there = match fs::metadata(destination) {
        Ok(metadata) if metadata.is_dir() => Some(Kind::Directory),
        Ok(_) => Some(Kind::File),
        Err(_) => None,
    };
    let destination = if destination.is_empty() { "." } else { destination };
    place::target(source, destination, place::bare(destination), there)
}

fn no_pipe(source: io::Error) -> ContainerError {
    ContainerError::File { what: "make", path: PathBuf::from("a pipe"), source }
}

fn is_broken_pipe(error: &ContainerError) -> bool {
    matches!(error, ContainerError::File { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
}

/// Counts what's read.
struct Counted<R> {
    inner: R,
    bytes: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.bytes += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_apart_as_docker_tells_them() {
        for (text, expected) in [
            ("web:/x", End::Container { name: "web", path: "/x" }),
            ("web:", End::Container { name: "web", path: "" }),
            ("web:a:b", End::Container { name: "web", path: "a:b" }),
            ("/a:b", End::Host("/a:b")),
            ("./a:b", End::Host("./a:b")),
            ("a", End::Host("a")),
            (":a", End::Host(":a")),
            ("-", End::Host("-")),
        ] {
            assert_eq!(End::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn sources_of_the_host_are_looked_at_as_their_paths_say() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        std::os::unix::fs::symlink("d", dir.path().join("l")).unwrap();
        let look = |name: &str, follow| {
            let source = format!("{}/{name}", dir.path().display());
            local_source(&source, follow).map(|(_, source)| source)
        };
        let source =
            |name: &str, is_dir, is_contents| Source { name: name.to_owned(), is_dir, is_contents };
        assert_eq!(look("d", false).unwrap(), source("d", true, false));
        assert_eq!(look("d/.", false).unwrap(), source("d", true, true));
        assert_eq!(look("l", false).unwrap(), source("l", false, false));
        assert_eq!(look("l", true).unwrap(), source("l", true, false));
        assert_eq!(look("l/", false).unwrap(), source("l", true, false));
        assert_eq!(
            look("l/..", false).unwrap().name,
            dir.path().file_name().unwrap().to_str().unwrap()
        );
        let error = look("nothing", false).unwrap_err();
        assert!(error.to_string().ends_with("/nothing"), "{error}");
    }
}
