//! Many clients at once, and one that never ends its request, while a VM starts, stands still and
//! is saved.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use integration_tests::api_vm::ApiVm;
use integration_tests::curl::ask;
use integration_tests::guest::Guest;
use integration_tests::transcript::{Case, parse, play};

use crate::workshop::Workshop;

/// How many clients there are besides the one that drives the VM.
const CLIENTS: usize = 32;

/// How long an answer may take. All clients and the guest share one emulated processor.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// How long a client thinks before its next request: without a thought, 32 of them would leave the
/// lab's processor no time for the guest.
const THOUGHT: Duration = Duration::from_millis(200);

/// How often the VM is paused, saved and resumed.
const ROUNDS: usize = 3;

const START: &str = r#"
PUT /boot-source {"kernel_image_path":"vmlinux","initrd_path":"initrd","boot_args":"console=ttyS0 quiet reboot=k panic=-1 rdinit=/init"}
  204
PUT /machine-config {"vcpu_count":1,"mem_size_mib":128}
  204
PUT /drives/data {"drive_id":"data","path_on_host":"data.img","is_root_device":false}
  204
PUT /balloon {"amount_mib":0,"deflate_on_oom":true,"stats_polling_interval_s":1}
  204
PUT /mmds {}
  204
PUT /actions {"action_type":"InstanceStart"}
  204
"#;

/// What the clients ask for, each beginning at another line. What has no answer yet is a 400 until
/// the VM is there.
const ASKED: &str = r#"
GET /
  200
PATCH /mmds {"client":"was here"}
  204
GET /vm/config
  200
PATCH /drives/data {"drive_id":"data","rate_limiter":{"ops":{"size":1000,"refill_time":100}}}
  204
GET /ext/v1/vm
  200
PATCH /balloon/statistics {"stats_polling_interval_s":2}
  204
GET /ext/v1/metrics
  200
PATCH /balloon {"amount_mib":1}
  204
GET /balloon/statistics
  200
GET /ext/v1/events?follow=false
  200
GET /nowhere
  400
"#;

/// Saves the VM.
const SAVE: &str = r#"
PATCH /vm {"state":"Paused"}
  204
PUT /snapshot/create {"snapshot_path":"vm.state","mem_file_path":"vm.mem"}
  204
PATCH /vm {"state":"Resumed"}
  204
"#;

/// What became of one client's requests.
#[derive(Debug, Default)]
struct Tally {
    answers: BTreeMap<u16, usize>,
    slowest: Duration,
}

/// One client's connection, kept open from request to request.
struct Connection(UnixStream);

impl Connection {
    fn open(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        stream.set_write_timeout(Some(ANSWER_LIMIT))?;
        Ok(Self(stream))
    }

    /// Sends a request and returns the answer's status.
    fn request(&mut self, case: &Case) -> Result<u16> {
        let Case { method, path, body, .. } = case;
        let length = body.len();
        write!(self.0, "{method} {path} HTTP/1.1\r\nHost: localhost\r\n")?;
        write!(self.0, "Content-Length: {length}\r\n\r\n{body}")?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte).context("the answer's head")?;
            head.push(byte[0]);
        }
        let head = String::from_utf8(head)?.to_lowercase();
        let status = head.split(' ').nth(1).context("no status")?.parse()?;
        self.skip_body(&head)?;
        Ok(status)
    }

    /// Reads a body to its end: of a known length, or in chunks.
    fn skip_body(&mut self, head: &str) -> Result<()> {
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        if let Some(length) = length {
            return self.skip(length.parse()?);
        }
        if !head.contains("transfer-encoding: chunked") {
            return Ok(());
        }
        loop {
            let mut line = Vec::new();
            while !line.ends_with(b"\r\n") {
                let mut byte = [0];
                self.0.read_exact(&mut byte).context("a chunk's length")?;
                line.push(byte[0]);
            }
            let length = usize::from_str_radix(std::str::from_utf8(&line)?.trim(), 16)?;
            self.skip(length + 2)?;
            if length == 0 {
                return Ok(());
            }
        }
    }

    fn skip(&mut self, bytes: usize) -> Result<()> {
        self.0.read_exact(&mut vec![0; bytes]).context("the answer's body")
    }
}

/// Asks for one thing after the other until `stop`, and holds each answer to its time and status.
fn client(number: usize, socket: &Path, cases: &[Case], stop: &AtomicBool) -> Result<Tally> {
    let mut connection = Connection::open(socket)?;
    let mut tally = Tally::default();
    for case in cases.iter().cycle().skip(number) {
        let since = Instant::now();
        let status = connection
            .request(case)
            .with_context(|| format!("client {number}: {} {}", case.method, case.path))?;
        let took = since.elapsed();
        ensure!(status == case.status || status == 400, "client {number}: {case:?}: {status}");
        ensure!(took < ANSWER_LIMIT, "client {number}: {case:?} took {took:?}");
        *tally.answers.entry(status).or_default() += 1;
        tally.slowest = tally.slowest.max(took);
        if stop.load(Ordering::Relaxed) {
            break;
        }
        thread::sleep(THOUGHT);
    }
    Ok(tally)
}

/// Sends the head of a request byte by byte and never its end; each time that the VMM has enough of
/// it, it begins anew. Returns how often that was.
fn slow_client(socket: &Path, stop: &AtomicBool) -> Result<usize> {
    let head = b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ";
    let mut refused = 0;
    while !stop.load(Ordering::Relaxed) {
        let mut stream = UnixStream::connect(socket)?;
        let mut bytes = head.iter().copied().chain(std::iter::repeat(b'z'));
        let next = || bytes.next().unwrap_or_default();
        for byte in std::iter::repeat_with(next) {
            if stop.load(Ordering::Relaxed) {
                return Ok(refused);
            }
            if stream.write_all(&[byte]).is_err() {
                refused += 1;
                break;
            }
            thread::sleep(THOUGHT);
        }
    }
    Ok(refused)
}

#[test]
fn clients_are_answered_in_time_while_a_vm_starts_stands_still_and_is_saved() -> Result<()> {
    let workshop = Workshop::new()?;
    let vmm = workshop.vmm("many_clients")?;
    let socket = vmm.socket().to_owned();
    let cases = parse(ASKED)?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let (socket, cases, stop) = (&socket, &cases, &stop);
        let slow = scope.spawn(|| slow_client(socket, stop));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| scope.spawn(move || client(number, socket, cases, stop)))
            .collect();

        let driven = drive(vmm);

        stop.store(true, Ordering::Relaxed);
        let slow = slow.join().map_err(|_| anyhow!("the slow client panicked"))?;
        for client in clients {
            let tally = client.join().map_err(|_| anyhow!("a client panicked"))??;
            let succeeded = tally.answers.iter().filter(|(status, _)| **status != 400);
            let succeeded: usize = succeeded.map(|(_, count)| count).sum();
            ensure!(succeeded > 10, "a client had few answers: {tally:?}");
        }
        let guest = driven?;
        ensure!(slow? > 0, "the slow client was never refused");
        ask(socket, "GET", "/", "")?;
        guest.power_off()
    })
}

/// Starts the VM, saves it a few times, and holds its guest to be alive after each.
fn drive(vmm: ApiVm) -> Result<Guest<ApiVm>> {
    let socket = vmm.socket().to_owned();
    play(&socket, &parse(START)?)?;
    let mut guest = Guest::wait_ready(vmm)?;
    for _ in 0..ROUNDS {
        play(&socket, &parse(SAVE)?)?;
        guest.run("true")?;
    }
    Ok(guest)
}
