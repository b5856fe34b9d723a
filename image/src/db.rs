//! The store's database: which images there are, their names, and the layers they need.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};

use crate::files::Layout;
use crate::layer::LayerRecord;
use crate::{ImageError, Reference};

/// The schema's version, as `user_version`.
const VERSION: i64 = 1;
/// How long a writer is waited for: each holds the database for milliseconds.
const BUSY: Duration = Duration::from_secs(30);

const SCHEMA: &str = "
    CREATE TABLE layer (
        blob TEXT PRIMARY KEY, diff_id TEXT NOT NULL, blob_bytes INTEGER NOT NULL,
        archive_bytes INTEGER NOT NULL, media_type TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE image (
        id TEXT PRIMARY KEY, manifest TEXT NOT NULL, config BLOB NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE image_layer (
        image TEXT NOT NULL REFERENCES image ON DELETE CASCADE, position INTEGER NOT NULL,
        blob TEXT NOT NULL REFERENCES layer, PRIMARY KEY (image, position)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE tag (
        registry TEXT NOT NULL, repository TEXT NOT NULL, tag TEXT NOT NULL,
        image TEXT NOT NULL REFERENCES image ON DELETE CASCADE,
        PRIMARY KEY (registry, repository, tag)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE digest (
        registry TEXT NOT NULL, repository TEXT NOT NULL, digest TEXT NOT NULL,
        image TEXT NOT NULL REFERENCES image ON DELETE CASCADE,
        PRIMARY KEY (registry, repository, digest, image)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX tag_image ON tag (image);
    CREATE INDEX digest_image ON digest (image);
    CREATE INDEX layer_diff_id ON layer (diff_id);
    CREATE INDEX image_layer_blob ON image_layer (blob);
";

/// An image as the database has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ImageRecord {
    pub(crate) id: String,
    /// The digest of its manifest.
    pub(crate) manifest: String,
    pub(crate) config: Vec<u8>,
    /// Bottom first.
    pub(crate) layers: Vec<LayerRecord>,
}

/// A connection. SQLite's errors get the database's path.
pub(crate) struct Db {
    connection: Connection,
    path: PathBuf,
}

/// What the files of the store are needed for.
pub(crate) struct Needed {
    /// Digests of blobs.
    pub(crate) blobs: HashSet<String>,
    /// Layers of each image, by diff IDs.
    pub(crate) roots: Vec<Vec<String>>,
}

impl Db {
    pub(crate) fn open(layout: &Layout) -> Result<Self, ImageError> {
        let path = layout.database();
        let connection = connect(&path, layout).map_err(|error| store_error(&path, error))??;
        Ok(Self { connection, path })
    }

    /// Runs one transaction, which either happens as a whole or doesn't.
    pub(crate) fn write<T>(
        &mut self,
        run: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, ImageError> {
        let path = &self.path;
        let begun = self.connection.transaction_with_behavior(TransactionBehavior::Immediate);
        let done = begun.and_then(|transaction| {
            let value = run(&transaction)?;
            transaction.commit()?;
            Ok(value)
        });
        done.map_err(|error| store_error(path, error))
    }

    /// Reads a state of the database that no one changes meanwhile.
    pub(crate) fn read<T>(
        &mut self,
        run: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, ImageError> {
        let path = &self.path;
        let done = self.connection.transaction().and_then(|transaction| run(&transaction));
        done.map_err(|error| store_error(path, error))
    }
}

/// Whether a file's disk is full, but for less than SQLite asks for at once.
fn has_no_room(path: &Path) -> bool {
    const LEAST: u64 = 64 << 10;
    rustix::fs::statvfs(path).is_ok_and(|it| it.f_bavail.saturating_mul(it.f_frsize) < LEAST)
}

/// Why the database can't be used.
fn store_error(path: &Path, error: rusqlite::Error) -> ImageError {
    let is_full = match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DiskFull) => true,
        // What it says if there's no room for the memory that its processes share.
        Some(rusqlite::ErrorCode::SystemIoFailure) => has_no_room(path),
        _ => false,
    };
    if is_full {
        let source = rustix::io::Errno::NOSPC.into();
        return ImageError::File { what: "write", path: path.to_owned(), source };
    }
    // Its own source says the same again.
    ImageError::Store { path: path.to_owned(), source: error.to_string().into() }
}

fn connect(path: &Path, layout: &Layout) -> rusqlite::Result<Result<Connection, ImageError>> {
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    if version(&connection)? == 0 {
        // Two that change the journal's mode at once would get errors, not wait.
        let lock = match layout.lock_partial("database") {
            Ok(lock) => lock,
            Err(error) => return Ok(Err(error)),
        };
        create(&mut connection)?;
        drop(lock);
    }
    let found = version(&connection)?;
    if found != VERSION {
        let source = format!("it has version {found} of its schema, this program {VERSION}").into();
        return Ok(Err(ImageError::Store { path: path.to_owned(), source }));
    }
    Ok(Ok(connection))
}

fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

fn create(connection: &mut Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "wal")?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if version(&transaction)? == 0 {
        transaction.execute_batch(SCHEMA)?;
        transaction.pragma_update(None, "user_version", VERSION)?;
    }
    transaction.commit()
}

/// Bytes, as SQLite has them.
fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn layer(row: &Row<'_>) -> rusqlite::Result<LayerRecord> {
    let bytes = |column| row.get(column).map(|bytes: i64| bytes.max(0).unsigned_abs());
    Ok(LayerRecord {
        blob: row.get(0)?,
        diff_id: row.get(1)?,
        blob_bytes: bytes(2)?,
        archive_bytes: bytes(3)?,
        media_type: row.get(4)?,
    })
}

const LAYER: &str = "layer.blob, diff_id, blob_bytes, archive_bytes, media_type";

/// Notes what a blob has in it.
pub(crate) fn put_layer(db: &Connection, it: &LayerRecord) -> rusqlite::Result<()> {
    db.execute(
        "INSERT OR REPLACE INTO layer (blob, diff_id, blob_bytes, archive_bytes, media_type)
         VALUES (?1, ?2, ?3, ?4, ?5)",
        params![
            it.blob,
            it.diff_id,
            signed(it.blob_bytes),
            signed(it.archive_bytes),
            it.media_type
        ],
    )?;
    Ok(())
}

/// What a blob has in it, if that's known.
pub(crate) fn get_layer(db: &Connection, blob: &str) -> rusqlite::Result<Option<LayerRecord>> {
    let query = format!("SELECT {LAYER} FROM layer WHERE blob = ?1");
    db.query_row(&query, [blob], layer).optional()
}

/// Blobs that have this archive in them.
pub(crate) fn layers_of(db: &Connection, diff_id: &str) -> rusqlite::Result<Vec<LayerRecord>> {
    let mut statement = db.prepare(&format!("SELECT {LAYER} FROM layer WHERE diff_id = ?1"))?;
    statement.query_map([diff_id], layer)?.collect()
}

/// Adds an image, if it isn't there; its layers are.
pub(crate) fn put_image(db: &Connection, it: &ImageRecord) -> rusqlite::Result<()> {
    for layer in &it.layers {
        if get_layer(db, &layer.blob)?.is_none() {
            put_layer(db, layer)?;
        }
    }
    db.execute(
        "INSERT INTO image (id, manifest, config) VALUES (?1, ?2, ?3)
         ON CONFLICT (id) DO UPDATE SET manifest = ?2",
        params![it.id, it.manifest, it.config],
    )?;
    // Of the last manifest; another one may have the same layers compressed otherwise.
    db.execute("DELETE FROM image_layer WHERE image = ?1", [&it.id])?;
    for (position, layer) in it.layers.iter().enumerate() {
        db.execute(
            "INSERT INTO image_layer (image, position, blob) VALUES (?1, ?2, ?3)",
            params![it.id, signed(position as u64), layer.blob],
        )?;
    }
    Ok(())
}

/// An image of this identifier.
pub(crate) fn get_image(db: &Connection, id: &str) -> rusqlite::Result<Option<ImageRecord>> {
    let query = "SELECT manifest, config FROM image WHERE id = ?1";
    let row = db.query_row(query, [id], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let Some((manifest, config)) = row else { return Ok(None) };
    let query = format!(
        "SELECT {LAYER} FROM image_layer JOIN layer USING (blob) WHERE image = ?1 ORDER BY position"
    );
    let mut statement = db.prepare(&query)?;
    let layers = statement.query_map([id], layer)?.collect::<Result<_, _>>()?;
    Ok(Some(ImageRecord { id: id.to_owned(), manifest, config, layers }))
}

/// All images' identifiers.
pub(crate) fn image_ids(db: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut statement = db.prepare("SELECT id FROM image")?;
    statement.query_map([], |row| row.get(0))?.collect()
}

/// Images whose identifiers begin so: some, if there are many.
pub(crate) fn ids_with_start(db: &Connection, start: &str) -> rusqlite::Result<Vec<String>> {
    // The digits were checked: none is special to GLOB.
    let mut statement = db.prepare("SELECT id FROM image WHERE id GLOB ?1 LIMIT 2")?;
    statement.query_map([format!("{start}*")], |row| row.get(0))?.collect()
}

/// How many images there are.
pub(crate) fn count_images(db: &Connection) -> rusqlite::Result<usize> {
    let count: i64 = db.query_row("SELECT count(*) FROM image", [], |row| row.get(0))?;
    Ok(usize::try_from(count).unwrap_or_default())
}

/// The image that a name leads to; the digest decides, if there's one.
pub(crate) fn named(db: &Connection, name: &Reference) -> rusqlite::Result<Option<String>> {
    let (column, value) = match (name.digest(), name.tag()) {
        (Some(digest), _) => ("digest", digest),
        (None, Some(tag)) => ("tag", tag),
        (None, None) => return Ok(None),
    };
    let query = format!(
        "SELECT image FROM {column} WHERE registry = ?1 AND repository = ?2 AND {column} = ?3"
    );
    let at = params![name.registry(), name.repository(), value];
    db.query_row(&query, at, |row| row.get(0)).optional()
}

/// An image's names with tags, and those with digests.
pub(crate) fn names(
    db: &Connection,
    image: &str,
) -> rusqlite::Result<(Vec<Reference>, Vec<Reference>)> {
    let list = |column: &str| -> rusqlite::Result<Vec<Reference>> {
        let query = format!(
            "SELECT registry, repository, {column} FROM {column} WHERE image = ?1 ORDER BY 1, 2, 3"
        );
        let mut statement = db.prepare(&query)?;
        let name = |row: &Row<'_>| {
            let (tag, digest) = match column {
                "tag" => (Some(row.get(2)?), None),
                _ => (None, Some(row.get(2)?)),
            };
            Ok(Reference::from_parts(row.get(0)?, row.get(1)?, tag, digest))
        };
        statement.query_map([image], name)?.collect()
    };
    Ok((list("tag")?, list("digest")?))
}

/// Gives an image a name: its digest's if it has one, else its tag's, which no other image has then.
/// Returns whether it's new.
pub(crate) fn put_name(db: &Connection, name: &Reference, image: &str) -> rusqlite::Result<bool> {
    let (registry, repository) = (name.registry(), name.repository());
    if let Some(digest) = name.digest() {
        let query = "INSERT OR IGNORE INTO digest (registry, repository, digest, image)
                     VALUES (?1, ?2, ?3, ?4)";
        return Ok(db.execute(query, params![registry, repository, digest, image])? > 0);
    }
    let Some(tag) = name.tag() else { return Ok(false) };
    let is_new = named(db, name)?.is_none_or(|present| present != image);
    let query = "INSERT OR REPLACE INTO tag (registry, repository, tag, image)
                 VALUES (?1, ?2, ?3, ?4)";
    db.execute(query, params![registry, repository, tag, image])?;
    Ok(is_new)
}

/// Takes a name from an image.
pub(crate) fn remove_name(db: &Connection, name: &Reference, image: &str) -> rusqlite::Result<()> {
    let (column, value) = match (name.digest(), name.tag()) {
        (Some(digest), _) => ("digest", digest),
        (None, tag) => ("tag", tag.unwrap_or_default()),
    };
    let query = format!(
        "DELETE FROM {column}
         WHERE registry = ?1 AND repository = ?2 AND {column} = ?3 AND image = ?4"
    );
    db.execute(&query, params![name.registry(), name.repository(), value, image])?;
    Ok(())
}

/// Removes an image with all its names; returns the diff IDs of layers that no other one has.
pub(crate) fn remove_image(db: &Connection, image: &str) -> rusqlite::Result<Vec<String>> {
    let layers = get_image(db, image)?.map(|it| it.layers).unwrap_or_default();
    db.execute("DELETE FROM image WHERE id = ?1", [image])?;
    let mut gone = Vec::new();
    let query = "SELECT count(*) FROM image_layer JOIN layer USING (blob) WHERE diff_id = ?1";
    for layer in layers.iter().rev() {
        let users: i64 = db.query_row(query, [&layer.diff_id], |row| row.get(0))?;
        if users == 0 && !gone.contains(&layer.diff_id) {
            gone.push(layer.diff_id.clone());
        }
    }
    Ok(gone)
}

/// Forgets blobs that no image has, and returns what's needed of the store's files.
pub(crate) fn forget_unused(db: &Connection) -> rusqlite::Result<Needed> {
    db.execute("DELETE FROM layer WHERE blob NOT IN (SELECT blob FROM image_layer)", [])?;
    let mut needed = Needed { blobs: HashSet::new(), roots: Vec::new() };
    for id in image_ids(db)? {
        let Some(image) = get_image(db, &id)? else { continue };
        needed.roots.push(image.layers.iter().map(|it| it.diff_id.clone()).collect());
        needed.blobs.extend(image.layers.into_iter().map(|it| it.blob));
        needed.blobs.extend([image.manifest, image.id]);
    }
    Ok(needed)
}

/// Repositories of a registry that have an image with this layer: where a push may take it from.
pub(crate) fn repositories_with(
    db: &Connection,
    registry: &str,
    blob: &str,
) -> rusqlite::Result<Vec<String>> {
    let query = "SELECT DISTINCT repository FROM digest JOIN image_layer USING (image)
                 WHERE registry = ?1 AND blob = ?2 LIMIT 4";
    let mut statement = db.prepare(query)?;
    statement.query_map([registry, blob], |row| row.get(0))?.collect()
}
