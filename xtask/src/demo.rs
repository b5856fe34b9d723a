//! `cargo xtask demo`: from a fresh Debian machine to a booted guest, and to a comparison of virtual
//! machines with containers, by one command.

mod boot;
mod compare;
mod timeline;

use std::env;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};

pub(crate) use self::boot::{Args as BootArgs, run as run_boot};
use crate::lab::{Console, Outcome, Spec};
use crate::packages::{self, Consent, Purpose};
use crate::probe::{self, Place};
use crate::{artifacts, dirs, guest, kernel};

/// How long the boot may take in the lab; it takes about a tenth of this on an idle machine.
const LAB_LIMIT: Duration = Duration::from_secs(10 * 60);

/// Command line of `cargo xtask demo`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Install packages without asking. Without a terminal to ask on, there is no question either.
    #[arg(long)]
    yes: bool,

    /// Boot in the lab, even where this machine's KVM can run Linux.
    #[arg(long)]
    lab: bool,
}

/// Runs `cargo xtask demo`.
///
/// # Errors
///
/// Fails when something that the guest boots from can't be had, or when it doesn't boot.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let place = if args.lab { Place::Lab("--lab asks for it".to_owned()) } else { probe::place() };
    let mut purposes = vec![Purpose::Kernel, Purpose::Disk, Purpose::Demo, Purpose::Images];
    if matches!(place, Place::Lab(_)) {
        purposes.push(Purpose::Lab);
    }
    packages::install(&purposes, if args.yes { Consent::Given } else { Consent::Ask })?;
    let kernel = kernel::ensure()?;
    eprintln!("Guest kernel: {}", kernel.display());
    let disk = artifacts::debian_disk()?;
    eprintln!("Debian root disk: {}", disk.display());
    guest::install()?;

    let vmctl = dirs::target().join("release/vmctl");
    let boot = BootArgs { vmctl, kernel, disk };
    match &place {
        Place::Native(module) => {
            eprintln!("Booting on this machine: its KVM runs Linux, by {module}\n");
            run_boot(&boot)?;
        }
        Place::Lab(reason) => {
            eprintln!("Booting in the lab, an emulated machine: {reason}\n");
            run_in_lab(&boot)?;
        }
    }
    eprintln!("\nComparing an nginx image as a container and as a virtual machine\n");
    compare::run(&place, &boot.vmctl, &boot.disk)?;
    println!(
        "\nTo boot it again and log in as root, without a password:\n{}",
        by_hand(&boot, &place)
    );
    Ok(ExitCode::SUCCESS)
}

/// Runs this program in the lab: what measures must use the same clock as what is measured.
fn run_in_lab(boot: &BootArgs) -> Result<()> {
    let this = env::current_exe().context("cannot find this program's own path")?;
    let mut command = vec![path_text(&this)];
    command.extend(boot.command_line());
    let mut spec = Spec::new(command);
    spec.timeout = Some(LAB_LIMIT);
    in_lab(&spec, "the boot")
}

/// Runs a command in the lab, which must succeed.
fn in_lab(spec: &Spec, what: &str) -> Result<()> {
    let console = Console::Streams {
        stdin: false,
        stdout: Box::new(io::stdout()),
        stderr: Box::new(io::stderr()),
    };
    match spec.run(console)? {
        Outcome::Exited(0) => Ok(()),
        Outcome::Exited(code) => bail!("{what} in the lab failed (exit code {code})"),
        Outcome::TimedOut { .. } => {
            let limit = spec.timeout.unwrap_or_default().as_secs();
            bail!("{what} in the lab wasn't over after {limit} s")
        }
        Outcome::Died { kernel_log } => bail!("the lab ended early{kernel_log}"),
        Outcome::Escaped => bail!("left by the escape sequence"),
    }
}

fn by_hand(boot: &BootArgs, place: &Place) -> String {
    let lab = if matches!(place, Place::Lab(_)) { "cargo xtask lab -- " } else { "" };
    format!(
        "    {lab}{} boot --kernel {} --disk {},ro",
        shortened(&boot.vmctl).display(),
        boot.kernel.display(),
        boot.disk.display()
    )
}

/// Returns a path relative to the checkout if it's in there.
fn shortened(path: &Path) -> PathBuf {
    path.strip_prefix(dirs::workspace()).unwrap_or(path).to_owned()
}

fn path_text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
