//! Archives that GNU tar made of random trees, against those trees.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

use crate::testing::{
    Archive, Listing, Mounted, Random, assert_same, fsck, is_root, layer, list, list_directory,
    merge, run, save,
};
use crate::{Limits, Reader, TarError};

/// Makes a tree of all kinds of files; as root with owners, devices and attributes of the system's.
fn random_tree(random: &mut Random, root: &Path) {
    let mut directories = vec![root.to_owned()];
    let mut files: Vec<PathBuf> = Vec::new();
    for index in 0..60 {
        let parent = directories[random.below(directories.len())].clone();
        let long = "n".repeat([1, 90, 120, 200][random.below(4)]);
        let path = parent.join(format!("{index}-{long}"));
        match random.below(9) {
            0 | 1 if path.as_os_str().len() < 1500 => {
                fs::create_dir(&path).unwrap();
                directories.push(path.clone());
            }
            2 => symlink("t".repeat(1 + random.below(3000)), &path).unwrap(),
            3 => rustix::fs::mkfifoat(CWD, &path, Mode::RWXU).unwrap(),
            4 if !files.is_empty() => {
                fs::hard_link(&files[random.below(files.len())], &path).unwrap();
                continue;
            }
            5 if is_root() => {
                let device = rustix::fs::makedev(7, u32::try_from(random.below(70_000)).unwrap());
                let kind = [FileType::CharacterDevice, FileType::BlockDevice][random.below(2)];
                rustix::fs::mknodat(CWD, &path, kind, Mode::RUSR, device).unwrap();
            }
            6 => {
                sparse_file(random, &path);
                files.push(path.clone());
            }
            _ => {
                let len = random.below(30_000);
                fs::write(&path, random.bytes(len)).unwrap();
                files.push(path.clone());
            }
        }
        describe(random, &path);
    }
    // Last, as what's made in a directory changes its time.
    directories.iter().rev().for_each(|directory| describe(random, directory));
}

fn sparse_file(random: &mut Random, path: &Path) {
    let mut file = File::create(path).unwrap();
    for _ in 0..random.below(40) {
        file.seek(SeekFrom::Start(random.next() % (8 << 20))).unwrap();
        let len = random.below(9000);
        file.write_all(&random.bytes(len)).unwrap();
    }
    file.set_len(random.next() % (9 << 20)).unwrap();
}

fn describe(random: &mut Random, path: &Path) {
    let kind = fs::symlink_metadata(path).unwrap().file_type();
    if is_root() {
        let id = |random: &mut Random| Some(u32::try_from(random.below(2 << 20)).unwrap());
        std::os::unix::fs::lchown(path, id(random), id(random)).unwrap();
    }
    if !kind.is_symlink() {
        let mode = u32::try_from(random.below(0o10000)).unwrap() | 0o700;
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    if (kind.is_file() || kind.is_dir()) && random.below(2) == 0 {
        let name = format!("user.{}", random.below(3));
        let len = random.below(300);
        let value = random.bytes(len);
        rustix::fs::lsetxattr(path, name, &value, XattrFlags::empty()).unwrap();
    }
    if is_root() && kind.is_file() && random.below(3) == 0 {
        let capability = [&[1, 0, 0, 2][..], &random.bytes(4), &[0; 12]].concat();
        let name = "security.capability";
        rustix::fs::lsetxattr(path, name, &capability, XattrFlags::empty()).unwrap();
    }
    let seconds = i64::try_from(random.next() % (1 << 33)).unwrap() - (1 << 31);
    let time =
        Timespec { tv_sec: seconds, tv_nsec: i64::try_from(random.below(1_000_000_000)).unwrap() };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// What the archive's format can't say is taken out.
fn without(mut listing: Listing, xattrs: bool, nanoseconds: bool) -> Listing {
    for description in listing.values_mut() {
        if !xattrs {
            description.xattrs.clear();
        }
        if !nanoseconds {
            description.mtime.1 = 0;
        }
    }
    listing
}

#[test]
fn archives_of_gnu_tar_become_the_tree_that_they_were_made_from() {
    let formats: [(&[&str], bool); 6] = [
        (&["--format=gnu"], false),
        (&["--format=gnu", "--sparse"], false),
        (&["--format=posix", "--xattrs", "--xattrs-include=*"], true),
        (&["--format=posix", "--xattrs", "--xattrs-include=*", "--sparse"], true),
        (&["--format=posix", "--sparse", "--sparse-version=0.0", "--xattrs"], true),
        (&["--format=posix", "--sparse", "--sparse-version=0.1", "--xattrs"], true),
    ];
    for (seed, (options, is_posix)) in (0..).zip(formats.into_iter().cycle()).take(12) {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::create_dir(path("tree")).unwrap();
        random_tree(&mut Random(seed), &path("tree"));
        let (tree, archive) = (path("tree"), path("tar"));
        let (tree, archive) = (tree.to_str().unwrap(), archive.to_str().unwrap());
        run("tar", &[options, &["--numeric-owner", "-C", tree, "-cf", archive, "."]].concat());
        let expected = without(list_directory(&path("tree")), is_posix, is_posix);
        let blob = layer(&fs::read(path("tar")).unwrap());
        assert_same(&list(&Reader::open(&blob).unwrap()), &expected);
        let (_, disk) = merge(vec![blob.try_clone().unwrap()]);
        assert_same(&list(&Reader::open(&disk).unwrap()), &expected);
        save(&blob, &path("blob"));
        save(&disk, &path("disk"));
        for image in ["blob", "disk"] {
            fsck(&path(image));
            let Some(mounted) = Mounted::erofs(&path(image), &path("mounted")) else { continue };
            assert_same(&list_directory(&mounted.path), &expected);
        }
    }
}

fn tar_error(archive: &[u8]) -> TarError {
    match crate::testing::try_layer(archive, &Limits::default()).unwrap_err() {
        crate::LayerError::Archive { source, .. } => source,
        other => panic!("{other:?}"),
    }
}

#[test]
fn malformed_pax_records_are_refused() {
    for data in [
        &b"5 a=b\n"[..],
        b"x a=b\n",
        b"99 a=b\n",
        b"0 a=b\n",
        b"6 abcd\n",
        b"99999999999999999999 a=b\n",
        b"13 size=-12x\n",
        b"13 mtime=1.x\n",
    ] {
        let header = crate::testing::Header::new(b'x');
        let archive = Archive::default().entry(b"pax", &header, data).file("a", b"").end();
        assert_eq!(tar_error(&archive), TarError::PaxRecord, "{}", data.escape_ascii());
    }
}

#[test]
fn wrong_sparse_maps_are_refused() {
    for map in ["0,2,1,1", "0,4", "0", "2,1,0,2", "9,3", "0,18446744073709551615,1,4", "0,2"] {
        let records: [(&str, &[u8]); 2] =
            [("GNU.sparse.size", b"10"), ("GNU.sparse.map", map.as_bytes())];
        let archive = Archive::default().pax(&records).file("a", b"abc").end();
        assert_eq!(tar_error(&archive), TarError::SparseMap, "{map}");
    }
    let records: [(&str, &[u8]); 2] = [("GNU.sparse.major", b"1"), ("GNU.sparse.realsize", b"9")];
    for data in ["", "1\n", "99999999999999999999999\n", "18446744073709551615\n0\n"] {
        let archive = Archive::default().pax(&records).file("a", data.as_bytes()).end();
        assert_eq!(tar_error(&archive), TarError::SparseMap, "{data}");
    }
}

#[test]
fn large_extended_headers_are_refused() {
    for kind in [b'x', b'L', b'K'] {
        let header = crate::testing::Header::new(kind);
        let archive = Archive::default().entry(b"long", &header, &vec![b'1'; (1 << 20) + 1]).end();
        assert_eq!(tar_error(&archive), TarError::ExtendedHeaderSize(1 << 20));
    }
}

#[test]
fn sizes_and_owners_out_of_range_are_refused() {
    let owner = Archive::default().pax(&[("uid", b"4294967296")]).file("a", b"").end();
    assert_eq!(tar_error(&owner), TarError::PaxRecord);
    let size = Archive::default().pax(&[("size", b"18446744073709551615")]).file("a", b"").end();
    assert_eq!(tar_error(&size), TarError::Number("size"));
}

#[test]
fn damaged_archives_never_panic() {
    let mut random = Random(3);
    let sparse: [(&str, &[u8]); 2] = [("GNU.sparse.size", b"90"), ("GNU.sparse.map", b"8,3")];
    let archive = Archive::default().pax(&sparse).file("a", b"abc").hard_link("b", "a");
    let whole = archive.pax(&[("SCHILY.xattr.user.a", b"1")]).directory("c").end();
    for _ in 0..4000 {
        let mut damaged = whole.clone();
        let position = random.below(damaged.len());
        damaged[position] = random.bytes(1)[0];
        // Headers stay sound, so that what's behind the checksum is seen.
        let header = position / 512 * 512;
        damaged[header + 148..header + 156].fill(b' ');
        let sum: u32 = damaged[header..header + 512].iter().map(|&byte| u32::from(byte)).sum();
        damaged[header + 148..header + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let limits = Limits { file_bytes: 1 << 30, ..Limits::default() };
        let _ = crate::testing::try_layer(&damaged[..], &limits);
    }
}
