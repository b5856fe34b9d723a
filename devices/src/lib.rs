//! Buses, interrupts, legacy devices, PCI, virtio and its devices, disks.
