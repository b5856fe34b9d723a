//! Page faults of guest memory, handled in user space: userfaultfd(2).
//!
//! A [`Uffd`] acts on the ranges that were registered with it and on nothing else, and only guest
//! memory can be registered: so nothing that it does reaches memory that Rust knows.
#![expect(unsafe_code, reason = "userfaultfd's ioctls take structures by pointer")]

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use vm_memory::GuestMemoryRegion;

use crate::memory::{GuestRegion, RegionTracking};

/// What can be asked of the kernel beyond the basics. Combine with `|`.
pub mod feature {
    /// Write protection of anonymous memory (Linux 5.7).
    pub const WRITE_PROTECT: u64 = 1;
    /// Events for pages that are given back to the host.
    pub const EVENT_REMOVE: u64 = 1 << 3;
    /// Missing pages of huge page mappings.
    pub const MISSING_HUGETLBFS: u64 = 1 << 4;
    /// Missing pages of shared memory.
    pub const MISSING_SHMEM: u64 = 1 << 5;
    /// Write protection of huge page and shared mappings (Linux 5.19).
    pub const WRITE_PROTECT_SHARED: u64 = 1 << 12;
}

/// Which faults of a range are reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The first access to each page.
    Missing,
    /// Writes to pages that were protected.
    WriteProtect,
}

/// What happened in a registered range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A thread waits for the page at this host address.
    Fault {
        /// Where, to the page.
        address: u64,
        /// Whether the page is there and the write to it is what's forbidden.
        protected: bool,
    },
    /// Pages from `start` to `end` are being given back; they read as zeros afterwards.
    Remove {
        /// First host address.
        start: u64,
        /// Address behind the last byte.
        end: u64,
    },
}

/// Why userfaultfd can't be used.
#[derive(Debug, thiserror::Error)]
pub enum UffdError {
    /// This process may not handle faults that happen in the kernel, as those of KVM do.
    #[error(
        "this host doesn't let the VMM handle page faults: it needs read and write access to \
         /dev/userfaultfd, or CAP_SYS_PTRACE, or vm.unprivileged_userfaultfd=1"
    )]
    Forbidden(#[source] io::Error),
    /// The kernel is too old or was built without it.
    #[error("this host's kernel can't handle page faults in user space in the way that's needed")]
    Unsupported(#[source] io::Error),
    /// This kind of mapping can't be registered.
    #[error("page faults of this kind of memory can't be handled in user space")]
    Mapping(#[source] io::Error),
    /// A call failed that should not.
    #[error("{call} failed")]
    Call {
        /// Its name.
        call: &'static str,
        /// What the operating system said.
        source: io::Error,
    },
}

const API: u64 = 0xaa;
const IOC_NEW: libc::Ioctl = 0xaa00;
const IOC_API: libc::Ioctl = iowr(0x3f, 24);
const IOC_REGISTER: libc::Ioctl = iowr(0x00, 32);
const IOC_UNREGISTER: libc::Ioctl = ior(0x01, 16);
const IOC_WAKE: libc::Ioctl = ior(0x02, 16);
const IOC_COPY: libc::Ioctl = iowr(0x03, 40);
const IOC_ZEROPAGE: libc::Ioctl = iowr(0x04, 32);
const IOC_WRITEPROTECT: libc::Ioctl = iowr(0x06, 24);

const MODE_MISSING: u64 = 1;
const MODE_WP: u64 = 2;
const MESSAGE_BYTES: usize = 32;
const EVENT_PAGEFAULT: u8 = 0x12;
const EVENT_REMOVE: u8 = 0x15;
const PAGEFAULT_FLAG_WP: u64 = 2;

/// Encodes an ioctl that reads and writes a structure of `size` bytes.
const fn iowr(number: libc::Ioctl, size: libc::Ioctl) -> libc::Ioctl {
    3 << 30 | size << 16 | 0xaa << 8 | number
}

/// Encodes an ioctl of the other direction.
const fn ior(number: libc::Ioctl, size: libc::Ioctl) -> libc::Ioctl {
    2 << 30 | size << 16 | 0xaa << 8 | number
}

/// A userfaultfd: reads never block.
#[derive(Debug)]
pub struct Uffd {
    fd: OwnedFd,
}

impl Uffd {
    /// Creates one that handles faults of the kernel, too, and has all of `features`.
    ///
    /// # Errors
    /// [`UffdError::Forbidden`] or [`UffdError::Unsupported`].
    pub fn new(features: u64) -> Result<Self, UffdError> {
        let uffd = Self { fd: open()? };
        let mut api = [API, features, 0];
        uffd.ioctl(IOC_API, &mut api).map_err(UffdError::Unsupported)?;
        Ok(uffd)
    }

    /// Takes one that another process made and registered its memory with.
    ///
    /// # Errors
    /// When the descriptor is of another kind.
    pub fn from_received(fd: OwnedFd) -> io::Result<Self> {
        let kind = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
        if kind.as_os_str() != "anon_inode:[userfaultfd]" {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it isn't a userfaultfd"));
        }
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self { fd })
    }

    /// Has faults of `region` reported.
    ///
    /// # Errors
    /// [`UffdError::Mapping`] for a kind of mapping that can't be, as a private one of a file.
    pub fn register(&self, region: &GuestRegion, mode: Mode) -> Result<(), UffdError> {
        let bits = match mode {
            Mode::Missing => MODE_MISSING,
            Mode::WriteProtect => MODE_WP,
        };
        let mut argument = [region.as_ptr() as u64, region.len(), bits, 0];
        self.ioctl(IOC_REGISTER, &mut argument).map_err(UffdError::Mapping)?;
        if mode == Mode::Missing {
            region.tracking().set_lazy();
        }
        Ok(())
    }

    /// Ends [`register`](Self::register); threads that wait go on.
    ///
    /// # Errors
    /// When it wasn't registered.
    pub fn unregister(&self, region: &GuestRegion) -> io::Result<()> {
        self.ioctl(IOC_UNREGISTER, &mut [region.as_ptr() as u64, region.len()])
    }

    /// Fills missing pages from `address` on with `pages`, and wakes who waits for them. Returns how
    /// many bytes were filled, not none.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`] when the first page isn't missing;
    /// [`io::ErrorKind::WouldBlock`] while an event wants to be read first; `ESRCH` when the process
    /// is gone.
    pub fn copy(&self, address: u64, pages: &[u8]) -> io::Result<usize> {
        let mut argument = [address, pages.as_ptr() as u64, pages.len() as u64, 0, 0];
        let result = self.ioctl(IOC_COPY, &mut argument);
        progress(result, argument[4])
    }

    /// Fills missing pages with zeros that take no memory, and wakes who waits for them. Returns how
    /// many bytes were filled, not none.
    ///
    /// # Errors
    /// As [`copy`](Self::copy); huge pages can't be filled like this.
    pub fn zero(&self, address: u64, len: usize) -> io::Result<usize> {
        let mut argument = [address, len as u64, 0, 0];
        let result = self.ioctl(IOC_ZEROPAGE, &mut argument);
        progress(result, argument[3])
    }

    /// Forbids writing to registered pages, or allows it again and wakes who waits to.
    ///
    /// # Errors
    /// When the range isn't registered for it.
    pub fn write_protect(&self, address: u64, len: u64, protect: bool) -> io::Result<()> {
        loop {
            let mut argument = [address, len, u64::from(protect)];
            match self.ioctl(IOC_WRITEPROTECT, &mut argument) {
                // The mappings are being changed.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::yield_now(),
                result => return result,
            }
        }
    }

    /// Wakes who waits for pages of a range; those still missing are reported anew.
    ///
    /// # Errors
    /// When the range isn't registered.
    pub fn wake(&self, address: u64, len: u64) -> io::Result<()> {
        self.ioctl(IOC_WAKE, &mut [address, len])
    }

    /// Appends the events that wait to `events`, some at least if there are any.
    ///
    /// # Errors
    /// What the operating system says; that there are none isn't an error.
    pub fn read(&self, events: &mut Vec<Event>) -> io::Result<()> {
        let mut buffer = [0; MESSAGE_BYTES * 32];
        let len = loop {
            match rustix::io::read(&self.fd, &mut buffer) {
                Ok(len) => break len,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        };
        let (messages, _) = buffer[..len].as_chunks::<MESSAGE_BYTES>();
        events.extend(messages.iter().filter_map(parse));
        Ok(())
    }

    fn ioctl<const N: usize>(
        &self,
        number: libc::Ioctl,
        argument: &mut [u64; N],
    ) -> io::Result<()> {
        // SAFETY:
        // - The argument is as long as the number says (all fields of these structures are 64 bits
        //   wide), borrowed mutably over the call.
        // - UFFDIO_COPY reads from a slice that its caller borrows over the call.
        // - What the calls change is memory that was registered: guest memory of this process or of
        //   another one, to which nobody holds references.
        let result = unsafe { libc::ioctl(self.fd.as_raw_fd(), number, argument.as_mut_ptr()) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl AsFd for Uffd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Tells how far a fill came: the kernel writes the length or the negated error.
fn progress(result: io::Result<()>, done: u64) -> io::Result<usize> {
    match (usize::try_from(done.cast_signed()), result) {
        (Ok(done), _) if done > 0 => Ok(done),
        (_, Err(error)) => Err(error),
        (_, Ok(())) => Err(io::ErrorKind::InvalidInput.into()),
    }
}

fn parse(message: &[u8; MESSAGE_BYTES]) -> Option<Event> {
    let word = |at: usize| message.get(at..)?.first_chunk::<8>().copied().map(u64::from_ne_bytes);
    match message[0] {
        EVENT_PAGEFAULT => {
            let protected = word(8)? & PAGEFAULT_FLAG_WP != 0;
            Some(Event::Fault { address: word(16)?, protected })
        }
        EVENT_REMOVE => Some(Event::Remove { start: word(8)?, end: word(16)? }),
        _ => None,
    }
}

/// Asks for the descriptor in both ways that there are.
fn open() -> Result<OwnedFd, UffdError> {
    use rustix::mm::UserfaultfdFlags;
    let flags = UserfaultfdFlags::CLOEXEC | UserfaultfdFlags::NONBLOCK;
    // SAFETY: the descriptor does nothing until memory is registered with it.
    match unsafe { rustix::mm::userfaultfd(flags) } {
        Ok(fd) => Ok(fd),
        Err(error) => open_device().map_err(|_| match error {
            rustix::io::Errno::NOSYS => UffdError::Unsupported(error.into()),
            error => UffdError::Forbidden(error.into()),
        }),
    }
}

/// Asks the device, to which access can be given without any capability (Linux 6.1).
fn open_device() -> io::Result<OwnedFd> {
    let device: File = OpenOptions::new().read(true).write(true).open("/dev/userfaultfd")?;
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
    // SAFETY: the call takes its argument by value.
    let fd: RawFd = unsafe { libc::ioctl(device.as_raw_fd(), IOC_NEW, flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made the descriptor, for nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use rustix::event::{PollFd, PollFlags, poll};
    use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

    use super::*;
    use crate::discard::discard;
    use crate::memory::GuestRam;

    const PAGE: usize = 4096;

    /// Sixteen pages, or `None` on a host that forbids userfaultfd.
    fn registered(features: u64, mode: Mode) -> Option<(Uffd, GuestRam, u64)> {
        let uffd = match Uffd::new(features) {
            Err(UffdError::Forbidden(error)) => {
                eprintln!("skipped: {error}");
                return None;
            }
            result => result.unwrap(),
        };
        let memory = GuestRam::from_ranges(&[(GuestAddress(0), 16 * PAGE)]).unwrap();
        let region = memory.iter().next().unwrap();
        uffd.register(region, mode).unwrap();
        let base = region.as_ptr() as u64;
        Some((uffd, memory, base))
    }

    fn next(uffd: &Uffd) -> Event {
        poll(&mut [PollFd::new(uffd, PollFlags::IN)], None).unwrap();
        let mut events = Vec::new();
        uffd.read(&mut events).unwrap();
        assert_eq!(events.len(), 1);
        events[0]
    }

    #[test]
    fn missing_pages_are_filled_on_demand() {
        let Some((uffd, memory, base)) = registered(0, Mode::Missing) else { return };
        let guest = memory.clone();
        let reader = std::thread::spawn(move || {
            [3, 4].map(|page| guest.read_obj::<u8>(GuestAddress(page * 4096 + 5)).unwrap())
        });
        let at = |page: u64| base + page * 4096;
        assert_eq!(next(&uffd), Event::Fault { address: at(3), protected: false });
        assert_eq!(uffd.copy(at(3), &[7; PAGE]).unwrap(), PAGE);
        assert_eq!(next(&uffd), Event::Fault { address: at(4), protected: false });
        assert_eq!(uffd.zero(at(4), 2 * PAGE).unwrap(), 2 * PAGE);
        assert_eq!(reader.join().unwrap(), [7, 0]);
        let error = uffd.copy(at(3), &[8; PAGE]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        // Up to the first page that's there.
        assert_eq!(uffd.copy(at(2), &[9; 2 * PAGE]).unwrap(), PAGE);
        // Not the page after the last: another test's registered memory may lie there.
        let other = GuestRam::from_ranges(&[(GuestAddress(0), PAGE)]).unwrap();
        let unregistered = other.iter().next().unwrap().as_ptr() as u64;
        assert!(uffd.copy(unregistered, &[9; PAGE]).is_err());
    }

    #[test]
    fn kernels_own_access_faults_too() {
        let Some((uffd, memory, base)) = registered(0, Mode::Missing) else { return };
        let file = tempfile::tempfile().unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[5; 8], 0).unwrap();
        let guest = memory.clone();
        let reader = std::thread::spawn(move || {
            let mut io = crate::guest_io::GuestIo::new(guest);
            io.read_at(&file, 0, [(GuestAddress(4096), 8)])
        });
        assert_eq!(next(&uffd), Event::Fault { address: base + 4096, protected: false });
        uffd.copy(base + 4096, &[1; PAGE]).unwrap();
        reader.join().unwrap().unwrap();
        assert_eq!(
            memory.read_obj::<[u8; 9]>(GuestAddress(4096)).unwrap(),
            [5, 5, 5, 5, 5, 5, 5, 5, 1]
        );
    }

    #[test]
    fn write_to_a_protected_page_waits_and_reading_does_not() {
        let mode = Mode::WriteProtect;
        let Some((uffd, memory, base)) = registered(feature::WRITE_PROTECT, mode) else { return };
        memory.write_slice(&[1; 4 * PAGE], GuestAddress(0)).unwrap();
        uffd.write_protect(base, 4 * 4096, true).unwrap();
        assert_eq!(memory.read_obj::<u8>(GuestAddress(0)).unwrap(), 1);
        let guest = memory.clone();
        let writer = std::thread::spawn(move || {
            guest.store(2u8, GuestAddress(4096), Ordering::Relaxed).unwrap();
        });
        assert_eq!(next(&uffd), Event::Fault { address: base + 4096, protected: true });
        assert_eq!(memory.read_obj::<u8>(GuestAddress(4096)).unwrap(), 1);
        uffd.write_protect(base + 4096, 4096, false).unwrap();
        writer.join().unwrap();
        assert_eq!(memory.read_obj::<u8>(GuestAddress(4096)).unwrap(), 2);
    }

    #[test]
    fn pages_given_back_are_reported_before_they_are_gone() {
        let Some((uffd, memory, base)) = registered(feature::EVENT_REMOVE, Mode::Missing) else {
            return;
        };
        uffd.copy(base, &[7; 4 * PAGE]).unwrap();
        let guest = memory.clone();
        let balloon =
            std::thread::spawn(move || discard(&guest, GuestAddress(4096), 8192).unwrap());
        assert_eq!(next(&uffd), Event::Remove { start: base + 4096, end: base + 3 * 4096 });
        assert_eq!(balloon.join().unwrap(), 8192);
        assert_eq!(uffd.zero(base + 4096, PAGE).unwrap(), PAGE);
        assert_eq!(memory.read_obj::<u8>(GuestAddress(4096)).unwrap(), 0);
    }

    #[test]
    fn other_descriptors_are_refused() {
        let pipe = rustix::pipe::pipe().unwrap().0;
        assert!(Uffd::from_received(pipe).is_err());
    }

    #[test]
    fn private_mapping_of_a_file_cannot_be_registered() {
        if registered(0, Mode::Missing).is_none() {
            return;
        }
        let file = File::open(std::env::current_exe().unwrap()).unwrap();
        let region = vm_memory::mmap::MmapRegionBuilder::new(PAGE)
            .with_file_offset(vm_memory::FileOffset::new(file, 0))
            .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
            .with_mmap_flags(libc::MAP_PRIVATE)
            .build()
            .unwrap();
        let region = GuestRegion::new(region, GuestAddress(0)).unwrap();
        let uffd = Uffd::new(0).unwrap();
        let error = uffd.register(&region, Mode::Missing).unwrap_err();
        assert!(matches!(error, UffdError::Mapping(_)), "{error}");
    }
}
