//! A blob's bytes: those that are there, then the registry's, from where it broke off if it did.

use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::atomic::Ordering;
use std::thread;

use ureq::BodyReader;

use super::Fetch;
use crate::ImageError;
use crate::digest::short;
use crate::files::at;
use crate::registry::{Failure, Method, Payload, Problem};

/// Bytes between two reports of progress.
const REPORT: u64 = 256 << 10;

/// Reads a blob; what comes from the registry goes to a file as well.
pub(super) struct Download<'a> {
    fetch: &'a Fetch<'a>,
    file: &'a mut File,
    /// Bytes of the file that are still to be read.
    present: u64,
    position: u64,
    body: Option<BodyReader<'static>>,
    /// How often it broke since the last byte.
    broken: u32,
    reported: u64,
    /// Why reading failed: [`io::Error`] can't say it.
    pub(super) failure: Option<ImageError>,
}

impl<'a> Download<'a> {
    /// `file` is at its start and has `present` bytes.
    pub(super) fn new(fetch: &'a Fetch<'a>, file: &'a mut File, present: u64) -> Self {
        let (position, body, broken, reported, failure) = (0, None, 0, 0, None);
        Self { fetch, file, present, position, body, broken, reported, failure }
    }

    /// Opens the rest of the blob.
    fn open(&self) -> Result<BodyReader<'static>, Failure> {
        let source = self.fetch.source;
        let place = source.place("blobs", &self.fetch.blob.digest);
        let range = format!("bytes={}-", self.position);
        let headers = [("range", range.as_str())];
        let headers = if self.position > 0 { &headers[..] } else { &[] };
        let scope = source.scope();
        let response =
            source.session.send(&Method::GET, &place, &scope, headers, &Payload::None)?;
        let status = response.status().as_u16();
        let starts = response.headers().get("content-range").and_then(|it| it.to_str().ok());
        let starts = starts.map(|it| it.starts_with(&format!("bytes {}-", self.position)));
        let mut body = response.into_body().into_reader();
        match (status, starts) {
            (206, Some(true)) if self.position > 0 => {}
            // A registry that knows no ranges sends all.
            (200, _) => {
                let skipped = io::copy(&mut (&mut body).take(self.position), &mut io::sink());
                let skipped = skipped.map_err(|it| Failure::of_io(it, &source.session.timing))?;
                if skipped < self.position {
                    return Err(ended_early(skipped));
                }
            }
            _ => {
                let text = format!("status {status} with another part than {range}");
                return Err(Failure::Problem(Problem::Nonsense(text)));
            }
        }
        Ok(body)
    }

    fn read_body(&mut self, buffer: &mut [u8]) -> Result<usize, Failure> {
        let mut body = match self.body.take() {
            Some(body) => body,
            None => self.open()?,
        };
        let left = self.fetch.blob.size - self.position;
        let room = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let timing = &self.fetch.source.session.timing;
        let read = body.read(&mut buffer[..room]).map_err(|it| Failure::of_io(it, timing))?;
        if read == 0 {
            return Err(ended_early(self.position));
        }
        self.body = Some(body);
        Ok(read)
    }

    /// Waits before another attempt, or gives up.
    fn recover(&mut self, failure: Failure) -> Result<(), ImageError> {
        let source = self.fetch.source;
        self.broken += 1;
        let timing = &source.session.timing;
        if !failure.is_transient() || self.broken >= timing.attempts {
            return Err(source.error(failure));
        }
        let pause = timing.pause(self.broken);
        let text = format!(
            "{}: Retrying in {} s: {}",
            short(&self.fetch.blob.digest),
            pause.as_secs_f32(),
            failure.text()
        );
        source.progress.note(&text);
        thread::sleep(pause);
        Ok(())
    }

    /// Reads the next bytes from wherever they come.
    fn advance(&mut self, buffer: &mut [u8]) -> Result<usize, ImageError> {
        let path = || self.fetch.images.layout.partial(&self.fetch.blob.digest);
        if self.present > 0 {
            let room = buffer.len().min(usize::try_from(self.present).unwrap_or(usize::MAX));
            let read = self.file.read(&mut buffer[..room]).map_err(at("read", &path()))?;
            // Nobody else writes it.
            self.present = if read == 0 { 0 } else { self.present - read as u64 };
            if read > 0 {
                return Ok(read);
            }
        }
        loop {
            if self.fetch.stop.load(Ordering::Relaxed) {
                let message = "another layer failed".to_owned();
                return Err(ImageError::Request { message });
            }
            match self.read_body(buffer) {
                Ok(read) => {
                    self.broken = 0;
                    self.file.write_all(&buffer[..read]).map_err(at("write", &path()))?;
                    return Ok(read);
                }
                Err(failure) => self.recover(failure)?,
            }
        }
    }

    fn report(&mut self) {
        let total = self.fetch.blob.size;
        if self.position >= self.reported + REPORT || self.position == total {
            self.reported = self.position;
            let id = short(&self.fetch.blob.digest);
            self.fetch.source.progress.bytes(id, self.position, total);
        }
    }
}

fn ended_early(position: u64) -> Failure {
    let text = format!("it ended after {position} bytes");
    Failure::Problem(Problem::Broken(io::Error::new(io::ErrorKind::UnexpectedEof, text)))
}

impl Read for Download<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() || self.position >= self.fetch.blob.size {
            return Ok(0);
        }
        match self.advance(buffer) {
            Ok(read) => {
                self.position += read as u64;
                self.report();
                Ok(read)
            }
            Err(error) => {
                self.failure.get_or_insert(error);
                Err(io::Error::other("the download failed"))
            }
        }
    }
}
