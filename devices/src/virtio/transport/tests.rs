//! One suite for both transports, driven through registers as a driver would.

mod device;
mod driver;
mod fuzz;
mod hostile;
mod lifecycle;
mod mmio_only;
mod pci_only;
mod saved;

/// Makes a test of each scenario for each transport.
macro_rules! on_both_transports {
    ($($scenario:ident),+ $(,)?) => {
        mod mmio {
            $(#[test] fn $scenario() {
                super::$scenario::<crate::virtio::transport::tests::driver::Mmio>();
            })+
        }
        mod pci {
            $(#[test] fn $scenario() {
                super::$scenario::<crate::virtio::transport::tests::driver::Pci>();
            })+
        }
    };
}
use on_both_transports;
