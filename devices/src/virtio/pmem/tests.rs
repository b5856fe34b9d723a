use super::super::serve::testing::Loop;
use super::super::testing::{Buffer, RAM_SIZE, TestQueue, guest_ram};
use super::*;
use crate::disk::DiskError;
use crate::rate_limiter::TokenBucketConfig;

const REQUEST: u64 = 0x8000;
const RESPONSE: u64 = 0x9000;
const START: GuestAddress = GuestAddress(64 << 30);

fn temp_file(name: &str, len: u64) -> tempfile::TempPath {
    let file = tempfile::Builder::new().prefix(name).tempfile().unwrap();
    file.as_file().set_len(len).unwrap();
    file.into_temp_path()
}

fn pmem(path: &std::path::Path, read_only: bool) -> Pmem {
    let file = PmemFile::open(path, read_only).unwrap();
    Pmem::new(file, START, &RateLimiterConfig::default()).unwrap()
}

struct Setup {
    queue: TestQueue,
    metrics: Arc<PmemMetrics>,
    events: Loop,
}

fn setup(file: Option<File>, limit: &RateLimiterConfig) -> Setup {
    let queue = TestQueue::new(guest_ram(), 16);
    let metrics = Arc::<PmemMetrics>::default();
    let handler = PmemHandler {
        requests: ServedQueue::new(queue.device_queue(0), queue.memory().clone()),
        flusher: Flusher { file: file.map(Arc::new), cost_bytes: 4096 },
        limiter: RateLimiter::new(limit).unwrap(),
        metrics: Arc::clone(&metrics),
        owed: Cell::new(false),
    };
    Setup { queue, metrics, events: Loop::new(handler) }
}

impl Setup {
    /// Sends a request and returns how many bytes the device wrote, and what's in the response.
    fn send(&mut self, kind: u32, buffers: &[Buffer]) -> (u32, u32) {
        let memory = self.queue.memory();
        memory.write_obj(kind, GuestAddress(REQUEST)).unwrap();
        memory.write_obj(0xdead_u32, GuestAddress(RESPONSE)).unwrap();
        self.queue.add_chain(buffers);
        self.queue.kick();
        self.events.settle();
        let used = self.queue.used();
        assert_eq!(used.len(), 1, "the request comes back");
        (used[0].1, self.queue.memory().read_obj(GuestAddress(RESPONSE)).unwrap())
    }
}

const FLUSH: [fn() -> Buffer; 2] =
    [|| Buffer::readable(REQUEST, 4), || Buffer::writable(RESPONSE, 4)];

fn flush() -> [Buffer; 2] {
    FLUSH.map(|buffer| buffer())
}

#[test]
fn flush_is_answered_when_the_file_is_durable_and_fails_when_it_can_not_be() {
    let file = tempfile::tempfile().unwrap();
    let mut good = setup(Some(file), &RateLimiterConfig::default());
    assert_eq!(good.send(0, &flush()), (4, RESPONSE_OK));
    assert_eq!((good.metrics.flushes.get(), good.queue.interrupts()), (1, 1));
    // A pipe has no disk to be flushed to.
    let (_reader, writer) = std::io::pipe().unwrap();
    let mut bad =
        setup(Some(std::os::fd::OwnedFd::from(writer).into()), &RateLimiterConfig::default());
    assert_eq!(bad.send(0, &flush()), (4, RESPONSE_EIO));
    assert_eq!((bad.metrics.failed.get(), bad.metrics.flushes.get()), (1, 0));
}

#[test]
fn flush_of_what_the_guest_can_not_write_succeeds() {
    let mut setup = setup(None, &RateLimiterConfig::default());
    assert_eq!(setup.send(0, &flush()), (4, RESPONSE_OK));
}

#[test]
fn bad_requests_are_refused_and_change_nothing() {
    let mut setup = setup(None, &RateLimiterConfig::default());
    let [request, response] = flush();
    for (kind, buffers, answer) in [
        (1, vec![request, response], (4, RESPONSE_EIO)),
        (u32::MAX, vec![request, response], (4, RESPONSE_EIO)),
        (0, vec![Buffer::readable(REQUEST, 3), response], (4, RESPONSE_EIO)),
        (0, vec![response], (4, RESPONSE_EIO)),
        (0, vec![request], (0, 0xdead)),
        (0, vec![request, Buffer::writable(RESPONSE, 3)], (0, 0xdead)),
        (0, vec![request, Buffer::writable(RAM_SIZE as u64 - 2, 4)], (0, 0xdead)),
        (0, vec![Buffer::readable(u64::MAX - 1, 4), response], (0, 0xdead)),
        (0, vec![response, request], (0, 0xdead)),
    ] {
        assert_eq!(setup.send(kind, &buffers), answer, "{kind} {buffers:?}");
    }
    assert_eq!(setup.metrics.flushes.get(), 0);
    assert_eq!(setup.send(0, &flush()), (4, RESPONSE_OK));
    assert!(!setup.queue.needs_reset());
    setup.queue.set_available_index(999);
    setup.queue.kick();
    setup.events.settle();
    assert!(setup.queue.needs_reset());
}

#[test]
fn flushes_over_the_limit_wait() {
    let ops = TokenBucketConfig { size: 1, one_time_burst: 0, refill_time_ms: 1 << 40 };
    let limit = RateLimiterConfig { bandwidth: None, ops: Some(ops) };
    let mut setup = setup(None, &limit);
    for _ in 0..4 {
        setup.queue.add_chain(&flush());
    }
    setup.queue.kick();
    setup.events.settle();
    assert_eq!(setup.queue.used().len(), 2, "one that is paid for, one on credit");
    assert_ne!(setup.metrics.rate_limited.get(), 0);
}

#[test]
fn configuration_tells_place_and_rounded_length() {
    let path = temp_file("pmem", (2 << 20) + 1);
    let device = pmem(&path, false);
    let mut config = [0xff; 20];
    device.read_config(0, &mut config);
    assert_eq!(config[..8], START.0.to_le_bytes());
    assert_eq!(config[8..16], (4_u64 << 20).to_le_bytes());
    let mapping = PmemFile::open(&temp_file("other", 5), true).unwrap().map().unwrap();
    assert_eq!((mapping.len(), mapping.is_writable()), (2 << 20, false));
}

#[test]
fn file_that_can_not_be_used_is_refused() {
    let path = temp_file("pmem", 4096);
    let empty = temp_file("empty", 0);
    assert!(matches!(PmemFile::open(&empty, true), Err(DiskError::Empty { .. })));
    let missing = path.with_extension("missing");
    assert!(matches!(PmemFile::open(&missing, true), Err(DiskError::NotFound { .. })));
    let folder = path.parent().unwrap();
    assert!(matches!(PmemFile::open(folder, true), Err(DiskError::NotAnImage { .. })));
    let held = PmemFile::open(&path, false).unwrap();
    assert!(matches!(PmemFile::open(&path, true), Err(DiskError::InUse { .. })));
    drop(held);
    let readers = [true, true].map(|read_only| PmemFile::open(&path, read_only));
    assert!(readers.iter().all(Result::is_ok));
}

#[test]
fn state_fits_the_same_memory_only() {
    let path = temp_file("pmem", 4096);
    let saved = pmem(&path, false).save().unwrap();
    pmem(&path, false).restore(saved.clone()).unwrap();
    assert!(pmem(&path, true).restore(saved.clone()).is_err());
    let longer = temp_file("longer", 4097);
    assert!(pmem(&longer, false).restore(saved.clone()).is_err());
    let moved = PmemFile::open(&path, false).unwrap();
    let mut moved =
        Pmem::new(moved, GuestAddress(START.0 + (2 << 20)), &RateLimiterConfig::default()).unwrap();
    assert!(matches!(moved.restore(saved), Err(RestoreError::Mismatch { .. })));
    assert!(matches!(moved.restore(serde_json::json!([])), Err(RestoreError::Format { .. })));
}

#[test]
fn device_works_after_a_reset_and_flushes_on_its_worker() {
    let path = temp_file("pmem", 4096);
    let mut device = pmem(&path, false);
    let mut queue = TestQueue::new(guest_ram(), 16);
    let activation = |queues| Activation {
        memory: queue.memory().clone(),
        features: 0,
        queues,
        notifier: queue.notifier(),
    };
    let refused = device.activate(activation(vec![]));
    assert!(matches!(refused, Err(ActivateError::MissingQueue(0))));
    device.activate(activation(vec![queue.device_queue(0)])).unwrap();
    device.reset();
    device.activate(activation(vec![queue.device_queue(0)])).unwrap();
    queue.add_chain(&flush());
    queue.kick();
    let start = std::time::Instant::now();
    while device.metrics().flushes.get() == 0 && start.elapsed().as_secs() < 20 {
        std::thread::yield_now();
    }
    device.pause();
    assert_eq!(queue.used().len(), 1);
}

#[test]
fn state_of_each_past_format_is_read_whole() {
    crate::state::kept::expect_read_whole::<super::PmemState>("pmem");
}
