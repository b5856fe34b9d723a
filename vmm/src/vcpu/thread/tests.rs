use std::thread;

use super::*;
use crate::vcpu::testing::{CODE, DATA, TinyVm};

/// `in al, dx; mov [DATA], al; hlt`
const READ_PORT: &[u8] = &[0xec, 0xa2, 0x00, 0x20, 0xf4];
/// `mov al, [MMIO]; mov [DATA], al; hlt`
const READ_MMIO: &[u8] = &[0xa0, 0x00, 0x80, 0xa2, 0x00, 0x20, 0xf4];
/// `mov [MMIO], al; inc cx; mov [DATA], cl; hlt`
const WRITE_MMIO: &[u8] = &[0xa2, 0x00, 0x80, 0x41, 0x88, 0x0e, 0x00, 0x20, 0xf4];
/// `inc byte [DATA]; jmp $-4`
const COUNT: &[u8] = &[0xfe, 0x06, 0x00, 0x20, 0xeb, 0xfa];
/// `out dx, al; jmp $-1`
const OUT: &[u8] = &[0xee, 0xeb, 0xfd];
/// `hlt; jmp $-1`
const HALT: &[u8] = &[0xf4, 0xeb, 0xfd];

fn ended(index: u8) -> VcpuError {
    VcpuError::Ended { index }
}

/// Waits until the guest has written something else than `before` to its byte of data.
fn wait_for_progress(machine: &TinyVm, before: u8) {
    while machine.byte(DATA) == before {
        thread::yield_now();
    }
}

#[test]
fn access_that_a_pause_interrupts_is_completed_once_before_the_vcpu_parks() {
    for (code, length, read) in [(READ_PORT, 1, true), (READ_MMIO, 3, true), (WRITE_MMIO, 3, false)]
    {
        let Some(machine) = TinyVm::new(code) else { return };
        let (arrived, go) = machine.device.hold_next();
        let vcpu = spawn(machine.vcpu(0)).unwrap();
        arrived.recv().unwrap();
        vcpu.request_pause();
        go.send(()).unwrap();
        vcpu.wait_paused().unwrap();
        let registers = vcpu.call(|fd| fd.get_regs().unwrap()).unwrap();
        assert_eq!(registers.rip, CODE + length, "{code:x?}");
        assert_eq!(registers.rax & 0xff, if read { 0x5a } else { 0 }, "{code:x?}");
        assert_eq!(machine.byte(DATA), 0, "the next instruction ran");
        vcpu.resume();
        wait_for_progress(&machine, 0);
        assert_eq!(machine.byte(DATA), if read { 0x5a } else { 1 }, "{code:x?}");
    }
}

#[test]
fn vcpu_that_starts_paused_enters_the_guest_with_the_first_resume() {
    let Some(machine) = TinyVm::new(COUNT) else { return };
    let vcpu = spawn_paused(machine.vcpu(0)).unwrap();
    vcpu.wait_paused().unwrap();
    assert_eq!(vcpu.call(|fd| fd.get_regs().unwrap().rip), Ok(CODE));
    assert_eq!(machine.byte(DATA), 0);
    vcpu.resume();
    wait_for_progress(&machine, 0);
}

#[test]
fn paused_vcpu_stands_still_and_goes_on_after_each_of_many_pauses() {
    let Some(machine) = TinyVm::new(COUNT) else { return };
    let vcpu = spawn(machine.vcpu(0)).unwrap();
    for _ in 0..300 {
        vcpu.request_pause();
        vcpu.wait_paused().unwrap();
        let before = vcpu.call(|fd| fd.get_regs().unwrap().rip).unwrap();
        let count = machine.byte(DATA);
        thread::yield_now();
        assert_eq!(vcpu.call(|fd| fd.get_regs().unwrap().rip), Ok(before));
        assert_eq!(machine.byte(DATA), count);
        vcpu.resume();
        wait_for_progress(&machine, count);
    }
}

#[test]
fn pause_that_is_taken_back_at_once_loses_nothing() {
    for code in [COUNT, OUT] {
        let Some(machine) = TinyVm::new(code) else { return };
        let vcpu = spawn(machine.vcpu(0)).unwrap();
        for _ in 0..300 {
            vcpu.request_pause();
            vcpu.resume();
            vcpu.request_pause();
            vcpu.request_pause();
            vcpu.wait_paused().unwrap();
            vcpu.resume();
        }
        let (arrived, go) = machine.device.hold_next();
        if code == OUT {
            arrived.recv().unwrap();
            go.send(()).unwrap();
        } else {
            wait_for_progress(&machine, machine.byte(DATA));
        }
    }
}

#[test]
fn vcpus_that_sleep_in_the_kernel_can_be_paused_too() {
    let Some(machine) = TinyVm::new(HALT) else { return };
    // The second one waits for its INIT.
    let vcpus: Vec<_> =
        [machine.vcpu(0), machine.new_vcpu(1)].map(|vcpu| spawn(vcpu).unwrap()).into();
    for _ in 0..20 {
        vcpus.iter().for_each(VcpuHandle::request_pause);
        for vcpu in &vcpus {
            vcpu.wait_paused().unwrap();
        }
        vcpus.iter().for_each(VcpuHandle::resume);
    }
}

#[test]
fn state_of_a_running_or_ended_vcpu_is_out_of_reach() {
    let Some(machine) = TinyVm::new(COUNT) else { return };
    let vcpu = spawn(machine.vcpu(0)).unwrap();
    let not_paused = VcpuError::NotPaused { index: 0 };
    assert_eq!(vcpu.wait_paused(), Err(not_paused));
    assert_eq!(vcpu.call(|_| ()), Err(not_paused));
    vcpu.request_stop();
    assert_eq!(vcpu.call(|_| ()), Err(ended(0)));
    vcpu.request_pause();
    assert_eq!(vcpu.wait_paused(), Err(ended(0)), "a stop is final");
}

#[test]
fn paused_vcpu_stops_when_its_handle_is_dropped() {
    let Some(machine) = TinyVm::new(COUNT) else { return };
    let vcpu = spawn(machine.vcpu(0)).unwrap();
    vcpu.request_pause();
    vcpu.wait_paused().unwrap();
    drop(vcpu);
    drop(spawn_paused(machine.vcpu(1)).unwrap());
    assert_eq!(machine.stop.reason(), None);
}

#[test]
fn whoever_waits_for_a_vcpu_that_ends_the_machine_is_told() {
    // `ud2`, without an interrupt table.
    let Some(machine) = TinyVm::new(&[0x0f, 0x0b]) else { return };
    let vcpu = machine.vcpu(0);
    let mut special = vcpu.fd.get_sregs().unwrap();
    special.idt.limit = 0;
    vcpu.fd.set_sregs(&special).unwrap();
    let vcpu = spawn_paused(vcpu).unwrap();
    vcpu.resume();
    while machine.stop.reason().is_none() {
        thread::yield_now();
    }
    vcpu.request_pause();
    assert_eq!(vcpu.wait_paused(), Err(ended(0)));
}

#[test]
fn panic_of_a_vcpu_ends_the_machine_and_its_orderly_end_does_not() {
    let Some(machine) = TinyVm::new(COUNT) else { return };
    drop(spawn(machine.vcpu(0)).unwrap());
    assert_eq!(machine.stop.reason(), None);
    let vcpu = spawn_paused(machine.vcpu(1)).unwrap();
    vcpu.wait_paused().unwrap();
    assert_eq!(vcpu.call(|_| panic!("as a bug would")), Err::<(), _>(ended(1)));
    assert_eq!(vcpu.wait_paused(), Err(ended(1)));
    assert!(matches!(machine.stop.reason(), Some(StopReason::Fault(_))));
}
