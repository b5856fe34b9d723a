//! Finds, lists and names images.

use rusqlite::Connection;

use crate::db::{self, Db, ImageRecord};
use crate::manifest::parse_config;
use crate::{Found, Image, ImageError, Images, Reference, digest};

/// What a text may lead to.
enum Named {
    /// An image, and the name that led to it.
    One(ImageRecord, Option<Reference>),
    Several,
    None,
}

pub(super) fn find(images: &Images, reference: &str) -> Result<Found, ImageError> {
    let name = parse(reference)?;
    Db::open(&images.layout)?.read(|db| resolve(db, reference, name))?
}

/// The name that a text is; none if it can be an identifier only.
pub(super) fn parse(text: &str) -> Result<Option<Reference>, ImageError> {
    match text.parse() {
        Ok(name) => Ok(Some(name)),
        Err(_) if is_identifier(text) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn is_identifier(text: &str) -> bool {
    let digits = digest::hex(text);
    !digits.is_empty() && digest::is_hex_start(digits)
}

/// Looks an image up within a transaction.
pub(super) fn resolve(
    db: &Connection,
    text: &str,
    name: Option<Reference>,
) -> rusqlite::Result<Result<Found, ImageError>> {
    let reference = || text.to_owned();
    Ok(match lookup(db, text, name)? {
        Named::One(record, reference) => {
            to_image(db, record)?.map(|image| Found { image, reference })
        }
        Named::Several => Err(ImageError::Ambiguous { reference: reference() }),
        Named::None => Err(ImageError::NotFound { reference: reference() }),
    })
}

/// Docker's order: a whole identifier, a name, the beginning of an identifier.
fn lookup(db: &Connection, text: &str, name: Option<Reference>) -> rusqlite::Result<Named> {
    let digits = digest::hex(text);
    if digest::is_hex(digits)
        && let Some(record) = db::get_image(db, &format!("sha256:{digits}"))?
    {
        return Ok(Named::One(record, None));
    }
    if let Some(name) = name
        && let Some(id) = db::named(db, &name)?
        && let Some(record) = db::get_image(db, &id)?
    {
        return Ok(Named::One(record, Some(name)));
    }
    if !is_identifier(text) {
        return Ok(Named::None);
    }
    match &db::ids_with_start(db, &format!("sha256:{digits}"))?[..] {
        [] => Ok(Named::None),
        [id] => Ok(db::get_image(db, id)?.map_or(Named::None, |it| Named::One(it, None))),
        _ => Ok(Named::Several),
    }
}

/// Adds an image's names to what the database has of it.
pub(crate) fn to_image(
    db: &Connection,
    record: ImageRecord,
) -> rusqlite::Result<Result<Image, ImageError>> {
    let (tags, digests) = db::names(db, &record.id)?;
    Ok(parse_config(&record.id, &record.config).map(|config| Image {
        size_bytes: record.layers.iter().map(|it| it.archive_bytes).sum(),
        layer_bytes: record.layers.iter().map(|it| it.archive_bytes).collect(),
        compressed_bytes: record.layers.iter().map(|it| it.blob_bytes).sum(),
        created: config
            .created
            .as_deref()
            .and_then(|it| it.parse::<jiff::Timestamp>().ok())
            .map(Into::into),
        id: record.id,
        manifest_digest: record.manifest,
        config,
        raw_config: record.config,
        tags,
        digests,
    }))
}

pub(super) fn list(images: &Images) -> Result<Vec<Image>, ImageError> {
    let mut all = Db::open(&images.layout)?.read(|db| all(db))??;
    all.sort_by(|one, other| other.created.cmp(&one.created).then_with(|| one.id.cmp(&other.id)));
    Ok(all)
}

/// All images, within a transaction.
pub(super) fn all(db: &Connection) -> rusqlite::Result<Result<Vec<Image>, ImageError>> {
    let mut all = Vec::new();
    for id in db::image_ids(db)? {
        if let Some(record) = db::get_image(db, &id)? {
            match to_image(db, record)? {
                Ok(image) => all.push(image),
                Err(error) => return Ok(Err(error)),
            }
        }
    }
    Ok(Ok(all))
}

pub(super) fn tag(images: &Images, source: &str, name: &Reference) -> Result<(), ImageError> {
    check_tag(name)?;
    let parsed = parse(source)?;
    Db::open(&images.layout)?.write(|db| match resolve(db, source, parsed)? {
        Ok(found) => db::put_name(db, name, &found.image.id).map(|_| Ok(())),
        Err(error) => Ok(Err(error)),
    })?
}

/// Refuses a name that says which image it is: it can't be given to another.
pub(crate) fn check_tag(name: &Reference) -> Result<(), ImageError> {
    if name.digest().is_none() {
        return Ok(());
    }
    let name = name.familiar();
    Err(ImageError::Request {
        message: format!("{name} has a digest: it can't be given as a name"),
    })
}
