//! Many clients at once, and one that never ends its request, while a VM starts, stands still and
//! is saved.
//!
//! What is held to account is that everybody is answered in each of these states, not how soon: all
//! of them share one emulated processor with the guest, and that machine's time with other suites.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use integration_tests::PATIENCE;
use integration_tests::api_vm::ApiVm;
use integration_tests::curl::ask;
use integration_tests::guest::Guest;
use integration_tests::transcript::{Case, parse, play};

use crate::workshop::Workshop;

/// How many clients there are besides the one that drives the VM.
const CLIENTS: usize = 32;

/// How long a client thinks before its next request: without a thought, 32 of them would leave the
/// lab's processor no time for the guest.
const THOUGHT: Duration = Duration::from_millis(500);

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

/// What the clients ask for, each beginning at another line. Anything may be a 400 before the VM runs,
/// and while it stands still.
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

const PAUSE: &str = r#"
PATCH /vm {"state":"Paused"}
  204
"#;

/// Saves the VM.
const SAVE: &str = r#"
PUT /snapshot/create {"snapshot_path":"vm.state","mem_file_path":"vm.mem"}
  204
"#;

const RESUME: &str = r#"
PATCH /vm {"state":"Resumed"}
  204
"#;

/// How often each client has been answered.
struct Answers {
    counts: Mutex<Vec<usize>>,
    changed: Condvar,
}

impl Answers {
    fn new() -> Self {
        Self { counts: Mutex::new(vec![0; CLIENTS]), changed: Condvar::new() }
    }

    fn count(&self, client: usize) {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)[client] += 1;
        self.changed.notify_all();
    }

    /// Has nobody wait for a client that gave up.
    fn leave(&self, client: usize) {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)[client] = usize::MAX;
        self.changed.notify_all();
    }

    /// Waits until each client has been answered twice more: the second time by the VM as it is now.
    fn await_all(&self) -> Result<()> {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted: Vec<usize> = counts.iter().map(|count| count.saturating_add(2)).collect();
        let is_missing = |(count, wanted): (&usize, &usize)| count < wanted;
        let waits = |counts: &mut Vec<usize>| counts.iter().zip(&wanted).any(is_missing);
        let waited = self.changed.wait_timeout_while(counts, PATIENCE, waits);
        let (counts, wait) = waited.unwrap_or_else(PoisonError::into_inner);
        ensure!(!wait.timed_out(), "not everybody is answered: {counts:?} instead of {wanted:?}");
        Ok(())
    }
}

/// One client's connection, kept open from request to request.
struct Connection(BufReader<UnixStream>);

impl Connection {
    fn open(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket)?;
        // Only an answer that never comes takes so long.
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Sends a request and returns the answer's status.
    fn request(&mut self, case: &Case) -> Result<u16> {
        let Case { method, path, body, .. } = case;
        let length = body.len();
        // At once: a client that's held up between two parts of it would be a slow one.
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        self.0.get_mut().write_all(request.as_bytes())?;
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            head += &self.line().context("the answer's head")?;
        }
        let head = head.to_lowercase();
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
            let line = self.line().context("a chunk's length")?;
            let length = usize::from_str_radix(line.trim(), 16)?;
            self.skip(length + 2)?;
            if length == 0 {
                return Ok(());
            }
        }
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(self.0.read_line(&mut line)? > 0, "the connection was closed");
        Ok(line)
    }

    fn skip(&mut self, bytes: usize) -> Result<()> {
        self.0.read_exact(&mut vec![0; bytes]).context("the answer's body")
    }
}

/// Asks for one thing after the other until `stop`, and then for each once more, when the VM runs.
fn client(
    number: usize,
    socket: &Path,
    cases: &[Case],
    answers: &Answers,
    stop: &AtomicBool,
) -> Result<()> {
    let mut connection = Connection::open(socket)?;
    let mut ask = |case: &Case| {
        let status = connection.request(case);
        answers.count(number);
        status.with_context(|| format!("client {number}: {} {}", case.method, case.path))
    };
    for case in cases.iter().cycle().skip(number) {
        let status = ask(case)?;
        ensure!(status == case.status || status == 400, "client {number}: {case:?}: {status}");
        if stop.load(Ordering::Relaxed) {
            break;
        }
        thread::sleep(THOUGHT);
    }
    for case in cases {
        let status = ask(case)?;
        ensure!(status == case.status, "client {number}: {case:?}: {status} by a VM that runs");
    }
    Ok(())
}

/// Sends the head of a request byte by byte and never its end; each time that the VMM has enough of
/// it, it begins anew. Goes on until `stop`, and until the VMM had enough once.
fn slow_client(socket: &Path, stop: &AtomicBool) -> Result<()> {
    let head = b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ";
    let since = Instant::now();
    loop {
        let mut stream = UnixStream::connect(socket)?;
        let mut bytes = head.iter().copied().chain(std::iter::repeat(b'z'));
        while stream.write_all(bytes.next().as_slice()).is_ok() {
            thread::sleep(THOUGHT);
            let refused = stop.load(Ordering::Relaxed) && since.elapsed() > PATIENCE;
            ensure!(!refused, "the slow client was never refused");
        }
        if stop.load(Ordering::Relaxed) {
            return Ok(());
        }
    }
}

#[test]
fn all_clients_are_answered_while_a_vm_starts_stands_still_and_is_saved() -> Result<()> {
    let workshop = Workshop::new()?;
    let vmm = workshop.vmm("many_clients")?;
    let socket = vmm.socket().to_owned();
    let cases = parse(ASKED)?;
    let stop = AtomicBool::new(false);
    let answers = Answers::new();
    thread::scope(|scope| {
        let (socket, cases, answers, stop) = (&socket, &cases, &answers, &stop);
        let slow = scope.spawn(|| slow_client(socket, stop));
        let attend = move |number| {
            let outcome = client(number, socket, cases, answers, stop);
            answers.leave(number);
            outcome
        };
        let clients: Vec<_> =
            (0..CLIENTS).map(|number| scope.spawn(move || attend(number))).collect();

        let driven = drive(vmm, answers);

        stop.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().map_err(|_| anyhow!("a client panicked"))??;
        }
        let guest = driven?;
        slow.join().map_err(|_| anyhow!("the slow client panicked"))??;
        ask(socket, "GET", "/", "")?;
        guest.power_off()
    })
}

/// Starts the VM, saves it a few times, and holds its guest to be alive after each.
fn drive(vmm: ApiVm, answers: &Answers) -> Result<Guest<ApiVm>> {
    let socket = vmm.socket().to_owned();
    answers.await_all().context("before the start")?;
    play(&socket, &parse(START)?)?;
    answers.await_all().context("while the guest boots")?;
    let mut guest = Guest::wait_ready(vmm)?;
    for _ in 0..ROUNDS {
        play(&socket, &parse(PAUSE)?)?;
        answers.await_all().context("while the guest stands still")?;
        // Whoever asks meanwhile is answered afterwards.
        play(&socket, &parse(SAVE)?)?;
        play(&socket, &parse(RESUME)?)?;
        guest.run("true")?;
        answers.await_all().context("while the guest runs")?;
    }
    Ok(guest)
}
