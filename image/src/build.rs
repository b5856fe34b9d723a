//! Builds: an image made as a Dockerfile says.
//!
//! ```text
//! Dockerfile ──parse──▶ stages ──plan──▶ those that the target needs, in order
//!                                          │ each instruction:
//!                          changes the configuration, or makes a layer ──▶ an image of the store
//! ```
//!
//! Each layer makes an image without a name: what `RUN` runs in, what `COPY --from` reads, and what
//! the next build finds in the cache. The Dockerfile, the context and the images are untrusted.

mod cache;
mod changes;
mod config;
mod context;
mod disk;
mod error;
mod ignore;
mod layer;
mod options;
mod owner;
mod parse;
mod plan;
mod run;
mod stage;
#[cfg(test)]
mod testing;
mod transfer;
mod tree;
mod variables;
mod words;

pub use changes::change_config;
pub use context::{read_dockerfile, unpack_context};
pub use error::{BuildError, Place};
pub use options::{BuildHost, BuildOptions, HostError, RunOutcome, RunRequest, Script};

use std::collections::BTreeSet;

use crate::{Image, Images};

impl Images {
    /// Makes an image as a Dockerfile says, and gives it its names.
    ///
    /// # Errors
    /// The Dockerfile is wrong, a file that it names isn't there, a command fails, or the image can't
    /// be stored. Images of the steps before stay for the next try.
    pub fn build(
        &self,
        options: &BuildOptions,
        host: &mut dyn BuildHost,
    ) -> Result<Image, BuildError> {
        run::build(self, options, host)
    }

    /// Images that builds may go on from: those of them that have no name are there for nothing else.
    #[must_use]
    pub fn build_steps(&self) -> BTreeSet<String> {
        cache::Cache::open(self).image_ids()
    }
}
