use super::*;
use crate::testing::{archive, gzip, zstd};

fn decompress(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    with_decompressed(&mut &bytes[..], |reader| reader.read_to_end(&mut out))??;
    Ok(out)
}

#[test]
fn every_compression_gives_the_same_archive() {
    let plain = archive(&[("a", &"text".repeat(100_000))]);
    assert_eq!(decompress(&plain).unwrap(), plain);
    assert_eq!(decompress(&gzip(&plain)).unwrap(), plain);
    assert_eq!(decompress(&zstd(&plain)).unwrap(), plain);
    assert_eq!(decompress(b"").unwrap(), b"");
}

#[test]
fn streams_of_several_frames_are_read_to_their_end() {
    let (one, two) = plain_parts();
    let whole = [one.clone(), two.clone()].concat();
    assert_eq!(decompress(&[gzip(&one), gzip(&two)].concat()).unwrap(), whole);
    // A frame that's skipped, as estargz's and zstd:chunked's tables of contents.
    let skipped = [&[0x51, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"toc"].concat();
    let frames = [skipped.clone(), zstd(&one), skipped.clone(), zstd(&two), skipped].concat();
    assert_eq!(decompress(&frames).unwrap(), whole);
}

fn plain_parts() -> (Vec<u8>, Vec<u8>) {
    (b"one".repeat(50_000), b"two".repeat(70_000))
}

#[test]
fn damaged_and_cut_off_streams_are_errors() {
    let plain = archive(&[("a", &"text".repeat(1000))]);
    for stream in [gzip(&plain), zstd(&plain)] {
        for cut in [5, stream.len() / 2, stream.len() - 5] {
            assert!(decompress(&stream[..cut]).is_err(), "cut at {cut}");
        }
        let mut garbage = stream.clone();
        garbage.extend(b"garbage after it");
        assert!(decompress(&garbage).is_err());
    }
    let skipped_short = [0x50, 0x2a, 0x4d, 0x18, 255, 255, 255, 255, 1];
    assert!(decompress(&skipped_short).is_err());
}
