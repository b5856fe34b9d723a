//! Running the program in a machine that has no other way in: a full VM, by its vsock device.
//!
//! ```text
//! host ── ["cpu","--iterations","1"] + line feed ──▶ a child of the server's
//!      ◀── {"code":0,"stdout":"…","stderr":"…"} + line feed ──
//! ```
//!
//! A connection is for one command. Whoever connects may run this program, and nothing else.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use serde::{Deserialize, Serialize};
use vsock::{VMADDR_CID_ANY, VsockListener};

use crate::ProbeError;

/// The longest command, in bytes.
const MAX_COMMAND_BYTES: u64 = 64 << 10;

/// The longest reply, in bytes: two outputs of 64 KiB, of which each byte may take six.
pub const MAX_REPLY_BYTES: u64 = 1 << 20;

/// The most of an output that's told, in bytes.
const MAX_OUTPUT_BYTES: u64 = 64 << 10;

/// How a command ended.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Reply {
    /// Its exit code; 128 and the signal's number if one ended it.
    pub code: i32,
    /// The beginning of its standard output.
    pub stdout: String,
    /// The beginning of its standard error.
    pub stderr: String,
}

/// Serves commands on a vsock port, each by a process of its own of `program`.
///
/// # Errors
///
/// There's no vsock device, or the port is taken.
pub fn serve(port: u32, program: &Path) -> Result<(), ProbeError> {
    let listener = VsockListener::bind_with_cid_port(VMADDR_CID_ANY, port)
        .map_err(ProbeError::system("listen on the vsock port"))?;
    loop {
        let Ok((stream, _)) = listener.accept() else { continue };
        let program = program.to_owned();
        thread::Builder::new()
            .spawn(move || {
                // Who has gone away misses nothing.
                let _ = answer(&stream, &stream, &program);
            })
            .map_err(ProbeError::system("start a thread"))?;
    }
}

/// Reads a command, runs it and tells how it ended. A command that can't be read gets no reply.
fn answer(from: impl Read, mut to: impl Write, program: &Path) -> io::Result<()> {
    let mut line = Vec::new();
    BufReader::new(from.take(MAX_COMMAND_BYTES)).read_until(b'\n', &mut line)?;
    if line.pop() != Some(b'\n') {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    }
    let words: Vec<String> = serde_json::from_slice(&line)?;
    let reply = run(program, &words).unwrap_or_else(|error| Reply {
        code: 127,
        stdout: String::new(),
        stderr: format!("{}: {error}", program.display()),
    });
    let mut text = serde_json::to_vec(&reply)?;
    text.push(b'\n');
    to.write_all(&text)
}

fn run(program: &Path, words: &[String]) -> io::Result<Reply> {
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (stdout, stderr) = thread::scope(|scope| {
        let reader = scope.spawn(|| beginning(stderr));
        let stdout = beginning(stdout);
        (stdout, reader.join().unwrap_or_default())
    });
    let status = child.wait()?;
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    Ok(Reply { code, stdout, stderr })
}

/// Reads to the end and keeps the beginning.
fn beginning(output: Option<impl Read>) -> String {
    let Some(mut output) = output else { return String::new() };
    let mut bytes = Vec::new();
    let _ = output.by_ref().take(MAX_OUTPUT_BYTES).read_to_end(&mut bytes);
    let _ = io::copy(&mut output, &mut io::sink());
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Writes a command, as the server reads it.
///
/// # Errors
///
/// The other side is gone.
pub fn send(to: &mut impl Write, words: &[&str]) -> io::Result<()> {
    let mut line = serde_json::to_vec(words)?;
    line.push(b'\n');
    to.write_all(&line)
}

/// Understands a reply, its line feed included.
///
/// # Errors
///
/// It's too long, not whole, or none.
pub fn parse(reply: &[u8]) -> io::Result<Reply> {
    let wrong = |reason: &str| Err(io::Error::new(io::ErrorKind::InvalidData, reason));
    if reply.len() as u64 > MAX_REPLY_BYTES {
        return wrong("the reply is too long");
    }
    match reply.strip_suffix(b"\n") {
        Some(line) => Ok(serde_json::from_slice(line)?),
        None => wrong("the reply isn't whole"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(request: &[u8], program: &str) -> io::Result<Reply> {
        let mut reply = Vec::new();
        answer(request, &mut reply, program.as_ref())?;
        parse(&reply)
    }

    #[test]
    fn command_is_run_and_its_end_told() {
        let mut request = Vec::new();
        send(&mut request, &["-c", "echo out; echo err >&2; exit 3"]).unwrap();
        let expected = Reply { code: 3, stdout: "out\n".to_owned(), stderr: "err\n".to_owned() };
        assert_eq!(ask(&request, "/bin/sh").unwrap(), expected);
        request.clear();
        send(&mut request, &["-c", "kill -KILL $$"]).unwrap();
        assert_eq!(ask(&request, "/bin/sh").unwrap().code, 137);
        assert_eq!(ask(&request, "/no/such/program").unwrap().code, 127);
    }

    #[test]
    fn output_without_end_is_cut_and_read_on() {
        let mut request = Vec::new();
        send(&mut request, &["-c", "head -c 1000000 /dev/zero"]).unwrap();
        let reply = ask(&request, "/bin/sh").unwrap();
        assert_eq!((reply.code, reply.stdout.len() as u64), (0, MAX_OUTPUT_BYTES));
    }

    #[test]
    fn what_is_no_command_gets_no_reply() {
        let long = format!("[\"{}\"]\n", "a".repeat(64 << 10));
        for request in [&b""[..], b"[]", b"{}\n", b"[1]\n", b"\xff\n", long.as_bytes()] {
            assert!(ask(request, "/bin/true").is_err(), "{}", request.len());
        }
    }

    #[test]
    fn hostile_replies_are_errors() {
        let long = format!("{{\"code\":0,\"stdout\":\"{}\"}}\n", "a".repeat(1 << 20));
        for reply in [
            &b""[..],
            b"\n",
            b"{\"code\":0,\"stdout\":\"\",\"stderr\":\"\"}",
            b"{\"code\":0,\"stdout\":\"\"}\n",
            b"{\"code\":99999999999,\"stdout\":\"\",\"stderr\":\"\"}\n",
            b"{}\n{}\n",
            long.as_bytes(),
        ] {
            assert!(parse(reply).is_err(), "{:?}", String::from_utf8_lossy(reply));
        }
    }
}
