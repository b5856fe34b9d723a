//! What happened on a socket device, counted.

use crate::virtio::Counter;

/// Counters of one socket device since its creation, over all resets.
#[derive(Debug, Default)]
pub struct VsockMetrics {
    /// Connections that either side asked for and got.
    pub opened: Counter,
    /// Connections that either side asked for and didn't get.
    pub refused: Counter,
    /// Payload bytes from the guest.
    pub guest_bytes: Counter,
    /// Payload bytes to the guest.
    pub host_bytes: Counter,
    /// Resets that were sent to the guest.
    pub resets: Counter,
    /// Packets from the guest that were ignored: addressed wrongly, or not packets at all.
    pub bad_packets: Counter,
    /// Receive buffers that the driver made against the rules, and the device skipped.
    pub bad_buffers: Counter,
}
