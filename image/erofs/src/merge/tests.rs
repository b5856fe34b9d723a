//! Merged layers against what they should be, and against overlayfs itself.

use std::collections::BTreeMap;

use super::{MergeError, merge_layers};
use crate::testing::{
    Archive, Header, Listing, Mounted, Random, assert_same, fsck, layer, list, list_directory,
    merge, save,
};
use crate::{LimitError, Limits, ReadError, Reader};

fn merged(archives: Vec<Archive>) -> Listing {
    let layers = archives.into_iter().map(|archive| layer(&archive.end())).collect();
    list(&Reader::open(merge(layers).1).unwrap())
}

fn paths(listing: &Listing) -> Vec<&str> {
    listing.keys().map(|path| std::str::from_utf8(path).unwrap()).collect()
}

#[test]
fn no_layers_are_an_empty_root() {
    assert_eq!(paths(&merged(Vec::new())), [""]);
}

#[test]
fn upper_files_replace_lower_ones() {
    let lower = Archive::default().file("a", &[1; 5000]).file("d/b", b"1").file("keep", b"k");
    let upper = Archive::default().file("a", &[2; 9000]).file("d", b"file").file("keep/x", b"");
    let expected = Archive::default().file("a", &[2; 9000]).file("d", b"file");
    let found = merged(vec![lower, upper]);
    assert_same(&found, &merged(vec![expected.file("keep/x", b"")]));
}

#[test]
fn whiteouts_and_opaque_directories_hide_lower_layers() {
    let lower = Archive::default().file("a/1", b"").file("a/2", b"").file("b/1", b"");
    let middle = Archive::default().whiteout("a/.wh.1").whiteout("b/.wh..wh..opq").file("b/2", b"");
    let upper = Archive::default().file("a/1", b"new").whiteout(".wh.missing");
    let found = merged(vec![lower.clone(), middle.clone()]);
    assert_eq!(paths(&found), ["", "/a", "/a/2", "/b", "/b/2"]);
    assert!(found.values().all(|description| description.xattrs.is_empty()));
    let found = merged(vec![lower, middle, upper]);
    assert_eq!(paths(&found), ["", "/a", "/a/1", "/a/2", "/b", "/b/2"]);
}

#[test]
fn opaque_root_hides_all_lower_layers() {
    let upper = Archive::default().whiteout(".wh..wh..opq").file("b", b"");
    assert_eq!(paths(&merged(vec![Archive::default().file("a", b""), upper])), ["", "/b"]);
}

#[test]
fn undescribed_directories_keep_the_lower_layers_attributes() {
    let tmp = Header { mode: 0o1777, ..Header::new(b'5') };
    let lower = Archive::default().entry(b"tmp", &tmp, b"").entry(b".", &tmp, b"");
    let upper = Archive::default().file("tmp/a", b"");
    let found = merged(vec![lower.clone(), upper.clone()]);
    assert_eq!((found[&b""[..]].mode, found[&b"/tmp"[..]].mode), (0o41777, 0o41777));
    let described = merged(vec![lower, upper.directory("tmp")]);
    assert_eq!(described[&b"/tmp"[..]].mode, 0o40755);
}

#[test]
fn hard_links_count_the_names_that_are_left() {
    let lower = Archive::default().file("a", &[1; 100]).hard_link("b", "a").hard_link("c", "a");
    let found = merged(vec![lower, Archive::default().whiteout(".wh.a")]);
    assert_eq!(found[&b"/b"[..]].links, 2);
    assert_eq!(found[&b"/c"[..]].first_name, b"/b");
}

#[test]
fn sparse_files_keep_their_holes() {
    let mut data = vec![0; 2 << 20];
    data[1 << 20] = 7;
    let filler = Archive::default().file("filler", &[3; 50_000]);
    let layers = vec![layer(&filler.end()), layer(&Archive::default().file("a", &data).end())];
    let (image, disk) = merge(layers);
    assert!(image.disk_bytes < 256 << 10, "{image:?}");
    let reader = Reader::open(disk).unwrap();
    let file = reader.resolve(b"/a", true).unwrap().unwrap();
    assert!(reader.read_file(&file, 2 << 20).unwrap() == data);
}

#[test]
fn limits_bound_the_merged_file_system() {
    let layers = [layer(&Archive::default().file("a", b"").file("b", b"").end())];
    let merge = |limits| {
        merge_layers(&layers, &tempfile::tempfile().unwrap(), &limits).map_err(
            |error| match error {
                MergeError::TooLarge(error) => error,
                other => panic!("{other:?}"),
            },
        )
    };
    let entries = merge(Limits { entries: 1, ..Limits::default() });
    assert_eq!(entries, Err(LimitError::Entries(1)));
    let metadata = merge(Limits { metadata_bytes: 4095, ..Limits::default() });
    assert_eq!(metadata, Err(LimitError::MetadataBytes(4095)));
}

#[test]
fn data_outside_of_the_blob_is_refused() {
    let blob = layer(&Archive::default().file("a", &[1; 5000]).end());
    // The file's data would begin in the blob and end behind it.
    blob.set_len(blob.metadata().unwrap().len() / 4096 * 4096).unwrap();
    let mut bytes = vec![0; usize::try_from(blob.metadata().unwrap().len()).unwrap()];
    std::os::unix::fs::FileExt::read_exact_at(&blob, &mut bytes, 0).unwrap();
    let inode = {
        let reader = Reader::open(bytes.clone()).unwrap();
        let nid = reader.resolve(b"a", true).unwrap().unwrap().nid();
        let meta = u32::from_le_bytes(bytes[1024 + 40..][..4].try_into().unwrap());
        meta as usize * 4096 + usize::try_from(nid).unwrap() * 32
    };
    let last_block = u32::try_from(bytes.len() / 4096 - 1).unwrap();
    bytes[inode + 16..][..4].copy_from_slice(&last_block.to_le_bytes());
    let error = merge_layers(&[bytes], &tempfile::tempfile().unwrap(), &Limits::default());
    match error.unwrap_err() {
        MergeError::Layer { index: 0, source: ReadError::Corrupt { .. } } => {}
        other => panic!("{other:?}"),
    }
}

/// A layer of few names, so that layers meet; it describes each directory.
fn random_layer(random: &mut Random) -> Archive {
    let mut archive = Archive::default().directory("./");
    // Directories and other files of this layer.
    let mut known = BTreeMap::from([(String::new(), true)]);
    for _ in 0..40 {
        let directories: Vec<&String> = known.keys().filter(|path| known[*path]).collect();
        let parent = directories[random.below(directories.len())].clone();
        let name = ["a", "b", "c", "dd", "-e"][random.below(5)];
        let path = format!("{parent}{name}");
        let header = Header {
            mode: u32::try_from(random.below(0o10000)).unwrap(),
            uid: u32::try_from(random.below(100_000)).unwrap(),
            gid: u32::try_from(random.below(3)).unwrap(),
            mtime: random.next() >> 34,
            ..Header::new(b'0')
        };
        let is_known = known.contains_key(&path) || known.contains_key(&format!("{path}/"));
        let kind = random.below(8);
        if is_known && kind != 0 || parent.len() > 12 {
            continue;
        }
        archive = match kind {
            // overlayfs heeds no layer's root being opaque.
            0 if parent.is_empty() => archive,
            0 => archive.whiteout(&format!("{parent}.wh..wh..opq")),
            1 => archive.whiteout(&format!("{parent}.wh.{name}")),
            2 => archive.symlink(&path, name),
            3 => archive.entry(path.as_bytes(), &Header { kind: b'6', ..header }, b""),
            4 | 5 => {
                let xattr = [("SCHILY.xattr.trusted.overlay.opaque", &b"y"[..])];
                let header = Header { kind: b'5', ..header };
                known.insert(format!("{path}/"), true);
                archive.pax(&xattr[..random.below(2)]).entry(path.as_bytes(), &header, b"")
            }
            _ => {
                let len = random.below(10_000);
                archive.entry(path.as_bytes(), &header, &random.bytes(len))
            }
        };
        if kind > 0 {
            known.entry(path).or_insert(false);
        }
    }
    archive
}

/// What overlayfs changes: numbers of links, of inodes.
fn without_links(mut listing: Listing) -> Listing {
    for description in listing.values_mut() {
        (description.links, description.first_name) = (0, Vec::new());
    }
    listing
}

#[test]
fn random_layers_merge_as_overlayfs_shows_them() {
    for seed in 0..12 {
        let mut random = Random(seed);
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let count = 2 + random.below(3);
        let layers: Vec<_> = (0..count).map(|_| layer(&random_layer(&mut random).end())).collect();
        let mut mounted = Vec::new();
        for (index, layer) in layers.iter().enumerate() {
            save(layer, &path(&format!("{index}.erofs")));
            fsck(&path(&format!("{index}.erofs")));
            let image = path(&format!("{index}.erofs"));
            let Some(mount) = Mounted::erofs(&image, &path(&index.to_string())) else { return };
            mounted.insert(0, mount);
        }
        let (_, disk) = merge(layers);
        save(&disk, &path("disk"));
        fsck(&path("disk"));
        let Some(merged) = Mounted::erofs(&path("disk"), &path("merged")) else { return };
        assert_same(&list_directory(&merged.path), &list(&Reader::open(disk).unwrap()));
        std::fs::create_dir(path("empty")).unwrap();
        let tops: Vec<_> = mounted.iter().map(|mount| &*mount.path).collect();
        let Some(overlay) = Mounted::overlay(&tops, &path("overlay")) else { return };
        let Some(single) = Mounted::overlay(&[&merged.path, &path("empty")], &path("single"))
        else {
            return;
        };
        let expected = without_links(list_directory(&overlay.path));
        assert_same(&without_links(list_directory(&single.path)), &expected);
    }
}
