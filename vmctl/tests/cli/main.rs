//! The real `vmctl` binary, without KVM: usage errors, and its dealings with the VMM, with signals
//! and with the terminal.

mod images;
mod supervision;
mod support;
mod terminal;
mod usage;
mod vms;
