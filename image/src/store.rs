//! The store: one for each data root, used by several processes at once.

pub(crate) mod add;
pub(crate) mod catalog;
mod removal;
pub(crate) mod roots;
#[cfg(test)]
mod tests;

use std::io::{Read, Write};
use std::path::Path;

use erofs::Limits;

use crate::db::Db;
use crate::files::Layout;
use crate::registry::Timing;
use crate::{
    Found, Image, ImageError, NewImage, Progress, PullOptions, Pulled, PushOptions, Reference,
    Removal, RootFiles, StoreUsage,
};

/// The images of a data root. It keeps nothing in memory: several processes may have one at once.
#[derive(Debug)]
pub struct Images {
    pub(crate) layout: Layout,
    pub(crate) limits: Limits,
    pub(crate) timing: Timing,
}

/// The largest archive of a layer, in bytes: what is more than that is a bomb, not an image. Zeros
/// take no room on the disk, so that nothing else stops them.
const MAX_ARCHIVE: u64 = 256 << 30;

impl Images {
    /// Opens the store in `DATA/images`, and makes it if it isn't there.
    ///
    /// # Errors
    /// A directory can't be made, or the database is another version's or damaged.
    pub fn open(data_root: &Path) -> Result<Self, ImageError> {
        let layout = Layout::open(data_root.join("images"))?;
        Db::open(&layout)?;
        let limits = Limits { archive_bytes: MAX_ARCHIVE, ..Limits::default() };
        Ok(Self { layout, limits, timing: Timing::default() })
    }

    /// Where the store's files are.
    pub(crate) fn directory(&self) -> &Path {
        self.layout.directory()
    }

    /// Finds an image by a name, its identifier (with or without `sha256:`), or the beginning of
    /// that.
    ///
    /// # Errors
    /// There's none, or several.
    pub fn find(&self, reference: &str) -> Result<Found, ImageError> {
        catalog::find(self, reference)
    }

    /// All images, the newest first.
    ///
    /// # Errors
    /// The database can't be read.
    pub fn list(&self) -> Result<Vec<Image>, ImageError> {
        catalog::list(self)
    }

    /// Fetches an image. What's there already isn't fetched again.
    ///
    /// # Errors
    /// The registry hasn't got it, refuses access, can't be reached, or what came is no image.
    pub fn pull(
        &self,
        reference: &Reference,
        options: &PullOptions,
        progress: &dyn Progress,
    ) -> Result<Pulled, ImageError> {
        crate::pull::pull(self, reference, options, progress)
    }

    /// Sends an image; returns the manifest's digest and size in bytes.
    ///
    /// # Errors
    /// The image isn't there, or the registry refuses access or can't be reached.
    pub fn push(
        &self,
        reference: &Reference,
        options: &PushOptions,
        progress: &dyn Progress,
    ) -> Result<(String, u64), ImageError> {
        crate::push::push(self, reference, options, progress)
    }

    /// Checks credentials with a registry, and keeps them as `docker login` does.
    ///
    /// # Errors
    /// The registry refuses them or can't be reached, or they can't be kept.
    pub fn login(
        &self,
        registry: &str,
        user: &str,
        password: &str,
        insecure: bool,
    ) -> Result<(), ImageError> {
        crate::push::login(self, registry, user, password, insecure)
    }

    /// Forgets credentials; false if there were none.
    ///
    /// # Errors
    /// The file can't be changed.
    pub fn logout(&self, registry: &str) -> Result<bool, ImageError> {
        crate::push::logout(registry)
    }

    /// Gives an image another name. One that another image has is taken from it.
    ///
    /// # Errors
    /// There's no such image, or the name has a digest.
    pub fn tag(&self, source: &str, name: &Reference) -> Result<(), ImageError> {
        catalog::tag(self, source, name)
    }

    /// Removes a name, and the image with its last one. `user` says which container (its short
    /// identifier) uses an image's identifier: without `force` such an image is kept.
    ///
    /// # Errors
    /// There's no such image, or it's in use.
    pub fn remove(
        &self,
        reference: &str,
        force: bool,
        user: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Removal, ImageError> {
        removal::remove(self, reference, force, user)
    }

    /// Removes images without a name, with `all` every one that isn't used and fits `wanted`, and
    /// all files that nothing needs.
    ///
    /// # Errors
    /// A file can't be removed.
    pub fn prune(
        &self,
        all: bool,
        wanted: &dyn Fn(&Image) -> bool,
        user: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Removal, ImageError> {
        removal::prune(self, all, wanted, user)
    }

    /// Writes images as a `docker save` archive that's an OCI layout, too.
    ///
    /// # Errors
    /// There's no such image, or it can't be written.
    pub fn save(&self, references: &[String], out: &mut dyn Write) -> Result<(), ImageError> {
        crate::archive::save(self, references, out)
    }

    /// Reads images from an archive of `docker save`, `podman save` or an OCI layout, compressed by
    /// gzip or zstd or not; returns them with the names they have got.
    ///
    /// # Errors
    /// It's none, or damaged.
    pub fn load(
        &self,
        archive: &mut dyn Read,
        progress: &dyn Progress,
    ) -> Result<Vec<Found>, ImageError> {
        crate::archive::load(self, archive, progress)
    }

    /// Reads images from the directory of an OCI layout (`index.json`, `blobs/sha256/…`); returns them
    /// with the names they have got.
    ///
    /// # Errors
    /// It's none, or damaged.
    pub fn load_directory(&self, directory: &Path) -> Result<Vec<Found>, ImageError> {
        crate::archive::load_directory(self, directory)
    }

    /// Makes an image; what's interrupted leaves nothing.
    ///
    /// # Errors
    /// The base isn't there, or a layer is no archive or a hostile one.
    pub fn add(&self, image: NewImage) -> Result<Image, ImageError> {
        add::add(self, image)
    }

    /// Sees that the image's root file system is there, made again if it was damaged, and returns
    /// its files. They stay for as long as the image does.
    ///
    /// # Errors
    /// There's no such image, or its layers are damaged.
    pub fn root_files(&self, image_id: &str) -> Result<RootFiles, ImageError> {
        roots::root_files(self, image_id)
    }

    /// What the store uses on disk.
    ///
    /// # Errors
    /// A directory can't be read.
    pub fn usage(&self) -> Result<StoreUsage, ImageError> {
        let images = Db::open(&self.layout)?.read(|db| crate::db::count_images(db))?;
        Ok(StoreUsage { images, size_bytes: self.layout.used_bytes()? })
    }
}
