//! Where exercises are, and what makes a directory one.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::manifest::Manifest;
use crate::errors::labs::LabError;

/// The variable that names another directory of exercises.
const VARIABLE: &str = "VMCTL_LABS";

/// The most that is read of `lab.toml` and `text.md`, in bytes.
const MAX_MANIFEST_BYTES: u64 = 64 << 10;
const MAX_TEXT_BYTES: u64 = 1 << 20;

/// The longest name, in bytes: with a prefix and a suffix it's still a container's name.
const MAX_NAME: usize = 40;

/// The files that an exercise consists of, beside `lab.toml` and `text.md`.
pub(super) const SCRIPTS: [&str; 3] = ["setup", "check", "reset"];

/// All directories of exercises.
#[derive(Clone, Debug)]
pub(super) struct Labs {
    dirs: Vec<PathBuf>,
}

/// An exercise, whose files are all there.
#[derive(Clone, Debug)]
pub(super) struct Exercise {
    /// The directory's name.
    pub(super) name: String,
    pub(super) dir: PathBuf,
    pub(super) manifest: Manifest,
    pub(super) text: String,
}

impl Labs {
    /// Takes the directory that's asked for, or `VMCTL_LABS`, or all that are in the usual places.
    pub(super) fn find(asked: Option<&Path>, data_root: &Path) -> Result<Self, LabError> {
        let variable = || std::env::var_os(VARIABLE).filter(|it| !it.is_empty()).map(PathBuf::from);
        let asked = asked.map(Path::to_owned).or_else(variable);
        let places = match asked {
            Some(dir) => vec![dir],
            None => usual_places(data_root),
        };
        let dirs: Vec<_> = places.iter().filter(|dir| dir.is_dir()).cloned().collect();
        if dirs.is_empty() {
            let looked: Vec<_> = places.iter().map(|dir| dir.display().to_string()).collect();
            return Err(LabError::NoLabs { looked: looked.join(", ") });
        }
        Ok(Self { dirs })
    }

    /// All exercises in the order of their names, those that can't be used as errors. Of two with the
    /// same name, the first directory's counts.
    pub(super) fn all(&self) -> Result<Vec<Result<Exercise, LabError>>, LabError> {
        let names = self.names()?;
        Ok(names.into_iter().map(|(name, dir)| Exercise::read(name, dir)).collect())
    }

    /// The exercise of this name, with or without its number, or of this number.
    pub(super) fn exercise(&self, asked: &str) -> Result<Exercise, LabError> {
        if !is_name(asked) {
            return Err(LabError::BadName(asked.to_owned()));
        }
        let mut names = self.names()?;
        let name = if names.contains_key(asked) {
            asked.to_owned()
        } else {
            let fits = |name: &&String| {
                let (number, rest) = split_number(name);
                rest == asked || (!number.is_empty() && same_number(number, asked))
            };
            names.keys().find(fits).cloned().ok_or_else(|| LabError::Unknown(asked.to_owned()))?
        };
        let dir = names.remove(&name).ok_or_else(|| LabError::Unknown(asked.to_owned()))?;
        Exercise::read(name, dir)
    }

    fn names(&self) -> Result<BTreeMap<String, PathBuf>, LabError> {
        let mut names = BTreeMap::new();
        for dir in &self.dirs {
            let failed = |source| LabError::File { what: "read", path: dir.clone(), source };
            for entry in fs::read_dir(dir).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                let Ok(name) = entry.file_name().into_string() else { continue };
                // Plain files beside the exercises are nobody's mistake.
                let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
                if is_name(&name) && !is_file {
                    names.entry(name).or_insert_with(|| entry.path());
                }
            }
        }
        Ok(names)
    }
}

fn usual_places(data_root: &Path) -> Vec<PathBuf> {
    let program = std::env::current_exe().unwrap_or_default();
    let beside = program.parent().unwrap_or(Path::new("/"));
    vec![
        beside.join("labs"),
        beside.join("../share/vmctl/labs"),
        PathBuf::from("/usr/share/vmctl/labs"),
        data_root.join("labs"),
    ]
}

/// Whether a text may name an exercise: it's a part of paths and of containers' names.
fn is_name(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    text.len() <= MAX_NAME
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(fits)
}

/// Splits `04-fork-bomb` into `04` and `fork-bomb`.
fn split_number(name: &str) -> (&str, &str) {
    let number = name.trim_start_matches(|c: char| c.is_ascii_digit());
    match number.strip_prefix('-') {
        Some(rest) if number.len() < name.len() && !rest.is_empty() => {
            (&name[..name.len() - number.len()], rest)
        }
        _ => ("", name),
    }
}

fn same_number(number: &str, asked: &str) -> bool {
    matches!((number.parse::<u64>(), asked.parse::<u64>()), (Ok(one), Ok(other)) if one == other)
}

impl Exercise {
    fn read(name: String, dir: PathBuf) -> Result<Self, LabError> {
        let malformed = |problem: String| LabError::Malformed { name: name.clone(), problem };
        let kind = fs::symlink_metadata(&dir).map_err(LabError::file("look at", &dir))?;
        if !kind.is_dir() {
            // A link may lead anywhere, and its scripts would run as root.
            return Err(malformed("is a link or no directory; copy the exercise".to_owned()));
        }
        let manifest = read_file(&dir.join("lab.toml"), MAX_MANIFEST_BYTES)
            .and_then(|text| Manifest::parse(&text))
            .map_err(malformed)?;
        let text = read_file(&dir.join("text.md"), MAX_TEXT_BYTES).map_err(malformed)?;
        for script in SCRIPTS {
            check_script(&dir, script).map_err(malformed)?;
        }
        Ok(Self { name, dir, manifest, text })
    }

    /// What the names of all its containers, networks and images begin with: `lab-` and its name
    /// without the number.
    pub(super) fn prefix(&self) -> String {
        format!("lab-{}", split_number(&self.name).1.to_ascii_lowercase())
    }
}

/// Reads a text of bounded length that isn't reached by a link.
fn read_file(path: &Path, limit: u64) -> Result<String, String> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| match errno {
        rustix::io::Errno::NOENT => format!("{name} is missing"),
        rustix::io::Errno::LOOP => format!("{name} is a link"),
        errno => format!("{name} can't be read: {}", io::Error::from(errno)),
    })?;
    let file = File::from(file);
    if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return Err(format!("{name} is no plain file"));
    }
    let mut text = String::new();
    let read = file.take(limit + 1).read_to_string(&mut text);
    read.map_err(|error| format!("{name} can't be read: {error}"))?;
    if text.len() as u64 > limit {
        return Err(format!("{name} is longer than {} KiB", limit >> 10));
    }
    Ok(text)
}

/// Sees that a script can be run, and that not just anybody has written it.
fn check_script(dir: &Path, name: &str) -> Result<(), String> {
    let metadata = match fs::symlink_metadata(dir.join(name)) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(format!("the script {name} is missing"));
        }
        Err(error) => return Err(format!("the script {name} can't be looked at: {error}")),
    };
    let mode = metadata.permissions().mode();
    if !metadata.is_file() {
        return Err(format!("the script {name} is a link or no plain file"));
    }
    if mode & 0o111 == 0 {
        return Err(format!("the script {name} isn't executable (chmod +x)"));
    }
    if mode & 0o002 != 0 {
        return Err(format!("the script {name} may be changed by everybody (chmod o-w)"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
