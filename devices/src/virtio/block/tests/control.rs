//! What happens to a device while it works: pauses, other disks, other limits.

use serde_json::json;

use super::*;

fn capacity(block: &Block) -> u64 {
    let mut sectors = [0; 8];
    block.read_config(0, &mut sectors);
    u64::from_le_bytes(sectors)
}

fn wait_until(mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "it never happened");
        std::thread::yield_now();
    }
}

/// An image of `mib` MiB that is `fill` all over.
fn filled(mib: usize, fill: u8) -> NamedTempFile {
    let image = NamedTempFile::new().unwrap();
    std::fs::write(image.path(), vec![fill; mib << 20]).unwrap();
    image
}

#[test]
fn pause_waits_for_requests_in_flight_and_takes_no_new_ones() {
    let (disk, held) = Held::new();
    let mut block = Block::new(&config(), disk).unwrap();
    let mut driver = Driver::new(guest_ram(), QUEUE_SIZE, 0);
    let (interrupts, kicks) = activate(&mut block, &[&driver]);
    let requests =
        [(); 3].map(|()| driver.request(VIRTIO_BLK_T_IN, 0, &[Buffer::writable(DATA, 512)]));
    kicks[0].write(1).unwrap();
    held.await_waiting(3);
    block.request_pause();
    assert_eq!(driver.queue.used(), []);
    let releaser = std::thread::spawn(move || {
        held.release(1);
        held.release(2);
        held
    });
    block.pause();
    assert_eq!(driver.queue.used().len(), 3);
    assert!(requests.iter().all(|&request| driver.status(request) == OK));
    assert!(interrupts.try_recv().is_ok(), "the driver is told before the device counts as paused");
    let held = releaser.join().unwrap();
    let late = driver.request(VIRTIO_BLK_T_IN, 0, &[Buffer::writable(DATA, 512)]);
    kicks[0].write(1).unwrap();
    assert_eq!(held.waiting(), 0);
    block.resume();
    held.await_waiting(1);
    held.release(1);
    wait_until(|| driver.queue.used().len() == 1);
    assert_eq!(driver.status(late), OK);
}

#[test]
fn request_that_waited_for_others_to_complete_is_taken_after_a_pause() {
    let (disk, held) = Held::new();
    let mut block = Block::new(&config(), disk).unwrap();
    let mut driver = Driver::new(guest_ram(), 4, 0);
    let (_interrupts, kicks) = activate(&mut block, &[&driver]);
    // As many as the queue can have in flight, and one more for which nobody kicks: the device was
    // awake when it came.
    driver.request(VIRTIO_BLK_T_IN, 0, &[Buffer::writable(DATA, 512)]);
    (0..3).for_each(|_| driver.queue.make_available(0));
    kicks[0].write(1).unwrap();
    held.await_waiting(4);
    driver.queue.make_available(0);
    block.request_pause();
    let done = Arc::new(AtomicBool::new(false));
    let (disk, paused) = (held.clone(), Arc::clone(&done));
    let releaser = std::thread::spawn(move || {
        while !paused.load(Ordering::Acquire) {
            disk.release(5);
            std::thread::yield_now();
        }
    });
    block.pause();
    done.store(true, Ordering::Release);
    releaser.join().unwrap();
    // All five, if the first four were released before the worker had looked for the fifth.
    let mut used = driver.queue.used().len();
    assert!(used == 4 || used == 5, "{used}");
    block.resume();
    wait_until(|| {
        held.release(1);
        used += driver.queue.used().len();
        used == 5
    });
}

#[test]
fn pause_of_a_broken_queue_waits_for_its_requests_too() {
    let (disk, held) = Held::new();
    let mut block = Block::new(&config(), disk).unwrap();
    let mut driver = Driver::new(guest_ram(), QUEUE_SIZE, 0);
    let (_interrupts, kicks) = activate(&mut block, &[&driver]);
    driver.request(VIRTIO_BLK_T_IN, 0, &[Buffer::writable(DATA, 512)]);
    kicks[0].write(1).unwrap();
    held.await_waiting(1);
    driver.queue.set_available_index(1000);
    kicks[0].write(1).unwrap();
    block.request_pause();
    held.release(1);
    block.pause();
    assert_eq!(held.waiting(), 0);
    block.reset();
}

#[test]
fn disk_is_exchanged_under_a_live_device_of_several_queues() {
    let (old, new) = (filled(1, 0xaa), filled(2, 0xbb));
    for engine in [Engine::Sync, Engine::IoUring] {
        let open = |image: &NamedTempFile| open(image, |options| options.engine = Some(engine));
        let config = BlockConfig { num_queues: 2, ..config() };
        let mut block = Block::new(&config, open(&old)).unwrap();
        let memory = guest_ram();
        let mut drivers = [0, 1].map(|index| Driver::new(memory.clone(), QUEUE_SIZE, index));
        let (interrupts, kicks) = activate(&mut block, &[&drivers[0], &drivers[1]]);
        let mut read = |index: usize, sector| {
            let request =
                drivers[index].request(VIRTIO_BLK_T_IN, sector, &[Buffer::writable(DATA, 512)]);
            kicks[index].write(1).unwrap();
            interrupts.recv_timeout(PATIENCE).unwrap();
            (drivers[index].status(request), drivers[index].bytes(DATA, 1)[0])
        };
        assert_eq!([read(0, 0), read(1, 2047)], [(OK, 0xaa); 2]);
        assert_eq!(read(0, 2048).0, IOERR);
        block.control().change_disk(open(&new)).unwrap();
        wait_until(|| capacity(&block) == 4096);
        assert_eq!([read(0, 0), read(1, 4095)], [(OK, 0xbb); 2]);
        // What a new driver finds.
        block.control().change_disk(open(&old)).unwrap();
        block.reset();
        assert_eq!(capacity(&block), 2048);
    }
}

#[test]
fn requests_in_flight_end_on_the_old_disk_before_the_new_one_is_used() {
    let (disk, held) = Held::new();
    let mut block = Block::new(&config(), disk).unwrap();
    let mut driver = Driver::new(guest_ram(), QUEUE_SIZE, 0);
    let (_interrupts, kicks) = activate(&mut block, &[&driver]);
    let request = driver.request(VIRTIO_BLK_T_IN, 0, &[Buffer::writable(DATA, 512)]);
    kicks[0].write(1).unwrap();
    held.await_waiting(1);
    let new = filled(3, 0xcc);
    block.control().change_disk(open(&new, |_| {})).unwrap();
    assert_eq!(capacity(&block), DISK_LEN / 512, "announced too early");
    assert_eq!(held.0.engines.load(Ordering::Acquire), 1);
    held.release(1);
    wait_until(|| capacity(&block) == 6144);
    assert_eq!(driver.status(request), OK);
    wait_until(|| held.0.engines.load(Ordering::Acquire) == 0);
    // Of a paused device, it's exchanged when it goes on.
    block.pause();
    let newest = filled(4, 0xdd);
    block.control().change_disk(open(&newest, |_| {})).unwrap();
    assert_eq!(capacity(&block), 6144);
    block.resume();
    wait_until(|| capacity(&block) == 8192);
}

/// A disk of whatever kind, without I/O.
struct Other {
    read_only: bool,
    block_size: u32,
}

impl DiskBackend for Other {
    fn len_bytes(&self) -> u64 {
        DISK_LEN
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn block_size(&self) -> u32 {
        self.block_size
    }

    fn start(&self, _: GuestRam, _: u16, _: bool) -> io::Result<Box<dyn IoEngine>> {
        Err(io::ErrorKind::OutOfMemory.into())
    }
}

#[test]
fn disk_that_the_driver_was_told_otherwise_about_is_refused() {
    let (disk, held) = Held::new();
    let mut block = Block::new(&config(), disk).unwrap();
    let mut driver = Driver::new(guest_ram(), QUEUE_SIZE, 0);
    let (_interrupts, kicks) = activate(&mut block, &[&driver]);
    let control = block.control();
    let refused = control.change_disk(Other { read_only: true, block_size: 512 });
    assert!(matches!(refused, Err(DiskChangeError::Access { read_only: true })));
    let refused = control.change_disk(Other { read_only: false, block_size: 4096 });
    assert!(matches!(refused, Err(DiskChangeError::BlockSize { old: 512, new: 4096 })));
    let refused = control.change_disk(Other { read_only: false, block_size: 512 });
    assert!(matches!(refused, Err(DiskChangeError::Start(_))));
    let request = driver.request(VIRTIO_BLK_T_IN, 0, &[Buffer::writable(DATA, 512)]);
    kicks[0].write(1).unwrap();
    held.await_waiting(1);
    held.release(1);
    wait_until(|| driver.status(request) == OK);
}

#[test]
fn restored_device_may_have_a_resized_disk_but_no_other_kind() {
    let (disk, _) = Held::new();
    let saved = Block::new(&config(), disk).unwrap().save().unwrap();
    let restore = |disk, state| Block::new(&config(), disk).unwrap().restore(state);
    let same = || Other { read_only: false, block_size: 512 };
    restore(same(), saved.clone()).unwrap();
    restore(same(), json!({ "len_bytes": 512, "block_size": 512, "read_only": false })).unwrap();
    for other in [Other { read_only: true, ..same() }, Other { block_size: 4096, ..same() }] {
        assert!(matches!(restore(other, saved.clone()), Err(RestoreError::Mismatch { .. })));
    }
    for wrong in [json!(null), json!([]), json!({ "len_bytes": -1 })] {
        assert!(matches!(restore(same(), wrong), Err(RestoreError::Format { .. })));
    }
}
