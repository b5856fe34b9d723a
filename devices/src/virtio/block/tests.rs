//! The device from its driver's side.

mod control;
mod overlay;

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use sys::memory::GuestRam;
use tempfile::NamedTempFile;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_MQ, VIRTIO_BLK_F_RO, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH,
    VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::*;
use crate::disk::{Completion, Disk, DiskOptions, Engine, Format, IoEngine, IoRequest};
use crate::rate_limiter::TokenBucketConfig;
use crate::virtio::serve::testing::Loop;
use crate::virtio::testing::{Buffer, TestQueue, guest_ram};
use crate::virtio::{DeviceQueue, Notifier, TransportInterrupt};

const QUEUE_SIZE: u16 = 64;
const DISK_LEN: u64 = 1 << 20;
const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;
/// What a status byte is before the device writes it.
const UNSET: u8 = 0xaa;

const HEADERS: u64 = 0x10_0000;
const DATA: u64 = 0x20_0000;

/// How long something that must happen may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// The driver of one queue.
struct Driver {
    queue: TestQueue,
    requests: u64,
}

impl Driver {
    fn new(memory: GuestRam, size: u16, index: u16) -> Self {
        let queue = TestQueue::at(memory, size, u64::from(index) * 0x7000);
        Self { queue, requests: u64::from(index) * 256 }
    }

    fn memory(&self) -> &GuestRam {
        self.queue.memory()
    }

    /// Makes a request available with `data` between header and status; returns where its header
    /// and its status are.
    fn request(&mut self, kind: u32, sector: u64, data: &[Buffer]) -> (u64, u64) {
        let header = HEADERS + self.requests * 32;
        let status = header + 16;
        self.requests += 1;
        self.write_header(header, kind, sector);
        self.memory().write_obj(UNSET, GuestAddress(status)).unwrap();
        let ends = ([Buffer::readable(header, 16)], [Buffer::writable(status, 1)]);
        self.queue.add_chain(&[&ends.0, data, &ends.1].concat());
        (header, status)
    }

    fn write_header(&self, header: u64, kind: u32, sector: u64) {
        self.memory().write_obj(kind.to_le(), GuestAddress(header)).unwrap();
        self.memory().write_obj(sector.to_le(), GuestAddress(header + 8)).unwrap();
    }

    fn status(&self, (_, status): (u64, u64)) -> u8 {
        self.memory().read_obj(GuestAddress(status)).unwrap()
    }

    fn bytes(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory().read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }
}

/// A device with the driver of its first queue, served on the test's own thread.
struct Rig {
    block: Block,
    driver: Driver,
    event_loop: Loop,
}

impl Rig {
    fn new(block: Block, size: u16) -> Self {
        let driver = Driver::new(guest_ram(), size, 0);
        let features = block.offered_features();
        let activation = activation(&[&driver], features);
        let handler = block.handlers(activation).unwrap().remove(0);
        Self { block, driver, event_loop: Loop::new(handler) }
    }

    fn on(backend: impl DiskBackend + 'static) -> Self {
        Self::new(Block::new(&config(), backend).unwrap(), QUEUE_SIZE)
    }

    /// Notifies the device and waits until it has returned `count` more chains.
    fn settle(&mut self, count: usize) -> Vec<(u32, u32)> {
        self.driver.queue.kick();
        self.finish(count)
    }

    fn finish(&mut self, count: usize) -> Vec<(u32, u32)> {
        let mut used = Vec::new();
        let start = Instant::now();
        loop {
            assert!(start.elapsed() < PATIENCE, "only {used:?} came back, not {count}");
            self.event_loop.settle();
            used.extend(self.driver.queue.used());
            if used.len() >= count {
                return used;
            }
            std::thread::yield_now();
        }
    }

    /// Makes one request and returns its status and how many bytes the device says it wrote.
    fn run(&mut self, kind: u32, sector: u64, data: &[Buffer]) -> (u8, u32) {
        let request = self.driver.request(kind, sector, data);
        let used = self.settle(1);
        assert_eq!(used.len(), 1);
        (self.driver.status(request), used[0].1)
    }
}

fn activation(drivers: &[&Driver], features: u64) -> Activation {
    Activation {
        memory: drivers[0].memory().clone(),
        features,
        queues: drivers.iter().zip(0..).map(|(d, n)| d.queue.device_queue(n)).collect(),
        notifier: drivers[0].queue.notifier(),
    }
}

fn config() -> BlockConfig {
    BlockConfig { serial: "serial-0123456789-too-long".to_owned(), ..BlockConfig::default() }
}

fn image(format: Format) -> NamedTempFile {
    let image = NamedTempFile::new().unwrap();
    match format {
        Format::Raw => image.as_file().set_len(DISK_LEN).unwrap(),
        Format::Qcow2 => {
            use imago::{FormatCreateBuilder, Storage, StorageOpenOptions, file, qcow2::Qcow2};
            let options = StorageOpenOptions::new().filename(image.path()).write(true);
            let storage = file::File::open(options).unwrap();
            let builder: imago::qcow2::Qcow2CreateBuilder<_> = Qcow2::create_builder(storage);
            builder.size(DISK_LEN).create().unwrap();
        }
    }
    image
}

fn open(image: &NamedTempFile, options: impl FnOnce(&mut DiskOptions)) -> Disk {
    let mut with = DiskOptions::new(image.path());
    options(&mut with);
    Disk::open(&with).unwrap()
}

/// Runs `check` on a device for each engine and format.
fn each(check: impl Fn(&mut Rig)) {
    for (format, engine) in
        [(Format::Raw, Engine::Sync), (Format::Raw, Engine::IoUring), (Format::Qcow2, Engine::Sync)]
    {
        let image = image(format);
        let disk = open(&image, |options| options.engine = Some(engine));
        println!("{disk:?}");
        check(&mut Rig::on(disk));
    }
}

#[test]
fn written_sectors_are_read_back_and_zeroed() {
    each(|rig| {
        let sectors: Vec<u8> = (0..4096u32).map(|n| (n % 249) as u8).collect();
        rig.driver.memory().write_slice(&sectors, GuestAddress(DATA)).unwrap();
        let source = [Buffer::readable(DATA, 1024), Buffer::readable(DATA + 1024, 3072)];
        assert_eq!(rig.run(VIRTIO_BLK_T_OUT, 8, &source), (OK, 1));
        assert_eq!(rig.run(VIRTIO_BLK_T_FLUSH, 0, &[]), (OK, 1));

        let target = DATA + 0x1_0000;
        let buffers = [Buffer::writable(target, 4000), Buffer::writable(target + 4000, 96)];
        assert_eq!(rig.run(VIRTIO_BLK_T_IN, 8, &buffers), (OK, 4097));
        assert_eq!(rig.driver.bytes(target, 4096), sectors);

        for (kind, flags) in [(VIRTIO_BLK_T_WRITE_ZEROES, 0u32), (VIRTIO_BLK_T_WRITE_ZEROES, 1)] {
            assert_eq!(rig.run(VIRTIO_BLK_T_OUT, 8, &source), (OK, 1));
            let range = [9u64.to_le(), (u64::from(flags) << 32 | 2).to_le()];
            rig.driver.memory().write_obj(range, GuestAddress(DATA + 0x8000)).unwrap();
            assert_eq!(rig.run(kind, 0, &[Buffer::readable(DATA + 0x8000, 16)]), (OK, 1));
            assert_eq!(rig.run(VIRTIO_BLK_T_IN, 8, &buffers), (OK, 4097));
            let read = rig.driver.bytes(target, 4096);
            assert_eq!(read[512..1536], [0; 1024]);
            assert_eq!((&read[..512], &read[1536..]), (&sectors[..512], &sectors[1536..]));
        }
        let discard = [Buffer::readable(DATA + 0x8000, 16)];
        rig.driver.memory().write_obj([8u64, 8], GuestAddress(DATA + 0x8000)).unwrap();
        assert_eq!(rig.run(VIRTIO_BLK_T_DISCARD, 0, &discard), (OK, 1));

        let metrics = rig.block.metrics();
        assert_eq!((metrics.writes.get(), metrics.write_bytes.get()), (3, 3 * 4096));
        assert_eq!((metrics.reads.get(), metrics.read_bytes.get()), (3, 3 * 4096));
        assert_eq!((metrics.flushes.get(), metrics.discards.get()), (1, 3));
        assert_eq!((metrics.failed.get(), metrics.rejected.get()), (0, 0));
    });
}

#[test]
fn serial_is_cut_to_twenty_bytes_and_given_in_any_buffers() {
    let image = image(Format::Raw);
    let mut rig = Rig::on(open(&image, |_| {}));
    let buffers = [Buffer::writable(DATA, 7), Buffer::writable(DATA + 64, 20)];
    assert_eq!(rig.run(VIRTIO_BLK_T_GET_ID, 0, &buffers), (OK, 21));
    assert_eq!(rig.driver.bytes(DATA, 7), b"serial-");
    assert_eq!(rig.driver.bytes(DATA + 64, 14), b"0123456789-to\0");
}

#[test]
fn batch_is_one_interrupt_whatever_engine() {
    let (disk, held) = Held::new();
    let mut rig = Rig::on(disk);
    let requests =
        [(); 8].map(|()| rig.driver.request(VIRTIO_BLK_T_IN, 0, &[Buffer::writable(DATA, 512)]));
    assert_eq!(rig.settle(0), []);
    assert_eq!(rig.driver.queue.interrupts(), 0);
    held.release(8);
    assert_eq!(rig.finish(8).len(), 8);
    assert_eq!(rig.driver.queue.interrupts(), 1);
    assert!(requests.iter().all(|&request| rig.driver.status(request) == OK));
    assert_eq!(held.0.kicks.load(Ordering::Relaxed), 1, "one system call starts a batch");

    let image = image(Format::Raw);
    let mut rig = Rig::on(open(&image, |options| options.engine = Some(Engine::Sync)));
    for _ in 0..8 {
        rig.driver.request(VIRTIO_BLK_T_IN, 0, &[Buffer::writable(DATA, 512)]);
    }
    assert_eq!(rig.settle(8).len(), 8);
    assert_eq!(rig.driver.queue.interrupts(), 1);
}

#[test]
fn requests_beyond_the_rules_fail_alone() {
    let image = image(Format::Raw);
    let mut rig = Rig::on(open(&image, |_| {}));
    let read = |len| [Buffer::writable(DATA, len)];
    let write = |len| [Buffer::readable(DATA, len)];
    for (kind, sector, data, status) in [
        (VIRTIO_BLK_T_IN, u64::MAX, read(512), IOERR),
        (VIRTIO_BLK_T_OUT, u64::MAX / 512, write(512), IOERR),
        (VIRTIO_BLK_T_IN, DISK_LEN / 512, read(512), IOERR),
        (VIRTIO_BLK_T_IN, 0, read(511), IOERR),
        (VIRTIO_BLK_T_OUT, 0, write(513), IOERR),
        (VIRTIO_BLK_T_GET_ID, 0, read(19), IOERR),
        (VIRTIO_BLK_T_DISCARD, 0, write(15), IOERR),
        (2, 0, write(512), UNSUPP),
        (u32::MAX, 0, read(512), UNSUPP),
    ] {
        rig.driver.memory().write_slice(&[0x55; 1024], GuestAddress(DATA)).unwrap();
        assert_eq!(rig.run(kind, sector, &data), (status, 1), "type {kind}, sector {sector}");
        assert_eq!(rig.driver.bytes(DATA, 1024), [0x55; 1024], "a failed request wrote data");
    }
    assert_eq!(rig.block.metrics().rejected.get(), 9);
    assert_eq!(rig.run(VIRTIO_BLK_T_IN, 0, &read(512)), (OK, 513));
    assert_eq!(rig.run(VIRTIO_BLK_T_IN, 0, &[]), (OK, 1), "nothing was to be read");
    assert!(!rig.driver.queue.needs_reset());
}

#[test]
fn chains_that_are_no_requests_go_back_and_the_next_is_served() {
    let image = image(Format::Raw);
    let mut rig = Rig::on(open(&image, |_| {}));
    let header = Buffer::readable(HEADERS + 0x8000, 16);
    let queue = &mut rig.driver.queue;
    // No status; a loop; a descriptor past the table; a readable buffer last; outside memory.
    queue.add_chain(&[header]);
    let head = queue.add_chain(&[header, header]);
    queue.link(head + 1, head);
    let head = queue.add_chain(&[header]);
    queue.link(head, QUEUE_SIZE);
    queue.add_chain(&[header, Buffer::writable(DATA, 1), header]);
    queue.add_chain(&[header, Buffer::writable(0x4000_0000, 512), Buffer::writable(DATA, 1)]);
    queue.add_chain(&[Buffer::readable(DATA, 0), Buffer::writable(DATA, 0)]);
    let used = rig.settle(6);
    assert_eq!(used.iter().map(|&(_, written)| written).collect::<Vec<_>>(), [0, 0, 0, 1, 0, 0]);
    assert_eq!(rig.driver.bytes(DATA, 1), [IOERR]);
    assert_eq!(rig.run(VIRTIO_BLK_T_IN, 0, &[Buffer::writable(DATA, 512)]), (OK, 513));
    assert!(!rig.driver.queue.needs_reset());
    assert_eq!(rig.block.metrics().rejected.get(), 6);
}

#[test]
fn status_in_the_data_buffer_is_its_last_byte() {
    each(|rig| {
        rig.driver.write_header(HEADERS, VIRTIO_BLK_T_IN, 0);
        rig.driver.memory().write_slice(&[UNSET; 514], GuestAddress(DATA)).unwrap();
        rig.driver.queue.add_chain(&[Buffer::readable(HEADERS, 16), Buffer::writable(DATA, 513)]);
        assert_eq!(rig.settle(1)[0].1, 513);
        let mut expected = [0; 514];
        expected[513] = UNSET;
        assert_eq!(rig.driver.bytes(DATA, 514), expected);
    });
}

#[test]
fn write_to_readonly_disk_returns_ioerr() {
    let image = image(Format::Raw);
    let mut rig = Rig::on(open(&image, |options| options.read_only = true));
    let offered = rig.block.offered_features();
    assert_ne!(offered & 1 << VIRTIO_BLK_F_RO, 0);
    let data = [Buffer::readable(DATA, 512)];
    for kind in [VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES] {
        assert_eq!(rig.run(kind, 0, &data), (IOERR, 1));
    }
    assert_eq!(rig.run(VIRTIO_BLK_T_FLUSH, 0, &[]), (OK, 1));
}

#[test]
fn broken_ring_asks_for_a_reset_and_is_left_alone() {
    let image = image(Format::Raw);
    let mut rig = Rig::on(open(&image, |_| {}));
    rig.driver.queue.set_available_index(QUEUE_SIZE + 1);
    rig.settle(0);
    assert!(rig.driver.queue.needs_reset());
    rig.driver.queue.set_available_index(0);
    rig.driver.request(VIRTIO_BLK_T_IN, 0, &[Buffer::writable(DATA, 512)]);
    assert_eq!(rig.settle(0), []);
    assert_eq!(rig.driver.queue.config_interrupts(), 1);
}

#[test]
fn header_rewritten_while_in_flight_changes_nothing() {
    let (disk, held) = Held::new();
    let mut rig = Rig::on(disk);
    let request = rig.driver.request(VIRTIO_BLK_T_OUT, 0, &[Buffer::readable(DATA, 512)]);
    rig.settle(0);
    rig.driver.write_header(request.0, VIRTIO_BLK_T_IN, u64::MAX);
    held.release(1);
    assert_eq!(rig.finish(1)[0].1, 1, "a write writes its status only");
    assert_eq!(rig.driver.status(request), OK);
    assert_eq!(rig.block.metrics().writes.get(), 1);
}

#[test]
fn hosts_failure_is_the_requests() {
    let (disk, held) = Held::new();
    let mut rig = Rig::on(disk);
    let request = rig.driver.request(VIRTIO_BLK_T_IN, 0, &[Buffer::writable(DATA, 512)]);
    rig.settle(0);
    held.0.fail.store(true, Ordering::Relaxed);
    held.release(1);
    assert_eq!(rig.finish(1)[0].1, 1);
    assert_eq!(rig.driver.status(request), IOERR);
    assert_eq!((rig.block.metrics().failed.get(), rig.block.metrics().reads.get()), (1, 0));
}

#[test]
fn engine_that_starts_nothing_any_more_asks_for_a_reset() {
    let (disk, held) = Held::new();
    let mut rig = Rig::on(disk);
    held.0.broken.store(true, Ordering::Relaxed);
    rig.driver.request(VIRTIO_BLK_T_FLUSH, 0, &[]);
    assert_eq!(rig.settle(0), []);
    assert!(rig.driver.queue.needs_reset());
}

#[test]
fn more_requests_than_the_queue_holds_wait_for_completions() {
    let (disk, held) = Held::new();
    let mut rig = Rig::new(Block::new(&config(), disk).unwrap(), 4);
    rig.driver.request(VIRTIO_BLK_T_IN, 0, &[Buffer::writable(DATA, 512)]);
    // The same chain again and again, before it has come back.
    for _ in 0..3 {
        rig.driver.queue.make_available(0);
    }
    assert_eq!(rig.settle(0), []);
    rig.driver.queue.make_available(0);
    assert_eq!(rig.settle(0), []);
    assert_eq!(held.waiting(), 4);
    held.release(1);
    assert_eq!(rig.finish(1).len(), 1);
    assert_eq!(held.waiting(), 4, "the fifth took the free place");
    held.release(4);
    assert_eq!(rig.finish(4).len(), 4);
}

#[test]
fn driver_without_flush_gets_write_through() {
    let (disk, held) = Held::new();
    let block = Block::new(&config(), disk).unwrap();
    let driver = Driver::new(guest_ram(), QUEUE_SIZE, 0);
    let flush = 1 << VIRTIO_BLK_F_FLUSH;
    for (features, write_through) in [(0, true), (flush, false), (!flush, true)] {
        block.handlers(activation(&[&driver], features)).unwrap();
        assert_eq!(held.0.write_through.load(Ordering::Relaxed), write_through);
    }
}

#[test]
fn rate_limited_requests_wait_for_the_timer() {
    let image = image(Format::Raw);
    let ms = Arc::new(AtomicU64::new(0));
    let clock = Arc::clone(&ms);
    let clock = Box::new(move || Duration::from_millis(clock.load(Ordering::Relaxed)));
    let bucket = TokenBucketConfig { size: 2, one_time_burst: 0, refill_time_ms: 2 };
    let limits = RateLimiterConfig { bandwidth: None, ops: Some(bucket) };
    let limiter = RateLimiter::with_clock(&limits, clock).unwrap();
    let disk = Arc::new(open(&image, |options| options.engine = Some(Engine::Sync)));
    let mut rig = Rig::new(Block::with_limiter(&config(), disk, limiter).unwrap(), QUEUE_SIZE);
    let requests =
        [(); 5].map(|()| rig.driver.request(VIRTIO_BLK_T_IN, 0, &[Buffer::writable(DATA, 512)]));
    assert_eq!(rig.settle(2).len(), 2);
    assert_eq!(rig.settle(0), [], "a notification doesn't get around the limit");
    assert!(rig.block.metrics().rate_limited.get() >= 1);
    ms.store(1, Ordering::Relaxed);
    assert_eq!(rig.finish(1).len(), 1);
    ms.store(1000, Ordering::Relaxed);
    assert_eq!(rig.finish(2).len(), 2);
    assert!(requests.iter().all(|&request| rig.driver.status(request) == OK));
    assert_eq!(rig.block.metrics().reads.get(), 5);
}

#[test]
fn configuration_tells_capacity_blocks_and_queues() {
    let image = image(Format::Raw);
    let config = BlockConfig { num_queues: 3, queue_size: 128, ..config() };
    let block = Block::new(&config, open(&image, |_| {})).unwrap();
    assert_eq!(block.queue_max_sizes(), [128; 3]);
    assert_ne!(block.offered_features() & 1 << VIRTIO_BLK_F_MQ, 0);
    let mut space = [0xee; 64];
    block.read_config(0, &mut space);
    let u32_at = |at: usize| u32::from_le_bytes(space[at..at + 4].try_into().unwrap());
    let u16_at = |at: usize| u16::from_le_bytes(space[at..at + 2].try_into().unwrap());
    assert_eq!(u32_at(0), 2048);
    assert_eq!((u32_at(12), u32_at(20)), (126, 512));
    assert_eq!(u16_at(34), 3);
    assert_eq!((u32_at(36), u32_at(40), u32_at(48), u32_at(52)), (2 << 20, 1, 2 << 20, 1));
    assert_eq!(space[56], 1);
    assert_eq!(space[60..], [0xee; 4], "past the end nothing is written");
}

#[test]
fn impossible_devices_are_refused() {
    let refused = |num_queues, queue_size| {
        let config = BlockConfig { num_queues, queue_size, ..config() };
        Block::new(&config, Held::new().0).err()
    };
    for queues in [0, MAX_QUEUES + 1] {
        assert!(matches!(refused(queues, 256), Some(BlockError::Queues(n)) if n == queues));
    }
    for size in [0, 2, 3, 100] {
        assert!(matches!(refused(1, size), Some(BlockError::QueueSize(n)) if n == size));
    }
    assert!(refused(MAX_QUEUES, 4).is_none());
}

/// Tells a test of every interrupt, by its queue.
struct Bell(Mutex<mpsc::Sender<u16>>);

impl TransportInterrupt for Bell {
    fn signal_queue(&self, index: u16) {
        self.0.lock().unwrap().send(index).unwrap();
    }
    fn signal_config(&self) {}
}

/// Activates `block` with its workers' threads and one queue for each of `drivers`.
fn activate(block: &mut Block, drivers: &[&Driver]) -> (mpsc::Receiver<u16>, Vec<Arc<EventFd>>) {
    let (sender, interrupts) = mpsc::channel();
    let bell = Arc::new(Bell(Mutex::new(sender)));
    let notifier = Notifier::new(bell, Arc::default(), Arc::default());
    let kicks: Vec<_> =
        drivers.iter().map(|_| Arc::new(EventFd::new(EFD_NONBLOCK).unwrap())).collect();
    let queue = |(driver, (index, kick)): (&&Driver, (u16, &Arc<EventFd>))| {
        DeviceQueue::new(index, driver.queue.ring(), Arc::clone(kick), notifier.clone())
    };
    let queues = drivers.iter().zip((0..).zip(&kicks)).map(queue).collect();
    let memory = drivers[0].memory().clone();
    let features = block.offered_features();
    block.activate(Activation { memory, features, queues, notifier: notifier.clone() }).unwrap();
    (interrupts, kicks)
}

#[test]
fn every_queue_is_served_by_its_own_worker() {
    let image = image(Format::Raw);
    let config = BlockConfig { num_queues: 2, ..config() };
    let mut block = Block::new(&config, open(&image, |_| {})).unwrap();
    let memory = guest_ram();
    let mut drivers = [0, 1].map(|index| Driver::new(memory.clone(), QUEUE_SIZE, index));
    let (interrupts, kicks) = activate(&mut block, &[&drivers[0], &drivers[1]]);
    for index in [1, 0, 1] {
        let driver = &mut drivers[index];
        let request = driver.request(VIRTIO_BLK_T_IN, 0, &[Buffer::writable(DATA, 512)]);
        kicks[index].write(1).unwrap();
        assert_eq!(usize::from(interrupts.recv_timeout(PATIENCE).unwrap()), index);
        assert_eq!(driver.status(request), OK);
    }
    block.reset();
}

#[test]
fn requests_made_before_activation_are_served_without_a_notification() {
    let image = image(Format::Raw);
    let mut block = Block::new(&config(), open(&image, |_| {})).unwrap();
    let mut driver = Driver::new(guest_ram(), QUEUE_SIZE, 0);
    let request = driver.request(VIRTIO_BLK_T_FLUSH, 0, &[]);
    let (interrupts, _) = activate(&mut block, &[&driver]);
    interrupts.recv_timeout(PATIENCE).unwrap();
    assert_eq!(driver.status(request), OK);
}

#[test]
fn reset_waits_for_requests_in_flight_and_none_completes_afterwards() {
    let (disk, held) = Held::new();
    let mut block = Block::new(&config(), disk).unwrap();
    let mut driver = Driver::new(guest_ram(), QUEUE_SIZE, 0);
    let (interrupts, kicks) = activate(&mut block, &[&driver]);
    let request = driver.request(VIRTIO_BLK_T_IN, 0, &[Buffer::writable(DATA, 512)]);
    kicks[0].write(1).unwrap();
    held.await_waiting(1);
    block.reset();
    assert_eq!(held.0.engines.load(Ordering::Acquire), 0, "an engine outlived the reset");
    held.release(1);
    assert_eq!(driver.queue.used(), []);
    assert_eq!(driver.status(request), UNSET);
    assert!(interrupts.try_recv().is_err());

    // The driver comes back with the queue as new.
    let memory = guest_ram();
    let mut driver = Driver::new(memory, QUEUE_SIZE, 0);
    let (interrupts, kicks) = activate(&mut block, &[&driver]);
    let request = driver.request(VIRTIO_BLK_T_IN, 0, &[Buffer::writable(DATA, 512)]);
    kicks[0].write(1).unwrap();
    held.await_waiting(1);
    held.release(1);
    interrupts.recv_timeout(PATIENCE).unwrap();
    assert_eq!(driver.status(request), OK);
    assert_eq!(driver.queue.used().len(), 1);
}

#[test]
fn reset_under_load_leaves_guest_memory_alone() {
    for engine in [Engine::Sync, Engine::IoUring] {
        let image = image(Format::Raw);
        let disk = open(&image, |options| options.engine = Some(engine));
        let mut block = Block::new(&config(), disk).unwrap();
        for _ in 0..20 {
            let mut driver = Driver::new(guest_ram(), QUEUE_SIZE, 0);
            let (_interrupts, kicks) = activate(&mut block, &[&driver]);
            driver.memory().write_slice(&[0x55; 1 << 20], GuestAddress(DATA)).unwrap();
            for n in 0..16 {
                let buffer = Buffer::writable(DATA + n * 0x1_0000, 0x1_0000);
                driver.request(VIRTIO_BLK_T_IN, 0, &[buffer]);
            }
            kicks[0].write(1).unwrap();
            block.reset();
            let after = driver.bytes(0, 4 << 20);
            std::thread::yield_now();
            assert_eq!(driver.bytes(0, 4 << 20), after, "{engine:?} wrote after the reset");
        }
    }
}

#[test]
fn activation_without_queues_is_refused() {
    let mut block = Block::new(&config(), Held::new().0).unwrap();
    let driver = Driver::new(guest_ram(), QUEUE_SIZE, 0);
    let activation = Activation { queues: Vec::new(), ..activation(&[&driver], 0) };
    assert!(matches!(block.activate(activation), Err(ActivateError::MissingQueue(0))));
}

/// A disk whose requests wait until a test releases them.
#[derive(Clone)]
struct Held(Arc<HeldState>);

struct HeldState {
    submitted: Mutex<VecDeque<u16>>,
    released: Mutex<VecDeque<u16>>,
    completed: EventFd,
    /// Wakes a test that waits for submissions.
    changed: std::sync::Condvar,
    fail: AtomicBool,
    broken: AtomicBool,
    write_through: AtomicBool,
    kicks: AtomicU64,
    engines: AtomicU64,
}

impl Held {
    fn new() -> (Self, Self) {
        let state = Self(Arc::new(HeldState {
            submitted: Mutex::default(),
            released: Mutex::default(),
            completed: EventFd::new(EFD_NONBLOCK).unwrap(),
            changed: std::sync::Condvar::new(),
            fail: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            write_through: AtomicBool::new(false),
            kicks: AtomicU64::new(0),
            engines: AtomicU64::new(0),
        }));
        (state.clone(), state)
    }

    fn waiting(&self) -> usize {
        self.0.submitted.lock().unwrap().len()
    }

    fn await_waiting(&self, count: usize) {
        let submitted = self.0.submitted.lock().unwrap();
        drop(self.0.changed.wait_while(submitted, |tokens| tokens.len() < count).unwrap());
    }

    fn release(&self, count: usize) {
        let mut submitted = self.0.submitted.lock().unwrap();
        let count = count.min(submitted.len());
        self.0.released.lock().unwrap().extend(submitted.drain(..count));
        self.0.completed.write(1).unwrap();
    }
}

impl DiskBackend for Held {
    fn len_bytes(&self) -> u64 {
        DISK_LEN
    }

    fn read_only(&self) -> bool {
        false
    }

    fn start(&self, _: GuestRam, _: u16, write_through: bool) -> io::Result<Box<dyn IoEngine>> {
        self.0.write_through.store(write_through, Ordering::Relaxed);
        self.0.engines.fetch_add(1, Ordering::AcqRel);
        let completed = self.0.completed.try_clone()?;
        Ok(Box::new(HeldEngine { state: Arc::clone(&self.0), completed }))
    }
}

struct HeldEngine {
    state: Arc<HeldState>,
    completed: EventFd,
}

impl IoEngine for HeldEngine {
    fn submit(&mut self, token: u16, _request: IoRequest<'_>) {
        self.state.submitted.lock().unwrap().push_back(token);
        self.state.changed.notify_all();
    }

    fn kick(&mut self) -> io::Result<()> {
        self.state.kicks.fetch_add(1, Ordering::Relaxed);
        if self.state.broken.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        Ok(())
    }

    fn reap(&mut self, done: &mut Vec<Completion>) -> io::Result<()> {
        let fail = self.state.fail.load(Ordering::Relaxed);
        let outcome = || if fail { Err(io::ErrorKind::Other.into()) } else { Ok(()) };
        let mut released = self.state.released.lock().unwrap();
        done.extend(released.drain(..).map(|token| Completion { token, outcome: outcome() }));
        Ok(())
    }

    fn completed(&self) -> Option<&EventFd> {
        Some(&self.completed)
    }
}

impl Drop for HeldEngine {
    /// Forgets its requests, as the kernel does once it has waited for them.
    fn drop(&mut self) {
        self.state.submitted.lock().unwrap().clear();
        self.state.engines.fetch_sub(1, Ordering::AcqRel);
    }
}

#[test]
fn state_of_each_past_format_is_read_whole() {
    crate::state::kept::expect_read_whole::<super::BlockState>("block");
}
