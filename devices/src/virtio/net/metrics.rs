//! What happened to frames, counted.

use crate::virtio::Counter;

/// Counters of one network card since its creation, over all queues and resets.
#[derive(Debug, Default)]
pub struct NetMetrics {
    /// Frames that the guest received.
    pub rx_frames: Counter,
    /// Their bytes, without headers.
    pub rx_bytes: Counter,
    /// Frames for the guest that were dropped because its buffers can't hold them.
    pub rx_dropped: Counter,
    /// Receive buffers that the driver made against the rules, and the device skipped.
    pub rx_bad_buffers: Counter,
    /// Frames that the guest sent.
    pub tx_frames: Counter,
    /// Their bytes, without headers.
    pub tx_bytes: Counter,
    /// Frames that the host's side refused.
    pub tx_dropped: Counter,
    /// Frames that the driver made against the rules (too long, a header that lies).
    pub tx_malformed: Counter,
    /// How often receiving or sending waited for a rate limit.
    pub rate_limited: Counter,
}
