//! One module per command, each with its flags and a `run` that returns the exit code.

pub(crate) mod boot;
pub(crate) mod container;
pub(crate) mod doctor;
pub(crate) mod generate;
pub(crate) mod snapshot;
pub(crate) mod vm;
