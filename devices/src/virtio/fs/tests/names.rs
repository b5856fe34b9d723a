//! Names: what is found by them, and what can't be.

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};

use super::libc_flags::*;
use super::*;

#[test]
fn shares_are_directories_of_the_mounted_one_which_nobody_changes() {
    let mut rig = Rig::new();
    for plus in [false, true] {
        let names: Vec<String> =
            rig.list(ROOT, 4096, plus).unwrap().into_iter().map(|it| it.name).collect();
        assert_eq!(names, [".", "..", "0", "1"]);
    }
    assert_eq!(rig.lookup(ROOT, c"0").unwrap().nodeid, RW);
    assert_eq!(rig.lookup(ROOT, c"1").unwrap().nodeid, RO);
    assert_eq!(rig.lookup(ROOT, c"2").unwrap_err(), Errno::NOENT);
    assert_eq!(rig.attributes(ROOT).unwrap().mode, 0o040_555);
    assert_eq!(rig.mkdir(ROOT, c"d", 0o755).unwrap_err(), Errno::ROFS);
    assert_eq!(rig.create(ROOT, c"f", 0o644).unwrap_err(), Errno::ROFS);
    assert_eq!(rig.rmdir(ROOT, c"0").unwrap_err(), Errno::ROFS);
    assert_eq!(rig.rename((ROOT, c"0"), (ROOT, c"2"), 0).unwrap_err(), Errno::ROFS);
    assert_eq!(rig.rename((RW, c"0"), (ROOT, c"2"), 0).unwrap_err(), Errno::ROFS);
    assert_eq!(rig.set(ROOT, SetattrIn::default()).unwrap_err(), Errno::ROFS);
    assert_eq!(rig.open(ROOT, O_RDONLY).unwrap_err(), Errno::ISDIR);
    let statfs = rig.ask(opcode::STATFS, ROOT, &[]).unwrap();
    assert_eq!(statfs.len(), 80);
}

#[test]
fn shared_file_is_one_entry_and_no_more() {
    let directory = tree();
    let path = directory.path().join("outside/secret");
    let shares = vec![share("hosts", &path, true)];
    let fs = Fs::new(&FsConfig { shares, ..config(directory.path()) }).unwrap();
    let mut rig = Rig::unmounted(directory, fs);
    rig.mount();
    let file = rig.lookup(ROOT, c"hosts").unwrap();
    assert_eq!((file.attr.size, file.attr.mode & 0o170_000), (6, 0o100_000));
    let fh = rig.open(file.nodeid, O_RDONLY).unwrap();
    assert_eq!(rig.read(file.nodeid, fh, 0, 100).unwrap(), b"secret");
    assert_eq!(rig.lookup(file.nodeid, c"x").unwrap_err(), Errno::NOTDIR);
    assert_eq!(rig.open(file.nodeid, O_RDWR).unwrap_err(), Errno::ROFS);
}

#[test]
fn links_are_told_and_never_followed() {
    let mut rig = Rig::new();
    let outside = rig.directory.path().join("outside");
    symlink(&outside, rig.host("dir")).unwrap();
    symlink(outside.join("secret"), rig.host("file")).unwrap();
    symlink(outside.join("new"), rig.host("dangling")).unwrap();
    symlink("../outside/secret", rig.host("relative")).unwrap();
    for (name, target) in [(c"dir", outside.clone()), (c"file", outside.join("secret"))] {
        let link = rig.lookup(RW, name).unwrap();
        assert_eq!(link.attr.mode & 0o170_000, 0o120_000);
        let told = rig.ask(opcode::READLINK, link.nodeid, &[]).unwrap();
        assert_eq!(told, target.as_os_str().as_encoded_bytes());
        assert_eq!(rig.lookup(link.nodeid, c"secret").unwrap_err(), Errno::NOTDIR);
        for flags in [O_RDONLY, O_RDWR, O_RDWR | O_TRUNC] {
            assert_eq!(rig.open(link.nodeid, flags).unwrap_err(), Errno::LOOP);
        }
        assert_eq!(rig.create(link.nodeid, c"new", 0o644).unwrap_err(), Errno::NOTDIR);
        let size = SetattrIn { valid: set::SIZE, ..SetattrIn::default() };
        assert_eq!(rig.set(link.nodeid, size).unwrap_err(), Errno::INVAL);
        let chmod = SetattrIn { valid: set::MODE, mode: 0o4777, ..SetattrIn::default() };
        assert_eq!(rig.set(link.nodeid, chmod).unwrap_err(), Errno::OPNOTSUPP);
        let times = SetattrIn { valid: set::MTIME, mtime: 77, ..SetattrIn::default() };
        assert_eq!(rig.set(link.nodeid, times).unwrap().mtime, 77);
        let error = rig.ask(opcode::OPENDIR, link.nodeid, &[OpenIn::default().as_bytes()]);
        assert_eq!(error.unwrap_err(), Errno::NOTDIR);
    }
    assert_eq!(rig.create(RW, c"dangling", 0o644).unwrap_err(), Errno::LOOP);
    assert_eq!(rig.create(RW, c"relative", 0o644).unwrap_err(), Errno::LOOP);
    assert!(!outside.join("new").exists());
    assert_eq!(std::fs::read(outside.join("secret")).unwrap(), b"secret");
    assert_ne!(std::fs::metadata(outside.join("secret")).unwrap().mtime(), 77);
    // A link that the guest makes, to anywhere, is but a link.
    let link = rig.symlink(RW, c"mine", c"/etc/passwd").unwrap();
    assert_eq!(rig.open(link.nodeid, O_RDONLY).unwrap_err(), Errno::LOOP);
    let hard = rig.link(link.nodeid, RW, c"hard").unwrap();
    assert_eq!((hard.nodeid, hard.attr.nlink), (link.nodeid, 2));
    assert_eq!(std::fs::read_link(rig.host("hard")).unwrap(), Path::new("/etc/passwd"));
}

#[test]
fn nothing_outside_is_found_while_a_directory_turns_into_a_link_and_back() {
    let mut rig = Rig::new();
    std::fs::create_dir(rig.host("d")).unwrap();
    std::fs::write(rig.host("d/secret"), "mine").unwrap();
    let outside = rig.directory.path().join("outside");
    symlink(&outside, rig.host("l")).unwrap();
    let stop = AtomicBool::new(false);
    let (one, other) = (rig.host("d"), rig.host("l"));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let exchange = rustix::fs::RenameFlags::EXCHANGE;
            let here = rustix::fs::CWD;
            while !stop.load(Ordering::Relaxed) {
                rustix::fs::renameat_with(here, &one, here, &other, exchange).unwrap();
            }
        });
        let (mut found, mut links) = (0, 0);
        let start = Instant::now();
        while (found < 200 || links < 200) && start.elapsed() < PATIENCE {
            let directory = rig.lookup(RW, c"d").unwrap();
            match rig.lookup(directory.nodeid, c"secret") {
                Ok(file) => {
                    assert_eq!(file.attr.size, 4, "found what is outside");
                    found += 1;
                }
                Err(errno) => {
                    assert_eq!(errno, Errno::NOTDIR);
                    links += 1;
                }
            }
            let _ = rig.create(directory.nodeid, c"new", 0o644);
        }
        stop.store(true, Ordering::Relaxed);
        assert!(found > 0 && links > 0, "{found} {links}");
    });
    assert!(!outside.join("new").exists());
}

#[test]
fn directory_that_is_moved_out_leads_no_further_up() {
    let mut rig = Rig::new();
    std::fs::create_dir_all(rig.host("a/b")).unwrap();
    let a = rig.lookup(RW, c"a").unwrap();
    let b = rig.lookup(a.nodeid, c"b").unwrap();
    let outside = rig.directory.path().join("outside");
    std::fs::rename(rig.host("a/b"), outside.join("b")).unwrap();
    for name in [c"..", c".", c"../secret", c"/", c""] {
        assert_eq!(rig.lookup(b.nodeid, name).unwrap_err(), Errno::INVAL);
    }
    assert_eq!(rig.lookup(a.nodeid, c"b").unwrap_err(), Errno::NOENT);
    let link = rig.link(b.nodeid, RW, c"back").unwrap_err();
    assert_eq!(link, Errno::PERM);
}

#[test]
fn hard_links_are_one_file_and_stay_when_a_name_goes() {
    let mut rig = Rig::new();
    let (file, fh) = rig.create(RW, c"one", 0o644).unwrap();
    rig.write(file.nodeid, fh, 0, b"text").unwrap();
    let other = rig.link(file.nodeid, RW, c"two").unwrap();
    assert_eq!((other.nodeid, other.attr.nlink), (file.nodeid, 2));
    assert_eq!(other.attr.ino, file.attr.ino);
    rig.unlink(RW, c"one").unwrap();
    assert_eq!(rig.lookup(RW, c"one").unwrap_err(), Errno::NOENT);
    assert_eq!(rig.attributes(file.nodeid).unwrap().nlink, 1);
    assert_eq!(rig.lookup(RW, c"two").unwrap().nodeid, file.nodeid);
    let directory = rig.mkdir(RW, c"d", 0o755).unwrap();
    assert_eq!(rig.link(directory.nodeid, RW, c"e").unwrap_err(), Errno::PERM);
}

#[test]
fn renaming_replaces_exchanges_or_refuses_as_asked() {
    const NOREPLACE: u32 = 1;
    const EXCHANGE: u32 = 2;
    const WHITEOUT: u32 = 4;
    let mut rig = Rig::new();
    let (one, _) = rig.create(RW, c"one", 0o644).unwrap();
    let (two, fh) = rig.create(RW, c"two", 0o644).unwrap();
    rig.write(two.nodeid, fh, 0, b"two").unwrap();
    let refused = rig.rename((RW, c"one"), (RW, c"two"), NOREPLACE);
    assert_eq!(refused.unwrap_err(), Errno::EXIST);
    assert_eq!(rig.rename((RW, c"one"), (RW, c"x"), WHITEOUT).unwrap_err(), Errno::INVAL);
    rig.rename((RW, c"one"), (RW, c"two"), EXCHANGE).unwrap();
    assert_eq!(rig.lookup(RW, c"one").unwrap().nodeid, two.nodeid);
    assert_eq!(rig.lookup(RW, c"two").unwrap().nodeid, one.nodeid);
    let directory = rig.mkdir(RW, c"d", 0o755).unwrap();
    rig.rename((RW, c"two"), (directory.nodeid, c"two"), 0).unwrap();
    rig.rename((directory.nodeid, c"two"), (RW, c"one"), 0).unwrap();
    assert_eq!(rig.lookup(RW, c"one").unwrap().nodeid, one.nodeid);
    // What was replaced is still open.
    assert_eq!(rig.read(two.nodeid, fh, 0, 9).unwrap(), b"two");
    assert_eq!(rig.attributes(two.nodeid).unwrap().nlink, 0);
    assert_eq!(rig.rename((RW, c"d"), (directory.nodeid, c"e"), 0).unwrap_err(), Errno::INVAL);
}

#[test]
fn shares_are_file_systems_of_their_own() {
    let directory = tree();
    let outside = directory.path().join("outside");
    let mut wanted = config(directory.path());
    wanted.shares[1] = share("1", &outside, false);
    let fs = Fs::new(&wanted).unwrap();
    let mut rig = Rig::unmounted(directory, fs);
    rig.mount();
    let secret = rig.lookup(RO, c"secret").unwrap();
    assert_eq!(rig.rename((RO, c"secret"), (RW, c"s"), 0).unwrap_err(), Errno::XDEV);
    assert_eq!(rig.link(secret.nodeid, RW, c"s").unwrap_err(), Errno::XDEV);
}

#[test]
fn large_directory_is_listed_once_whatever_the_buffer() {
    let mut rig = Rig::new();
    let names: BTreeSet<String> = (0..500).map(|n| format!("file-{n:0>5}")).collect();
    for name in &names {
        std::fs::write(rig.host(name), name).unwrap();
    }
    for (size, plus) in [(512, false), (512, true), (4096, true), (1 << 20, false)] {
        let listed = rig.list(RW, size, plus).unwrap();
        let (dots, files): (Vec<_>, Vec<_>) =
            listed.into_iter().partition(|it| it.name.starts_with('.'));
        assert_eq!((dots.len(), files.len()), (2, 500), "{size}");
        let found: BTreeSet<String> = files.iter().map(|it| it.name.clone()).collect();
        assert_eq!(found, names);
        for file in files {
            assert_eq!(file.dirent.kind, 8);
            if let Some(entry) = file.entry {
                assert_eq!((entry.attr.size, entry.attr.ino), (10, file.dirent.ino));
                assert_eq!(rig.attributes(entry.nodeid).unwrap().size, 10);
            }
        }
    }
}

#[test]
fn what_the_host_changes_is_there_at_the_next_look() {
    let mut rig = Rig::new();
    assert_eq!(rig.lookup(RW, c"f").unwrap_err(), Errno::NOENT);
    std::fs::write(rig.host("f"), "1").unwrap();
    let file = rig.lookup(RW, c"f").unwrap();
    assert_eq!((file.entry_valid, file.attr_valid, file.attr.size), (1, 1, 1));
    std::fs::write(rig.host("f"), "12").unwrap();
    assert_eq!(rig.attributes(file.nodeid).unwrap().size, 2);
    std::fs::remove_file(rig.host("f")).unwrap();
    assert_eq!(rig.lookup(RW, c"f").unwrap_err(), Errno::NOENT);
    std::fs::write(rig.host("f"), "new").unwrap();
    assert_ne!(rig.lookup(RW, c"f").unwrap().nodeid, file.nodeid);
}
