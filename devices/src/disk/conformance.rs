//! What every engine on every format and in every cache mode does alike.

use std::os::fd::AsRawFd;
use std::path::Path;

use imago::file::File as ImagoFile;
use imago::qcow2::Qcow2;
use imago::{FormatCreateBuilder, Storage, StorageOpenOptions};
use tempfile::{NamedTempFile, TempDir};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::*;
use crate::virtio::Segment;
use crate::virtio::testing::guest_ram;

pub(super) const DISK_LEN: u64 = 2 << 20;
const DEPTH: u16 = 16;

/// Makes an image in `directory`.
pub(super) fn create(directory: &Path, format: Format) -> NamedTempFile {
    let image = NamedTempFile::new_in(directory).unwrap();
    match format {
        Format::Raw => image.as_file().set_len(DISK_LEN).unwrap(),
        Format::Qcow2 => create_qcow2(image.path(), |builder| builder.size(DISK_LEN)),
    }
    image
}

pub(super) type CreateQcow2 = imago::qcow2::Qcow2CreateBuilder<ImagoFile>;

/// Formats an existing file as qcow2.
pub(super) fn create_qcow2(path: &Path, options: impl FnOnce(CreateQcow2) -> CreateQcow2) {
    let storage = ImagoFile::open(StorageOpenOptions::new().filename(path).write(true)).unwrap();
    options(Qcow2::create_builder(storage)).create().unwrap();
}

/// One engine on guest memory, used as a queue's worker does.
pub(super) struct Rig {
    pub(super) memory: GuestRam,
    engine: Box<dyn IoEngine>,
}

impl Rig {
    pub(super) fn new(disk: &Disk, write_through: bool) -> Self {
        let memory = guest_ram();
        let engine = disk.start(memory.clone(), DEPTH, write_through).unwrap();
        Self { memory, engine }
    }

    /// Waits for the outcomes of `count` requests, in the order of their tokens.
    fn finish(&mut self, count: usize) -> Vec<Completion> {
        self.engine.kick().unwrap();
        let mut done = Vec::new();
        self.engine.reap(&mut done).unwrap();
        while done.len() < count {
            let event = self.engine.completed().expect("requests got lost");
            let epoll = Epoll::new().unwrap();
            let wanted = EpollEvent::new(EventSet::IN, 0);
            epoll.ctl(ControlOperation::Add, event.as_raw_fd(), wanted).unwrap();
            while epoll.wait(-1, &mut [EpollEvent::default()]).unwrap_or(0) == 0 {}
            event.read().unwrap();
            self.engine.reap(&mut done).unwrap();
        }
        done.sort_by_key(|completion| completion.token);
        done
    }

    pub(super) fn run(&mut self, request: IoRequest<'_>) -> io::Result<()> {
        self.engine.submit(3, request);
        let completion = self.finish(1).remove(0);
        assert_eq!(completion.token, 3);
        completion.outcome
    }

    pub(super) fn read(&mut self, offset: u64, len: usize) -> Vec<u8> {
        let buffers = [segment(0x10_0000, len)];
        self.run(IoRequest::Read { offset, buffers: &buffers }).unwrap();
        let mut data = vec![0; len];
        self.memory.read_slice(&mut data, GuestAddress(0x10_0000)).unwrap();
        data
    }

    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        self.memory.write_slice(data, GuestAddress(0x40_0000)).unwrap();
        let buffers = [segment(0x40_0000, data.len())];
        self.run(IoRequest::Write { offset, buffers: &buffers }).unwrap();
    }
}

pub(super) fn segment(address: u64, len: usize) -> Segment {
    Segment { address: GuestAddress(address), len: u32::try_from(len).unwrap() }
}

fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|n| ((n + seed) % 251) as u8).collect()
}

/// Makes an image that the given number of others are below; the lowest is raw.
fn create_over(directory: &Path, format: Format, below: usize) -> Vec<(NamedTempFile, Format)> {
    if below == 0 {
        return vec![(create(directory, format), format)];
    }
    let lower = if below == 1 { Format::Raw } else { Format::Qcow2 };
    let mut chain = create_over(directory, lower, below - 1);
    let image = NamedTempFile::new_in(directory).unwrap();
    let name = chain[0].0.path().to_str().unwrap().to_owned();
    create_qcow2(image.path(), |builder| {
        builder.size(DISK_LEN).backing(name, chain[0].1.to_string())
    });
    chain.insert(0, (image, format));
    chain
}

/// Makes files of these lengths, and the disk that they are one after the other.
pub(super) fn create_concat(directory: &Path, lens: &[u64]) -> (Vec<NamedTempFile>, DiskOptions) {
    let files = Vec::from_iter(lens.iter().map(|&len| {
        let file = NamedTempFile::new_in(directory).unwrap();
        file.as_file().set_len(len).unwrap();
        file
    }));
    let options = DiskOptions {
        format: Some(Format::Raw),
        read_only: true,
        concat: files[1..].iter().map(|file| file.path().to_owned()).collect(),
        ..DiskOptions::new(files[0].path())
    };
    (files, options)
}

/// Runs `check` on a fresh disk for each way to have one, with and without write-through.
fn each(check: impl Fn(&DiskOptions, &mut Rig)) {
    // Not every file system can make zeros without writing them: the shared memory's can't.
    let directories = [TempDir::new().unwrap(), TempDir::new_in("/dev/shm").unwrap()];
    let kinds = [
        (Format::Raw, Engine::Sync, 0),
        (Format::Raw, Engine::IoUring, 0),
        (Format::Qcow2, Engine::Sync, 0),
        (Format::Qcow2, Engine::Sync, 1),
        (Format::Qcow2, Engine::Sync, 2),
    ];
    for directory in &directories {
        for (format, engine, below) in kinds {
            for cache in [Cache::WriteBack, Cache::Direct, Cache::Unsafe] {
                // Before Linux 6.6, tmpfs knows nothing but its page cache.
                if cache == Cache::Direct && directory.path().starts_with("/dev/shm") {
                    continue;
                }
                for write_through in [false, true] {
                    let chain = create_over(directory.path(), format, below);
                    let path = |image: &NamedTempFile| image.path().to_owned();
                    let options = DiskOptions {
                        format: Some(format),
                        engine: Some(engine),
                        cache,
                        backing: chain[1..]
                            .iter()
                            .map(|(image, format)| BackingFile {
                                path: path(image),
                                format: *format,
                            })
                            .collect(),
                        ..DiskOptions::new(path(&chain[0].0))
                    };
                    println!("{options:?}, write through: {write_through}");
                    let disk = Disk::open(&options).unwrap();
                    assert_eq!(disk.len_bytes(), DISK_LEN);
                    check(&options, &mut Rig::new(&disk, write_through));
                }
            }
        }
    }
}

#[test]
fn written_data_is_read_back_also_after_opening_again() {
    each(|options, rig| {
        let data = pattern(12 * 4096, 5);
        rig.write(4096, &data);
        assert_eq!(rig.read(4096, data.len()), data);
        assert_eq!(rig.read(0, 4096), vec![0; 4096]);
        rig.run(IoRequest::Flush).unwrap();
        // A reader beside the writer: past the lock, as the host's tools would be.
        if options.format == Some(Format::Raw) {
            let mut stored = vec![0; data.len()];
            File::open(&options.path).unwrap().read_exact_at(&mut stored, 4096).unwrap();
            assert_eq!(stored, data);
        }
    });
}

#[test]
fn image_keeps_its_data_when_it_is_closed() {
    for format in [Format::Raw, Format::Qcow2] {
        let image = create(&std::env::temp_dir(), format);
        let options = DiskOptions { format: Some(format), ..DiskOptions::new(image.path()) };
        let data = pattern(8192, 1);
        Rig::new(&Disk::open(&options).unwrap(), false).write(512, &data);
        let options = DiskOptions { read_only: true, ..options };
        assert_eq!(Rig::new(&Disk::open(&options).unwrap(), false).read(512, 8192), data);
    }
}

#[test]
fn scattered_buffers_of_any_alignment_hold_what_is_on_the_disk() {
    each(|_, rig| {
        let data = pattern(4096, 9);
        rig.write(8192, &data);
        for parts in [vec![512; 8], vec![1, 511, 3000, 584], vec![4096]] {
            let mut at = 0x20_0003;
            let buffers: Vec<Segment> = parts
                .iter()
                .map(|&len| {
                    at += 8192;
                    segment(at, len)
                })
                .collect();
            rig.run(IoRequest::Read { offset: 8192, buffers: &buffers }).unwrap();
            rig.run(IoRequest::Write { offset: 512 << 10, buffers: &buffers }).unwrap();
            assert_eq!(rig.read(512 << 10, 4096), data, "{parts:?}");
        }
    });
}

#[test]
fn requests_in_flight_together_complete_each_by_its_token() {
    each(|_, rig| {
        rig.write(0, &pattern(DEPTH as usize * 4096, 0));
        for token in 0..DEPTH {
            let buffers = [segment(0x10_0000 + u64::from(token) * 4096, 4096)];
            let offset = u64::from(token) * 4096;
            rig.engine.submit(token, IoRequest::Read { offset, buffers: &buffers });
        }
        let done = rig.finish(usize::from(DEPTH));
        assert!(done.iter().all(|completion| completion.outcome.is_ok()));
        assert_eq!(done.iter().map(|c| c.token).collect::<Vec<_>>(), Vec::from_iter(0..DEPTH));
        let mut read = vec![0; DEPTH as usize * 4096];
        rig.memory.read_slice(&mut read, GuestAddress(0x10_0000)).unwrap();
        assert_eq!(read, pattern(DEPTH as usize * 4096, 0));
    });
}

#[test]
fn zeroed_range_reads_as_zeros_and_its_neighbours_are_kept() {
    each(|_, rig| {
        for unmap in [false, true] {
            rig.write(0, &pattern(256 << 10, 1));
            rig.run(IoRequest::WriteZeroes { offset: 4096, len: 200 << 10, unmap }).unwrap();
            let mut expected = pattern(256 << 10, 1);
            expected[4096..4096 + (200 << 10)].fill(0);
            assert_eq!(rig.read(0, 256 << 10), expected, "unmap: {unmap}");
        }
    });
}

#[test]
fn zeroed_range_may_start_and_end_inside_a_cluster() {
    each(|_, rig| {
        rig.write(0, &pattern(256 << 10, 1));
        let block = 4096;
        for unmap in [false, true] {
            let (offset, len) = (block * 3, block * 30);
            rig.run(IoRequest::WriteZeroes { offset, len, unmap }).unwrap();
            let read = rig.read(0, 256 << 10);
            let (start, end) = (offset as usize, (offset + len) as usize);
            assert!(read[start..end].iter().all(|&byte| byte == 0));
            assert_eq!(read[..start], pattern(256 << 10, 1)[..start]);
            assert_eq!(read[end..], pattern(256 << 10, 1)[end..]);
        }
    });
}

#[test]
fn discard_succeeds_and_keeps_its_neighbours() {
    each(|_, rig| {
        rig.write(0, &pattern(256 << 10, 1));
        rig.run(IoRequest::Discard { offset: 64 << 10, len: 64 << 10 }).unwrap();
        let read = rig.read(0, 256 << 10);
        assert_eq!(read[..64 << 10], pattern(256 << 10, 1)[..64 << 10]);
        assert_eq!(read[128 << 10..], pattern(256 << 10, 1)[128 << 10..]);
    });
}

#[test]
fn request_on_memory_that_is_not_there_fails_alone() {
    each(|_, rig| {
        let outside = [segment(0x4000_0000, 512)];
        assert!(rig.run(IoRequest::Read { offset: 0, buffers: &outside }).is_err());
        assert!(rig.run(IoRequest::Write { offset: 0, buffers: &outside }).is_err());
        assert_eq!(rig.read(0, 4096), vec![0; 4096]);
    });
}

#[test]
fn file_cut_short_behind_the_disks_back_fails_its_reads() {
    for engine in [Engine::Sync, Engine::IoUring] {
        let image = create(&std::env::temp_dir(), Format::Raw);
        let options = DiskOptions { engine: Some(engine), ..DiskOptions::new(image.path()) };
        let disk = Disk::open(&options).unwrap();
        image.as_file().set_len(4096).unwrap();
        let mut rig = Rig::new(&disk, false);
        let buffers = [segment(0x8000, 8192)];
        let failed = rig.run(IoRequest::Read { offset: 0, buffers: &buffers });
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::UnexpectedEof, "{engine:?}");
    }
}

#[test]
fn two_queues_of_a_disk_see_each_others_writes() {
    for format in [Format::Raw, Format::Qcow2] {
        let image = create(&std::env::temp_dir(), format);
        let disk = Disk::open(&DiskOptions::new(image.path())).unwrap();
        assert_eq!(disk.format(), format);
        let (mut first, mut second) = (Rig::new(&disk, false), Rig::new(&disk, false));
        first.write(4096, &[7; 4096]);
        second.run(IoRequest::Discard { offset: 0, len: 4096 }).unwrap();
        assert_eq!(second.read(4096, 4096), [7; 4096]);
    }
}

/// Runs `check` on a read-only disk of [`DISK_LEN`] that holds a pattern, whether it's one file or
/// several, past the page cache or not.
fn each_filled(check: impl Fn(&mut Rig, &[u8])) {
    let directory = TempDir::new().unwrap();
    let content = pattern(DISK_LEN as usize, 3);
    let lens = [
        vec![DISK_LEN],
        vec![4096, DISK_LEN - 4096],
        vec![DISK_LEN - 8192, 4096, 4096],
        vec![8192; DISK_LEN as usize / 8192],
    ];
    for lens in &lens {
        let (files, options) = create_concat(directory.path(), lens);
        let mut rest = content.as_slice();
        for (file, &len) in files.iter().zip(lens) {
            let part = rest.split_off(..len as usize).unwrap();
            file.as_file().write_all_at(part, 0).unwrap();
        }
        for engine in [Engine::Sync, Engine::IoUring] {
            for cache in [Cache::WriteBack, Cache::Direct, Cache::Unsafe] {
                let options = DiskOptions { engine: Some(engine), cache, ..options.clone() };
                println!("{} files, {engine:?}, {cache:?}", files.len());
                let disk = Disk::open(&options).unwrap();
                assert_eq!((disk.len_bytes(), disk.engine()), (DISK_LEN, engine));
                check(&mut Rig::new(&disk, false), &content);
            }
        }
    }
}

#[test]
fn read_only_disk_holds_what_its_files_hold_whatever_the_buffers() {
    each_filled(|rig, content| {
        for (offset, len) in [(0, 512), (0, 64 << 10), (4096 - 512, 1024), (100 << 10, 200 << 10)] {
            assert!(rig.read(offset as u64, len) == content[offset..offset + len]);
        }
        assert!(rig.read(DISK_LEN - 64 * 1024, 64 << 10) == content[content.len() - (64 << 10)..]);
        for parts in [vec![512; 40], vec![1, 511, 3000, 5000, 11968], vec![4096; 5]] {
            let starts = (0u64..).map(|n| 0x20_0003 + n * 0x4000);
            let buffers: Vec<Segment> =
                parts.iter().zip(starts).map(|(&len, at)| segment(at, len)).collect();
            rig.run(IoRequest::Read { offset: 3584, buffers: &buffers }).unwrap();
            let mut read = Vec::new();
            for buffer in &buffers {
                let mut part = vec![0; buffer.len as usize];
                rig.memory.read_slice(&mut part, buffer.address).unwrap();
                read.append(&mut part);
            }
            assert!(read == content[3584..3584 + read.len()], "{parts:?}");
        }
    });
}

#[test]
fn reads_in_flight_together_complete_each_by_its_token_wherever_they_end() {
    each_filled(|rig, content| {
        let len = 20 << 10;
        for token in 0..DEPTH {
            let buffers = [segment(0x10_0000 + u64::from(token) * len, len as usize)];
            let offset = u64::from(token) * (16 << 10);
            rig.engine.submit(token, IoRequest::Read { offset, buffers: &buffers });
        }
        let done = rig.finish(usize::from(DEPTH));
        assert!(done.iter().all(|completion| completion.outcome.is_ok()));
        assert_eq!(done.iter().map(|c| c.token).collect::<Vec<_>>(), Vec::from_iter(0..DEPTH));
        for token in 0..usize::from(DEPTH) {
            let mut read = vec![0; len as usize];
            let address = GuestAddress(0x10_0000 + token as u64 * len);
            rig.memory.read_slice(&mut read, address).unwrap();
            assert!(read == content[token << 14..][..len as usize]);
        }
    });
}

#[test]
fn read_only_disk_refuses_what_would_change_it_and_goes_on() {
    each_filled(|rig, content| {
        let buffers = [segment(0x8000, 8192)];
        rig.run(IoRequest::Write { offset: 0, buffers: &buffers }).unwrap_err();
        rig.run(IoRequest::WriteZeroes { offset: 0, len: 8192, unmap: false }).unwrap_err();
        rig.run(IoRequest::Flush).unwrap();
        let outside = [segment(0x8000, 8192), segment(0x4000_0000, 512)];
        rig.run(IoRequest::Read { offset: 0, buffers: &outside }).unwrap_err();
        assert!(rig.read(0, 16 << 10) == content[..16 << 10]);
    });
}
