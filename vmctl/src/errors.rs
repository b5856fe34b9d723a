//! Everything that a user is told about a failure, and every exit code: the only place that
//! prints either.

pub(crate) mod compare;
pub(crate) mod containers;
pub(crate) mod labs;

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::{ExitCode, ExitStatus};

use api::config::ConfigError;
use api::event::{ErrorKind, Failure, StopReason};
use api::exit;
use api::http::ClientError;
use snapshot::SnapshotError;
use thiserror::Error;

use self::compare::CompareError;
use self::containers::ContainerError;
use self::labs::LabError;
use crate::registry::RegistryError;
use crate::registry::status::Status;

/// The exit code of `run` for its own failures.
const RUN_FAILURE: u8 = 125;

/// Why a command ended without success.
#[derive(Debug, Error)]
pub(crate) enum CliError {
    /// `--config` names a file that can't be read.
    #[error("--config {}: the file can't be read", path.display())]
    ConfigUnreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A flag, or the configuration file, is wrong.
    #[error("{place}: {problem}")]
    Config {
        /// The flag and its value, or the file and the place in it.
        place: String,
        /// What's wrong.
        problem: String,
        /// The error that says so; not printed again.
        error: Box<ConfigError>,
    },
    /// There's no `vmm` to start.
    #[error("the vmm program wasn't found: {looked}")]
    VmmNotFound {
        /// Where it isn't.
        looked: String,
    },
    /// `vmm` is there and can't be started.
    #[error("{} can't be started", path.display())]
    VmmStart {
        /// The program.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// `vmm --probe-host` gave no report.
    #[error("{} gave no report on this host", path.display())]
    Probe {
        /// The program.
        path: PathBuf,
        /// What's wrong with what it gave.
        source: io::Error,
    },
    /// `--timeline` names a file that can't be written.
    #[error("--timeline {}: the file can't be written", path.display())]
    Timeline {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Waiting for the VM, or handling the terminal, failed.
    #[error("{what}")]
    System {
        /// What couldn't be done.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The result can't be printed.
    #[error("standard output can't be written")]
    Output(#[source] io::Error),
    /// The VMM couldn't start the VM or go on with it.
    #[error("{}", failure_message(place.as_deref(), failure))]
    Vm {
        /// The flag and its value that the failure is about.
        place: Option<String>,
        /// What the VMM said.
        failure: Box<Failure>,
    },
    /// The VM came to an end that's no success.
    #[error("{}", stop_message(*.0))]
    Stopped(StopReason),
    /// Somebody else ended the VM at once.
    #[error("the VM was ended by {0}")]
    EndedBy(&'static str),
    /// The registry of VMs can't be used so.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Something about containers, images, volumes or networks.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// Something about exercises.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// Something about comparisons.
    #[error(transparent)]
    Compare(#[from] CompareError),
    /// A VM didn't do what it was asked for.
    #[error("{name}: {error}")]
    Request {
        /// The VM.
        name: String,
        /// What its VMM said; not printed again.
        error: ClientError,
    },
    /// A VM isn't in a state that the command can deal with.
    #[error("{name} isn't running: it's {}", status.describe())]
    NotRunning {
        /// The VM.
        name: String,
        /// How it fares.
        status: Box<Status>,
    },
    /// A VM has no such device.
    #[error("{name} has no device {id}")]
    NoDevice {
        /// The VM.
        name: String,
        /// What was looked for.
        id: String,
        /// All that it has.
        known: String,
    },
    /// A VM's console can't be connected to.
    #[error("{name} has no console to connect to")]
    NoConsole {
        /// The VM.
        name: String,
    },
    /// A VM in the foreground logs to its terminal.
    #[error("{name} logs to the terminal that it was booted from")]
    LogIsElsewhere {
        /// The VM.
        name: String,
    },
    /// A flag's value is malformed.
    #[error("{flag} {value}: {problem}")]
    BadValue {
        /// The flag.
        flag: &'static str,
        /// Its value.
        value: String,
        /// What's wrong with it.
        problem: &'static str,
    },
    /// Files of a snapshot, a clone or the manual can't be read or written.
    #[error("{}: can't be {what}", dir.display())]
    SnapshotDir {
        /// Where they are.
        dir: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A snapshot can't be used.
    #[error(transparent)]
    Snapshot(Box<SnapshotError>),
    /// A signal asked this process to end while a VM was started; the VM has ended too.
    #[error("the VM's start was interrupted")]
    Interrupted,
    /// The VMM ended without a word.
    #[error("the vmm process ended unexpectedly: {0}")]
    VmmDied(ExitStatus),
}

impl CliError {
    /// The exit code of `run`, whose own failures are told apart from the container's: 125, or 126
    /// or 127 for a command that can't be started.
    pub(crate) fn run_code(&self) -> u8 {
        match self {
            Self::Container(error) => error.run_code(),
            _ => RUN_FAILURE,
        }
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Container(error) if error.is_usage() => exit::USAGE,
            Self::Lab(error) => error.exit_code(),
            Self::Config { .. } | Self::BadValue { .. } => exit::USAGE,
            Self::Registry(error) if error.is_usage() => exit::USAGE,
            Self::Vm { failure, .. } => match failure.kind {
                ErrorKind::ConfigSyntax
                | ErrorKind::ConfigInvalid
                | ErrorKind::ConfigUnsupported => exit::USAGE,
                _ => exit::FAILURE,
            },
            Self::Stopped(reason) => reason.exit_code(),
            Self::EndedBy(_) => StopReason::Killed.exit_code(),
            _ => exit::FAILURE,
        }
    }

    /// The messages behind this one, outermost first.
    fn causes(&self) -> Vec<String> {
        let source = match self {
            Self::Vm { failure, .. } => return failure.causes.clone(),
            Self::Config { error, .. } => std::error::Error::source(error.as_ref()),
            Self::Request { error, .. } => std::error::Error::source(error),
            _ => std::error::Error::source(self),
        };
        std::iter::successors(source, |error| error.source()).map(ToString::to_string).collect()
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Registry(error) => error.hint(),
            Self::Container(error) => error.hint(),
            Self::Lab(error) => error.hint(),
            Self::Compare(error) => error.hint().map(str::to_owned),
            Self::NotRunning { name, status } => Some(status_hint(name, status)),
            Self::Request { name, error } => request_hint(name, error),
            Self::NoDevice { known, .. } => Some(format!("it has {known}")),
            other => other.fixed_hint().map(str::to_owned),
        }
    }

    fn fixed_hint(&self) -> Option<&'static str> {
        match self {
            Self::NoConsole { .. } => Some(
                "a detached VM has one, unless --console says otherwise; another's is where \
                 --console sent it",
            ),
            Self::Config { error, .. } => config_hint(error),
            Self::VmmNotFound { .. } => Some(
                "vmm is built and installed beside vmctl (cargo build -p vmm); VMCTL_VMM names \
                 another one",
            ),
            Self::Vm { failure, .. } => kind_hint(failure.kind),
            Self::Stopped(StopReason::GuestPanic) => {
                Some("the guest's console says what happened, if its command line has console=")
            }
            Self::Stopped(StopReason::Deadline) => Some(
                "the guest may have no power button driver (CONFIG_ACPI_BUTTON) or nothing that \
                 listens to it; --shutdown-timeout gives it longer",
            ),
            Self::VmmDied(_) => Some("vmctl -vv boot shows what vmm did before"),
            _ => None,
        }
    }
}

/// Prints an error with its causes and a hint, and returns its exit code.
pub(crate) fn report(error: &CliError) -> ExitCode {
    let mut text = format!("error: {error}\n");
    for cause in error.causes() {
        // Writing to a string can't fail.
        let _ = writeln!(text, "caused by: {cause}");
    }
    if let Some(hint) = error.hint() {
        let _ = writeln!(text, "hint: {hint}");
    }
    // There's nobody left to tell when even this fails.
    let _ = io::stderr().write_all(text.as_bytes());
    ExitCode::from(error.exit_code())
}

/// Prints what clap has to say (an error in the flags, help, the version), and returns its exit
/// code: for `run` and `exec` one that their containers' processes don't have.
pub(crate) fn report_usage(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    if !error.use_stderr() {
        return ExitCode::SUCCESS;
    }
    let words: Vec<_> =
        std::env::args().skip(1).filter(|word| !word.starts_with('-')).take(2).collect();
    let command = words.strip_prefix(&["container".to_owned()]).unwrap_or(&words).first();
    match command.map(String::as_str) {
        Some("run" | "exec") => ExitCode::from(RUN_FAILURE),
        _ => ExitCode::from(exit::USAGE),
    }
}

/// Tells the user something while a VM runs. A raw terminal still turns `\n` into a new line.
pub(crate) fn notice(text: &str) {
    let _ = io::stderr().write_all(format!("{text}\n").as_bytes());
}

fn failure_message(place: Option<&str>, failure: &Failure) -> String {
    match place {
        Some(place) => format!("{place}: {}", failure.message),
        None => failure.message.clone(),
    }
}

fn stop_message(reason: StopReason) -> &'static str {
    match reason {
        StopReason::PowerOff => "the guest powered off",
        StopReason::Reset => "the guest reset the machine",
        StopReason::GuestPanic => "the guest's kernel panicked (exit code 3)",
        StopReason::TripleFault => "the guest's CPU took a triple fault (exit code 3)",
        StopReason::Killed => "the VM was ended before the guest had powered off",
        StopReason::Deadline => "the guest didn't power off in time, and the VM was ended",
    }
}

fn config_hint(error: &ConfigError) -> Option<&'static str> {
    let field = error.field()?;
    match (field.to_string().as_str(), error) {
        ("boot-source.kernel_image_path", ConfigError::Missing { .. }) => {
            Some("give --kernel PATH, a bzImage (such as Debian's /boot/vmlinuz-*) or a vmlinux")
        }
        ("vsock.guest_cid", _) => Some("0, 1 and 2 are the host's; 3 is the usual first guest"),
        _ => None,
    }
}

/// What can be done with a VM in this state.
fn status_hint(name: &str, status: &Status) -> String {
    match status {
        Status::Paused => format!("vmctl vm resume {name}"),
        Status::Starting | Status::Created => "wait until it has started".to_owned(),
        Status::Unresponsive { .. } => format!("vmctl vm kill {name} ends it"),
        Status::Crashed | Status::Killed | Status::Failed { .. } => {
            format!("vmctl vm logs {name} shows what its VMM said; vmctl vm rm {name} forgets it")
        }
        _ => format!("vmctl vm rm {name} forgets it"),
    }
}

/// What to do about a request that a VMM refused or didn't answer.
fn request_hint(name: &str, error: &ClientError) -> Option<String> {
    match error {
        ClientError::TimedOut { .. } => Some(format!("vmctl vm kill {name} ends it")),
        ClientError::NoSocket { .. } | ClientError::Refused { .. } | ClientError::HungUp { .. } => {
            Some(format!("vmctl vm inspect {name} shows what has become of it"))
        }
        _ => None,
    }
}

/// What to do about a failure of the VMM.
fn kind_hint(kind: ErrorKind) -> Option<&'static str> {
    Some(match kind {
        ErrorKind::KernelUnsupported => {
            "a kernel is a bzImage or an uncompressed vmlinux (ELF) of this machine's 64-bit \
             architecture"
        }
        ErrorKind::KernelTooLarge | ErrorKind::InitrdTooLarge => "give the VM more with --memory",
        ErrorKind::DiskInUse => {
            "another VM has the image open; several can share one that all attach with ,ro"
        }
        ErrorKind::DiskDenied | ErrorKind::DiskReadOnly => {
            "attach it with ,ro if the guest needn't write"
        }
        ErrorKind::DiskEmpty => "truncate --size=10G IMAGE makes an empty disk of 10 GiB",
        ErrorKind::DiskSize => "truncate --size=%512 IMAGE rounds an image up to whole sectors",
        ErrorKind::DiskUnsupported => {
            "an image is a regular file or a block device, raw unless ,format=qcow2 says otherwise; \
             its format is never guessed"
        }
        ErrorKind::TapMissing => {
            "ip tuntap add NAME mode tap user $USER vnet_hdr && ip link set NAME up"
        }
        ErrorKind::ShareUnusable => "--share takes a directory, or a file, that you may open",
        ErrorKind::TapBusy => "each VM needs a TAP of its own",
        ErrorKind::NetSocketUnusable => "start what listens there first: passt --socket PATH",
        ErrorKind::TapDenied => {
            "make the TAP yours (ip tuntap add NAME mode tap user $USER vnet_hdr), and see that \
             you may open /dev/net/tun"
        }
        ErrorKind::NotTap => {
            "--net takes a TAP, which may be a port of a bridge: ip tuntap add NAME mode tap user \
             $USER vnet_hdr"
        }
        ErrorKind::TapSingleQueue => {
            "several queues need a TAP made for them: ip tuntap add NAME mode tap multi_queue \
             vnet_hdr"
        }
        ErrorKind::KvmMissing => {
            "load the module (modprobe kvm_intel or kvm_amd); in a cloud VM, choose a type with \
             nested virtualization; vmctl doctor shows more"
        }
        ErrorKind::KvmDenied => {
            "join the group that owns it: sudo usermod -aG kvm $USER, then log in again"
        }
        ErrorKind::KvmUnable => {
            "vmctl doctor shows what this host lacks; cargo xtask lab -- vmctl boot ... boots in \
             an emulated machine that has it"
        }
        ErrorKind::MemoryUnavailable => "give the VM less with --memory",
        ErrorKind::HugePagesUnavailable => {
            "reserve 2 MiB pages first (sysctl vm.nr_hugepages=N), or leave out --hugepages"
        }
        ErrorKind::SocketInUse => {
            "give each VM a socket of its own; if the one that listened there was killed, remove \
             the file that it left"
        }
        ErrorKind::IoUringUnavailable => "use engine=sync; vmctl doctor says why",
        _ => return None,
    })
}
