//! The first serial port: a 16550 from `vm-superio` between the guest and the host's console.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use vm_superio::Serial;
use vm_superio::serial::SerialEvents;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::each_port;
use crate::bus::BusDevice;
use crate::console::{ConsoleOutput, InputTarget};
use crate::interrupt::InterruptLine;
use crate::state::RestoreError;

/// Modem control register and its loopback bit.
const MCR_OFFSET: u8 = 4;
const MCR_LOOPBACK: u8 = 1 << 4;

/// Interrupt identification: there is none.
const IIR_NONE: u8 = 1;

/// What a serial port saves: a 16550's registers by their names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are those of the data sheet")]
pub struct SerialPortState {
    pub baud_divisor_low: u8,
    pub baud_divisor_high: u8,
    pub interrupt_enable: u8,
    pub interrupt_identification: u8,
    pub line_control: u8,
    pub line_status: u8,
    pub modem_control: u8,
    pub modem_status: u8,
    pub scratch: u8,
    /// Received, but not yet read by the guest.
    pub in_buffer: Vec<u8>,
}

/// A 16550 whose output goes to a [`ConsoleOutput`] and whose input is what is
/// [offered](InputTarget::offer) to it.
pub struct SerialPort {
    uart: Mutex<Uart>,
    output: Arc<ConsoleOutput>,
    room: EventFd,
}

struct Uart {
    device: Serial<Line, Quiet, Transmitted>,
    /// An offer was refused: the input waits for room.
    input_waits: bool,
}

/// The interrupt line as vm-superio wants it.
struct Line(Arc<dyn InterruptLine>);

impl vm_superio::Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.trigger();
        Ok(())
    }
}

/// Room for input is looked at after every access, so vm-superio's own events aren't needed.
struct Quiet;

impl SerialEvents for Quiet {
    fn buffer_read(&self) {}
    fn out_byte(&self) {}
    fn tx_lost_byte(&self) {}
    fn in_buffer_empty(&self) {}
}

/// What the guest transmits in one access, until the UART's lock is released: writing it may have
/// to wait for a slow reader, and input mustn't wait along (a Ctrl-C may be in it).
#[derive(Default)]
struct Transmitted(Option<u8>);

impl io::Write for Transmitted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(&byte) = bytes.first() else { return Ok(0) };
        self.0 = Some(byte);
        Ok(1)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl SerialPort {
    /// Number of ports.
    pub const SIZE: u64 = 8;

    /// Creates a port that raises `interrupt` (an edge) and transmits to `output`.
    ///
    /// # Errors
    /// When there is no eventfd.
    pub fn new(interrupt: Arc<dyn InterruptLine>, output: Arc<ConsoleOutput>) -> io::Result<Self> {
        let device = Serial::with_events(Line(interrupt), Quiet, Transmitted::default());
        Ok(Self {
            uart: Mutex::new(Uart { device, input_waits: false }),
            output,
            room: EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?,
        })
    }

    /// Returns the registers, and the input that the guest hasn't read.
    pub fn save(&self) -> SerialPortState {
        let vm_superio::SerialState {
            baud_divisor_low,
            baud_divisor_high,
            interrupt_enable,
            interrupt_identification,
            line_control,
            line_status,
            modem_control,
            modem_status,
            scratch,
            in_buffer,
        } = self.lock().device.state();
        SerialPortState {
            baud_divisor_low,
            baud_divisor_high,
            interrupt_enable,
            interrupt_identification,
            line_control,
            line_status,
            modem_control,
            modem_status,
            scratch,
            in_buffer,
        }
    }

    /// Takes over what [`save`](Self::save) returned.
    ///
    /// # Errors
    /// [`RestoreError`] for more input than a UART holds.
    pub fn restore(&self, state: SerialPortState) -> Result<(), RestoreError> {
        let SerialPortState {
            baud_divisor_low,
            baud_divisor_high,
            interrupt_enable,
            interrupt_identification,
            line_control,
            line_status,
            modem_control,
            modem_status,
            scratch,
            in_buffer,
        } = state;
        let input = in_buffer.len();
        let state = vm_superio::SerialState {
            baud_divisor_low,
            baud_divisor_high,
            interrupt_enable,
            interrupt_identification,
            line_control,
            line_status,
            modem_control,
            modem_status,
            scratch,
            in_buffer,
        };
        let mut uart = self.lock();
        let line = Line(Arc::clone(&uart.device.interrupt_evt().0));
        uart.device = Serial::from_state(&state, line, Quiet, Transmitted::default())
            .map_err(|_| RestoreError::invalid("amount of serial input", input))?;
        Ok(())
    }

    /// Raises the interrupt again that the guest hasn't acknowledged: its driver may wait for the
    /// transmitter, and the first one may have been lost with the machine that was saved. Interrupt
    /// controllers must be restored already.
    pub fn revive(&self) {
        let uart = self.lock();
        if uart.device.state().interrupt_identification & IIR_NONE == 0 {
            uart.device.interrupt_evt().0.trigger();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Uart> {
        self.uart.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes one register and returns the byte that this transmitted, if any.
    fn write_register(&self, register: u8, value: u8) -> Option<u8> {
        let mut uart = self.lock();
        if let Err(error) = uart.device.write(register, value) {
            log::error!("the serial port can't write its register {register}: {error}");
        }
        self.announce_room(&mut uart);
        uart.device.writer_mut().0.take()
    }

    /// Has waiting input offered again once there is room for it.
    fn announce_room(&self, uart: &mut Uart) {
        if uart.input_waits && uart.room() != 0 {
            uart.input_waits = false;
            // It fails only when it is full, and then it is readable already.
            let _ = self.room.write(1);
        }
    }
}

impl Uart {
    /// Tells how much input fits. In loopback mode the outer line is cut off: nothing does.
    fn room(&mut self) -> usize {
        if self.device.read(MCR_OFFSET) & MCR_LOOPBACK != 0 {
            return 0;
        }
        self.device.fifo_capacity()
    }
}

impl BusDevice for SerialPort {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut uart = self.lock();
        for (register, value) in (offset..).zip(data) {
            if let Ok(register) = u8::try_from(register) {
                *value = uart.device.read(register);
            }
        }
        self.announce_room(&mut uart);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        each_port(offset, data, |register, value| {
            if let Ok(register) = u8::try_from(register)
                && let Some(byte) = self.write_register(register, value)
            {
                self.output.write(&[byte]);
            }
        });
    }
}

impl InputTarget for SerialPort {
    fn offer(&self, bytes: &[u8]) -> usize {
        let mut uart = self.lock();
        let room = uart.room();
        let (now, later) = bytes.split_at_checked(room).unwrap_or((bytes, &[]));
        uart.input_waits = !later.is_empty();
        if now.is_empty() {
            return 0;
        }
        uart.device.enqueue_raw_bytes(now).unwrap_or_else(|error| {
            log::error!("the serial port can't take input: {error}");
            now.len()
        })
    }

    fn room(&self) -> &EventFd {
        &self.room
    }
}

#[cfg(test)]
mod tests;
