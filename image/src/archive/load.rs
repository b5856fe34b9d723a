//! Reads images.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::path::Path;

use super::files::{Files, Source, invalid};
use super::{DockerImage, REF_NAME, WHOLE_NAME};
use crate::db::{self, Db};
use crate::digest::{self, short};
use crate::files::at;
use crate::layer::{LayerRecord, pack, unpack};
use crate::manifest::{self, Descriptor, Document, Index, Manifest, media};
use crate::store::{add, catalog, roots};
use crate::{Found, ImageConfig, ImageError, Images, Platform, Progress, Reference, Silent};

pub(crate) fn load(
    images: &Images,
    archive: &mut dyn Read,
    progress: &dyn Progress,
) -> Result<Vec<Found>, ImageError> {
    // What's unpacked may not be taken for left behind.
    let _lock = images.layout.lock()?;
    let files = Files::unpack(images, archive)?;
    load_files(images, &files, progress)
}

pub(crate) fn load_directory(images: &Images, directory: &Path) -> Result<Vec<Found>, ImageError> {
    let _lock = images.layout.lock()?;
    load_files(images, &Files::Directory(directory.to_owned()), &Silent)
}

fn load_files(
    images: &Images,
    files: &Files,
    progress: &dyn Progress,
) -> Result<Vec<Found>, ImageError> {
    let mut load = Load { images, files, progress, loaded: Vec::new() };
    let (index, docker) = (files.find("index.json")?, files.find("manifest.json")?);
    if index.is_none() && docker.is_none() {
        return Err(invalid("it has neither an index.json nor a manifest.json"));
    }
    if let Some(index) = index {
        load.index(&index.read()?)?;
    }
    if let Some(docker) = docker {
        load.docker(&docker.read()?)?;
    }
    load.finish()
}

struct Load<'a> {
    images: &'a Images,
    files: &'a Files,
    progress: &'a dyn Progress,
    /// Images' identifiers, and names that they got.
    loaded: Vec<(String, Option<Reference>)>,
}

impl Load<'_> {
    /// Loads what an OCI layout's index names.
    fn index(&mut self, raw: &[u8]) -> Result<(), ImageError> {
        let Document::Index(index) = Document::parse("the archive's index.json", raw)? else {
            return Err(invalid("its index.json is a manifest"));
        };
        for descriptor in index.manifests.iter().filter(|it| manifest::is_image(it)) {
            let names: Vec<_> = name_of(descriptor).into_iter().collect();
            let id = self.manifest(descriptor)?;
            self.name(&id, &names)?;
        }
        Ok(())
    }

    /// Loads the image that a descriptor leads to; returns its identifier.
    fn manifest(&self, descriptor: &Descriptor) -> Result<String, ImageError> {
        let raw = self.files.blob(&descriptor.digest)?.read()?;
        let (raw, manifest) = match Document::parse("the archive", &raw)? {
            Document::Manifest(manifest) => (raw, manifest),
            Document::Index(index) => self.choose(&index)?,
        };
        let raw_config = self.files.blob(&manifest.config.digest)?.read()?;
        let config = manifest::parse_config("the archive's image", &raw_config)?;
        check_count(&config, manifest.layers.len())?;
        let mut layers = Vec::new();
        for (blob, diff_id) in manifest.layers.iter().zip(&config.rootfs.diff_ids) {
            layers.push(self.blob_layer(&self.files.blob(&blob.digest)?, diff_id)?);
        }
        add::commit(self.images, &raw, raw_config, layers, &[]).map(|(image, _)| image.id)
    }

    /// This host's image of several: the archive may have only one of those that its index names.
    fn choose(&self, index: &Index) -> Result<(Vec<u8>, Manifest), ImageError> {
        let platform = Platform::host();
        let mut candidates: Vec<_> = index.choose(&platform).into_iter().collect();
        candidates.extend(&index.manifests);
        for descriptor in candidates.into_iter().filter(|it| manifest::is_image(it)) {
            let path = format!("blobs/sha256/{}", digest::hex(&descriptor.digest));
            if self.files.find(&path)?.is_none() {
                continue;
            }
            let raw = self.files.blob(&descriptor.digest)?.read()?;
            if let Document::Manifest(manifest) = Document::parse("the archive", &raw)? {
                return Ok((raw, manifest));
            }
        }
        let platforms = index.platforms();
        Err(invalid(format!("it has no image for {platform}, and none of these: {platforms}")))
    }

    /// Loads what Docker's `manifest.json` names.
    fn docker(&mut self, raw: &[u8]) -> Result<(), ImageError> {
        let wrong = |error: serde_json::Error| invalid(format!("its manifest.json: {error}"));
        let listed: Vec<DockerImage> = serde_json::from_slice(raw).map_err(wrong)?;
        for image in listed {
            let names =
                image.repo_tags.iter().map(|it| it.parse()).collect::<Result<Vec<_>, _>>()?;
            names.iter().try_for_each(catalog::check_tag)?;
            let raw_config = self.files.require(&image.config)?.read()?;
            let id = digest::of(&raw_config);
            // The same image as an OCI layout has it: as it was pulled.
            if !self.loaded.iter().any(|(loaded, _)| *loaded == id) {
                self.docker_image(&image, raw_config)?;
            }
            self.name(&id, &names)?;
        }
        Ok(())
    }

    fn docker_image(&self, image: &DockerImage, raw_config: Vec<u8>) -> Result<(), ImageError> {
        let config = manifest::parse_config("the archive's image", &raw_config)?;
        check_count(&config, image.layers.len())?;
        let mut layers = Vec::new();
        for (path, diff_id) in image.layers.iter().zip(&config.rootfs.diff_ids) {
            let source = self.files.require(path)?;
            layers.push(self.docker_layer(&source, diff_id)?);
        }
        add::record(self.images, raw_config, layers, &[]).map(drop)
    }

    /// A layer that is compressed, or else will be.
    fn docker_layer(&self, source: &Source, diff_id: &str) -> Result<LayerRecord, ImageError> {
        let mut start = Vec::new();
        source.open()?.take(4).read_to_end(&mut start).map_err(at("read", &source.path))?;
        if manifest::layer_media_type(&start) != media::OCI_TAR {
            return self.blob_layer(source, diff_id);
        }
        if let Some(known) = self.known_archive(diff_id)? {
            self.progress.layer(short(diff_id), "Already exists");
            return Ok(known);
        }
        check_diff_id(diff_id, &source.digest)?;
        self.progress.layer(short(diff_id), "Loading layer");
        let what = format!("layer {}", short(diff_id));
        let mut archive = source.open()?;
        let record = pack(&self.images.layout, &self.images.limits, &what, &mut archive)?;
        self.note(record)
    }

    /// A layer of the store with this archive in it, whatever its compression.
    fn known_archive(&self, diff_id: &str) -> Result<Option<LayerRecord>, ImageError> {
        let known = Db::open(&self.images.layout)?.read(|db| db::layers_of(db, diff_id))?;
        for record in known {
            if roots::has_layer(self.images, &record)? {
                return Ok(Some(record));
            }
        }
        Ok(None)
    }

    /// A layer whose blob is taken as it is.
    fn blob_layer(&self, source: &Source, diff_id: &str) -> Result<LayerRecord, ImageError> {
        let layout = &self.images.layout;
        let known = Db::open(layout)?.read(|db| db::get_layer(db, &source.digest))?;
        if let Some(known) = known
            && roots::has_layer(self.images, &known)?
        {
            check_diff_id(diff_id, &known.diff_id)?;
            self.progress.layer(short(diff_id), "Already exists");
            return Ok(known);
        }
        self.progress.layer(short(diff_id), "Loading layer");
        let what = format!("layer {}", short(diff_id));
        let unpacked = unpack(layout, &self.images.limits, &what, &mut source.open()?)?;
        check_diff_id(diff_id, &unpacked.diff_id)?;
        self.take_blob(source)?;
        layout.keep(unpacked.file_system, &layout.erofs(diff_id))?;
        self.note(LayerRecord {
            blob: source.digest.clone(),
            diff_id: diff_id.to_owned(),
            blob_bytes: source.bytes,
            archive_bytes: unpacked.archive_bytes,
            media_type: unpacked.media_type.to_owned(),
        })
    }

    /// Makes the store have a blob; an archive's file is the blob from then on.
    fn take_blob(&self, source: &Source) -> Result<(), ImageError> {
        let layout = &self.images.layout;
        let blob = layout.blob(&source.digest);
        let copy = layout.temporary()?;
        match self.files {
            Files::Archive(_) => {
                fs::remove_file(copy.path()).map_err(at("remove", copy.path()))?;
                fs::hard_link(&source.path, copy.path()).map_err(at("make", copy.path()))?;
                source.open()?.sync_all().map_err(at("write", copy.path()))?;
            }
            Files::Directory(_) => {
                let mut out = copy.as_file();
                io::copy(&mut source.open()?, &mut out).map_err(at("write", copy.path()))?;
            }
        }
        layout.keep(copy, &blob)
    }

    fn note(&self, record: LayerRecord) -> Result<LayerRecord, ImageError> {
        Db::open(&self.images.layout)?.write(|db| db::put_layer(db, &record))?;
        Ok(record)
    }

    /// Gives an image its names.
    fn name(&mut self, id: &str, names: &[Reference]) -> Result<(), ImageError> {
        Db::open(&self.images.layout)?
            .write(|db| names.iter().try_for_each(|name| db::put_name(db, name, id).map(drop)))?;
        if names.is_empty() && !self.loaded.iter().any(|(loaded, _)| loaded == id) {
            self.loaded.push((id.to_owned(), None));
        }
        for name in names {
            self.loaded.retain(|(loaded, it)| loaded != id || it.is_some());
            let entry = (id.to_owned(), Some(name.clone()));
            if !self.loaded.contains(&entry) {
                self.loaded.push(entry);
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Vec<Found>, ImageError> {
        let mut seen = BTreeSet::new();
        let mut found = Vec::new();
        for (id, reference) in self.loaded {
            if seen.insert((id.clone(), reference.clone())) {
                let image = self.images.find(&id)?.image;
                found.push(Found { image, reference });
            }
        }
        Ok(found)
    }
}

fn check_count(config: &ImageConfig, layers: usize) -> Result<(), ImageError> {
    let wanted = config.rootfs.diff_ids.len();
    if wanted == layers {
        return Ok(());
    }
    Err(invalid(format!("its image has {layers} layers, its configuration {wanted}")))
}

fn check_diff_id(wanted: &str, found: &str) -> Result<(), ImageError> {
    if wanted == found {
        return Ok(());
    }
    Err(invalid(format!("its layer has the digest {found}, not {wanted}")))
}

/// The name that an OCI layout gives an image. A tag alone says nothing of the repository.
fn name_of(descriptor: &Descriptor) -> Option<Reference> {
    let names = [WHOLE_NAME, REF_NAME].map(|key| descriptor.annotations.get(key));
    let mut names = names.into_iter().flatten().filter(|it| it.contains([':', '/']));
    names.find_map(|it| it.parse::<Reference>().ok()).filter(|it| it.digest().is_none())
}
