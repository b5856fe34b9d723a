use super::*;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::{Duration, UNIX_EPOCH};

fn archive(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    copy_out(path.to_str().unwrap(), &mut bytes).unwrap();
    bytes
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: only root may change a thread's root directory");
    }
    root
}

/// An archive with one entry, however odd.
fn crafted(kind: EntryType, name: &str, link: &str, content: &[u8]) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
    header.as_gnu_mut().unwrap().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(content.len() as u64);
    header.set_cksum();
    let mut builder = Builder::new(Vec::new());
    builder.append(&header, content).unwrap();
    builder.into_inner().unwrap()
}

#[test]
fn a_tree_comes_back_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    let long = "n".repeat(200);
    fs::create_dir_all(source.join("sub").join(&long)).unwrap();
    fs::write(source.join("sub/file"), [0xff; 70_000]).unwrap();
    fs::write(source.join("sub").join(&long).join("deep"), "deep").unwrap();
    fs::set_permissions(source.join("sub/file"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::hard_link(source.join("sub/file"), source.join("sub/other")).unwrap();
    symlink("../../nowhere", source.join("link")).unwrap();
    let old = UNIX_EPOCH + Duration::from_secs(1_000_000);
    File::open(source.join("sub")).unwrap().set_modified(old).unwrap();

    let target = dir.path().join("target");
    fs::create_dir(&target).unwrap();
    let bytes = archive(&source);
    copy_in(target.to_str().unwrap(), &bytes[..], true, false).unwrap();

    let copy = target.join("source");
    assert_eq!(fs::read(copy.join("sub/file")).unwrap(), [0xff; 70_000]);
    assert_eq!(fs::read_to_string(copy.join("sub").join(&long).join("deep")).unwrap(), "deep");
    assert_eq!(fs::read_link(copy.join("link")).unwrap(), Path::new("../../nowhere"));
    let file = fs::metadata(copy.join("sub/file")).unwrap();
    assert_eq!((file.permissions().mode() & 0o7777, file.nlink()), (0o4751, 2));
    assert_eq!(fs::metadata(copy.join("sub")).unwrap().modified().unwrap(), old);
}

#[test]
fn names_that_lead_out_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("target");
    fs::create_dir(&target).unwrap();
    for name in ["../out", "a/../../out", "/etc/out"] {
        let bytes = crafted(EntryType::Regular, name, "", b"evil");
        let result = copy_in(target.to_str().unwrap(), &bytes[..], false, false);
        assert!(result.is_err(), "{name}");
    }
    assert!(!dir.path().join("out").exists());
}

#[test]
fn links_in_the_archive_lead_out_of_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("target");
    fs::create_dir(&target).unwrap();
    let link = crafted(EntryType::Symlink, "link", "..", b"");
    copy_in(target.to_str().unwrap(), &link[..], false, false).unwrap();
    let through = crafted(EntryType::Regular, "link/out", "", b"evil");
    assert!(copy_in(target.to_str().unwrap(), &through[..], false, false).is_err());
    fs::write(dir.path().join("secret"), "secret").unwrap();
    let hard = crafted(EntryType::Link, "hard", "../secret", b"");
    assert!(copy_in(target.to_str().unwrap(), &hard[..], false, false).is_err());
    assert!(!dir.path().join("out").exists() && !target.join("hard").exists());
}

#[test]
fn a_container_is_not_left_by_its_links() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir_all(root.join("inside")).unwrap();
    fs::write(dir.path().join("secret"), "secret").unwrap();
    symlink("/", root.join("absolute")).unwrap();
    symlink("../../..", root.join("up")).unwrap();
    symlink(dir.path().join("secret"), root.join("direct")).unwrap();
    let fd = File::open(&root).unwrap();

    let bytes = crafted(EntryType::Regular, "new", "", b"new");
    for path in ["/up", "/absolute/inside"] {
        in_container(&fd, || copy_in(path, &bytes[..], false, false)).unwrap();
    }
    assert!(root.join("new").exists() && root.join("inside/new").exists());
    assert!(!dir.path().join("new").exists());
    let stolen = in_container(&fd, || copy_out("/direct/.", io::sink()));
    assert_eq!(stolen.unwrap_err().kind, ErrorKind::NoSuchPath);
    // Other threads are where they were.
    assert!(dir.path().exists());
}

#[test]
fn files_and_directories_replace_each_other_only_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().to_str().unwrap();
    fs::create_dir_all(dir.path().join("thing/full")).unwrap();
    let file = crafted(EntryType::Regular, "thing", "", b"file");
    let directory = crafted(EntryType::Directory, "thing/", "", b"");
    assert!(copy_in(target, &file[..], false, false).is_err());
    copy_in(target, &file[..], false, true).unwrap();
    assert!(copy_in(target, &directory[..], false, false).is_err());
    copy_in(target, &directory[..], false, true).unwrap();
    assert!(dir.path().join("thing").is_dir());
}

#[test]
fn archives_that_are_broken_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().to_str().unwrap();
    let whole = crafted(EntryType::Regular, "file", "", &[1; 5000]);
    for bytes in [&whole[..2000], &whole[..300], &[0x41; 1024]] {
        assert!(copy_in(target, bytes, false, false).is_err());
    }
    assert_eq!(
        copy_in("/no/such", &whole[..], false, false).unwrap_err().kind,
        ErrorKind::NoSuchPath
    );
    assert_eq!(copy_out("/no/such", io::sink()).unwrap_err().kind, ErrorKind::NoSuchPath);
}

#[test]
fn a_volume_is_filled_once() {
    let dir = tempfile::tempdir().unwrap();
    let (image, volume) = (dir.path().join("image"), dir.path().join("volume"));
    fs::create_dir_all(image.join("sub")).unwrap();
    fs::create_dir(&volume).unwrap();
    fs::write(image.join("sub/file"), "image").unwrap();
    fs::set_permissions(&image, fs::Permissions::from_mode(0o1770)).unwrap();
    let (from, to) = (File::open(&image).unwrap(), File::open(&volume).unwrap());
    fill(&from, &to).unwrap();
    assert_eq!(fs::read_to_string(volume.join("sub/file")).unwrap(), "image");
    assert_eq!(fs::metadata(&volume).unwrap().permissions().mode() & 0o7777, 0o1770);
    fs::write(volume.join("sub/file"), "changed").unwrap();
    fill(&from, &to).unwrap();
    assert_eq!(fs::read_to_string(volume.join("sub/file")).unwrap(), "changed");
}
