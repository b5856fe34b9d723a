use std::os::unix::fs::FileExt;
use std::path::Path;

use imago::FormatCreateBuilder;
use tempfile::TempDir;

use super::*;
use crate::disk::conformance::{Rig, create_qcow2, segment};
use crate::disk::create::tests::{have_qemu_img, qemu_img};
use crate::disk::{Cache, Disk, DiskBackend, DiskErrorKind, Engine, IoRequest, create_overlay};

const KIB: u64 = 1 << 10;
/// No whole number of clusters.
const LEN: u64 = 1000 * KIB + 512;

/// A generator of numbers that only have to look random (xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn bytes(&mut self, len: u64) -> Vec<u8> {
        let seed = self.next();
        (0..len).map(|n| (seed.wrapping_add(n).wrapping_mul(31) >> 3) as u8 | 1).collect()
    }
}

/// A disk, and what must be on it.
struct Model {
    options: DiskOptions,
    content: Vec<u8>,
}

impl Model {
    /// A raw image of random content.
    fn raw(directory: &Path, len: u64, random: &mut Random) -> Self {
        let path = directory.join("base.img");
        let content = random.bytes(len);
        std::fs::write(&path, &content).unwrap();
        let options = DiskOptions { format: Some(Format::Raw), ..DiskOptions::new(path) };
        Self { options, content }
    }

    /// A new image of `len` bytes over this one.
    fn over(&self, name: &str, len: u64) -> Self {
        let below = &self.options;
        let path = below.path.with_file_name(name);
        let nearest = BackingFile { path: below.path.clone(), format: below.format.unwrap() };
        create_overlay(&path, len, &nearest).unwrap();
        let mut backing = below.backing.clone();
        backing.insert(0, nearest);
        let options =
            DiskOptions { format: Some(Format::Qcow2), backing, ..DiskOptions::new(path) };
        let mut content = self.content.clone();
        content.resize(len as usize, 0);
        Self { options, content }
    }

    fn open(&self) -> Disk {
        let disk = Disk::open(&self.options).unwrap();
        assert_eq!(disk.len_bytes(), self.content.len() as u64);
        disk
    }

    /// Makes random requests, each of which must do what the model says.
    fn exercise(&mut self, requests: u32, random: &mut Random) {
        let mut rig = Rig::new(&self.open(), false);
        for _ in 0..requests {
            let sectors = self.content.len() as u64 / 512;
            let start = random.below(sectors);
            let len = 1 + random.below((sectors - start).min(400));
            let (offset, len) = (start * 512, len * 512);
            let range = offset as usize..(offset + len) as usize;
            match random.below(8) {
                0..=2 => {
                    let data = random.bytes(len);
                    rig.write(offset, &data);
                    self.content[range].copy_from_slice(&data);
                }
                3 => {
                    let unmap = random.below(2) == 0;
                    rig.run(IoRequest::WriteZeroes { offset, len, unmap }).unwrap();
                    self.content[range].fill(0);
                }
                4 => {
                    rig.run(IoRequest::Discard { offset, len }).unwrap();
                    // What was there, or zeros: nothing from below.
                    let now = rig.read(offset, len as usize);
                    let was = &self.content[range.clone()];
                    assert!(now.iter().zip(was).all(|(now, was)| now == was || *now == 0));
                    self.content[range].copy_from_slice(&now);
                }
                5 => rig.run(IoRequest::Flush).unwrap(),
                _ => {
                    assert!(rig.read(offset, len as usize) == self.content[range], "{offset}+{len}")
                }
            }
        }
        self.check(&mut rig);
    }

    fn check(&self, rig: &mut Rig) {
        for (chunk, offset) in self.content.chunks(64 << 10).zip((0..).step_by(64 << 10)) {
            assert!(rig.read(offset, chunk.len()) == chunk, "at {offset}");
        }
    }

    /// What the files below hold.
    fn below(&self) -> Vec<Vec<u8>> {
        self.options.backing.iter().map(|file| std::fs::read(&file.path).unwrap()).collect()
    }

    /// Has other software look at the image, if there is any.
    fn check_by_qemu_img(&self) {
        if !have_qemu_img() {
            return;
        }
        qemu_img(&["check".as_ref(), self.options.path.as_os_str()]);
        let copy = self.options.path.with_extension("copy");
        let arguments = ["convert", "-O", "raw"].map(AsRef::as_ref);
        qemu_img(&[&arguments[..], &[self.options.path.as_os_str(), copy.as_os_str()]].concat());
        assert!(std::fs::read(&copy).unwrap() == self.content, "qemu-img reads something else");
    }
}

#[test]
fn random_requests_do_on_overlays_what_they_do_on_one_disk_and_change_nothing_below() {
    for (seed, base_len) in [(1, LEN), (2, LEN / 1024 * 512), (3, LEN + 300 * KIB), (4, 512)] {
        for cache in [Cache::WriteBack, Cache::Direct] {
            let directory = TempDir::new().unwrap();
            let mut random = Random(seed);
            let base_len =
                if cache == Cache::Direct { base_len.next_multiple_of(4096) } else { base_len };
            let len = if cache == Cache::Direct { LEN.next_multiple_of(4096) } else { LEN };
            let mut base = Model::raw(directory.path(), base_len, &mut random);
            base.options.cache = cache;
            let mut middle = base.over("middle.qcow2", len);
            middle.content.truncate(len as usize);
            middle.options.cache = cache;
            for _ in 0..3 {
                middle.exercise(60, &mut random);
            }
            let mut top = middle.over("top.qcow2", len);
            let below = top.below();
            for _ in 0..3 {
                top.exercise(60, &mut random);
            }
            assert!(top.below() == below, "an image below was written");
            top.check(&mut Rig::new(&top.open(), false));
            middle.check(&mut Rig::new(&middle.open(), false));
            top.check_by_qemu_img();
        }
    }
}

#[test]
fn overlay_of_version_2_hides_what_is_below_where_zeros_are_written() {
    let directory = TempDir::new().unwrap();
    let mut random = Random(5);
    let base = Model::raw(directory.path(), LEN, &mut random);
    let mut top = base.over("top.qcow2", LEN);
    let image = File::options().write(true).open(&top.options.path).unwrap();
    image.write_all_at(&2u32.to_be_bytes(), 4).unwrap();
    top.exercise(100, &mut random);
    top.exercise(100, &mut random);
    assert!(std::fs::read(&base.options.path).unwrap() == base.content);
}

#[test]
fn longest_useful_chain_shows_each_layer() {
    let directory = TempDir::new().unwrap();
    let mut top = Model::raw(directory.path(), LEN, &mut Random(6));
    for layer in 1..=16u8 {
        top = top.over(&format!("{layer}.qcow2"), LEN);
        let offset = usize::from(layer) * 4096;
        Rig::new(&top.open(), false).write(offset as u64, &[layer; 512]);
        top.content[offset..offset + 512].fill(layer);
    }
    top.check(&mut Rig::new(&top.open(), false));
    top.check_by_qemu_img();
}

#[test]
fn what_is_below_is_what_the_user_names_whatever_the_header_says() {
    let directory = TempDir::new().unwrap();
    let base = Model::raw(directory.path(), LEN, &mut Random(7));
    let other = TempDir::new().unwrap();
    let mut top = base.over("top.qcow2", LEN);
    top.check(&mut Rig::new(&top.open(), false));
    // Of other content, where the header doesn't point.
    let mut named = Model::raw(other.path(), LEN, &mut Random(8));
    top.options.backing[0].path = named.options.path.clone();
    named.options.path = top.options.path.clone();
    named.options.backing = top.options.backing.clone();
    named.options.format = Some(Format::Qcow2);
    named.check(&mut Rig::new(&named.open(), false));
    // Nothing named: refused by the name in the header.
    top.options.backing.clear();
    let error = Disk::open(&top.options).unwrap_err();
    assert_eq!(error.kind(), DiskErrorKind::OtherFile);
    assert!(error.to_string().contains(base.options.path.to_str().unwrap()), "{error}");
}

#[test]
fn header_with_a_wild_name_opens_nothing_of_that_name() {
    let directory = TempDir::new().unwrap();
    let base = Model::raw(directory.path(), LEN, &mut Random(9));
    for name in ["/dev/zero", "json:{\"driver\":\"file\"}", "../../../etc/passwd", "nbd://x", ""] {
        let path = directory.path().join("wild.qcow2");
        std::fs::write(&path, []).unwrap();
        create_qcow2(&path, |builder| builder.size(LEN).backing(name.to_owned(), "raw".to_owned()));
        let nearest = BackingFile { path: base.options.path.clone(), format: Format::Raw };
        let options = DiskOptions { format: Some(Format::Qcow2), ..DiskOptions::new(&path) };
        let error = Disk::open(&options).unwrap_err();
        assert_eq!(error.kind(), DiskErrorKind::OtherFile, "{name:?}: {error}");
        let options = DiskOptions { backing: vec![nearest], ..options };
        let model = Model { options, content: base.content.clone() };
        model.check(&mut Rig::new(&model.open(), false));
    }
    // A name that is said to lie outside the header, or to be too long.
    let path = directory.path().join("wild.qcow2");
    for (offset, value) in [(12, u32::MAX), (16, 1024), (16, u32::MAX)] {
        let broken = directory.path().join("broken.qcow2");
        std::fs::copy(&path, &broken).unwrap();
        let file = File::options().write(true).open(&broken).unwrap();
        file.write_all_at(&1000u64.to_be_bytes(), 8).unwrap();
        file.write_all_at(&u32::to_be_bytes(value), offset).unwrap();
        let nearest = BackingFile { path: base.options.path.clone(), format: Format::Raw };
        let options = DiskOptions { backing: vec![nearest], ..DiskOptions::new(&broken) };
        assert_eq!(Disk::open(&options).unwrap_err().kind(), DiskErrorKind::Format);
    }
}

#[test]
fn file_that_is_in_a_chain_twice_is_refused_under_whatever_name() {
    let directory = TempDir::new().unwrap();
    let base = Model::raw(directory.path(), LEN, &mut Random(10));
    let middle = base.over("middle.qcow2", LEN);
    let top = middle.over("top.qcow2", LEN);
    let alias = directory.path().join("alias");
    for (target, twice) in [(&middle, "of the chain"), (&top, "the image itself")] {
        let _ = std::fs::remove_file(&alias);
        std::os::unix::fs::symlink(&target.options.path, &alias).unwrap();
        let mut options = top.options.clone();
        options.backing.insert(1, BackingFile { path: alias.clone(), format: Format::Qcow2 });
        let error = Disk::open(&options).unwrap_err();
        assert_eq!((error.kind(), error.path()), (DiskErrorKind::Repeated, &*alias), "{twice}");
    }
    top.open();
}

#[test]
fn images_below_are_shared_by_readers_and_kept_from_writers() {
    let directory = TempDir::new().unwrap();
    let base = Model::raw(directory.path(), LEN, &mut Random(11));
    let writer = base.open();
    let (first, second) = (base.over("1.qcow2", LEN), base.over("2.qcow2", LEN));
    let error = Disk::open(&first.options).unwrap_err();
    assert_eq!((error.kind(), error.path()), (DiskErrorKind::InUse, &*base.options.path));
    // The writer stops writing, and only that.
    writer.freeze().unwrap();
    let disks = [first.open(), second.open()];
    assert!(writer.thaw().is_err());
    drop(writer);
    assert_eq!(Disk::open(&base.options).unwrap_err().kind(), DiskErrorKind::InUse);
    let reading = DiskOptions { read_only: true, ..base.options.clone() };
    drop((disks, Disk::open(&reading).unwrap()));
    base.open();
}

#[test]
fn frozen_qcow2_image_is_complete_and_isnt_written_when_it_is_closed() {
    let directory = TempDir::new().unwrap();
    let mut base = Model::raw(directory.path(), LEN, &mut Random(12)).over("base.qcow2", LEN);
    let disk = base.open();
    let mut rig = Rig::new(&disk, false);
    rig.write(4096, &[0xee; 8192]);
    base.content[4096..4096 + 8192].fill(0xee);
    // No flush: what was written is known to this process only.
    disk.freeze().unwrap();
    let frozen = std::fs::read(&base.options.path).unwrap();
    let top = base.over("top.qcow2", LEN);
    let mut reader = Rig::new(&top.open(), false);
    top.check(&mut reader);
    reader.write(0, &[0xdd; 512]);
    drop((rig, disk, reader));
    assert!(std::fs::read(&base.options.path).unwrap() == frozen, "written after it was frozen");
    base.check_by_qemu_img();
}

#[test]
fn chain_that_cannot_be_is_refused_with_the_image_that_is_to_blame() {
    let directory = TempDir::new().unwrap();
    let base = Model::raw(directory.path(), LEN, &mut Random(13));
    let top = base.over("top.qcow2", LEN);
    let at = |name: &str, format| BackingFile { path: directory.path().join(name), format };
    let make = |name: &str, len: usize| std::fs::write(directory.path().join(name), vec![0; len]);
    make("empty", 0).unwrap();
    make("odd", 513).unwrap();
    make("text", 4096).unwrap();
    for (backing, kind, blamed) in [
        (vec![at("absent", Format::Raw)], DiskErrorKind::NotFound, "absent"),
        (vec![at("", Format::Raw)], DiskErrorKind::NotAnImage, ""),
        (vec![at("empty", Format::Raw)], DiskErrorKind::Empty, "empty"),
        (vec![at("odd", Format::Raw)], DiskErrorKind::Length, "odd"),
        (vec![at("text", Format::Qcow2)], DiskErrorKind::Format, "text"),
        (vec![at("text", Format::Raw), at("base.img", Format::Raw)], DiskErrorKind::Format, "text"),
    ] {
        let error = Disk::open(&DiskOptions { backing, ..top.options.clone() }).unwrap_err();
        let blamed = directory.path().join(blamed);
        assert_eq!((error.kind(), error.path()), (kind, blamed.as_path()), "{error}");
    }
    let backing = vec![at("text", Format::Raw)];
    let error = Disk::open(&DiskOptions { backing, ..base.options.clone() }).unwrap_err();
    assert_eq!(error.kind(), DiskErrorKind::Format);
    let io_uring = DiskOptions { engine: Some(Engine::IoUring), ..top.options.clone() };
    assert_eq!(Disk::open(&io_uring).unwrap_err().kind(), DiskErrorKind::Engine);
    // Nothing stays locked.
    base.open();
    top.open();
}

#[test]
fn image_below_that_is_cut_short_fails_reads_and_nothing_else() {
    let directory = TempDir::new().unwrap();
    let base = Model::raw(directory.path(), LEN, &mut Random(14));
    let top = base.over("top.qcow2", LEN);
    let mut rig = Rig::new(&top.open(), false);
    File::options().write(true).open(&base.options.path).unwrap().set_len(4096).unwrap();
    let buffers = [segment(0x10_0000, 512)];
    let outcome = rig.run(IoRequest::Read { offset: 512 * KIB, buffers: &buffers });
    // Whatever it answers, it's an answer; what is there can still be read.
    let _ = outcome;
    assert_eq!(rig.read(0, 4096), base.content[..4096]);
}
