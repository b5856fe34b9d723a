use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::*;
use crate::options::LogOptions;
use crate::paths::ContainerPaths;
use crate::watch::ContainerWatch;

const ALL: LogOptions =
    LogOptions { follow: false, since: None, until: None, tail: None, stdout: true, stderr: true };

fn read(path: &Path, options: LogOptions) -> Vec<String> {
    let reader = LogReader::open(path, options, None).unwrap();
    reader.map(|line| line.unwrap().text).collect()
}

fn writer(path: &Path) -> LogWriter {
    LogWriter::open(path, None).unwrap()
}

#[test]
fn lines_are_kept_whole_however_they_are_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut log = writer(&path);
    log.write(OutputStream::Stdout, b"one\ntw").unwrap();
    log.write(OutputStream::Stderr, b"error\n").unwrap();
    log.write(OutputStream::Stdout, b"o\n\nend").unwrap();
    log.finish(OutputStream::Stdout).unwrap();
    assert_eq!(read(&path, ALL), ["one\n", "error\n", "two\n", "\n", "end"]);
    let stderr = LogOptions { stdout: false, ..ALL };
    assert_eq!(read(&path, stderr), ["error\n"]);
}

#[test]
fn bytes_of_any_kind_read_back_as_text() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut log = writer(&path);
    log.write(OutputStream::Stdout, b"\"q\"\t\\ \x1b[0m \xff\0\n").unwrap();
    assert_eq!(read(&path, ALL), ["\"q\"\t\\ \u{1b}[0m \u{fffd}\0\n"]);
    assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 1);
}

#[test]
fn long_line_comes_in_pieces_and_counts_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut log = writer(&path);
    log.write(OutputStream::Stdout, b"first\n").unwrap();
    let long = vec![b'x'; MAX_LINE_BYTES * 2 + 5];
    log.write(OutputStream::Stdout, &long).unwrap();
    log.write(OutputStream::Stdout, b"\nlast\n").unwrap();
    let pieces: Vec<_> = read(&path, ALL).iter().map(String::len).collect();
    assert_eq!(pieces, [6, MAX_LINE_BYTES, MAX_LINE_BYTES, 6, 5]);
    let tail = LogOptions { tail: Some(2), ..ALL };
    assert_eq!(read(&path, tail).len(), 4, "three pieces and the last line");
    assert_eq!(read(&path, LogOptions { tail: Some(0), ..ALL }).len(), 0);
}

#[test]
fn damaged_lines_are_left_out_and_the_next_ones_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    writer(&path).write(OutputStream::Stdout, b"before\n").unwrap();
    let mut text = fs::read(&path).unwrap();
    text.extend_from_slice(b"\0\0\0 no JSON\n{\"log\":1}\n{\"log\":\"cut");
    fs::write(&path, text).unwrap();
    writer(&path).write(OutputStream::Stdout, b"after\n").unwrap();
    assert_eq!(read(&path, ALL), ["before\n", "after\n"]);
}

#[test]
fn times_choose_lines() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let time = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let mut text = Vec::new();
    for seconds in 1..=3 {
        encode(&mut text, format!("{seconds}\n").as_bytes(), OutputStream::Stdout, time(seconds));
    }
    fs::write(&path, text).unwrap();
    assert_eq!(read(&path, LogOptions { since: Some(time(2)), ..ALL }), ["2\n", "3\n"]);
    assert_eq!(read(&path, LogOptions { until: Some(time(2)), ..ALL }), ["1\n", "2\n"]);
}

#[test]
fn rotation_keeps_as_many_files_as_it_says() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let rotation = Rotation { max_size_bytes: 1, max_files: 3 };
    let mut log = LogWriter::open(&path, Some(rotation)).unwrap();
    for number in 0..6 {
        log.write(OutputStream::Stdout, format!("{number}\n").as_bytes()).unwrap();
    }
    assert_eq!(read(&path, ALL), ["3\n", "4\n", "5\n"]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
}

#[test]
fn follower_gets_what_is_written_until_the_supervisor_ends() {
    let dir = tempfile::tempdir().unwrap();
    let paths = ContainerPaths { data: dir.path().join("data"), run: dir.path().join("run") };
    fs::create_dir(&paths.data).unwrap();
    fs::create_dir(&paths.run).unwrap();
    let listener = std::os::unix::net::UnixListener::bind(paths.supervisor_socket()).unwrap();
    let rotation = Rotation { max_size_bytes: 40, max_files: 5 };
    let mut log = LogWriter::open(&paths.log(), Some(rotation)).unwrap();
    log.write(OutputStream::Stdout, b"before\n").unwrap();
    let watch = ContainerWatch::open(&paths).unwrap();
    let (mut supervisor, _) = listener.accept().unwrap();
    let request = crate::wire::receive_request(&mut supervisor).unwrap();
    assert_eq!(request, crate::wire::Request::Watch);
    let options = LogOptions { follow: true, ..ALL };
    let mut reader = LogReader::open(&paths.log(), options, Some(watch)).unwrap();
    let mut next = || reader.next().map(|line| line.unwrap().text);
    assert_eq!(next().as_deref(), Some("before\n"));
    let writing = std::thread::spawn(move || {
        for number in 0..3 {
            log.write(OutputStream::Stdout, format!("{number}\n").as_bytes()).unwrap();
        }
        drop(supervisor);
    });
    for number in 0..3 {
        assert_eq!(next(), Some(format!("{number}\n")));
    }
    writing.join().unwrap();
    assert_eq!(next(), None);
}
