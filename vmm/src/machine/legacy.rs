//! The few devices that every x86_64 machine here has, and how they end it.

use std::sync::Arc;

use arch_x86_64::layout::{self, gsi, ports};
use devices::console::ConsoleOutput;
use devices::legacy::{AcpiPm, I8042, MachineEvents, Pvpanic, Rtc, SerialPort, VmGenId};
use devices::{Bus, InterruptLine, LogLimit};

use crate::error::VmmError;
use crate::interrupts::InterruptRouter;
use crate::stop::{StopReason, StopSignal};

/// Turns what the guest asks of its machine into the reason why it ends.
struct GuestRequests(Arc<StopSignal>);

impl MachineEvents for GuestRequests {
    fn power_off(&self) {
        self.0.request(StopReason::PowerOff);
    }

    fn reset(&self) {
        self.0.request(StopReason::Reset);
    }

    fn panicked(&self, crash_loaded: bool) {
        static LOG: LogLimit = LogLimit::new();
        if crash_loaded {
            LOG.warn(format_args!("the guest's kernel panicked and starts its crash kernel"));
        } else {
            self.0.request(StopReason::GuestPanic);
        }
    }
}

/// Puts the fixed-port devices on the port bus.
///
/// # Errors
/// When two of them claim the same port: a mistake in the layout.
pub(super) fn attach(pio: &Bus, stop: &Arc<StopSignal>) -> Result<(), VmmError> {
    let events: Arc<dyn MachineEvents> = Arc::new(GuestRequests(Arc::clone(stop)));
    let i8042 = Arc::new(I8042::new(Arc::clone(&events)));
    pio.insert(ports::I8042_COMMAND.base.into(), I8042::SIZE, i8042)?;
    pio.insert(ports::RTC.base.into(), Rtc::SIZE, Arc::new(Rtc::new()))?;
    let acpi = Arc::new(AcpiPm::new(Arc::clone(&events)));
    pio.insert(ports::ACPI.base.into(), AcpiPm::SIZE, acpi)?;
    pio.insert(ports::PVPANIC.base.into(), Pvpanic::SIZE, Arc::new(Pvpanic::new(events)))?;
    Ok(())
}

/// Creates the first serial port, which transmits to `output`, and puts it on the port bus.
///
/// # Errors
/// When there is no eventfd, or KVM refuses the interrupt.
pub(super) fn attach_serial(
    pio: &Bus,
    router: &InterruptRouter,
    output: Arc<ConsoleOutput>,
) -> Result<Arc<SerialPort>, VmmError> {
    let line: Arc<dyn InterruptLine> = Arc::new(router.line(gsi::COM1)?);
    let serial = SerialPort::new(line, output)
        .map_err(|source| VmmError::os("make the serial port", source))?;
    let serial = Arc::new(serial);
    pio.insert(ports::COM1.base.into(), SerialPort::SIZE, Arc::clone(&serial) as _)?;
    Ok(serial)
}

/// Creates the VM generation ID, which has no value yet.
///
/// # Errors
/// When there is no eventfd, or KVM refuses the interrupt.
pub(super) fn generation_id(router: &InterruptRouter) -> Result<VmGenId, VmmError> {
    let line: Arc<dyn InterruptLine> = Arc::new(router.line(gsi::VM_GENERATION_ID)?);
    Ok(VmGenId::new(layout::VM_GENERATION_ID.start(), line))
}
