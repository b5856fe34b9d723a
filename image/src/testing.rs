//! What the tests share: stores of their own, archives, what's in a root file system.

pub(crate) mod registry;

use std::fs::File;
use std::io::{Cursor, Read, Seek, Write};
use std::path::PathBuf;
use std::time::Duration;

use erofs::{ConcatSource, Reader};
use tempfile::TempDir;

use crate::registry::Timing;
use crate::{Image, ImageConfig, Images, NewImage, Reference};

/// A store that's gone with it.
pub(crate) struct Store {
    pub(crate) images: Images,
    pub(crate) directory: TempDir,
}

impl std::ops::Deref for Store {
    type Target = Images;

    fn deref(&self) -> &Images {
        &self.images
    }
}

impl Store {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut images = Images::open(directory.path()).unwrap();
        // Long enough for a busy machine, short enough to wait for.
        let second = Duration::from_secs(1);
        let backoff = Duration::from_millis(1);
        images.timing =
            Timing { connect: second, read: second, document: second, backoff, attempts: 3 };
        Self { images, directory }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join("images").join(name)
    }

    /// Makes an image of layers of files.
    pub(crate) fn make(&self, tag: &str, layers: &[&[(&str, &str)]]) -> Image {
        let image = NewImage {
            layers: layers.iter().map(|files| file_of(&archive(files))).collect(),
            config: config(),
            tags: if tag.is_empty() { Vec::new() } else { vec![name(tag)] },
            ..NewImage::default()
        };
        self.images.add(image).unwrap()
    }

    /// Names of files in the store's directories.
    pub(crate) fn files(&self) -> Vec<String> {
        let mut names = Vec::new();
        for directory in ["blobs/sha256", "erofs", "roots", "partial", "tmp"] {
            for entry in self.path(directory).read_dir().unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                names.push(format!("{directory}/{name}"));
            }
        }
        names.sort();
        names
    }

    /// A file of an image's root file system, as the guest sees it.
    pub(crate) fn read(&self, image: &Image, path: &str) -> Option<String> {
        let root = self.images.root_files(&image.id).unwrap();
        let files = root.files.iter().map(|it| File::open(it).unwrap());
        let reader = Reader::open(ConcatSource::new(files).unwrap()).unwrap();
        let inode = reader.resolve(path.as_bytes(), false).unwrap()?;
        let mut text = String::new();
        reader.open_file(&inode).unwrap().read_to_string(&mut text).unwrap();
        Some(text)
    }
}

pub(crate) fn name(text: &str) -> Reference {
    text.parse().unwrap()
}

pub(crate) fn config() -> ImageConfig {
    ImageConfig {
        architecture: crate::Platform::host().architecture,
        os: "linux".to_owned(),
        created: Some("2026-01-02T03:04:05Z".to_owned()),
        config: serde_json::json!({ "Cmd": ["/bin/true"] }),
        ..ImageConfig::default()
    }
}

/// An archive of files.
pub(crate) fn archive(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, data) in files {
        let mut header = tar::Header::new_ustar();
        // The crate refuses what a hostile archive has.
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append(&header, data.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

pub(crate) fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    file
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    let level = ruzstd::encoding::CompressionLevel::Fastest;
    ruzstd::encoding::compress_to_vec(Cursor::new(bytes), level)
}
