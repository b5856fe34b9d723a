use std::fs;
use std::path::PathBuf;

use super::*;
use crate::header::{CpuSummary, Kind, MemoryInfo, MemoryRegion};
use crate::id::SnapshotId;

fn header() -> SnapshotHeader {
    let mut header = SnapshotHeader::new(SnapshotId::random().unwrap(), None);
    header.vcpus = 2;
    header.regions = vec![MemoryRegion { guest_address: 0, size_bytes: 1 << 20 }];
    header
}

fn write_to(path: &Path, version: u32, header: &SnapshotHeader, state: &[u8]) {
    write_version(path, version, header, state).unwrap().publish().unwrap();
}

#[test]
fn what_was_written_is_read_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    let header = header();
    write_to(&path, FORMAT_VERSION, &header, b"{\"vcpus\":[]}");
    let file = open(&path).unwrap();
    assert_eq!((file.version, file.header, &file.state[..]), (1, header, &b"{\"vcpus\":[]}"[..]));
}

#[test]
fn every_flipped_byte_and_every_truncation_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    write_to(&path, FORMAT_VERSION, &header(), b"{\"vcpus\":[1,2,3]}");
    let good = fs::read(&path).unwrap();
    for at in 0..good.len() {
        for flip in [1, 0x80, 0xff] {
            let mut bytes = good.clone();
            bytes[at] ^= flip;
            fs::write(&path, &bytes).unwrap();
            assert!(open(&path).is_err(), "byte {at} xor {flip:#x}");
        }
        fs::write(&path, &good[..at]).unwrap();
        let error = open(&path).unwrap_err();
        match at {
            ..8 => assert!(matches!(error, SnapshotError::Foreign { .. }), "{at}: {error}"),
            _ => assert!(matches!(error, SnapshotError::Truncated { .. }), "{at}: {error}"),
        }
    }
    fs::write(&path, [&good[..], &[0]].concat()).unwrap();
    assert!(matches!(open(&path), Err(SnapshotError::Damaged { .. })));
}

#[test]
fn impossible_lengths_are_refused_before_anything_is_allocated() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    write_to(&path, FORMAT_VERSION, &header(), b"{}");
    let good = fs::read(&path).unwrap();
    for len in [1 << 63, u64::MAX, MAX_STATE_BYTES + 1, 3, 1] {
        let mut bytes = good.clone();
        bytes[16..24].copy_from_slice(&u64::to_le_bytes(len));
        fs::write(&path, &bytes).unwrap();
        assert!(open(&path).is_err(), "state of {len} bytes");
    }
    for len in [u32::MAX, MAX_HEADER_BYTES + 1, MAX_HEADER_BYTES, 1, 0] {
        let mut bytes = good.clone();
        bytes[12..16].copy_from_slice(&u32::to_le_bytes(len));
        fs::write(&path, &bytes).unwrap();
        assert!(open(&path).is_err(), "header of {len} bytes");
        assert!(read_header(&path).is_err(), "header of {len} bytes");
    }
}

#[test]
fn newer_format_is_refused_by_its_writers_name_and_its_header_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    let mut header = header();
    header.vmctl_version = "9.8.7".to_owned();
    write_to(&path, FORMAT_VERSION + 1, &header, b"in a way that nobody here knows");
    let error = open(&path).unwrap_err();
    assert!(matches!(error, SnapshotError::Version { version: 2, .. }), "{error}");
    assert!(error.to_string().contains("9.8.7"), "{error}");
    assert_eq!(read_header(&path).unwrap(), header);
}

#[test]
fn header_of_another_time_is_read_by_what_is_known_of_it() {
    let least = r#"{"id":"000102030405060708090a0b0c0d0e0f"}"#;
    let header: SnapshotHeader = serde_json::from_str(least).unwrap();
    assert_eq!((header.kind, header.vcpus), (Kind::Full, 0));
    let more = r#"{"id":"000102030405060708090a0b0c0d0e0f","vcpus":3,"colour":{"of":"the sky"}}"#;
    assert_eq!(serde_json::from_str::<SnapshotHeader>(more).unwrap().vcpus, 3);
}

#[test]
fn other_architecture_is_refused_by_both_names() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    let mut header = header();
    header.architecture = "m68k".to_owned();
    write_to(&path, FORMAT_VERSION, &header, b"{}");
    let error = open(&path).unwrap_err().to_string();
    assert!(error.contains("m68k") && error.contains(std::env::consts::ARCH), "{error}");
    assert!(read(&path).is_ok());
}

#[test]
fn what_has_no_file_is_refused_without_waiting() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    assert!(matches!(open(&path), Err(SnapshotError::Io { .. })));
    assert!(matches!(open(directory.path()), Err(SnapshotError::Foreign { .. })));
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR).unwrap();
    assert!(matches!(open(&path), Err(SnapshotError::Foreign { .. })));
}

/// The snapshot that `tests/data` keeps of the present format.
fn specimen() -> (SnapshotHeader, &'static [u8]) {
    let header = SnapshotHeader {
        id: SnapshotId::from_bytes(*b"specimen format "),
        parent: None,
        kind: Kind::Full,
        vmctl_version: "0.1.0".to_owned(),
        created_unix_ms: 1_764_000_000_000,
        architecture: "x86_64".to_owned(),
        cpu: CpuSummary {
            vendor: "AuthenticAMD".to_owned(),
            model_name: "AMD EPYC 7763 64-Core Processor".to_owned(),
            family: 25,
            model: 1,
            stepping: 1,
        },
        vcpus: 2,
        regions: vec![MemoryRegion { guest_address: 0, size_bytes: 1 << 14 }],
        memory: MemoryInfo {
            file_bytes: (1 << 14) + 4096,
            content_bytes: 1 << 14,
            data_pages: 2,
            hash: "9b4a780a3b134c147a2fd0c9900e6240".to_owned().try_into().unwrap(),
        },
        tracks_dirty_pages: true,
    };
    (header, br#"{"machine":"of format 1"}"#)
}

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// Makes the files of a new format: run it once, with `--ignored`, after `FORMAT_VERSION` was raised.
#[test]
#[ignore = "writes to the source tree"]
fn write_specimen() {
    let (mut header, state) = specimen();
    let memory = data(&format!("v{FORMAT_VERSION}.mem"));
    let mut writer =
        crate::memory::MemoryWriter::create(&memory, header.id, None, &header.regions).unwrap();
    writer.write(4096, &[0x11; 4096]).unwrap();
    writer.write(3 * 4096, &[0x22; 4096]).unwrap();
    let written = writer.finish().unwrap();
    header.memory = written.info;
    let state = write(&data(&format!("v{FORMAT_VERSION}.state")), &header, state).unwrap();
    crate::publish::publish_pair(written.file, state).unwrap();
}

#[test]
fn snapshots_of_every_past_format_are_read() {
    for &version in READABLE_VERSIONS {
        let file = read(&data(&format!("v{version}.state"))).unwrap();
        let (header, state) = specimen();
        assert_eq!((file.version, &file.header, &file.state[..]), (version, &header, state));
        let memory =
            crate::memory::MemoryFile::open_for(&data(&format!("v{version}.mem")), &file.header);
        memory.unwrap().verify().unwrap();
    }
    assert_eq!(READABLE_VERSIONS.last(), Some(&FORMAT_VERSION));
}
