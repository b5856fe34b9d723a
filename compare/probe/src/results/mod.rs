//! What the program prints: plain values, and how the host reads them.

mod bounded;
mod facts;
mod figures;
mod text;

#[cfg(test)]
mod tests;

pub use facts::{BlockDevice, Capabilities, CgroupLimits, Facts, KernelLog, Mount};
pub use figures::{
    ConnectResult, CpuResult, DiskResult, Latency, LatencyResult, Listening, MemoryResult,
    SyscallResult, Throughput, TransferResult, WebResult,
};
pub use text::Text;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The most bytes of a result.
pub const MAX_RESULT_BYTES: usize = 256 * 1024;

/// What came of writing to a file of `/proc/sys`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcSysResult {
    /// Whether the kernel took the value.
    pub written: bool,
    /// Why not.
    pub error: Option<Text>,
    /// What the file said afterwards, if it could be read.
    pub value: Option<Text>,
}

/// What came of something harmless that an instance might not be let do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptResult {
    /// What was tried: `hostname`, `clock`, `module`, `memory`, `fork`, `panic`, `mount`, `dmesg`,
    /// `raw-disk`.
    pub what: Text,
    /// Whether it was done.
    pub done: bool,
    /// Whether the kernel forbade it. Neither of the two: it couldn't be tried.
    pub refused: bool,
    /// What the kernel said.
    pub error: Option<Text>,
    /// What was done, and what it means, in a sentence.
    pub detail: Text,
    /// How often it was tried, where that's more than once.
    pub tried: Option<u64>,
    /// How often that went well.
    pub succeeded: Option<u64>,
}

/// Why what an instance printed is no result.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// It's longer than any result.
    #[error("the result is {0} bytes long, more than {MAX_RESULT_BYTES}")]
    TooLong(usize),
    /// It's not one line.
    #[error("the result has {0} lines, not 1")]
    Lines(usize),
    /// It's not the JSON that it should be.
    #[error("the result is not what it should be")]
    Json(#[from] serde_json::Error),
}

/// Reads what the program printed.
///
/// # Errors
///
/// It's more than a line, too long, or not such a result. Fields that aren't known are ignored,
/// what's too long in them is cut.
pub fn parse<T: DeserializeOwned>(output: &str) -> Result<T, ParseError> {
    if output.len() > MAX_RESULT_BYTES {
        return Err(ParseError::TooLong(output.len()));
    }
    let lines = output.lines().count();
    if lines != 1 {
        return Err(ParseError::Lines(lines));
    }
    Ok(serde_json::from_str(output)?)
}
