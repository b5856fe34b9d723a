//! `vmctl import`.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::path::PathBuf;

use clap::Args;
use image::{HistoryEntry, ImageConfig, Images, NewImage, Platform, change_config};
use runtime::Engine;
use serde_json::json;

use super::reference;
use crate::errors::CliError;
use crate::errors::containers::ContainerError;
use crate::output;

/// Import the contents from a tarball to create a filesystem image.
///
/// The tarball may be compressed by gzip, xz or zstd.
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub(crate) struct ImportArgs {
    /// Apply Dockerfile instruction to the created image: CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK,
    /// LABEL, USER, VOLUME, WORKDIR, STOPSIGNAL.
    #[arg(long, short, value_name = "INSTRUCTION")]
    change: Vec<String>,

    /// Set commit message for imported image.
    #[arg(long, short, value_name = "TEXT")]
    message: Option<String>,

    /// Set platform of the image: OS/ARCHITECTURE[/VARIANT].
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<Platform>,

    /// The tarball, - for STDIN.
    #[arg(value_name = "FILE|-")]
    source: PathBuf,

    /// The image's name.
    #[arg(value_name = "REPOSITORY[:TAG]")]
    name: Option<String>,
}

pub(super) fn run(engine: &Engine, images: &Images, args: &ImportArgs) -> Result<u8, CliError> {
    let tags = args.name.iter().map(|name| reference(name)).collect::<Result<Vec<_>, _>>()?;
    let source = args.source.display().to_string();
    if source.contains("://") {
        return Err(ContainerError::options(format!(
            "{source} is a URL: fetch it first, and pipe it in (curl -fL {source} | vmctl import -)"
        ))
        .into());
    }
    let config = change_config(config(args, &source), &args.change)
        .map_err(|error| ContainerError::from(Box::new(error)))?;
    let image = NewImage { base: None, layers: vec![layer(args)?], config, tags };
    let image = images.add(image).map_err(ContainerError::from)?;
    let name = args.name.clone().map(|name| ("name", name));
    engine.emit("image", "import", &image.id, name);
    output::print(&format!("{}\n", image.id))?;
    Ok(api::exit::STOPPED)
}

/// The archive, uncompressed, in a file that nobody sees.
fn layer(args: &ImportArgs) -> Result<File, ContainerError> {
    let failed = |what| {
        let path = args.source.clone();
        move |source| ContainerError::File { what, path, source }
    };
    let input: Box<dyn Read> = if args.source.as_os_str() == "-" {
        Box::new(io::stdin().lock())
    } else {
        Box::new(File::open(&args.source).map_err(failed("read"))?)
    };
    let mut archive = uncompressed(BufReader::new(input)).map_err(failed("read"))?;
    let mut layer = tempfile::tempfile().map_err(failed("make a copy of"))?;
    io::copy(&mut archive, &mut layer).map_err(failed("unpack"))?;
    layer.rewind().map_err(failed("make a copy of"))?;
    Ok(layer)
}

/// Reads what may be compressed.
fn uncompressed<'a>(mut input: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let start = input.fill_buf()?;
    Ok(if start.starts_with(&[0x1f, 0x8b]) {
        Box::new(flate2::bufread::MultiGzDecoder::new(input))
    } else if start.starts_with(&[0xfd, b'7', b'z', b'X', b'Z', 0]) {
        Box::new(lzma_rust2::XzReader::new(input, true))
    } else if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let decoder = ruzstd::decoding::StreamingDecoder::new(input);
        Box::new(decoder.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?)
    } else {
        Box::new(input)
    })
}

fn config(args: &ImportArgs, source: &str) -> ImageConfig {
    let platform = args.platform.clone().unwrap_or_else(Platform::host);
    let created = Some(jiff::Timestamp::now().to_string());
    let comment = args.message.clone().unwrap_or_else(|| format!("Imported from {source}"));
    ImageConfig {
        architecture: platform.architecture,
        os: platform.os,
        variant: platform.variant,
        created: created.clone(),
        config: json!({}),
        history: vec![HistoryEntry { created, comment: Some(comment), ..HistoryEntry::default() }],
        ..ImageConfig::default()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn read(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        uncompressed(bytes)?.read_to_end(&mut text)?;
        Ok(text)
    }

    #[test]
    fn archives_are_read_compressed_or_not() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(b"text").unwrap();
        let gzip = gzip.finish().unwrap();
        assert_eq!(read(&gzip).unwrap(), b"text");
        assert_eq!(read(&[&gzip[..], &gzip].concat()).unwrap(), b"texttext");
        let level = ruzstd::encoding::CompressionLevel::Fastest;
        let zstd = ruzstd::encoding::compress_to_vec(&b"text"[..], level);
        assert_eq!(read(&zstd).unwrap(), b"text");
        assert_eq!(read(b"text").unwrap(), b"text");
        assert_eq!(read(b"").unwrap(), b"");
    }

    #[test]
    fn archives_that_are_cut_short_are_refused() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(b"text").unwrap();
        let gzip = gzip.finish().unwrap();
        assert!(read(&gzip[..gzip.len() - 5]).is_err());
        assert!(read(&[0x28, 0xb5, 0x2f, 0xfd]).is_err());
    }
}
