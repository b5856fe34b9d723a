//! The virtual machine monitor: one process per VM, the only user of KVM.

pub mod cli;
pub mod error;
pub mod host_probe;
pub mod interrupts;
pub mod logger;
pub mod machine;
pub mod memory;
mod memory_slots;
pub mod seccomp;
pub mod service;
pub mod snapshot;
pub mod status;
pub mod stop;
pub mod vcpu;
mod x86_64;
