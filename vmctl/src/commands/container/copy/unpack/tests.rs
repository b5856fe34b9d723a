use std::os::unix::fs::{MetadataExt, symlink};

use tar::{Builder, Header};

use super::super::pack::pack;
use super::*;

/// An entry: its kind, its name, its content or where it leads.
type Item<'a> = (EntryType, &'a str, &'a str);

fn archive(items: &[Item<'_>]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (kind, name, text) in items {
        let mut header = Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o4755);
        header.set_size(0);
        // As a hostile one is written: the crate's own methods refuse such names.
        let field = &mut header.as_old_mut().name;
        field[..name.len()].copy_from_slice(name.as_bytes());
        if matches!(kind, EntryType::Link | EntryType::Symlink) {
            let field = &mut header.as_old_mut().linkname;
            field[..text.len()].copy_from_slice(text.as_bytes());
            header.set_cksum();
            builder.append(&header, io::empty()).unwrap();
        } else {
            header.set_size(text.len() as u64);
            header.set_cksum();
            builder.append(&header, text.as_bytes()).unwrap();
        }
    }
    builder.into_inner().unwrap()
}

fn into(dir: &Path, name: Option<&str>, items: &[Item<'_>]) -> Result<bool, ContainerError> {
    let target = Target { dir: dir.display().to_string(), name: name.map(str::to_owned) };
    unpack(&mut &archive(items)[..], false, |_| Ok(target))
}

const DIR: EntryType = EntryType::Directory;
const FILE: EntryType = EntryType::Regular;
const LINK: EntryType = EntryType::Link;
const SYMLINK: EntryType = EntryType::Symlink;

#[test]
fn tree_comes_out_as_it_was_packed_under_its_new_name() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::create_dir_all(from.join("sub/deeper")).unwrap();
    fs::create_dir(&to).unwrap();
    fs::write(from.join("sub/file"), "text").unwrap();
    fs::hard_link(from.join("sub/file"), from.join("second")).unwrap();
    symlink("sub/file", from.join("link")).unwrap();
    fs::set_permissions(from.join("sub"), Permissions::from_mode(0o550)).unwrap();
    let mut bytes = Vec::new();
    pack(&from, Path::new("top"), false, &mut bytes).unwrap();
    let target = Target { dir: to.display().to_string(), name: Some("new".to_owned()) };
    assert!(
        unpack(&mut &bytes[..], false, |is_dir| {
            assert!(is_dir);
            Ok(target)
        })
        .unwrap()
    );
    let new = to.join("new");
    assert_eq!(fs::read_to_string(new.join("sub/file")).unwrap(), "text");
    assert_eq!(fs::read_link(new.join("link")).unwrap(), Path::new("sub/file"));
    assert_eq!(fs::metadata(new.join("sub")).unwrap().mode() & 0o777, 0o550);
    let inode = |name: &str| fs::metadata(new.join(name)).unwrap().ino();
    assert_eq!(inode("second"), inode("sub/file"));
    // The temporary directory's removal may not be root's.
    for place in [&from, &new] {
        fs::set_permissions(place.join("sub"), Permissions::from_mode(0o755)).unwrap();
    }
}

#[test]
fn packed_files_are_roots_unless_owners_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "text").unwrap();
    let owner = fs::metadata(dir.path().join("file")).unwrap().uid();
    for (keep, expected) in [(false, 0), (true, u64::from(owner))] {
        let mut bytes = Vec::new();
        pack(&dir.path().join("file"), Path::new("f"), keep, &mut bytes).unwrap();
        let mut archive = Archive::new(&bytes[..]);
        let entry = archive.entries().unwrap().next().unwrap().unwrap();
        assert_eq!(entry.header().uid().unwrap(), expected);
        assert_eq!(entry.path().unwrap(), Path::new("f"));
    }
}

#[test]
fn contents_go_to_a_directory_that_is_there() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "old").unwrap();
    assert!(into(dir.path(), None, &[(DIR, "d/", ""), (FILE, "d/file", "new")]).unwrap());
    assert_eq!(fs::read_to_string(dir.path().join("file")).unwrap(), "new");
    assert!(into(dir.path(), None, &[(DIR, "./", ""), (FILE, "./file", "newer")]).unwrap());
    assert_eq!(fs::read_to_string(dir.path().join("file")).unwrap(), "newer");
    assert!(!into(dir.path(), None, &[]).unwrap());
}

#[test]
fn nothing_leads_out_of_the_directory() {
    for items in [
        &[(DIR, "d/", ""), (FILE, "d/../../out", "x")][..],
        &[(DIR, "d/", ""), (FILE, "/out", "x")],
        &[(DIR, "d/", ""), (FILE, "other/out", "x")],
        &[(DIR, "d/", ""), (FILE, "out", "x")],
        &[(DIR, "d/", ""), (SYMLINK, "d/l", "../.."), (FILE, "d/l/out", "x")],
        &[(DIR, "d/", ""), (SYMLINK, "d/l", "/"), (DIR, "d/l/tmp", ""), (FILE, "d/l/out", "x")],
        &[(DIR, "d/", ""), (LINK, "d/l", "../secret")],
        &[(DIR, "d/", ""), (LINK, "d/l", "/etc/passwd")],
        &[(DIR, "d/", ""), (SYMLINK, "d/s", "../.."), (LINK, "d/l", "d/s/secret")],
        &[(SYMLINK, "d", "../.."), (FILE, "d/out", "x")],
    ] {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("inside");
        fs::create_dir(&inside).unwrap();
        fs::write(dir.path().join("secret"), "s").unwrap();
        assert!(into(&inside, Some("d"), items).is_err(), "{items:?}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "{items:?}");
        assert!(!Path::new("/out").exists());
        assert_eq!(fs::metadata(dir.path().join("secret")).unwrap().nlink(), 1, "{items:?}");
    }
}

#[test]
fn link_that_is_there_is_replaced_and_not_written_through() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("secret"), "s").unwrap();
    fs::create_dir(dir.path().join("to")).unwrap();
    symlink("../secret", dir.path().join("to/file")).unwrap();
    into(&dir.path().join("to"), Some("file"), &[(FILE, "f", "x")]).unwrap();
    assert_eq!(fs::read_to_string(dir.path().join("secret")).unwrap(), "s");
    assert_eq!(fs::read_to_string(dir.path().join("to/file")).unwrap(), "x");
    // So is one that the archive itself has made before.
    let items = [(DIR, "d/", ""), (SYMLINK, "d/l", "../../secret"), (FILE, "d/l", "x")];
    into(&dir.path().join("to"), Some("d"), &items).unwrap();
    assert_eq!(fs::read_to_string(dir.path().join("secret")).unwrap(), "s");
}

#[test]
fn nobody_becomes_root_by_a_copy() {
    let dir = tempfile::tempdir().unwrap();
    into(dir.path(), Some("sh"), &[(FILE, "sh", "x")]).unwrap();
    assert_eq!(fs::metadata(dir.path().join("sh")).unwrap().mode() & 0o7777, 0o755);
    into(dir.path(), Some("d"), &[(DIR, "d/", "")]).unwrap();
    assert_eq!(fs::metadata(dir.path().join("d")).unwrap().mode() & 0o7777, 0o755);
}

#[test]
fn files_and_directories_do_not_replace_one_another() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("x")).unwrap();
    let error = into(dir.path(), Some("x"), &[(FILE, "f", "x")]).unwrap_err();
    assert!(error.to_string().contains("cannot overwrite the directory"), "{error}");
    fs::write(dir.path().join("y"), "").unwrap();
    assert!(into(dir.path(), Some("y"), &[(DIR, "d/", "")]).is_err());
}

#[test]
fn archive_that_is_none_is_refused() {
    let target = || Ok(Target { dir: ".".to_owned(), name: None });
    assert!(unpack(&mut &[7; 2048][..], false, |_| target()).is_err());
    let dir = tempfile::tempdir().unwrap();
    let whole = archive(&[(FILE, "f", &"x".repeat(2000))]);
    let target = Target { dir: dir.path().display().to_string(), name: Some("f".to_owned()) };
    assert!(unpack(&mut &whole[..1024], false, |_| Ok(target)).is_err());
}
