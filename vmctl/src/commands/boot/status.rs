//! What the VMM says on its status pipe.

use std::io::{self, Read};

use api::event::Event;

/// The longest line that's an event; the VMM talks to a guest, and isn't trusted with memory here.
const MAX_LINE_BYTES: usize = 64 * 1024;

/// How much one look at the pipe reads: a VMM that writes without end mustn't keep this process from
/// all else. It's also as much as a pipe holds, so that one look after the VMM's end sees it all.
const MAX_READ_BYTES: usize = 64 * 1024;

/// Puts lines together from what a pipe gives.
#[derive(Debug, Default)]
pub(crate) struct StatusLines {
    partial: Vec<u8>,
    /// The rest of a line that was too long is dropped.
    skipping: bool,
    ended: bool,
}

impl StatusLines {
    /// Whether the writer has closed its end.
    pub(crate) fn ended(&self) -> bool {
        self.ended
    }

    /// Reads until nothing's left for now, or there's too much of it, and returns the events that
    /// became whole.
    pub(crate) fn read(&mut self, pipe: &mut impl Read) -> io::Result<Vec<Event>> {
        let mut events = Vec::new();
        let mut buffer = [0; 4096];
        let mut taken = 0;
        while taken < MAX_READ_BYTES {
            match pipe.read(&mut buffer) {
                Ok(0) => {
                    self.ended = true;
                    break;
                }
                Ok(length) => {
                    taken += length;
                    for piece in buffer[..length].split_inclusive(|&byte| byte == b'\n') {
                        events.extend(self.take(piece));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(events)
    }

    /// Takes a line's next piece; only its last one ends in a newline.
    fn take(&mut self, piece: &[u8]) -> Option<Event> {
        if self.partial.len() + piece.len() > MAX_LINE_BYTES {
            self.skipping = true;
            self.partial.clear();
        }
        if !self.skipping {
            self.partial.extend_from_slice(piece);
        }
        if piece.last() != Some(&b'\n') {
            return None;
        }
        self.skipping = false;
        let line = std::mem::take(&mut self.partial);
        match Event::parse_line(&line) {
            Ok(event) => Some(event),
            Err(error) => {
                log::debug!("no event that's known here: {error}");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use api::event::StopReason;

    use super::*;

    /// A pipe that gives these pieces, and then nothing for now.
    struct Pieces(VecDeque<Vec<u8>>);

    impl Read for Pieces {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let Some(piece) = self.0.pop_front() else {
                return Err(io::ErrorKind::WouldBlock.into());
            };
            buffer[..piece.len()].copy_from_slice(&piece);
            Ok(piece.len())
        }
    }

    fn read(lines: &mut StatusLines, pieces: &[&[u8]]) -> Vec<Event> {
        let mut pipe = Pieces(pieces.iter().map(|piece| piece.to_vec()).collect());
        lines.read(&mut pipe).unwrap()
    }

    const VM_CREATED: &[u8] = b"{\"event\":\"vm_created\",\"monotonic_ns\":1}\n";

    #[test]
    fn lines_are_put_together_from_pieces() {
        let mut lines = StatusLines::default();
        assert_eq!(read(&mut lines, &[&VM_CREATED[..10]]), []);
        let events = read(&mut lines, &[&VM_CREATED[10..], VM_CREATED]);
        assert_eq!(events, vec![Event::VmCreated { monotonic_ns: 1 }; 2]);
        assert!(!lines.ended());
        assert_eq!(read(&mut lines, &[b""]), []);
        assert!(lines.ended());
    }

    #[test]
    fn writer_that_never_stops_is_left_for_the_next_look() {
        let mut lines = StatusLines::default();
        let mut pipe = io::repeat(b'\n');
        assert_eq!(lines.read(&mut pipe).unwrap(), []);
        assert!(!lines.ended());
    }

    #[test]
    fn unknown_and_endless_lines_are_skipped() {
        let mut lines = StatusLines::default();
        assert_eq!(read(&mut lines, &[b"{\"event\":\"later\"}\n\xff\n\n"]), []);
        let long = vec![b'x'; 4096];
        for _ in 0..100 {
            assert_eq!(read(&mut lines, &[&long]), []);
        }
        assert!(lines.partial.capacity() <= 2 * MAX_LINE_BYTES);
        let stopped = b"\n{\"event\":\"stopped\",\"reason\":\"reset\",\"monotonic_ns\":2}\n";
        let expected = Event::Stopped { reason: StopReason::Reset, monotonic_ns: 2 };
        assert_eq!(read(&mut lines, &[stopped]), [expected]);
    }
}
