//! Stream sockets between guest and host, over Unix sockets with the `CONNECT PORT` convention.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use integration_tests::PATIENCE;
use integration_tests::guest::Guest;
use integration_tests::transfer::{accept_unix, random_bytes, read_to_end, sha256};
use integration_tests::vm::Boot;
use integration_tests::vsock::connect;
use tempfile::TempDir;

/// How much is sent each way.
const TRANSFER_BYTES: usize = 1 << 20;

/// A Debian guest with a socket device, and the Unix socket that leads to it.
struct Fixture {
    directory: TempDir,
    guest: Guest,
}

impl Fixture {
    fn boot(test: &str, transport: &str) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let socket = directory.path().join("vsock");
        let guest = Boot::debian_shell(test)
            .flag("--vsock", format!("cid=42,path={}", socket.display()))
            .flag("--transport", transport)
            .guest()?;
        Ok(Self { directory, guest })
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("vsock")
    }

    /// Starts a socat in the guest that listens on `port`, and waits until it does.
    fn listen_in_guest(&mut self, port: u32, options: &str, target: &str) -> Result<()> {
        let log = format!("/tmp/socat-{port}");
        self.guest.run(&format!(
            "socat -d -d {options} VSOCK-LISTEN:{port} {target} 2>{log} & \
             until grep -q 'listening on' {log}; do sleep 0.1; done"
        ))?;
        Ok(())
    }

    /// Listens on the host where the guest's connections to `port` arrive.
    fn listen_on_host(&self, port: u32) -> Result<UnixListener> {
        let path = format!("{}_{port}", self.socket().display());
        UnixListener::bind(&path).with_context(|| path)
    }
}

fn host_reaches_the_guest(transport: &str) -> Result<()> {
    let mut fixture = Fixture::boot(&format!("to_guest_{transport}"), transport)?;
    fixture.listen_in_guest(5000, "", "PIPE")?;
    let mut echo = connect(&fixture.socket(), 5000)?.context("the guest refused")?;
    echo.get_mut().write_all(b"hello guest")?;
    let mut answer = [0; 11];
    echo.read_exact(&mut answer)?;
    ensure!(&answer == b"hello guest", "{answer:?}");
    drop(echo);

    fixture.listen_in_guest(5001, "-u", "CREATE:/tmp/received")?;
    let data = random_bytes(TRANSFER_BYTES)?;
    let mut stream = connect(&fixture.socket(), 5001)?.context("the guest refused")?;
    stream.get_mut().write_all(&data)?;
    stream.get_ref().shutdown(Shutdown::Write)?;
    ensure!(read_to_end(stream)?.is_empty(), "the guest sent something");
    // The connection ends when socat does, after it has written all.
    let received = fixture.guest.run("wait; sha256sum </tmp/received")?;
    ensure!(received.starts_with(&sha256(&data)?), "the guest received {received}");

    fixture.listen_in_guest(5002, "-U", "OPEN:/tmp/received,rdonly")?;
    let stream = connect(&fixture.socket(), 5002)?.context("the guest refused")?;
    ensure!(read_to_end(stream)? == data, "the host received something else");
    fixture.guest.power_off()
}

#[test]
fn host_reaches_the_guest_over_pci() -> Result<()> {
    host_reaches_the_guest("pci")
}

#[test]
fn host_reaches_the_guest_over_mmio() -> Result<()> {
    host_reaches_the_guest("mmio")
}

#[test]
fn guest_reaches_the_host() -> Result<()> {
    let mut fixture = Fixture::boot("to_host", "pci")?;
    let listener = fixture.listen_on_host(6000)?;

    fixture.guest.start("echo hello host | socat -t 600 - VSOCK-CONNECT:2:6000")?;
    let mut stream = BufReader::new(accept_unix(&listener)?);
    let mut line = String::new();
    stream.read_line(&mut line)?;
    ensure!(line == "hello host\n", "{line:?}");
    stream.get_mut().write_all(b"hello guest\n")?;
    drop(stream);
    let output = fixture.guest.finish(PATIENCE)?;
    ensure!(output.status == 0 && output.text == "hello guest", "{output:?}");

    fixture.guest.run(&format!("head -c {TRANSFER_BYTES} /dev/urandom >/tmp/sent"))?;
    let hash = fixture.guest.run("sha256sum </tmp/sent")?;
    fixture.guest.start("socat -u OPEN:/tmp/sent,rdonly VSOCK-CONNECT:2:6000")?;
    let data = read_to_end(accept_unix(&listener)?)?;
    ensure!(fixture.guest.finish(PATIENCE)?.status == 0);
    ensure!(data.len() == TRANSFER_BYTES, "{} bytes arrived", data.len());
    ensure!(hash.starts_with(&sha256(&data)?), "the host received something else than {hash}");

    fixture.guest.start("socat -u VSOCK-CONNECT:2:6000 CREATE:/tmp/back")?;
    let mut stream = accept_unix(&listener)?;
    stream.write_all(&data)?;
    drop(stream);
    ensure!(fixture.guest.finish(PATIENCE)?.status == 0);
    ensure!(fixture.guest.run("sha256sum </tmp/back")? == hash, "the guest received other bytes");
    fixture.guest.power_off()
}

#[test]
fn ports_where_nobody_listens_are_refused_both_ways() -> Result<()> {
    let mut fixture = Fixture::boot("vsock_refused", "pci")?;
    ensure!(connect(&fixture.socket(), 7000)?.is_none(), "a port without a listener answered");
    let refused = fixture.guest.try_run("socat -u OPEN:/dev/null VSOCK-CONNECT:2:7000")?;
    ensure!(refused.status != 0 && refused.text.contains("reset by peer"), "{refused:?}");

    // Neither leaves the device in a state in which it refuses the next one.
    fixture.listen_in_guest(7000, "", "PIPE")?;
    ensure!(connect(&fixture.socket(), 7000)?.is_some(), "a port with a listener was refused");
    fixture.guest.power_off()
}

#[test]
fn guest_has_its_cid_and_the_socket_goes_with_the_vm() -> Result<()> {
    let fixture = Fixture::boot("vsock_gone", "mmio")?;
    let Fixture { directory, mut guest } = fixture;
    let socket = directory.path().join("vsock");
    ensure!(socket.exists(), "there is no socket");
    // A connection that is open to the end doesn't hold anything back.
    guest.run(
        "socat -d -d VSOCK-LISTEN:5000 PIPE 2>/tmp/log & \
         until grep -q 'listening on' /tmp/log; do sleep 0.1; done",
    )?;
    let open = connect(&socket, 5000)?.context("the guest refused")?;
    let log = guest.run("until grep -q 'accepting' /tmp/log; do sleep 0.1; done; cat /tmp/log")?;
    ensure!(log.contains("cid:42"), "the guest's own address in {log}");
    guest.power_off()?;
    ensure!(read_to_end(open)?.is_empty(), "the guest sent something");
    let left: Vec<_> = std::fs::read_dir(directory.path())?.collect();
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}
