//! Removes names, images, and files that nothing needs.

use std::collections::{BTreeSet, HashSet};

use rusqlite::Connection;

use super::{catalog, roots};
use crate::db::{self, Db};
use crate::{Found, Image, ImageError, Images, Reference, Removal, digest};

/// Says which container uses an image.
type User<'a> = &'a dyn Fn(&str) -> Option<String>;

pub(super) fn remove(
    images: &Images,
    reference: &str,
    force: bool,
    user: User<'_>,
) -> Result<Removal, ImageError> {
    let name = catalog::parse(reference)?;
    let mut database = Db::open(&images.layout)?;
    let mut removal = database.write(|db| {
        let plan = catalog::resolve(db, reference, name)?.and_then(|found| {
            let names = names_to_remove(&found);
            check(&found, &names, force, user)?;
            Ok((found.image, names))
        });
        match plan {
            Ok((image, names)) => remove_names(db, &image, &names).map(Ok),
            Err(error) => Ok(Err(error)),
        }
    })??;
    removal.freed_bytes = collect(images, &mut database)?;
    Ok(removal)
}

/// The names that go: the one given, and with a repository's last tag its digests; or all.
fn names_to_remove(found: &Found) -> Vec<Reference> {
    let Image { tags, digests, .. } = &found.image;
    let Some(given) = &found.reference else {
        return tags.iter().chain(digests).cloned().collect();
    };
    let given = match given.digest() {
        Some(digest) => given.with_digest(digest),
        None => given.clone(),
    };
    let same = |it: &&Reference| repository(it) == repository(&given);
    let mut names = vec![given.clone()];
    if given.digest().is_none() && tags.iter().filter(same).count() == 1 {
        names.extend(digests.iter().filter(same).cloned());
    }
    names
}

fn repository(name: &Reference) -> (&str, &str) {
    (name.registry(), name.repository())
}

/// Whether these are all of an image's names: it goes with them.
fn is_last(image: &Image, names: &[Reference]) -> bool {
    image.tags.iter().chain(&image.digests).all(|it| names.contains(it))
}

fn check(
    found: &Found,
    names: &[Reference],
    force: bool,
    user: User<'_>,
) -> Result<(), ImageError> {
    let image = &found.image;
    if force || !is_last(image, names) {
        return Ok(());
    }
    let id = digest::short(&image.id);
    let in_use = |message| Err(ImageError::InUse { message });
    let user = user(&image.id);
    match (&found.reference, user) {
        (Some(name), Some(container)) => in_use(format!(
            "conflict: unable to remove repository reference \"{}\" (must force) - container \
             {container} is using its referenced image {id}",
            name.familiar()
        )),
        (None, Some(container)) => in_use(format!(
            "conflict: unable to delete {id} (must be forced) - image is being used by container \
             {container}"
        )),
        (None, None) if image.tags.iter().map(repository).collect::<BTreeSet<_>>().len() > 1 => {
            in_use(format!(
                "conflict: unable to delete {id} (must be forced) - image is referenced in \
                 multiple repositories"
            ))
        }
        _ => Ok(()),
    }
}

fn remove_names(db: &Connection, image: &Image, names: &[Reference]) -> rusqlite::Result<Removal> {
    let mut removal = Removal::default();
    for name in names {
        db::remove_name(db, name, &image.id)?;
        removal.untagged.push(name.familiar());
    }
    if is_last(image, names) {
        let layers = db::remove_image(db, &image.id)?;
        removal.deleted.push(image.id.clone());
        removal.deleted.extend(layers);
    }
    Ok(removal)
}

pub(super) fn prune(
    images: &Images,
    all: bool,
    wanted: &dyn Fn(&Image) -> bool,
    user: User<'_>,
) -> Result<Removal, ImageError> {
    let mut database = Db::open(&images.layout)?;
    let mut removal = database.write(|db| {
        let listed = match catalog::all(db)? {
            Ok(listed) => listed,
            Err(error) => return Ok(Err(error)),
        };
        let mut removal = Removal::default();
        let goes =
            |it: &&Image| (all || it.tags.is_empty()) && wanted(it) && user(&it.id).is_none();
        for image in listed.iter().filter(goes) {
            let names: Vec<_> = image.tags.iter().chain(&image.digests).cloned().collect();
            let one = remove_names(db, image, &names)?;
            removal.untagged.extend(one.untagged);
            removal.deleted.extend(one.deleted);
        }
        Ok(Ok(removal))
    })??;
    removal.freed_bytes = collect(images, &mut database)?;
    Ok(removal)
}

/// Removes files that nothing needs, unless somebody adds some just now: the next removal does it
/// then. Returns how many bytes that freed.
fn collect(images: &Images, database: &mut Db) -> Result<u64, ImageError> {
    let Some(alone) = images.layout.try_lock_alone()? else { return Ok(0) };
    let needed = database.write(|db| db::forget_unused(db))?;
    let hex = |digest: &String| digest::hex(digest).to_owned();
    let blobs: HashSet<_> = needed.blobs.iter().map(hex).collect();
    let layers: HashSet<_> = needed.roots.iter().flatten().map(hex).collect();
    let roots: HashSet<_> = needed.roots.iter().map(|layers| roots::key(layers)).collect();
    images.layout.sweep(&alone, &|directory, name| match directory {
        "blobs/sha256" => blobs.contains(name),
        "erofs" => layers.contains(name),
        "roots" => roots.contains(name),
        _ => false,
    })
}
