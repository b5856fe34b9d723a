//! Debian packages: which ones we need and why, which are missing, how to get them.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::progress::step;
use crate::{kernel, process};

/// What a set of packages is needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Purpose {
    /// The emulated machine of `cargo xtask lab`.
    Lab,
    /// Building the guest kernel.
    Kernel,
    /// Building the Debian root disk.
    Disk,
    /// The demo, besides the kernel, the disk and, where it boots there, the lab.
    Demo,
    /// The tests that boot guests.
    Tests,
    /// The container images of the tests and the demo, and their registry.
    Images,
    /// What containers are compared with.
    Contenders,
}

/// All purposes.
pub(crate) const ALL: &[Purpose] =
    &[Purpose::Lab, Purpose::Kernel, Purpose::Disk, Purpose::Demo, Purpose::Tests, Purpose::Images];

/// The name of a Debian package and the reason that we install it for.
type Package = (&'static str, &'static str);

const LAB: &[Package] = &[
    ("qemu-system-x86", "emulates the lab's machine, with AMD SVM"),
    ("busybox-static", "the tools in the lab's initramfs"),
    ("kmod", "indexes the lab kernel's modules and loads them"),
    ("xz-utils", "unpacks the lab kernel's modules"),
];

const DISK: &[Package] = &[
    ("mmdebstrap", "builds the Debian root file system"),
    ("e2fsprogs", "writes it into an ext4 image"),
];

const DEMO: &[Package] = &[
    ("crun", "runs the container that the demo's VM is compared with"),
    ("golang-github-containers-common", "has the containers' system call filter"),
    ("nftables", "connects the demo's containers"),
    ("iproute2", "connects the demo's guest by a TAP device"),
    ("iputils-ping", "shows that the demo's guest answers"),
];

const TESTS: &[Package] = &[
    ("apache2-utils", "makes the passwords of a registry under test"),
    ("busybox-static", "the tools in the test guests' initramfs"),
    ("chromium", "opens the live page"),
    ("crun", "runs the containers that VMs are compared with"),
    ("curl", "asks the API and published ports"),
    ("docker-registry", "is pulled from and pushed to"),
    ("erofs-utils", "checks the file systems that we write"),
    ("fonts-dejavu-core", "are Chromium's letters"),
    ("golang-github-containers-common", "has the containers' system call filter"),
    ("iptables", "connects the containers of a Docker under test"),
    ("nftables", "publishes containers' ports"),
    ("passt", "connects containers without root"),
    ("podman", "reads and writes what we push, pull, save and load"),
    ("skopeo", "reads and writes what we push and pull"),
    ("kmod", "indexes the modules of Debian's cloud kernels"),
    ("xz-utils", "unpacks the modules of Debian's cloud kernels"),
    ("e2fsprogs", "makes file systems on the disks under test"),
    ("iperf3", "measures the network"),
    ("iproute2", "makes TAP devices and network namespaces"),
    ("iputils-ping", "tests the network"),
    ("qemu-utils", "makes qcow2 images that other software wrote"),
];

const IMAGES: &[Package] = &[
    ("busybox-static", "is the busybox image"),
    ("docker-registry", "serves container images"),
    ("mmdebstrap", "builds the images' root file systems"),
    ("skopeo", "copies images into the registry"),
];

const CONTENDERS: &[Package] = &[
    ("aardvark-dns", "resolves names on podman's networks"),
    ("crun", "runs containers"),
    ("netavark", "makes podman's networks"),
    ("podman", "runs containers"),
];

impl Purpose {
    fn packages(self) -> &'static [Package] {
        match self {
            Self::Lab => LAB,
            Self::Kernel => kernel::PACKAGES,
            Self::Disk => DISK,
            Self::Demo => DEMO,
            Self::Tests => TESTS,
            Self::Images => IMAGES,
            Self::Contenders => CONTENDERS,
        }
    }
}

/// Whether [`install`] may ask before it changes the system.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Consent {
    /// The user has agreed already.
    Given,
    /// Ask when there is a terminal to ask on; without one, go on.
    Ask,
}

/// Command line of `cargo xtask setup`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only what is needed for this; may be given more than once [default: all].
    #[arg(long = "for", value_name = "PURPOSE")]
    purposes: Vec<Purpose>,

    /// Don't ask. Without a terminal to ask on, there is no question either.
    #[arg(long)]
    yes: bool,
}

/// Runs `cargo xtask setup`.
///
/// # Errors
///
/// See [`install`].
pub(crate) fn run(args: &Args) -> Result<()> {
    let purposes = if args.purposes.is_empty() { ALL } else { &args.purposes };
    install(purposes, if args.yes { Consent::Given } else { Consent::Ask })?;
    eprintln!("All Debian packages are there.");
    Ok(())
}

/// Installs those packages that are missing, and says which and why.
///
/// # Errors
///
/// Fails when this isn't a Debian-like system, the user declines or `apt-get` fails.
pub(crate) fn install(purposes: &[Purpose], consent: Consent) -> Result<()> {
    let missing = missing(purposes)?;
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("Debian packages to install:");
    eprintln!("{}", listing(&missing));
    ensure!(consent == Consent::Given || agreed()?, "the packages are needed: nothing was done");

    let names: Vec<&str> = missing.iter().map(|(name, _)| *name).collect();
    let known = names.iter().all(|name| candidate(name).is_some());
    if !known {
        update_lists()?;
    }
    let mut command = as_root("apt-get");
    command.args(["install", "--yes", "--quiet=2", "--no-install-recommends"]).args(names);
    let mut install = || step("Installing them", || process::run(&mut command));
    match install() {
        // Old lists name versions that are no longer offered.
        Err(_) if known => {
            update_lists()?;
            install()
        }
        outcome => outcome,
    }
}

/// Fails with the line that would install the missing packages, if there are any.
///
/// # Errors
///
/// See above; also when this isn't a Debian-like system.
pub(crate) fn require(purpose: Purpose) -> Result<()> {
    let missing = missing(&[purpose])?;
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|(name, _)| *name).collect();
    bail!(
        "Debian packages are missing:\n{}\nInstall them with `cargo xtask setup` or:\n    \
         apt-get install --no-install-recommends {}",
        listing(&missing),
        names.join(" ")
    )
}

/// Downloads packages into `dir` and unpacks them there, without installing them.
///
/// # Errors
///
/// Fails when the packages can't be found, downloaded or unpacked.
pub(crate) fn unpack(names: &[&str], dir: &Path) -> Result<()> {
    let downloads = tempfile::tempdir().context("cannot create a temporary directory")?;
    process::run(
        Command::new("apt-get").args(["download", "--quiet"]).args(names).current_dir(&downloads),
    )?;
    let archives = downloads.path().read_dir().context("cannot list the downloaded packages")?;
    for archive in archives {
        let archive = archive.context("cannot list the downloaded packages")?.path();
        process::run(Command::new("dpkg-deb").arg("--extract").arg(archive).arg(dir))?;
    }
    Ok(())
}

/// Returns the first of `names` that this system's package lists know, fetching the lists when
/// they know none.
///
/// # Errors
///
/// Fails when none is known even then.
pub(crate) fn first_known<'a>(names: &[&'a str]) -> Result<&'a str> {
    let find = || names.iter().copied().find(|name| candidate(name).is_some());
    if let Some(name) = find() {
        return Ok(name);
    }
    update_lists()?;
    find().with_context(|| format!("no Debian package source offers {}", names.join(" or ")))
}

/// Returns the package starting with `prefix` that `name`, which is a metapackage, depends on.
///
/// # Errors
///
/// Fails when there is no such dependency.
pub(crate) fn dependency(name: &str, prefix: &str) -> Result<String> {
    let listing =
        process::capture(Command::new("apt-cache").args(["depends", "--important", name]))?;
    listing
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|dependency| dependency.starts_with(prefix))
        .map(str::to_owned)
        .with_context(|| format!("the Debian package {name} depends on no {prefix}*"))
}

/// Returns the version of a package that would be downloaded, `None` when there is none.
pub(crate) fn candidate(name: &str) -> Option<String> {
    let policy = process::capture(Command::new("apt-cache").args(["policy", name])).ok()?;
    let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    (version != "(none)").then(|| version.to_owned())
}

fn missing(purposes: &[Purpose]) -> Result<Vec<Package>> {
    let mut missing: Vec<Package> = Vec::new();
    for (name, reason) in purposes.iter().flat_map(|purpose| purpose.packages()) {
        let seen = missing.iter().any(|(other, _)| other == name);
        if !seen && !is_installed(name)? {
            missing.push((name, reason));
        }
    }
    Ok(missing)
}

/// Writes packages as a list for people, a line each.
fn listing(packages: &[Package]) -> String {
    let lines: Vec<String> =
        packages.iter().map(|(name, reason)| format!("    {name:<18} {reason}")).collect();
    lines.join("\n")
}

fn is_installed(name: &str) -> Result<bool> {
    let mut command = Command::new("dpkg-query");
    command.args(["--show", "--showformat=${db:Status-Status}", name]).stderr(Stdio::null());
    let output = command
        .output()
        .map_err(|error| process::spawn_error(&command, error))
        .context("only Debian and its derivatives are supported: their packages are needed")?;
    Ok(output.stdout == b"installed")
}

fn agreed() -> Result<bool> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Ok(true);
    }
    eprint!("Install them? [Y/n] ");
    io::stderr().flush().context("cannot write to the terminal")?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).context("cannot read from the terminal")?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "" | "y" | "yes"))
}

fn update_lists() -> Result<()> {
    step("Fetching the lists of Debian packages", || {
        process::run(as_root("apt-get").args(["update", "--quiet=2"]))
    })
}

/// Prepares a command that changes the system: by `sudo` unless we are root, and never asking.
pub(crate) fn as_root(program: &str) -> Command {
    let mut command = if rustix::process::geteuid().is_root() {
        Command::new("env")
    } else {
        let mut command = Command::new("sudo");
        command.arg("env");
        command
    };
    command.arg("DEBIAN_FRONTEND=noninteractive").arg(program);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dpkg_is_installed_and_a_name_nobody_uses_is_not() {
        assert!(is_installed("dpkg").unwrap());
        assert!(!is_installed("no-such-package-xyz").unwrap());
    }
}
