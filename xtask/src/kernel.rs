//! The lean guest kernel: built from Debian's source with the configuration in
//! `resources/kernel`, cached by the hash of everything that goes into it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, ensure};

use crate::{cache, dirs, process};

mod build;
mod config;
mod progress;

/// The Debian packages that a build needs, each with what it is needed for.
pub(crate) const PACKAGES: &[(&str, &str)] = &[
    (SOURCE_PACKAGE, "the guest kernel's source"),
    ("bc", "the kernel's build computes a timer table with it"),
    ("binutils", "links the guest kernel"),
    ("bison", "generates parsers of the kernel's build"),
    ("flex", "generates lexers of the kernel's build"),
    ("gcc", "compiles the guest kernel"),
    ("libc6-dev", "the tools of the kernel's build are compiled against it"),
    ("libelf-dev", "objtool, which checks the kernel's object files, reads ELF with it"),
    ("make", "runs the kernel's build"),
    ("xz-utils", "unpacks the kernel's source"),
];

const SOURCE_PACKAGE: &str = "linux-source-6.12";
const SOURCE_TARBALL: &str = "/usr/src/linux-source-6.12.tar.xz";

/// Largest kernel that we accept: a lean one is loaded, and its memory spent, for each guest.
const MAX_SIZE_BYTES: u64 = 16 << 20;

/// Builds the lean guest kernel, unless it is cached, and prints its path.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Compilers to run at once [default: one for each processor]
    #[arg(long, value_name = "N")]
    jobs: Option<NonZero<usize>>,
    /// Build again even if the kernel is cached
    #[arg(long)]
    force: bool,
}

/// Runs `cargo xtask kernel`.
///
/// # Errors
///
/// Fails when a package is missing, the configuration can't be met or the build fails.
pub(crate) fn run(args: &Args) -> Result<()> {
    let jobs = args.jobs.map_or_else(default_jobs, NonZero::get);
    println!("{}", obtain(jobs, args.force)?.display());
    Ok(())
}

/// Returns the path of the lean kernel's `vmlinux`, built if it isn't cached.
///
/// # Errors
///
/// See [`run`].
pub(crate) fn ensure() -> Result<PathBuf> {
    obtain(default_jobs(), false)
}

fn default_jobs() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

fn obtain(jobs: usize, force: bool) -> Result<PathBuf> {
    let name = format!("kernel/{}", key()?);
    let entry = dirs::cache()?.join(&name);
    if force && entry.exists() {
        fs::remove_dir_all(&entry).with_context(|| format!("cannot delete {}", entry.display()))?;
    }
    let entry = cache::entry(&name, |out| {
        sweep_interrupted_builds(entry.parent().context("a cache entry has a parent")?)?;
        let work = entry.with_added_extension("build");
        let log = entry.with_added_extension("log");
        build::Build { tarball: Path::new(SOURCE_TARBALL), work: &work, log: &log, jobs }
            .run(out)?;
        check_size(&out.join("vmlinux"))
    })?;
    Ok(entry.join("vmlinux"))
}

/// Deletes what interrupted builds of other configurations have left: nearly a gigabyte each.
/// A running build holds its entry's lock.
fn sweep_interrupted_builds(kernels: &Path) -> Result<()> {
    let entries =
        fs::read_dir(kernels).with_context(|| format!("cannot read {}", kernels.display()))?;
    for entry in entries {
        let work = entry.with_context(|| format!("cannot read {}", kernels.display()))?.path();
        if work.extension() != Some(OsStr::new("build")) {
            continue;
        }
        let lock = File::create(work.with_extension("lock"))
            .with_context(|| format!("cannot create the lock of {}", work.display()))?;
        if lock.try_lock().is_ok() {
            fs::remove_dir_all(&work)
                .with_context(|| format!("cannot delete {}", work.display()))?;
        }
    }
    Ok(())
}

/// Names a kernel by what it is made of: source, compiler, linker, configuration and recipe.
fn key() -> Result<String> {
    ensure!(
        Path::new(SOURCE_TARBALL).is_file(),
        "the guest kernel's source {SOURCE_TARBALL} is missing: install Debian's package \
         {SOURCE_PACKAGE} (`cargo xtask setup` does)"
    );
    let mut source = Command::new("dpkg-query");
    source.args(["--show", "--showformat=${Version}", SOURCE_PACKAGE]);
    Ok(cache::Key::default()
        .with(process::capture(&mut source)?)
        .with(process::capture(Command::new("gcc").arg("--version"))?)
        .with(process::capture(Command::new("ld").arg("--version"))?)
        .with(config::FRAGMENTS.concat())
        .with(build::RECIPE)
        .finish())
}

fn check_size(vmlinux: &Path) -> Result<()> {
    let size =
        fs::metadata(vmlinux).with_context(|| format!("cannot read {}", vmlinux.display()))?.len();
    ensure!(
        size <= MAX_SIZE_BYTES,
        "the guest kernel has {size} bytes, more than the {MAX_SIZE_BYTES} that it may have: \
         the configuration isn't lean any more"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interrupted_builds_are_swept_and_running_ones_kept() {
        let kernels = tempfile::tempdir().unwrap();
        let path = |name: &str| kernels.path().join(name);
        for name in ["interrupted.build", "running.build", "finished"] {
            fs::create_dir(path(name)).unwrap();
            fs::write(path(name).join("file"), "").unwrap();
        }
        let running = File::create(path("running.lock")).unwrap();
        running.lock().unwrap();

        sweep_interrupted_builds(kernels.path()).unwrap();
        assert!(!path("interrupted.build").exists());
        assert!(path("running.build").is_dir() && path("finished").is_dir());
    }
}
