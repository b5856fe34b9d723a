//! Connects the guest's console to the host.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use api::config::Field;
use api::config::{ConsoleConfig, ConsoleDevice, ConsoleOutput as Destination, Section};
use api::event::ErrorKind;
use devices::Bus;
use devices::console::{ConsoleInput, ConsoleOutput, InputTarget};
use devices::virtio::console::{Console as VirtioConsole, ConsolePort};

use super::attach::Attacher;
use super::legacy;
use crate::error::VmmError;
use crate::interrupts::InterruptRouter;

/// How long the end of a machine waits for a slow reader of its console.
const FLUSH_LIMIT: Duration = Duration::from_secs(5);

/// The host's side of the console.
pub(super) struct Console {
    output: Arc<ConsoleOutput>,
    input: Option<ConsoleInput>,
}

/// Creates the console's device and both ends of its connection. There is a serial port even when
/// the console is another device: kernels look for one.
///
/// # Errors
/// When the output file can't be made, or a device can't be attached.
pub(super) fn attach(
    config: &ConsoleConfig,
    pio: &Bus,
    router: &InterruptRouter,
    attacher: &mut Attacher,
) -> Result<Console, VmmError> {
    let output = Arc::new(open_output(&config.output)?);
    let target: Arc<dyn InputTarget> = match config.device {
        ConsoleDevice::Serial => legacy::attach_serial(pio, router, Arc::clone(&output))?,
        ConsoleDevice::Virtio => {
            legacy::attach_serial(pio, router, Arc::new(ConsoleOutput::discard()))?;
            let port = ConsolePort::new(Arc::clone(&output))
                .map_err(|source| VmmError::os("make the virtio console", source))?;
            let port = Arc::new(port);
            attacher.attach(Box::new(VirtioConsole::new(Arc::clone(&port))))?;
            port
        }
    };
    let input = match &config.output {
        Destination::Stdio => {
            let stdin = duplicate(std::io::stdin())?;
            Some(ConsoleInput::new(stdin, target))
        }
        Destination::File(_) | Destination::None => None,
    };
    Ok(Console { output, input })
}

impl Console {
    /// Gives up the input, for an event loop to serve.
    pub(super) fn take_input(&mut self) -> Option<ConsoleInput> {
        self.input.take()
    }

    /// Waits until the reader has what the guest printed, if it reads at all.
    pub(super) fn flush(&self) {
        if !self.output.flush(FLUSH_LIMIT) {
            log::warn!("the console's reader doesn't take the guest's last output");
        }
        let dropped = self.output.dropped_bytes();
        if dropped != 0 {
            log::warn!("{dropped} bytes of the guest's console output were lost in all");
        }
    }
}

fn open_output(destination: &Destination) -> Result<ConsoleOutput, VmmError> {
    let file = match destination {
        Destination::Stdio => duplicate(std::io::stdout())?,
        Destination::File(path) => create(path)?.into(),
        Destination::None => return Ok(ConsoleOutput::discard()),
    };
    ConsoleOutput::new(file).map_err(|source| VmmError::os("start the console's writer", source))
}

fn create(path: &Path) -> Result<File, VmmError> {
    OpenOptions::new().create(true).append(true).open(path).map_err(|source| VmmError::Device {
        what: format!("the console's file {path:?}"),
        field: Field::new(Section::Console, "path"),
        kind: ErrorKind::OutputDenied,
        source: Box::new(source),
    })
}

fn duplicate(stream: impl AsFd) -> Result<OwnedFd, VmmError> {
    stream
        .as_fd()
        .try_clone_to_owned()
        .map_err(|source| VmmError::os("duplicate a standard stream", source))
}
