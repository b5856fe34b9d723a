use super::*;
use crate::wire::{Exit, FrameType};
use std::io::Read;
use std::sync::{Arc, Mutex};
use std::thread;

#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Kept {
    fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().clone()
    }
}

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn io(stdin: Option<OwnedFd>) -> (SessionIo, Kept, Kept) {
    let (out, err) = (Kept::default(), Kept::default());
    let io = SessionIo {
        stdin,
        stdout: Box::new(out.clone()),
        stderr: Box::new(err.clone()),
        detach_keys: vec![0x10, 0x11],
    };
    (io, out, err)
}

fn session() -> (Session, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (Session::with_supervisor(ours, PathBuf::from("/nowhere")), theirs)
}

#[test]
fn output_and_input_are_relayed_until_the_exit_code() {
    let (session, mut supervisor) = session();
    let (mut typed, stdin) = UnixStream::pair().unwrap();
    typed.write_all(b"typed").unwrap();
    drop(typed);
    let fake = thread::spawn(move || {
        let mut contents = Vec::new();
        let first = wire::receive(&mut supervisor, &mut contents).unwrap();
        assert_eq!((first, contents.as_slice()), (Some(FrameType::Stdin), &b"typed"[..]));
        let end = wire::receive(&mut supervisor, &mut contents).unwrap();
        assert_eq!(end, Some(FrameType::StdinEnd));
        wire::send(&mut supervisor, FrameType::Stdout, b"out").unwrap();
        wire::send(&mut supervisor, FrameType::Stderr, b"err").unwrap();
        wire::send_exit(&mut supervisor, &Exit { code: 7, ..Exit::default() }).unwrap();
    });
    let (io, out, err) = io(Some(stdin.into()));
    assert_eq!(session.relay(io).unwrap(), SessionEnd::Exited(7));
    assert_eq!((out.bytes(), err.bytes()), (b"out".to_vec(), b"err".to_vec()));
    fake.join().unwrap();
}

#[test]
fn process_that_went_with_its_vm_is_lost_for_a_reason() {
    let (session, mut supervisor) = session();
    let exit = Exit { code: 137, lost: "the guest's kernel panicked".to_owned() };
    wire::send_exit(&mut supervisor, &exit).unwrap();
    let lost = SessionEnd::Lost { code: 137, reason: exit.lost };
    assert_eq!(session.relay(io(None).0).unwrap(), lost);
}

#[test]
fn detach_keys_leave_the_session_and_the_process() {
    let (session, mut supervisor) = session();
    let (mut typed, stdin) = UnixStream::pair().unwrap();
    typed.write_all(b"\x10\x11").unwrap();
    let (io, ..) = io(Some(stdin.into()));
    assert_eq!(session.relay(io).unwrap(), SessionEnd::Detached);
    assert_eq!(supervisor.read(&mut [0]).unwrap(), 0, "no input was sent, nor its end");
}

#[test]
fn supervisor_that_goes_away_or_talks_nonsense_is_an_error() {
    for bytes in
        [&b""[..], b"\x04\x05\0\0\0he", b"\x63\0\0\0\0", b"\x06\x01\0\0\0\0", b"\x02\0\0\0\0"]
    {
        let (session, mut supervisor) = session();
        supervisor.write_all(bytes).unwrap();
        drop(supervisor);
        let (io, ..) = io(None);
        let error = session.relay(io).unwrap_err();
        assert!(matches!(error, RuntimeError::Protocol { .. }), "{bytes:?}: {error}");
    }
}

#[test]
fn output_that_nobody_reads_ends_the_session() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let (session, mut supervisor) = session();
    wire::send(&mut supervisor, FrameType::Stdout, b"x").unwrap();
    let (_typed, stdin) = UnixStream::pair().unwrap();
    let io = SessionIo {
        stdin: Some(stdin.into()),
        stdout: Box::new(Closed),
        stderr: Box::new(Closed),
        detach_keys: Vec::new(),
    };
    let error = session.relay(io).unwrap_err();
    let source = std::error::Error::source(&error).unwrap();
    let source = source.downcast_ref::<std::io::Error>().unwrap();
    assert_eq!(source.kind(), std::io::ErrorKind::BrokenPipe);
}
