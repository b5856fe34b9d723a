//! What a VMM computes before a guest starts, apart from reading its kernel.

use arch::{Arch, BootInfo, BootProtocol, GuestRange, KernelFormat, KernelInfo};
use arch_x86_64::{Platform, X86_64, layout};
use criterion::{Criterion, criterion_group, criterion_main};
use devices::GuestRam;
use vm_memory::GuestAddress;

const RAM_BYTES: usize = 128 << 20;
const ADDRESS_BITS: u8 = 46;

/// A kernel as it is described once it is loaded.
fn kernel(protocol: BootProtocol) -> KernelInfo {
    let range = GuestRange::new(layout::HIGH_MEMORY, 16 << 20).expect("a range");
    KernelInfo {
        format: KernelFormat::Elf,
        protocol,
        entry: layout::HIGH_MEMORY,
        loaded: range,
        reserved: range,
        initrd_end_max: GuestAddress(RAM_BYTES as u64),
        cmdline_max_bytes: 2047,
        version: None,
        boot_header: Vec::new(),
    }
}

fn assembly(criterion: &mut Criterion) {
    let memory = GuestRam::from_ranges(&[(GuestAddress(0), RAM_BYTES)]).expect("guest memory");
    let mut group = criterion.benchmark_group("assembly");
    for (protocol, vcpus) in
        [(BootProtocol::Pvh, 1), (BootProtocol::Linux64, 1), (BootProtocol::Linux64, 32)]
    {
        let kernel = kernel(protocol);
        let boot = BootInfo {
            kernel: &kernel,
            initrd: None,
            cmdline: "console=ttyS0 reboot=k panic=-1 quiet",
            rng_seed: &[7; 32],
        };
        let platform = Platform { vcpus, pci: true, virtio_mmio: Vec::new() };
        group.bench_function(format!("{protocol} boot data, {vcpus} vCPUs"), |bencher| {
            bencher.iter(|| {
                let layout = X86_64::memory_layout(RAM_BYTES as u64, ADDRESS_BITS)
                    .expect("128 MiB are enough");
                X86_64::write_boot_data(&memory, &layout, &boot, &platform).expect("boot data")
            });
        });
    }
    group.finish();
}

criterion_group!(group, assembly);
criterion_main!(group);
