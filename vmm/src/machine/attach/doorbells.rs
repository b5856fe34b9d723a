//! Queue notifications that KVM turns into eventfds, without an exit to this process.

use std::fmt;
use std::sync::Arc;

use devices::LogLimit;
use devices::pci::BarObserver;
use devices::virtio::transport::NotifyPoint;
use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};

/// Keeps KVM's doorbells where a device's BAR is.
pub(super) struct Doorbells {
    pub(super) vm: Arc<VmFd>,
    pub(super) points: Vec<NotifyPoint>,
}

impl BarObserver for Doorbells {
    fn moved(&self, old: Option<u64>, new: Option<u64>) {
        static LOG: LogLimit = LogLimit::new();
        for (base, change) in [(old, Change::Remove), (new, Change::Add)] {
            let Some(base) = base else { continue };
            for point in &self.points {
                if let Err(error) = doorbell(&self.vm, point, base, change) {
                    // The transport notifies the queue itself when the write exits: only slower.
                    LOG.warn(format_args!(
                        "queue {}: can't {change} the ioeventfd at {base:#x}: {error}",
                        point.queue
                    ));
                }
            }
        }
    }
}

#[derive(Clone, Copy)]
pub(super) enum Change {
    Add,
    Remove,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Add => "add",
            Self::Remove => "remove",
        })
    }
}

/// Has KVM write the queue's eventfd itself when the guest writes the doorbell, or no longer.
pub(super) fn doorbell(
    vm: &VmFd,
    point: &NotifyPoint,
    base: u64,
    change: Change,
) -> Result<(), kvm_ioctls::Error> {
    let address = IoEventAddress::Mmio(base.wrapping_add(point.offset));
    match (change, point.datamatch) {
        (Change::Add, Some(value)) => vm.register_ioevent(&point.kick, &address, value),
        (Change::Add, None) => vm.register_ioevent(&point.kick, &address, NoDatamatch),
        (Change::Remove, Some(value)) => vm.unregister_ioevent(&point.kick, &address, value),
        (Change::Remove, None) => vm.unregister_ioevent(&point.kick, &address, NoDatamatch),
    }
}
