//! The block device: from the driver's notification to the used ring.

use std::path::Path;

use anyhow::{Context, Result};
use benches::{BATCHES, BUFFERS, activate, queues, wait_for_used};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use devices::disk::{Cache, Disk, DiskOptions, Engine, Format};
use devices::virtio::VirtioDevice;
use devices::virtio::block::{Block, BlockConfig};
use devices::virtio::testing::{Buffer, TestQueue, guest_ram};
use vm_memory::{Bytes, GuestAddress};

const DISK_BYTES: u64 = 64 << 20;
const REQUEST_BYTES: u32 = 4096;
const SECTORS_PER_REQUEST: u64 = REQUEST_BYTES as u64 / 512;

/// Request types (VIRTIO 1.3 §5.2.6).
const READ: u32 = 0;
const WRITE: u32 = 1;

/// A device and the driver of its queue. The device is first: its worker ends before its memory.
struct Rig {
    _block: Block,
    queue: TestQueue,
    /// Requests so far: they walk over the disk with a stride, as nothing may depend on order.
    requests: u64,
}

impl Rig {
    fn new(image: &Path, engine: Engine) -> Result<Self> {
        let disk = Disk::open(&DiskOptions {
            format: Some(Format::Raw),
            cache: Cache::WriteBack,
            engine: Some(engine),
            ..DiskOptions::new(image)
        })?;
        let mut block = Block::new(&BlockConfig::default(), disk)?;
        let mut queues = queues(&guest_ram(), 1);
        let features = block.offered_features();
        activate(&mut block, &queues, features & !RING_EVENT_IDX)?;
        let queue = queues.pop().context("one queue was laid out")?;
        Ok(Self { _block: block, queue, requests: 0 })
    }

    /// Makes `batch` requests, notifies the device once and waits for all of them.
    fn run(&mut self, kind: u32, batch: u16) {
        for slot in 0..u64::from(batch) {
            let header = BUFFERS + slot * 0x2000;
            let sector = self.requests * 17 * SECTORS_PER_REQUEST % (DISK_BYTES / 512);
            self.requests += 1;
            let memory = self.queue.memory();
            memory.write_obj(kind, GuestAddress(header)).expect("a header in memory");
            memory.write_obj(sector, GuestAddress(header + 8)).expect("a header in memory");
            let data = header + 0x1000;
            let data = match kind {
                READ => Buffer::writable(data, REQUEST_BYTES),
                _ => Buffer::readable(data, REQUEST_BYTES),
            };
            let status = Buffer::writable(header + 16, 1);
            self.queue.add_chain(&[Buffer::readable(header, 16), data, status]);
        }
        self.queue.kick();
        wait_for_used(&mut self.queue, batch);
    }

    /// Tells whether the first request of the last batch succeeded.
    fn succeeded(&self) -> bool {
        let status = GuestAddress(BUFFERS + 16);
        matches!(self.queue.memory().read_obj::<u8>(status), Ok(0))
    }
}

/// `VIRTIO_F_EVENT_IDX`: [`TestQueue`] is a driver without it.
const RING_EVENT_IDX: u64 = 1 << 29;

/// Makes an image that is wholly allocated, in memory where there is a tmpfs.
fn image() -> Result<tempfile::NamedTempFile> {
    let shm = Path::new("/dev/shm");
    let file = if shm.is_dir() {
        tempfile::NamedTempFile::new_in(shm)
    } else {
        tempfile::NamedTempFile::new()
    }
    .context("cannot create an image")?;
    let block = vec![0x5a; 1 << 20];
    for _ in 0..DISK_BYTES >> 20 {
        std::io::Write::write_all(&mut file.as_file(), &block).context("cannot fill the image")?;
    }
    Ok(file)
}

fn block(criterion: &mut Criterion) {
    let image = image().expect("an image");
    for (kind, name) in [(READ, "read"), (WRITE, "write")] {
        let mut group = criterion.benchmark_group(format!("block/{name} 4 KiB"));
        for (engine, engine_name) in [(Engine::Sync, "sync"), (Engine::IoUring, "io_uring")] {
            let mut rig = match Rig::new(image.path(), engine) {
                Ok(rig) => rig,
                Err(error) => {
                    eprintln!("{engine_name} is not measured: {error:#}");
                    continue;
                }
            };
            for batch in BATCHES {
                group.throughput(Throughput::Elements(batch.into()));
                group.bench_function(format!("{engine_name}, {batch} at once"), |bencher| {
                    bencher.iter(|| rig.run(kind, batch));
                });
                assert!(rig.succeeded(), "a request failed");
            }
        }
        group.finish();
    }
}

criterion_group!(group, block);
criterion_main!(group);
