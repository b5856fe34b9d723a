//! The same image as a container and as a virtual machine, measured side by side.
//!
//! ```text
//! ways ──▶ workloads ──▶ Report ──▶ terminal, CSV, JSON, HTML
//!                          └──────▶ differences between two reports
//! ```

pub mod comparison;
pub mod diff;
pub mod host;
pub mod interrupt;
pub mod model;
pub mod report;
pub mod serve;
pub mod statistics;
pub mod ways;
pub mod workloads;

#[cfg(test)]
pub(crate) mod testing;
