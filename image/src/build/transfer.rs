//! `COPY`, `ADD` and `WORKDIR`: the layers that files make.

use std::fs::File;
use std::io;

use super::context::Context;
use super::error::{BuildError, Place};
use super::layer::{Destination, Finished, Layer, as_archive};
use super::owner;
use super::parse::{Source, Transfer};
use super::stage::Stage;
use super::tree::{self, Kind, Tree};

/// What an `ADD` may not name.
const URLS: [&str; 5] = ["http://", "https://", "ftp://", "git://", "git@"];

/// Where a transfer's files come from.
pub(super) enum Origin<'a> {
    Context(&'a Context),
    /// Another stage's image, or an image of the store.
    Image(&'a dyn Tree),
}

impl Origin<'_> {
    fn tree(&self) -> &dyn Tree {
        match self {
            Self::Context(context) => *context,
            Self::Image(tree) => *tree,
        }
    }

    /// Finds the files that a pattern names.
    fn find(&self, pattern: &str, place: &Place) -> Result<Vec<String>, BuildError> {
        if let Self::Context(_) = self
            && leads_out(pattern)
        {
            return Err(place.wrong(format!("{pattern} leads out of the build context")));
        }
        let found = tree::matches(self.tree(), pattern);
        let found = found.map_err(|error| place.wrong(format!("{pattern}: {error}")))?;
        match self {
            _ if !found.is_empty() => Ok(found),
            Self::Context(context) if context.hides(pattern) => {
                Err(place.wrong(format!("{pattern} is excluded by .dockerignore")))
            }
            Self::Context(_) => Err(place.wrong(format!("{pattern} isn't in the build context"))),
            Self::Image(_) => Err(place.wrong(format!("{pattern} isn't in the image"))),
        }
    }
}

/// Tells whether a path climbs above where it begins.
fn leads_out(path: &str) -> bool {
    let mut depth = 0_usize;
    path.split('/').any(|part| {
        match part {
            "" | "." => {}
            ".." if depth == 0 => return true,
            ".." => depth -= 1,
            _ => depth += 1,
        }
        false
    })
}

/// A transfer that's carried out.
pub(super) struct Job<'a> {
    pub(super) stage: &'a Stage,
    /// The stage's files so far.
    pub(super) image: &'a dyn Tree,
    pub(super) place: &'a Place,
    /// `ADD` unpacks archives.
    pub(super) unpacks: bool,
}

impl Job<'_> {
    fn failed(&self, what: &str) -> impl Fn(io::Error) -> BuildError {
        move |error| self.place.wrong(format!("{what}: {error}"))
    }

    /// Makes the layer in `file`.
    ///
    /// # Errors
    /// A source isn't there or can't be read, or the destination can't be.
    pub(super) fn make(
        &self,
        transfer: &Transfer,
        origin: &Origin<'_>,
        file: File,
    ) -> Result<Finished, BuildError> {
        let mut sources = Vec::new();
        for source in &transfer.sources {
            match source {
                Source::Pattern(word) => {
                    let pattern = self.stage.named(word, "a source", self.place)?;
                    self.refuse_url(&pattern)?;
                    sources.extend(origin.find(&pattern, self.place)?.into_iter().map(Ok));
                }
                Source::Document(document) => sources.push(Err(document)),
            }
        }
        let destination = self.destination(transfer, sources.len())?;
        let mut layer = Layer::new(file);
        for source in sources {
            match source {
                Ok(path) => self.copy_one(&destination, &mut layer, origin, &path)?,
                Err(document) => {
                    let content = match document.expand {
                        true => self.stage.expand_document(&document.content, self.place)?,
                        false => document.content.clone(),
                    };
                    let written = destination.document(&mut layer, &document.name, &content);
                    written.map_err(self.failed(&document.name))?;
                }
            }
        }
        layer.finish().map_err(self.failed("the layer can't be written"))
    }

    fn refuse_url(&self, source: &str) -> Result<(), BuildError> {
        let is_url = URLS.iter().any(|scheme| source.starts_with(scheme));
        match self.unpacks && is_url {
            true => Err(self.place.wrong(
                "ADD doesn't fetch URLs: what they hold changes unseen, so that no cache and no \
                 rebuild could be trusted; fetch the file into the context, or by RUN and a checksum",
            )),
            false => Ok(()),
        }
    }

    fn copy_one(
        &self,
        destination: &Destination<'_>,
        layer: &mut Layer,
        origin: &Origin<'_>,
        source: &str,
    ) -> Result<(), BuildError> {
        let shown = if source.is_empty() { "." } else { source };
        let failed = self.failed(shown);
        if self.unpacks {
            let tree = origin.tree();
            let path = tree::resolve(tree, source).map_err(&failed)?;
            let meta = tree.meta(&path).map_err(&failed)?;
            if matches!(meta, Some(meta) if matches!(meta.kind, Kind::File(_))) {
                let content = tree.open(&path).map_err(&failed)?;
                if let Ok(mut archive) = as_archive(content).map_err(&failed)? {
                    return destination.unpack(layer, &mut archive).map_err(&failed);
                }
            }
        }
        destination.copy(layer, origin.tree(), source).map_err(failed)
    }

    fn destination(
        &self,
        transfer: &Transfer,
        sources: usize,
    ) -> Result<Destination<'_>, BuildError> {
        let text = self.stage.named(&transfer.destination, "the destination", self.place)?;
        let absolute = self.stage.config.absolute(&text);
        let path = tree::resolve(self.image, &absolute).map_err(self.failed(&text))?;
        let there = self.image.meta(&path).map_err(self.failed(&text))?;
        let is_directory = matches!(text.rsplit('/').next(), Some("" | "." | ".."))
            || there.is_some_and(|meta| meta.kind == Kind::Directory);
        if sources > 1 && !is_directory {
            return Err(self.place.wrong(format!(
                "several files are copied: the destination {text} must be a directory and end with /"
            )));
        }
        let expand = |word: &Option<String>| match word {
            Some(word) => self.stage.expand(word, self.place).map(Some),
            None => Ok(None),
        };
        let wrong = |problem| self.place.wrong(problem);
        let owner = match expand(&transfer.chown)? {
            Some(owner) => Some(owner::parse_owner(&owner, self.image).map_err(wrong)?),
            None => None,
        };
        let mode = match expand(&transfer.chmod)? {
            Some(mode) => Some(owner::parse_mode(&mode).map_err(wrong)?),
            None => None,
        };
        Ok(Destination { image: self.image, path, is_directory, owner, mode })
    }

    /// Makes a layer of the working directory, if the image has none there.
    ///
    /// # Errors
    /// There's something else at its path.
    pub(super) fn make_directory(&self, file: File) -> Result<Option<Finished>, BuildError> {
        let directory = self.stage.config.directory();
        let failed = self.failed(&directory);
        let path = tree::resolve(self.image, &directory).map_err(&failed)?;
        match self.image.meta(&path).map_err(&failed)? {
            Some(meta) if meta.kind == Kind::Directory => return Ok(None),
            Some(_) => return Err(self.place.wrong(format!("{directory} is no directory"))),
            None => {}
        }
        // As in Docker, it belongs to the user whose it's going to be.
        let owner = match self.stage.config.user() {
            user if user.is_empty() => None,
            user => {
                let owner = owner::parse_owner(&user, self.image);
                Some(owner.map_err(|problem| self.place.wrong(problem))?)
            }
        };
        let destination =
            Destination { image: self.image, path, is_directory: true, owner, mode: None };
        let mut layer = Layer::new(file);
        destination.make(&mut layer).map_err(&failed)?;
        layer.finish().map(Some).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_climb_above_their_beginning_lead_out() {
        for (path, out) in [
            ("..", true),
            ("../x", true),
            ("a/../../x", true),
            ("/../x", true),
            ("a/../x", false),
            ("a/..", false),
            ("..x/y", false),
            (".", false),
        ] {
            assert_eq!(leads_out(path), out, "{path}");
        }
    }
}
