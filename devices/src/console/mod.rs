//! The host's side of a guest's console: where its output goes and where its input comes from.
//!
//! The serial port and the virtio console share it. Neither a guest that floods its console nor a
//! reader that stops reading can grow this process or hold a vCPU for good; neither an eager typist
//! nor a guest that doesn't read its input can either.

mod input;
mod output;
mod socket;

pub use input::{ConsoleInput, InputTarget};
pub use output::ConsoleOutput;
pub use socket::{ConsoleServer, ConsoleSocket};
