//! Guests of a few instructions, for tests. Any KVM runs them.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

use devices::{Bus, BusDevice};
use kvm_ioctls::{Kvm, VmFd};
use sys::memory::GuestRam;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::{Buses, Vcpu};
use crate::stop::StopSignal;
use crate::{memory_slots, x86_64};

/// Where the code of every vCPU is.
pub(crate) const CODE: u64 = 0x1000;
/// An address without memory: an access is an exit.
pub(crate) const MMIO: u64 = 0x8000;
/// A port with a device.
pub(crate) const PORT: u16 = 0x80;
/// Memory for the test, zero at first.
pub(crate) const DATA: u64 = 0x2000;

/// A VM with three pages of memory and KVM's interrupt controllers.
pub(crate) struct TinyVm {
    pub(crate) kvm: Kvm,
    pub(crate) vm: Arc<VmFd>,
    pub(crate) memory: GuestRam,
    pub(crate) device: Arc<Stage>,
    pub(crate) stop: Arc<StopSignal>,
    buses: Buses,
}

impl TinyVm {
    /// Creates a VM whose vCPUs run `code` in real mode; none where there's no KVM.
    pub(crate) fn new(code: &[u8]) -> Option<Self> {
        sys::signal::install_kick_handler().unwrap();
        let kvm = match Kvm::new() {
            Ok(kvm) => kvm,
            Err(error) => {
                println!("SKIPPED: /dev/kvm can't be opened: {error}");
                return None;
            }
        };
        let vm = kvm.create_vm().unwrap();
        x86_64::prepare_vm(&vm).unwrap();
        let memory = GuestRam::from_ranges(&[(GuestAddress(0), 0x3000)]).unwrap();
        memory.write_slice(code, GuestAddress(CODE)).unwrap();
        memory_slots::set(&vm, 0, memory.iter().next().unwrap()).unwrap();
        let device = Arc::new(Stage::default());
        let bus = |start| {
            let bus = Arc::new(Bus::new());
            bus.insert(start, 8, Arc::clone(&device) as Arc<dyn BusDevice>).unwrap();
            bus
        };
        let buses = Buses { pio: bus(PORT.into()), mmio: bus(MMIO) };
        let stop = Arc::new(StopSignal::new().unwrap());
        Some(Self { kvm, vm: Arc::new(vm), memory, device, stop, buses })
    }

    /// Creates a vCPU as KVM makes it.
    pub(crate) fn new_vcpu(&self, index: u8) -> Vcpu {
        Vcpu {
            index,
            fd: self.vm.create_vcpu(index.into()).unwrap(),
            run_size_bytes: self.kvm.get_vcpu_mmap_size().unwrap(),
            buses: self.buses.clone(),
            stop: Arc::clone(&self.stop),
        }
    }

    /// Creates a vCPU that stands at the code's first instruction, with [`PORT`] in DX.
    pub(crate) fn vcpu(&self, index: u8) -> Vcpu {
        let vcpu = self.new_vcpu(index);
        let mut special = vcpu.fd.get_sregs().unwrap();
        for segment in [&mut special.cs, &mut special.ds] {
            segment.base = 0;
            segment.selector = 0;
        }
        vcpu.fd.set_sregs(&special).unwrap();
        let mut general = vcpu.fd.get_regs().unwrap();
        general.rip = CODE;
        general.rflags = 2;
        general.rdx = PORT.into();
        vcpu.fd.set_regs(&general).unwrap();
        vcpu
    }

    pub(crate) fn byte(&self, address: u64) -> u8 {
        self.memory.read_obj(GuestAddress(address)).unwrap()
    }
}

/// A device that answers with 0x5a, and holds a vCPU there until the test lets it go.
#[derive(Default)]
pub(crate) struct Stage(Mutex<Option<(SyncSender<()>, Receiver<()>)>>);

impl Stage {
    /// Makes the next access tell of itself, and wait for an answer.
    pub(crate) fn hold_next(&self) -> (Receiver<()>, SyncSender<()>) {
        let (arrived, on_arrival) = sync_channel(1);
        let (go, on_go) = sync_channel(1);
        *self.0.lock().unwrap() = Some((arrived, on_go));
        (on_arrival, go)
    }

    fn enter(&self) {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((arrived, on_go)) = held {
            arrived.send(()).unwrap();
            on_go.recv().unwrap();
        }
    }
}

impl BusDevice for Stage {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        self.enter();
        data.fill(0x5a);
    }

    fn write(&self, _offset: u64, _data: &[u8]) {
        self.enter();
    }
}
