//! Sends images: the blobs that the registry hasn't got, then the manifest.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{fs, thread};

use crate::db::{self, Db};
use crate::digest::{self, short};
use crate::manifest::{Descriptor, Document, Manifest, media};
use crate::pull::connect;
use crate::registry::credentials::Config;
use crate::registry::{Endpoint, Failure, Method, Payload, Problem, Session, with_query};
use crate::store::roots::read_blob;
use crate::{ImageError, Images, Progress, PushOptions, Reference};

/// Blobs that are sent at once.
const PARALLEL: usize = 3;

/// Checks credentials, and keeps them if they're right.
pub(crate) fn login(
    images: &Images,
    registry: &str,
    user: &str,
    password: &str,
    insecure: bool,
) -> Result<(), ImageError> {
    let endpoint = Endpoint::of(registry, insecure)?;
    let credential = crate::registry::credentials::Credential::Password {
        user: user.to_owned(),
        password: password.to_owned(),
    };
    let failed = |failure| {
        let what = format!("the user {user:?}");
        crate::registry::error(&endpoint.shown, true, failure, &what)
    };
    let session = Session::connect(&endpoint, Some(credential), images.timing).map_err(failed)?;
    session.log_in().map_err(failed)?;
    Config::open()?.store(&endpoint.credentials, user, password)
}

/// Forgets credentials.
pub(crate) fn logout(registry: &str) -> Result<bool, ImageError> {
    Config::open()?.erase(&Endpoint::of(registry, false)?.credentials)
}

pub(crate) fn push(
    images: &Images,
    reference: &Reference,
    options: &PushOptions,
    progress: &dyn Progress,
) -> Result<(String, u64), ImageError> {
    let (Some(tag), None) = (reference.tag(), reference.digest()) else {
        let message = format!("{}: push takes a name with a tag", reference.familiar());
        return Err(ImageError::Request { message });
    };
    let image = images.find(&reference.to_string())?.image;
    // Nothing of it goes meanwhile.
    let _lock = images.layout.lock()?;
    let raw = read_blob(images, &image.manifest_digest)?;
    let Document::Manifest(manifest) = Document::parse(&reference.familiar(), &raw)? else {
        let problem = "its manifest is an index".to_owned();
        return Err(ImageError::Invalid { what: reference.familiar(), problem });
    };
    let session = connect(images, reference, options.insecure)?;
    let push = Push { images, session: &session, reference, progress };
    push.blobs(&manifest)?;
    let digest = push.manifest(tag, &manifest, &raw)?;
    let name = reference.with_digest(&digest);
    Db::open(&images.layout)?.write(|db| db::put_name(db, &name, &image.id))?;
    Ok((digest, raw.len() as u64))
}

/// An image on its way out.
struct Push<'a> {
    images: &'a Images,
    session: &'a Session,
    reference: &'a Reference,
    progress: &'a dyn Progress,
}

impl Push<'_> {
    fn scope(&self) -> String {
        format!("repository:{}:pull,push", self.reference.repository())
    }

    fn place(&self, rest: &str) -> String {
        format!("/v2/{}/{rest}", self.reference.repository())
    }

    fn error(&self, failure: Failure) -> ImageError {
        self.session.error(failure, &self.reference.familiar())
    }

    /// Tells of a layer; the configuration isn't one.
    fn tell(&self, manifest: &Manifest, blob: &Descriptor, state: &'static str) {
        if manifest.config.digest != blob.digest {
            self.progress.layer(short(&blob.digest), state);
        }
    }

    /// Sends all blobs, several at once.
    fn blobs(&self, manifest: &Manifest) -> Result<(), ImageError> {
        let mut blobs: Vec<&Descriptor> = Vec::new();
        for blob in manifest.layers.iter().chain([&manifest.config]) {
            if blobs.iter().all(|it| it.digest != blob.digest) {
                blobs.push(blob);
            }
        }
        let (next, failure) = (AtomicUsize::new(0), Mutex::new(None));
        let work = || {
            while let Some(blob) = blobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                if let Err(error) = self.blob(manifest, blob) {
                    let mut failure = failure.lock().unwrap_or_else(PoisonError::into_inner);
                    failure.get_or_insert(error);
                    next.store(blobs.len(), Ordering::Relaxed);
                }
            }
        };
        thread::scope(|scope| {
            for _ in 0..blobs.len().min(PARALLEL) {
                scope.spawn(work);
            }
        });
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn blob(&self, manifest: &Manifest, blob: &Descriptor) -> Result<(), ImageError> {
        let id = short(&blob.digest);
        let note = |text: &str| self.progress.note(text);
        let is_there = self.session.retry(&note, || self.is_there(blob));
        if is_there.map_err(|failure| self.error(failure))? {
            self.tell(manifest, blob, "Layer already exists");
            return Ok(());
        }
        self.tell(manifest, blob, "Pushing");
        let path = self.images.layout.blob(&blob.digest);
        let is_whole = fs::metadata(&path).is_ok_and(|it| it.len() == blob.size);
        if !is_whole {
            return Err(ImageError::Invalid {
                what: format!("the store's blob {id}"),
                problem: "it's gone or was changed: pull or build the image again".to_owned(),
            });
        }
        let is_layer = blob.digest != manifest.config.digest;
        let report = |sent: u64| {
            if is_layer {
                self.progress.bytes(id, sent, blob.size);
            }
        };
        let sent = self.session.retry(&note, || self.send(blob, &report));
        let state = match sent.map_err(|failure| self.error(failure))? {
            true => "Pushed",
            false => "Mounted",
        };
        self.tell(manifest, blob, state);
        Ok(())
    }

    fn is_there(&self, blob: &Descriptor) -> Result<bool, Failure> {
        let place = self.place(&format!("blobs/{}", blob.digest));
        match self.session.send(&Method::HEAD, &place, &self.scope(), &[], &Payload::None) {
            Ok(_) => Ok(true),
            Err(Failure::Missing(_)) => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// Sends a blob, or has the registry take it from another repository: then returns false.
    fn send(&self, blob: &Descriptor, report: &dyn Fn(u64)) -> Result<bool, Failure> {
        let registry = self.reference.registry();
        let known = Db::open(&self.images.layout)
            .and_then(|mut db| db.read(|db| db::repositories_with(db, registry, &blob.digest)))
            .map_err(Failure::Final)?;
        let from = known.iter().find(|it| *it != self.reference.repository());
        let mut scope = self.scope();
        let mut place = self.place("blobs/uploads/");
        if let Some(from) = from {
            place = with_query(&place, &format!("mount={}&from={from}", blob.digest));
            scope = format!("{scope} repository:{from}:pull");
        }
        let mut response = self.session.send(&Method::POST, &place, &scope, &[], &Payload::None);
        if from.is_some() && matches!(response, Err(Failure::Denied(_) | Failure::Missing(_))) {
            // Who may not read the other repository sends it.
            let place = self.place("blobs/uploads/");
            scope = self.scope();
            response = self.session.send(&Method::POST, &place, &scope, &[], &Payload::None);
        }
        let response = response?;
        if response.status() == 201 {
            return Ok(false);
        }
        let location = response.headers().get("location").and_then(|it| it.to_str().ok());
        let location = location.map(str::to_owned).ok_or_else(|| {
            Failure::Problem(Problem::Nonsense("an upload without a location".to_owned()))
        })?;
        drop(response);
        let place = with_query(&location, &format!("digest={}", blob.digest));
        let path = self.images.layout.blob(&blob.digest);
        let payload = Payload::File(&path, blob.size, report);
        self.session.send(&Method::PUT, &place, &scope, &[], &payload)?;
        Ok(true)
    }

    fn manifest(&self, tag: &str, manifest: &Manifest, raw: &[u8]) -> Result<String, ImageError> {
        let place = self.place(&format!("manifests/{tag}"));
        let media_type = match &*manifest.media_type {
            "" => media::OCI_MANIFEST,
            media_type => media_type,
        };
        let payload = Payload::Bytes(media_type, raw);
        let note = |text: &str| self.progress.note(text);
        let send = || self.session.send(&Method::PUT, &place, &self.scope(), &[], &payload);
        let response = self.session.retry(&note, send).map_err(|failure| self.error(failure))?;
        let ours = digest::of(raw);
        let said = response.headers().get("docker-content-digest").and_then(|it| it.to_str().ok());
        if let Some(said) = said.filter(|it| digest::is_digest(it) && *it != ours) {
            return Err(ImageError::Invalid {
                what: self.reference.familiar(),
                problem: format!("the registry stored {said} instead of {ours}"),
            });
        }
        Ok(ours)
    }
}
