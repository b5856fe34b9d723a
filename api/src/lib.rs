//! Versioned configuration, event and error types shared by the VMM and its clients.
//!
//! [`config`] is what a VM is made of, [`event`] what a VMM process tells whoever started it,
//! [`host`] what a host can do, [`exit`] what a process's exit code means.

pub mod config;
pub mod event;
pub mod exit;
pub mod host;
