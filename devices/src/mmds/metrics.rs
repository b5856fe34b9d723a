//! What the service did, counted under Firecracker's names.

use crate::virtio::Counter;

/// Counters of one VM's metadata service, over all cards and resets.
#[derive(Debug, Default)]
pub struct MmdsMetrics {
    /// Frames of the guest that went to the service instead of the TAP.
    pub rx_accepted: Counter,
    /// Those that broke the rules of ARP, IPv4 or TCP, and were dropped.
    pub rx_accepted_err: Counter,
    /// Those that a metadata service has no use for (not TCP, no ARP request), and were dropped.
    pub rx_accepted_unusual: Counter,
    /// Frames too short for Ethernet.
    pub rx_bad_eth: Counter,
    /// Frames that TCP and ARP handled.
    pub rx_count: Counter,
    /// Reads without a token, whether one is needed or not.
    pub rx_no_token: Counter,
    /// Reads with a token that is forged, foreign or past its time.
    pub rx_invalid_token: Counter,
    /// Bytes of the service's frames that the card took.
    pub tx_bytes: Counter,
    /// How often the card asked for a frame and got one.
    pub tx_count: Counter,
    /// Frames of the service that were dropped: the card's queue was full, or nobody knew where
    /// to send them.
    pub tx_errors: Counter,
    /// Frames of the service that the card took.
    pub tx_frames: Counter,
    /// TCP connections that guests opened.
    pub connections_created: Counter,
    /// TCP connections that are no more.
    pub connections_destroyed: Counter,
}
