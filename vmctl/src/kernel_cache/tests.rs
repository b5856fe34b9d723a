//! Each compression, a cache hit, and every sort of file that must be booted as it is.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use flate2::write::GzEncoder;
use tempfile::TempDir;

use super::bzimage::Payload;
use super::*;

/// A kernel as far as the cache cares: an ELF header and something to compress.
fn vmlinux() -> Vec<u8> {
    let mut kernel = b"\x7fELF\x02\x01\x01".to_vec();
    kernel.resize(18, 0);
    kernel.extend([62, 0]);
    kernel.extend((0..200_000_u32).flat_map(|number| (number / 7).to_le_bytes()));
    kernel
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn with_size(mut payload: Vec<u8>, size: usize) -> Vec<u8> {
    payload.extend(u32::try_from(size).unwrap().to_le_bytes());
    payload
}

fn zstd(data: &[u8]) -> Vec<u8> {
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};
    with_size(compress_to_vec(data, CompressionLevel::Fastest), data.len())
}

/// The legacy frame format, which the crate reads only: each block behind its size.
fn lz4(data: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x02, 0x21, 0x4c, 0x18];
    for block in data.chunks(8 << 20) {
        let packed = lz4_flex::block::compress(block);
        frame.extend(u32::try_from(packed.len()).unwrap().to_le_bytes());
        frame.extend(packed);
    }
    with_size(frame, data.len())
}

/// A bzImage around a payload: one setup sector, something before it, something behind.
fn bzimage(payload: &[u8]) -> Vec<u8> {
    let mut image = vec![0; 1024];
    image[0x1f1] = 1;
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&0x020f_u16.to_le_bytes());
    image[0x248..0x24c].copy_from_slice(&16_u32.to_le_bytes());
    image[0x24c..0x250].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
    image.extend([0xcc; 16]);
    image.extend(payload);
    image.extend([0xcc; 100]);
    image
}

fn unpack(image: &[u8]) -> Result<Vec<u8>, CacheError> {
    let mut out = Vec::new();
    Payload::find(image)?.unpack(&mut out)?;
    Ok(out)
}

/// A store of its own with a kernel beside it.
struct Fixture {
    dir: TempDir,
    store: Store,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open_at(dir.path().join("cache")).unwrap();
        Self { dir, store }
    }

    fn kernel(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    fn unpacked(&self, kernel: &Path) -> Result<PathBuf, CacheError> {
        self.store.unpacked(kernel, SystemTime::now())
    }

    fn cached(&self) -> usize {
        let files = fs::read_dir(self.dir.path().join("cache")).unwrap();
        files.filter(|entry| entry.as_ref().unwrap().file_type().unwrap().is_file()).count()
    }
}

#[test]
fn kernels_compressed_by_each_method_unpack_to_themselves() {
    let kernel = vmlinux();
    for (name, payload) in [("gzip", gzip(&kernel)), ("zstd", zstd(&kernel)), ("lz4", lz4(&kernel))]
    {
        assert!(unpack(&bzimage(&payload)).unwrap() == kernel, "{name}");
    }
}

/// Made by `xz --check=crc32 --x86 --lzma2=dict=32MiB`, as the kernel's build calls it, from an ELF
/// header of 20 bytes and 44 zeros.
const XZ: &[u8] = include_bytes!("tests/kernel.xz");

#[test]
fn kernel_compressed_as_the_kernels_build_calls_xz_unpacks() {
    let unpacked = unpack(&bzimage(&with_size(XZ.to_vec(), 64))).unwrap();
    assert_eq!(unpacked.len(), 64);
    assert_eq!(unpacked[..20], vmlinux()[..20]);
}

#[test]
fn damaged_payloads_are_refused() {
    let kernel = vmlinux();
    let good = gzip(&kernel);
    let truncated = &bzimage(&good)[..2000];
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 0xff;
    let mut wrong_size = zstd(&kernel);
    let len = wrong_size.len();
    wrong_size[len - 4] ^= 1;
    let mut no_elf = kernel.clone();
    no_elf[0] = 0;
    let mut of_arm = kernel.clone();
    of_arm[18] = 183;
    for (name, image) in [
        ("truncated file", truncated.to_vec()),
        ("flipped bits", bzimage(&flipped)),
        ("half of a stream", bzimage(&with_size(zstd(&kernel)[..1000].to_vec(), kernel.len()))),
        ("size too small", bzimage(&wrong_size)),
        ("size too large", bzimage(&with_size(lz4(&kernel), kernel.len() + 1))),
        ("size beyond all kernels", bzimage(&with_size(zstd(&kernel), 1 << 30))),
        ("no ELF file", bzimage(&gzip(&no_elf))),
        ("another machine's", bzimage(&gzip(&of_arm))),
        ("nothing in it", bzimage(&gzip(&[]))),
        ("magic only", bzimage(&[0x28, 0xb5, 0x2f, 0xfd])),
        ("huge zstd window", bzimage(&[0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xff, 0, 0, 0, 9, 0, 0, 0])),
    ] {
        let error = unpack(&image).unwrap_err();
        assert!(matches!(error, CacheError::Damaged(_)), "{name}: {error}");
    }
}

#[test]
fn bomb_is_stopped_at_the_size_that_it_tells() {
    let mut kernel = vmlinux();
    kernel.resize(64 << 20, 0);
    let mut out = Vec::new();
    let image = bzimage(&with_size(zstd(&kernel), 1000));
    let error = Payload::find(&image).unwrap().unpack(&mut out).unwrap_err();
    assert!(matches!(error, CacheError::Damaged(_)), "{error}");
    assert_eq!(out.len(), 1001);
}

#[test]
fn offsets_out_of_the_file_are_refused() {
    for offset in [0x1f1, 0x248, 0x24b, 0x24c, 0x24f] {
        let mut image = bzimage(&gzip(&vmlinux()));
        image[offset] = 0xff;
        assert!(unpack(&image).is_err(), "{offset:#x}");
    }
}

#[test]
fn what_is_no_bzimage_or_packed_otherwise_is_left_alone() {
    let fixture = Fixture::new();
    let mut old = bzimage(&gzip(&vmlinux()));
    old[0x206] = 0x07;
    for (content, unknown) in [
        (Vec::new(), false),
        (b"#!/bin/sh\n".to_vec(), false),
        (vmlinux(), false),
        (old, false),
        (bzimage(b"BZh91AY"), true),
    ] {
        let error = fixture.unpacked(&fixture.kernel("k", &content)).unwrap_err();
        assert_eq!(matches!(error, CacheError::UnknownCompression), unknown, "{error}");
        assert!(unknown || matches!(error, CacheError::NotPacked), "{error}");
    }
    assert_eq!(fixture.cached(), 0);
    let error = fixture.unpacked(fixture.dir.path()).unwrap_err();
    assert!(matches!(error, CacheError::Io { .. } | CacheError::NotPacked), "{error}");
}

#[test]
fn kernel_is_unpacked_once_whatever_its_name_and_again_when_it_changes() {
    let fixture = Fixture::new();
    let first = fixture.kernel("a", &bzimage(&gzip(&vmlinux())));
    let unpacked = fixture.unpacked(&first).unwrap();
    assert!(fs::read(&unpacked).unwrap() == vmlinux());
    // A mark tells that it isn't written again.
    fs::OpenOptions::new().append(true).open(&unpacked).unwrap().write_all(b"mark").unwrap();
    assert_eq!(fixture.unpacked(&first).unwrap(), unpacked);
    let copy = fixture.kernel("b", &fs::read(&first).unwrap());
    assert_eq!(fixture.unpacked(&copy).unwrap(), unpacked);
    assert!(fs::read(&unpacked).unwrap().ends_with(b"mark"));
    let changed = fixture.kernel("a", &bzimage(&lz4(&vmlinux())));
    assert_ne!(fixture.unpacked(&changed).unwrap(), unpacked);
    assert_eq!(fixture.cached(), 2);
}

#[test]
fn settled_kernel_is_read_once_and_a_fresh_one_again() {
    let fixture = Fixture::new();
    let seen = || fs::read_dir(fixture.dir.path().join("cache/seen")).unwrap().count();
    let kernel = fixture.kernel("k", &bzimage(&gzip(&vmlinux())));
    let unpacked = fixture.unpacked(&kernel).unwrap();
    assert_eq!(seen(), 0);
    let later = SystemTime::now() + Duration::from_secs(10);
    assert_eq!(fixture.store.unpacked(&kernel, later).unwrap(), unpacked);
    assert_eq!(seen(), 1);
    // Known by its times alone now; a change has other ones.
    assert_eq!(fixture.unpacked(&kernel).unwrap(), unpacked);
    let changed = fixture.kernel("k", &bzimage(&lz4(&vmlinux())));
    assert_ne!(fixture.unpacked(&changed).unwrap(), unpacked);
}

#[test]
fn removed_cache_file_is_made_again() {
    let fixture = Fixture::new();
    let kernel = fixture.kernel("a", &bzimage(&gzip(&vmlinux())));
    let unpacked = fixture.unpacked(&kernel).unwrap();
    fs::remove_file(&unpacked).unwrap();
    assert_eq!(fixture.unpacked(&kernel).unwrap(), unpacked);
    assert!(fs::read(&unpacked).unwrap() == vmlinux());
}

#[test]
fn damaged_kernel_leaves_nothing_in_the_cache() {
    let fixture = Fixture::new();
    let mut payload = gzip(&vmlinux());
    let middle = payload.len() / 2;
    payload[middle] ^= 0xff;
    let kernel = fixture.kernel("a", &bzimage(&payload));
    fixture.unpacked(&kernel).unwrap_err();
    assert_eq!(fixture.cached(), 0);
}

#[test]
fn only_the_kernels_used_last_stay() {
    let fixture = Fixture::new();
    let mut last = PathBuf::new();
    for number in 0..12_u8 {
        let mut kernel = vmlinux();
        kernel.push(number);
        last = fixture.unpacked(&fixture.kernel("k", &bzimage(&gzip(&kernel)))).unwrap();
    }
    assert_eq!(fixture.cached(), 8);
    assert!(last.exists());
}

#[test]
fn cache_is_the_owners_alone() {
    let fixture = Fixture::new();
    let dir = fixture.dir.path().join("cache");
    assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
    let kernel = fixture.kernel("a", &bzimage(&gzip(&vmlinux())));
    let unpacked = fixture.unpacked(&kernel).unwrap();
    assert_eq!(fs::metadata(unpacked).unwrap().permissions().mode() & 0o777, 0o600);
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(Store::open_at(dir), Err(CacheError::Untrusted(_))));
    let link = fixture.dir.path().join("link");
    let elsewhere = fixture.dir.path().join("elsewhere");
    fs::create_dir_all(elsewhere.join("seen")).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &link).unwrap();
    assert!(matches!(Store::open_at(link), Err(CacheError::Untrusted(_))));
}
