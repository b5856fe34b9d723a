//! What happened to requests, counted.

use crate::virtio::Counter;

/// Counters of one block device since its creation, over all queues and resets.
#[derive(Debug, Default)]
pub struct BlockMetrics {
    /// Reads that succeeded.
    pub reads: Counter,
    /// Their bytes.
    pub read_bytes: Counter,
    /// Writes that succeeded.
    pub writes: Counter,
    /// Their bytes.
    pub write_bytes: Counter,
    /// Flushes that succeeded.
    pub flushes: Counter,
    /// Discards and write-zeroes that succeeded.
    pub discards: Counter,
    /// Requests that the host failed to carry out.
    pub failed: Counter,
    /// Requests that the driver made against the rules, or that aren't supported.
    pub rejected: Counter,
    /// How often a queue waited for a rate limit.
    pub rate_limited: Counter,
}
