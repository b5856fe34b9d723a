//! The network card: full-size frames, a socket pair in place of the TAP.
//!
//! Each frame is one system call on our side and one on the other, which is measured with it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use benches::{BATCHES, BUFFERS, QUEUE_SIZE, activate, queues, wait_for_used};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use devices::rate_limiter::RateLimiterConfig;
use devices::virtio::net::{FrameBackend, Net, NetConfig};
use devices::virtio::testing::{Buffer, TestQueue, guest_ram};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use sys::tap::Offloads;

/// The header before each frame (VIRTIO 1.3 §5.1.6) and the largest Ethernet frame.
const PACKET_BYTES: usize = 12 + 1514;
const BUFFER_BYTES: u32 = 2048;
/// `VIRTIO_NET_F_MRG_RXBUF`: what every driver of today takes.
const MERGEABLE: u64 = 1 << 15;

/// Our end of the socket pair.
struct SocketBackend(OwnedFd);

impl AsFd for SocketBackend {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl FrameBackend for SocketBackend {
    fn supported_offloads(&self) -> Offloads {
        Offloads::CLASSIC
    }

    fn set_offloads(&self, _offloads: Offloads) -> io::Result<()> {
        Ok(())
    }

    fn set_enabled(&self, _enabled: bool) -> io::Result<()> {
        Ok(())
    }
}

/// A card, the driver of its queues and the other end of its wire.
struct Rig {
    _net: Net,
    rx: TestQueue,
    tx: TestQueue,
    host: OwnedFd,
}

impl Rig {
    fn new() -> Result<Self> {
        let (host, ours) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .context("cannot make a socket pair")?;
        rustix::io::ioctl_fionbio(&ours, true).context("cannot set up a socket")?;
        let config = NetConfig {
            mac: [2, 0, 0, 0, 0, 1],
            queue_pairs: 1,
            queue_size: QUEUE_SIZE,
            mtu: None,
            rx_limit: RateLimiterConfig::default(),
            tx_limit: RateLimiterConfig::default(),
        };
        let mut net = Net::new(config, vec![Box::new(SocketBackend(ours))])?;
        let mut queues = queues(&guest_ram(), 2);
        activate(&mut net, &queues, MERGEABLE)?;
        let tx = queues.pop().context("two queues were laid out")?;
        let rx = queues.pop().context("two queues were laid out")?;
        Ok(Self { _net: net, rx, tx, host })
    }

    /// Sends `batch` frames from the guest and takes them at the other end.
    fn transmit(&mut self, batch: u16) {
        let len = u32::try_from(PACKET_BYTES).expect("a small number");
        for slot in 0..u64::from(batch) {
            let at = BUFFERS + slot * u64::from(BUFFER_BYTES);
            self.tx.add_chain(&[Buffer::readable(at, len)]);
        }
        self.tx.kick();
        let mut packet = [0; PACKET_BYTES];
        for _ in 0..batch {
            rustix::net::recv(&self.host, &mut packet, RecvFlags::empty()).expect("a frame");
        }
        wait_for_used(&mut self.tx, batch);
    }

    /// Gives the guest's driver `batch` buffers, and the card as many frames.
    fn receive(&mut self, batch: u16) {
        for slot in 0..u64::from(batch) {
            let at = BUFFERS + (slot + u64::from(QUEUE_SIZE)) * u64::from(BUFFER_BYTES);
            self.rx.add_chain(&[Buffer::writable(at, BUFFER_BYTES)]);
        }
        self.rx.kick();
        let packet = [0; PACKET_BYTES];
        for _ in 0..batch {
            rustix::net::send(&self.host, &packet, SendFlags::empty()).expect("room for a frame");
        }
        wait_for_used(&mut self.rx, batch);
    }
}

/// Moves a batch of frames in one direction.
type Direction = fn(&mut Rig, u16);

fn net(criterion: &mut Criterion) {
    let mut rig = Rig::new().expect("a network card");
    for (name, run) in [("transmit", Rig::transmit as Direction), ("receive", Rig::receive)] {
        let mut group = criterion.benchmark_group(format!("net/{name} 1514 bytes"));
        for batch in BATCHES {
            group.throughput(Throughput::Elements(batch.into()));
            group.bench_function(format!("{batch} at once"), |bencher| {
                bencher.iter(|| run(&mut rig, batch));
            });
        }
        group.finish();
    }
}

criterion_group!(group, net);
criterion_main!(group);
