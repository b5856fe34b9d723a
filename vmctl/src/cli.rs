//! The command line as a whole; each command's own flags are with the command.

use clap::{ArgAction, Parser, Subcommand};
use log::LevelFilter;

use crate::commands::bench::BenchArgs;
use crate::commands::boot::BootArgs;
use crate::commands::build::BuildArgs;
use crate::commands::compare::CompareArgs;
use crate::commands::container::{ContainerCommand, GroupArgs, PsArgs, SUPERVISE, SuperviseArgs};
use crate::commands::doctor::DoctorArgs;
use crate::commands::generate::{CompletionArgs, ManArgs};
use crate::commands::image::{
    GroupArgs as ImageGroupArgs, ImageCommand, ImagesArgs, LoginArgs, LogoutArgs, RmiArgs,
};
use crate::commands::inspect::InspectArgs;
use crate::commands::lab::LabArgs;
use crate::commands::network::NetworkArgs;
use crate::commands::snapshot::SnapshotArgs;
use crate::commands::system::{GroupArgs as SystemGroupArgs, SystemCommand, VersionArgs};
use crate::commands::vm::{CloneArgs, VmArgs};
use crate::commands::volume::VolumeArgs;

/// Boots virtual machines and runs containers as virtual machines, with KVM.
#[derive(Debug, Parser)]
#[command(name = "vmctl", version, propagate_version = true)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,

    /// Says more on standard error: -v what happens, -vv for debugging, -vvv everything.
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
}

/// A command of `vmctl`. Each is documented with its arguments: a docstring here would replace that
/// one in the help.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    #[command(flatten)]
    Shared(ContainerCommand),
    Ps(PsArgs),
    #[command(flatten)]
    Images(ImageCommand),
    #[command(name = "images")]
    ListImages(ImagesArgs),
    Rmi(RmiArgs),
    Build(Box<BuildArgs>),
    Login(LoginArgs),
    Logout(LogoutArgs),
    Inspect(InspectArgs),
    #[command(flatten)]
    System(SystemCommand),
    Version(VersionArgs),
    Container(GroupArgs),
    Image(ImageGroupArgs),
    Network(NetworkArgs),
    Volume(VolumeArgs),
    #[command(name = "system")]
    SystemGroup(SystemGroupArgs),
    #[command(name = SUPERVISE, hide = true)]
    Supervise(SuperviseArgs),
    Boot(Box<BootArgs>),
    Vm(Box<VmArgs>),
    Clone(CloneArgs),
    Snapshot(SnapshotArgs),
    Lab(LabArgs),
    Compare(Box<CompareArgs>),
    Bench(Box<BenchArgs>),
    Doctor(DoctorArgs),
    Completion(CompletionArgs),
    Man(ManArgs),
}

impl Cli {
    /// How much to log, here and in the processes that are started.
    pub(crate) fn log_level(&self) -> LevelFilter {
        match self.verbose {
            0 => LevelFilter::Warn,
            1 => LevelFilter::Info,
            2 => LevelFilter::Debug,
            _ => LevelFilter::Trace,
        }
    }
}
