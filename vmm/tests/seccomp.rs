//! The filters of a `vmm` process that offers its API.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A process that is killed when dropped.
struct Vmm(Child);

impl Drop for Vmm {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Vmm {
    /// Starts one and waits until its API answers.
    fn start(socket: &Path, log: &Path, flags: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vmm"));
        command.arg("--api-sock").arg(socket).arg("--log-path").arg(log).args(flags);
        let vmm = Self(command.stdin(Stdio::null()).spawn().unwrap());
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut stream = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                // Nothing tells when the socket is there.
                Err(error) if Instant::now() > deadline => panic!("no API: {error}"),
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        use std::io::{Read, Write};
        stream.write_all(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.contains("Not started"), "{answer}");
        vmm
    }

    /// Lists each thread's name and `Seccomp:` of its status: 2 is a filter (proc(5)).
    fn modes(&self) -> Vec<(String, String)> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.0.id())).unwrap();
        let mode = |task: fs::DirEntry| {
            let status = fs::read_to_string(task.path().join("status")).unwrap();
            let field = |name: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
                line.trim().to_owned()
            };
            (field("Name:"), field("Seccomp:"))
        };
        tasks.map(|task| mode(task.unwrap())).collect()
    }
}

#[test]
fn every_thread_is_filtered() {
    let directory = tempfile::tempdir().unwrap();
    let [socket, log] = ["api", "log"].map(|name| directory.path().join(name));
    let vmm = Vmm::start(&socket, &log, &[]);
    let modes = vmm.modes();
    assert!(modes.iter().any(|(name, _)| name == "api"), "{modes:?}");
    assert!(modes.iter().all(|(_, mode)| mode == "2"), "{modes:?}");
    assert_eq!(fs::read_to_string(&log).unwrap(), "");
}

#[test]
fn without_filters_the_log_warns() {
    let directory = tempfile::tempdir().unwrap();
    let [socket, log] = ["api", "log"].map(|name| directory.path().join(name));
    let vmm = Vmm::start(&socket, &log, &["--no-seccomp"]);
    let modes = vmm.modes();
    assert!(modes.iter().all(|(_, mode)| mode == "0"), "{modes:?}");
    let log = fs::read_to_string(&log).unwrap();
    assert!(log.contains("WARN") && log.contains("WITHOUT system call filters"), "{log}");
}
