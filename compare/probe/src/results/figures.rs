//! What was measured.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Text, bounded};

/// How long something took that was done many times, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    /// How many times.
    pub count: u64,
    /// The shortest.
    pub min_ns: u64,
    /// Half took at most this.
    pub median_ns: u64,
    /// 99 of 100 took at most this.
    pub p99_ns: u64,
}

/// A fixed loop of arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuResult {
    /// How often it went round.
    pub iterations: u64,
    /// Time in nanoseconds.
    pub elapsed_ns: u64,
    /// Processor time in nanoseconds.
    pub cpu_ns: u64,
    /// What was computed: the same everywhere for as many iterations.
    pub checksum: u64,
}

/// System calls.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SyscallResult {
    /// Which: `getppid`, `openclose`, `pipe`.
    pub kind: Text,
    /// How many times; each time of `openclose` and `pipe` is two calls.
    pub count: u64,
    /// Time in nanoseconds.
    pub elapsed_ns: u64,
    /// Processor time in nanoseconds.
    pub cpu_ns: u64,
    /// Time of one call, or of the two of `openclose` and `pipe`.
    #[serde(deserialize_with = "bounded::figure")]
    pub ns_per_call: f64,
}

/// Memory.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemoryResult {
    /// The size of what was copied and walked through.
    pub bytes: u64,
    /// How often it was copied.
    pub rounds: u64,
    /// Bytes copied per second, each counted once.
    #[serde(deserialize_with = "bounded::figure")]
    pub bytes_per_second: f64,
    /// How many loads were made, each of where the one before said.
    pub loads: u64,
    /// Time of such a load.
    #[serde(deserialize_with = "bounded::figure")]
    pub ns_per_load: f64,
    /// How many fresh pages were touched.
    pub pages: u64,
    /// How many page faults that made. Without huge pages: as many.
    pub faults: u64,
    /// Time until a fresh page was there.
    #[serde(deserialize_with = "bounded::figure")]
    pub ns_per_page: f64,
}

/// Reads or writes, one after another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Throughput {
    /// Bytes per second.
    #[serde(deserialize_with = "bounded::figure")]
    pub bytes_per_second: f64,
    /// Reads or writes per second.
    #[serde(deserialize_with = "bounded::figure")]
    pub operations_per_second: f64,
    /// How long each took.
    pub latency: Latency,
}

/// A file on a disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DiskResult {
    /// What measured it: `fio-3.33`, `vmctl's own`.
    pub tool: Text,
    /// The file's size.
    pub bytes: u64,
    /// The size of random reads and writes.
    pub block_bytes: u64,
    /// How many of either there were.
    pub operations: u64,
    /// Whether random reads and writes went past the kernel's cache.
    pub direct: bool,
    /// Why not, where that was asked for.
    pub direct_error: Option<Text>,
    /// Writes of 1 MiB from the file's beginning to its end. The rates include a flush at the end.
    pub sequential_write: Throughput,
    /// Reads of 1 MiB, after the kernel was told to forget what it cached.
    pub sequential_read: Throughput,
    /// Reads of a block each, anywhere in the file.
    pub random_read: Throughput,
    /// Writes of a block each, anywhere in the file.
    pub random_write: Throughput,
    /// Flushes to the disk, each after a write of a block.
    pub fsync: Latency,
}

/// A server is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listening {
    /// Its TCP port.
    pub listening: u16,
}

/// Round trips of one byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatencyResult {
    /// How long they took.
    #[serde(flatten)]
    pub latency: Latency,
}

/// Bytes sent in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TransferResult {
    /// How many.
    pub bytes: u64,
    /// Time in nanoseconds, until the last one had arrived.
    pub elapsed_ns: u64,
    /// Bytes per second.
    #[serde(deserialize_with = "bounded::figure")]
    pub bytes_per_second: f64,
}

/// A web server's answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WebResult {
    /// How many answers there were.
    pub requests: u64,
    /// Over how many connections at a time.
    pub connections: u64,
    /// Time in nanoseconds.
    pub elapsed_ns: u64,
    /// Answers per second.
    #[serde(deserialize_with = "bounded::figure")]
    pub requests_per_second: f64,
    /// How long each took.
    pub latency: Latency,
    /// How many answers had which status.
    pub statuses: BTreeMap<u16, u64>,
    /// Bytes of the answers' bodies.
    pub body_bytes: u64,
    /// How often the server closed a connection, so that another was made.
    pub reconnections: u64,
}

/// A server's first answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectResult {
    /// Time from the beginning to the first answer, in nanoseconds.
    pub elapsed_ns: u64,
    /// How often it was tried.
    pub attempts: u64,
    /// The answer's status, if it's one in HTTP.
    pub status: Option<u16>,
}
