//! Container images: references, registries, the store, root file systems, builds.
//!
//! ```text
//! DATA/images/  blobs/sha256/…   the OCI layout's: manifests, configurations, compressed layers
//!               erofs/…          a file system for each layer, by its diff ID
//!               roots/…          an image's merged metadata, by its layers
//!               images.db        names, images, layers, which need which
//!               partial/…, tmp/… what's on its way
//!               lock             shared by who adds files, alone for who removes some
//! ```

mod archive;
mod build;
mod db;
mod digest;
mod error;
mod files;
mod layer;
mod manifest;
mod options;
mod pull;
mod push;
mod reference;
mod registry;
mod store;
#[cfg(test)]
mod testing;

pub use build::{
    BuildError, BuildHost, BuildOptions, HostError, Place, RunOutcome, RunRequest, Script,
    change_config, read_dockerfile, unpack_context,
};
pub use error::ImageError;
pub use options::{
    Found, HistoryEntry, Image, ImageConfig, NewImage, Progress, PullOptions, Pulled, PushOptions,
    Removal, RootFiles, RootFs, Silent, StoreUsage,
};
pub use reference::{Platform, Reference, ReferenceError};
pub use store::Images;
