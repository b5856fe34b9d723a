use super::*;

fn all() -> Attach {
    Attach { stdin: true, stdout: true, stderr: true, size: None }
}

/// A hub whose outputs and input are at hand.
fn hub(shape: Shape, log: Option<LogWriter>) -> (Arc<Hub>, UnixStream, UnixStream) {
    let hub = Arc::new(Hub::new(shape, log));
    let (process, ours) = UnixStream::pair().unwrap();
    hub.read(OutputStream::Stdout, ours).unwrap();
    let (input, theirs) = UnixStream::pair().unwrap();
    *lock(&hub.stdin) = Some(theirs);
    (hub, process, input)
}

fn attach(hub: &Arc<Hub>) -> UnixStream {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let client = hub.attach(theirs, all()).unwrap();
    let hub = Arc::clone(hub);
    thread::spawn(move || hub.listen(&client));
    ours
}

fn exited(code: i32) -> Exit {
    Exit { code, ..Exit::default() }
}

fn read_all(mut from: UnixStream) -> (Vec<u8>, Option<i32>) {
    let (mut bytes, mut contents, mut code) = (Vec::new(), Vec::new(), None);
    while let Ok(Some(kind)) = wire::receive(&mut from, &mut contents) {
        assert_eq!(code, None, "the exit code is the last");
        match kind {
            FrameType::Stdout => bytes.extend_from_slice(&contents),
            FrameType::Exit => code = Some(wire::parse_exit(&contents).unwrap().code),
            other => panic!("{other:?}"),
        }
    }
    (bytes, code)
}

#[test]
fn output_goes_to_the_log_and_all_clients_and_the_exit_code_comes_last_and_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let (hub, mut process, _input) =
        hub(Shape::default(), Some(LogWriter::open(&path, None).unwrap()));
    let readers = [attach(&hub), attach(&hub)].map(|from| thread::spawn(|| read_all(from)));
    // More than all buffers on the way hold.
    let output = b"0123456789abcde\n".repeat(100_000);
    process.write_all(&output).unwrap();
    drop(process);
    assert!(hub.wait_drained(Duration::from_secs(60)));
    hub.finish(&exited(3));
    hub.finish(&exited(4));
    for reader in readers {
        let (bytes, code) = reader.join().unwrap();
        assert!(bytes == output, "{} bytes of {}", bytes.len(), output.len());
        assert_eq!(code, Some(3));
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 100_000);
}

#[test]
fn client_that_doesnt_read_holds_the_process_up_until_its_dropped() {
    let (hub, process, _input) = hub(Shape::default(), None);
    let _stuck = attach(&hub);
    process.set_nonblocking(true).unwrap();
    let (mut taken, piece) = (0_usize, vec![7; 64 << 10]);
    // The supervisor reads on until the client's socket is full; then there's no room for more.
    let blocked_since = |taken: &mut usize| loop {
        match (&process).write(&piece) {
            Ok(count) => *taken += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let busy =
                    lock(&hub.clients).attached.iter().any(|it| it.busy.load(Ordering::Acquire));
                if busy && (&process).write(&piece[..1]).is_err() {
                    return;
                }
                thread::yield_now();
            }
            Err(error) => panic!("{error}"),
        }
    };
    blocked_since(&mut taken);
    assert!(taken < 8 << 20, "{taken} bytes are kept somewhere");
    assert!(!hub.wait_drained(Duration::from_millis(1)));
    process.set_nonblocking(false).unwrap();
    drop(process);
    hub.drop_stuck();
    assert!(hub.wait_drained(Duration::from_secs(60)));
}

#[test]
fn input_of_clients_reaches_the_process_and_ends_with_the_first_ones_if_so_wished() {
    for stdin_once in [true, false] {
        let shape = Shape { stdin: true, stdin_once, terminal: false };
        let (hub, _process, mut input) = hub(shape, None);
        let mut client = attach(&hub);
        wire::send(&mut client, FrameType::Stdin, b"one").unwrap();
        wire::send(&mut client, FrameType::StdinEnd, b"").unwrap();
        let mut bytes = [0; 3];
        input.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"one");
        if stdin_once {
            assert_eq!(input.read(&mut bytes).unwrap(), 0);
            continue;
        }
        let mut second = attach(&hub);
        wire::send(&mut second, FrameType::Stdin, b"two").unwrap();
        input.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"two");
    }
}

#[test]
fn client_that_talks_nonsense_is_dropped_and_others_stay() {
    let (hub, mut process, _input) = hub(Shape::default(), None);
    let (mut bad, good) = (attach(&hub), attach(&hub));
    bad.write_all(b"\xff\xff\xff\xff\xff").unwrap();
    assert_eq!(bad.read(&mut [0]).unwrap(), 0);
    process.write_all(b"on").unwrap();
    drop(process);
    assert!(hub.wait_drained(Duration::from_secs(60)));
    hub.finish(&exited(0));
    assert_eq!(read_all(good), (b"on".to_vec(), Some(0)));
}

#[test]
fn output_waits_until_it_begins_to_be_read() {
    let hub = Arc::new(Hub::new(Shape::default(), None));
    let (mut process, ours) = UnixStream::pair().unwrap();
    lock(&hub.outputs).push((OutputStream::Stdout, ours));
    process.write_all(b"early").unwrap();
    drop(process);
    let client = attach(&hub);
    hub.begin().unwrap();
    assert!(hub.wait_drained(Duration::from_secs(60)));
    hub.finish(&exited(0));
    assert_eq!(read_all(client).0, b"early");
}

#[test]
fn client_that_comes_too_late_gets_the_exit_code() {
    let (hub, _process, _input) = hub(Shape::default(), None);
    hub.finish(&exited(5));
    assert_eq!(read_all(attach(&hub)), (Vec::new(), Some(5)));
}
