//! The program as it's run in an instance: by its arguments, its output and its exit code.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use compare_probe::results::{
    AttemptResult, ConnectResult, CpuResult, DiskResult, Facts, LatencyResult, Listening,
    MemoryResult, ProcSysResult, SyscallResult, TransferResult, WebResult, parse,
};
use rustix::process::{Pid, Signal, kill_process};
use serde::de::DeserializeOwned;

fn probe(line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_compare-probe"));
    // Nothing of the environment is needed; an image may have none.
    command.args(line.split_whitespace()).env_clear().stdin(Stdio::null());
    command
}

fn run(line: &str) -> Output {
    probe(line).output().unwrap()
}

/// Runs it to its end, which must be a good one, and reads its result.
fn result<T: DeserializeOwned>(line: &str) -> T {
    let output = run(line);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {errors}");
    assert!(output.stdout.ends_with(b"\n"), "{line}");
    parse(std::str::from_utf8(&output.stdout).unwrap())
        .unwrap_or_else(|error| panic!("{line}: {error:?}"))
}

/// Runs it to its end, which must have this exit code, and returns what it complained of.
fn failure(line: &str, code: i32) -> String {
    let output = run(line);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{line}: {errors}");
    assert!(output.stdout.is_empty(), "{line}: {output:?}");
    assert!(errors.starts_with("compare-probe: "), "{line}: {errors}");
    errors
}

/// A program that lasts, and is ended with its test.
struct Lasting {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Lasting {
    fn start(line: &str) -> Self {
        let mut child = probe(line).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line
    }

    /// A server, and where it is.
    fn serve(what: &str) -> (Self, SocketAddr) {
        let mut server = Self::start(&format!("{what} --port 0"));
        let listening: Listening = parse(&server.line()).unwrap();
        (server, (Ipv4Addr::LOCALHOST, listening.listening).into())
    }

    fn signal(&mut self, signal: Signal) -> ExitStatus {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
        self.child.wait().unwrap()
    }
}

impl Drop for Lasting {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn idle_says_that_it_is_ready_and_ends_when_it_is_asked_to() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let mut idle = Lasting::start("idle");
        assert_eq!(idle.line(), "ready\n");
        assert_eq!(idle.signal(signal).code(), Some(0), "{signal:?}");
        assert_eq!(idle.line(), "");
    }
}

#[test]
fn first_byte_is_a_line_and_the_end() {
    let output = run("first-byte");
    assert!(output.status.success());
    assert_eq!(output.stdout, b"!\n");
}

#[test]
fn facts_are_this_kernels() {
    let facts: Facts = result("facts");
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    assert_eq!(facts.boot_id.as_deref(), Some(boot_id.trim()));
    let pid = fs::read_link("/proc/self/ns/pid").unwrap();
    assert_eq!(
        facts.namespaces.get(&"pid".into()).map(|text| text.to_string()),
        pid.to_str().map(str::to_owned)
    );
}

#[test]
fn setting_is_told_whether_it_can_be_written_or_not() {
    let read: ProcSysResult = result("proc-sys --path kernel/no-such --value 1");
    assert!(!read.written && read.error.is_some());
    failure("proc-sys --path ../../etc/passwd --value 1", 2);
    failure("proc-sys --path kernel/domainname", 2);
}

#[test]
fn children_are_started_up_to_the_limit_and_ended() {
    let done: AttemptResult = result("try fork --limit 20");
    assert_eq!((done.done, done.succeeded), (true, Some(20)), "{done:?}");
    for limit in ["0", "65537", "18446744073709551615", "x"] {
        failure(&format!("try fork --limit {limit}"), 2);
    }
}

#[test]
fn machine_that_tests_run_on_does_not_panic() {
    let own = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    failure("try panic", 2);
    failure("try panic --yes-in-a-vm", 2);
    failure("try panic --yes-in-a-vm --host-boot-id none", 2);
    let message = failure(&format!("try panic --yes-in-a-vm --host-boot-id {own}"), 2);
    assert!(message.contains("host's own kernel"), "{message}");
}

#[test]
fn work_is_what_was_asked_for() {
    let cpu: CpuResult = result("cpu --iterations 1000");
    assert_eq!(
        (cpu.iterations, cpu.checksum),
        (1000, result::<CpuResult>("cpu --iterations 1000").checksum)
    );
    for kind in ["getppid", "openclose", "pipe"] {
        let syscall: SyscallResult = result(&format!("syscall --count 100 --kind {kind}"));
        assert_eq!((syscall.count, &*syscall.kind), (100, kind));
    }
    let memory: MemoryResult = result("memory --bytes 1048576 --rounds 2");
    assert_eq!((memory.bytes, memory.rounds), (1 << 20, 2));
    // This process has one thread: each page is a fault, but for a few of its own.
    assert!(memory.faults >= memory.pages, "{memory:?}");
}

#[test]
fn work_without_an_amount_or_beyond_all_bounds_is_refused() {
    for line in [
        "cpu --iterations 0",
        "cpu --iterations 18446744073709551615",
        "syscall --count 0",
        "syscall --count 18446744073709551615",
        "syscall --count 1 --kind exit",
        "memory --bytes 0 --rounds 1",
        "memory --bytes 1048576 --rounds 0",
        "memory --bytes 18446744073709551615 --rounds 1",
        "disk --dir /tmp --bytes 0 --operations 1",
        "disk --dir /tmp --bytes 1048576 --operations 0",
        "cpu --iterations 1 --loud 2",
        "cpu",
        "nothing",
        "",
    ] {
        failure(line, 2);
    }
}

#[test]
fn disk_is_measured_and_left_empty() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().display();
    let disk: DiskResult =
        result(&format!("disk --dir {path} --bytes 2097152 --operations 10 --direct --no-fio"));
    assert_eq!(&*disk.tool, "vmctl's own");
    assert_eq!(disk.random_write.latency.count, 10);
    assert!(fs::read_dir(directory.path()).unwrap().next().is_none());
    let message = failure("disk --dir /no/such --bytes 2097152 --operations 10 --no-fio", 1);
    assert!(message.contains("/no/such"), "{message}");
}

#[test]
fn fio_of_the_image_is_used_and_believed_within_bounds() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let fio = directory.path().join("fio");
    let figures = r#"{"bw_bytes":5,"iops":6,"clat_ns":{"min":1,"N":2,"percentile":{"50.000000":3,"99.000000":4}}}"#;
    let good = format!(
        r#"echo '{{"fio version":"fio-3.33","jobs":[{{"read":{figures},"write":{figures}}}]}}'"#
    );
    let with_fio = |script: &str| {
        fs::write(&fio, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&fio, fs::Permissions::from_mode(0o755)).unwrap();
        let line =
            format!("disk --dir {} --bytes 2097152 --operations 10", directory.path().display());
        probe(&line).env("PATH", directory.path()).output().unwrap()
    };
    let output = with_fio(&good);
    let disk: DiskResult = parse(std::str::from_utf8(&output.stdout).unwrap()).unwrap();
    assert_eq!(&*disk.tool, "fio-3.33");
    assert_eq!(disk.random_read.latency.median_ns, 3);
    for bad in
        ["exit 1", "echo {", "echo '[]'", "while echo xxxxxxxxxxxxxxxxxxxxxxxxxxxx; do :; done"]
    {
        let output = with_fio(bad);
        assert_eq!(output.status.code(), Some(1), "{bad}: {output:?}");
    }
    let left = fs::read_dir(directory.path()).unwrap().count();
    assert_eq!(left, 1, "nothing but fio");
}

#[test]
fn bytes_go_between_server_and_client_in_each_mode() {
    let (mut server, address) = Lasting::serve("net-server");
    let client = format!("net-client --address {address} --mode");
    let trips: LatencyResult = result(&format!("{client} latency --count 50"));
    assert_eq!(trips.latency.count, 50);
    let up: TransferResult = result(&format!("{client} up --bytes 300000"));
    let down: TransferResult = result(&format!("{client} down --bytes 300000"));
    assert_eq!((up.bytes, down.bytes), (300_000, 300_000));
    assert_eq!(server.signal(Signal::TERM).code(), Some(0));
    failure(&format!("{client} latency --count 1"), 1);
    failure(&format!("{client} latency --count 0"), 2);
}

#[test]
fn web_server_answers_and_outlives_bad_clients() {
    let (mut server, address) = Lasting::serve("web-server");
    let mut rude = TcpStream::connect(address).unwrap();
    rude.write_all(b"\0\0\0\r\n\r\n").unwrap();
    let mut answer = String::new();
    rude.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let first: ConnectResult = result(&format!("connect --address {address} --timeout-ms 30000"));
    assert_eq!((first.status, first.attempts), (Some(200), 1));
    let web: WebResult =
        result(&format!("web-client --address {address} --requests 40 --connections 4"));
    assert_eq!(web.statuses.get(&200), Some(&40));
    assert_eq!(web.body_bytes, 40 * 1024);
    assert_eq!(server.signal(Signal::INT).code(), Some(0));
}

#[test]
fn port_that_is_taken_is_told() {
    let taken = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    for server in ["net-server", "web-server"] {
        let message = failure(&format!("{server} --port {port}"), 1);
        assert!(message.contains(&format!(":{port}: ")), "{message}");
    }
}

#[test]
fn answers_that_are_no_http_are_told() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"SSH-2.0-nobody\r\n");
        }
    });
    let line = format!("web-client --address {address} --requests 1 --connections 1");
    assert!(failure(&line, 1).contains("no HTTP"));
    let message = failure(&format!("connect --address {address} --timeout-ms 50"), 1);
    assert!(message.contains("no HTTP"), "{message}");
}

#[test]
fn nobody_to_print_to_is_an_error() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = probe("first-byte").stdout(writer).stderr(Stdio::null()).status().unwrap();
    assert_eq!(status.code(), Some(1));
}
