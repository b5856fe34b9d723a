//! Who may do what: owners, modes, read-only shares.

use std::os::unix::fs::PermissionsExt;

use rustix::fs::XattrFlags;

use super::libc_flags::*;
use super::*;
use crate::virtio::fs::server::{FileServer, Owners};

fn mode_of(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn new_files_have_the_mode_that_the_guest_chose_whatever_the_umask() {
    let mut rig = Rig::new();
    for mode in [0o600, 0o666, 0o777, 0o4755] {
        rig.create(RW, c"f", mode).unwrap();
        assert_eq!(mode_of(&rig.host("f")), mode);
        rig.unlink(RW, c"f").unwrap();
        let made = rig.mkdir(RW, c"d", mode & 0o777).unwrap();
        assert_eq!(made.attr.mode & 0o7777, mode & 0o777);
        rig.rmdir(RW, c"d").unwrap();
    }
    let fifo = rig.mknod(RW, c"fifo", S_IFIFO | 0o622).unwrap();
    assert_eq!(fifo.attr.mode, S_IFIFO | 0o622);
    let change = SetattrIn { valid: set::MODE, mode: 0o640, ..SetattrIn::default() };
    assert_eq!(rig.set(fifo.nodeid, change).unwrap().mode, S_IFIFO | 0o640);
}

#[test]
fn new_files_belong_to_whoever_made_them() {
    if !is_root() {
        return;
    }
    let mut rig = Rig::new();
    (rig.uid, rig.gid) = (1234, 2345);
    let file = rig.create(RW, c"f", 0o4755).unwrap().0;
    assert_eq!(file.attr.mode & 0o7777, 0o4755);
    let directory = rig.mkdir(RW, c"d", 0o755).unwrap();
    let link = rig.symlink(RW, c"l", c"f").unwrap();
    let fifo = rig.mknod(RW, c"fifo", S_IFIFO | 0o644).unwrap();
    for (entry, name) in [(file, "f"), (directory, "d"), (link, "l"), (fifo, "fifo")] {
        let host = std::fs::symlink_metadata(rig.host(name)).unwrap();
        assert_eq!((host.uid(), host.gid()), (1234, 2345), "{name}");
        assert_eq!((entry.attr.uid, entry.attr.gid), (1234, 2345), "{name}");
    }
    let owner = SetattrIn { valid: set::UID, uid: 77, gid: 78, ..SetattrIn::default() };
    let attr = rig.set(file.nodeid, owner).unwrap();
    assert_eq!((attr.uid, attr.gid, attr.mode & 0o7000), (77, 2345, 0));
    let attr = rig.set(link.nodeid, SetattrIn { valid: set::GID, ..owner }).unwrap();
    assert_eq!((attr.uid, attr.gid), (1234, 78));
    assert_eq!(std::fs::metadata(rig.host("f")).unwrap().gid(), 2345);
}

#[test]
fn group_of_a_directory_with_the_bit_is_handed_down() {
    if !is_root() {
        return;
    }
    let mut rig = Rig::new();
    let directory = rig.mkdir(RW, c"d", 0o755).unwrap();
    let group =
        SetattrIn { valid: set::GID | set::MODE, gid: 50, mode: 0o2775, ..SetattrIn::default() };
    assert_eq!(rig.set(directory.nodeid, group).unwrap().mode & 0o7777, 0o2775);
    (rig.uid, rig.gid) = (1234, 2345);
    let file = rig.create(directory.nodeid, c"f", 0o644).unwrap().0;
    assert_eq!((file.attr.uid, file.attr.gid), (1234, 50));
    let below = rig.mkdir(directory.nodeid, c"d", 0o755).unwrap();
    assert_eq!((below.attr.gid, below.attr.mode & 0o7777), (50, 0o2755));
}

#[test]
fn without_root_owners_are_noted_and_files_stay_their_users() {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let directory = tree();
    let shared = open_share(&config(directory.path()).shares[0]).unwrap();
    let owners = Owners::Noted { uid, gid };
    let server = FileServer::new(vec![shared], owners, 128).unwrap();
    let mut rig = Rig::unmounted(directory, Fs::serving("shares", server).unwrap());
    rig.mount();
    (rig.uid, rig.gid) = (0, 0);
    let file = rig.create(RW, c"f", 0o6444).unwrap().0;
    assert_eq!((file.attr.uid, file.attr.gid), (0, 0));
    let host = |rig: &Rig, name| {
        let host = std::fs::symlink_metadata(rig.host(name)).unwrap();
        assert_eq!((host.uid(), host.gid()), (uid, gid));
    };
    host(&rig, "f");
    let owner =
        |uid, gid| SetattrIn { valid: set::UID | set::GID, uid, gid, ..SetattrIn::default() };
    rig.set(file.nodeid, owner(0, 0)).unwrap();
    match rig.set(file.nodeid, owner(7, 8)) {
        Err(Errno::PERM) => return eprintln!("this file system has no attributes to note it in"),
        attr => assert_eq!(attr.map(|it| (it.uid, it.gid, it.mode)), Ok((7, 8, 0o102_444))),
    }
    assert_eq!(rig.attributes(file.nodeid).unwrap().uid, 7);
    assert_eq!(rig.lookup(RW, c"f").unwrap().attr.gid, 8);
    host(&rig, "f");

    // The guest knows nothing of the note, and can't make one.
    let note = b"user.vmctl.owner\0";
    let list = GetxattrIn { size: 100, padding: 0 };
    assert_eq!(rig.ask(opcode::LISTXATTR, file.nodeid, &[list.as_bytes()]).unwrap(), b"");
    let request = SetxattrIn { size: 3, flags: 0 };
    let refused = [
        rig.ask(opcode::GETXATTR, file.nodeid, &[list.as_bytes(), note]),
        rig.ask(opcode::SETXATTR, file.nodeid, &[request.as_bytes(), note, b"0:0"]),
        rig.ask(opcode::REMOVEXATTR, file.nodeid, &[note]),
    ];
    assert!(refused.iter().all(|it| *it == Err(Errno::OPNOTSUPP)), "{refused:?}");

    (rig.uid, rig.gid) = (7, 8);
    let directory = rig.mkdir(RW, c"d", 0o2755).unwrap();
    assert_eq!((directory.attr.uid, directory.attr.gid), (7, 8));
    (rig.uid, rig.gid) = (9, 9);
    let below = rig.create(directory.nodeid, c"f", 0o600).unwrap().0;
    assert_eq!((below.attr.uid, below.attr.gid), (9, 8));
    let link = rig.symlink(RW, c"l", c"f").unwrap();
    assert_eq!(rig.set(link.nodeid, owner(7, 8)).unwrap().uid, 0);
    let fifo = rig.mknod(RW, c"fifo", S_IFIFO | 0o600).unwrap();
    assert_eq!(rig.set(fifo.nodeid, owner(7, 8)).unwrap_err(), Errno::PERM);
    assert_eq!(rig.set(file.nodeid, owner(0, 0)).unwrap().uid, 0);
    for name in ["d", "d/f", "l", "fifo"] {
        host(&rig, name);
    }
    for wrong in ["", ":", "1", "1:", "-1:1", "4294967295:1", "1:2:3", "9999999999:1", "a:b"] {
        let path = rig.host("f");
        rustix::fs::setxattr(&path, "user.vmctl.owner", wrong.as_bytes(), XattrFlags::empty())
            .unwrap();
        assert_eq!(rig.attributes(file.nodeid).unwrap().uid, 0, "{wrong}");
    }
}

#[test]
fn device_nodes_are_not_made() {
    let mut rig = Rig::new();
    for kind in [S_IFCHR, S_IFBLK, 0o040_000, 0o120_000, 0, u32::MAX] {
        assert_eq!(rig.mknod(RW, c"n", kind | 0o666).unwrap_err(), Errno::PERM);
    }
    assert!(!rig.host("n").exists());
    rig.mknod(RW, c"s", S_IFSOCK | 0o600).unwrap();
    rig.mknod(RW, c"f", S_IFREG | 0o600).unwrap();
}

#[test]
fn nothing_that_would_wake_or_wait_is_opened() {
    let mut rig = Rig::new();
    let fifo = rig.mknod(RW, c"fifo", S_IFIFO | 0o600).unwrap();
    let socket = rig.mknod(RW, c"socket", S_IFSOCK | 0o600).unwrap();
    for node in [fifo.nodeid, socket.nodeid] {
        for flags in [O_RDONLY, O_WRONLY, O_RDWR] {
            assert_eq!(rig.open(node, flags).unwrap_err(), Errno::NXIO);
        }
        let size = SetattrIn { valid: set::SIZE, ..SetattrIn::default() };
        assert_eq!(rig.set(node, size).unwrap_err(), Errno::INVAL);
    }
    assert_eq!(rig.create(RW, c"fifo", 0o644).unwrap_err(), Errno::NXIO);
}

#[test]
fn read_only_share_is_read_and_nothing_in_it_changes() {
    let mut rig = Rig::new();
    std::fs::write(rig.host("f"), "text").unwrap();
    std::fs::create_dir(rig.host("d")).unwrap();
    let before = std::fs::metadata(rig.host("f")).unwrap();
    let file = rig.lookup(RO, c"f").unwrap().nodeid;
    let fh = rig.open(file, O_RDONLY).unwrap();
    assert_eq!(rig.read(file, fh, 0, 9).unwrap(), b"text");

    let rofs = Errno::ROFS;
    assert_eq!(rig.write(file, fh, 0, b"x").unwrap_err(), rofs);
    for flags in [O_WRONLY, O_RDWR, O_RDONLY | O_TRUNC, 3] {
        assert_eq!(rig.open(file, flags).unwrap_err(), rofs, "{flags:#o}");
    }
    for valid in [set::MODE, set::SIZE, set::SIZE | set::FH, set::MTIME_NOW, set::UID, 0] {
        let change = SetattrIn { valid, fh, ..SetattrIn::default() };
        assert_eq!(rig.set(file, change).unwrap_err(), rofs);
    }
    assert_eq!(rig.create(RO, c"new", 0o644).unwrap_err(), rofs);
    assert_eq!(rig.create(RO, c"f", 0o644).unwrap_err(), rofs);
    assert_eq!(rig.mkdir(RO, c"new", 0o755).unwrap_err(), rofs);
    assert_eq!(rig.mknod(RO, c"new", S_IFREG).unwrap_err(), rofs);
    assert_eq!(rig.symlink(RO, c"new", c"f").unwrap_err(), rofs);
    assert_eq!(rig.link(file, RO, c"new").unwrap_err(), rofs);
    assert_eq!(rig.link(file, RW, c"new").unwrap_err(), rofs);
    assert_eq!(rig.unlink(RO, c"f").unwrap_err(), rofs);
    assert_eq!(rig.rmdir(RO, c"d").unwrap_err(), rofs);
    assert_eq!(rig.rename((RO, c"f"), (RO, c"g"), 0).unwrap_err(), rofs);
    assert_eq!(rig.rename((RO, c"f"), (RW, c"g"), 0).unwrap_err(), rofs);
    assert_eq!(rig.rename((RW, c"f"), (RO, c"g"), 0).unwrap_err(), rofs);
    let allocate = FallocateIn { fh, length: 4096, ..FallocateIn::default() };
    let refused = rig.ask(opcode::FALLOCATE, file, &[allocate.as_bytes()]);
    assert_eq!(refused.unwrap_err(), rofs);
    let copy =
        CopyFileRangeIn { fh_in: fh, nodeid_out: file, fh_out: fh, len: 4, ..Default::default() };
    let refused = rig.ask(opcode::COPY_FILE_RANGE, file, &[copy.as_bytes()]);
    assert_eq!(refused.unwrap_err(), rofs);
    let xattr = SetxattrIn { size: 1, flags: 0 };
    let refused = rig.ask(opcode::SETXATTR, file, &[xattr.as_bytes(), b"user.a\0x"]);
    assert_eq!(refused.unwrap_err(), rofs);
    let refused = rig.ask(opcode::REMOVEXATTR, file, &[b"user.a\0"]);
    assert_eq!(refused.unwrap_err(), rofs);

    let after = std::fs::metadata(rig.host("f")).unwrap();
    assert_eq!((before.ctime_nsec(), before.ctime()), (after.ctime_nsec(), after.ctime()));
    assert_eq!(std::fs::read_dir(rig.host("")).unwrap().count(), 2);
}

#[test]
fn ordinary_user_s_write_takes_set_id_bits() {
    let mut rig = Rig::new();
    let (file, fh) = rig.create(RW, c"f", 0o6755).unwrap();
    let node = file.nodeid;
    rig.write(node, fh, 0, b"x").unwrap();
    assert_eq!(mode_of(&rig.host("f")), 0o6755, "the guest's root may keep them");
    let kill = WriteIn { fh, size: 1, write_flags: WRITE_KILL_SUIDGID, ..WriteIn::default() };
    rig.ask(opcode::WRITE, node, &[kill.as_bytes(), b"y"]).unwrap();
    assert_eq!(mode_of(&rig.host("f")), 0o755);
    let bits = SetattrIn { valid: set::MODE, mode: 0o4755, ..SetattrIn::default() };
    rig.set(node, bits).unwrap();
    let valid = set::SIZE | set::KILL_SUIDGID;
    rig.set(node, SetattrIn { valid, ..SetattrIn::default() }).unwrap();
    assert_eq!(mode_of(&rig.host("f")), 0o755);
    rig.set(node, bits).unwrap();
    let open = OpenIn { flags: O_RDWR | O_TRUNC, open_flags: OPEN_KILL_SUIDGID };
    rig.ask(opcode::OPEN, node, &[open.as_bytes()]).unwrap();
    assert_eq!(mode_of(&rig.host("f")), 0o755);
}

#[test]
fn guest_has_its_own_attributes_and_no_part_in_others() {
    let mut rig = Rig::new();
    let node = rig.create(RW, c"f", 0o644).unwrap().0.nodeid;
    let set = |rig: &mut Rig, name: &[u8], value: &[u8], flags| {
        let request = SetxattrIn { size: value.len() as u32, flags };
        rig.ask(opcode::SETXATTR, node, &[request.as_bytes(), name, b"\0", value]).map(drop)
    };
    let get = |rig: &mut Rig, name: &[u8], size| {
        let request = GetxattrIn { size, padding: 0 };
        rig.ask(opcode::GETXATTR, node, &[request.as_bytes(), name, b"\0"])
    };
    match set(&mut rig, b"user.a", b"value", 0) {
        Err(Errno::OPNOTSUPP) => return eprintln!("this file system has no such attributes"),
        result => result.unwrap(),
    }
    assert_eq!(set(&mut rig, b"user.a", b"other", 1).unwrap_err(), Errno::EXIST);
    assert_eq!(set(&mut rig, b"user.a", b"other", 8).unwrap_err(), Errno::INVAL);
    set(&mut rig, b"user.empty", b"", 0).unwrap();
    assert_eq!(get(&mut rig, b"user.a", 0).unwrap()[..4], [5, 0, 0, 0]);
    assert_eq!(get(&mut rig, b"user.a", 100).unwrap(), b"value");
    assert_eq!(get(&mut rig, b"user.a", 4).unwrap_err(), Errno::RANGE);
    assert_eq!(get(&mut rig, b"user.none", 4).unwrap_err(), Errno::NODATA);
    assert_eq!(get(&mut rig, b"security.capability", 64).unwrap_err(), Errno::NODATA);
    for name in ["security.capability", "security.selinux", "trusted.overlay.opaque", "system.x"] {
        let refused = set(&mut rig, name.as_bytes(), b"x", 0);
        assert_eq!(refused.unwrap_err(), Errno::OPNOTSUPP, "{name}");
        let refused = rig.ask(opcode::REMOVEXATTR, node, &[name.as_bytes(), b"\0"]);
        assert_eq!(refused.unwrap_err(), Errno::OPNOTSUPP, "{name}");
    }
    assert_eq!(get(&mut rig, b"trusted.x", 9).unwrap_err(), Errno::OPNOTSUPP);
    let list = GetxattrIn { size: 100, padding: 0 };
    let names = rig.ask(opcode::LISTXATTR, node, &[list.as_bytes()]).unwrap();
    let mut names: Vec<_> = names.split(|byte| *byte == 0).collect();
    names.sort_unstable();
    assert_eq!(names, [&b""[..], b"user.a", b"user.empty"]);
    rig.ask(opcode::REMOVEXATTR, node, &[b"user.a\0"]).unwrap();
    assert_eq!(get(&mut rig, b"user.a", 9).unwrap_err(), Errno::NODATA);
}
