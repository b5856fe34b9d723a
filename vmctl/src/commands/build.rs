//! `vmctl build`.

mod host;
mod input;

use std::collections::BTreeMap;
use std::env;
use std::sync::Arc;

use clap::Args;
use image::{BuildOptions, Reference};
use log::LevelFilter;

use self::host::Host;
use self::input::Input;
use super::container::values::amounts;
use super::container::{Pull, engine};
use super::stores;
use crate::errors::CliError;
use crate::errors::containers::ContainerError;
use crate::format::human;
use crate::output;

/// Build an image from a Dockerfile.
///
/// Each RUN is a container, and so a virtual machine, of its own. Steps whose outcome is known from
/// an earlier build aren't done again.
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub(crate) struct BuildArgs {
    /// Name and optionally a tag for the image; may be given several times.
    #[arg(long = "tag", short, value_name = "NAME[:TAG]")]
    tags: Vec<String>,

    /// Name of the Dockerfile; - for standard input. DIR/Dockerfile unless said.
    #[arg(long, short, value_name = "FILE")]
    file: Option<String>,

    /// Set an ARG of the Dockerfile; without a value, to the variable of the same name.
    #[arg(long = "build-arg", value_name = "NAME[=VALUE]")]
    build_args: Vec<String>,

    /// Set a label of the image.
    #[arg(long = "label", value_name = "NAME[=VALUE]")]
    labels: Vec<String>,

    /// Build up to this stage, by its name or number.
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,

    /// Do every step anew.
    #[arg(long)]
    no_cache: bool,

    /// Look for newer versions of images that FROM names.
    #[arg(long)]
    pull: bool,

    /// Print the image's ID only.
    #[arg(long, short)]
    quiet: bool,

    /// The platform of images that FROM names.
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<String>,

    /// Memory of each RUN.
    #[arg(long, short, value_name = "SIZE", value_parser = amounts::bytes)]
    memory: Option<u64>,

    /// The build context: a directory, or - for a tar archive (or a Dockerfile) on standard input.
    #[arg(value_name = "DIR|-")]
    context: String,
}

/// Builds an image.
pub(crate) fn run(args: &BuildArgs, level: LevelFilter) -> Result<u8, CliError> {
    let tags = args.tags.iter().map(|tag| tag.parse().map_err(image::ImageError::from));
    let tags: Vec<Reference> = tags.collect::<Result<_, _>>().map_err(ContainerError::from)?;
    let engine = Arc::new(engine(level)?);
    let images = stores::images(&engine)?;
    let input = Input::read(&args.context, args.file.as_deref())?;
    let options = BuildOptions {
        name: input.name,
        text: input.text,
        context: input.context,
        ignore_file: input.ignore_file,
        build_args: build_args(&args.build_args)?,
        target: args.target.clone(),
        no_cache: args.no_cache,
        platform: args.platform.clone(),
        labels: args.labels.iter().map(|label| split(label)).collect(),
        tags: tags.clone(),
    };
    let pull = if args.pull { Pull::Always } else { Pull::Missing };
    let mut host = Host::new(Arc::clone(&engine), pull, args.quiet, args.memory, input.directory)?;
    let image = images.build(&options, &mut host).map_err(|error| {
        host.show_output();
        ContainerError::from(Box::new(error))
    })?;
    for tag in &tags {
        engine.emit("image", "tag", &image.id, [("name", tag.familiar())]);
    }
    if args.quiet {
        output::print(&format!("{}\n", image.id))?;
        return Ok(api::exit::STOPPED);
    }
    let mut text = format!("Successfully built {}\n", human::short_id(&image.id));
    for tag in tags {
        text += &format!("Successfully tagged {}\n", tag.familiar());
    }
    output::print(&text)?;
    Ok(api::exit::STOPPED)
}

fn split(text: &str) -> (String, String) {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    (name.to_owned(), value.to_owned())
}

fn build_args(words: &[String]) -> Result<BTreeMap<String, String>, ContainerError> {
    let mut arguments = BTreeMap::new();
    for word in words {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            // As in Docker, a variable that isn't set leaves the argument to its default.
            None => (word.as_str(), env::var(word).ok()),
        };
        if name.is_empty() {
            return Err(ContainerError::options(format!("--build-arg {word}: there's no name")));
        }
        if let Some(value) = value {
            arguments.insert(name.to_owned(), value);
        }
    }
    Ok(arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn build_arguments_have_names_and_values_or_the_environments() {
        let words = ["A=1", "B=", "C=x=y", "PATH", "VMCTL_NONE_SUCH"].map(str::to_owned);
        let arguments = build_args(&words).unwrap();
        assert_eq!(arguments["A"], "1");
        assert_eq!(arguments["B"], "");
        assert_eq!(arguments["C"], "x=y");
        assert_eq!(arguments.get("PATH"), env::var("PATH").ok().as_ref());
        assert!(!arguments.contains_key("VMCTL_NONE_SUCH"));
        build_args(&["=x".to_owned()]).unwrap_err();
    }
}
