//! Versioned configuration, event and error types shared by the VMM and its clients, and the
//! VMM's HTTP API.
//!
//! [`config`] is what a VM is made of, [`event`] what a VMM process tells whoever started it,
//! [`host`] what a host can do, [`exit`] what a process's exit code means. [`action`] is everything
//! that can be asked of a VMM; [`v1`] and [`ext`] are the bodies that it's asked with over HTTP,
//! [`routes`] the paths, [`openapi`] the description of both.

pub mod action;
pub mod config;
mod error;
pub mod event;
pub mod exit;
pub mod ext;
pub mod host;
pub mod http;
pub mod openapi;
pub mod routes;
mod schema;
mod strict;
pub mod v1;

pub use action::{VmmAction, VmmData};
pub use error::{ApiError, Fault, Status};
