//! The reader on sound file systems, and on damaged ones.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::{Inode, ReadError, Reader};
use crate::testing::{Archive, Random, layer};
use crate::{Limits, ReadAt, merge_layers};

fn bytes(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    FileExt::read_exact_at(file, &mut bytes, 0).unwrap();
    bytes
}

/// A file system with everything in it, of few blocks.
fn sample() -> Vec<u8> {
    let mut sparse = vec![0; 200 << 10];
    sparse[100 << 10] = 1;
    let xattrs: [(&str, &[u8]); 2] =
        [("SCHILY.xattr.user.a", b"1"), ("SCHILY.xattr.security.capability", &[2; 20])];
    let mut archive = Archive::default().directory("etc").file("etc/passwd", b"root:x:0:0");
    archive = archive.pax(&xattrs).file("x", &[1; 5000]).pax(&xattrs[1..]).file("y", &sparse);
    archive = archive.symlink("lib", "usr/lib").symlink("usr/lib/up", "../../etc");
    archive = archive.symlink("abs", "/lib/up").symlink("loop", "loop").hard_link("z", "x");
    for index in 0..300 {
        archive = archive.file(&format!("many/file with a longer name {index}"), b"");
    }
    bytes(&layer(&archive.end()))
}

/// Reads all there is, however damaged: nothing may panic or take long.
fn read_all<S: ReadAt>(source: S) -> Result<usize, ReadError> {
    let reader = Reader::open(source)?;
    let mut left = vec![reader.root()?];
    let mut read = 0;
    while let Some(inode) = left.pop() {
        read += read_one(&reader, &inode).unwrap_or_default();
        // Damage can make circles.
        if read > 10_000 {
            break;
        }
        let entries = reader.read_dir(&inode).unwrap_or_default();
        left.extend(entries.iter().filter_map(|entry| reader.inode(entry.nid).ok()));
    }
    Ok(read)
}

fn read_one<S: ReadAt>(reader: &Reader<S>, inode: &Inode) -> Result<usize, ReadError> {
    let mut buffer = vec![0; 1 << 12];
    let _ = reader.read_link(inode);
    let _ = reader.read_at(inode, 0, &mut buffer);
    let _ = reader.read_at(inode, inode.size() / 2, &mut buffer);
    Ok(1 + reader.xattrs(inode)?.len())
}

#[test]
fn paths_are_resolved_within_the_root() {
    let reader = Reader::open(sample()).unwrap();
    let passwd = reader.resolve(b"/etc/passwd", true).unwrap().unwrap();
    for path in [
        &b"etc/../etc/./passwd"[..],
        b"../../etc/passwd",
        b"lib/up/passwd",
        b"//abs/passwd",
        b"usr/lib/up/passwd",
    ] {
        assert_eq!(reader.resolve(path, true).unwrap().unwrap().nid(), passwd.nid());
    }
    assert_eq!(reader.read_file(&passwd, 10).unwrap(), b"root:x:0:0");
    assert!(matches!(reader.read_file(&passwd, 9), Err(ReadError::FileSize { limit: 9, .. })));
    for path in [&b"etc/shadow"[..], b"etc/passwd/x", b"nothing/there"] {
        assert!(reader.resolve(path, true).unwrap().is_none());
    }
    assert!(matches!(reader.resolve(b"loop", true), Err(ReadError::SymlinkLoop)));
    let link = reader.resolve(b"lib", false).unwrap().unwrap();
    assert_eq!(reader.read_link(&link).unwrap(), b"usr/lib");
}

#[test]
fn many_names_are_listed_in_order_and_found() {
    let reader = Reader::open(sample()).unwrap();
    let many = reader.resolve(b"many", true).unwrap().unwrap();
    assert!(many.size() > 2 * 4096);
    let entries = reader.read_dir(&many).unwrap();
    assert_eq!(entries.len(), 300);
    assert!(entries.is_sorted_by_key(|entry| &entry.name));
    for entry in &entries {
        assert_eq!(reader.lookup(&many, &entry.name).unwrap().as_ref(), Some(entry));
    }
}

#[test]
fn other_kinds_of_files_are_no_directories_or_regular_files() {
    let reader = Reader::open(sample()).unwrap();
    let root = reader.root().unwrap();
    assert!(matches!(reader.read_at(&root, 0, &mut [0]), Err(ReadError::Kind { .. })));
    let file = reader.resolve(b"x", true).unwrap().unwrap();
    assert!(matches!(reader.read_dir(&file), Err(ReadError::Kind { .. })));
    assert!(matches!(reader.read_link(&file), Err(ReadError::Kind { .. })));
}

#[test]
fn other_file_systems_are_refused() {
    assert!(matches!(Reader::open(vec![0; 8192]), Err(ReadError::Magic)));
    assert!(matches!(Reader::open(vec![0; 100]), Err(ReadError::Io { .. })));
    let mut sample = sample();
    sample[1024 + 16] ^= 1;
    assert!(matches!(Reader::open(sample), Err(ReadError::Checksum)));
}

/// Damages that the superblock's checksum can't tell: it's switched off.
fn unchecked(mut sample: Vec<u8>) -> Vec<u8> {
    sample[1024 + 8] &= !1;
    sample
}

#[test]
fn damaged_file_systems_never_panic_nor_merge_out_of_range() {
    let whole = unchecked(sample());
    let metadata = u32::from_le_bytes(whole[1024 + 40..][..4].try_into().unwrap()) as usize * 4096;
    let limits = Limits { entries: 10_000, metadata_bytes: 1 << 20, ..Limits::default() };
    let image = tempfile::tempfile().unwrap();
    let mut random = Random(1);
    for round in 0..3000 {
        let mut damaged = whole.clone();
        for _ in 0..=random.below(4) {
            let position = match round % 8 {
                0 => 1024 + random.below(128),
                _ => metadata - 4096 + random.below(whole.len() - metadata + 4096),
            };
            damaged[position] = match random.below(3) {
                0 => damaged[position] ^ (1 << random.below(8)),
                1 => 0xff,
                _ => random.bytes(1)[0],
            };
        }
        if random.below(10) == 0 {
            damaged.truncate(random.below(whole.len()));
        }
        let _ = read_all(damaged.as_slice());
        if let Ok(merged) = merge_layers(&[damaged.as_slice()], &image, &limits) {
            assert_eq!(merged.blobs[0].len, damaged.len() as u64);
            read_all(&image).unwrap();
        }
    }
}

#[test]
fn directory_that_holds_itself_is_not_merged() {
    let mut damaged = unchecked(bytes(&layer(&Archive::default().directory("a").end())));
    let reader = Reader::open(damaged.clone()).unwrap();
    let (root, child) = (reader.root().unwrap(), reader.resolve(b"a", true).unwrap().unwrap());
    // The entry's number, where the root's inline entries have it: after `.` and `..`.
    let entry = damaged.len() - 4096 + usize::try_from(root.nid() * 32).unwrap();
    let found = (entry..entry + 200)
        .find(|&at| damaged[at..at + 8] == child.nid().to_le_bytes())
        .expect("the entry");
    damaged[found..found + 8].copy_from_slice(&root.nid().to_le_bytes());
    let image = tempfile::tempfile().unwrap();
    let error = merge_layers(&[damaged], &image, &Limits::default()).unwrap_err();
    assert!(format!("{:?}", error).contains("several names"), "{error:?}");
}
