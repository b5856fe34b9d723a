//! Writes images.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};

use super::{DockerImage, REF_NAME, WHOLE_NAME};
use crate::digest::{Hashing, hex, short};
use crate::manifest::{Descriptor, Document, Index, OCI_LAYOUT, media};
use crate::store::roots::read_blob;
use crate::{ImageError, Images, Reference};

pub(crate) fn save(
    images: &Images,
    references: &[String],
    out: &mut dyn Write,
) -> Result<(), ImageError> {
    // Nothing of it goes meanwhile.
    let _lock = images.layout.lock()?;
    let mut plan = Plan::default();
    for reference in references {
        plan.add(images, reference)?;
    }
    let mut archive = tar::Builder::new(out);
    for (digest, bytes) in &plan.blobs {
        copy_blob(images, &mut archive, digest, *bytes)?;
    }
    let index = plan.index();
    let docker: Vec<_> = plan.images.into_iter().map(|(_, image)| image.docker).collect();
    append(&mut archive, "index.json", &json(&index)?)?;
    append(&mut archive, "manifest.json", &json(&docker)?)?;
    append(&mut archive, "oci-layout", OCI_LAYOUT.as_bytes())?;
    archive.finish().map_err(unwritable)?;
    archive.get_mut().flush().map_err(unwritable)
}

/// What goes into the archive.
#[derive(Default)]
struct Plan {
    /// By identifier, in the order in which they're named.
    images: Vec<(String, Planned)>,
    /// Sizes of blobs by digest.
    blobs: BTreeMap<String, u64>,
}

struct Planned {
    manifest: Descriptor,
    names: Vec<Reference>,
    docker: DockerImage,
}

impl Plan {
    fn add(&mut self, images: &Images, reference: &str) -> Result<(), ImageError> {
        let found = images.find(reference)?;
        let name = found.reference.filter(|it| it.digest().is_none());
        let present = self.images.iter().position(|(id, _)| *id == found.image.id);
        let at = match present {
            Some(at) => at,
            None => {
                let planned = self.plan(images, &found.image.manifest_digest)?;
                self.images.push((found.image.id, planned));
                self.images.len() - 1
            }
        };
        let planned = &mut self.images[at].1;
        if let Some(name) = name.filter(|it| !planned.names.contains(it)) {
            planned.docker.repo_tags.push(name.familiar());
            planned.names.push(name);
        }
        Ok(())
    }

    fn plan(&mut self, images: &Images, digest: &str) -> Result<Planned, ImageError> {
        let raw = read_blob(images, digest)?;
        let Document::Manifest(manifest) = Document::parse(digest, &raw)? else {
            let problem = "its manifest is an index".to_owned();
            return Err(ImageError::Invalid { what: digest.to_owned(), problem });
        };
        let size = raw.len() as u64;
        self.blobs.insert(digest.to_owned(), size);
        for blob in manifest.layers.iter().chain([&manifest.config]) {
            self.blobs.insert(blob.digest.clone(), blob.size);
        }
        let media_type = match &*manifest.media_type {
            "" => media::OCI_MANIFEST,
            media_type => media_type,
        };
        let docker = DockerImage {
            config: path(&manifest.config.digest),
            repo_tags: Vec::new(),
            layers: manifest.layers.iter().map(|it| path(&it.digest)).collect(),
        };
        let manifest = Descriptor::new(media_type, digest, size);
        Ok(Planned { manifest, names: Vec::new(), docker })
    }

    /// The layout's index: each image by each of its names.
    fn index(&self) -> Index {
        let mut manifests = Vec::new();
        for (_, image) in &self.images {
            if image.names.is_empty() {
                manifests.push(image.manifest.clone());
            }
            for name in &image.names {
                let mut descriptor = image.manifest.clone();
                descriptor.annotations.insert(WHOLE_NAME.to_owned(), name.to_string());
                let tag = name.tag().unwrap_or_default().to_owned();
                descriptor.annotations.insert(REF_NAME.to_owned(), tag);
                manifests.push(descriptor);
            }
        }
        Index { schema_version: 2, media_type: media::OCI_INDEX.to_owned(), manifests }
    }
}

fn path(digest: &str) -> String {
    format!("blobs/sha256/{}", hex(digest))
}

fn json(value: &impl serde::Serialize) -> Result<Vec<u8>, ImageError> {
    serde_json::to_vec(value).map_err(|error| unwritable(error.into()))
}

fn unwritable(source: io::Error) -> ImageError {
    ImageError::File { what: "write", path: "the archive".into(), source }
}

/// Copies a blob, which must be what its name says.
fn copy_blob(
    images: &Images,
    archive: &mut tar::Builder<&mut dyn Write>,
    digest: &str,
    bytes: u64,
) -> Result<(), ImageError> {
    let source = images.layout.blob(digest);
    let damaged = |problem: &str| ImageError::Invalid {
        what: format!("the store's blob {}", short(digest)),
        problem: format!("{problem}: pull or build the image again"),
    };
    let file = File::open(&source).map_err(|_| damaged("it's gone"))?;
    let length = file.metadata().map_err(crate::files::at("read", &source))?.len();
    if length != bytes {
        return Err(damaged("it was changed"));
    }
    let mut reader = Hashing::new(file.take(bytes));
    archive.append(&header(&path(digest), bytes)?, &mut reader).map_err(unwritable)?;
    let (_, found, _) = reader.finish();
    if found == digest { Ok(()) } else { Err(damaged("it was changed")) }
}

fn append(
    archive: &mut tar::Builder<&mut dyn Write>,
    path: &str,
    bytes: &[u8],
) -> Result<(), ImageError> {
    archive.append(&header(path, bytes.len() as u64)?, bytes).map_err(unwritable)
}

/// The same for the same image, whenever it's written.
fn header(path: &str, bytes: u64) -> Result<tar::Header, ImageError> {
    let mut header = tar::Header::new_ustar();
    header.set_path(path).map_err(unwritable)?;
    header.set_size(bytes);
    header.set_mode(0o644);
    header.set_cksum();
    Ok(header)
}

/// What a reader checks.
#[cfg(test)]
pub(super) fn blob_path(bytes: &[u8]) -> String {
    path(&crate::digest::of(bytes))
}
