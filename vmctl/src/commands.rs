//! One module per command, each with its flags and a `run` that returns the exit code.

pub(crate) mod boot;
pub(crate) mod doctor;
