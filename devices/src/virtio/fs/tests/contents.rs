//! What is in files.

use super::libc_flags::*;
use super::*;

#[test]
fn what_the_guest_writes_the_host_reads_and_the_other_way_round() {
    let mut rig = Rig::new();
    let (file, fh) = rig.create(RW, c"f", 0o644).unwrap();
    let node = file.nodeid;
    let data: Vec<u8> = (0..1 << 20).map(|n: u32| (n % 251) as u8).collect();
    assert_eq!(rig.write(node, fh, 100, &data).unwrap(), 1 << 20);
    let stored = std::fs::read(rig.host("f")).unwrap();
    assert!(stored[..100].iter().all(|byte| *byte == 0) && stored[100..] == data);
    assert!(rig.read(node, fh, 100, 1 << 20).unwrap() == data);
    assert_eq!(rig.read(node, fh, 90, 20).unwrap(), stored[90..110]);
    std::fs::write(rig.host("f"), "short").unwrap();
    assert_eq!(rig.read(node, fh, 0, 4096).unwrap(), b"short");
    assert_eq!(rig.read(node, fh, 3, 4096).unwrap(), b"rt");
    assert_eq!(rig.read(node, fh, 5, 4096).unwrap(), b"");
    assert_eq!(rig.read(node, fh, 1 << 40, 4096).unwrap(), b"");
    rig.release(node, fh).unwrap();
    assert_eq!(rig.read(node, fh, 0, 1).unwrap_err(), Errno::BADF);
}

#[test]
fn flags_of_an_open_hold() {
    let mut rig = Rig::new();
    std::fs::write(rig.host("f"), "text").unwrap();
    let node = rig.lookup(RW, c"f").unwrap().nodeid;
    let append = rig.open(node, O_WRONLY | O_APPEND).unwrap();
    rig.write(node, append, 0, b"s").unwrap();
    assert_eq!(std::fs::read(rig.host("f")).unwrap(), b"texts");
    assert_eq!(rig.read(node, append, 0, 1).unwrap_err(), Errno::BADF);
    let reading = rig.open(node, O_RDONLY).unwrap();
    assert_eq!(rig.write(node, reading, 0, b"x").unwrap_err(), Errno::BADF);
    // The guest's own page cache is past it, and not the host's: any alignment works.
    let direct = rig.open(node, O_RDWR | 0o40_000).unwrap();
    assert_eq!(rig.read(node, direct, 1, 3).unwrap(), b"ext");
    let truncating = rig.open(node, O_WRONLY | O_TRUNC).unwrap();
    assert_eq!(rig.attributes(node).unwrap().size, 0);
    rig.release(node, truncating).unwrap();
    let exclusive = rig.create_with(RW, c"f", 0o644, O_RDWR | O_EXCL);
    assert_eq!(exclusive.unwrap_err(), Errno::EXIST);
    let (found, fh) = rig.create(RW, c"f", 0o600).unwrap();
    assert_eq!(found.nodeid, node);
    rig.write(node, fh, 0, b"again").unwrap();
    assert_eq!(rig.attributes(node).unwrap().mode & 0o777, 0o644);
}

#[test]
fn unlinked_file_is_there_as_long_as_it_is_open() {
    let mut rig = Rig::new();
    let (file, fh) = rig.create(RW, c"f", 0o644).unwrap();
    let node = file.nodeid;
    rig.write(node, fh, 0, b"text").unwrap();
    rig.unlink(RW, c"f").unwrap();
    assert!(!rig.host("f").exists());
    assert_eq!(rig.read(node, fh, 0, 9).unwrap(), b"text");
    rig.write(node, fh, 4, b"s").unwrap();
    let attr = rig.attributes(node).unwrap();
    assert_eq!((attr.size, attr.nlink), (5, 0));
    let again = rig.open(node, O_RDONLY).unwrap();
    assert_eq!(rig.read(node, again, 0, 9).unwrap(), b"texts");
    let change = SetattrIn { valid: set::SIZE | set::FH, fh, size: 2, ..SetattrIn::default() };
    assert_eq!(rig.set(node, change).unwrap().size, 2);
    // A file of the same name is another.
    let other = rig.create(RW, c"f", 0o644).unwrap().0;
    assert_ne!(other.nodeid, node);
    assert_eq!(other.attr.size, 0);
}

#[test]
fn ranges_are_allocated_punched_and_found() {
    let mut rig = Rig::new();
    let (file, fh) = rig.create(RW, c"f", 0o644).unwrap();
    let node = file.nodeid;
    let allocate = |rig: &mut Rig, mode, offset, length| {
        let request = FallocateIn { fh, offset, length, mode, padding: 0 };
        rig.ask(opcode::FALLOCATE, node, &[request.as_bytes()]).map(drop)
    };
    let seek = |rig: &mut Rig, whence, offset| {
        let request = LseekIn { fh, offset, whence, padding: 0 };
        rig.ask_for(opcode::LSEEK, node, &[request.as_bytes()]).map(|out: LseekOut| out.offset)
    };
    allocate(&mut rig, 0, 0, 64 << 10).unwrap();
    assert_eq!(rig.attributes(node).unwrap().size, 64 << 10);
    rig.write(node, fh, 1 << 20, b"far").unwrap();
    assert!(rig.attributes(node).unwrap().blocks < 1000, "it isn't sparse");
    // Punch: KEEP_SIZE | PUNCH_HOLE.
    allocate(&mut rig, 3, 0, 4096).unwrap();
    assert_eq!(allocate(&mut rig, 8, 0, 4096).unwrap_err(), Errno::OPNOTSUPP);
    assert_eq!(allocate(&mut rig, u32::MAX, 0, 4096).unwrap_err(), Errno::OPNOTSUPP);
    assert_eq!(allocate(&mut rig, 0, u64::MAX, 2).unwrap_err(), Errno::INVAL);
    assert_eq!(seek(&mut rig, 3, 512 << 10).unwrap(), 1 << 20);
    assert_eq!(seek(&mut rig, 4, 1 << 20).unwrap(), (1 << 20) + 3);
    assert_eq!(seek(&mut rig, 3, 2 << 20).unwrap_err(), Errno::NXIO);
    assert_eq!(seek(&mut rig, 0, 0).unwrap_err(), Errno::INVAL);
    assert!(seek(&mut rig, 3, u64::MAX).is_err());
    assert_eq!(rig.read(node, fh, 1 << 20, 9).unwrap(), b"far");
}

#[test]
fn files_are_copied_flushed_and_synced_by_the_host() {
    let mut rig = Rig::new();
    let (from, fh_in) = rig.create(RW, c"from", 0o644).unwrap();
    let (to, fh_out) = rig.create(RW, c"to", 0o644).unwrap();
    rig.write(from.nodeid, fh_in, 0, b"some text").unwrap();
    let mut copy = CopyFileRangeIn {
        fh_in,
        offset_in: 5,
        nodeid_out: to.nodeid,
        fh_out,
        offset_out: 1,
        len: u64::MAX,
        flags: 0,
    };
    let copied: WriteOut =
        rig.ask_for(opcode::COPY_FILE_RANGE, from.nodeid, &[copy.as_bytes()]).unwrap();
    assert_eq!(copied.size, 4);
    assert_eq!(std::fs::read(rig.host("to")).unwrap(), b"\0text");
    copy.flags = 1;
    let refused = rig.ask(opcode::COPY_FILE_RANGE, from.nodeid, &[copy.as_bytes()]);
    assert_eq!(refused.unwrap_err(), Errno::INVAL);
    for fsync_flags in [0, FSYNC_FDATASYNC] {
        let sync = FsyncIn { fh: fh_out, fsync_flags, padding: 0 };
        rig.ask(opcode::FSYNC, to.nodeid, &[sync.as_bytes()]).unwrap();
    }
    rig.ask(opcode::FLUSH, to.nodeid, &[FlushIn::default().as_bytes()]).unwrap();
    let directory: OpenOut =
        rig.ask_for(opcode::OPENDIR, RW, &[OpenIn::default().as_bytes()]).unwrap();
    let sync = FsyncIn { fh: directory.fh, ..FsyncIn::default() };
    rig.ask(opcode::FSYNCDIR, RW, &[sync.as_bytes()]).unwrap();
    let statfs: StatfsOut = rig.ask_for(opcode::STATFS, RW, &[]).unwrap();
    assert!(statfs.blocks > 0 && statfs.namelen == 255);
}

#[test]
fn times_are_set_as_said_or_to_now() {
    let mut rig = Rig::new();
    let node = rig.create(RW, c"f", 0o644).unwrap().0.nodeid;
    let change = SetattrIn {
        valid: set::ATIME | set::MTIME,
        atime: 1_000_000,
        atime_nsec: 7,
        mtime: 2_000_000,
        mtime_nsec: 8,
        ..SetattrIn::default()
    };
    let attr = rig.set(node, change).unwrap();
    assert_eq!((attr.atime, attr.atime_nsec), (1_000_000, 7));
    assert_eq!((attr.mtime, attr.mtime_nsec), (2_000_000, 8));
    let now = SetattrIn { valid: set::MTIME | set::MTIME_NOW, ..change };
    let attr = rig.set(node, now).unwrap();
    assert_eq!(attr.atime, 1_000_000);
    assert!(attr.mtime > 1_700_000_000);
    let impossible = SetattrIn { valid: set::MTIME, mtime_nsec: 2_000_000_000, ..change };
    assert_eq!(rig.set(node, impossible).unwrap_err(), Errno::INVAL);
}
