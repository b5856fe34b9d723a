use tempfile::TempDir;

use crate::disk::conformance::{Rig, create_concat, segment};
use crate::disk::{Disk, DiskBackend, DiskErrorKind, DiskOptions, Engine, Format, IoRequest};

#[test]
fn file_cut_short_behind_the_disks_back_fails_reads_of_its_own_part_only() {
    for engine in [Engine::Sync, Engine::IoUring] {
        let directory = TempDir::new().unwrap();
        let (files, options) = create_concat(directory.path(), &[8192, 8192, 8192]);
        let options = DiskOptions { engine: Some(engine), ..options };
        let mut rig = Rig::new(&Disk::open(&options).unwrap(), false);
        files[1].as_file().set_len(4096).unwrap();
        let mut read = |offset, len| {
            rig.run(IoRequest::Read { offset, buffers: &[segment(0x8000, len)] })
                .map_err(|error| error.kind())
        };
        let cut = Err(std::io::ErrorKind::UnexpectedEof);
        assert_eq!(read(0, 12288), Ok(()), "{engine:?}");
        assert_eq!(read(0, 16384), cut, "{engine:?}");
        assert_eq!(read(12288, 4096), cut, "{engine:?}");
        assert_eq!(read(12288, 8192), cut, "{engine:?}");
        assert_eq!(read(16384, 8192), Ok(()), "{engine:?}");
    }
}

#[test]
fn wrong_file_is_named() {
    let directory = TempDir::new().unwrap();
    let odd = |len: u64| {
        let (files, options) = create_concat(directory.path(), &[4096, 4096, len]);
        let error = Disk::open(&options).unwrap_err();
        assert_eq!(error.path(), files[2].path());
        error.kind()
    };
    assert_eq!(odd(0), DiskErrorKind::Empty);
    assert_eq!(odd(513), DiskErrorKind::Length);
    let (_files, mut options) = create_concat(directory.path(), &[4096, 4096]);
    options.concat.push(directory.path().join("absent"));
    assert_eq!(Disk::open(&options).unwrap_err().kind(), DiskErrorKind::NotFound);
    options.concat[1] = directory.path().to_owned();
    assert_eq!(Disk::open(&options).unwrap_err().kind(), DiskErrorKind::NotAnImage);
}

#[test]
fn only_raw_disks_that_are_read_go_on_in_further_files() {
    let directory = TempDir::new().unwrap();
    let (_files, options) = create_concat(directory.path(), &[4096, 4096]);
    let writable = DiskOptions { read_only: false, ..options.clone() };
    assert_eq!(Disk::open(&writable).unwrap_err().kind(), DiskErrorKind::Format);
    let qcow2 = DiskOptions { format: Some(Format::Qcow2), ..options };
    assert_eq!(Disk::open(&qcow2).unwrap_err().kind(), DiskErrorKind::Format);
}

#[test]
fn files_of_a_disk_are_shared_with_readers_and_kept_from_writers() {
    let directory = TempDir::new().unwrap();
    let (files, mut options) = create_concat(directory.path(), &[4096, 8192]);
    // Layers repeat: an image may have the same one twice.
    options.concat.push(files[1].path().to_owned());
    let disk = Disk::open(&options).unwrap();
    assert_eq!(disk.len_bytes(), 4096 + 2 * 8192);
    let second = Disk::open(&options).unwrap();
    let writer = DiskOptions::new(files[1].path());
    assert_eq!(Disk::open(&writer).unwrap_err().kind(), DiskErrorKind::InUse);
    drop((disk, second));
    Disk::open(&writer).unwrap();
}

#[test]
fn guest_is_told_no_larger_block_than_every_file_starts_at() {
    let directory = TempDir::new().unwrap();
    let physical = |lens: &[u64]| {
        let (_files, options) = create_concat(directory.path(), lens);
        Disk::open(&options).unwrap().physical_block_size()
    };
    assert_eq!(physical(&[4096, 512]), physical(&[4096]));
    assert_eq!(physical(&[512, 4096]), 512);
    assert_eq!(physical(&[1024, 4096]), 1024);
}
