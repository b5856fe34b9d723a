//! Volumes: directories of the host's that outlive the containers that they're mounted in.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::error::{Object, RuntimeError, file, system};
use crate::files::{self, random_hex};
use crate::names;
use crate::options::Volume;
use crate::store::{read_json, write_json};

/// How many random bytes name an anonymous volume.
const NAME_BYTES: usize = 32;

/// What's on its way in or out begins with it: no name does.
const HIDDEN: char = '.';

/// The volumes of a data root. Whoever makes or removes some holds the containers' registry.
#[derive(Clone, Debug)]
pub(crate) struct Volumes {
    dir: PathBuf,
}

impl Volumes {
    pub(crate) const fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// All volumes, by name. What's damaged is left out, with a warning.
    pub(crate) fn list(&self) -> Result<Vec<Volume>, RuntimeError> {
        let mut volumes = Vec::new();
        for child in fs::read_dir(&self.dir).map_err(file("read", &self.dir))? {
            let name = child.map_err(file("read", &self.dir))?.file_name();
            let Some(name) = name.to_str().filter(|name| !name.starts_with(HIDDEN)) else {
                continue;
            };
            match self.get(name) {
                Ok(volume) => volumes.push(volume),
                Err(RuntimeError::NotFound { .. }) => {}
                Err(error) => log::warn!("volume {name} is left out: {error}"),
            }
        }
        volumes.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(volumes)
    }

    pub(crate) fn get(&self, name: &str) -> Result<Volume, RuntimeError> {
        names::check(name, "volume").map_err(|_| no_volume(name))?;
        let dir = self.dir.join(name);
        let mut volume: Volume = match read_json(&dir.join("volume.json"), name) {
            Err(RuntimeError::NotFound { .. }) => return Err(no_volume(name)),
            outcome => outcome?,
        };
        // The data root may have moved.
        name.clone_into(&mut volume.name);
        volume.mountpoint = dir.join("data");
        Ok(volume)
    }

    /// Makes a volume, or returns the one that has the name, and whether it was made. Without a
    /// name it's an anonymous one.
    pub(crate) fn provide(
        &self,
        name: Option<&str>,
        labels: &BTreeMap<String, String>,
    ) -> Result<(Volume, bool), RuntimeError> {
        let chosen = match name {
            Some(name) => {
                names::check(name, "volume")?;
                name.to_owned()
            }
            None => random_hex(NAME_BYTES).map_err(system("get random bytes"))?,
        };
        match self.get(&chosen) {
            Err(RuntimeError::NotFound { .. }) => {}
            outcome => return outcome.map(|volume| (volume, false)),
        }
        let dir = self.dir.join(&chosen);
        let volume = Volume {
            mountpoint: dir.join("data"),
            created: SystemTime::now(),
            labels: labels.clone(),
            anonymous: name.is_none(),
            name: chosen,
        };
        self.make(&dir, &volume)?;
        Ok((volume, true))
    }

    /// Makes it under another name first: there's never half a volume.
    fn make(&self, dir: &Path, volume: &Volume) -> Result<(), RuntimeError> {
        let new = self.hidden("new")?;
        let made = mkdir(&new, 0o700)
            .and_then(|()| mkdir(&new.join("data"), 0o755))
            .map_err(file("create", &new))
            .and_then(|()| write_json(&new.join("volume.json"), volume))
            .and_then(|()| {
                // What's there has no record: its removal was interrupted.
                files::remove_dir_all(dir).map_err(file("remove", dir))?;
                fs::rename(&new, dir).map_err(file("create", dir))
            });
        if made.is_err() {
            let _ = files::remove_dir_all(&new);
        }
        made
    }

    /// Removes a volume; returns how many bytes that frees.
    pub(crate) fn remove(&self, name: &str) -> Result<u64, RuntimeError> {
        self.get(name)?;
        let dir = self.dir.join(name);
        let bytes = crate::usage::disk_bytes(&dir);
        let old = self.hidden("old")?;
        fs::rename(&dir, &old).map_err(file("remove", &dir))?;
        files::remove_dir_all(&old).map_err(file("remove", &old))?;
        Ok(bytes)
    }

    /// Removes what was interrupted.
    pub(crate) fn sweep(&self) -> Result<(), RuntimeError> {
        for child in fs::read_dir(&self.dir).map_err(file("read", &self.dir))? {
            let child = child.map_err(file("read", &self.dir))?;
            if child.file_name().to_string_lossy().starts_with(HIDDEN) {
                let path = child.path();
                files::remove_dir_all(&path).map_err(file("remove", &path))?;
            }
        }
        Ok(())
    }

    fn hidden(&self, what: &str) -> Result<PathBuf, RuntimeError> {
        let random = random_hex(8).map_err(system("get random bytes"))?;
        Ok(self.dir.join(format!("{HIDDEN}{what}-{random}")))
    }
}

/// Makes a directory with just this mode, whatever the process's mask.
fn mkdir(dir: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().mode(mode).create(dir)?;
    fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(mode))
}

fn no_volume(name: &str) -> RuntimeError {
    RuntimeError::NotFound { what: Object::Volume, reference: name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volumes() -> (tempfile::TempDir, Volumes) {
        let dir = tempfile::tempdir().unwrap();
        let volumes = Volumes::new(dir.path().to_owned());
        (dir, volumes)
    }

    #[test]
    fn volume_is_made_once_and_found_by_its_name() {
        let (dir, volumes) = volumes();
        let labels = BTreeMap::from([("a".to_owned(), "1".to_owned())]);
        let (made, is_new) = volumes.provide(Some("web"), &labels).unwrap();
        assert!(is_new && !made.anonymous);
        fs::write(made.mountpoint.join("kept"), "x").unwrap();
        let (again, is_new) = volumes.provide(Some("web"), &BTreeMap::new()).unwrap();
        assert!(!is_new);
        assert_eq!((&again.labels, again.mountpoint), (&labels, dir.path().join("web/data")));
        assert_eq!(volumes.list().unwrap(), [made]);
        volumes.remove("web").unwrap();
        volumes.get("web").unwrap_err();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn names_that_lead_elsewhere_are_no_volumes() {
        let (dir, volumes) = volumes();
        fs::create_dir(dir.path().join("volumes")).unwrap();
        for name in ["", "..", "../x", "/etc", ".new-1", "a/b"] {
            volumes.provide(Some(name), &BTreeMap::new()).unwrap_err();
            assert!(matches!(volumes.get(name), Err(RuntimeError::NotFound { .. })), "{name}");
            volumes.remove(name).unwrap_err();
        }
        assert!(dir.path().join("volumes").is_dir());
    }

    #[test]
    fn what_was_interrupted_is_swept_and_a_damaged_record_is_left_out() {
        let (dir, volumes) = volumes();
        fs::create_dir_all(dir.path().join(".old-1/data")).unwrap();
        fs::create_dir_all(dir.path().join("half/data")).unwrap();
        fs::create_dir(dir.path().join("bad")).unwrap();
        fs::write(dir.path().join("bad/volume.json"), "{").unwrap();
        assert_eq!(volumes.list().unwrap(), []);
        volumes.sweep().unwrap();
        assert!(!dir.path().join(".old-1").exists());
        let (_, is_new) = volumes.provide(Some("half"), &BTreeMap::new()).unwrap();
        assert!(is_new);
    }
}
