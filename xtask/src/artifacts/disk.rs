//! The Debian root disk: a real distribution with systemd, by the recipe in
//! `resources/images/debian`.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cache::{self, Key};
use crate::progress::step;
use crate::{packages, process};

const PACKAGES: &str = include_str!("../../../resources/images/debian/packages");
const CUSTOMIZE: &str = include_str!("../../../resources/images/debian/customize");

/// The release that guests run, whatever this machine does.
const SUITE: &str = "bookworm";

/// Room for what guests write; the file has holes where nothing is.
const SIZE_BYTES: u64 = 1 << 30;

/// Writes the new root, `$1`, into the image `$2`. mmdebstrap has mounted /proc and others in it,
/// which a bind mount in a mount namespace of our own leaves out.
const WRITE_IMAGE: &str = r#"set -eu
rm -rf "$1"/var/cache/apt/* "$1"/var/lib/apt/lists/* "$1"/var/log/*
unshare --mount sh -eu -c '
    mount --bind "$1" /mnt
    mke2fs -q -t ext4 -L vmctl-debian -E root_owner=0:0,lazy_itable_init=0 -d /mnt "$2"
' sh "$1" "$2"
"#;

/// Returns the path of the disk's image, built if its recipe has changed.
///
/// It is shared by all who use it: to be opened read-only, or copied.
///
/// # Errors
///
/// Fails when `mmdebstrap` or `mke2fs` does, or when the cache can't be written.
pub(crate) fn debian_disk() -> Result<PathBuf> {
    let key = Key::default()
        .with(SUITE)
        .with(PACKAGES)
        .with(CUSTOMIZE)
        .with(WRITE_IMAGE)
        .with(SIZE_BYTES.to_le_bytes())
        .finish();
    let dir = cache::entry(&format!("disk/debian-{key}"), |dir| {
        step("Building the Debian root disk", || build(&dir.join("root.img")))
    })?;
    Ok(dir.join("root.img"))
}

fn build(image: &Path) -> Result<()> {
    let scratch = tempfile::tempdir().context("cannot create a temporary directory")?;
    let customize = write_script(scratch.path(), "customize", CUSTOMIZE)?;
    let write_image = write_script(scratch.path(), "write-image", WRITE_IMAGE)?;
    // Made by us, so that it is ours whoever fills it.
    File::create(image)
        .and_then(|file| file.set_len(SIZE_BYTES))
        .with_context(|| format!("cannot create {}", image.display()))?;

    let mut command = packages::as_root("mmdebstrap");
    command.args(["--mode=root", "--variant=minbase", "--format=null"]);
    command.arg(format!("--include={}", package_names().join(",")));
    for unwanted in ["doc", "man", "locale", "info"] {
        command.arg(format!("--dpkgopt=path-exclude=/usr/share/{unwanted}/*"));
    }
    command.arg(format!("--customize-hook={customize} \"$1\""));
    command.arg(format!(
        "--customize-hook={write_image} \"$1\" {}",
        process::shell_quote(&image.to_string_lossy())
    ));
    process::run(command.args([SUITE, "/dev/null"]))
}

/// Writes a script for `mmdebstrap` to call; returns its path, quoted for a shell.
fn write_script(dir: &Path, name: &str, content: &str) -> Result<String> {
    let path = dir.join(name);
    let content = if content.starts_with("#!") {
        content.to_owned()
    } else {
        format!("#!/bin/sh\n{content}")
    };
    fs::write(&path, content)
        .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o755)))
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(process::shell_quote(&path.to_string_lossy()))
}

fn package_names() -> Vec<&'static str> {
    PACKAGES.lines().filter_map(|line| line.split('#').next()?.split_whitespace().next()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_list_has_no_comments_left_in_it() {
        let names = package_names();
        assert!(names.contains(&"systemd-sysv"));
        assert!(names.iter().all(|name| !name.contains(['#', ' '])));
    }
}
