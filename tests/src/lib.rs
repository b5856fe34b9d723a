//! What the suites in `tests/tests/` share: a VM as a user starts it, and a shell inside it.
//!
//! `cargo xtask test` builds what they need and runs them where KVM can run Linux: on this machine,
//! or in the lab. Each VM's console is logged; the log is kept when its test fails.

pub mod api_vm;
pub mod artifacts;
pub mod console;
pub mod containers;
pub mod curl;
pub mod docker;
pub mod guest;
pub mod network;
pub mod python;
pub mod terminal;
pub mod transcript;
pub mod transfer;
pub mod vm;
pub mod vsock;

use std::time::Duration;

/// How long anything may take that a guest does. Generous: in the lab every instruction is
/// emulated, and several guests share two processors.
pub const PATIENCE: Duration = Duration::from_secs(300);
