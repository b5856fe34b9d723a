//! The device's life: what it refuses to be made of, pauses, resets.

use super::libc_flags::*;
use super::*;

fn refused(change: impl FnOnce(&mut FsConfig)) -> FsError {
    let directory = tree();
    let mut config = config(directory.path());
    change(&mut config);
    Fs::new(&config).err().expect("it was made")
}

#[test]
fn what_cannot_be_shared_is_refused_by_its_name() {
    for tag in ["", "a\0b", &"x".repeat(37)] {
        assert!(matches!(refused(|it| it.tag = tag.to_owned()), FsError::Tag(_)));
    }
    for name in ["", ".", "..", "a/b", "a\0", "0", &"x".repeat(256)] {
        assert!(matches!(refused(|it| it.shares[1].name = name.to_owned()), FsError::Name(_)));
    }
    let error = refused(|it| it.shares[0].path.push("absent"));
    assert!(matches!(error, FsError::NotFound { .. }), "{error}");
    assert!(error.path().is_some_and(|path| error.to_string().contains(path.to_str().unwrap())));
    assert!(matches!(refused(|it| it.shares[0].path = "/dev/null".into()), FsError::Kind { .. }));
    let many = |it: &mut FsConfig| it.shares = vec![it.shares[0].clone(); MAX_SHARES + 1];
    assert!(matches!(refused(many), FsError::Shares(257)));
}

#[test]
fn driver_reads_the_tag_and_the_number_of_queues() {
    let rig = Rig::new();
    let mut config = [0xff; 48];
    rig.fs.read_config(0, &mut config);
    assert_eq!(&config[..7], b"shares\0");
    assert!(config[6..36].iter().all(|byte| *byte == 0));
    assert_eq!(config[36..40], [1, 0, 0, 0]);
    assert_eq!(config[40..], [0xff; 8]);
    assert_eq!((rig.fs.device_type().id(), rig.fs.queue_max_sizes().len()), (26, 2));
}

#[test]
fn urgent_queue_is_served_too() {
    let mut rig = Rig::new();
    let (file, _) = rig.create(RW, c"f", 0o644).unwrap();
    let header = rig.header(opcode::FORGET, file.nodeid, 8);
    rig.memory.write_slice(header.as_bytes(), GuestAddress(REQUEST)).unwrap();
    rig.memory.write_obj(1u64, GuestAddress(REQUEST + 40)).unwrap();
    rig.urgent.add_chain(&[Buffer::readable(REQUEST, 48)]);
    rig.urgent.kick();
    let start = Instant::now();
    while rig.urgent.used().is_empty() {
        assert!(start.elapsed() < PATIENCE);
        std::thread::yield_now();
    }
    assert_eq!(rig.attributes(file.nodeid).unwrap_err(), Errno::STALE);
}

#[test]
fn paused_device_serves_nothing_and_then_goes_on_with_what_is_open() {
    let mut rig = Rig::new();
    let (file, fh) = rig.create(RW, c"f", 0o644).unwrap();
    rig.write(file.nodeid, fh, 0, b"text").unwrap();
    rig.fs.pause();
    let body = ReadIn { fh, size: 4, ..ReadIn::default() };
    let header = rig.header(opcode::READ, file.nodeid, 40);
    rig.memory.write_slice(header.as_bytes(), GuestAddress(REQUEST)).unwrap();
    rig.memory.write_slice(body.as_bytes(), GuestAddress(REQUEST + 40)).unwrap();
    rig.requests.add_chain(&[Buffer::readable(REQUEST, 80), Buffer::writable(ANSWER, 20)]);
    rig.requests.kick();
    std::thread::yield_now();
    assert_eq!(rig.requests.used(), []);
    let error = rig.fs.save().unwrap_err();
    assert!(error.to_string().contains("detach it first"), "{error}");
    rig.fs.resume();
    let start = Instant::now();
    loop {
        match rig.requests.used()[..] {
            [] => assert!(start.elapsed() < PATIENCE),
            [(_, written)] => break assert_eq!(written, 20),
            _ => panic!("two answers"),
        }
    }
}

#[test]
fn reset_closes_everything_also_while_the_device_is_paused() {
    let mut rig = Rig::new();
    for round in 0..4 {
        let (file, fh) = rig.create(RW, c"f", 0o644).unwrap();
        rig.write(file.nodeid, fh, 0, b"text").unwrap();
        if round % 2 == 1 {
            rig.fs.pause();
        }
        rig.fs.reset();
        rig.requests.kick();
        rig.fs.resume();
        rig.urgent = TestQueue::at(rig.memory.clone(), 128, 0);
        rig.requests = TestQueue::at(rig.memory.clone(), 512, 0x7000);
        rig.memory.write_slice(&[0; 0xe000], GuestAddress(0)).unwrap();
        rig.activate();
        assert_eq!(rig.lookup(ROOT, c"0").unwrap_err(), Errno::IO, "it's mounted still");
        rig.mount();
        assert_eq!(rig.read(file.nodeid, fh, 0, 1).unwrap_err(), Errno::BADF);
        assert_eq!(rig.attributes(file.nodeid).unwrap_err(), Errno::STALE);
    }
}

#[test]
fn second_mount_starts_afresh() {
    let mut rig = Rig::new();
    let (file, fh) = rig.create(RW, c"f", 0o644).unwrap();
    rig.ask(opcode::DESTROY, 0, &[]).unwrap();
    assert_eq!(rig.lookup(ROOT, c"0").unwrap_err(), Errno::IO);
    rig.mount();
    assert_eq!(rig.read(file.nodeid, fh, 0, 1).unwrap_err(), Errno::BADF);
    let file = rig.lookup(RW, c"f").unwrap();
    rig.open(file.nodeid, O_RDONLY).unwrap();
}

#[test]
fn device_without_its_request_queue_refuses_to_start() {
    let mut rig = Rig::new();
    rig.fs.reset();
    let queues = vec![rig.urgent.device_queue(0)];
    let (memory, notifier) = (rig.memory.clone(), rig.requests.notifier());
    let refused = rig.fs.activate(Activation { memory, features: 0, queues, notifier });
    assert!(matches!(refused, Err(ActivateError::MissingQueue(1))));
}
