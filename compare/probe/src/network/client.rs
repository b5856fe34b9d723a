//! The host's side.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::{ECHO, PATIENCE, SINK, SOURCE};
use crate::ProbeError;
use crate::distribution::{latency, nanoseconds, per_second};
use crate::error::in_range;
use crate::results::{LatencyResult, TransferResult};

/// What is read or written at a time.
const CHUNK: usize = 128 * 1024;

/// The most round trips.
const MAX_ROUND_TRIPS: u64 = 1 << 24;

/// The most bytes.
const MAX_BYTES: u64 = 1 << 42;

/// Sends a byte and waits for it to come back, many times.
///
/// # Errors
///
/// The count makes no sense, the server is away or answers something else.
pub fn round_trips(address: SocketAddr, count: u64) -> Result<LatencyResult, ProbeError> {
    in_range("--count", count, 1, MAX_ROUND_TRIPS)?;
    let mut stream = connect(address, ECHO)?;
    let mut times = Vec::new();
    for index in 0..count {
        let sent = [index.to_le_bytes()[0]];
        let mut received = [0];
        let clock = Instant::now();
        stream
            .write_all(&sent)
            .and_then(|()| stream.read_exact(&mut received))
            .map_err(ProbeError::network("exchange a byte with", address))?;
        times.push(clock.elapsed());
        if sent != received {
            return Err(protocol(address, "another byte than was sent"));
        }
    }
    Ok(LatencyResult { latency: latency(times) })
}

/// Sends bytes to an instance, until it has said that it has them all.
///
/// # Errors
///
/// The size makes no sense, the server is away or has another number of bytes.
pub fn send(address: SocketAddr, bytes: u64) -> Result<TransferResult, ProbeError> {
    in_range("--bytes", bytes, 1, MAX_BYTES)?;
    let mut stream = connect(address, SINK)?;
    let clock = Instant::now();
    let count = write_all(&mut stream, bytes).map_err(ProbeError::network("send to", address))?;
    let elapsed = clock.elapsed();
    if count != bytes {
        return Err(protocol(address, &format!("{count} bytes have come of {bytes}")));
    }
    Ok(transfer(bytes, elapsed))
}

fn write_all(stream: &mut TcpStream, bytes: u64) -> io::Result<u64> {
    let buffer = vec![0x5a; CHUNK];
    let mut left = bytes;
    while left > 0 {
        let size = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        stream.write_all(&buffer[..size])?;
        left -= size as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut count = [0; 8];
    stream.read_exact(&mut count)?;
    Ok(u64::from_be_bytes(count))
}

/// Has an instance send bytes, until the last one is here.
///
/// # Errors
///
/// The size makes no sense, the server is away or sends another number of bytes.
pub fn receive(address: SocketAddr, bytes: u64) -> Result<TransferResult, ProbeError> {
    in_range("--bytes", bytes, 1, MAX_BYTES)?;
    let mut stream = connect(address, SOURCE)?;
    let clock = Instant::now();
    let count =
        read_all(&mut stream, bytes).map_err(ProbeError::network("receive from", address))?;
    let elapsed = clock.elapsed();
    if count != bytes {
        return Err(protocol(address, &format!("{count} bytes instead of {bytes}")));
    }
    Ok(transfer(bytes, elapsed))
}

/// Reads what comes, at most a piece more than was asked for.
fn read_all(stream: &mut TcpStream, bytes: u64) -> io::Result<u64> {
    stream.write_all(&bytes.to_be_bytes())?;
    let mut buffer = vec![0; CHUNK];
    let mut count = 0_u64;
    while count <= bytes {
        match stream.read(&mut buffer)? {
            0 => break,
            size => count += size as u64,
        }
    }
    Ok(count)
}

fn transfer(bytes: u64, elapsed: Duration) -> TransferResult {
    TransferResult {
        bytes,
        elapsed_ns: nanoseconds(elapsed),
        bytes_per_second: per_second(bytes, elapsed),
    }
}

fn connect(address: SocketAddr, kind: u8) -> Result<TcpStream, ProbeError> {
    let open = || {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(&[kind])?;
        Ok(stream)
    };
    open().map_err(ProbeError::network("connect to", address))
}

fn protocol(address: SocketAddr, reason: &str) -> ProbeError {
    ProbeError::Protocol { address, reason: reason.to_owned() }
}
