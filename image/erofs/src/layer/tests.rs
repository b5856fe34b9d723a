//! What layers become, and which are refused.

use super::{EntryError, LayerError};
use crate::testing::{
    Archive, Header, Listing, Mounted, assert_same, fsck, layer, list, list_directory, save,
    try_layer,
};
use crate::{LimitError, Limits, Reader, TarError};

fn listing(archive: Archive) -> Listing {
    list(&Reader::open(layer(&archive.end())).unwrap())
}

fn refused(archive: &[u8], limits: &Limits) -> LayerError {
    try_layer(archive, limits).unwrap_err()
}

#[track_caller]
fn assert_entry_error(archive: Archive, expected: EntryError) {
    match refused(&archive.end(), &Limits::default()) {
        LayerError::Entry { source, .. } => assert_eq!(source, expected),
        other => panic!("{other:?} instead of {expected:?}"),
    }
}

#[track_caller]
fn assert_limit(archive: Archive, limits: &Limits, expected: LimitError) {
    match refused(&archive.end(), limits) {
        LayerError::TooLarge { source, .. } => assert_eq!(source, expected),
        other => panic!("{other:?} instead of {expected:?}"),
    }
}

#[track_caller]
fn assert_tar_error(archive: &[u8], expected: &TarError) {
    match refused(archive, &Limits::default()) {
        LayerError::Archive { source, .. } => assert_eq!(source, *expected),
        other => panic!("{other:?} instead of {expected:?}"),
    }
}

fn paths(listing: &Listing) -> Vec<&str> {
    listing.keys().map(|path| std::str::from_utf8(path).unwrap()).collect()
}

#[test]
fn empty_archive_is_an_empty_root() {
    for archive in [Vec::new(), Archive::default().end()] {
        let listing = list(&Reader::open(layer(&archive)).unwrap());
        assert_eq!(paths(&listing), [""]);
        assert_eq!(listing[&b""[..]].mode, 0o40755);
    }
}

#[test]
fn missing_parents_are_made() {
    let listing = listing(Archive::default().file("./a/b/c", b"x"));
    assert_eq!(paths(&listing), ["", "/a", "/a/b", "/a/b/c"]);
    let parent = &listing[&b"/a/b"[..]];
    assert_eq!((parent.mode, parent.owner), (0o40755, (0, 0)));
    assert!(parent.xattrs.contains_key(super::IMPLIED));
}

#[test]
fn later_description_of_a_parent_counts() {
    let archive = Archive::default().file("a/b", b"x");
    let tmp = Header { mode: 0o1777, uid: 7, ..Header::new(b'5') };
    let listing = listing(archive.entry(b"a/", &tmp, b"").entry(b"./", &tmp, b""));
    for path in [&b"/a"[..], b""] {
        assert_eq!((listing[path].mode, listing[path].owner.0), (0o41777, 7));
        assert!(listing[path].xattrs.is_empty());
    }
    assert!(listing.contains_key(&b"/a/b"[..]));
}

#[test]
fn absolute_names_are_taken_from_the_root() {
    let archive = Archive::default().file("//etc/passwd", b"root");
    assert_eq!(paths(&listing(archive)), ["", "/etc", "/etc/passwd"]);
}

#[test]
fn last_of_duplicates_wins() {
    let archive = Archive::default().file("a", b"1").file("b/c", b"").file("a", b"22");
    let listing = listing(archive.file("b", b"333").directory("a").file("a/d", b""));
    assert_eq!(paths(&listing), ["", "/a", "/a/d", "/b"]);
    assert_eq!(listing[&b"/b"[..]].size, 3);
}

#[test]
fn replaced_name_of_a_hard_link_leaves_the_other() {
    let archive = Archive::default().file("a", b"1").hard_link("b", "/a").hard_link("c", "./b");
    let both = listing(archive.clone());
    assert_eq!(both[&b"/c"[..]].links, 3);
    assert_eq!(both[&b"/c"[..]].first_name, b"/a");
    let one = listing(archive.file("a", b"22").directory("c"));
    assert_eq!((one[&b"/b"[..]].links, one[&b"/b"[..]].size), (1, 1));
    assert_eq!((one[&b"/a"[..]].links, one[&b"/a"[..]].size), (1, 2));
}

#[test]
fn whiteouts_become_overlayfs_ones() {
    let archive = Archive::default().whiteout("a/.wh.gone").whiteout("a/.wh..wh..opq");
    let listing = listing(archive.whiteout(".wh..wh.plnk/1.2"));
    assert_eq!(paths(&listing), ["", "/a", "/a/gone"]);
    let gone = &listing[&b"/a/gone"[..]];
    assert_eq!((gone.mode, gone.device), (0o20000, (0, 0)));
    assert_eq!(listing[&b"/a"[..]].xattrs[super::OPAQUE], b"y");
}

#[test]
fn whiteout_beside_the_layers_own_file_hides_only_lower_ones() {
    let file = Archive::default().file("a", b"1");
    let whiteout = Archive::default().whiteout(".wh.a");
    for archive in [file.clone().whiteout(".wh.a"), whiteout.clone().file("a", b"1")] {
        assert_eq!(listing(archive)[&b"/a"[..]].size, 1);
    }
    let directory = Archive::default().file("a/b", b"");
    let orders = [
        directory.clone().whiteout(".wh.a"),
        whiteout.clone().file("a/b", b""),
        whiteout.directory("a").file("a/b", b""),
    ];
    for archive in orders {
        let listing = listing(archive);
        assert_eq!(listing[&b"/a"[..]].xattrs[super::OPAQUE], b"y");
        assert!(listing.contains_key(&b"/a/b"[..]));
    }
}

#[test]
fn overlayfs_attributes_of_the_archive_are_escaped() {
    let pax: [(&str, &[u8]); 4] = [
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ("SCHILY.xattr.trusted.other", b"kept"),
        ("SCHILY.xattr.user.empty", b""),
        ("SCHILY.xattr.com.apple.quarantine", b"dropped"),
    ];
    let listing = listing(Archive::default().pax(&pax).directory("a"));
    let xattrs = listing[&b"/a"[..]].xattrs.iter();
    let expected: [(&[u8], &[u8]); 3] = [
        (b"trusted.other", b"kept"),
        (b"trusted.overlay.overlay.opaque", b"y"),
        (b"user.empty", b""),
    ];
    assert!(xattrs.map(|(name, value)| (&**name, &**value)).eq(expected));
}

#[test]
fn kernel_shows_acls_and_xattrs_shared_or_not() {
    // Version 2, then tag, permissions and ID of each entry (Linux's posix_acl_xattr.h).
    let entry = |tag: u16, permissions: u16, id: u32| {
        [&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &id.to_le_bytes()].concat()
    };
    let entries =
        [(1, 7, u32::MAX), (2, 5, 1000), (4, 5, u32::MAX), (16, 7, u32::MAX), (32, 0, u32::MAX)];
    let acl = [2_u32.to_le_bytes().to_vec()].into_iter();
    let acl = acl.chain(entries.map(|(tag, permissions, id)| entry(tag, permissions, id)));
    let acl: Vec<u8> = acl.flatten().collect();
    let large = vec![5; 60_000];
    let records: [(&str, &[u8]); 4] = [
        ("SCHILY.xattr.system.posix_acl_access", &acl),
        ("SCHILY.xattr.system.posix_acl_default", &acl),
        ("SCHILY.xattr.user.large", &large),
        ("SCHILY.xattr.trusted.other", b"1"),
    ];
    let header = Header { mode: 0o770, ..Header::new(b'5') };
    let archive = Archive::default().directory("./").pax(&records).entry(b"a", &header, b"");
    let archive = archive.pax(&records[..2]).entry(b"b", &header, b"").end();
    let blob = layer(&archive);
    let expected = list(&Reader::open(&blob).unwrap());
    assert_eq!(expected[&b"/a"[..]].xattrs.len(), 4);
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("image");
    save(&blob, &image);
    fsck(&image);
    let Some(mounted) = Mounted::erofs(&image, &directory.path().join("mounted")) else { return };
    assert_same(&list_directory(&mounted.path), &expected);
}

#[test]
fn parent_components_are_refused() {
    for path in ["../a", "a/../b", "/..", "a/.."] {
        assert_entry_error(Archive::default().file(path, b""), EntryError::ParentComponent);
    }
}

#[test]
fn names_with_nul_are_refused() {
    let path = Archive::default().pax(&[("path", b"a\0b")]).file("x", b"");
    let target = Archive::default().pax(&[("linkpath", b"a\0b")]);
    assert_entry_error(path, EntryError::Nul);
    assert_entry_error(target.clone().symlink("x", "y"), EntryError::Nul);
    assert_entry_error(target.hard_link("x", "y"), EntryError::Nul);
}

#[test]
fn long_names_are_refused() {
    let pax = |len| {
        let name = vec![b'n'; len];
        Archive::default().pax(&[("path", &name)]).file("x", b"")
    };
    assert_eq!(listing(pax(255)).len(), 2);
    assert_entry_error(pax(256), EntryError::NameLength);
    let limits = Limits::default();
    assert_limit(pax(4097), &limits, LimitError::PathBytes(4096));
}

#[test]
fn deep_paths_are_refused() {
    let path = "d/".repeat(513);
    let archive = Archive::default().pax(&[("path", path.as_bytes())]).directory("x");
    assert_limit(archive, &Limits::default(), LimitError::PathDepth(512));
}

#[test]
fn paths_through_other_than_directories_are_refused() {
    let symlink = Archive::default().directory("etc").symlink("a", "etc");
    assert_entry_error(symlink.clone().file("a/passwd", b""), EntryError::ThroughNonDirectory);
    assert_entry_error(symlink.clone().whiteout("a/.wh.x"), EntryError::ThroughNonDirectory);
    assert_entry_error(symlink.whiteout("a/.wh..wh..opq"), EntryError::ThroughNonDirectory);
    let file = Archive::default().file("a", b"");
    assert_entry_error(file.file("a/b", b""), EntryError::ThroughNonDirectory);
}

#[test]
fn root_is_only_a_directory() {
    for path in ["/", ".", "./"] {
        assert_entry_error(Archive::default().symlink(path, "x"), EntryError::Root);
    }
}

#[test]
fn hard_links_to_elsewhere_are_refused() {
    let link = |target| Archive::default().directory("d").whiteout(".wh.w").hard_link("a", target);
    assert_entry_error(link("../etc/shadow"), EntryError::LinkLeavesRoot);
    assert_entry_error(link("missing"), EntryError::LinkTargetMissing);
    assert_entry_error(link("w"), EntryError::LinkTargetMissing);
    assert_entry_error(link("d"), EntryError::LinkToDirectory);
    let through = Archive::default().file("d/x", b"").symlink("s", "d").hard_link("a", "s/x");
    assert_entry_error(through, EntryError::LinkTargetMissing);
}

#[test]
fn odd_whiteouts_are_refused() {
    for path in [".wh.", "a/.wh..", ".wh...", ".wh.a/b"] {
        assert_entry_error(Archive::default().whiteout(path), EntryError::Whiteout);
    }
}

#[test]
fn odd_symlinks_are_refused() {
    assert_entry_error(Archive::default().symlink("a", ""), EntryError::SymlinkTarget);
    let target = vec![b't'; 4096];
    let long = Archive::default().pax(&[("linkpath", &target)]).symlink("a", "x");
    assert_entry_error(long, EntryError::SymlinkTarget);
}

#[test]
fn device_numbers_out_of_range_are_refused() {
    let header = Header { device: (1 << 12, 0), ..Header::new(b'3') };
    assert_entry_error(Archive::default().entry(b"a", &header, b""), EntryError::DeviceNumber);
}

#[test]
fn large_xattrs_are_refused() {
    let xattr =
        |value: &[u8]| Archive::default().pax(&[("SCHILY.xattr.user.a", value)]).file("x", b"");
    assert_eq!(listing(xattr(&[1; 65_535])).len(), 2);
    assert_entry_error(xattr(&[1; 65_536]), EntryError::Xattr);
    let name = format!("SCHILY.xattr.user.{}", "n".repeat(251));
    let long_name = Archive::default().pax(&[(&name, b"")]).file("x", b"");
    assert_entry_error(long_name, EntryError::Xattr);
    let limits = Limits { xattr_bytes_per_file: 99, ..Limits::default() };
    assert_limit(xattr(&[1; 100]), &limits, LimitError::FileXattrs(99));
    let names: Vec<String> = (0..254).map(|i| format!("SCHILY.xattr.user.{i}")).collect();
    let records: Vec<(&str, &[u8])> = names.iter().map(|name| (&**name, &b""[..])).collect();
    let many = Archive::default().pax(&records).file("x", b"");
    assert_limit(many, &Limits::default(), LimitError::FileXattrs(128 << 10));
    let limits = Limits { xattr_bytes: 99, ..Limits::default() };
    assert_limit(xattr(&[1; 100]), &limits, LimitError::XattrBytes(99));
}

#[test]
fn bombs_are_refused() {
    let two = Archive::default().file("a", &[1; 600]).file("b", &[2; 600]);
    let limits = Limits { entries: 1, ..Limits::default() };
    assert_limit(two.clone(), &limits, LimitError::Entries(1));
    let implied = Archive::default().file("a/b/c", b"");
    assert_limit(implied, &limits, LimitError::Entries(1));
    let limits = Limits { archive_bytes: 3000, ..Limits::default() };
    assert_limit(two.clone(), &limits, LimitError::ArchiveBytes(3000));
    let limits = Limits { file_bytes: 599, ..Limits::default() };
    assert_limit(two.clone(), &limits, LimitError::FileBytes(599));
    let limits = Limits { metadata_bytes: 4095, ..Limits::default() };
    assert_limit(two.clone(), &limits, LimitError::MetadataBytes(4095));
    // What's skipped counts as well.
    for kind in [b'g', b'V'] {
        let archive = Archive::default().entry(b"a", &Header::new(kind), &[0; 9000]);
        let limits = Limits { archive_bytes: 3000, ..Limits::default() };
        assert_limit(archive, &limits, LimitError::ArchiveBytes(3000));
    }
    let mut archive = two.end();
    archive.resize(1 << 20, 0);
    let limits = Limits { archive_bytes: 10_000, ..Limits::default() };
    match refused(&archive, &limits) {
        LayerError::TooLarge { source: LimitError::ArchiveBytes(10_000), .. } => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn sparse_bombs_are_refused_by_their_maps() {
    let size = (8_u64 << 40).to_string();
    let sparse: [(&str, &[u8]); 2] =
        [("GNU.sparse.size", size.as_bytes()), ("GNU.sparse.map", b"")];
    let mut archive = Archive::default();
    for index in 0..5 {
        archive = archive.pax(&sparse).file(&index.to_string(), b"");
    }
    let limits = Limits { metadata_bytes: 1 << 20, ..Limits::default() };
    assert_limit(archive, &limits, LimitError::MetadataBytes(1 << 20));
}

#[test]
fn cut_archives_are_refused() {
    let whole = Archive::default().pax(&[("mtime", b"1.5")]).file("a", &[1; 600]).end();
    for len in (1..whole.len() - 1024).filter(|len| len % 64 == 0 || len % 512 == 1) {
        let expected = match len {
            512 | 1024 => continue,
            _ => TarError::Truncated,
        };
        assert_tar_error(&whole[..len], &expected);
    }
    assert_tar_error(&whole[..512], &TarError::Truncated);
    assert_tar_error(&whole[..1024], &TarError::NoEntry);
}

#[test]
fn changed_headers_are_refused() {
    let whole = Archive::default().file("a", b"").end();
    for byte in [0, 100, 156, 300] {
        let mut changed = whole.clone();
        changed[byte] ^= 1;
        assert_tar_error(&changed, &TarError::Checksum);
    }
    // One record of zeros isn't the end if something else follows.
    let mut changed = whole;
    changed[1500] = 1;
    assert_tar_error(&changed, &TarError::Checksum);
}

#[test]
fn what_is_no_file_is_refused() {
    let archive = Archive::default().entry(b"a", &Header::new(b'M'), b"");
    assert_tar_error(&archive.end(), &TarError::Type('M'));
}

#[test]
fn archive_is_read_to_its_streams_end() {
    let mut archive = Archive::default().file("a", b"1").end();
    archive.resize(archive.len() + 10_000, 7);
    let mut stream = archive.as_slice();
    let (_, summary) = try_layer(&mut stream, &Limits::default()).unwrap();
    assert!(stream.is_empty());
    assert_eq!(summary.archive_bytes, archive.len() as u64);
}

#[test]
fn failing_stream_is_a_read_error() {
    struct Broken;
    impl std::io::Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::ConnectionReset.into())
        }
    }
    assert!(matches!(try_layer(Broken, &Limits::default()), Err(LayerError::Read(_))));
}

#[test]
fn tebibyte_of_holes_costs_nothing() {
    let size = (1_u64 << 40).to_string();
    let sparse: [(&str, &[u8]); 2] = [
        ("GNU.sparse.size", size.as_bytes()),
        ("GNU.sparse.map", b"5000,3,549755813888,3,1099511627775,1"),
    ];
    let archive = Archive::default().pax(&sparse).file("a", b"abcdefg").end();
    let (blob, _) = try_layer(&archive[..], &Limits::default()).unwrap();
    let allocated = std::os::unix::fs::MetadataExt::blocks(&blob.metadata().unwrap()) * 512;
    assert!(allocated < 1 << 20, "{allocated}");
    let reader = Reader::open(blob).unwrap();
    let file = reader.resolve(b"a", true).unwrap().unwrap();
    assert_eq!(file.size(), 1 << 40);
    for (offset, expected) in [
        (4999, &b"\0abc\0"[..]),
        ((1 << 39) - 1, b"\0def\0"),
        ((1 << 40) - 2, b"\0g"),
        (1 << 38, b"\0\0"),
    ] {
        let mut found = vec![9; expected.len()];
        assert_eq!(reader.read_at(&file, offset, &mut found).unwrap(), expected.len());
        assert_eq!(found, expected);
    }
}

#[test]
fn zeros_in_a_plain_file_become_holes() {
    let mut data = vec![0; 3 << 20];
    data[1 << 20] = 1;
    data[(1 << 20) + 40_000] = 2;
    let (blob, summary) =
        try_layer(&Archive::default().file("a", &data).end()[..], &Limits::default()).unwrap();
    assert!(summary.blob_bytes < 64 << 10, "{summary:?}");
    let reader = Reader::open(blob).unwrap();
    let file = reader.resolve(b"a", true).unwrap().unwrap();
    assert!(reader.read_file(&file, 3 << 20).unwrap() == data);
}

#[test]
fn same_archive_makes_the_same_blob() {
    let archive = Archive::default().file("a", &[1; 9000]).directory("b").symlink("b/c", "a");
    let bytes = |archive: &Archive| {
        let blob = layer(&archive.clone().end());
        let mut bytes = vec![0; usize::try_from(blob.metadata().unwrap().len()).unwrap()];
        std::os::unix::fs::FileExt::read_exact_at(&blob, &mut bytes, 0).unwrap();
        bytes
    };
    let first = bytes(&archive);
    assert_eq!(first, bytes(&archive));
    let uuid = 1024 + 48..1024 + 64;
    let other = Archive::default().file("a", &[2; 9000]).directory("b").symlink("b/c", "a");
    assert_ne!(first[uuid.clone()], bytes(&other)[uuid]);
}
