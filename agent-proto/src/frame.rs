//! Frames: a little-endian `u32` of length, then that many bytes of JSON.

use std::io::{ErrorKind, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::ProtocolError;

/// The most bytes of JSON in a frame.
pub const MAX_FRAME_BYTES: usize = 1 << 20;

/// Writes a message as a frame, in one call.
///
/// # Errors
///
/// Fails with [`ProtocolError::TooLong`] when the message has more than [`MAX_FRAME_BYTES`], before
/// anything is written, and with the writer's error.
pub fn write(writer: &mut impl Write, message: &impl Serialize) -> Result<(), ProtocolError> {
    writer.write_all(&encode(message)?).map_err(ProtocolError::Io)
}

/// Encodes a message as a frame.
///
/// # Errors
///
/// Fails with [`ProtocolError::TooLong`] when the message has more than [`MAX_FRAME_BYTES`].
pub fn encode(message: &impl Serialize) -> Result<Vec<u8>, ProtocolError> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, message).map_err(ProtocolError::Json)?;
    let bytes = frame.len() - 4;
    let length = u32::try_from(bytes).ok().filter(|_| bytes <= MAX_FRAME_BYTES);
    let length = length.ok_or(ProtocolError::TooLong { bytes })?;
    frame[..4].copy_from_slice(&length.to_le_bytes());
    Ok(frame)
}

/// Reads a frame and decodes it. `None` is the end between two frames.
///
/// # Errors
///
/// Fails when the frame is empty, too long, cut short or not the JSON of a `T`, and with the
/// reader's error.
pub fn read<T: DeserializeOwned>(reader: &mut impl Read) -> Result<Option<T>, ProtocolError> {
    let Some(bytes) = read_bytes(reader)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(ProtocolError::Json)
}

/// Reads a frame that must be there.
///
/// # Errors
///
/// Fails as [`read`], and with [`ProtocolError::Closed`] at the end.
pub fn expect<T: DeserializeOwned>(reader: &mut impl Read) -> Result<T, ProtocolError> {
    read(reader)?.ok_or(ProtocolError::Closed)
}

fn read_bytes(reader: &mut impl Read) -> Result<Option<Vec<u8>>, ProtocolError> {
    let mut header = [0; 4];
    if !read_header(reader, &mut header)? {
        return Ok(None);
    }
    let length = usize::try_from(u32::from_le_bytes(header)).unwrap_or(usize::MAX);
    if length == 0 {
        return Err(ProtocolError::Empty);
    }
    if length > MAX_FRAME_BYTES {
        return Err(ProtocolError::TooLong { bytes: length });
    }
    let mut bytes = vec![0; length];
    reader.read_exact(&mut bytes).map_err(truncation)?;
    Ok(Some(bytes))
}

/// Fills `header`, or returns false at the end of the stream before its first byte.
fn read_header(reader: &mut impl Read, header: &mut [u8; 4]) -> Result<bool, ProtocolError> {
    let mut filled = 0;
    while filled < header.len() {
        match reader.read(&mut header[filled..]) {
            Ok(0) if filled == 0 => return Ok(false),
            Ok(0) => return Err(ProtocolError::Truncated),
            Ok(bytes) => filled += bytes,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(ProtocolError::Io(error)),
        }
    }
    Ok(true)
}

fn truncation(error: std::io::Error) -> ProtocolError {
    match error.kind() {
        ErrorKind::UnexpectedEof => ProtocolError::Truncated,
        _ => ProtocolError::Io(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(length: u32, body: &[u8]) -> Vec<u8> {
        [&length.to_le_bytes()[..], body].concat()
    }

    #[test]
    fn a_frame_is_read_back() {
        let mut bytes = Vec::new();
        write(&mut bytes, &vec!["a", "b"]).unwrap();
        write(&mut bytes, &7).unwrap();
        let mut reader = &bytes[..];
        assert_eq!(expect::<Vec<String>>(&mut reader).unwrap(), ["a", "b"]);
        assert_eq!(expect::<u8>(&mut reader).unwrap(), 7);
        assert!(read::<u8>(&mut reader).unwrap().is_none());
    }

    #[test]
    fn a_frame_too_long_is_refused_before_its_body_is_read() {
        let mut reader = &framed(u32::MAX, b"")[..];
        let error = read::<u8>(&mut reader).unwrap_err();
        assert!(matches!(error, ProtocolError::TooLong { bytes: 0xffff_ffff }), "{error}");
        let text = "x".repeat(MAX_FRAME_BYTES);
        assert!(matches!(encode(&text), Err(ProtocolError::TooLong { .. })));
        assert!(encode(&&text[..MAX_FRAME_BYTES - 2]).is_ok());
    }

    #[test]
    fn a_frame_cut_short_is_an_error() {
        for bytes in [&framed(4, b"tru")[..], &[4, 0, 0], &[4, 0, 0, 0]] {
            let mut reader = bytes;
            let error = read::<bool>(&mut reader).unwrap_err();
            assert!(matches!(error, ProtocolError::Truncated), "{bytes:?}: {error}");
        }
    }

    #[test]
    fn a_frame_that_is_no_json_is_an_error() {
        for body in [&b"{\"a\":"[..], b"\xff\xfe", b"1 2", b"nul"] {
            let bytes = framed(u32::try_from(body.len()).unwrap(), body);
            let error = read::<serde_json::Value>(&mut &bytes[..]).unwrap_err();
            assert!(matches!(error, ProtocolError::Json(_)), "{body:?}: {error}");
        }
        assert!(matches!(read::<u8>(&mut &framed(0, b"")[..]), Err(ProtocolError::Empty)));
    }

    #[test]
    fn nesting_is_bounded() {
        let body = [vec![b'['; 100_000], vec![b']'; 100_000]].concat();
        let bytes = framed(200_000, &body);
        assert!(read::<serde_json::Value>(&mut &bytes[..]).is_err());
    }
}
