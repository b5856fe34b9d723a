//! What runs inside a container and a virtual machine alike, to see and to measure.
//!
//! The program `compare-probe` is linked statically and needs nothing of the image that it's put
//! into: no shell, no library, no writable directory. It does the same work in either, and prints
//! what it found as one line of JSON. The library has the work itself, the clients that the host
//! runs against an instance, and the results' types.
//!
//! ```text
//! host                          instance
//! results::parse ◀── a line ─── compare-probe facts | try | cpu | syscall | memory | disk
//! remote         ◀── vsock ───▶ compare-probe vsock-server, in a full VM
//! network, http  ◀── TCP ─────▶ compare-probe net-server | web-server, or the image's own server
//! ```
//!
//! # Trust
//!
//! What an instance prints or answers may have been made by an attacker: [`results::parse`] and the
//! clients read bounded amounts only, and [`results::Text`] has no control characters.

pub mod attempts;
pub mod facts;
pub mod http;
pub mod measure;
pub mod network;
pub mod remote;
pub mod results;

mod distribution;
mod error;
mod files;
mod life;
mod places;

pub use distribution::latency;
pub use error::ProbeError;
pub use life::{exit_on_signals, idle, sleep_until_end_of_input};
