//! What a build is of: the Dockerfile and the context, wherever they come from.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::errors::CliError;
use crate::errors::containers::ContainerError;

/// Standard input.
const STDIN: &str = "-";

/// The Dockerfile's name unless it's said.
const DOCKERFILE: &str = "Dockerfile";

/// The largest Dockerfile that's read, in bytes: a build refuses one that's larger.
const MAX_BYTES: u64 = 4 << 20;

/// What was read.
#[derive(Debug)]
pub(super) struct Input {
    /// What errors call the Dockerfile.
    pub(super) name: String,
    pub(super) text: String,
    /// The context's directory.
    pub(super) context: PathBuf,
    /// An ignore file for this Dockerfile only.
    pub(super) ignore_file: Option<PathBuf>,
    /// The context, if it's there for this build only.
    pub(super) directory: Option<TempDir>,
}

impl Input {
    /// Reads what the command line says.
    ///
    /// # Errors
    /// It isn't there, can't be read, or both are standard input.
    pub(super) fn read(context: &str, file: Option<&str>) -> Result<Self, CliError> {
        match (context, file) {
            (STDIN, Some(STDIN)) => Err(ContainerError::options(
                "invalid argument: can't use stdin for both build context and dockerfile",
            )
            .into()),
            (STDIN, file) => Self::from_archive(io::stdin().lock(), file),
            (directory, file) => Self::from_directory(Path::new(directory), file),
        }
    }

    /// A context that came as an archive: its links aren't to be trusted.
    fn from_archive(input: impl Read, file: Option<&str>) -> Result<Self, CliError> {
        let failed = |source| CliError::System { what: "a directory for the context", source };
        let directory = tempfile::Builder::new().prefix("vmctl-build-").tempdir();
        let directory = directory.map_err(failed)?;
        let context = directory.path().to_owned();
        let build_error = |error| ContainerError::from(Box::new(error));
        let dockerfile = image::unpack_context(Box::new(input), &context).map_err(build_error)?;
        let name = file.unwrap_or(DOCKERFILE).to_owned();
        let text = match dockerfile {
            Some(text) => text,
            None => image::read_dockerfile(&context, &name).map_err(build_error)?,
        };
        Ok(Self { name, text, context, ignore_file: None, directory: Some(directory) })
    }

    fn from_directory(context: &Path, file: Option<&str>) -> Result<Self, CliError> {
        let (name, path) = match file {
            Some(STDIN) => (DOCKERFILE.to_owned(), None),
            Some(file) => (file.to_owned(), Some(PathBuf::from(file))),
            None => (DOCKERFILE.to_owned(), Some(context.join(DOCKERFILE))),
        };
        let text = match &path {
            Some(path) => File::open(path).and_then(read_text),
            None => read_text(io::stdin().lock()),
        };
        let text = text.map_err(|source| ContainerError::File {
            what: "read",
            path: path.clone().unwrap_or_else(|| PathBuf::from(STDIN)),
            source,
        })?;
        let ignore_file = path.map(|path| path.with_added_extension("dockerignore"));
        let ignore_file = ignore_file.filter(|path| path.is_file());
        Ok(Self { name, text, context: context.to_owned(), ignore_file, directory: None })
    }
}

fn read_text(input: impl Read) -> io::Result<String> {
    let mut text = String::new();
    input.take(MAX_BYTES + 1).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockerfile_is_the_contexts_or_the_one_that_was_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("Dockerfile"), "FROM a").unwrap();
        std::fs::write(path("Other"), "FROM b").unwrap();
        std::fs::write(path("Other.dockerignore"), "x").unwrap();
        let own = Input::from_directory(directory.path(), None).unwrap();
        assert_eq!((own.name.as_str(), own.text.as_str()), ("Dockerfile", "FROM a"));
        assert_eq!(own.ignore_file, None);
        let other = path("Other").display().to_string();
        let named = Input::from_directory(directory.path(), Some(&other)).unwrap();
        assert_eq!((named.name, named.text.as_str()), (other, "FROM b"));
        assert_eq!(named.ignore_file, Some(path("Other.dockerignore")));
        let missing = path("None").display().to_string();
        Input::from_directory(directory.path(), Some(&missing)).unwrap_err();
        Input::read(STDIN, Some(STDIN)).unwrap_err();
    }

    #[test]
    fn standard_input_is_an_archive_or_a_dockerfile() {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(6);
        header.set_mode(0o644);
        builder.append_data(&mut header, "d/File", &b"FROM a"[..]).unwrap();
        let bytes = builder.into_inner().unwrap();
        let input = Input::from_archive(bytes.as_slice(), Some("d/File")).unwrap();
        assert_eq!(input.text, "FROM a");
        assert!(input.context.join("d/File").is_file());
        Input::from_archive(bytes.as_slice(), None).unwrap_err();
        let input = Input::from_archive(&b"FROM b\n"[..], None).unwrap();
        assert_eq!(input.text, "FROM b\n");
        Input::from_archive(&b""[..], None).unwrap_err();
    }
}
