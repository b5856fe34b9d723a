use std::io::{PipeReader, Read, pipe};
use std::thread;
use std::time::Instant;

use super::*;

/// Longer than any test waits.
const PATIENCE: Duration = Duration::from_secs(60);

fn piped() -> (ConsoleOutput, PipeReader) {
    let (reader, writer) = pipe().unwrap();
    (ConsoleOutput::new(writer.into()).unwrap(), reader)
}

/// Fills the pipe and the buffer of an output whose reader doesn't read, and then some.
fn stop(output: &ConsoleOutput) {
    output.write(&[b'.'; 1 << 20]);
    assert_ne!(output.dropped_bytes(), 0);
}

#[test]
fn prompt_without_a_newline_arrives_without_more_output() {
    let (output, mut reader) = piped();
    output.write(b"login: ");
    let mut seen = [0; 7];
    reader.read_exact(&mut seen).unwrap();
    assert_eq!(&seen, b"login: ");
}

#[test]
fn bytes_of_a_burst_are_written_together() {
    // A datagram socket keeps each write apart.
    let (host, guest) = rustix::net::socketpair(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    let output = ConsoleOutput::new(guest).unwrap();
    const BYTES: usize = 500;
    let start = Instant::now();
    for byte in 1..=BYTES {
        // The pace of a guest, whose every byte is a VM exit.
        let next = start + Duration::from_micros(20) * byte as u32;
        while Instant::now() < next {
            std::hint::spin_loop();
        }
        output.write(b"x");
    }
    assert!(output.flush(PATIENCE));
    let possible = start.elapsed().as_micros() / LINGER.as_micros() + 1;
    let (mut buffer, mut writes, mut bytes) = ([0; FILE_CHUNK], 0, 0);
    while bytes < BYTES {
        bytes += rustix::io::read(&host, &mut buffer).unwrap();
        writes += 1;
    }
    assert!(writes <= possible, "{writes} writes for {bytes} bytes");
}

#[test]
fn stopped_reader_costs_one_time_limit_and_no_memory() {
    let (output, _reader) = piped();
    stop(&output);
    let before = output.dropped_bytes();
    // Each of these would wait for the time limit if a stopped reader weren't remembered.
    for _ in 0..100_000 {
        output.write(b"x");
    }
    assert_eq!(output.dropped_bytes(), before + 100_000);
    let Sink::File(writer) = &output.sink else { panic!("no writer") };
    let state = writer.shared.lock();
    assert!(state.ring.len() <= CAPACITY);
}

#[test]
fn reader_that_goes_on_gets_everything_again() {
    const STOPPED: usize = 1 << 20;
    let (output, mut reader) = piped();
    output.write(&[b'.'; STOPPED]);
    assert!(!output.flush(Duration::ZERO));
    let reader = thread::spawn(move || {
        let mut seen = Vec::new();
        reader.read_to_end(&mut seen).unwrap();
        seen
    });
    assert!(output.flush(PATIENCE));
    let dropped = usize::try_from(output.dropped_bytes()).unwrap();
    // More than the buffer holds: the guest waits for this reader again.
    output.write(&[b'!'; STOPPED]);
    drop(output);
    let seen = reader.join().unwrap();
    assert_eq!(seen.len(), STOPPED - dropped + STOPPED);
    assert!(seen.ends_with(&[b'!'; STOPPED]));
}

#[test]
fn gone_reader_costs_no_waiting() {
    let (output, reader) = piped();
    drop(reader);
    output.write(&[b'.'; 1 << 20]);
    assert!(output.flush(PATIENCE));
    assert_eq!(output.dropped_bytes(), 1 << 20);
}

#[test]
fn interrupted_write_returns_without_the_reader() {
    let (output, _reader) = piped();
    let cancelled = AtomicBool::new(false);
    thread::scope(|scope| {
        let write = scope.spawn(|| output.write_unless(&[b'.'; 1 << 20], &cancelled));
        output.interrupt(&cancelled);
        write.join().unwrap();
    });
    let Sink::File(writer) = &output.sink else { panic!("no writer") };
    let state = writer.shared.lock();
    assert!(!state.stalled, "the write waited for its time limit");
}

#[test]
fn file_that_was_made_non_blocking_gets_everything() {
    let (mut reader, writer) = pipe().unwrap();
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    let output = ConsoleOutput::new(writer.into()).unwrap();
    // More than the pipe holds, less than with the buffer: the writer finds the pipe full.
    const BYTES: usize = 100 << 10;
    output.write(&[b'.'; BYTES]);
    assert!(!output.flush(10 * LINGER));
    let reader = thread::spawn(move || {
        let mut seen = Vec::new();
        reader.read_to_end(&mut seen).unwrap();
        seen
    });
    drop(output);
    assert_eq!(reader.join().unwrap().len(), BYTES);
}

#[test]
fn discarded_output_is_not_counted_as_lost() {
    let output = ConsoleOutput::discard();
    output.write(b"nobody");
    assert!(output.flush(Duration::ZERO));
    assert_eq!(output.dropped_bytes(), 0);
}

#[test]
fn output_over_its_limit_is_dropped_and_counted_and_the_rest_arrives() {
    let (output, mut reader) = piped();
    let limit = TokenBucketConfig { size: 4, one_time_burst: 2, refill_time_ms: 1 << 40 };
    let output = output.with_limit(&limit);
    output.write(b"abc");
    output.write(b"defgh");
    output.write(b"i");
    assert_eq!((output.limited_bytes(), output.dropped_bytes()), (3, 3));
    drop(output);
    let mut seen = String::new();
    reader.read_to_string(&mut seen).unwrap();
    assert_eq!(seen, "abcdef");
}

#[test]
fn limit_of_nothing_is_none() {
    let limit = TokenBucketConfig { size: 0, one_time_burst: 1, refill_time_ms: 100 };
    let output = ConsoleOutput::discard().with_limit(&limit);
    output.write(&[b'.'; 100]);
    assert_eq!(output.dropped_bytes(), 0);
}
