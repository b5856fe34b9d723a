//! Which image a step has led to before.
//!
//! `builds/KEY` in the store's directory holds an image's identifier, and a word if the image is more
//! than a step: a whole build's. An entry is whole or not there
//! (it's renamed into its place), says nothing that can't be found out again, and is dropped when
//! its image is gone: so no lock is needed, and nothing is lost with it.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::PathBuf;

use sha2::{Digest, Sha256};

use crate::{Image, ImageError, Images};

/// What a step depends on: the steps before, its text, the files that it reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key([u8; 32]);

impl Key {
    /// What `base` begins with: an image's identifier, or nothing.
    pub(super) fn of_base(base: Option<&str>) -> Self {
        // A prefix that changes with what steps make of the same text.
        Self([0; 32]).with(&[b"vmctl build 1", base.unwrap_or_default().as_bytes()])
    }

    /// The next step's.
    pub(super) fn with(&self, parts: &[&[u8]]) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(self.0);
        for part in parts {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        Self(hasher.finalize().into())
    }

    fn name(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The entries of a store.
#[derive(Debug)]
pub(super) struct Cache<'a> {
    images: &'a Images,
    directory: PathBuf,
}

impl<'a> Cache<'a> {
    pub(super) fn open(images: &'a Images) -> Self {
        Self { images, directory: images.directory().join("builds") }
    }

    /// Finds a step's image, if it's still there.
    pub(super) fn find(&self, key: &Key) -> Option<Image> {
        let path = self.directory.join(key.name());
        let text = fs::read_to_string(&path).ok()?;
        let id = text.split(' ').next()?;
        match self.images.find(id) {
            Ok(found) if found.image.id == id => Some(found.image),
            Ok(_) | Err(ImageError::NotFound { .. }) => {
                // Whether it goes or not: it leads nowhere.
                let _ = fs::remove_file(path);
                None
            }
            Err(_) => None,
        }
    }

    /// Notes a step's image. A cache that can't be written costs time later, nothing else.
    pub(super) fn insert(&self, key: &Key, image_id: &str) {
        self.write(key, image_id);
    }

    /// Notes the image that a whole build made.
    pub(super) fn insert_whole(&self, key: &Key, image_id: &str) {
        self.write(key, &format!("{image_id} whole"));
    }

    fn write(&self, key: &Key, text: &str) {
        let written = fs::create_dir_all(&self.directory).and_then(|()| {
            let mut file = tempfile::NamedTempFile::new_in(&self.directory)?;
            file.write_all(text.as_bytes())?;
            file.persist(self.directory.join(key.name())).map_err(|error| error.error)
        });
        drop(written);
    }

    /// All images that steps led to, whole builds' left out.
    pub(super) fn image_ids(&self) -> BTreeSet<String> {
        let Ok(entries) = fs::read_dir(&self.directory) else { return BTreeSet::new() };
        let read = entries.flatten().filter_map(|entry| fs::read_to_string(entry.path()).ok());
        read.filter(|id| !id.is_empty() && !id.contains(' ')).collect()
    }
}
