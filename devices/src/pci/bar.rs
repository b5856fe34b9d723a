//! Where a BAR is on the MMIO bus, from one reprogramming to the next.

use std::sync::{Arc, Weak};

use crate::bus::{Bus, BusDevice};
use crate::log_limit::LogLimit;

/// Learns that a BAR has moved: what else depends on its address (ioeventfds) moves along.
pub trait BarObserver: Send + Sync {
    /// The BAR was at `old` and is at `new` now, `None` being nowhere.
    ///
    /// Called on the vCPU thread whose access caused it, or on the one that drops the function,
    /// under the lock of the function's configuration space: it must not access that.
    fn moved(&self, old: Option<u64>, new: Option<u64>);
}

/// One BAR's range on the MMIO bus. Dropping it takes the range off the bus.
pub struct BarWindow {
    /// Weak, for the bus holds the ECAM and that the function that holds this.
    bus: Weak<Bus>,
    device: Arc<dyn BusDevice>,
    size: u64,
    mapped: Option<u64>,
    observer: Option<Arc<dyn BarObserver>>,
}

impl BarWindow {
    /// Creates a range of `size` bytes, served by `device`, that isn't on `bus` yet.
    pub fn new(bus: &Arc<Bus>, device: Arc<dyn BusDevice>, size: u64) -> Self {
        Self { bus: Arc::downgrade(bus), device, size, mapped: None, observer: None }
    }

    /// Tells `observer` about every move from now on, and where the range is already.
    pub fn observe(&mut self, observer: Arc<dyn BarObserver>) {
        if self.mapped.is_some() {
            observer.moved(None, self.mapped);
        }
        self.observer = Some(observer);
    }

    /// Moves the range to guest-physical `wanted`, or off the bus.
    ///
    /// Where another device is already, the move is refused: the range is off the bus then, until
    /// the guest makes up its mind.
    pub fn place(&mut self, wanted: Option<u64>) {
        static LOG: LogLimit = LogLimit::new();
        if self.mapped == wanted {
            return;
        }
        let Some(bus) = self.bus.upgrade() else { return };
        let old = self.mapped.take();
        if let Some(base) = old {
            bus.remove(base);
        }
        if let Some(base) = wanted {
            match bus.insert(base, self.size, Arc::clone(&self.device)) {
                Ok(()) => self.mapped = Some(base),
                Err(error) => LOG.warn(format_args!("a PCI BAR can't move: {error}")),
            }
        }
        if old != self.mapped
            && let Some(observer) = &self.observer
        {
            observer.moved(old, self.mapped);
        }
    }

    /// Takes the range off the bus for good, whatever the guest still writes.
    pub fn close(&mut self) {
        self.place(None);
        self.bus = Weak::new();
    }
}

impl Drop for BarWindow {
    fn drop(&mut self) {
        self.place(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    struct Silent;

    impl BusDevice for Silent {
        fn read(&self, _offset: u64, data: &mut [u8]) {
            data.fill(0);
        }
        fn write(&self, _offset: u64, _data: &[u8]) {}
    }

    type Move = (Option<u64>, Option<u64>);

    #[derive(Default)]
    struct Moves(Mutex<Vec<Move>>);

    impl BarObserver for Moves {
        fn moved(&self, old: Option<u64>, new: Option<u64>) {
            self.0.lock().unwrap().push((old, new));
        }
    }

    fn answers(bus: &Bus, address: u64) -> bool {
        bus.read(address, &mut [0])
    }

    #[test]
    fn window_follows_the_guest_and_tells_the_observer() {
        let bus = Arc::new(Bus::new());
        let moves = Arc::new(Moves::default());
        let mut window = BarWindow::new(&bus, Arc::new(Silent), 0x1000);
        window.observe(moves.clone());
        window.place(Some(0x1000));
        assert!(answers(&bus, 0x1fff) && !answers(&bus, 0x2000));
        window.place(Some(0x1000));
        window.place(Some(0x3000));
        assert!(!answers(&bus, 0x1000) && answers(&bus, 0x3000));
        drop(window);
        assert!(!answers(&bus, 0x3000));
        let expected = [(None, Some(0x1000)), (Some(0x1000), Some(0x3000)), (Some(0x3000), None)];
        assert_eq!(*moves.0.lock().unwrap(), expected);
    }

    #[test]
    fn move_onto_another_device_leaves_the_window_nowhere_and_the_other_alone() {
        let bus = Arc::new(Bus::new());
        let other = Arc::new(Silent);
        bus.insert(0x8000, 0x10, other.clone()).unwrap();
        let moves = Arc::new(Moves::default());
        let mut window = BarWindow::new(&bus, Arc::new(Silent), 0x1000);
        window.observe(moves.clone());
        window.place(Some(0x1000));
        window.place(Some(0x8000));
        assert!(!answers(&bus, 0x1000) && answers(&bus, 0x8000) && !answers(&bus, 0x8010));
        window.place(Some(0x8000));
        window.place(Some(0x1000));
        assert!(answers(&bus, 0x1000));
        drop(window);
        assert!(answers(&bus, 0x8000), "the other device went along");
        let expected = [
            (None, Some(0x1000)),
            (Some(0x1000), None),
            (None, Some(0x1000)),
            (Some(0x1000), None),
        ];
        assert_eq!(*moves.0.lock().unwrap(), expected);
    }

    #[test]
    fn move_past_the_end_of_the_bus_is_refused() {
        let bus = Arc::new(Bus::new());
        let mut window = BarWindow::new(&bus, Arc::new(Silent), 0x1000);
        window.place(Some(u64::MAX - 0x10));
        assert!(!answers(&bus, u64::MAX));
    }

    #[test]
    fn closed_window_stays_nowhere_whatever_the_guest_writes() {
        let bus = Arc::new(Bus::new());
        let moves = Arc::new(Moves::default());
        let mut window = BarWindow::new(&bus, Arc::new(Silent), 0x1000);
        window.observe(moves.clone());
        window.place(Some(0x1000));
        window.close();
        window.place(Some(0x1000));
        drop(window);
        assert!(!answers(&bus, 0x1000));
        assert_eq!(*moves.0.lock().unwrap(), [(None, Some(0x1000)), (Some(0x1000), None)]);
    }

    #[test]
    fn late_observer_learns_where_the_window_is() {
        let bus = Arc::new(Bus::new());
        let moves = Arc::new(Moves::default());
        let mut window = BarWindow::new(&bus, Arc::new(Silent), 0x1000);
        window.place(Some(0x1000));
        window.observe(moves.clone());
        assert_eq!(*moves.0.lock().unwrap(), [(None, Some(0x1000))]);
    }
}
