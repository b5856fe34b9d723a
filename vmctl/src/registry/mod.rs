//! The VMs of this user on this host: a directory each, under one root.
//!
//! ```text
//! root/registry.lock     held while a VM is entered or a directory removed
//! root/vms/ID/vm.json    what the VM is: written once it's whole, replaced by renaming
//!             lock       held by whoever starts the VM
//!             api.sock   console.sock   vmm.log   events
//! ```
//!
//! Nothing here is told when a VM ends: [`status`] looks, each time that it's asked.

mod entry;
mod error;
mod files;
mod owned;
pub(crate) mod process;
mod record;
pub(crate) mod status;
mod sweep;
#[cfg(test)]
mod tests;

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::{env, iter};

use rustix::fs::FlockOperation;

pub(crate) use self::entry::Entry;
pub(crate) use self::error::RegistryError;
use self::files::{LockFile, system};
pub(crate) use self::process::ProcessIdentity;
pub(crate) use self::record::{Draft, Origin, VmRecord, check_name, images};

/// The environment variable that names the root.
const ROOT_VARIABLE: &str = "VMCTL_RUNTIME_DIR";

/// How many random bytes make an identifier, which is written in hexadecimal.
const ID_BYTES: usize = 6;

/// The longest path of a Unix socket, in bytes.
pub(crate) const MAX_SOCKET_PATH_BYTES: usize = 107;

/// The root directory.
#[derive(Clone, Debug)]
pub(crate) struct Registry {
    root: PathBuf,
}

/// A directory of the registry that holds no VM that can be read.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) dir: PathBuf,
    /// What's wrong with it.
    pub(crate) source: io::Error,
}

/// A VM's place, kept from everybody else while the VM is started.
#[derive(Debug)]
pub(crate) struct Reservation {
    pub(crate) entry: Entry,
    _lock: LockFile,
}

impl Registry {
    /// Opens the registry that the environment names, and makes it if there's none.
    ///
    /// # Errors
    /// The root can't be made, or isn't this user's alone.
    pub(crate) fn open() -> Result<Self, RegistryError> {
        Self::at(default_root())
    }

    /// Opens the registry at `root`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub(crate) fn at(root: PathBuf) -> Result<Self, RegistryError> {
        let vms = root.join("vms");
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&vms)
            .map_err(system("create", &vms))?;
        let metadata = fs::symlink_metadata(&root).map_err(system("look at", &root))?;
        let uid = rustix::process::geteuid().as_raw();
        // Somebody else's directory of that name would hand our VMs' sockets to them.
        if !metadata.is_dir() || metadata.uid() != uid || metadata.mode() & 0o022 != 0 {
            return Err(RegistryError::Unsafe { root });
        }
        Ok(Self { root })
    }

    fn vms(&self) -> PathBuf {
        self.root.join("vms")
    }

    /// Keeps other processes from entering or removing VMs until dropped.
    fn lock(&self) -> Result<LockFile, RegistryError> {
        let path = self.root.join("registry.lock");
        LockFile::open(&path)
            .and_then(|lock| lock.take(FlockOperation::LockExclusive))
            .map_err(system("lock", &path))
    }

    /// Enters a VM that's about to be started, under a new identifier and a name that's free.
    ///
    /// # Errors
    /// The name is taken or malformed, or a file can't be written.
    pub(crate) fn reserve(&self, draft: Draft) -> Result<Reservation, RegistryError> {
        if let Some(name) = &draft.name {
            check_name(name)?;
        }
        let _lock = self.lock()?;
        let (entries, _) = self.scan()?;
        if let Some(name) = &draft.name
            && let Some(holder) = entries.iter().find(|entry| entry.record.name == *name)
        {
            let (name, id) = (name.clone(), holder.record.id.clone());
            return Err(RegistryError::NameTaken { name, id, runs: holder.is_alive() });
        }
        let id = self.new_id()?;
        let dir = self.vms().join(&id);
        if dir.as_os_str().len() + "/console.sock".len() > MAX_SOCKET_PATH_BYTES {
            return Err(RegistryError::RootTooLong { root: self.root.clone() });
        }
        DirBuilder::new().mode(0o700).create(&dir).map_err(system("create", &dir))?;
        match enter(&dir, id, draft) {
            Ok(reservation) => Ok(reservation),
            Err(error) => {
                // What's left of it would be swept up later.
                let _ = fs::remove_dir_all(&dir);
                Err(error)
            }
        }
    }

    fn new_id(&self) -> Result<String, RegistryError> {
        loop {
            let mut bytes = [0; ID_BYTES];
            rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
                .map_err(|errno| system("get random bytes for", &self.root)(errno.into()))?;
            let id: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            if !self.vms().join(&id).exists() {
                return Ok(id);
            }
        }
    }

    /// Returns every VM, the oldest first, and every directory that can't be read as one.
    ///
    /// # Errors
    /// The root can't be read.
    pub(crate) fn scan(&self) -> Result<(Vec<Entry>, Vec<Broken>), RegistryError> {
        let vms = self.vms();
        let failed = |source| system("read", &vms)(source);
        let (mut entries, mut broken) = (Vec::new(), Vec::new());
        for child in fs::read_dir(&vms).map_err(failed)? {
            let dir = child.map_err(failed)?.path();
            match VmRecord::load(&dir) {
                Ok(record) => entries.push(Entry { dir, record }),
                // It was removed just now.
                Err(source) if source.kind() == io::ErrorKind::NotFound && !dir.exists() => {}
                Err(source) => broken.push(Broken { dir, source }),
            }
        }
        entries.sort_by(|a, b| {
            let key = |entry: &Entry| (entry.record.created_unix_ms, entry.record.id.clone());
            key(a).cmp(&key(b))
        });
        Ok((entries, broken))
    }

    /// Finds a VM by its name, or by its identifier or the beginning of it.
    ///
    /// # Errors
    /// There's none, or several whose identifiers begin so.
    pub(crate) fn find(&self, reference: &str) -> Result<Entry, RegistryError> {
        let (mut entries, _) = self.scan()?;
        if let Some(index) = entries.iter().position(|entry| entry.record.name == reference) {
            return Ok(entries.swap_remove(index));
        }
        let is_prefix =
            |entry: &Entry| !reference.is_empty() && entry.record.id.starts_with(reference);
        let (mut found, others): (Vec<_>, Vec<_>) = entries.into_iter().partition(is_prefix);
        match found.len() {
            1 => Ok(found.swap_remove(0)),
            0 => Err(RegistryError::NotFound {
                reference: reference.to_owned(),
                running: names(others.iter().filter(|entry| entry.is_alive())),
                ended: names(others.iter().filter(|entry| !entry.is_alive())),
            }),
            _ => Err(RegistryError::Ambiguous {
                reference: reference.to_owned(),
                candidates: found
                    .iter()
                    .map(|entry| format!("{} ({})", entry.record.id, entry.record.name))
                    .collect(),
            }),
        }
    }
}

fn names<'a>(entries: impl Iterator<Item = &'a Entry>) -> Vec<String> {
    entries.map(|entry| entry.record.name.clone()).collect()
}

/// Fills a VM's new directory.
fn enter(dir: &Path, id: String, draft: Draft) -> Result<Reservation, RegistryError> {
    let lock_path = dir.join("lock");
    let lock = LockFile::open(&lock_path)
        .and_then(|lock| lock.take(FlockOperation::NonBlockingLockExclusive))
        .map_err(system("lock", &lock_path))?;
    let record = VmRecord::new(dir, id, draft);
    record.store(dir).map_err(system("write", dir))?;
    Ok(Reservation { entry: Entry { dir: dir.to_owned(), record }, _lock: lock })
}

/// The root that the environment names, the user's own runtime directory, or the system's for
/// root.
fn default_root() -> PathBuf {
    let named = |variable| env::var_os(variable).filter(|value| !value.is_empty());
    if let Some(root) = named(ROOT_VARIABLE) {
        return PathBuf::from(root);
    }
    if let Some(dir) = named("XDG_RUNTIME_DIR") {
        return Path::new(&dir).join("vmctl");
    }
    let uid = rustix::process::geteuid();
    if uid.is_root() {
        return PathBuf::from("/run/vmctl");
    }
    env::temp_dir().join(format!("vmctl-{}", uid.as_raw()))
}

/// Names that start with `base` and a number, from 1 on.
pub(crate) fn numbered(base: &str) -> impl Iterator<Item = String> + '_ {
    let mut number = 0_u32;
    iter::from_fn(move || {
        number = number.checked_add(1)?;
        Some(format!("{base}-{number}"))
    })
}

/// Opens a file of a VM that may grow while it's read.
pub(crate) fn open_file(path: &Path) -> Result<File, RegistryError> {
    File::open(path).map_err(system("open", path))
}
