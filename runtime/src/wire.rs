//! What's said on a supervisor's socket: a request, then frames.
//!
//! ```text
//! client ─▶ supervisor   one frame REQUEST with JSON, then, attached, STDIN and STDIN_END
//! supervisor ─▶ client   one frame ANSWER with JSON, then, attached, STDOUT, STDERR and EXIT
//! frame                  u8 type, u32 little-endian length, so many bytes
//! ```
//!
//! Who starts a supervisor has a connection to it from the beginning: its standard input. It
//! carries the same, with [`Request::Start`].
//!
//! Only this user's processes can connect. Both sides refuse a frame longer than
//! [`MAX_FRAME_BYTES`]. Whoever stops reading is not sent more: what they are attached to has to
//! wait, or they are dropped (see the supervisor's `attach`).

use std::io::{self, Read, Write};
use std::path::Path;

use std::os::unix::net::UnixStream;

use serde::{Deserialize, Serialize};

use crate::error::{Failure, RuntimeError};
use crate::options::AttachOptions;

/// The longest frame's contents, in bytes.
pub(crate) const MAX_FRAME_BYTES: usize = 256 << 10;

/// Bytes of type and length.
const HEADER_BYTES: usize = 5;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum FrameType {
    Request = 0,
    Answer = 1,
    Stdin = 2,
    StdinEnd = 3,
    Stdout = 4,
    Stderr = 5,
    Exit = 6,
}

/// How a process has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Exit {
    pub(crate) code: i32,
    /// Why nobody knows how, if so: the VM is gone.
    pub(crate) lost: String,
}

/// What a client asks of a supervisor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    /// The first word of who started the supervisor, on the connection that it was started with.
    /// Answered once the container's process runs; who is attached misses nothing of its output.
    Start(Option<Attach>),
    /// An attached client's first word.
    Attach(Attach),
    /// Nothing: the connection lasts as long as the supervisor.
    Watch,
    /// The exit code, once the process has ended and won't be started again, and nothing is left of
    /// its VM.
    Wait,
    /// An end in order; answered once it's there.
    Stop {
        /// The signal; the container's unless said.
        signal: Option<i32>,
        /// Seconds until it's killed, negative for never; the container's unless said.
        timeout_s: Option<i32>,
    },
    /// A signal to the process.
    Signal(i32),
    /// The size of the process's terminal.
    Resize {
        /// Rows.
        rows: u16,
        /// Columns.
        cols: u16,
    },
    /// The VM stands still.
    Pause,
    /// The VM goes on.
    Unpause,
}

/// What an attached client gets and gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Attach {
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    pub(crate) size: Option<(u16, u16)>,
}

impl From<AttachOptions> for Attach {
    fn from(options: AttachOptions) -> Self {
        let AttachOptions { stdin, stdout, stderr, size } = options;
        Self { stdin, stdout, stderr, size }
    }
}

/// What a supervisor answers: an exit code to [`Request::Wait`] and [`Request::Stop`], else 0.
pub(crate) type Answer = Result<i32, Failure>;

impl FrameType {
    const fn from_u8(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::Request,
            1 => Self::Answer,
            2 => Self::Stdin,
            3 => Self::StdinEnd,
            4 => Self::Stdout,
            5 => Self::Stderr,
            6 => Self::Exit,
            _ => return None,
        })
    }
}

/// Writes a frame.
pub(crate) fn send(out: &mut impl Write, kind: FrameType, contents: &[u8]) -> io::Result<()> {
    let length = u32::try_from(contents.len()).map_err(io::Error::other)?;
    let mut header = [kind as u8, 0, 0, 0, 0];
    header[1..].copy_from_slice(&length.to_le_bytes());
    // One call for small frames, so that a terminal's keys are one packet.
    if contents.len() <= 4096 {
        let mut frame = Vec::with_capacity(HEADER_BYTES + contents.len());
        frame.extend_from_slice(&header);
        frame.extend_from_slice(contents);
        return out.write_all(&frame);
    }
    out.write_all(&header)?;
    out.write_all(contents)
}

/// Reads a frame into `contents`; none when the other side has closed between two frames.
pub(crate) fn receive(
    from: &mut impl Read,
    contents: &mut Vec<u8>,
) -> io::Result<Option<FrameType>> {
    let mut header = [0; HEADER_BYTES];
    if !read_header(from, &mut header)? {
        return Ok(None);
    }
    let [kind, length @ ..] = header;
    let kind = FrameType::from_u8(kind).ok_or_else(|| damaged("an unknown type of frame"))?;
    let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if length > MAX_FRAME_BYTES {
        return Err(damaged("a frame that's too long"));
    }
    contents.resize(length, 0);
    from.read_exact(contents)?;
    Ok(Some(kind))
}

fn read_header(from: &mut impl Read, header: &mut [u8; HEADER_BYTES]) -> io::Result<bool> {
    let mut filled = 0;
    while filled < HEADER_BYTES {
        match from.read(header.get_mut(filled..).unwrap_or_default()) {
            Ok(0) if filled == 0 => return Ok(false),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

pub(crate) fn send_request(out: &mut impl Write, request: &Request) -> io::Result<()> {
    send(out, FrameType::Request, &serde_json::to_vec(request)?)
}

pub(crate) fn send_answer(out: &mut impl Write, answer: &Answer) -> io::Result<()> {
    send(out, FrameType::Answer, &serde_json::to_vec(answer)?)
}

pub(crate) fn send_exit(out: &mut impl Write, exit: &Exit) -> io::Result<()> {
    let contents = [&exit.code.to_le_bytes(), exit.lost.as_bytes()].concat();
    send(out, FrameType::Exit, &contents)
}

pub(crate) fn parse_exit(contents: &[u8]) -> io::Result<Exit> {
    let (code, lost) =
        contents.split_first_chunk().ok_or_else(|| damaged("an exit code of another size"))?;
    let lost = String::from_utf8(lost.to_vec()).map_err(|_| damaged("a reason that's no text"))?;
    Ok(Exit { code: i32::from_le_bytes(*code), lost })
}

pub(crate) fn receive_request(from: &mut impl Read) -> io::Result<Request> {
    let mut contents = Vec::new();
    match receive(from, &mut contents)? {
        Some(FrameType::Request) => Ok(serde_json::from_slice(&contents)?),
        Some(_) => Err(damaged("no request")),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

pub(crate) fn receive_answer(from: &mut impl Read) -> io::Result<Answer> {
    let mut contents = Vec::new();
    match receive(from, &mut contents)? {
        Some(FrameType::Answer) => Ok(serde_json::from_slice(&contents)?),
        Some(_) => Err(damaged("no answer")),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Asks something of the supervisor that listens on `socket`, and waits for its answer.
///
/// # Errors
/// None if nobody listens there, or the supervisor ended before it answered.
pub(crate) fn ask(socket: &Path, request: &Request) -> Result<i32, AskError> {
    let mut stream = UnixStream::connect(socket).map_err(AskError::Gone)?;
    send_request(&mut stream, request).map_err(AskError::Gone)?;
    match receive_answer(&mut stream).map_err(AskError::Gone)? {
        Ok(code) => Ok(code),
        Err(failure) => Err(AskError::Refused(RuntimeError::Failed(failure))),
    }
}

/// Why a supervisor didn't do what it was asked.
#[derive(Debug)]
pub(crate) enum AskError {
    /// It isn't there any more.
    Gone(io::Error),
    /// It said why.
    Refused(RuntimeError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_read_back_as_they_were_sent() {
        let mut bytes = Vec::new();
        send(&mut bytes, FrameType::Stdout, b"hello").unwrap();
        send(&mut bytes, FrameType::StdinEnd, b"").unwrap();
        send(&mut bytes, FrameType::Stderr, &vec![7; 10_000]).unwrap();
        let (mut from, mut contents) = (bytes.as_slice(), Vec::new());
        assert_eq!(receive(&mut from, &mut contents).unwrap(), Some(FrameType::Stdout));
        assert_eq!(contents, b"hello");
        assert_eq!(receive(&mut from, &mut contents).unwrap(), Some(FrameType::StdinEnd));
        assert!(contents.is_empty());
        assert_eq!(receive(&mut from, &mut contents).unwrap(), Some(FrameType::Stderr));
        assert_eq!(contents.len(), 10_000);
        assert_eq!(receive(&mut from, &mut contents).unwrap(), None);
    }

    #[test]
    fn frame_that_is_cut_off_too_long_or_unknown_is_refused() {
        let mut contents = Vec::new();
        for bytes in [
            &[4, 5, 0, 0][..],
            &[4, 5, 0, 0, 0, b'h'],
            &[4, 255, 255, 255, 255],
            &[4, 1, 0, 4, 0],
            &[99, 0, 0, 0, 0],
        ] {
            receive(&mut &*bytes, &mut contents).unwrap_err();
        }
        assert!(contents.capacity() <= MAX_FRAME_BYTES, "nothing is set aside for a lie");
    }

    #[test]
    fn exit_reads_back_as_it_was_sent_and_what_is_none_is_refused() {
        for lost in ["", "the guest's kernel panicked"] {
            let exit = Exit { code: -7, lost: lost.to_owned() };
            let (mut bytes, mut contents) = (Vec::new(), Vec::new());
            send_exit(&mut bytes, &exit).unwrap();
            assert_eq!(receive(&mut &*bytes, &mut contents).unwrap(), Some(FrameType::Exit));
            assert_eq!(parse_exit(&contents).unwrap(), exit);
        }
        for contents in [&[][..], &[1, 0, 0], &[1, 0, 0, 0, 0xff]] {
            parse_exit(contents).unwrap_err();
        }
    }
}
