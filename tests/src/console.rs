//! A guest's console: everything it printed, and a way to wait for what it prints next.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How much of a console an error shows.
const TAIL_BYTES: usize = 2000;

/// Collects what a stream carries, on a thread of its own.
#[derive(Clone)]
pub struct Console {
    shared: Arc<Shared>,
    log: PathBuf,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    ended: bool,
    /// Up to where [`Console::wait_for`] has looked.
    consumed: usize,
}

impl Console {
    /// Reads `stream` until it ends and copies it to the file `log`.
    pub fn read(mut stream: impl Read + Send + 'static, log: &Path) -> Result<Self> {
        let mut copy = File::create(log).with_context(|| format!("create {log:?}"))?;
        let shared = Arc::<Shared>::default();
        let console = Self { shared: Arc::clone(&shared), log: log.to_owned() };
        std::thread::spawn(move || {
            let mut buffer = [0; 65536];
            loop {
                let count = match stream.read(&mut buffer) {
                    Ok(count) => count,
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                    Err(_) => 0,
                };
                // A log that can't be written is no reason to fail the test.
                let _ = copy.write_all(&buffer[..count]);
                let mut state = shared.state.lock().expect("no thread panics with it");
                state.bytes.extend_from_slice(&buffer[..count]);
                state.ended = count == 0;
                shared.changed.notify_all();
                if count == 0 {
                    return;
                }
            }
        });
        Ok(console)
    }

    /// Waits until `pattern` is printed after what earlier waits consumed, and returns everything
    /// from there up to it.
    pub fn wait_for(&self, pattern: &str, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        let mut state = self.shared.state.lock().expect("no thread panics with it");
        loop {
            let new = &state.bytes[state.consumed..];
            if let Some(at) = find(new, pattern.as_bytes()) {
                let text = String::from_utf8_lossy(&new[..at]).into_owned();
                state.consumed += at + pattern.len();
                return Ok(text);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if state.ended || left.is_zero() {
                let why = if state.ended { "the console ended" } else { "time is up" };
                let tail = tail(&state.bytes);
                bail!("waiting for {pattern:?}: {why} (log: {:?}); its tail:\n{tail}", self.log);
            }
            let (next, _) =
                self.shared.changed.wait_timeout(state, left).expect("no thread panics with it");
            state = next;
        }
    }

    /// Returns everything printed so far.
    pub fn text(&self) -> String {
        let state = self.shared.state.lock().expect("no thread panics with it");
        String::from_utf8_lossy(&state.bytes).into_owned()
    }

    /// Waits until the stream ends and returns how many bytes it carried.
    pub fn wait_end(&self, limit: Duration) -> Result<usize> {
        let state = self.shared.state.lock().expect("no thread panics with it");
        let (state, wait) = self
            .shared
            .changed
            .wait_timeout_while(state, limit, |state| !state.ended)
            .expect("no thread panics with it");
        if wait.timed_out() {
            bail!(
                "the console didn't end (log: {:?}); its tail:\n{}",
                self.log,
                tail(&state.bytes)
            );
        }
        Ok(state.bytes.len())
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn tail(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(TAIL_BYTES)..]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_consume_what_they_saw_and_the_log_has_everything() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("console.log");
        let (reader, mut writer) = std::io::pipe().unwrap();
        let console = Console::read(reader, &log).unwrap();
        writer.write_all(b"one two ").unwrap();
        assert_eq!(console.wait_for("two", Duration::from_secs(10)).unwrap(), "one ");
        assert!(console.wait_for("one", Duration::from_millis(1)).is_err());
        writer.write_all(b"three").unwrap();
        drop(writer);
        assert_eq!(console.wait_end(Duration::from_secs(10)).unwrap(), 13);
        let error = console.wait_for("four", Duration::from_secs(10)).unwrap_err();
        assert!(error.to_string().contains("the console ended"), "{error}");
        assert_eq!(std::fs::read_to_string(log).unwrap(), "one two three");
    }
}
