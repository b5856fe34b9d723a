//! Moves bytes between the command in the lab and this process's streams or terminal.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::Sender;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::supervise::Event;

/// Ctrl-], pressed three times within [`ESCAPE_LIMIT`], ends an interactive lab.
const ESCAPE_KEY: u8 = 0x1d;
const ESCAPE_LIMIT: Duration = Duration::from_secs(1);

/// Copies what the command prints into `sink`. Every piece is reported as [`Event::Output`], so
/// that the run ends when all of it has come through.
pub(crate) fn output(
    mut from: UnixStream,
    mut sink: Box<dyn Write + Send>,
    events: Sender<Event>,
) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut buffer = [0; 32 * 1024];
        let mut broken = false;
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            // A reader that has gone away, like `head`, mustn't block the command's end.
            broken = broken || sink.write_all(&buffer[..count]).is_err() || sink.flush().is_err();
            let _ = events.send(Event::Output(count as u64));
        }
    })
}

/// Copies this process's standard input to the command until its end.
pub(crate) fn input(mut to: UnixStream) {
    thread::spawn(move || {
        let _ = io::copy(&mut io::stdin().lock(), &mut to);
        let _ = to.shutdown(Shutdown::Write);
        // The other direction stays open, or QEMU would drop what it hasn't read.
        let _ = io::copy(&mut to, &mut io::sink());
    });
}

/// Copies keys to the command's terminal; the escape sequence is reported, not copied.
pub(crate) fn keys(mut to: UnixStream, events: Sender<Event>) {
    thread::spawn(move || {
        let mut buffer = [0; 1024];
        let mut escape = Escape::default();
        while let Ok(count @ 1..) = io::stdin().lock().read(&mut buffer) {
            let keys = &buffer[..count];
            if keys.iter().any(|key| escape.press(*key, Instant::now())) {
                let _ = events.send(Event::Escape);
            }
            if to.write_all(keys).is_err() {
                break;
            }
        }
    });
}

/// Recognises the escape sequence.
#[derive(Default)]
struct Escape {
    presses: u32,
    first: Option<Instant>,
}

impl Escape {
    /// Takes a key; tells whether it completes the sequence.
    fn press(&mut self, key: u8, now: Instant) -> bool {
        let late = self.first.is_some_and(|first| now - first > ESCAPE_LIMIT);
        if key != ESCAPE_KEY || late {
            *self = Self::default();
        }
        if key == ESCAPE_KEY {
            self.first.get_or_insert(now);
            self.presses += 1;
        }
        self.presses == 3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_quick_presses_escape() {
        let now = Instant::now();
        let mut escape = Escape::default();
        assert!(!escape.press(ESCAPE_KEY, now));
        assert!(!escape.press(ESCAPE_KEY, now));
        assert!(escape.press(ESCAPE_KEY, now));
    }

    #[test]
    fn slow_or_interrupted_presses_do_not_escape() {
        let now = Instant::now();
        let later = now + 2 * ESCAPE_LIMIT;
        let mut escape = Escape::default();
        escape.press(ESCAPE_KEY, now);
        escape.press(b'x', now);
        escape.press(ESCAPE_KEY, now);
        assert!(!escape.press(ESCAPE_KEY, now));
        assert!(!escape.press(ESCAPE_KEY, later));
        assert!(!escape.press(ESCAPE_KEY, later));
        assert!(escape.press(ESCAPE_KEY, later));
    }
}
