//! A session with a container's own process, through its supervisor.

use std::io::{self, BufReader};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::input::{self, Cancel, DetachKeys, InputEnd};
use super::{SessionIo, supervisor_gone, write_output};
use crate::RuntimeError;
use crate::error::system;
use crate::options::SessionEnd;
use crate::wire::{self, Exit, FrameType};

/// Room for what a supervisor has sent, in bytes.
const BUFFER_BYTES: usize = 64 << 10;

pub(super) fn relay(stream: &UnixStream, io: SessionIo) -> Result<SessionEnd, RuntimeError> {
    let SessionIo { stdin, mut stdout, mut stderr, detach_keys } = io;
    let cancel = Cancel::new().map_err(system("watch the input"))?;
    let detached = AtomicBool::new(false);
    let end = thread::scope(|scope| {
        if let Some(stdin) = &stdin {
            let (cancel, detached) = (&cancel, &detached);
            let keys = DetachKeys::new(detach_keys);
            let pump = move || match send_input(stream, stdin, keys, cancel) {
                Ok(InputEnd::Detached) => {
                    detached.store(true, Ordering::Release);
                    shut(stream);
                }
                Ok(InputEnd::Eof | InputEnd::Cancelled) => {}
                // The output tells why the supervisor is gone.
                Err(error) => log::debug!("input isn't sent any more: {error}"),
            };
            let spawned = thread::Builder::new().name("input".to_owned()).spawn_scoped(scope, pump);
            spawned.map_err(system("read the input"))?;
        }
        let end = receive_output(stream, &mut stdout, &mut stderr);
        cancel.cancel();
        // It may wait for room to send.
        shut(stream);
        end
    });
    if detached.load(Ordering::Acquire) { Ok(SessionEnd::Detached) } else { end }
}

fn shut(stream: &UnixStream) {
    // The other side may be gone.
    let _ = stream.shutdown(Shutdown::Both);
}

fn send_input(
    stream: &UnixStream,
    stdin: &std::os::fd::OwnedFd,
    keys: DetachKeys,
    cancel: &Cancel,
) -> io::Result<InputEnd> {
    let mut to = stream;
    let end =
        input::pump(stdin, keys, cancel, |bytes| wire::send(&mut to, FrameType::Stdin, bytes))?;
    if end == InputEnd::Eof {
        wire::send(&mut to, FrameType::StdinEnd, b"")?;
    }
    Ok(end)
}

fn receive_output(
    stream: &UnixStream,
    stdout: &mut Box<dyn io::Write + Send>,
    stderr: &mut Box<dyn io::Write + Send>,
) -> Result<SessionEnd, RuntimeError> {
    let mut from = BufReader::with_capacity(BUFFER_BYTES, stream);
    let mut contents = Vec::new();
    loop {
        match wire::receive(&mut from, &mut contents).map_err(supervisor_gone)? {
            Some(FrameType::Stdout) => write_output(stdout.as_mut(), &contents)?,
            Some(FrameType::Stderr) => write_output(stderr.as_mut(), &contents)?,
            Some(FrameType::Exit) => {
                let Exit { code, lost } = wire::parse_exit(&contents).map_err(supervisor_gone)?;
                return Ok(if lost.is_empty() {
                    SessionEnd::Exited(code)
                } else {
                    SessionEnd::Lost { code, reason: lost }
                });
            }
            Some(_) => {
                let source = io::Error::new(io::ErrorKind::InvalidData, "an unexpected frame");
                return Err(supervisor_gone(source));
            }
            None => return Err(supervisor_gone(io::ErrorKind::UnexpectedEof.into())),
        }
    }
}
