//! Windows of metadata: inodes and directories are small and neighbours.

use std::io;
use std::sync::{Mutex, PoisonError};

use crate::source::ReadAt;

const WINDOW_SIZE: usize = 32 << 10;
const WINDOWS: usize = 16;

/// The windows read last; window `n` of the source has its place at `n % WINDOWS`.
#[derive(Debug)]
pub(super) struct Cache {
    windows: Mutex<Vec<Window>>,
}

#[derive(Clone, Debug, Default)]
struct Window {
    /// Which one of the source's; anything while `bytes` is empty.
    number: u64,
    bytes: Vec<u8>,
}

impl Cache {
    pub(super) fn new() -> Self {
        Self { windows: Mutex::new(vec![Window::default(); WINDOWS]) }
    }

    /// Fills `buffer` from the source's `offset` on.
    pub(super) fn read<S: ReadAt>(
        &self,
        source: &S,
        mut buffer: &mut [u8],
        mut offset: u64,
    ) -> io::Result<()> {
        // A panic elsewhere leaves a window that's whole or empty.
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        while !buffer.is_empty() {
            let (number, in_window) = (offset / SIZE, offset % SIZE);
            let place = usize::try_from(number % WINDOWS as u64).expect("below WINDOWS");
            let window = &mut windows[place];
            if window.number != number || window.bytes.is_empty() {
                window.fill(source, number)?;
            }
            let start = usize::try_from(in_window).expect("below WINDOW_SIZE");
            let bytes = window.bytes.get(start..).filter(|bytes| !bytes.is_empty());
            let bytes = bytes.ok_or(io::ErrorKind::UnexpectedEof)?;
            let (here, rest) = buffer.split_at_mut(bytes.len().min(buffer.len()));
            here.copy_from_slice(&bytes[..here.len()]);
            offset += here.len() as u64;
            buffer = rest;
        }
        Ok(())
    }
}

const SIZE: u64 = WINDOW_SIZE as u64;

impl Window {
    fn fill<S: ReadAt>(&mut self, source: &S, number: u64) -> io::Result<()> {
        let start = number * SIZE;
        let left = source.len_bytes()?.checked_sub(start).ok_or(io::ErrorKind::UnexpectedEof)?;
        let len = usize::try_from(left.min(SIZE)).expect("at most WINDOW_SIZE");
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.resize(len, 0);
        source.read_exact_at(&mut bytes, start)?;
        (self.bytes, self.number) = (bytes, number);
        Ok(())
    }
}
