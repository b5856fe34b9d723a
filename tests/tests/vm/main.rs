//! `vmctl vm`, `vmctl clone` and `vmctl snapshot` over VMs that run Linux.

mod clones;
mod life;
mod snapshots;
mod support;
