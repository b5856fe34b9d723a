//! What the tests share: archives built header by header, listings to compare, oracles.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use twox_hash::XxHash3_128;

use crate::{
    ConcatSource, FileType, LayerError, LayerSummary, Limits, MergedImage, ReadAt, Reader,
    merge_layers, write_layer,
};

/// Builds an archive of ustar headers, with pax records where asked for.
#[derive(Clone, Default)]
pub(crate) struct Archive {
    pub(crate) bytes: Vec<u8>,
}

/// A header's fields that tests vary.
#[derive(Clone)]
pub(crate) struct Header {
    pub(crate) kind: u8,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: u64,
    pub(crate) link: Vec<u8>,
    pub(crate) device: (u32, u32),
}

impl Header {
    pub(crate) fn new(kind: u8) -> Self {
        let (mode, link) = (0o644, Vec::new());
        Self { kind, mode, uid: 0, gid: 0, mtime: 1_700_000_000, link, device: (0, 0) }
    }
}

impl Archive {
    pub(crate) fn entry(mut self, path: &[u8], header: &Header, data: &[u8]) -> Self {
        let mut block = [0; 512];
        let mut put = |offset: usize, bytes: &[u8]| {
            block[offset..offset + bytes.len()].copy_from_slice(bytes);
        };
        put(0, path);
        put(100, format!("{:07o}", header.mode).as_bytes());
        put(108, format!("{:07o}", header.uid).as_bytes());
        put(116, format!("{:07o}", header.gid).as_bytes());
        put(124, format!("{:011o}", data.len()).as_bytes());
        put(136, format!("{:011o}", header.mtime).as_bytes());
        put(156, &[header.kind]);
        put(157, &header.link);
        put(257, b"ustar\x0000");
        put(329, format!("{:07o}", header.device.0).as_bytes());
        put(337, format!("{:07o}", header.device.1).as_bytes());
        put(148, b"        ");
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.bytes.extend_from_slice(&block);
        self.bytes.extend_from_slice(data);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn file(self, path: &str, data: &[u8]) -> Self {
        self.entry(path.as_bytes(), &Header::new(b'0'), data)
    }

    pub(crate) fn directory(self, path: &str) -> Self {
        self.entry(path.as_bytes(), &Header { mode: 0o755, ..Header::new(b'5') }, b"")
    }

    pub(crate) fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(path.as_bytes(), &Header { link: target.into(), ..Header::new(b'2') }, b"")
    }

    pub(crate) fn hard_link(self, path: &str, target: &str) -> Self {
        self.entry(path.as_bytes(), &Header { link: target.into(), ..Header::new(b'1') }, b"")
    }

    pub(crate) fn whiteout(self, path: &str) -> Self {
        self.file(path, b"")
    }

    /// Records for the next entry.
    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut len = rest + 1;
            while len != rest + len.to_string().len() {
                len += 1;
            }
            data.extend_from_slice(format!("{len} {key}=").as_bytes());
            data.extend_from_slice(value);
            data.push(b'\n');
        }
        self.entry(b"pax", &Header::new(b'x'), &data)
    }

    pub(crate) fn end(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 1024, 0);
        self.bytes
    }
}

/// Writes an archive as a layer to a temporary file.
pub(crate) fn try_layer(
    archive: impl Read,
    limits: &Limits,
) -> Result<(File, LayerSummary), LayerError> {
    let blob = tempfile::tempfile().unwrap();
    let summary = write_layer(archive, &blob, limits)?;
    Ok((blob, summary))
}

pub(crate) fn layer(archive: &[u8]) -> File {
    try_layer(archive, &Limits::default()).unwrap().0
}

/// The disk of layers merged: the metadata and the blobs in one source.
pub(crate) fn merge(layers: Vec<File>) -> (MergedImage, ConcatSource) {
    let image = tempfile::tempfile().unwrap();
    let merged = merge_layers(&layers, &image, &Limits::default()).unwrap();
    let disk = ConcatSource::new([image].into_iter().chain(layers)).unwrap();
    assert_eq!(disk.len_bytes().unwrap(), merged.disk_bytes);
    (merged, disk)
}

/// What's compared about a file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Description {
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) mtime: (i64, u32),
    /// Not of directories: file systems differ.
    pub(crate) links: u64,
    pub(crate) size: u64,
    /// A symbolic link's target, or the hash of a file's content.
    pub(crate) content: Vec<u8>,
    pub(crate) device: (u32, u32),
    /// The first name of the same file.
    pub(crate) first_name: Vec<u8>,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

pub(crate) type Listing = BTreeMap<Vec<u8>, Description>;

/// The hash of a stream; larger ones than `LARGE` aren't read.
fn hash(mut stream: impl Read, size: u64) -> Vec<u8> {
    const LARGE: u64 = 256 << 20;
    if size > LARGE {
        return b"large".to_vec();
    }
    let mut hash = XxHash3_128::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match stream.read(&mut buffer).unwrap() {
            0 => return hash.finish_128().to_le_bytes().to_vec(),
            read => hash.write(&buffer[..read]),
        }
    }
}

/// Lists a file system by our own reader.
pub(crate) fn list<S: ReadAt>(reader: &Reader<S>) -> Listing {
    let mut listing = Listing::new();
    let mut first_names = HashMap::new();
    let mut left = vec![(Vec::new(), reader.root().unwrap())];
    while let Some((path, inode)) = left.pop() {
        if inode.is_directory() {
            for entry in reader.read_dir(&inode).unwrap() {
                let child = [&path, &b"/"[..], &entry.name].concat();
                left.push((child, reader.inode(entry.nid).unwrap()));
            }
        }
        let content = match inode.file_type() {
            FileType::Regular => hash(reader.open_file(&inode).unwrap(), inode.size()),
            FileType::Symlink => reader.read_link(&inode).unwrap(),
            _ => Vec::new(),
        };
        let first: &mut Vec<u8> = first_names.entry(inode.nid()).or_insert_with(|| path.clone());
        *first = path.clone().min(first.clone());
        let description = Description {
            mode: inode.mode(),
            owner: (inode.uid(), inode.gid()),
            mtime: inode.mtime(),
            links: if inode.is_directory() { 0 } else { inode.links().into() },
            size: if inode.is_directory() { 0 } else { inode.size() },
            content,
            device: inode.device(),
            first_name: inode.nid().to_le_bytes().to_vec(),
            xattrs: reader.xattrs(&inode).unwrap().into_iter().collect(),
        };
        listing.insert(path, description);
    }
    name_firsts(&mut listing);
    listing
}

/// Lists a directory of the host's.
pub(crate) fn list_directory(root: &Path) -> Listing {
    let mut listing = Listing::new();
    let mut left = vec![(Vec::new(), root.to_owned())];
    while let Some((name, path)) = left.pop() {
        let metadata = match fs::symlink_metadata(&path) {
            // overlayfs lists, but doesn't find, whiteouts in directories of one layer only.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            metadata => metadata.unwrap(),
        };
        let kind = metadata.file_type();
        if kind.is_dir() {
            for entry in fs::read_dir(&path).unwrap() {
                let entry = entry.unwrap();
                let child = [&name, &b"/"[..], entry.file_name().as_bytes()].concat();
                left.push((child, entry.path()));
            }
        }
        let content = if kind.is_file() {
            hash(File::open(&path).unwrap(), metadata.len())
        } else if kind.is_symlink() {
            fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec()
        } else {
            Vec::new()
        };
        let is_device = kind.is_char_device() || kind.is_block_device();
        let device = metadata.rdev();
        let description = Description {
            mode: metadata.mode(),
            owner: (metadata.uid(), metadata.gid()),
            mtime: (metadata.mtime(), u32::try_from(metadata.mtime_nsec()).unwrap()),
            links: if kind.is_dir() { 0 } else { metadata.nlink() },
            size: if kind.is_dir() { 0 } else { metadata.len() },
            content,
            device: match is_device {
                true => (rustix::fs::major(device), rustix::fs::minor(device)),
                false => (0, 0),
            },
            first_name: metadata.ino().to_le_bytes().to_vec(),
            xattrs: host_xattrs(&path),
        };
        listing.insert(name, description);
    }
    name_firsts(&mut listing);
    listing
}

/// Puts names in place of inode numbers.
fn name_firsts(listing: &mut Listing) {
    let mut firsts = HashMap::new();
    for (path, description) in listing {
        let first = firsts.entry(description.first_name.clone()).or_insert_with(|| path.clone());
        description.first_name.clone_from(first);
    }
}

fn host_xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 1 << 16];
    let len = rustix::fs::llistxattr(path, &mut names).unwrap();
    let names = names[..len].split(|&byte| byte == 0).filter(|name| !name.is_empty());
    let value = |name: &[u8]| {
        let mut value = vec![0; 1 << 16];
        let len = rustix::fs::lgetxattr(path, name, &mut value).unwrap();
        value.truncate(len);
        (name.to_vec(), value)
    };
    names.map(value).collect()
}

/// Says which paths differ, rather than print both listings.
pub(crate) fn assert_same(actual: &Listing, expected: &Listing) {
    for (path, expected) in expected {
        let name = String::from_utf8_lossy(path);
        assert_eq!(actual.get(path), Some(expected), "{name}");
    }
    let more: Vec<_> = actual.keys().filter(|path| !expected.contains_key(*path)).collect();
    assert!(more.is_empty(), "{more:?}");
}

/// Has erofs-utils check a file system; they must be there.
pub(crate) fn fsck(image: &Path) {
    for (program, option) in [("fsck.erofs", "-d1"), ("dump.erofs", "-s")] {
        let output = Command::new(program).arg(option).arg(image).output();
        let output = output.unwrap_or_else(|error| {
            panic!("{program} can't be run ({error}): install Debian's erofs-utils")
        });
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program}: {text}");
        assert!(!text.contains("<E>"), "{program}: {text}");
    }
}

/// Copies a source to a file that other programs can open.
pub(crate) fn save<S: ReadAt>(source: &S, path: &Path) {
    let mut file = File::create(path).unwrap();
    let (mut offset, len) = (0, source.len_bytes().unwrap());
    let mut buffer = vec![0; 1 << 20];
    while offset < len {
        let piece = usize::try_from((len - offset).min(1 << 20)).unwrap();
        source.read_exact_at(&mut buffer[..piece], offset).unwrap();
        // Holes stay holes.
        if buffer[..piece].iter().any(|&byte| byte != 0) {
            file.seek(SeekFrom::Start(offset)).unwrap();
            file.write_all(&buffer[..piece]).unwrap();
        }
        offset += piece as u64;
    }
    file.set_len(len).unwrap();
}

/// Runs a program that's always there.
pub(crate) fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {text}");
}

/// Something mounted, until it's dropped.
pub(crate) struct Mounted {
    pub(crate) path: PathBuf,
}

impl Mounted {
    /// Mounts a file system image; `None`, loudly, where one may not.
    pub(crate) fn erofs(image: &Path, path: &Path) -> Option<Self> {
        Self::new(&["-t", "erofs", "-o", "ro,loop", image.to_str().unwrap()], path)
    }

    /// Mounts layers over each other, the topmost first.
    pub(crate) fn overlay(layers: &[&Path], path: &Path) -> Option<Self> {
        let layers: Vec<&str> = layers.iter().map(|layer| layer.to_str().unwrap()).collect();
        let options = format!("ro,lowerdir={}", layers.join(":"));
        Self::new(&["-t", "overlay", "-o", &options, "overlay"], path)
    }

    fn new(arguments: &[&str], path: &Path) -> Option<Self> {
        if !is_root() {
            eprintln!("skipped: mounting needs root");
            return None;
        }
        fs::create_dir_all(path).unwrap();
        let output = Command::new("mount").args(arguments).arg(path).output().unwrap();
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            let ways = ["permission denied", "unknown filesystem", "loop device"];
            assert!(ways.iter().any(|way| text.contains(way)), "mount {arguments:?}: {text}");
            eprintln!("skipped: {}", text.trim());
            return None;
        }
        Some(Self { path: path.to_owned() })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        run("umount", &[self.path.to_str().unwrap()]);
    }
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Numbers that look random and are the same each time (SplitMix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next().to_le_bytes()[0]).collect()
    }
}
