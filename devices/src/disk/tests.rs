use std::error::Error;
use std::os::unix::fs::PermissionsExt;

use tempfile::{NamedTempFile, TempDir};

use super::conformance::{DISK_LEN, Rig, create, create_qcow2};
use super::*;

fn raw() -> NamedTempFile {
    create(&std::env::temp_dir(), Format::Raw)
}

fn refused(options: &DiskOptions) -> DiskError {
    let error = Disk::open(options).unwrap_err();
    let named = options.path.display().to_string();
    assert!(error.to_string().contains(&named), "{error}");
    if let Some(source) = error.source() {
        let source = source.to_string();
        assert!(!error.to_string().contains(&source), "{error} repeats {source}");
    }
    error
}

#[test]
fn each_wrong_path_has_an_error_of_its_own() {
    let directory = TempDir::new().unwrap();
    let make = |name: &str, len: u64| {
        let path = directory.path().join(name);
        File::create(&path).unwrap().set_len(len).unwrap();
        path
    };
    let fifo = directory.path().join("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    for (path, kind) in [
        (directory.path().join("absent"), DiskErrorKind::NotFound),
        (directory.path().to_owned(), DiskErrorKind::NotAnImage),
        ("/dev/null".into(), DiskErrorKind::NotAnImage),
        (fifo, DiskErrorKind::NotAnImage),
        (make("empty", 0), DiskErrorKind::Empty),
        (make("odd", 513), DiskErrorKind::Length),
        (make("short", 511), DiskErrorKind::Length),
    ] {
        for read_only in [false, true] {
            let options = DiskOptions { read_only, ..DiskOptions::new(&path) };
            assert_eq!(refused(&options).kind(), kind, "{}", path.display());
        }
    }
}

#[test]
fn what_the_host_refuses_to_write_is_read_only_if_it_can_be_read() {
    let image = raw();
    let options = DiskOptions::new(image.path());
    let refusal = || io::Error::from(io::ErrorKind::ReadOnlyFilesystem);
    assert_eq!(classify_open(&options, refusal()).kind(), DiskErrorKind::ReadOnly);
    let reading = DiskOptions { read_only: true, ..options };
    assert_eq!(classify_open(&reading, refusal()).kind(), DiskErrorKind::Open);
}

#[test]
fn file_without_write_permission_is_refused_for_writing() {
    let image = raw();
    image.as_file().set_permissions(PermissionsExt::from_mode(0o444)).unwrap();
    let options = DiskOptions::new(image.path());
    if rustix::process::geteuid().is_root() {
        // Permissions don't hold for root.
        Disk::open(&options).unwrap();
    } else {
        assert_eq!(refused(&options).kind(), DiskErrorKind::ReadOnly);
    }
    Disk::open(&DiskOptions { read_only: true, ..options }).unwrap();
}

#[test]
fn writer_excludes_everybody_and_readers_share() {
    let image = raw();
    let writing = DiskOptions::new(image.path());
    let reading = DiskOptions { read_only: true, ..writing.clone() };
    let writer = Disk::open(&writing).unwrap();
    assert_eq!(refused(&writing).kind(), DiskErrorKind::InUse);
    assert_eq!(refused(&reading).kind(), DiskErrorKind::InUse);
    drop(writer);
    let readers = [(); 2].map(|()| Disk::open(&reading).unwrap());
    assert_eq!(refused(&writing).kind(), DiskErrorKind::InUse);
    drop(readers);
    Disk::open(&writing).unwrap();
}

#[test]
fn qcow2_image_is_locked_like_a_raw_one() {
    let image = create(&std::env::temp_dir(), Format::Qcow2);
    let options = DiskOptions::new(image.path());
    let disk = Disk::open(&options).unwrap();
    assert_eq!(refused(&options).kind(), DiskErrorKind::InUse);
    drop(disk);
    Disk::open(&options).unwrap();
}

#[test]
fn format_is_the_users_or_else_the_files_first_bytes() {
    let image = create(&std::env::temp_dir(), Format::Qcow2);
    let options = DiskOptions::new(image.path());
    assert_eq!(Disk::open(&options).unwrap().format(), Format::Qcow2);
    image.as_file().set_len(DISK_LEN).unwrap();
    let as_raw = Disk::open(&DiskOptions { format: Some(Format::Raw), ..options }).unwrap();
    assert_eq!((as_raw.format(), as_raw.len_bytes()), (Format::Raw, DISK_LEN));
    assert_eq!(Rig::new(&as_raw, false).read(0, 512)[..4], QCOW2_MAGIC);
    assert_eq!(Disk::open(&DiskOptions::new(raw().path())).unwrap().format(), Format::Raw);
}

#[test]
fn raw_disk_stays_raw_whatever_header_the_guest_writes() {
    let (image, secret) = (raw(), raw());
    let header = NamedTempFile::new().unwrap();
    create_qcow2(header.path(), |builder| {
        let name = secret.path().to_str().unwrap().to_owned();
        imago::FormatCreateBuilder::size(builder, DISK_LEN).backing(name, "raw".to_owned())
    });
    let header = std::fs::read(header.path()).unwrap();

    let disk = Disk::open(&DiskOptions::new(image.path())).unwrap();
    let mut rig = Rig::new(&disk, false);
    rig.write(0, &header[..4096]);
    assert_eq!(rig.read(0, 4096), header[..4096], "the guest reads what it wrote");
    assert_eq!((disk.format(), disk.len_bytes()), (Format::Raw, DISK_LEN));
    // A reset starts engines anew, from the same open image.
    assert_eq!(Rig::new(&disk, false).read(0, 4096), header[..4096]);
    let format = Some(disk.format());
    drop((rig, disk));
    // Attached again as a stored configuration has it.
    let again = Disk::open(&DiskOptions { format, ..DiskOptions::new(image.path()) }).unwrap();
    assert_eq!(Rig::new(&again, false).read(0, 4096), header[..4096]);
    drop(again);
    // And if the format was forgotten, the file that the guest names stays closed.
    assert_eq!(refused(&DiskOptions::new(image.path())).kind(), DiskErrorKind::OtherFile);
}

#[test]
fn qcow2_image_with_a_backing_file_is_refused_by_that_files_name() {
    let base = raw();
    let name = base.path().to_str().unwrap().to_owned();
    let image = NamedTempFile::new().unwrap();
    create_qcow2(image.path(), |builder| {
        imago::FormatCreateBuilder::size(builder, DISK_LEN).backing(name.clone(), "raw".to_owned())
    });
    let error = refused(&DiskOptions::new(image.path()));
    assert_eq!(error.kind(), DiskErrorKind::OtherFile);
    assert!(error.to_string().contains(&name), "{error}");
}

#[test]
fn qcow2_image_with_a_broken_header_is_refused() {
    let image = create(&std::env::temp_dir(), Format::Qcow2);
    // The version, the cluster size, the L1 table's size and its offset.
    for (offset, value) in [(4, 9u32), (20, 63), (36, u32::MAX), (40, u32::MAX)] {
        let broken = NamedTempFile::new().unwrap();
        std::fs::copy(image.path(), broken.path()).unwrap();
        broken.as_file().write_all_at(&value.to_be_bytes(), offset).unwrap();
        let error = refused(&DiskOptions::new(broken.path()));
        assert_eq!(error.kind(), DiskErrorKind::Format, "{offset}: {error}");
    }
    let cut = raw();
    cut.as_file().write_all_at(&QCOW2_MAGIC, 0).unwrap();
    cut.as_file().set_len(512).unwrap();
    assert_eq!(refused(&DiskOptions::new(cut.path())).kind(), DiskErrorKind::Format);
    let options = DiskOptions { format: Some(Format::Qcow2), ..DiskOptions::new(image.path()) };
    image.as_file().write_all_at(b"text", 0).unwrap();
    assert_eq!(refused(&options).kind(), DiskErrorKind::Format);
}

#[test]
fn qcow2_disk_whose_length_is_no_whole_number_of_sectors_is_refused() {
    let image = NamedTempFile::new().unwrap();
    create_qcow2(image.path(), |builder| imago::FormatCreateBuilder::size(builder, DISK_LEN));
    for (len, kind) in [(DISK_LEN - 1, DiskErrorKind::Length), (0, DiskErrorKind::Empty)] {
        image.as_file().write_all_at(&len.to_be_bytes(), 24).unwrap();
        assert_eq!(refused(&DiskOptions::new(image.path())).kind(), kind);
    }
}

#[test]
fn engine_is_the_users_or_what_format_and_host_allow() {
    let (raw, qcow2) = (raw(), create(&std::env::temp_dir(), Format::Qcow2));
    let with = |path: &Path, engine| DiskOptions { engine, ..DiskOptions::new(path) };
    let chosen = |options: &DiskOptions| Disk::open(options).unwrap().engine();
    let best = if FileRing::probe().is_ok() { Engine::IoUring } else { Engine::Sync };
    assert_eq!(chosen(&with(raw.path(), None)), best);
    assert_eq!(chosen(&with(raw.path(), Some(Engine::Sync))), Engine::Sync);
    assert_eq!(chosen(&with(raw.path(), Some(Engine::IoUring))), Engine::IoUring);
    assert_eq!(chosen(&with(qcow2.path(), None)), Engine::Sync);
    let error = refused(&with(qcow2.path(), Some(Engine::IoUring)));
    assert_eq!(error.kind(), DiskErrorKind::Engine);
}

#[test]
fn refused_image_is_not_left_locked() {
    let image = NamedTempFile::new().unwrap();
    let options = DiskOptions::new(image.path());
    assert_eq!(refused(&options).kind(), DiskErrorKind::Empty);
    image.as_file().set_len(DISK_LEN).unwrap();
    Disk::open(&options).unwrap();
}

#[test]
fn image_that_has_grown_can_be_opened_in_place_of_itself_and_stays_locked() {
    let image = raw();
    let options = DiskOptions::new(image.path());
    let old = Disk::open(&options).unwrap();
    assert_eq!(refused(&options).kind(), DiskErrorKind::InUse);
    // What a guest wrote there makes no other format of it.
    image.as_file().write_all_at(&QCOW2_MAGIC, 0).unwrap();
    image.as_file().set_len(2 * DISK_LEN).unwrap();
    let new = old.open_replacement(&options).unwrap();
    assert_eq!((new.len_bytes(), new.format()), (2 * DISK_LEN, Format::Raw));
    drop(old);
    assert_eq!(refused(&options).kind(), DiskErrorKind::InUse);
    let other = raw();
    let other = new.open_replacement(&DiskOptions::new(other.path())).unwrap();
    assert_eq!(other.len_bytes(), DISK_LEN);
    drop(new);
    Disk::open(&DiskOptions { format: Some(Format::Raw), ..options }).unwrap();
}

#[test]
fn image_in_use_elsewhere_or_with_metadata_of_its_own_can_replace_nothing() {
    let (mine, theirs) = (raw(), raw());
    let disk = Disk::open(&DiskOptions::new(mine.path())).unwrap();
    let _theirs = Disk::open(&DiskOptions::new(theirs.path())).unwrap();
    let refused = disk.open_replacement(&DiskOptions::new(theirs.path())).unwrap_err();
    assert_eq!(refused.kind(), DiskErrorKind::InUse);

    let image = create(&std::env::temp_dir(), Format::Qcow2);
    let options = DiskOptions::new(image.path());
    let disk = Disk::open(&options).unwrap();
    let refused = disk.open_replacement(&options).unwrap_err();
    assert_eq!(refused.kind(), DiskErrorKind::InUse);
}
