//! Virtio 1.3 devices, their queues, and the transports that carry them.

pub mod balloon;
pub mod block;
pub mod console;
mod counter;
mod deadline;
pub mod device;
pub mod fs;
pub mod mem;
pub mod net;
pub mod pmem;
pub mod queue;
pub mod rng;
mod serve;
#[cfg(any(test, feature = "test-utils"))]
pub mod testing;
pub mod transport;
pub mod vhost_user;
pub mod vsock;
pub mod worker;

pub use counter::Counter;
pub use device::{
    ActivateError, Activation, DeviceType, Notifier, TransportInterrupt, VirtioDevice,
};
pub use queue::{Chain, ChainBuffers, ChainError, DeviceQueue, QueueCursor, QueueError, Segment};
pub use worker::{QueueWorker, WorkerHandler};
