//! The escape sequences of a terminal that's connected to a guest.

/// The byte that starts a sequence: Ctrl-A, as with QEMU and screen.
const CTRL_A: u8 = 0x01;

/// What the sequences are, for someone who asks.
pub(crate) const HELP: &str = "\
Ctrl-A x       ends the VM at once
Ctrl-A p       presses the guest's power button
Ctrl-A h       shows this
Ctrl-A Ctrl-A  sends Ctrl-A to the guest";

/// The same for a console that was attached to.
pub(crate) const ATTACHED_HELP: &str = "\
Ctrl-A d       leaves the VM to itself
Ctrl-A x       ends the VM at once
Ctrl-A p       presses the guest's power button
Ctrl-A h       shows this
Ctrl-A Ctrl-A  sends Ctrl-A to the guest";

/// What a sequence asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// End the VM at once.
    Quit,
    /// Press the guest's power button.
    PowerButton,
    /// Leave the VM to itself.
    Detach,
    /// Say which sequences there are.
    Help,
}

/// Takes sequences out of what's typed.
#[derive(Debug, Default)]
pub(crate) struct EscapeFilter {
    escaped: bool,
}

impl EscapeFilter {
    /// Appends to `guest` what's meant for it, and returns what else was asked for, in order.
    pub(crate) fn feed(&mut self, typed: &[u8], guest: &mut Vec<u8>) -> Vec<Request> {
        let mut requests = Vec::new();
        for &byte in typed {
            if !self.escaped {
                self.escaped = byte == CTRL_A;
                if !self.escaped {
                    guest.push(byte);
                }
                continue;
            }
            self.escaped = false;
            match byte {
                b'x' | b'X' => requests.push(Request::Quit),
                b'p' | b'P' => requests.push(Request::PowerButton),
                b'd' | b'D' => requests.push(Request::Detach),
                b'h' | b'H' | b'?' => requests.push(Request::Help),
                CTRL_A => guest.push(CTRL_A),
                // No sequence: both are the guest's.
                _ => guest.extend([CTRL_A, byte]),
            }
        }
        requests
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(pieces: &[&[u8]]) -> (Vec<u8>, Vec<Request>) {
        let mut filter = EscapeFilter::default();
        let mut guest = Vec::new();
        let requests = pieces.iter().flat_map(|piece| filter.feed(piece, &mut guest)).collect();
        (guest, requests)
    }

    #[test]
    fn sequences_are_taken_out_and_all_else_reaches_the_guest() {
        assert_eq!(feed(&[b"ls\r"]), (b"ls\r".to_vec(), vec![]));
        assert_eq!(feed(&[b"a\x01hb"]), (b"ab".to_vec(), vec![Request::Help]));
        assert_eq!(feed(&[b"\x01p\x01x"]).1, [Request::PowerButton, Request::Quit]);
        assert_eq!(feed(&[b"\x01\x01"]), (b"\x01".to_vec(), vec![]));
        assert_eq!(feed(&[b"\x01z"]), (b"\x01z".to_vec(), vec![]));
        assert_eq!(feed(&[b"x\x03"]), (b"x\x03".to_vec(), vec![]));
    }

    #[test]
    fn sequence_may_arrive_in_pieces() {
        assert_eq!(feed(&[b"a\x01", b"xb"]), (b"ab".to_vec(), vec![Request::Quit]));
        assert_eq!(feed(&[b"\x01", b"\x01", b"x"]), (b"\x01x".to_vec(), vec![]));
    }
}
