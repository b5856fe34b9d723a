use std::future::Future;
use std::task::{Context, Poll, Waker};

use super::*;
use crate::ways::Spec;

fn board() -> Arc<Board> {
    Arc::new(Board::new(&Show {
        image: "image".to_owned(),
        runners: Vec::new(),
        spec: Spec::default(),
        rows: Vec::new(),
        workloads: Vec::new(),
        workload_runner: None,
    }))
}

fn add(board: &Board, name: &str) -> bool {
    board.add(&[(name.to_owned(), WayId::Container)])
}

fn listen(board: &Arc<Board>, last: Option<u64>) -> Listener {
    board.listen(last, Arc::default()).expect("a place")
}

/// What a listener is told now, if anything; `Err` if it's out.
fn told(listener: &mut Listener) -> Result<Option<String>, ()> {
    let future = std::pin::pin!(listener.next());
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Pending => Ok(None),
        Poll::Ready(None) => Err(()),
        Poll::Ready(Some(bytes)) => Ok(Some(String::from_utf8(bytes.to_vec()).unwrap())),
    }
}

#[test]
fn listener_gets_all_there_is_and_then_what_changes() {
    let board = board();
    assert!(add(&board, "one"));
    let mut listener = listen(&board, None);
    let state = told(&mut listener).unwrap().unwrap();
    assert!(state.starts_with("id: 1\nevent: state\ndata: {\"image\":\"image\""), "{state}");
    assert!(state.contains("\"name\":\"one\""), "{state}");
    assert_eq!(told(&mut listener), Ok(None));
    board.output("one", 0, b"hello");
    let change = told(&mut listener).unwrap().unwrap();
    let expected = "id: 2\nevent: output\n\
        data: {\"instance\":\"one\",\"skipped\":0,\"bytes\":\"aGVsbG8=\"}\n\n";
    assert_eq!(change, expected);
    assert_eq!(told(&mut listener), Ok(None));
}

#[test]
fn listener_that_comes_back_gets_what_it_has_missed_only() {
    let board = board();
    for name in ["one", "two", "three"] {
        assert!(add(&board, name));
    }
    let missed = told(&mut listen(&board, Some(2))).unwrap().unwrap();
    assert!(missed.starts_with("id: 3\nevent: instance\n"), "{missed}");
    assert_eq!(told(&mut listen(&board, Some(3))), Ok(None));
    // A number that was never given, or is long forgotten, gets everything.
    for last in [4, u64::MAX - 1, u64::MAX] {
        assert!(told(&mut listen(&board, Some(last))).unwrap().unwrap().contains("event: state"));
    }
}

#[test]
fn listener_that_does_not_read_is_dropped_and_others_are_not() {
    let board = board();
    assert!(add(&board, "one"));
    let signal = Arc::new(Notify::new());
    let mut slow = board.listen(Some(1), signal.clone()).unwrap();
    let mut quick = listen(&board, Some(1));
    for _ in 0..=MAX_LOG_EVENTS {
        board.output("one", 0, b"x");
        assert!(told(&mut quick).unwrap().is_some());
    }
    assert_eq!(told(&mut slow), Err(()));
    let notified = std::pin::pin!(signal.notified());
    assert!(notified.poll(&mut Context::from_waker(Waker::noop())).is_ready());
}

#[test]
fn log_is_bounded_in_bytes() {
    let board = board();
    assert!(add(&board, "one"));
    for _ in 0..100 {
        board.output("one", 0, &vec![0; 1 << 20]);
    }
    let content = board.content();
    let kept: usize = content.log.iter().map(|(_, entry)| entry.len()).sum();
    assert!(kept <= MAX_LOG_BYTES && kept == content.log_bytes, "{kept}");
    assert_eq!(content.newest, 101);
}

#[test]
fn ended_instances_make_room_and_living_ones_do_not() {
    let board = board();
    for number in 0..MAX_INSTANCES {
        assert!(add(&board, &number.to_string()));
    }
    assert!(!add(&board, "one too many"));
    assert!(board.update("3", |instance| instance.phase = Phase::Ended));
    assert!(add(&board, "another"));
    assert!(!board.update("3", |_| ()), "it's forgotten");
    assert_eq!(board.content().instances.len(), MAX_INSTANCES);
}

#[test]
fn places_of_listeners_are_limited_and_given_back() {
    let board = board();
    let mut listeners: Vec<_> = (0..MAX_LISTENERS).map(|_| listen(&board, None)).collect();
    assert!(board.listen(None, Arc::default()).is_none());
    listeners.pop();
    assert!(board.has_listeners() && board.listen(None, Arc::default()).is_some());
    listeners.clear();
    assert!(!board.has_listeners());
}

#[test]
fn same_steps_are_told_once_and_no_more_than_the_bound() {
    let board = board();
    assert!(add(&board, "one"));
    let step = |at| Step { name: "s".repeat(10_000), at_us: f64::from(at) };
    let steps: Vec<_> = (0..1000).map(step).collect();
    board.steps("one", steps.clone());
    board.steps("one", steps);
    let content = board.content();
    assert_eq!(content.newest, 2);
    assert_eq!(content.instances[0].0.steps.len(), MAX_STEPS);
    assert!(content.instances[0].0.steps[0].name.len() < 1000);
}
