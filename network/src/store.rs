//! Networks' records and containers' leases, in files under one lock.
//!
//! ```text
//! networks/lock                       held by whoever changes anything
//! networks/ID/network.json            Network
//! networks/ID/leases/CONTAINER.json   Endpoint
//! ```
//!
//! A lease is written before what it stands for is made, and removed after that is gone: whatever
//! a process that was killed left behind on the host is on record here.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::NetworkError;
use crate::record::{Endpoint, Network};

type Result<T> = std::result::Result<T, NetworkError>;

/// The directory of networks.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    root: PathBuf,
}

/// The directory, with nobody else changing it.
pub(crate) struct Locked<'a> {
    store: &'a Store,
    /// The lock ends with it.
    _file: File,
}

impl Store {
    /// Makes the directory if it isn't there.
    pub(crate) fn open(root: PathBuf) -> Result<Self> {
        fs::create_dir_all(&root).map_err(|error| NetworkError::file(&root, "created", error))?;
        Ok(Self { root })
    }

    /// Waits until nobody else changes anything.
    pub(crate) fn lock(&self) -> Result<Locked<'_>> {
        let path = self.root.join("lock");
        let failed = |error| NetworkError::file(&path, "locked", error);
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(failed)?;
        file.lock().map_err(failed)?;
        Ok(Locked { store: self, _file: file })
    }

    /// All networks, the oldest first.
    pub(crate) fn networks(&self) -> Result<Vec<Network>> {
        let mut networks: Vec<Network> = Vec::new();
        for directory in entries(&self.root)? {
            // A directory without a record is one that's being made or removed.
            networks.extend(read(&directory.join("network.json"))?);
        }
        networks.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        Ok(networks)
    }

    /// All leases on a network.
    pub(crate) fn leases(&self, network_id: &str) -> Result<Vec<Endpoint>> {
        let mut leases: Vec<Endpoint> = Vec::new();
        for path in entries(&self.root.join(network_id).join("leases"))? {
            if path.extension().is_some_and(|extension| extension == "json") {
                leases.extend(read(&path)?);
            }
        }
        leases.sort_by_key(|lease| lease.ipv4);
        Ok(leases)
    }

    fn lease_path(&self, network_id: &str, container: &str) -> PathBuf {
        self.root.join(network_id).join("leases").join(format!("{container}.json"))
    }
}

impl Locked<'_> {
    /// Writes a network's record.
    pub(crate) fn put_network(&self, network: &Network) -> Result<()> {
        let directory = self.store.root.join(&network.id);
        let leases = directory.join("leases");
        fs::create_dir_all(&leases)
            .map_err(|error| NetworkError::file(&leases, "created", error))?;
        write(&directory.join("network.json"), network)
    }

    /// Forgets a network. Its record goes first: what's left after a crash is no network.
    pub(crate) fn remove_network(&self, id: &str) -> Result<()> {
        let directory = self.store.root.join(id);
        remove(&directory.join("network.json"))?;
        fs::remove_dir_all(&directory)
            .map_err(|error| NetworkError::file(&directory, "removed", error))
    }

    /// Writes a lease.
    pub(crate) fn put_lease(&self, lease: &Endpoint) -> Result<()> {
        write(&self.store.lease_path(&lease.network_id, &lease.container), lease)
    }

    /// Forgets a lease.
    pub(crate) fn remove_lease(&self, lease: &Endpoint) -> Result<()> {
        remove(&self.store.lease_path(&lease.network_id, &lease.container))
    }
}

/// What is in a directory; nothing if it isn't there.
fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let listed = fs::read_dir(directory).and_then(|entries| {
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()
    });
    match listed {
        Err(error) if is_absent(&error) => Ok(Vec::new()),
        other => other.map_err(|error| NetworkError::file(directory, "read", error)),
    }
}

/// A file's value; none if it isn't there, which is so whenever somebody else removes it.
fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let bytes = match fs::read(path) {
        Err(error) if is_absent(&error) => return Ok(None),
        other => other.map_err(|error| NetworkError::file(path, "read", error))?,
    };
    let value = serde_json::from_slice(&bytes)
        .map_err(|error| NetworkError::file(path, "understood", error.into()))?;
    Ok(Some(value))
}

/// Neither a file of the lock's directory's nor one that isn't there is an error to a reader.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Replaces a file: whoever reads it finds all of the old text or all of the new, after a crash too.
fn write<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let failed = |error| NetworkError::file(path, "written", error);
    let bytes = serde_json::to_vec(value).map_err(|error| failed(error.into()))?;
    // Writers hold the lock: there's one at a time.
    let temporary = path.with_extension("tmp");
    let written = File::create(&temporary).and_then(|mut file| {
        file.write_all(&bytes)?;
        file.sync_data()
    });
    written.and_then(|()| fs::rename(&temporary, path)).map_err(failed)
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if !is_absent(&error) => Err(NetworkError::file(path, "removed", error)),
        _ => Ok(()),
    }
}
