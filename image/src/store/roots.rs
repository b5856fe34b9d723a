//! Images' root file systems.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use erofs::{MergeError, Reader};

use crate::db::{self, Db, ImageRecord};
use crate::digest::Hashing;
use crate::error::chain;
use crate::files::at;
use crate::layer::{LayerRecord, unpack};
use crate::{ImageError, Images, RootFiles, digest};

/// What merged metadata are known by: the layers, and how we merge.
pub(super) fn key(diff_ids: &[String]) -> String {
    let text = format!("vmctl root 1\n{}", diff_ids.join("\n"));
    digest::hex(&digest::of(text.as_bytes())).to_owned()
}

pub(super) fn root_files(images: &Images, image_id: &str) -> Result<RootFiles, ImageError> {
    let record = Db::open(&images.layout)?.read(|db| db::get_image(db, image_id))?;
    let not_found = || ImageError::NotFound { reference: image_id.to_owned() };
    let record = record.ok_or_else(not_found)?;
    if let Some(files) = present(images, &record.layers)? {
        return Ok(files);
    }
    // Nothing of what's made may be taken for unneeded meanwhile.
    let _lock = images.layout.lock()?;
    for layer in &record.layers {
        if file_system_bytes(&images.layout.erofs(&layer.diff_id))?.is_none() {
            restore(images, &record, layer)?;
        }
    }
    merge(images, &record.layers)
}

/// The files, if all are there and whole.
pub(super) fn present(
    images: &Images,
    layers: &[LayerRecord],
) -> Result<Option<RootFiles>, ImageError> {
    let files = paths(images, layers);
    let mut disk_bytes = 0;
    for path in &files.files[1..] {
        let Some(bytes) = file_system_bytes(path)? else { return Ok(None) };
        disk_bytes += bytes;
    }
    let root = &files.files[0];
    let is_whole = match File::open(root) {
        Ok(file) => {
            let bytes = file.metadata().map_err(at("read", root))?.len();
            Reader::open(file).is_ok_and(|reader| reader.len_bytes() == bytes + disk_bytes)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(at("open", root)(error)),
    };
    Ok(is_whole.then_some(files))
}

fn paths(images: &Images, layers: &[LayerRecord]) -> RootFiles {
    let diff_ids: Vec<_> = layers.iter().map(|it| it.diff_id.clone()).collect();
    let key = key(&diff_ids);
    let root = images.layout.root(&key);
    let layers = diff_ids.iter().map(|it| images.layout.erofs(it));
    RootFiles { files: std::iter::once(root).chain(layers).collect(), key }
}

/// The length of a layer's file system; none if it isn't there or isn't whole.
fn file_system_bytes(path: &Path) -> Result<Option<u64>, ImageError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(at("open", path)(error)),
    };
    let bytes = file.metadata().map_err(at("read", path))?.len();
    let is_whole = Reader::open(file).is_ok_and(|reader| reader.len_bytes() == bytes);
    Ok(is_whole.then_some(bytes))
}

/// Whether the store has a layer, its blob and its file system.
pub(crate) fn has_layer(images: &Images, layer: &LayerRecord) -> Result<bool, ImageError> {
    let blob = fs::metadata(images.layout.blob(&layer.blob));
    if !blob.is_ok_and(|it| it.len() == layer.blob_bytes) {
        return Ok(false);
    }
    Ok(file_system_bytes(&images.layout.erofs(&layer.diff_id))?.is_some())
}

/// Makes a layer's file system again, of its compressed blob.
fn restore(images: &Images, image: &ImageRecord, layer: &LayerRecord) -> Result<(), ImageError> {
    let path = images.layout.blob(&layer.blob);
    let damaged = |problem: String| ImageError::Invalid {
        what: format!("the store's image {}", digest::short(&image.id)),
        problem,
    };
    let file = File::open(&path).map_err(|error| {
        damaged(format!("its layer {} can't be read: {error}", digest::short(&layer.blob)))
    })?;
    let mut source = Hashing::new(file);
    let unpacked = unpack(&images.layout, &images.limits, &layer.blob, &mut source)?;
    let (_, found, _) = source.finish();
    if found != layer.blob || unpacked.diff_id != layer.diff_id {
        return Err(damaged(format!("its layer {} was changed", digest::short(&layer.blob))));
    }
    images.layout.keep(unpacked.file_system, &images.layout.erofs(&layer.diff_id))
}

/// Merges layers whose file systems are there. The store's lock is held.
pub(super) fn merge(images: &Images, layers: &[LayerRecord]) -> Result<RootFiles, ImageError> {
    let files = paths(images, layers);
    let open = |path: &PathBuf| File::open(path).map_err(at("open", path));
    let opened = files.files.iter().skip(1).map(open).collect::<Result<Vec<_>, _>>()?;
    let merged = images.layout.temporary()?;
    match erofs::merge_layers(&opened, merged.as_file(), &images.limits) {
        Ok(_) => {}
        Err(MergeError::Write(source)) => return Err(at("write", merged.path())(source)),
        Err(error) => {
            let what = "the image's root file system".to_owned();
            return Err(ImageError::Invalid { what, problem: chain(&error) });
        }
    }
    images.layout.keep(merged, &files.files[0])?;
    Ok(files)
}

/// Reads a small blob, and checks it.
pub(crate) fn read_blob(images: &Images, digest: &str) -> Result<Vec<u8>, ImageError> {
    let path = images.layout.blob(digest);
    let damaged = |problem: String| ImageError::Invalid {
        what: format!("the store's blob {}", digest::short(digest)),
        problem,
    };
    let mut bytes = Vec::new();
    let file = File::open(&path).map_err(|error| damaged(error.to_string()))?;
    let read = file.take(crate::manifest::MAX_DOCUMENT).read_to_end(&mut bytes);
    read.map_err(at("read", &path))?;
    if digest::of(&bytes) != digest {
        return Err(damaged("it was changed".to_owned()));
    }
    Ok(bytes)
}
