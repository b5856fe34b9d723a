//! Request paths measured in this process, from the driver's side: no guest, no KVM.
//!
//! ```text
//! cargo bench -p benches                  all of them
//! cargo bench -p benches --bench block    one file
//! cargo bench -p benches -- 'block/read'  those whose names contain this
//! ```
//!
//! | file | what is measured |
//! | --- | --- |
//! | `queue` | pop a chain, walk it, return it, decide on the interrupt |
//! | `block` | 4 KiB reads and writes: notification to used ring, both engines, a file in memory |
//! | `net` | full-size frames through a socket pair in place of a TAP, both directions |
//! | `assembly` | a machine's ACPI tables, boot parameters and page tables in guest memory |
//!
//! `block` and `net` go through the device's worker, as a guest's requests do: a batch of one is a
//! round trip with two wake-ups, a batch of 32 shows what a request costs besides. On a machine
//! that does other work at the same time, neither says much; whole VMMs are compared, by a clock
//! that counts instructions, by `cargo xtask bench`.

use devices::GuestRam;
use devices::virtio::testing::TestQueue;
use devices::virtio::{Activation, VirtioDevice};

/// Size of every queue.
pub const QUEUE_SIZE: u16 = 256;

/// Requests in flight at once. Each size is measured by itself.
pub const BATCHES: [u16; 2] = [1, 32];

/// Where buffers may start: behind the rings of all queues.
pub const BUFFERS: u64 = 0x10_0000;

/// Guest memory that the rings of one queue take, in bytes.
const RINGS: u64 = 0x8000;

/// Lays out `count` queues of [`QUEUE_SIZE`] in `memory`.
pub fn queues(memory: &GuestRam, count: u16) -> Vec<TestQueue> {
    let at = |index| TestQueue::at(memory.clone(), QUEUE_SIZE, u64::from(index) * RINGS);
    (0..count).map(at).collect()
}

/// Activates `device` on `queues` with `features`, as its driver would by DRIVER_OK.
///
/// # Errors
/// The device's own.
pub fn activate(
    device: &mut dyn VirtioDevice,
    queues: &[TestQueue],
    features: u64,
) -> Result<(), devices::virtio::ActivateError> {
    device.activate(Activation {
        memory: queues[0].memory().clone(),
        features,
        queues: queues.iter().zip(0..).map(|(queue, index)| queue.device_queue(index)).collect(),
        notifier: queues[0].notifier(),
    })
}

/// Waits until the device has returned `count` more chains, without sleeping: an interrupt's way
/// to a guest isn't part of what is measured.
pub fn wait_for_used(queue: &mut TestQueue, count: u16) {
    let mut returned = 0;
    while returned < usize::from(count) {
        let used = queue.used().len();
        if used == 0 {
            std::thread::yield_now();
        }
        returned += used;
    }
}
