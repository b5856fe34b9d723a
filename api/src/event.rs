//! What a `vmm` process tells whoever started it, as JSON lines on its status descriptor.
//!
//! Times are `CLOCK_MONOTONIC` in nanoseconds, so that a parent's own times compare with them. A
//! reader skips lines that it can't parse: later versions may add events.

use std::io::{self, Write};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::config::Field;

/// One line on the status descriptor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The command that started the process entered its `main`. Not on the status descriptor: the
    /// first line of a file that `vmctl boot --timeline` writes.
    CommandStarted {
        /// When, by `CLOCK_MONOTONIC`.
        monotonic_ns: u64,
    },
    /// The process entered `main`.
    ProcessStarted {
        /// When, by `CLOCK_MONOTONIC`.
        monotonic_ns: u64,
    },
    /// The machine is assembled: memory, kernel, devices and vCPUs are in place.
    VmCreated {
        /// When, by `CLOCK_MONOTONIC`.
        monotonic_ns: u64,
    },
    /// The first vCPU is about to run the kernel's first instruction.
    KernelEntered {
        /// When, by `CLOCK_MONOTONIC`.
        monotonic_ns: u64,
    },
    /// The guest wrote to the boot timer's register: its `init` runs.
    GuestBooted {
        /// When, by `CLOCK_MONOTONIC`.
        monotonic_ns: u64,
    },
    /// The vCPUs and the devices stand still.
    Paused {
        /// When, by `CLOCK_MONOTONIC`.
        monotonic_ns: u64,
    },
    /// The vCPUs and the devices run on.
    Resumed {
        /// When, by `CLOCK_MONOTONIC`.
        monotonic_ns: u64,
    },
    /// The VM was saved, and both files are complete.
    SnapshotCreated {
        /// The file that the state is in.
        #[schema(value_type = String)]
        snapshot_path: PathBuf,
        /// When, by `CLOCK_MONOTONIC`.
        monotonic_ns: u64,
    },
    /// The VM came out of a snapshot; it's paused until `Resumed`.
    SnapshotLoaded {
        /// The file that the state is in.
        #[schema(value_type = String)]
        snapshot_path: PathBuf,
        /// When, by `CLOCK_MONOTONIC`.
        monotonic_ns: u64,
    },
    /// One consistent point of the running VM was saved, and all files are complete.
    Forked {
        /// The file that the state is in.
        #[schema(value_type = String)]
        snapshot_path: PathBuf,
        /// How long the VM stood still, in nanoseconds.
        paused_ns: u64,
        /// When, by `CLOCK_MONOTONIC`.
        monotonic_ns: u64,
    },
    /// A device was added to the running VM.
    DeviceAdded {
        /// Its name on the host's side.
        id: String,
        /// When, by `CLOCK_MONOTONIC`.
        monotonic_ns: u64,
    },
    /// The guest has let go of a device, and it's been removed.
    DeviceRemoved {
        /// Its name on the host's side.
        id: String,
        /// When, by `CLOCK_MONOTONIC`.
        monotonic_ns: u64,
    },
    /// The VM couldn't be started or can't go on. The last event of a process.
    Failed {
        /// What went wrong.
        error: Failure,
    },
    /// The VM has ended. The last event of a process.
    Stopped {
        /// Why it ended.
        reason: StopReason,
        /// When, by `CLOCK_MONOTONIC`.
        monotonic_ns: u64,
    },
}

impl Event {
    /// Writes the event as one line, in a single `write`.
    ///
    /// # Errors
    /// Whatever the writer reports.
    pub fn write_line(&self, out: &mut impl Write) -> io::Result<()> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        out.write_all(&line)
    }

    /// Reads an event from one line.
    ///
    /// # Errors
    /// The line isn't an event that this version knows.
    pub fn parse_line(line: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(line)
    }
}

/// Why a VM ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The guest entered ACPI's soft-off state.
    PowerOff,
    /// The guest reset the machine, which ends a VM as a power-off does.
    Reset,
    /// The guest's kernel reported a panic through the pvpanic device.
    GuestPanic,
    /// A vCPU took a triple fault.
    TripleFault,
    /// Somebody outside the guest ended the VM at once.
    Killed,
    /// The guest hadn't powered off by the deadline after its power button was pressed.
    Deadline,
}

impl StopReason {
    /// The exit code that tells this end, one of those in [`crate::exit`].
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::PowerOff | Self::Reset => crate::exit::STOPPED,
            Self::GuestPanic | Self::TripleFault => crate::exit::GUEST_PANIC,
            Self::Killed | Self::Deadline => crate::exit::FAILURE,
        }
    }
}

/// Why a VM couldn't be started or can't go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Failure {
    /// The sort of failure; stable, for programs.
    pub kind: ErrorKind,
    /// The part of the configuration that it's about, if it's about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub field: Option<Field>,
    /// The outermost error's message.
    pub message: String,
    /// The messages of its sources, outermost first; none repeats another.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
}

impl Failure {
    /// Collects an error and the chain of its sources.
    #[must_use]
    pub fn new(kind: ErrorKind, field: Option<Field>, error: &dyn std::error::Error) -> Self {
        let causes = std::iter::successors(error.source(), |cause| cause.source())
            .map(ToString::to_string)
            .collect();
        Self { kind, field, message: error.to_string(), causes }
    }
}

/// The sort of a failure: stable names for programs, and for `vmctl` to choose a hint by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// The configuration isn't JSON, or has a key or a type that its format doesn't know.
    ConfigSyntax,
    /// A value of the configuration is missing, malformed, out of range or given twice.
    ConfigInvalid,
    /// A value of the configuration asks for what this version doesn't offer.
    ConfigUnsupported,
    /// There's no kernel image at the path.
    KernelMissing,
    /// The kernel image can't be read.
    KernelUnreadable,
    /// The file isn't a kernel that can be booted: empty, truncated, 32-bit, of another
    /// architecture, or no kernel at all.
    KernelUnsupported,
    /// The kernel, its command line or its boot tables don't fit in guest memory.
    KernelTooLarge,
    /// There's no initial RAM disk at the path.
    InitrdMissing,
    /// The initial RAM disk can't be read, or is empty.
    InitrdUnreadable,
    /// The initial RAM disk doesn't fit in guest memory.
    InitrdTooLarge,
    /// There's no disk image at the path.
    DiskMissing,
    /// Another process holds the disk image.
    DiskInUse,
    /// The disk image may not be opened, or not for writing.
    DiskDenied,
    /// The disk image lies on something that can only be read.
    DiskReadOnly,
    /// The disk image has no bytes at all.
    DiskEmpty,
    /// The disk image is no multiple of 512 bytes long.
    DiskSize,
    /// The path is no disk image: a directory, a socket, a damaged or different image format.
    DiskUnsupported,
    /// There's nothing to share at the path, or it's neither a directory nor a file, or it may not be
    /// opened.
    ShareUnusable,
    /// There's no TAP interface of the name.
    TapMissing,
    /// Another process is attached to the TAP interface.
    TapBusy,
    /// The TAP interface belongs to another user, or `/dev/net/tun` may not be opened.
    TapDenied,
    /// The TAP interface was made for one queue, and several were asked for.
    TapSingleQueue,
    /// The interface of the name is no TAP.
    NotTap,
    /// Nobody listens at the socket of a network interface, or it may not be connected to.
    NetSocketUnusable,
    /// There's no `/dev/kvm`.
    KvmMissing,
    /// `/dev/kvm` may not be opened.
    KvmDenied,
    /// This host's KVM can't run an unmodified Linux kernel, or lacks a capability.
    KvmUnable,
    /// Guest memory can't be had from the host.
    MemoryUnavailable,
    /// The huge pages for guest memory can't be had from the host.
    HugePagesUnavailable,
    /// Another process listens on the socket, or a file is in its place.
    SocketInUse,
    /// A socket or an output file can't be created.
    OutputDenied,
    /// io_uring was asked for and the host doesn't let it be used.
    IoUringUnavailable,
    /// There are more devices than the machine has room for.
    TooManyDevices,
    /// A snapshot can't be written or read, is damaged, or doesn't fit this host.
    SnapshotUnusable,
    /// A vCPU can't go on: KVM reported an internal error or a failed entry.
    VcpuFailed,
    /// A thread made a system call that its filter forbids: a guest may have broken out.
    ForbiddenCall,
    /// The host's kernel refuses system call filters.
    SeccompUnavailable,
    /// Whatever has no kind of its own.
    #[serde(other)]
    Internal,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_lines_of_the_documented_form() {
        let event = Event::VmCreated { monotonic_ns: 7 };
        let mut line = Vec::new();
        event.write_line(&mut line).unwrap();
        assert_eq!(line, b"{\"event\":\"vm_created\",\"monotonic_ns\":7}\n");
        assert_eq!(Event::parse_line(&line).unwrap(), event);
    }

    #[test]
    fn events_of_a_running_vm_read_back_as_they_were_written() {
        for (event, text) in [
            (Event::Paused { monotonic_ns: 1 }, r#"{"event":"paused","monotonic_ns":1}"#),
            (Event::Resumed { monotonic_ns: 1 }, r#"{"event":"resumed","monotonic_ns":1}"#),
            (
                Event::SnapshotCreated { snapshot_path: "s".into(), monotonic_ns: 1 },
                r#"{"event":"snapshot_created","snapshot_path":"s","monotonic_ns":1}"#,
            ),
            (
                Event::SnapshotLoaded { snapshot_path: "s".into(), monotonic_ns: 1 },
                r#"{"event":"snapshot_loaded","snapshot_path":"s","monotonic_ns":1}"#,
            ),
            (
                Event::Forked { snapshot_path: "s".into(), paused_ns: 2, monotonic_ns: 1 },
                r#"{"event":"forked","snapshot_path":"s","paused_ns":2,"monotonic_ns":1}"#,
            ),
            (
                Event::DeviceAdded { id: "d".to_owned(), monotonic_ns: 1 },
                r#"{"event":"device_added","id":"d","monotonic_ns":1}"#,
            ),
            (
                Event::DeviceRemoved { id: "d".to_owned(), monotonic_ns: 1 },
                r#"{"event":"device_removed","id":"d","monotonic_ns":1}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&event).unwrap(), text);
            assert_eq!(Event::parse_line(text.as_bytes()).unwrap(), event);
        }
    }

    #[test]
    fn failure_carries_each_cause_once_and_its_field() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] io::Error);

        let field = Field::drive(1, "path_on_host");
        let failure =
            Failure::new(ErrorKind::DiskInUse, Some(field), &Outer(io::Error::other("inner")));
        let line = serde_json::to_string(&Event::Failed { error: failure.clone() }).unwrap();
        assert_eq!(
            line,
            r#"{"event":"failed","error":{"kind":"disk_in_use","field":"drives[1].path_on_host","message":"outer","causes":["inner"]}}"#
        );
        assert_eq!(Event::parse_line(line.as_bytes()).unwrap(), Event::Failed { error: failure });
    }

    #[test]
    fn unknown_error_kind_reads_as_internal() {
        let failure: Failure =
            serde_json::from_str(r#"{"kind":"from_the_future","message":"m"}"#).unwrap();
        assert_eq!(failure.kind, ErrorKind::Internal);
    }

    #[test]
    fn only_an_orderly_end_is_success() {
        assert_eq!(StopReason::PowerOff.exit_code(), 0);
        assert_eq!(StopReason::Reset.exit_code(), 0);
        assert_eq!(StopReason::GuestPanic.exit_code(), 3);
        assert_eq!(StopReason::Killed.exit_code(), 1);
    }
}
