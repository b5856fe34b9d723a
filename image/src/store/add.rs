//! Makes images of archives.

use std::fs::File;
use std::io;

use super::{catalog, roots};
use crate::db::{self, Db, ImageRecord};
use crate::layer::{LayerRecord, pack};
use crate::manifest::{self, Descriptor};
use crate::{Image, ImageConfig, ImageError, Images, NewImage, Reference, RootFs, digest};

pub(super) fn add(images: &Images, image: NewImage) -> Result<Image, ImageError> {
    image.tags.iter().try_for_each(catalog::check_tag)?;
    let lock = images.layout.lock()?;
    let mut layers = match &image.base {
        Some(base) => base_layers(images, base)?,
        None => Vec::new(),
    };
    for (at, archive) in image.layers.into_iter().enumerate() {
        layers.push(pack_file(images, at, archive)?);
    }
    let config = finish_config(image.config, &layers);
    let raw_config = serde_json::to_vec(&config).map_err(|error| ImageError::Invalid {
        what: "the image's configuration".to_owned(),
        problem: error.to_string(),
    })?;
    let image = record(images, raw_config, layers, &image.tags)?;
    drop(lock);
    Ok(image)
}

fn base_layers(images: &Images, base: &str) -> Result<Vec<LayerRecord>, ImageError> {
    let record = Db::open(&images.layout)?.read(|db| db::get_image(db, base))?;
    let not_found = || ImageError::NotFound { reference: base.to_owned() };
    Ok(record.ok_or_else(not_found)?.layers)
}

fn pack_file(images: &Images, at: usize, archive: File) -> Result<LayerRecord, ImageError> {
    let what = format!("new layer {}", at + 1);
    let mut archive = io::BufReader::with_capacity(64 << 10, archive);
    pack(&images.layout, &images.limits, &what, &mut archive)
}

/// Fills in what the layers say.
fn finish_config(mut config: ImageConfig, layers: &[LayerRecord]) -> ImageConfig {
    let diff_ids = layers.iter().map(|it| it.diff_id.clone()).collect();
    config.rootfs = RootFs { kind: "layers".to_owned(), diff_ids };
    if config.config.is_null() {
        config.config = serde_json::Value::Object(serde_json::Map::new());
    }
    config
}

/// Writes the manifest of an image whose layers are in the store, merges them, and makes the
/// database know it all. The store's lock is held.
pub(crate) fn record(
    images: &Images,
    raw_config: Vec<u8>,
    layers: Vec<LayerRecord>,
    names: &[Reference],
) -> Result<Image, ImageError> {
    let descriptors =
        layers.iter().map(|it| Descriptor::new(&it.media_type, &it.blob, it.blob_bytes)).collect();
    let manifest = manifest::of_layers(&raw_config, descriptors);
    let raw_manifest = serde_json::to_vec(&manifest).map_err(|error| ImageError::Invalid {
        what: "the image's manifest".to_owned(),
        problem: error.to_string(),
    })?;
    commit(images, &raw_manifest, raw_config, layers, names).map(|(image, _)| image)
}

/// Makes an image of what's in the store: its layers, of which `raw_manifest` and `raw_config` tell.
/// Returns whether it or a name is new. The store's lock is held.
pub(crate) fn commit(
    images: &Images,
    raw_manifest: &[u8],
    raw_config: Vec<u8>,
    layers: Vec<LayerRecord>,
    names: &[Reference],
) -> Result<(Image, bool), ImageError> {
    if roots::present(images, &layers)?.is_none() {
        roots::merge(images, &layers)?;
    }
    let (manifest, id) = (digest::of(raw_manifest), digest::of(&raw_config));
    images.layout.write_blob(&id, &raw_config)?;
    images.layout.write_blob(&manifest, raw_manifest)?;
    let record = ImageRecord { id, manifest, config: raw_config, layers };
    Db::open(&images.layout)?.write(|db| {
        let mut is_new = db::get_image(db, &record.id)?.as_ref() != Some(&record);
        if is_new {
            db::put_image(db, &record)?;
        }
        for name in names {
            is_new |= db::put_name(db, name, &record.id)?;
        }
        Ok(catalog::to_image(db, record)?.map(|image| (image, is_new)))
    })?
}
