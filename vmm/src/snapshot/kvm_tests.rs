//! What a guest writes, as KVM sees it. Skipped where there's no KVM.

use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use snapshot::SnapshotId;
use snapshot::memory::{MemoryFile, MemoryWriter};
use sys::memory::GuestRam;
use sys::uffd::UffdError;
use vm_memory::{Bytes, GuestAddress};

use super::{CaptureError, LiveCapture, write_full};
use crate::memory::{self, Backing, DirtyPages, allocate, regions};

const CODE: u64 = 0x1000;
const SIZE: u64 = 64 << 20;

/// Where the guest's data segment begins.
const DATA: u64 = SIZE - (1 << 20);

/// `again: inc byte [0x5000]; hlt; jmp again`
const COUNT: [u8; 7] = [0xfe, 0x06, 0x00, 0x50, 0xf4, 0xeb, 0xf9];

struct Guest {
    vcpu: VcpuFd,
    vm: VmFd,
    memory: GuestRam,
}

impl Guest {
    fn new(tracked: bool) -> Option<Self> {
        let Ok(kvm) = Kvm::new() else {
            println!("SKIPPED: /dev/kvm can't be opened");
            return None;
        };
        let vm = kvm.create_vm().unwrap();
        let backing = Backing { tracked, ..Backing::default() };
        let memory = allocate(&[(GuestAddress(0), SIZE)], &backing).unwrap();
        memory.write_slice(&COUNT, GuestAddress(CODE)).unwrap();
        memory::register(&vm, &memory, 1).unwrap();
        let vcpu = vm.create_vcpu(0).unwrap();
        let mut special = vcpu.get_sregs().unwrap();
        (special.cs.base, special.cs.selector) = (0, 0);
        special.ds.base = DATA;
        vcpu.set_sregs(&special).unwrap();
        let mut registers = vcpu.get_regs().unwrap();
        (registers.rip, registers.rflags) = (CODE, 2);
        vcpu.set_regs(&registers).unwrap();
        Some(Self { vcpu, vm, memory })
    }

    fn count(&mut self) {
        let exit = self.vcpu.run().unwrap();
        assert!(matches!(exit, VcpuExit::Hlt), "{exit:?}");
    }

    fn counter(&self) -> u8 {
        self.memory.read_obj(GuestAddress(DATA + 0x5000)).unwrap()
    }

    /// Takes the numbers of the dirty pages.
    fn dirty(&self) -> Vec<u64> {
        let dirty = DirtyPages::take(&self.vm, &self.memory).unwrap().unwrap();
        let runs = memory::runs(&dirty.regions()[0], SIZE >> 12);
        let pages = runs.flat_map(|(page, count)| page..page + count).collect();
        dirty.commit();
        pages
    }
}

#[test]
fn pages_that_the_guest_writes_are_dirty_as_are_those_that_devices_write() {
    let Some(mut guest) = Guest::new(true) else { return };
    guest.dirty();
    guest.count();
    guest.memory.write_obj(1u8, GuestAddress(7 << 12)).unwrap();
    let counter = (DATA + 0x5000) >> 12;
    let mut dirty = guest.dirty();
    // KVM on hardware maps a page that's read for the first time writable at once, and so counts it
    // as written: the one that the code is in.
    dirty.retain(|page| *page != CODE >> 12);
    assert_eq!(dirty, [7, counter]);
    assert!(guest.dirty().is_empty());
    guest.count();
    assert_eq!(guest.dirty(), [counter]);
    assert_eq!(guest.counter(), 2);
}

#[test]
fn untracked_guest_has_no_dirty_pages() {
    let Some(guest) = Guest::new(false) else { return };
    assert!(DirtyPages::take(&guest.vm, &guest.memory).unwrap().is_none());
}

#[test]
fn guest_counts_on_while_it_is_captured_as_it_was() {
    let Some(mut guest) = Guest::new(false) else { return };
    let directory = tempfile::tempdir().unwrap();
    let [still, live] = ["still", "live"].map(|name| directory.path().join(name));
    for page in 4..SIZE >> 12 {
        guest.memory.write_obj(page, GuestAddress((page << 12) + 8)).unwrap();
    }
    guest.count();
    let writer = |path| {
        let id = SnapshotId::random().unwrap();
        MemoryWriter::create(path, id, None, &regions(&guest.memory)).unwrap()
    };
    write_full(&guest.memory, writer(&still)).unwrap().file.publish().unwrap();
    let capture = match LiveCapture::start(&guest.memory, writer(&live)) {
        Err(CaptureError::Uffd(UffdError::Forbidden(error))) => {
            println!("SKIPPED: {error}");
            return;
        }
        capture => capture.unwrap(),
    };
    for _ in 0..10 {
        guest.count();
    }
    assert_eq!(guest.counter(), 11);
    capture.finish().unwrap().file.publish().unwrap();
    let [still, live] = [still, live].map(|path| MemoryFile::open(&path).unwrap());
    live.verify().unwrap();
    assert_eq!(live.info(), still.info());
    guest.count();
    assert_eq!(guest.counter(), 12);
}
