//! The ring itself: what every request of every device costs.

use std::time::{Duration, Instant};

use benches::{BUFFERS, QUEUE_SIZE};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use devices::GuestRam;
use devices::virtio::testing::{Buffer, TestQueue, guest_ram};
use devices::virtio::{ChainBuffers, DeviceQueue};

/// Chains that are made available at a time.
const BATCH: u16 = 64;

/// Takes all chains that are available and returns them, with one interrupt at the end.
fn serve(queue: &mut DeviceQueue, memory: &GuestRam, buffers: &mut ChainBuffers) {
    while let Some(chain) = queue.pop(memory).expect("a sound ring") {
        let head = chain.head_index();
        buffers.fill(memory, chain).expect("a sound chain");
        queue.add_used(memory, head, 0).expect("a used ring in memory");
    }
    queue.signal_used(memory).expect("an available ring in memory");
}

/// Measures `iterations` chains of `descriptors` buffers, without what their driver does.
fn measure(iterations: u64, descriptors: u16) -> Duration {
    let memory = guest_ram();
    let mut driver = TestQueue::new(memory.clone(), QUEUE_SIZE);
    let mut queue = driver.device_queue(0);
    let mut buffers = ChainBuffers::default();
    let chain: Vec<Buffer> = (0..descriptors)
        .map(|index| Buffer::readable(BUFFERS + u64::from(index) * 4096, 4096))
        .collect();
    let mut elapsed = Duration::ZERO;
    let mut left = iterations;
    while left > 0 {
        let batch = left.min(u64::from(BATCH));
        for _ in 0..batch {
            driver.add_chain(&chain);
        }
        let started = Instant::now();
        serve(&mut queue, &memory, &mut buffers);
        elapsed += started.elapsed();
        assert_eq!(driver.used().len() as u64, batch);
        left -= batch;
    }
    elapsed
}

fn queue(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("queue");
    group.throughput(Throughput::Elements(1));
    for descriptors in [1, 3] {
        group.bench_function(format!("chain of {descriptors}"), |bencher| {
            bencher.iter_custom(|iterations| measure(iterations, descriptors));
        });
    }
    group.finish();
}

criterion_group!(group, queue);
criterion_main!(group);
