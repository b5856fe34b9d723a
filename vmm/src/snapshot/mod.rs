//! Guest memory into snapshots, and out of them: what needs the mapped memory.
//!
//! The files themselves are the crate `snapshot`'s business. The machine is paused while memory is
//! copied, but for [`LiveCapture`], which copies it while the guest runs on.

mod lazy;
mod live;
mod memory;
mod recorder;

pub use lazy::{LazyMemory, LazyRestoreError};
pub use live::{CaptureError, LiveCapture};
pub use memory::{write_diff, write_full};
pub use recorder::Recorder;

#[cfg(test)]
mod kvm_tests;
