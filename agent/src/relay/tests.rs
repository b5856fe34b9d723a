use super::*;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

fn file(socket: UnixStream) -> File {
    OwnedFd::from(socket).into()
}

fn pipe() -> (File, File) {
    let (read, write) = rustix::pipe::pipe().unwrap();
    (read.into(), write.into())
}

/// A port with a connection, and the host's end of it.
fn connected() -> (Arc<Port>, UnixStream) {
    let (host, guest) = UnixStream::pair().unwrap();
    let port = Arc::<Port>::default();
    port.connect(file(guest), |_| true);
    (port, host)
}

/// An output pump on a thread. The flag is set when it's drained.
fn output(from: File, port: &Arc<Port>) -> (Arc<Once>, Arc<AtomicBool>, thread::JoinHandle<()>) {
    let exited = Arc::new(Once::new().unwrap());
    let drained = Arc::new(AtomicBool::new(false));
    let (their_exited, their_drained, port) =
        (Arc::clone(&exited), Arc::clone(&drained), Arc::clone(port));
    let thread = thread::spawn(move || {
        pump_output(&from, &their_exited, &port, || their_drained.store(true, Ordering::SeqCst));
    });
    (exited, drained, thread)
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|index| u8::try_from(index * 7 % 251).unwrap()).collect()
}

#[test]
fn output_arrives_whole_and_then_its_end() {
    let (from, mut process) = pipe();
    let (port, mut host) = connected();
    let (_, drained, pump) = output(from, &port);
    let bytes = pattern(3 << 20);
    let expected = bytes.clone();
    let writer = thread::spawn(move || process.write_all(&bytes).unwrap());
    let mut received = Vec::new();
    host.read_to_end(&mut received).unwrap();
    assert!(received == expected);
    writer.join().unwrap();
    pump.join().unwrap();
    assert!(drained.load(Ordering::SeqCst));
}

#[test]
fn a_host_that_does_not_read_holds_the_process_back() {
    let (from, process) = pipe();
    let (port, mut host) = connected();
    let (exited, drained, pump) = output(from, &port);
    set_nonblocking(&process).unwrap();
    // The pipe, the pump's buffer and the socket's fill up, and no more is taken.
    let mut taken = 0;
    let mut idle = 0;
    while idle < 20 {
        match (&process).write(&[1; 4096]) {
            Ok(count) => {
                taken += count;
                idle = 0;
            }
            Err(_) => {
                idle += 1;
                thread::sleep(Duration::from_millis(5));
            }
        }
    }
    assert!(taken < 4 << 20, "{taken} bytes are somewhere");
    drop(process);
    exited.happen();
    thread::sleep(Duration::from_millis(20));
    // The process's end isn't told before its output was read.
    assert!(!drained.load(Ordering::SeqCst));
    let mut received = Vec::new();
    host.read_to_end(&mut received).unwrap();
    assert_eq!(received.len(), taken);
    pump.join().unwrap();
    assert!(drained.load(Ordering::SeqCst));
}

#[test]
fn a_host_that_has_gone_holds_nobody_back() {
    let (from, mut process) = pipe();
    let (port, host) = connected();
    let (_, drained, pump) = output(from, &port);
    drop(host);
    process.write_all(&pattern(1 << 20)).unwrap();
    // Another connection gets what comes from then on.
    let (mut second, guest) = UnixStream::pair().unwrap();
    port.connect(file(guest), |_| true);
    process.write_all(b"again").unwrap();
    drop(process);
    let mut received = Vec::new();
    second.read_to_end(&mut received).unwrap();
    assert!(received.ends_with(b"again"));
    pump.join().unwrap();
    assert!(drained.load(Ordering::SeqCst));
}

#[test]
fn children_that_keep_the_pipe_open_delay_nothing_and_never_see_it_break() {
    let (from, mut child) = pipe();
    let (port, mut host) = connected();
    let (exited, drained, pump) = output(from, &port);
    child.write_all(b"before the end").unwrap();
    exited.happen();
    let mut received = Vec::new();
    host.read_to_end(&mut received).unwrap();
    assert_eq!(received, b"before the end");
    child.write_all(&pattern(1 << 20)).unwrap();
    assert!(drained.load(Ordering::SeqCst));
    drop(child);
    pump.join().unwrap();
}

fn input(port: &Arc<Port>, to: File, terminal: bool) -> (InputEnds, thread::JoinHandle<()>) {
    let once = || Arc::new(Once::new().unwrap());
    let ends = InputEnds { exited: once(), close: once() };
    let theirs = InputEnds { exited: Arc::clone(&ends.exited), close: Arc::clone(&ends.close) };
    let port = Arc::clone(port);
    set_nonblocking(&to).unwrap();
    (ends, thread::spawn(move || pump_input(&port, &to, &theirs, terminal)))
}

#[test]
fn input_arrives_whole_and_ends_with_the_hosts_half_close() {
    let (mut process, to) = pipe();
    let (port, mut host) = connected();
    let (_ends, pump) = input(&port, to, false);
    let bytes = pattern(3 << 20);
    let expected = bytes.clone();
    let writer = thread::spawn(move || {
        host.write_all(&bytes).unwrap();
        host.shutdown(std::net::Shutdown::Write).unwrap();
        host
    });
    let mut received = Vec::new();
    process.read_to_end(&mut received).unwrap();
    assert!(received == expected);
    writer.join().unwrap();
    pump.join().unwrap();
}

#[test]
fn input_is_closed_after_what_came_before() {
    let (mut process, to) = pipe();
    let (port, mut host) = connected();
    host.write_all(b"last words").unwrap();
    let (ends, pump) = input(&port, to, false);
    ends.close.happen();
    let mut received = String::new();
    process.read_to_string(&mut received).unwrap();
    assert_eq!(received, "last words");
    pump.join().unwrap();
}

#[test]
fn input_ends_with_the_process_even_if_nobody_reads_it() {
    let (unread, to) = pipe();
    let (port, mut host) = connected();
    let (ends, pump) = input(&port, to, false);
    host.set_nonblocking(true).unwrap();
    while host.write(&[0; 65536]).is_ok() {}
    ends.exited.happen();
    pump.join().unwrap();
    drop(unread);
}

#[test]
fn a_terminals_input_goes_on_with_the_next_connection() {
    let (mut process, to) = pipe();
    let (port, mut first) = connected();
    let (_ends, pump) = input(&port, to, true);
    first.write_all(b"one").unwrap();
    drop(first);
    let mut received = [0; 3];
    process.read_exact(&mut received).unwrap();
    let (mut second, guest) = UnixStream::pair().unwrap();
    port.connect(file(guest), |_| true);
    second.write_all(b"two").unwrap();
    process.read_exact(&mut received).unwrap();
    assert_eq!(&received, b"two");
    port.close();
    drop(second);
    pump.join().unwrap();
}

#[test]
fn a_connection_is_greeted_before_any_output() {
    let (from, mut process) = pipe();
    let port = Arc::<Port>::default();
    assert!(!port.is_connected());
    let (exited, _, pump) = output(from, &port);
    let (mut host, guest) = UnixStream::pair().unwrap();
    port.connect(file(guest), |to| to.write_all(b"hello ").is_ok());
    assert!(port.is_connected());
    process.write_all(b"world").unwrap();
    exited.happen();
    let mut received = String::new();
    host.read_to_string(&mut received).unwrap();
    assert_eq!(received, "hello world");
    drop(process);
    pump.join().unwrap();
    let (mut late, guest) = UnixStream::pair().unwrap();
    port.connect(file(guest), |_| true);
    assert_eq!(late.read(&mut [0; 1]).unwrap(), 0);
}
