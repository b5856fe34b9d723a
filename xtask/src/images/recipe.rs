//! Recipes: what an image is made of, and its layers made.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

use super::layer;
use super::oci::Image;
use crate::cache::Key;
use crate::{dirs, packages, process};

/// The release that images are made from.
const SUITE: &str = "bookworm";

/// The recipe whose tree is the first layer of all others that are made of packages.
const BASE: &str = "base";

/// The one time of everything that packages bring, so that a file that two trees share is the same
/// to the byte. In seconds since 1970.
const EPOCH_SECONDS: &str = "1700000000";

/// What's left by installing, and differs each time. Logs' directories are the programs' own, and
/// so are links there.
const CLEAN: &str = r#"find "$1"/var/log -type f -delete
rm -rf "$1"/var/cache/apt/* "$1"/var/lib/apt/lists/* \
    "$1"/var/cache/ldconfig/aux-cache "$1"/var/cache/debconf/*-old "$1"/var/lib/dpkg/*-old \
    "$1"/etc/resolv.conf "$1"/etc/hostname"#;

/// The directories that hold recipes, the base first.
const RECIPES: &[&str] = &[BASE, "busybox", "hello-world", "nginx", "redis"];

/// A recipe: a directory with `image.json`, and either packages (and a `customize` script) or a
/// `build` script that fills an empty root.
pub(super) struct Recipe {
    dir: PathBuf,
    description: Description,
}

/// `image.json`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    /// Names with tags, in the registry's library.
    names: Vec<String>,
    /// Packages besides the essential ones; without this, there's a `build` script.
    packages: Option<Vec<String>>,
    /// The image's `config`, as OCI names it.
    config: Value,
}

impl Recipe {
    /// Reads all recipes.
    pub(super) fn all() -> Result<Vec<Self>> {
        RECIPES.iter().map(|name| Self::read(name)).collect()
    }

    fn read(name: &str) -> Result<Self> {
        let dir = dirs::workspace().join("resources/images").join(name);
        let path = dir.join("image.json");
        let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let description = serde_json::from_slice(&text)
            .with_context(|| format!("{} is no recipe", path.display()))?;
        Ok(Self { dir, description })
    }

    /// Adds all that the image is made of.
    pub(super) fn add_to(&self, mut key: Key) -> Result<Key> {
        let mut files: Vec<_> = fs::read_dir(&self.dir)
            .and_then(|entries| entries.map(|entry| entry.map(|it| it.path())).collect())
            .with_context(|| format!("cannot list {}", self.dir.display()))?;
        files.sort();
        for file in files {
            let content =
                fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
            key = key.with(file.file_name().unwrap_or_default().as_encoded_bytes()).with(content);
        }
        Ok(key.with(CLEAN).with(SUITE))
    }

    /// Makes the whole tree as one archive.
    fn tree(&self, archive: &Path) -> Result<()> {
        match &self.description.packages {
            Some(packages) => self.tree_of_packages(packages, archive),
            None => self.tree_from_nothing(archive),
        }
    }

    fn tree_of_packages(&self, names: &[String], archive: &Path) -> Result<()> {
        // Made by us, so that it is ours whoever fills it.
        fs::File::create(archive)
            .with_context(|| format!("cannot create {}", archive.display()))?;
        let mut command = packages::as_root("env");
        command.arg(format!("SOURCE_DATE_EPOCH={EPOCH_SECONDS}"));
        command.args(["mmdebstrap", "--mode=root", "--variant=minbase", "--format=tar"]);
        if !names.is_empty() {
            command.arg(format!("--include={}", names.join(",")));
        }
        command.arg("--aptopt=Apt::Install-Recommends \"false\"");
        for unwanted in ["doc", "man", "locale", "info"] {
            command.arg(format!("--dpkgopt=path-exclude=/usr/share/{unwanted}/*"));
        }
        let customize = self.dir.join("customize");
        if customize.exists() {
            let script = process::shell_quote(&customize.to_string_lossy());
            command.arg(format!("--customize-hook={script} \"$1\""));
        }
        command.arg(format!("--customize-hook={CLEAN}"));
        process::run(command.arg(SUITE).arg(archive))
    }

    fn tree_from_nothing(&self, archive: &Path) -> Result<()> {
        let root = tempfile::tempdir().context("cannot create a temporary directory")?;
        process::run(Command::new(self.dir.join("build")).arg(root.path()).arg(&self.dir))?;
        process::run(
            Command::new("tar")
                .args(["--create", "--sort=name", "--owner=0", "--group=0", "--numeric-owner"])
                .arg(format!("--mtime=@{EPOCH_SECONDS}"))
                .arg("--directory")
                .arg(root.path())
                .arg("--file")
                .arg(archive)
                .arg("."),
        )
    }
}

/// Builds every image in `scratch`: those of packages share the base's layer.
pub(super) fn build_all(recipes: &[Recipe], scratch: &Path) -> Result<Vec<Image>> {
    let mut base: Option<PathBuf> = None;
    let mut images = Vec::new();
    for (number, recipe) in recipes.iter().enumerate() {
        let tree = scratch.join(format!("{number}.tar"));
        recipe.tree(&tree)?;
        let of_packages = recipe.description.packages.is_some();
        let layers = match &base {
            Some(base) if of_packages => {
                let difference = scratch.join(format!("{number}-difference.tar"));
                layer::difference(base, &tree, &difference)?;
                vec![base.clone(), difference]
            }
            _ => vec![tree.clone()],
        };
        if recipe.dir.ends_with(BASE) {
            ensure!(of_packages, "the base is made of packages");
            base = Some(tree);
        }
        let dir = scratch.join(format!("{number}.oci"));
        images.push(Image::write(
            dir,
            &recipe.description.names,
            &recipe.description.config,
            &layers,
        )?);
    }
    Ok(images)
}
