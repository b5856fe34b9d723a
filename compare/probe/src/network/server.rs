//! The server in an instance.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use super::{ECHO, Limit, MAX_CONNECTIONS, PATIENCE, SINK, SOURCE};
use crate::ProbeError;

/// What is read or written at a time.
const CHUNK: usize = 128 * 1024;

/// Serves until the process ends.
///
/// # Errors
///
/// The listener fails for good.
pub fn net_server(listener: &TcpListener) -> Result<(), ProbeError> {
    serve(listener, serve_connection)
}

/// Accepts connections, each with a thread of its own, as many as there are places for.
///
/// # Errors
///
/// The listener fails for good.
pub(crate) fn serve(
    listener: &TcpListener,
    each: fn(TcpStream) -> io::Result<()>,
) -> Result<(), ProbeError> {
    let limit = Limit::new(MAX_CONNECTIONS);
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            // The client has gone already.
            Err(error) if is_clients(&error) => continue,
            Err(source) => return Err(ProbeError::System { what: "accept connections", source }),
        };
        let Some(place) = limit.take() else {
            continue;
        };
        // Without a thread the connection is closed, as it is without a place.
        let _ = thread::Builder::new().stack_size(512 * 1024).spawn(move || {
            let _place = place;
            // What a client does wrong ends its connection.
            let _ = prepare(&stream).and_then(|()| each(stream));
        });
    }
}

/// Whether accepting failed because of the client (`accept(2)`).
fn is_clients(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::HostUnreachable
    )
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))
}

fn serve_connection(mut stream: TcpStream) -> io::Result<()> {
    let mut kind = [0];
    stream.read_exact(&mut kind)?;
    match kind[0] {
        ECHO => echo(stream),
        SINK => sink(stream),
        SOURCE => source(stream),
        _ => Ok(()),
    }
}

fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            size => stream.write_all(&buffer[..size])?,
        }
    }
}

fn sink(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut count = 0_u64;
    loop {
        match stream.read(&mut buffer)? {
            0 => return stream.write_all(&count.to_be_bytes()),
            size => count += size as u64,
        }
    }
}

fn source(mut stream: TcpStream) -> io::Result<()> {
    let mut count = [0; 8];
    stream.read_exact(&mut count)?;
    let mut left = u64::from_be_bytes(count);
    let buffer = vec![0x5a; CHUNK];
    while left > 0 {
        let size = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        stream.write_all(&buffer[..size])?;
        left -= size as u64;
    }
    Ok(())
}
