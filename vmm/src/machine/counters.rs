//! What the machine's devices have counted.

use devices::virtio::balloon::BalloonPort;
use devices::virtio::block::BlockMetrics;
use devices::virtio::mem::MemPort;
use devices::virtio::net::NetMetrics;
use devices::virtio::pmem::PmemMetrics;
use devices::virtio::vsock::VsockMetrics;

use super::Machine;
use super::registry::Handle;
use crate::service::{Counters, Subject};

impl Machine {
    /// Lists the counters of all devices that have any.
    pub(crate) fn counters(&self) -> Vec<Subject> {
        self.devices
            .iter()
            .filter_map(|(key, handle)| {
                let counters = counters(handle)?;
                let several = key.name() != key.kind();
                let id = several.then(|| key.name().to_owned());
                Some(Subject { kind: key.kind(), id, counters })
            })
            .collect()
    }
}

fn counters(handle: &Handle) -> Option<Counters> {
    match handle {
        Handle::Block { metrics, .. } => Some(block(metrics)),
        Handle::Net { metrics, .. } => Some(net(metrics)),
        Handle::Vsock(metrics) => Some(vsock(metrics)),
        Handle::Balloon(port) => Some(balloon(port)),
        Handle::Pmem { metrics, .. } => Some(pmem(metrics)),
        Handle::Memory(port) => Some(memory(port)),
        Handle::Rng | Handle::Fs | Handle::Console | Handle::VhostUser(_) => None,
    }
}

fn block(metrics: &BlockMetrics) -> Counters {
    vec![
        ("read_count", metrics.reads.get()),
        ("read_bytes", metrics.read_bytes.get()),
        ("write_count", metrics.writes.get()),
        ("write_bytes", metrics.write_bytes.get()),
        ("flush_count", metrics.flushes.get()),
        ("discard_count", metrics.discards.get()),
        ("execute_fails", metrics.failed.get()),
        ("invalid_reqs_count", metrics.rejected.get()),
        ("rate_limiter_throttled_events", metrics.rate_limited.get()),
    ]
}

fn net(metrics: &NetMetrics) -> Counters {
    vec![
        ("rx_packets_count", metrics.rx_frames.get()),
        ("rx_bytes_count", metrics.rx_bytes.get()),
        ("rx_fails", metrics.rx_dropped.get()),
        ("rx_bad_buffers", metrics.rx_bad_buffers.get()),
        ("tx_packets_count", metrics.tx_frames.get()),
        ("tx_bytes_count", metrics.tx_bytes.get()),
        ("tx_fails", metrics.tx_dropped.get()),
        ("tx_malformed_frames", metrics.tx_malformed.get()),
        ("rate_limiter_throttled_events", metrics.rate_limited.get()),
    ]
}

fn vsock(metrics: &VsockMetrics) -> Counters {
    vec![
        ("conns_added", metrics.opened.get()),
        ("conns_refused", metrics.refused.get()),
        ("tx_bytes_count", metrics.guest_bytes.get()),
        ("rx_bytes_count", metrics.host_bytes.get()),
        ("resets_sent", metrics.resets.get()),
        ("bad_packets", metrics.bad_packets.get()),
        ("bad_buffers", metrics.bad_buffers.get()),
    ]
}

fn memory(port: &MemPort) -> Counters {
    vec![("plugged_bytes", port.plugged()), ("requested_bytes", port.requested())]
}

fn pmem(metrics: &PmemMetrics) -> Counters {
    vec![
        ("flush_count", metrics.flushes.get()),
        ("execute_fails", metrics.failed.get()),
        ("invalid_reqs_count", metrics.rejected.get()),
        ("rate_limiter_throttled_events", metrics.rate_limited.get()),
    ]
}

fn balloon(port: &BalloonPort) -> Counters {
    vec![
        ("target_pages", port.target_pages().into()),
        ("actual_pages", port.actual_pages().into()),
        ("refused_entries", port.refused_entries()),
    ]
}
