use std::io::{PipeReader, Read, pipe};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::*;

const DATA: u64 = 0;
const IER: u64 = 1;
const IIR: u64 = 2;
const MCR: u64 = 4;
const LSR: u64 = 5;

#[derive(Default)]
struct Edges(AtomicUsize);

impl InterruptLine for Edges {
    fn trigger(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }
}

fn port() -> (SerialPort, Arc<Edges>, PipeReader) {
    let edges = Arc::new(Edges::default());
    let (reader, writer) = pipe().unwrap();
    let output = Arc::new(ConsoleOutput::new(writer.into()).unwrap());
    (SerialPort::new(edges.clone(), output).unwrap(), edges, reader)
}

fn read(port: &SerialPort, register: u64) -> u8 {
    let mut value = [0xff];
    port.read(register, &mut value);
    value[0]
}

fn is_room_announced(port: &SerialPort) -> bool {
    port.room().read().is_ok()
}

#[test]
fn flood_arrives_complete_and_in_order() {
    const SIZE: usize = 10 << 20;
    let byte_at = |position: usize| (position % 251) as u8;
    let (port, _, mut reader) = port();
    let guest = thread::spawn(move || {
        for position in 0..SIZE {
            port.write(DATA, &[byte_at(position)]);
        }
    });
    let mut seen = Vec::new();
    reader.read_to_end(&mut seen).unwrap();
    guest.join().unwrap();
    assert_eq!(seen.len(), SIZE);
    assert!(seen.iter().enumerate().all(|(position, byte)| *byte == byte_at(position)));
}

#[test]
fn input_interrupts_and_is_read_in_order() {
    let (port, edges, _reader) = port();
    port.write(IER, &[1]);
    assert_eq!(port.offer(b"ls\n"), 3);
    assert_eq!(edges.0.load(Ordering::Acquire), 1);
    let mut seen = Vec::new();
    while read(&port, LSR) & 1 != 0 {
        seen.push(read(&port, DATA));
    }
    assert_eq!(seen, b"ls\n");
}

#[test]
fn input_beyond_the_fifo_is_refused_and_asked_for_again_once_the_guest_reads() {
    let (port, _, _reader) = port();
    let input = [b'x'; 100];
    let taken = port.offer(&input);
    assert!(taken < input.len());
    for _ in 0..1000 {
        assert_eq!(port.offer(&input[taken..]), 0, "a guest that doesn't read makes nothing grow");
    }
    assert!(!is_room_announced(&port));
    read(&port, DATA);
    assert!(is_room_announced(&port));
    assert_eq!(port.offer(&input[taken..]), 1);
    assert!(!is_room_announced(&port));
}

#[test]
fn empty_offer_asks_for_no_room() {
    let (port, _, _reader) = port();
    assert_eq!(port.offer(&[]), 0);
    read(&port, DATA);
    assert!(!is_room_announced(&port));
}

#[test]
fn input_waits_while_the_port_is_in_loopback() {
    let (port, _, _reader) = port();
    port.write(MCR, &[MCR_LOOPBACK]);
    assert_eq!(port.offer(b"typed"), 0);
    port.write(DATA, b"!");
    assert_eq!(read(&port, DATA), b'!', "the guest's own byte comes back");
    assert!(!is_room_announced(&port));
    port.write(MCR, &[0]);
    assert!(is_room_announced(&port));
    assert_eq!(port.offer(b"typed"), 5);
}

#[test]
fn loopback_bytes_do_not_reach_the_host() {
    let (port, _, mut reader) = port();
    port.write(MCR, &[MCR_LOOPBACK]);
    port.write(DATA, b"a");
    port.write(MCR, &[0]);
    port.write(DATA, b"b");
    drop(port);
    let mut seen = Vec::new();
    reader.read_to_end(&mut seen).unwrap();
    assert_eq!(seen, b"b");
}

#[test]
fn wide_access_is_one_access_per_register() {
    let (port, _, mut reader) = port();
    // To the data and the interrupt enable register.
    port.write(DATA, &[b'x', 0x05]);
    let mut registers = [0xff; 2];
    port.read(IER, &mut registers);
    assert_eq!(registers, [0x05, 0xc1], "interrupt enable and identification");
    drop(port);
    let mut seen = Vec::new();
    reader.read_to_end(&mut seen).unwrap();
    assert_eq!(seen, b"x");
}

#[test]
fn input_is_taken_while_output_waits_for_its_reader() {
    let (port, _, mut reader) = port();
    let port = Arc::new(port);
    let guest = {
        let port = Arc::clone(&port);
        // Far more than the pipe and the buffer hold.
        thread::spawn(move || {
            for _ in 0..1 << 20 {
                port.write(DATA, b"#");
            }
        })
    };
    let mut first = [0];
    reader.read_exact(&mut first).unwrap();
    assert_eq!(port.offer(b"\x03"), 1);
    drop(reader);
    guest.join().unwrap();
}

#[test]
fn restored_uart_raises_the_transmit_interrupt_that_its_driver_waits_for() {
    let (old, edges, _reader) = port();
    old.write(IER, &[2]);
    old.write(DATA, b"a");
    assert_eq!(edges.0.load(Ordering::Acquire), 1);
    let saved = old.save();

    let (new, edges, _reader) = port();
    new.restore(saved.clone()).unwrap();
    assert_eq!(new.save(), saved);
    edges.0.store(0, Ordering::Release);
    new.revive();
    assert_eq!(edges.0.load(Ordering::Acquire), 1);
    assert_eq!(read(&new, IIR) & 0x0f, 2, "the transmitter is empty");
    assert_eq!(read(&new, IIR) & 0x0f, 1, "acknowledged");
    new.revive();
    assert_eq!(edges.0.load(Ordering::Acquire), 1, "nothing is pending any more");
    new.write(DATA, b"b");
    assert_eq!(edges.0.load(Ordering::Acquire), 2);
}

#[test]
fn restored_uart_has_the_input_that_the_guest_had_not_read() {
    let (old, ..) = port();
    old.write(IER, &[1]);
    assert_eq!(old.offer(b"ls"), 2);
    assert_eq!(read(&old, DATA), b'l');
    let (new, ..) = port();
    new.restore(old.save()).unwrap();
    assert_eq!(new.offer(b"\n"), 1);
    assert_eq!([(); 2].map(|()| read(&new, DATA)), *b"s\n");
    assert_eq!(read(&new, LSR) & 1, 0);
}

#[test]
fn uart_state_with_too_much_input_is_refused_and_wild_registers_do_no_harm() {
    let (port, ..) = port();
    let saved = port.save();
    let hostile = SerialPortState { in_buffer: vec![0; 65], ..saved.clone() };
    assert!(port.restore(hostile).is_err());
    assert_eq!(port.save(), saved);
    let wild = SerialPortState {
        interrupt_enable: 0xff,
        interrupt_identification: 0xff,
        line_control: 0xff,
        line_status: 0xff,
        modem_control: 0xff,
        ..saved
    };
    port.restore(wild).unwrap();
    port.revive();
    for register in 0..8 {
        let value = read(&port, register);
        port.write(register, &[value]);
    }
    port.offer(&[1; 100]);
}
