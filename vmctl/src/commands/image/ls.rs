//! `vmctl images`.

mod pattern;
#[cfg(test)]
pub(super) mod tests;

use std::time::SystemTime;

use clap::Args;
use image::{Image, Images, Reference};
use serde_json::json;

use super::inspect::labels;
use super::prune::until;
use crate::commands::container::values::times;
use crate::errors::CliError;
use crate::errors::containers::ContainerError;
use crate::format::filters::Filters;
use crate::format::{Columns, Row, human};
use crate::output;

/// What's shown in place of a name that there isn't.
const NONE: &str = "<none>";

/// The filters that there are.
const FILTERS: [&str; 7] = ["dangling", "label", "label!", "before", "since", "until", "reference"];

const COLUMNS: Columns = Columns {
    table: "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}",
    titles: &[
        ("Repository", "REPOSITORY"),
        ("Tag", "TAG"),
        ("Digest", "DIGEST"),
        ("ID", "IMAGE ID"),
        ("CreatedSince", "CREATED"),
        ("CreatedAt", "CREATED AT"),
        ("Size", "SIZE"),
    ],
};

const WITH_DIGESTS: Columns = Columns {
    table: "{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}",
    ..COLUMNS
};

/// List images.
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub(crate) struct LsArgs {
    /// Show all images: those of builds' steps, too.
    #[arg(long, short)]
    all: bool,

    /// Show digests.
    #[arg(long)]
    digests: bool,

    /// Filter output: dangling, label, before, since, until, reference, each =VALUE.
    #[arg(long, short, value_name = "FILTER")]
    filter: Vec<String>,

    /// Format output: table, table TEMPLATE, json, or a Go template.
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,

    /// Don't truncate output.
    #[arg(long)]
    no_trunc: bool,

    /// Only show image IDs.
    #[arg(long, short)]
    quiet: bool,

    /// Only images of this name; * and ? stand for letters.
    #[arg(value_name = "REPOSITORY[:TAG]")]
    name: Option<String>,
}

/// An image under one of its names.
#[derive(Debug, PartialEq)]
struct Line<'a> {
    image: &'a Image,
    repository: String,
    tag: String,
    digest: String,
}

pub(super) fn run(images: &Images, args: &LsArgs) -> Result<u8, CliError> {
    let mut filters = Filters::parse(&args.filter, &FILTERS).map_err(ContainerError::from)?;
    if let Some(name) = &args.name {
        filters.add("reference", name);
    }
    let mut listed = images.list().map_err(ContainerError::from)?;
    if !args.all {
        let steps = images.build_steps();
        listed.retain(|image| !image.tags.is_empty() || !steps.contains(&image.id));
    }
    let wanted = Wanted::new(images, &filters)?;
    listed.retain(|image| wanted.fits(image));
    let lines: Vec<_> = listed.iter().flat_map(|image| lines(image, &filters)).collect();
    if args.quiet && args.format.is_none() {
        let mut ids: Vec<_> = lines.iter().map(|line| id(line.image, args.no_trunc)).collect();
        ids.dedup();
        let text: String = ids.iter().map(|id| format!("{id}\n")).collect();
        output::print(&text)?;
        return Ok(api::exit::STOPPED);
    }
    let now = SystemTime::now();
    let rows: Vec<_> = lines.iter().map(|line| row(line, args.no_trunc, now)).collect();
    let columns = if args.digests { WITH_DIGESTS } else { COLUMNS };
    let text = columns.render(&rows, args.format.as_deref()).map_err(ContainerError::from)?;
    output::print(&text)?;
    Ok(api::exit::STOPPED)
}

/// Which images are listed.
struct Wanted<'a> {
    filters: &'a Filters,
    dangling: Option<bool>,
    before: Option<SystemTime>,
    since: Option<SystemTime>,
}

impl<'a> Wanted<'a> {
    fn new(images: &Images, filters: &'a Filters) -> Result<Self, ContainerError> {
        let created = |name| match filters.get(name).last() {
            Some(reference) => Ok(images.find(reference)?.image.created),
            None => Ok::<_, ContainerError>(None),
        };
        let until = until(filters)?;
        let before = created("before")?;
        Ok(Self {
            filters,
            dangling: filters.truth("dangling")?,
            before: before.into_iter().chain(until).min(),
            since: created("since")?,
        })
    }

    fn fits(&self, image: &Image) -> bool {
        let is_dangling = image.tags.is_empty();
        self.dangling.is_none_or(|wanted| wanted == is_dangling)
            && self.before.is_none_or(|before| image.created.is_some_and(|it| it < before))
            && self.since.is_none_or(|since| image.created.is_some_and(|it| it > since))
            && self.filters.fits_labels(&labels(image))
    }
}

/// An image's lines: one for each tag, or one for each repository that it was pulled from without
/// one, or one.
fn lines<'a>(image: &'a Image, filters: &Filters) -> Vec<Line<'a>> {
    let fits = |name: &&Reference| {
        filters.fits("reference", |pattern| {
            pattern::fits(pattern, &name.familiar())
                || pattern::fits(pattern, &name.familiar_name())
        })
    };
    let line = |repository: &str, tag: &str, digest: &str| Line {
        image,
        repository: repository.to_owned(),
        tag: tag.to_owned(),
        digest: digest.to_owned(),
    };
    let digest_in = |repository: &str| {
        let of = |name: &&Reference| name.familiar_name() == repository;
        image.digests.iter().find(of).and_then(Reference::digest).unwrap_or(NONE)
    };
    let mut lines: Vec<_> = image
        .tags
        .iter()
        .filter(fits)
        .map(|name| {
            let repository = name.familiar_name();
            line(&repository, name.tag().unwrap_or(NONE), digest_in(&repository))
        })
        .collect();
    if image.tags.is_empty() {
        let digests = image.digests.iter().filter(fits);
        lines.extend(
            digests.map(|name| line(&name.familiar_name(), NONE, name.digest().unwrap_or(NONE))),
        );
        if image.digests.is_empty() && !filters.has("reference") {
            lines.push(line(NONE, NONE, NONE));
        }
    }
    lines
}

fn id(image: &Image, whole: bool) -> &str {
    if whole { &image.id } else { human::short_id(&image.id) }
}

fn row(line: &Line<'_>, whole: bool, now: SystemTime) -> Row {
    let image = line.image;
    let since = image.created.map_or("N/A".to_owned(), |created| human::ago(created, now));
    json!({
        "Repository": line.repository,
        "Tag": line.tag,
        "Digest": line.digest,
        "ID": id(image, whole),
        "CreatedSince": since,
        "CreatedAt": image.created.map_or("N/A".to_owned(), times::stamp),
        "Size": human::size(image.size_bytes),
    })
}
