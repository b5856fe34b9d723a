//! Networks: a guest and a network namespace on the host reach each other, and what arrives is what
//! was sent.

use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, UdpSocket};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use integration_tests::PATIENCE;
use integration_tests::guest::Guest;
use integration_tests::network::Namespace;
use integration_tests::transfer::{accept_tcp, random_bytes, read_to_end, sha256};
use integration_tests::vm::Boot;
use serde_json::Value;

/// How much is sent each way.
const TRANSFER_BYTES: usize = 64 << 20;

/// Boots a guest on the namespace's TAP and gives it its address.
fn start(boot: Boot, namespace: &Namespace, options: &str) -> Result<Guest> {
    let mut guest = boot
        .flag("--net", format!("tap={}{options}", Namespace::TAP))
        .started_by("ip", &["netns", "exec", &namespace.name])
        .guest()?;
    let interface = interface(&mut guest)?;
    let address = Namespace::GUEST;
    guest
        .run(&format!("ip addr add {address}/24 dev {interface} && ip link set {interface} up"))?;
    Ok(guest)
}

/// Returns the name that the guest has given its only network card.
fn interface(guest: &mut Guest) -> Result<String> {
    guest.run("for i in /sys/class/net/*; do [ -e $i/device ] && echo ${i##*/}; done; true")
}

fn ping_both_ways(namespace: &Namespace, guest: &mut Guest) -> Result<()> {
    guest.run(&format!("ping -c 3 -W 60 {}", Namespace::HOST))?;
    let output =
        namespace.command("ping").args(["-c", "3", "-W", "60", Namespace::GUEST]).output()?;
    ensure!(output.status.success(), "ping: {}", String::from_utf8_lossy(&output.stdout));
    Ok(())
}

/// Sends random bytes to the guest and gets them back, as the guest's disk of memory had them.
fn transfer_both_ways(namespace: &Namespace, guest: &mut Guest) -> Result<()> {
    let listener = namespace.inside(|| Ok(TcpListener::bind((Namespace::HOST, 0))?))?;
    let port = listener.local_addr()?.port();
    let connect = format!("nc {} {port}", Namespace::HOST);
    let data = random_bytes(TRANSFER_BYTES)?;
    let hash = sha256(&data)?;

    guest.start(&format!("{connect} </dev/null >/tmp/data"))?;
    let mut stream = accept_tcp(&listener)?;
    stream.write_all(&data).context("send to the guest")?;
    stream.shutdown(Shutdown::Write)?;
    let output = guest.finish(PATIENCE)?;
    ensure!(output.status == 0, "{output:?}");
    let received = guest.run("sha256sum </tmp/data")?;
    ensure!(received.starts_with(&hash), "the guest received {received} instead of {hash}");

    guest.start(&format!("{connect} </tmp/data"))?;
    let back = read_to_end(accept_tcp(&listener)?)?;
    let output = guest.finish(PATIENCE)?;
    ensure!(output.status == 0, "{output:?}");
    ensure!(back.len() == data.len(), "{} bytes of {} came back", back.len(), data.len());
    ensure!(sha256(&back)? == hash, "the host received something else");
    Ok(())
}

fn guest_and_host_exchange_data(transport: &str) -> Result<()> {
    let namespace = Namespace::new(transport, &[])?;
    let boot = Boot::lean(&format!("net_{transport}")).flag("--transport", transport);
    let mut guest = start(boot, &namespace, ",mac=52:54:00:12:34:56")?;
    let interface = interface(&mut guest)?;
    let mac = guest.run(&format!("cat /sys/class/net/{interface}/address"))?;
    ensure!(mac == "52:54:00:12:34:56", "{mac}");
    ping_both_ways(&namespace, &mut guest)?;
    transfer_both_ways(&namespace, &mut guest)?;
    guest.power_off()?;
    // The TAP stays, and is free for the next VM.
    let link = namespace.ip(&["link", "show", "dev", Namespace::TAP])?;
    ensure!(link.contains("NO-CARRIER"), "{link}");
    Ok(())
}

#[test]
fn guest_and_host_exchange_data_over_pci() -> Result<()> {
    guest_and_host_exchange_data("pci")
}

#[test]
fn guest_and_host_exchange_data_over_mmio() -> Result<()> {
    guest_and_host_exchange_data("mmio")
}

fn two_queues_carry_data(transport: &str) -> Result<()> {
    let namespace = Namespace::new(&format!("mq-{transport}"), &["multi_queue"])?;
    let boot = Boot::lean(&format!("queues_{transport}"))
        .flag("--transport", transport)
        .flag("--cpus", "2");
    let mut guest = start(boot, &namespace, ",queues=2")?;
    let interface = interface(&mut guest)?;
    let queues = guest.run(&format!("cd /sys/class/net/{interface}/queues && echo *; cd /"))?;
    ensure!(queues == "rx-0 rx-1 tx-0 tx-1", "{queues}");
    ping_both_ways(&namespace, &mut guest)?;
    // From each processor in turn: each sends through a queue of its own.
    for cpu in ["1", "2"] {
        guest.run(&format!("taskset {cpu} ping -c 2 -W 60 {}", Namespace::HOST))?;
    }
    transfer_both_ways(&namespace, &mut guest)?;
    guest.power_off()
}

#[test]
fn two_queues_carry_data_over_pci() -> Result<()> {
    two_queues_carry_data("pci")
}

#[test]
fn two_queues_carry_data_over_mmio() -> Result<()> {
    two_queues_carry_data("mmio")
}

/// The advisory of a card that never received again once TAP and ring had both been full.
#[test]
fn card_receives_again_after_a_flood_that_the_guest_did_not_keep_up_with() -> Result<()> {
    let namespace = Namespace::new("flood", &[])?;
    let mut guest = start(Boot::lean("net_flood"), &namespace, "")?;
    ping_both_ways(&namespace, &mut guest)?;
    let link = |state: &str| namespace.ip(&["link", "set", "dev", Namespace::TAP, state]);
    let socket = namespace.inside(|| Ok(UdpSocket::bind((Namespace::HOST, 0))?))?;
    // More than the TAP's own queue and the ring hold together, several times.
    for _ in 0..20_000 {
        // Nobody listens: the guest's answer to that shows as an error of a later call.
        let _ = socket.send_to(&[0; 1400], (Namespace::GUEST, 9));
    }
    ping_both_ways(&namespace, &mut guest)?;
    // The same after the TAP was taken down and put up under the running guest.
    link("down")?;
    link("up")?;
    ping_both_ways(&namespace, &mut guest)?;
    guest.power_off()
}

#[test]
fn iperf3_runs_both_ways() -> Result<()> {
    let namespace = Namespace::new("iperf", &[])?;
    let boot = Boot::debian_shell("iperf3").flag("--memory", "512M");
    let mut guest = start(boot, &namespace, "")?;
    for direction in ["", "--reverse"] {
        let mut server = namespace
            .command("iperf3")
            .args(["--server", "--one-off", "--forceflush"])
            .stdout(Stdio::piped())
            .spawn()?;
        let mut lines = BufReader::new(server.stdout.take().context("no stdout")?).lines();
        // It says so once it listens.
        let listens = lines.by_ref().map_while(Result::ok).any(|line| line.contains("listening"));
        ensure!(listens, "iperf3's server ended early: {:?}", server.wait()?);
        // The rest is read so that the server never waits for its reader.
        let reader = std::thread::spawn(move || lines.map_while(Result::ok).count());
        let client = format!(
            "iperf3 --client {} --bytes 16M --json {direction} >/tmp/iperf.json; cat /tmp/iperf.json",
            Namespace::HOST
        );
        let output = guest.try_run(&client);
        // It ends by itself after a client, and is ended after none.
        let ended = integration_tests::vm::wait_process(server.id(), PATIENCE)?;
        if !ended {
            server.kill()?;
        }
        server.wait()?;
        ensure!(reader.join().is_ok(), "the server's output can't be read");
        let text = output?.text;
        let report: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
        ensure!(report.get("error").is_none(), "{text}");
        for side in ["/end/sum_sent/bytes", "/end/sum_received/bytes"] {
            let bytes = report.pointer(side).and_then(Value::as_f64);
            ensure!(bytes.is_some_and(|bytes| bytes > 0.0), "{side} of {text}");
        }
    }
    guest.power_off()
}
