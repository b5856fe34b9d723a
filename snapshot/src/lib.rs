//! Snapshot files: what they look like, and everything that needs no virtual machine to be done with
//! them.
//!
//! A snapshot is two files. The *state file* ([`state`]) holds a header that every version of this
//! program can read, and the state of vCPUs and devices. The *memory file* ([`memory`]) holds the
//! guest's RAM, sparse, and a trailer by which a foreign, old or cut-off one is told without reading
//! it whole. Both are checked before any of their content is used, and both replace what had their
//! names in one step ([`publish`]): whoever is killed while writing leaves the older snapshot valid.

mod error;
pub mod header;
pub mod id;
pub mod inspect;
pub mod lazy;
pub mod memory;
pub mod merge;
pub mod publish;
pub mod state;

pub use error::SnapshotError;
pub use header::{CpuSummary, Kind, MemoryInfo, MemoryRegion, SnapshotHeader};
pub use id::SnapshotId;
pub use inspect::{Report, Verify, inspect};
pub use merge::merge;
pub use state::{FORMAT_VERSION, StateFile, read_header};
