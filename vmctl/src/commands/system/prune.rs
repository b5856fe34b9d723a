//! `vmctl system prune`.

use clap::Args;
use runtime::Engine;

use crate::commands::{confirm, image, network};
use crate::errors::CliError;
use crate::errors::containers::ContainerError;
use crate::format::filters::Filters;
use crate::format::human;
use crate::output;

/// Remove unused data.
///
/// That's all stopped containers, all networks that no container is on, images without a name,
/// and warm templates, which are made again when they're needed.
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub(super) struct PruneArgs {
    /// Remove all unused images not just dangling ones.
    #[arg(long, short)]
    all: bool,

    /// Do not prompt for confirmation.
    #[arg(long, short)]
    force: bool,

    /// Prune anonymous volumes.
    #[arg(long)]
    volumes: bool,

    /// Provide filter values: until=TIME, label=NAME[=VALUE], label!=NAME[=VALUE].
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,
}

pub(super) fn run(engine: &Engine, args: &PruneArgs) -> Result<u8, CliError> {
    let filters =
        Filters::parse(&args.filter, &image::PRUNE_FILTERS).map_err(ContainerError::from)?;
    if args.volumes && filters.has("until") {
        return Err(ContainerError::options("--volumes has no filter until=").into());
    }
    if !args.force && !confirm(&warning(args))? {
        return Ok(api::exit::STOPPED);
    }
    // Each of them may free what comes after.
    let containers = engine.prune(filters.values()).map_err(ContainerError::from)?;
    let mut freed = containers.freed_bytes;
    print_names("Deleted Containers:", &containers.removed)?;
    print_names("Deleted Networks:", &network::remove_unused(engine, &filters)?)?;
    if args.volumes {
        let volumes = engine.prune_volumes(false).map_err(ContainerError::from)?;
        freed += volumes.freed_bytes;
        print_names("Deleted Volumes:", &volumes.removed)?;
    }
    let images = image::remove_unused(engine, args.all, &filters)?;
    freed += images.freed_bytes;
    output::print(&image::pruned_text(&images))?;
    let templates = engine.prune_templates().map_err(ContainerError::from)?;
    freed += templates.freed_bytes;
    print_names("Deleted Templates:", &templates.removed)?;
    output::print(&format!("Total reclaimed space: {}\n", human::size(freed)))?;
    Ok(api::exit::STOPPED)
}

fn print_names(title: &str, names: &[String]) -> Result<(), CliError> {
    if names.is_empty() {
        return Ok(());
    }
    output::print(&format!("{title}\n{}\n\n", names.join("\n")))
}

/// What's about to be removed.
fn warning(args: &PruneArgs) -> String {
    let mut things =
        vec!["all stopped containers", "all networks not used by at least one container"];
    if args.volumes {
        things.push("all anonymous volumes not used by at least one container");
    }
    things.push(if args.all {
        "all images without at least one container associated to them"
    } else {
        "all dangling images"
    });
    things.push("all warm templates");
    let mut text = format!("This will remove:\n  - {}\n", things.join("\n  - "));
    if !args.filter.is_empty() {
        text += &format!(
            "\n  Items to be pruned will be filtered with:\n  - {}\n",
            args.filter.join("\n  - ")
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warning_says_what_the_flags_add() {
        let args = PruneArgs { all: false, force: false, volumes: false, filter: Vec::new() };
        let text = warning(&args);
        assert!(text.contains("- all dangling images\n") && !text.contains("volumes"), "{text}");
        let filter = vec!["label=a".to_owned()];
        let text = warning(&PruneArgs { all: true, volumes: true, filter, ..args });
        assert!(text.contains("- all anonymous volumes"), "{text}");
        assert!(text.contains("- all images without") && text.contains("- label=a\n"), "{text}");
    }
}
