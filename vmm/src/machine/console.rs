//! Connects the guest's console to the host.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use api::config::Field;
use api::config::{ConsoleDevice, ConsoleOutput as Destination, Section, SerialConfig, VmConfig};
use api::event::ErrorKind;
use devices::Bus;
use devices::console::{ConsoleInput, ConsoleOutput, ConsoleSocket, InputTarget};
use devices::legacy::SerialPort;
use devices::virtio::console::ConsolePort;
use event_manager::MutEventSubscriber;

use super::{legacy, virtio};
use crate::error::VmmError;
use crate::interrupts::InterruptRouter;

/// How long the end of a machine waits for a slow reader of its console.
const FLUSH_LIMIT: Duration = Duration::from_secs(5);

/// How long a pause waits for it.
const DRAIN_LIMIT: Duration = Duration::from_millis(100);

/// The host's side of the console.
pub(super) struct Console {
    output: Arc<ConsoleOutput>,
    input: Option<Box<dyn MutEventSubscriber>>,
    port: Option<Arc<ConsolePort>>,
}

/// Creates the serial port and both ends of the console's connection. There is a serial port even
/// when the console is another device: kernels look for one.
///
/// # Errors
/// When the output file can't be made, or the serial port can't be attached.
pub(super) fn attach(
    config: &VmConfig,
    pio: &Bus,
    router: &InterruptRouter,
) -> Result<(Console, Arc<SerialPort>), VmmError> {
    let (output, socket) = open_output(&config.console.output, config.serial.as_ref())?;
    let limit = config.serial.as_ref().and_then(|serial| serial.rate_limiter);
    let output = Arc::new(match limit {
        Some(limit) => output.with_limit(&virtio::bucket(limit)),
        None => output,
    });
    let attach_serial = |output| legacy::attach_serial(pio, router, output);
    let (serial, port, target): (_, _, Arc<dyn InputTarget>) = match config.console.device {
        ConsoleDevice::Serial => {
            let serial = attach_serial(Arc::clone(&output))?;
            (Arc::clone(&serial), None, serial)
        }
        ConsoleDevice::Virtio => {
            let serial = attach_serial(Arc::new(ConsoleOutput::discard()))?;
            let port = ConsolePort::new(Arc::clone(&output))
                .map_err(|source| VmmError::os("make the virtio console", source))?;
            let port = Arc::new(port);
            (serial, Some(Arc::clone(&port)), port)
        }
    };
    let input: Option<Box<dyn MutEventSubscriber>> = match (&config.console.output, socket) {
        (Destination::Stdio, _) => {
            let stdin = duplicate(std::io::stdin())?;
            Some(Box::new(ConsoleInput::new(stdin, target)))
        }
        (_, Some(socket)) => Some(Box::new(socket.serve(target))),
        (_, None) => None,
    };
    Ok((Console { output, input, port }, serial))
}

impl Console {
    /// Returns what a virtio console is connected to, if the console is one.
    pub(super) fn port(&self) -> Option<&Arc<ConsolePort>> {
        self.port.as_ref()
    }

    /// Gives up the input, for an event loop to serve.
    pub(super) fn take_input(&mut self) -> Option<Box<dyn MutEventSubscriber>> {
        self.input.take()
    }

    /// Gives the reader what a paused guest has printed. One that doesn't read is no reason to
    /// wait: it gets it later.
    pub(super) fn drain(&self) {
        if !self.output.flush(DRAIN_LIMIT) {
            log::debug!("the console's reader is slow");
        }
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

/// Opens where the guest's output goes, and the socket if that's one.
fn open_output(
    destination: &Destination,
    serial: Option<&SerialConfig>,
) -> Result<(ConsoleOutput, Option<ConsoleSocket>), VmmError> {
    let file = match destination {
        // The serial port's own file takes the place of standard output.
        Destination::Stdio => match serial.and_then(|serial| serial.path.as_deref()) {
            Some(path) => create(path)?.into(),
            None => duplicate(std::io::stdout())?,
        },
        Destination::File(path) => create(path)?.into(),
        Destination::Socket(path) => {
            let socket = listen(path)?;
            return Ok((socket.output(), Some(socket)));
        }
        Destination::None => return Ok((ConsoleOutput::discard(), None)),
    };
    let output = ConsoleOutput::new(file)
        .map_err(|source| VmmError::os("start the console's writer", source))?;
    Ok((output, None))
}

fn create(path: &Path) -> Result<File, VmmError> {
    OpenOptions::new().create(true).append(true).open(path).map_err(|source| {
        path_error(format!("the console's file {path:?}"), ErrorKind::OutputDenied, source)
    })
}

fn listen(path: &Path) -> Result<ConsoleSocket, VmmError> {
    ConsoleSocket::bind(path).map_err(|source| {
        let kind = match source.kind() {
            std::io::ErrorKind::AddrInUse => ErrorKind::SocketInUse,
            _ => ErrorKind::OutputDenied,
        };
        path_error(format!("the console's socket {path:?}"), kind, source)
    })
}

fn path_error(what: String, kind: ErrorKind, source: std::io::Error) -> VmmError {
    let field = Field::new(Section::Console, "path");
    VmmError::Device { what, field, kind, source: Box::new(source) }
}

fn duplicate(stream: impl AsFd) -> Result<OwnedFd, VmmError> {
    stream
        .as_fd()
        .try_clone_to_owned()
        .map_err(|source| VmmError::os("duplicate a standard stream", source))
}
