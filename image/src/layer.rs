//! Layers on their way into the store: decompressed, hashed and made file systems in one pass.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};

use erofs::{LayerError, Limits};
use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use tempfile::NamedTempFile;

use crate::ImageError;
use crate::digest::Hashing;
use crate::error::chain;
use crate::files::{Layout, at};
use crate::manifest::{is_zstd, layer_media_type, media};

/// Bytes that are asked of a decompressor's source at once.
const CHUNK: usize = 64 << 10;

/// A layer's compressed blob, and the archive in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LayerRecord {
    /// The digest of the blob.
    pub(crate) blob: String,
    /// The digest of the archive.
    pub(crate) diff_id: String,
    pub(crate) blob_bytes: u64,
    pub(crate) archive_bytes: u64,
    pub(crate) media_type: String,
}

/// A layer's file system that has no name yet.
#[derive(Debug)]
pub(crate) struct Unpacked {
    pub(crate) file_system: NamedTempFile,
    pub(crate) diff_id: String,
    pub(crate) archive_bytes: u64,
    pub(crate) media_type: &'static str,
}

/// Makes a file system of a layer, compressed or not. `source` is read to its end.
pub(crate) fn unpack(
    layout: &Layout,
    limits: &Limits,
    what: &str,
    source: &mut dyn Read,
) -> Result<Unpacked, ImageError> {
    let file_system = layout.temporary()?;
    let mut source = BufReader::with_capacity(CHUNK, source);
    let failed = |error| layer_error(what, &file_system, error);
    let start = peek(&mut source).map_err(|error| failed(LayerError::Read(error)))?;
    let media_type = layer_media_type(&start);
    let mut archive = Hashing::new(decompressor(&start[..], &mut source));
    erofs::write_layer(&mut archive, file_system.as_file(), limits).map_err(failed)?;
    let (decompressor, diff_id, archive_bytes) = archive.finish();
    drop(decompressor);
    // A digest is that of all bytes.
    io::copy(&mut source, &mut io::sink()).map_err(|error| failed(LayerError::Read(error)))?;
    Ok(Unpacked { file_system, diff_id, archive_bytes, media_type })
}

/// Makes a file system and a compressed blob of an archive, and gives both their names.
pub(crate) fn pack(
    layout: &Layout,
    limits: &Limits,
    what: &str,
    archive: &mut dyn Read,
) -> Result<LayerRecord, ImageError> {
    let (file_system, blob) = (layout.temporary()?, layout.temporary()?);
    let out = blob.as_file().try_clone().map_err(at("open", blob.path()))?;
    let out = Hashing::new(BufWriter::with_capacity(CHUNK, out));
    // It's read when it's pushed, once or never: fast rather than small.
    let gzip = GzEncoder::new(out, Compression::fast());
    let mut source = Packing { archive: Hashing::new(archive), gzip, failure: None };
    let written = erofs::write_layer(&mut source, file_system.as_file(), limits);
    if let Some(error) = source.failure.take() {
        return Err(at("write", blob.path())(error));
    }
    written.map_err(|error| layer_error(what, &file_system, error))?;
    let (_, diff_id, archive_bytes) = source.archive.finish();
    let out = source.gzip.finish().map_err(at("write", blob.path()))?;
    let (mut out, digest, blob_bytes) = out.finish();
    out.flush().map_err(at("write", blob.path()))?;
    layout.keep(file_system, &layout.erofs(&diff_id))?;
    layout.keep(blob, &layout.blob(&digest))?;
    let media_type = media::OCI_GZIP.to_owned();
    Ok(LayerRecord { blob: digest, diff_id, blob_bytes, archive_bytes, media_type })
}

/// Compresses what is read.
struct Packing<'a> {
    archive: Hashing<&'a mut dyn Read>,
    gzip: GzEncoder<Hashing<BufWriter<File>>>,
    failure: Option<io::Error>,
}

impl Read for Packing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.archive.read(buffer)?;
        self.gzip.write_all(&buffer[..read]).map_err(|error| {
            let kind = error.kind();
            self.failure = Some(error);
            io::Error::from(kind)
        })?;
        Ok(read)
    }
}

/// Tells what the layer is to blame for from what the disk is.
fn layer_error(what: &str, file: &NamedTempFile, error: LayerError) -> ImageError {
    match error {
        LayerError::Write(source) => at("write", file.path())(source),
        error => ImageError::Invalid { what: what.to_owned(), problem: chain(&error) },
    }
}

/// The first bytes, which are read again.
fn peek(source: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut start = Vec::with_capacity(4);
    source.take(4).read_to_end(&mut start)?;
    Ok(start)
}

/// Decompresses what begins with `start`, by gzip or zstd or not at all.
fn decompressor<'a>(start: &'a [u8], rest: &'a mut dyn Read) -> Box<dyn Read + 'a> {
    let media_type = layer_media_type(start);
    let whole = start.chain(rest);
    match media_type {
        media::OCI_GZIP => Box::new(MultiGzDecoder::new(whole)),
        _ if is_zstd(start) => Box::new(Zstd::new(whole)),
        _ => Box::new(whole),
    }
}

/// Decompresses a stream by what it begins with.
pub(crate) fn with_decompressed<T>(
    source: &mut dyn Read,
    then: impl FnOnce(&mut dyn Read) -> T,
) -> io::Result<T> {
    let mut source = BufReader::with_capacity(CHUNK, source);
    let start = peek(&mut source)?;
    Ok(then(&mut decompressor(&start, &mut source)))
}

/// All frames of a stream of zstd's, as RFC 8878 §3 has them. A frame's window is bounded by the
/// decoder, to 100 MB.
struct Zstd<R: Read> {
    source: BufReader<R>,
    decoder: FrameDecoder,
    in_frame: bool,
}

impl<R: Read> Zstd<R> {
    fn new(source: R) -> Self {
        let source = BufReader::with_capacity(CHUNK, source);
        Self { source, decoder: FrameDecoder::new(), in_frame: false }
    }

    /// Begins the next frame; `false` at the stream's end.
    fn next_frame(&mut self) -> io::Result<bool> {
        while !self.source.fill_buf()?.is_empty() {
            match self.decoder.init(&mut self.source) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let mut frame = (&mut self.source).take(length.into());
                    if io::copy(&mut frame, &mut io::sink())? < length.into() {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            }
        }
        Ok(false)
    }
}

impl<R: Read> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.in_frame {
                self.in_frame = self.next_frame()?;
                if !self.in_frame {
                    return Ok(0);
                }
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                let one = BlockDecodingStrategy::UptoBlocks(1);
                let decoded = self.decoder.decode_blocks(&mut self.source, one);
                decoded.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            }
            let read = self.decoder.read(buffer)?;
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            self.in_frame = false;
        }
    }
}

#[cfg(test)]
mod tests;
