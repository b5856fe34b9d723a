//! Fetches images: documents, then layers at the same time, each made a file system on its way.

mod download;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Seek};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::db::{self, Db};
use crate::digest::{self, Hashing, short};
use crate::files::{at, sync_directory};
use crate::layer::{LayerRecord, Unpacked, unpack};
use crate::manifest::{self, Descriptor, Document, MAX_DOCUMENT, Manifest, media};
use crate::registry::credentials::Config;
use crate::registry::{Endpoint, Failure, Method, Payload, Session};
use crate::store::{add, roots};
use crate::{ImageConfig, ImageError, Images, Platform, Progress, PullOptions, Pulled, Reference};
use download::Download;

/// Layers that are fetched at once.
const PARALLEL: usize = 4;

/// Opens a session with a name's registry.
pub(crate) fn connect(
    images: &Images,
    reference: &Reference,
    insecure: bool,
) -> Result<Session, ImageError> {
    let endpoint = Endpoint::of(reference.registry(), insecure)?;
    let credential = Config::open()?.find(&endpoint.credentials)?;
    let has_credential = credential.is_some();
    let failed = |failure| {
        let what = reference.familiar();
        crate::registry::error(&endpoint.shown, has_credential, failure, &what)
    };
    Session::connect(&endpoint, credential, images.timing).map_err(failed)
}

pub(crate) fn pull(
    images: &Images,
    reference: &Reference,
    options: &PullOptions,
    progress: &dyn Progress,
) -> Result<Pulled, ImageError> {
    let session = connect(images, reference, options.insecure)?;
    let source = Source { session: &session, reference, progress };
    let platform = options.platform.clone().unwrap_or_else(Platform::host);
    let found = source.resolve(&platform)?;
    // Nothing that's found or fetched from now on may be taken for unneeded.
    let lock = images.layout.lock()?;
    let pairs = found.manifest.layers.iter().zip(&found.config.rootfs.diff_ids);
    let layers = fetch_layers(images, &source, &pairs.collect::<Vec<_>>())?;
    let mut names = vec![reference.with_digest(&found.digest)];
    if reference.digest().is_none() {
        names.push(reference.clone());
    }
    let (image, is_new) =
        add::commit(images, &found.raw_manifest, found.raw_config, layers, &names)?;
    drop(lock);
    Ok(Pulled { image, digest: found.digest, is_new })
}

/// Where an image comes from.
struct Source<'a> {
    session: &'a Session,
    reference: &'a Reference,
    progress: &'a dyn Progress,
}

/// What a name led to.
struct Resolved {
    /// Of the index, if there's one, else of the manifest.
    digest: String,
    manifest: Manifest,
    raw_manifest: Vec<u8>,
    config: ImageConfig,
    raw_config: Vec<u8>,
}

impl Source<'_> {
    fn scope(&self) -> String {
        format!("repository:{}:pull", self.reference.repository())
    }

    /// The place of a manifest or a blob.
    fn place(&self, kind: &str, name: &str) -> String {
        format!("/v2/{}/{kind}/{name}", self.reference.repository())
    }

    fn error(&self, failure: Failure) -> ImageError {
        self.session.error(failure, &self.reference.familiar())
    }

    fn invalid(&self, problem: impl Into<String>) -> ImageError {
        ImageError::Invalid { what: self.reference.familiar(), problem: problem.into() }
    }

    /// Reads manifests until there's an image for the platform.
    fn resolve(&self, platform: &Platform) -> Result<Resolved, ImageError> {
        let name = self.reference.digest().or(self.reference.tag()).unwrap_or_default();
        let (digest, raw, document) = self.manifest(name)?;
        let (raw_manifest, manifest) = match document {
            Document::Manifest(manifest) => (raw, manifest),
            Document::Index(index) => {
                let chosen = index.choose(platform).ok_or_else(|| ImageError::NotInRegistry {
                    reference: self.reference.familiar(),
                    problem: format!(
                        "it has no image for {platform}, but for: {}",
                        index.platforms()
                    ),
                })?;
                match self.manifest(&chosen.digest)? {
                    (_, raw, Document::Manifest(manifest)) => (raw, manifest),
                    _ => return Err(self.invalid("its index leads to another index")),
                }
            }
        };
        let raw_config = self.config(&manifest.config)?;
        let config = manifest::parse_config(&self.reference.familiar(), &raw_config)?;
        if config.rootfs.diff_ids.len() != manifest.layers.len() {
            return Err(self.invalid(format!(
                "its manifest has {} layers, its configuration {}",
                manifest.layers.len(),
                config.rootfs.diff_ids.len()
            )));
        }
        if !manifest::config_is_for(&config, platform) {
            return Err(ImageError::NotInRegistry {
                reference: self.reference.familiar(),
                problem: format!(
                    "it's for {}, not for {platform}",
                    crate::error::shown(&manifest::config_platform(&config).to_string())
                ),
            });
        }
        Ok(Resolved { digest, manifest, raw_manifest, config, raw_config })
    }

    /// Fetches a manifest or an index by its digest or tag; returns its digest, too.
    fn manifest(&self, name: &str) -> Result<(String, Vec<u8>, Document), ImageError> {
        let accept =
            [media::OCI_INDEX, media::OCI_MANIFEST, media::DOCKER_INDEX, media::DOCKER_MANIFEST]
                .join(", ");
        let (raw, said) = self.document(&self.place("manifests", name), &accept)?;
        let digest = digest::of(&raw);
        let wanted = if digest::is_digest(name) { Some(name) } else { said.as_deref() };
        // Of another algorithm's digest nothing can be said.
        if let Some(wanted) = wanted.filter(|it| digest::is_digest(it) && *it != digest) {
            return Err(self.wrong_digest("its manifest", wanted, &digest));
        }
        let document = Document::parse(&self.reference.familiar(), &raw)?;
        Ok((digest, raw, document))
    }

    fn config(&self, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
        if descriptor.size > MAX_DOCUMENT {
            return Err(self.invalid(format!("its configuration has {} bytes", descriptor.size)));
        }
        let (raw, _) = self.document(&self.place("blobs", &descriptor.digest), "*/*")?;
        let digest = digest::of(&raw);
        if digest != descriptor.digest {
            return Err(self.wrong_digest("its configuration", &descriptor.digest, &digest));
        }
        Ok(raw)
    }

    fn wrong_digest(&self, what: &str, wanted: &str, found: &str) -> ImageError {
        self.invalid(format!("{what} has the digest {found}, not {wanted}"))
    }

    /// Fetches a small document; returns what the registry says of its digest, too.
    fn document(&self, place: &str, accept: &str) -> Result<(Vec<u8>, Option<String>), ImageError> {
        let note = |text: &str| self.progress.note(text);
        let fetch = || {
            let headers = [("accept", accept)];
            let scope = self.scope();
            let response =
                self.session.send(&Method::GET, place, &scope, &headers, &Payload::None)?;
            let said = response.headers().get("docker-content-digest");
            let said = said.and_then(|it| it.to_str().ok()).map(str::to_owned);
            Ok((self.session.read(response, MAX_DOCUMENT)?, said))
        };
        self.session.retry(&note, fetch).map_err(|failure| self.error(failure))
    }
}

/// Fetches layers that aren't there, several at once; returns what's known of each, in order.
fn fetch_layers(
    images: &Images,
    source: &Source<'_>,
    layers: &[(&Descriptor, &String)],
) -> Result<Vec<LayerRecord>, ImageError> {
    // One that an image has twice is fetched once.
    let unique: Vec<_> =
        layers.iter().map(|&(blob, diff_id)| (&blob.digest, (blob, diff_id))).collect();
    let unique: BTreeMap<_, _> = unique.into_iter().rev().collect();
    let mut order: Vec<_> = unique.values().copied().collect();
    order.sort_by_key(|&(_, diff_id)| layers.iter().position(|(_, it)| *it == diff_id));
    for (blob, _) in &order {
        source.progress.layer(short(&blob.digest), "Pulling fs layer");
    }
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (records, failure) = (Mutex::new(BTreeMap::new()), Mutex::new(None));
    let work = || {
        while let Some(&(blob, diff_id)) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
            let fetch = Fetch { images, source, blob, diff_id, stop: &stop };
            match fetch.run() {
                Ok(record) => {
                    let mut records = records.lock().unwrap_or_else(PoisonError::into_inner);
                    records.insert(&blob.digest, record);
                }
                Err(error) => {
                    // What others say after that is that they were stopped.
                    stop.store(true, Ordering::Relaxed);
                    let mut failure = failure.lock().unwrap_or_else(PoisonError::into_inner);
                    failure.get_or_insert(error);
                    return;
                }
            }
            if stop.load(Ordering::Relaxed) {
                return;
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..order.len().min(PARALLEL) {
            scope.spawn(work);
        }
    });
    if let Some(error) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    let records = records.into_inner().unwrap_or_else(PoisonError::into_inner);
    let found = |(blob, diff_id): &(&Descriptor, &String)| {
        let record = records.get(&blob.digest).filter(|it| it.diff_id == **diff_id);
        record.cloned().ok_or_else(|| source.invalid("one of its blobs is two layers"))
    };
    layers.iter().map(found).collect()
}

/// One layer on its way.
struct Fetch<'a> {
    images: &'a Images,
    source: &'a Source<'a>,
    blob: &'a Descriptor,
    diff_id: &'a str,
    stop: &'a AtomicBool,
}

impl Fetch<'_> {
    fn run(&self) -> Result<LayerRecord, ImageError> {
        let id = short(&self.blob.digest);
        if let Some(record) = self.present()? {
            self.source.progress.layer(id, "Already exists");
            return Ok(record);
        }
        // Whoever fetches it just now has it afterwards.
        let partial = self.images.layout.lock_partial(&self.blob.digest)?;
        let present = match self.present()? {
            Some(record) => Some(record),
            None => self.restore()?,
        };
        if let Some(record) = present {
            let path = self.images.layout.partial(&self.blob.digest);
            fs::remove_file(&path).map_err(at("remove", &path))?;
            self.source.progress.layer(id, "Already exists");
            return Ok(record);
        }
        self.source.progress.layer(id, "Downloading");
        let record = self.download(partial)?;
        self.source.progress.layer(id, "Pull complete");
        Ok(record)
    }

    /// The layer, if the store has it whole.
    fn present(&self) -> Result<Option<LayerRecord>, ImageError> {
        let known =
            Db::open(&self.images.layout)?.read(|db| db::get_layer(db, &self.blob.digest))?;
        let Some(record) = known else { return Ok(None) };
        if record.diff_id != self.diff_id {
            return Err(self.wrong_diff_id(&record.diff_id));
        }
        Ok(roots::has_layer(self.images, &record)?.then_some(record))
    }

    fn wrong_diff_id(&self, found: &str) -> ImageError {
        let what = format!("layer {} uncompressed", short(&self.blob.digest));
        self.source.wrong_digest(&what, self.diff_id, found)
    }

    /// Makes the layer of its blob, if the store has that already.
    fn restore(&self) -> Result<Option<LayerRecord>, ImageError> {
        let path = self.images.layout.blob(&self.blob.digest);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(at("open", &path)(error)),
        };
        let mut source = Hashing::new(file);
        let unpacked = self.unpack(&mut source);
        let (_, digest, bytes) = source.finish();
        if digest != self.blob.digest {
            // Damaged on the disk, or what unpacking has left unread.
            return Ok(None);
        }
        self.keep(unpacked?, bytes).map(Some)
    }

    fn unpack(&self, source: &mut dyn io::Read) -> Result<Unpacked, ImageError> {
        let what =
            format!("layer {} of {}", short(&self.blob.digest), self.source.reference.familiar());
        unpack(&self.images.layout, &self.images.limits, &what, source)
    }

    /// Fetches the blob from where an earlier attempt was interrupted.
    fn download(&self, mut partial: File) -> Result<LayerRecord, ImageError> {
        let path = self.images.layout.partial(&self.blob.digest);
        let length = partial.metadata().map_err(at("read", &path))?.len();
        if length > 0 {
            // What's there of earlier may be damaged: only the second failure counts.
            match self.download_once(&mut partial, length.min(self.blob.size)) {
                Err(ImageError::Invalid { .. }) => {}
                result => return result,
            }
        }
        partial.set_len(0).map_err(at("write", &path))?;
        let result = self.download_once(&mut partial, 0);
        if matches!(result, Err(ImageError::Invalid { .. })) {
            fs::remove_file(&path).map_err(at("remove", &path))?;
        }
        result
    }

    fn download_once(&self, partial: &mut File, present: u64) -> Result<LayerRecord, ImageError> {
        let path = self.images.layout.partial(&self.blob.digest);
        partial.rewind().map_err(at("read", &path))?;
        let mut source = Hashing::new(Download::new(self, partial, present));
        let unpacked = self.unpack(&mut source);
        let (download, digest, bytes) = source.finish();
        if let Some(error) = download.failure {
            return Err(error);
        }
        let unpacked = unpacked?;
        if digest != self.blob.digest {
            let what = format!("layer {}", short(&self.blob.digest));
            return Err(self.source.wrong_digest(&what, &self.blob.digest, &digest));
        }
        if unpacked.diff_id != self.diff_id {
            return Err(self.wrong_diff_id(&unpacked.diff_id));
        }
        self.source.progress.layer(short(&self.blob.digest), "Extracting");
        partial.sync_all().map_err(at("write", &path))?;
        let blob = self.images.layout.blob(&self.blob.digest);
        fs::rename(&path, &blob).map_err(at("make", &blob))?;
        sync_directory(&blob)?;
        self.keep(unpacked, bytes)
    }

    /// Gives the file system its name, and notes that it's there.
    fn keep(&self, unpacked: Unpacked, blob_bytes: u64) -> Result<LayerRecord, ImageError> {
        if unpacked.diff_id != self.diff_id {
            return Err(self.wrong_diff_id(&unpacked.diff_id));
        }
        let layout = &self.images.layout;
        layout.keep(unpacked.file_system, &layout.erofs(self.diff_id))?;
        let record = LayerRecord {
            blob: self.blob.digest.clone(),
            diff_id: self.diff_id.to_owned(),
            blob_bytes,
            archive_bytes: unpacked.archive_bytes,
            media_type: unpacked.media_type.to_owned(),
        };
        Db::open(layout)?.write(|db| db::put_layer(db, &record))?;
        Ok(record)
    }
}
