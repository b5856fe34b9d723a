//! Answers connections over vsock, one after the other: what a measured guest runs.
//!
//! Each connection sends one line. `use MIB` writes to that much more memory, which stays in use;
//! any other line only asks for an answer. The answer is `ok`, when it's done.

use std::hint::black_box;
use std::io::{self, BufRead, BufReader, Write};

use vsock::{VMADDR_CID_ANY, VsockListener, VsockStream};

/// Where it listens.
const PORT: u32 = 52;

/// What the console shows once connections are taken.
const MARK: &str = "@@ready@@";

fn main() -> io::Result<()> {
    let listener = VsockListener::bind_with_cid_port(VMADDR_CID_ANY, PORT)?;
    println!("{MARK}");
    let mut in_use = Vec::new();
    for stream in listener.incoming() {
        // A client that's gone before it was answered is no reason to leave the next one alone.
        if let Err(error) = answer(stream?, &mut in_use) {
            eprintln!("guest-answer: {error}");
        }
    }
    Ok(())
}

fn answer(stream: VsockStream, in_use: &mut Vec<Vec<u8>>) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line)?;
    if let Some(mib) = line.strip_prefix("use ") {
        let mib: usize = mib.trim().parse().map_err(io::Error::other)?;
        in_use.push(black_box(vec![0xa5; mib << 20]));
    }
    stream.get_mut().write_all(b"ok\n")
}
