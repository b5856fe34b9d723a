//! The table as its driver sees it, and what its sender is told.

use std::io;

use super::*;

#[derive(Debug, PartialEq, Eq)]
enum Call {
    Route(u16, MsiMessage),
    Signal(u16),
}

#[derive(Default)]
struct Recorder {
    calls: Mutex<Vec<Call>>,
    refuses: AtomicBool,
}

impl Recorder {
    fn take(&self) -> Vec<Call> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }
}

impl MsiSender for Recorder {
    fn route(&self, vector: u16, message: MsiMessage) -> io::Result<()> {
        if self.refuses.load(Ordering::Acquire) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        self.calls.lock().unwrap().push(Call::Route(vector, message));
        Ok(())
    }

    fn signal(&self, vector: u16) {
        self.calls.lock().unwrap().push(Call::Signal(vector));
    }
}

const ENABLED: u16 = 0x8000;
const MASKED: u16 = 0xc000;

fn table(count: u16) -> (MsixTable, Arc<Recorder>) {
    let recorder = Arc::new(Recorder::default());
    (MsixTable::new(count, recorder.clone()).unwrap(), recorder)
}

fn message(data: u32) -> MsiMessage {
    MsiMessage { address: 0xfee0_0000, data }
}

fn route(vector: u16, data: u32) -> Call {
    Call::Route(vector, message(data))
}

/// Writes a message as Linux does: a double word at a time.
fn write_message(table: &MsixTable, vector: u64, data: u32) {
    table.write_table(vector * 16, &0xfee0_0000u32.to_le_bytes());
    table.write_table(vector * 16 + 4, &[0; 4]);
    table.write_table(vector * 16 + 8, &data.to_le_bytes());
}

fn mask(table: &MsixTable, vector: u64, masked: bool) {
    table.write_table(vector * 16 + 12, &u32::from(masked).to_le_bytes());
}

fn pending(table: &MsixTable) -> u64 {
    let mut data = [0xff; 8];
    table.read_pending(0, &mut data);
    u64::from_le_bytes(data)
}

#[test]
fn vector_is_routed_once_and_sends() {
    let (table, recorder) = table(2);
    table.set_control(MASKED);
    write_message(&table, 1, 0x41);
    mask(&table, 1, false);
    assert_eq!(recorder.take(), [], "a route while the function is masked");
    table.set_control(ENABLED);
    assert_eq!(recorder.take(), [route(1, 0x41)]);
    table.signal(1);
    table.signal(1);
    assert_eq!(recorder.take(), [Call::Signal(1), Call::Signal(1)]);
}

#[test]
fn route_is_renewed_only_when_the_message_changed() {
    let (table, recorder) = table(1);
    write_message(&table, 0, 0x41);
    mask(&table, 0, false);
    table.set_control(ENABLED);
    recorder.take();
    for _ in 0..3 {
        mask(&table, 0, true);
        write_message(&table, 0, 0x41);
        mask(&table, 0, false);
        table.set_control(MASKED);
        table.set_control(ENABLED);
        table.set_control(0);
        table.set_control(ENABLED);
    }
    assert_eq!(recorder.take(), []);
    mask(&table, 0, true);
    write_message(&table, 0, 0x42);
    assert_eq!(recorder.take(), []);
    mask(&table, 0, false);
    assert_eq!(recorder.take(), [route(0, 0x42)]);
}

#[test]
fn signals_behind_either_mask_are_sent_once_when_the_last_goes() {
    let (table, recorder) = table(2);
    write_message(&table, 1, 0x41);
    table.set_control(MASKED);
    table.signal(1);
    table.signal(1);
    assert_eq!(pending(&table), 0b10);
    table.set_control(ENABLED);
    assert_eq!((recorder.take(), pending(&table)), (vec![], 0b10));
    mask(&table, 1, false);
    assert_eq!(recorder.take(), [route(1, 0x41), Call::Signal(1)]);
    assert_eq!(pending(&table), 0);
    mask(&table, 1, true);
    mask(&table, 1, false);
    assert_eq!(recorder.take(), [], "sent twice");
}

#[test]
fn disabled_msix_drops_signals_and_what_was_pending() {
    let (table, recorder) = table(1);
    table.signal(0);
    assert_eq!(pending(&table), 0);
    table.set_control(MASKED);
    table.signal(0);
    table.set_control(0x4000);
    assert!(!table.enabled());
    assert_eq!(pending(&table), 0);
    mask(&table, 0, false);
    table.set_control(ENABLED);
    assert_eq!(recorder.take(), [Call::Route(0, MsiMessage::default())]);
}

#[test]
fn refused_route_is_tried_again_and_costs_only_its_vector() {
    let (table, recorder) = table(2);
    table.set_control(ENABLED);
    recorder.refuses.store(true, Ordering::Release);
    write_message(&table, 0, 0x41);
    mask(&table, 0, false);
    assert_eq!(recorder.take(), []);
    recorder.refuses.store(false, Ordering::Release);
    mask(&table, 0, false);
    assert_eq!(recorder.take(), [route(0, 0x41)]);
}

#[test]
fn table_starts_masked_and_reads_back_what_exists_of_it() {
    let (table, _) = table(2);
    let mut data = [0xff; 8];
    table.read_table(24, &mut data);
    assert_eq!(data, [0, 0, 0, 0, 1, 0, 0, 0]);
    table.write_table(16, &[0xff; 8]);
    table.write_table(24, &[0xff; 8]);
    table.read_table(16, &mut data);
    assert_eq!(data, [0xfc, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], "not a double word");
    table.read_table(24, &mut data);
    assert_eq!(data, [0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0], "reserved bits");
    table.read_table(0, &mut data);
    assert_eq!(data, [0; 8], "another vector");
}

#[test]
fn undefined_and_out_of_range_accesses_do_nothing() {
    let (table, recorder) = table(1);
    table.set_control(ENABLED);
    for (offset, width) in
        [(0, 1), (12, 1), (12, 2), (2, 4), (4, 8), (14, 4), (16, 4), (u64::MAX, 4), (!7, 8)]
    {
        table.write_table(offset, &vec![0; width]);
        let mut data = vec![0xff; width];
        table.read_table(offset, &mut data);
        assert_eq!(data, vec![0; width]);
        let mut data = vec![0xff; width];
        table.read_pending(offset, &mut data);
        assert_eq!(data, vec![0; width]);
    }
    for vector in [1, 2047, u16::MAX] {
        table.signal(vector);
    }
    assert_eq!(recorder.take(), []);
}

#[test]
fn pending_bits_are_read_with_any_width() {
    let (table, _) = table(20);
    table.set_control(ENABLED);
    for vector in [0, 9, 19] {
        table.signal(vector);
    }
    assert_eq!(pending(&table), 1 | 1 << 9 | 1 << 19);
    let mut data = [0; 2];
    table.read_pending(1, &mut data);
    assert_eq!(data, [0b10, 0b1000]);
    table.clear_pending();
    assert_eq!(pending(&table), 0);
}

#[test]
fn impossible_vector_counts_are_refused() {
    for count in [0, 2049, u16::MAX] {
        let refused = MsixTable::new(count, Arc::new(Recorder::default())).map(|_| ());
        assert_eq!(refused, Err(PciError::InvalidVectorCount(count)));
    }
}

#[test]
fn signal_racing_with_an_unmask_is_never_lost() {
    const ROUNDS: usize = 2000;
    let (table, recorder) = table(1);
    write_message(&table, 0, 0x41);
    mask(&table, 0, true);
    table.set_control(ENABLED);
    for _ in 0..ROUNDS {
        std::thread::scope(|scope| {
            scope.spawn(|| table.signal(0));
            mask(&table, 0, false);
        });
        let signals = recorder.take().iter().filter(|call| **call == Call::Signal(0)).count();
        assert_eq!((signals, pending(&table)), (1, 0));
        mask(&table, 0, true);
    }
}
