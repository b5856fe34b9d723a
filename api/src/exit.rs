//! Exit codes of `vmctl boot` and of a `vmm` process: both use the same ones.

/// The guest powered itself off, or asked for a reboot.
pub const STOPPED: u8 = 0;

/// The VM couldn't be started, failed, or was ended from outside before the guest had powered off.
pub const FAILURE: u8 = 1;

/// A flag or a configuration is wrong. Nothing was started.
pub const USAGE: u8 = 2;

/// The guest's kernel reported a panic (pvpanic), or its CPU took a triple fault.
pub const GUEST_PANIC: u8 = 3;

/// A thread of `vmm` made a system call that its filter forbids; the number is Firecracker's.
pub const FORBIDDEN_CALL: u8 = 148;
