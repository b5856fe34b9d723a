//! Guests that don't keep to the rules. Nothing of the host's is harmed, and the queue goes on.

use super::libc_flags::*;
use super::*;

/// What is sure to work if the server is well.
fn is_well(rig: &mut Rig) {
    assert_eq!(rig.lookup(ROOT, c"0").unwrap().nodeid, RW);
    assert!(!rig.requests.needs_reset());
}

#[test]
fn nothing_is_answered_before_the_protocol_is_agreed_on() {
    let directory = tree();
    let fs = Fs::new(&config(directory.path())).unwrap();
    let mut rig = Rig::unmounted(directory, fs);
    assert_eq!(rig.lookup(ROOT, c"0").unwrap_err(), Errno::IO);
    let init = |rig: &mut Rig, major, minor| {
        let request = InitIn { major, minor, flags: u32::MAX, ..InitIn::default() };
        rig.ask_for::<InitOut>(opcode::INIT, 0, &[request.as_bytes()])
    };
    assert_eq!(init(&mut rig, 7, 30).unwrap_err(), Errno::PROTO);
    assert_eq!(init(&mut rig, 6, 99).unwrap_err(), Errno::PROTO);
    assert_eq!(init(&mut rig, 8, 0).unwrap().major, 7);
    assert_eq!(rig.lookup(ROOT, c"0").unwrap_err(), Errno::IO);
    let agreed = init(&mut rig, 7, 31).unwrap();
    assert_eq!((agreed.max_write, agreed.max_pages), (1 << 20, 256));
    assert_eq!(agreed.flags & 1 << 16, 0, "writes aren't kept back");
    is_well(&mut rig);
}

#[test]
fn numbers_and_handles_that_were_not_given_are_refused() {
    let mut rig = Rig::new();
    let (file, fh) = rig.create(RW, c"f", 0o644).unwrap();
    let (other, other_fh) = rig.create(RW, c"g", 0o644).unwrap();
    for node in [0, 100, u64::MAX, file.nodeid ^ 1 << 40] {
        for result in [
            rig.lookup(node, c"f").map(drop),
            rig.attributes(node).map(drop),
            rig.set(node, SetattrIn::default()).map(drop),
            rig.open(node, O_RDWR).map(drop),
            rig.mkdir(node, c"d", 0).map(drop),
            rig.link(node, RW, c"h").map(drop),
            rig.rename((RW, c"f"), (node, c"f"), 0),
            rig.ask(opcode::STATFS, node, &[]).map(drop),
            rig.ask(opcode::READLINK, node, &[]).map(drop),
            rig.ask(opcode::OPENDIR, node, &[]).map(drop),
        ] {
            assert!(matches!(result, Err(Errno::STALE)), "{node} {result:?}");
        }
        assert_eq!(rig.read(node, fh, 0, 1).unwrap_err(), Errno::BADF);
    }
    for fh in [0, 99, u64::MAX, other_fh] {
        assert_eq!(rig.read(file.nodeid, fh, 0, 1).unwrap_err(), Errno::BADF);
        assert_eq!(rig.write(file.nodeid, fh, 0, b"x").unwrap_err(), Errno::BADF);
        assert_eq!(rig.release(file.nodeid, fh).unwrap_err(), Errno::BADF);
        let list = ReadIn { fh, size: 4096, ..ReadIn::default() };
        assert_eq!(rig.ask(opcode::READDIR, RW, &[list.as_bytes()]), Err(Errno::BADF));
    }
    // A file isn't a directory, nor the other way round.
    let list = ReadIn { fh, size: 4096, ..ReadIn::default() };
    assert_eq!(rig.ask(opcode::READDIR, file.nodeid, &[list.as_bytes()]), Err(Errno::NOTDIR));
    let out: OpenOut = rig.ask_for(opcode::OPENDIR, RW, &[]).unwrap();
    assert_eq!(rig.read(RW, out.fh, 0, 1).unwrap_err(), Errno::ISDIR);
    assert_eq!(rig.open(RW, O_RDONLY).unwrap_err(), Errno::ISDIR);
    // What was forgotten isn't given to anybody else, but what's open on it stays.
    rig.forget(file.nodeid, 1);
    assert_eq!(rig.attributes(file.nodeid).unwrap_err(), Errno::STALE);
    assert_eq!(rig.read(file.nodeid, fh, 0, 1).unwrap(), b"");
    let again = rig.lookup(RW, c"f").unwrap();
    assert!(again.nodeid > other.nodeid);
    // Roots can't be forgotten.
    rig.forget(RW, u64::MAX);
    rig.forget(ROOT, u64::MAX);
    rig.forget(77, u64::MAX);
    is_well(&mut rig);
}

#[test]
fn names_that_are_no_names_are_refused_by_everything_that_takes_one() {
    let mut rig = Rig::new();
    std::fs::write(rig.host("f"), "text").unwrap();
    let node = rig.lookup(RW, c"f").unwrap().nodeid;
    let long = [vec![b'a'; 256], vec![0]].concat();
    let long = CStr::from_bytes_with_nul(&long).unwrap();
    for name in [c"", c".", c"..", c"/", c"a/b", c"../outside/secret", c"/etc/passwd", long] {
        let wanted = if name == long { Errno::NAMETOOLONG } else { Errno::INVAL };
        assert_eq!(rig.lookup(RW, name).unwrap_err(), wanted);
        assert_eq!(rig.create(RW, name, 0o644).unwrap_err(), wanted);
        assert_eq!(rig.mkdir(RW, name, 0o755).unwrap_err(), wanted);
        assert_eq!(rig.mknod(RW, name, S_IFREG).unwrap_err(), wanted);
        assert_eq!(rig.symlink(RW, name, c"f").unwrap_err(), wanted);
        assert_eq!(rig.link(node, RW, name).unwrap_err(), wanted);
        assert_eq!(rig.unlink(RW, name).unwrap_err(), wanted);
        assert_eq!(rig.rmdir(RW, name).unwrap_err(), wanted);
        assert_eq!(rig.rename((RW, name), (RW, c"g"), 0).unwrap_err(), wanted);
        assert_eq!(rig.rename((RW, c"f"), (RW, name), 0).unwrap_err(), wanted);
    }
    assert_eq!(rig.ask(opcode::LOOKUP, RW, &[b"no end"]).unwrap_err(), Errno::INVAL);
    assert_eq!(rig.ask(opcode::LOOKUP, RW, &[]).unwrap_err(), Errno::INVAL);
    assert_eq!(rig.ask(opcode::SYMLINK, RW, &[b"name\0target"]).unwrap_err(), Errno::INVAL);
    is_well(&mut rig);
}

#[test]
fn every_operation_survives_arguments_of_any_length() {
    let mut rig = Rig::new();
    let (file, _) = rig.create(RW, c"f", 0o644).unwrap();
    for opcode in (0..60).chain([4096, u32::MAX]) {
        // These say nothing wrong by saying nothing, or end the session.
        if matches!(opcode, opcode::DESTROY | opcode::INIT) {
            continue;
        }
        for len in [0, 1, 4, 7, 8, 15, 16, 23, 39, 40, 55, 56, 87, 88, 200, 5000] {
            for byte in [0, 1, 0x41, 0xff] {
                for node in [ROOT, RO, file.nodeid, 0] {
                    let header = rig.header(opcode, node, len);
                    let answer = rig.send(&header, &vec![byte; len], ROOM);
                    let silent = [opcode::FORGET, opcode::BATCH_FORGET, opcode::INTERRUPT];
                    assert_eq!(answer.is_empty(), silent.contains(&opcode), "{opcode} {len}");
                }
            }
        }
    }
    is_well(&mut rig);
    assert_eq!(std::fs::read_dir(rig.host("")).unwrap().count(), 1);
}

#[test]
fn header_that_lies_about_the_length_is_refused() {
    let mut rig = Rig::new();
    let name = c"0".to_bytes_with_nul();
    for len in [0, 39, 40, 41, 43, 1 << 20, u32::MAX] {
        let mut header = rig.header(opcode::LOOKUP, ROOT, name.len());
        header.len = len;
        let answer = rig.send(&header, name, ROOM);
        let out = OutHeader::read_from_bytes(&answer).unwrap();
        assert_eq!((out.len, out.error), (16, -22), "{len}");
    }
    is_well(&mut rig);
}

#[test]
fn sizes_beyond_what_was_agreed_or_what_is_there_are_refused() {
    let mut rig = Rig::new();
    let (file, fh) = rig.create(RW, c"f", 0o644).unwrap();
    let node = file.nodeid;
    rig.write(node, fh, 0, b"text").unwrap();
    for size in [(1 << 20) + 1, 1 << 31, u32::MAX] {
        assert_eq!(rig.read(node, fh, 0, size).unwrap_err(), Errno::INVAL);
        let request = WriteIn { fh, size, ..WriteIn::default() };
        let refused = rig.ask(opcode::WRITE, node, &[request.as_bytes(), b"x"]);
        assert_eq!(refused.unwrap_err(), Errno::INVAL);
        let xattr = SetxattrIn { size, flags: 0 };
        let refused = rig.ask(opcode::SETXATTR, node, &[xattr.as_bytes(), b"user.a\0x"]);
        assert_eq!(refused.unwrap_err(), Errno::INVAL);
    }
    for size in [0, 2] {
        let request = WriteIn { fh, size, ..WriteIn::default() };
        let refused = rig.ask(opcode::WRITE, node, &[request.as_bytes(), b"x"]);
        assert_eq!(refused.unwrap_err(), Errno::INVAL);
    }
    assert_eq!(rig.read(node, fh, u64::MAX, 1).unwrap_err(), Errno::INVAL);
    assert_eq!(rig.write(node, fh, u64::MAX, b"x").unwrap_err(), Errno::INVAL);
    let size = SetattrIn { valid: set::SIZE, size: u64::MAX, ..SetattrIn::default() };
    assert_eq!(rig.set(node, size).unwrap_err(), Errno::INVAL);
    let huge = vec![b'a'; 80 << 10];
    assert_eq!(rig.ask(opcode::LOOKUP, RW, &[&huge]).unwrap_err(), Errno::TOOBIG);
    let batch = BatchForgetIn { count: u32::MAX, dummy: 0 };
    let header = rig.header(opcode::BATCH_FORGET, 0, 8);
    assert!(rig.send(&header, batch.as_bytes(), 0).is_empty());
    assert_eq!(rig.read(node, fh, 0, 9).unwrap(), b"text");
    is_well(&mut rig);
}

#[test]
fn answer_without_room_is_cut_to_an_error_or_to_nothing() {
    let mut rig = Rig::new();
    let name = c"0".to_bytes_with_nul();
    for (room, expected) in [(0, 0), (15, 0), (16, 16), (143, 16), (144, 144)] {
        let header = rig.header(opcode::LOOKUP, ROOT, name.len());
        let answer = rig.send(&header, name, room);
        assert_eq!(answer.len(), expected, "{room}");
    }
    let (file, fh) = rig.create(RW, c"f", 0o644).unwrap();
    rig.write(file.nodeid, fh, 0, b"text").unwrap();
    let request = ReadIn { fh, size: 4, ..ReadIn::default() };
    for (room, expected) in [(16, 16), (19, 16), (20, 20)] {
        let header = rig.header(opcode::READ, file.nodeid, 40);
        assert_eq!(rig.send(&header, request.as_bytes(), room).len(), expected);
    }
    is_well(&mut rig);
}

#[test]
fn chains_that_are_no_requests_come_back_empty() {
    let mut rig = Rig::new();
    let end = crate::virtio::testing::RAM_SIZE as u64;
    for chain in [
        vec![Buffer::writable(ANSWER, 4096)],
        vec![Buffer::readable(REQUEST, 40)],
        vec![Buffer::readable(REQUEST, 39), Buffer::writable(ANSWER, 4096)],
        vec![Buffer::readable(REQUEST, 0), Buffer::writable(ANSWER, 0)],
        vec![Buffer::writable(ANSWER, 4096), Buffer::readable(REQUEST, 40)],
        vec![Buffer::readable(end - 8, 40), Buffer::writable(ANSWER, 4096)],
        vec![Buffer::readable(REQUEST, 40), Buffer::writable(end - 8, 4096)],
    ] {
        assert_eq!(rig.exchange(&chain), 0);
    }
    is_well(&mut rig);
}

#[test]
fn guest_that_opens_without_end_meets_its_limit_and_the_host_does_not() {
    let mut rig = Rig::new();
    std::fs::write(rig.host("f"), "text").unwrap();
    let node = rig.lookup(RW, c"f").unwrap().nodeid;
    let mut open = Vec::new();
    let refused = loop {
        match rig.open(node, O_RDONLY) {
            Ok(fh) => open.push(fh),
            Err(errno) => break errno,
        }
    };
    assert_eq!((refused, open.len()), (Errno::NFILE, 64));
    assert_eq!(rig.create(RW, c"g", 0o644).unwrap_err(), Errno::NFILE);
    assert!(!rig.host("g").exists());
    rig.release(node, open[0]).unwrap();
    rig.open(node, O_RDONLY).unwrap();
    is_well(&mut rig);
}

#[test]
fn guest_that_knows_more_files_than_may_be_open_finds_them_where_they_were() {
    let mut rig = Rig::new();
    std::fs::create_dir_all(rig.host("d/e")).unwrap();
    let d = rig.lookup(RW, c"d").unwrap().nodeid;
    let e = rig.lookup(d, c"e").unwrap().nodeid;
    let path = |n: usize| format!("d/e/{n}");
    let mut nodes = Vec::new();
    for n in 0..300 {
        std::fs::write(rig.host(&path(n)), vec![0; n]).unwrap();
        let name = std::ffi::CString::new(n.to_string()).unwrap();
        nodes.push(rig.lookup(e, &name).unwrap().nodeid);
    }
    for (n, node) in nodes.iter().enumerate() {
        assert_eq!(rig.attributes(*node).unwrap().size, n as u64);
    }
    // In the guest's eyes or by its doing, a file may move; another in its place is another.
    rig.rename((e, c"0"), (RW, c"moved"), 0).unwrap();
    rig.rename((d, c"e"), (RW, c"e"), 0).unwrap();
    std::fs::remove_file(rig.host("e/1")).unwrap();
    std::fs::write(rig.host("e/1"), "another").unwrap();
    std::os::unix::fs::symlink(rig.directory.path().join("outside/secret"), rig.host("l")).unwrap();
    std::fs::rename(rig.host("l"), rig.host("e/2")).unwrap();
    for node in &nodes[100..] {
        rig.attributes(*node).unwrap();
    }
    assert_eq!(rig.attributes(nodes[0]).unwrap().size, 0);
    assert_eq!(rig.attributes(nodes[1]).unwrap_err(), Errno::STALE);
    assert_eq!(rig.attributes(nodes[2]).unwrap_err(), Errno::STALE);
    assert_eq!(rig.attributes(nodes[3]).unwrap().size, 3);
    assert_eq!(rig.lookup(e, c"1").unwrap().attr.size, 7);
    is_well(&mut rig);
}
