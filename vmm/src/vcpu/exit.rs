//! What a vCPU came out of the guest for.

use kvm_ioctls::VcpuExit;

use super::Buses;
use crate::stop::StopReason;

/// Whether the vCPU goes back into the guest.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum After {
    Continue,
    Stop(StopReason),
}

/// Serves one exit.
pub(super) fn dispatch(exit: VcpuExit<'_>, buses: &Buses) -> After {
    match exit {
        VcpuExit::IoIn(port, data) => port_in(buses, port, data),
        VcpuExit::IoOut(port, data) => port_out(buses, port, data),
        VcpuExit::MmioRead(address, data) => {
            buses.mmio.read(address, data);
        }
        VcpuExit::MmioWrite(address, data) => {
            buses.mmio.write(address, data);
        }
        // With the irqchip in the kernel, HLT stays there; a vCPU that waits for its INIT too.
        VcpuExit::Hlt | VcpuExit::Intr | VcpuExit::IrqWindowOpen => {}
        VcpuExit::Shutdown => return After::Stop(StopReason::TripleFault),
        VcpuExit::FailEntry(reason, cpu) => {
            return fault(format!(
                "the processor refused the guest's state ({reason:#x} on CPU {cpu})"
            ));
        }
        VcpuExit::InternalError => {
            return fault("KVM met an instruction or a state that it can't handle".to_owned());
        }
        VcpuExit::MemoryFault { gpa, .. } => {
            return fault(format!("the host has no memory for guest address {gpa:#x}"));
        }
        other => return fault(format!("KVM left the guest for an unexpected reason: {other:?}")),
    }
    After::Continue
}

fn fault(message: String) -> After {
    After::Stop(StopReason::Fault(message))
}

/// Reads a port; a string instruction (`rep ins`) of any other length comes as single bytes,
/// because KVM's wrapper doesn't tell the width: only byte-wide ports are read that way.
fn port_in(buses: &Buses, port: u16, data: &mut [u8]) {
    match data.len() {
        1 | 2 | 4 => {
            buses.pio.read(port.into(), data);
        }
        _ => {
            for byte in data.chunks_mut(1) {
                buses.pio.read(port.into(), byte);
            }
        }
    }
}

/// Writes a port, a string instruction as in [`port_in`].
fn port_out(buses: &Buses, port: u16, data: &[u8]) {
    match data.len() {
        1 | 2 | 4 => {
            buses.pio.write(port.into(), data);
        }
        _ => {
            for byte in data.chunks(1) {
                buses.pio.write(port.into(), byte);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use devices::{Bus, BusDevice};
    use std::sync::{Arc, Mutex};

    #[derive(Default)]
    struct Log(Mutex<Vec<Vec<u8>>>);

    impl BusDevice for Log {
        fn read(&self, _offset: u64, data: &mut [u8]) {
            data.fill(0x5a);
        }
        fn write(&self, _offset: u64, data: &[u8]) {
            self.0.lock().unwrap().push(data.to_vec());
        }
    }

    fn buses(log: &Arc<Log>) -> Buses {
        let pio = Arc::new(Bus::new());
        pio.insert(0x3f8, 8, Arc::clone(log) as Arc<dyn BusDevice>).unwrap();
        let mmio = Arc::new(Bus::new());
        mmio.insert(0x1000, 8, Arc::clone(log) as Arc<dyn BusDevice>).unwrap();
        Buses { pio, mmio }
    }

    #[test]
    fn string_output_reaches_a_port_byte_by_byte() {
        let log = Arc::new(Log::default());
        let buses = buses(&log);
        assert_eq!(dispatch(VcpuExit::IoOut(0x3f8, b"boots"), &buses), After::Continue);
        let bytes: Vec<_> = b"boots".iter().map(|&byte| vec![byte]).collect();
        assert_eq!(*log.0.lock().unwrap(), bytes);
    }

    #[test]
    fn reads_of_nothing_give_ones_and_of_a_device_its_bytes() {
        let buses = buses(&Arc::default());
        for (address, expected) in [(0x1000, 0x5a), (0x2000, 0xff)] {
            let mut data = [0; 4];
            assert_eq!(dispatch(VcpuExit::MmioRead(address, &mut data), &buses), After::Continue);
            assert_eq!(data, [expected; 4]);
        }
        let mut data = [0; 3];
        assert_eq!(dispatch(VcpuExit::IoIn(0x80, &mut data), &buses), After::Continue);
        assert_eq!(data, [0xff; 3]);
    }

    #[test]
    fn triple_fault_and_internal_error_stop_the_machine() {
        let buses = buses(&Arc::default());
        assert_eq!(dispatch(VcpuExit::Shutdown, &buses), After::Stop(StopReason::TripleFault));
        assert!(matches!(
            dispatch(VcpuExit::InternalError, &buses),
            After::Stop(StopReason::Fault(_))
        ));
    }
}
