//! TAP interfaces, and frames that go between a file descriptor and guest memory without a copy in
//! between.
#![expect(unsafe_code, reason = "TUN/TAP ioctls, and vectored I/O on guest memory")]

mod create;

pub use create::create_persistent;

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use libc::{c_char, c_int, c_short, c_uint, ifreq, iovec};
use rustix::net::{AddressFamily, SocketType, netdevice, socket};
use vm_memory::{
    Address, Bytes, GuestAddress, GuestMemory, GuestMemoryError, Permissions, VolatileSlice,
};
use vmm_sys_util::ioctl::{ioctl_with_mut_ref, ioctl_with_ref, ioctl_with_val};

use crate::memory::{self, GuestRam};

/// Where Linux hands out TAP queues.
const TUN_DEVICE: &str = "/dev/net/tun";
/// Size in bytes of the header before each frame: `struct virtio_net_hdr_v1`
/// (VIRTIO 1.3 §5.1.6).
pub const VNET_HEADER_SIZE: usize = 12;
/// How many queues Linux gives one TAP (`MAX_TAP_QUEUES`).
pub const MAX_TAP_QUEUES: u16 = 256;
/// How many buffers one vectored call takes (`UIO_MAXIOV`).
const MAX_VECTORS: usize = 1024;

/// Why a TAP can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// Linux couldn't have an interface of this name.
    #[error("{name:?} can't be an interface's name: 1 to 15 bytes without '/', ':', '%' or spaces")]
    InvalidName {
        /// The name as given.
        name: String,
    },
    /// The number of queues is 0 or more than [`MAX_TAP_QUEUES`].
    #[error("TAP {name} can't have {queues} queues: 1 to {MAX_TAP_QUEUES} are possible")]
    InvalidQueues {
        /// The interface.
        name: String,
        /// The number as given.
        queues: u16,
    },
    /// There is no persistent TAP of this name.
    #[error("there is no persistent TAP called {name}")]
    Absent {
        /// The interface.
        name: String,
    },
    /// The interface exists and isn't a TAP (a TUN, a bridge, a network card).
    #[error("interface {name} is not a TAP")]
    NotTap {
        /// The interface.
        name: String,
    },
    /// More than one queue is wanted of a TAP that was made for one.
    #[error("TAP {name} was made without multi_queue and has one queue, not {queues}")]
    SingleQueue {
        /// The interface.
        name: String,
        /// How many queues were wanted.
        queues: u16,
    },
    /// The TAP belongs to another user, and the process lacks CAP_NET_ADMIN.
    #[error("TAP {name} belongs to another user")]
    NotPermitted {
        /// The interface.
        name: String,
    },
    /// Another process has opened the TAP.
    #[error("TAP {name} is in use by another process")]
    Busy {
        /// The interface.
        name: String,
    },
    /// `/dev/net/tun` can't be opened.
    #[error("can't open {TUN_DEVICE} for TAP {name}")]
    NoTun {
        /// The interface.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Linux refused a request that it should understand.
    #[error("TAP {name}: {request} failed")]
    Request {
        /// The interface.
        name: String,
        /// The ioctl or call.
        request: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// What the reader of a TAP's frames accepts undone, and the writer may leave to the host: the
/// `TUN_F_*` flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Checksums that aren't computed yet. The others need it.
    pub checksum: bool,
    /// TCP over IPv4 segments larger than the MTU.
    pub tso4: bool,
    /// TCP over IPv6 segments larger than the MTU.
    pub tso6: bool,
    /// Large TCP segments with explicit congestion notification.
    pub ecn: bool,
    /// UDP datagrams over IPv4 and IPv6 to be cut up (Linux 6.2).
    pub uso: bool,
}

impl Offloads {
    /// Everything that Linux has offered since long before the kernels that we run on.
    pub const CLASSIC: Self =
        Self { checksum: true, tso4: true, tso6: true, ecn: true, uso: false };

    /// Linux refuses segmentation without checksums, and ECN without TCP segmentation.
    fn flags(self) -> c_uint {
        if !self.checksum {
            return 0;
        }
        let flag = |set: bool, value: c_uint| if set { value } else { 0 };
        libc::TUN_F_CSUM
            | flag(self.tso4, libc::TUN_F_TSO4)
            | flag(self.tso6, libc::TUN_F_TSO6)
            | flag(self.ecn && (self.tso4 || self.tso6), libc::TUN_F_TSO_ECN)
            | flag(self.uso, libc::TUN_F_USO4 | libc::TUN_F_USO6)
    }
}

/// One queue of a TAP, non-blocking. Each read or write is a frame behind a header of
/// [`VNET_HEADER_SIZE`] bytes.
#[derive(Debug)]
pub struct Tap {
    file: File,
    supported: Offloads,
}

impl Tap {
    /// Opens `queues` queues of the persistent TAP `name`, which is never created here.
    ///
    /// # Errors
    /// [`TapError`], naming the interface.
    pub fn open(name: &str, queues: u16) -> Result<Vec<Self>, TapError> {
        check_name(name)?;
        if queues == 0 || queues > MAX_TAP_QUEUES {
            return Err(TapError::InvalidQueues { name: name.to_owned(), queues });
        }
        check_exists(name)?;
        (0..queues).map(|_| Self::open_queue(name, queues)).collect()
    }

    /// Says what the host's kernel can do with frames of this TAP.
    pub fn supported_offloads(&self) -> Offloads {
        self.supported
    }

    /// Sets what the reader of this TAP's frames accepts undone; it holds for all queues.
    ///
    /// # Errors
    /// When the kernel doesn't know one of them, or the TAP is gone.
    pub fn set_offloads(&self, offloads: Offloads) -> io::Result<()> {
        // SAFETY: TUNSETOFFLOAD takes its argument by value and touches no memory of ours.
        let result =
            unsafe { ioctl_with_val(&self.file, libc::TUNSETOFFLOAD, u64::from(offloads.flags())) };
        check(result)
    }

    /// Attaches this queue to its multi-queue TAP, or detaches it: a detached queue gets no frames
    /// and polls as an error. Doing what is done already succeeds.
    ///
    /// # Errors
    /// When the TAP is gone.
    pub fn set_enabled(&self, enabled: bool) -> io::Result<()> {
        let flag = if enabled { libc::IFF_ATTACH_QUEUE } else { libc::IFF_DETACH_QUEUE };
        let request = interface_request("", flag);
        // SAFETY: TUNSETQUEUE reads one `ifreq`, which lives over the call.
        match check(unsafe { ioctl_with_ref(&self.file, libc::TUNSETQUEUE, &request) }) {
            // Linux says so for a queue that is in the wanted state already.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
            other => other,
        }
    }

    fn open_queue(name: &str, queues: u16) -> Result<Self, TapError> {
        let file = attach(name, queues)?;
        let failed =
            |request| move |source| TapError::Request { name: name.to_owned(), request, source };
        if !is_persistent(&file).map_err(failed("TUNGETIFF"))? {
            // It went away after the check and TUNSETIFF made a new one, which ends with `file`.
            return Err(TapError::Absent { name: name.to_owned() });
        }
        set_header_size(&file).map_err(failed("TUNSETVNETHDRSZ"))?;
        let mut tap = Self { file, supported: Offloads { uso: true, ..Offloads::CLASSIC } };
        if tap.set_offloads(tap.supported).is_err() {
            tap.supported = Offloads::CLASSIC;
        }
        // Until a driver asks for more, frames come complete.
        tap.set_offloads(Offloads::default()).map_err(failed("TUNSETOFFLOAD"))?;
        Ok(tap)
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// What one read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// The frame's length in bytes, its header included.
    pub len: usize,
    /// How much of it lies in guest memory; the rest is at the start of the spill buffer.
    pub in_guest: usize,
}

/// Guest memory as an I/O vector: buffers are pushed at the end and dropped at the front, and
/// stay translated to host addresses in between.
#[derive(Debug)]
pub struct GuestVectors {
    vectors: VecDeque<iovec>,
    /// The guest's address of each vector.
    addresses: VecDeque<GuestAddress>,
    /// The vectors of one call; kept for its capacity.
    call: Vec<iovec>,
    /// Keeps the mapping that the vectors point into.
    memory: GuestRam,
    /// Whether the memory notes what is written.
    tracked: bool,
}

// SAFETY: the raw pointers lie in `memory`'s mapping, which any thread may use and which lives as
// long as this value. Nothing else is shared.
unsafe impl Send for GuestVectors {}

impl GuestVectors {
    /// Creates an empty vector over `memory`.
    pub fn new(memory: GuestRam) -> Self {
        let tracked = memory::is_tracked(&memory);
        let (vectors, addresses) = (VecDeque::new(), VecDeque::new());
        Self { vectors, addresses, call: Vec::new(), memory, tracked }
    }

    /// Returns the guest memory that the buffers lie in.
    pub fn memory(&self) -> &GuestRam {
        &self.memory
    }

    /// Returns how many host buffers there are; a guest's buffer across two memory regions is two.
    pub fn len(&self) -> usize {
        self.vectors.len()
    }

    /// Tells whether there are no buffers.
    pub fn is_empty(&self) -> bool {
        self.vectors.is_empty()
    }

    /// Appends the guest's buffer of `len` bytes at `address`.
    ///
    /// # Errors
    /// When it isn't wholly in guest memory. Parts before the hole may have been appended.
    pub fn push(&mut self, address: GuestAddress, len: usize) -> Result<(), GuestMemoryError> {
        let mut at = address;
        for slice in self.memory.get_slices(address, len, Permissions::ReadWrite)? {
            let slice = slice?;
            let iov_base = slice.ptr_guard_mut().as_ptr().cast();
            self.vectors.push_back(iovec { iov_base, iov_len: slice.len() });
            self.addresses.push_back(at);
            at = at.unchecked_add(slice.len() as u64);
        }
        Ok(())
    }

    /// Drops the first `count` host buffers.
    pub fn drop_front(&mut self, count: usize) {
        self.vectors.drain(..count.min(self.vectors.len()));
        self.addresses.drain(..count.min(self.addresses.len()));
    }

    /// Drops all but the first `count` host buffers.
    pub fn truncate(&mut self, count: usize) {
        self.vectors.truncate(count);
        self.addresses.truncate(count);
    }

    /// Drops all buffers.
    pub fn clear(&mut self) {
        self.vectors.clear();
        self.addresses.clear();
    }

    /// Reads one frame into the first `count` host buffers (of which Linux takes 1023) and, where
    /// they end, into `spill`.
    ///
    /// # Errors
    /// What `readv` says: [`io::ErrorKind::WouldBlock`] when no frame waits.
    pub fn read_frame(
        &mut self,
        fd: BorrowedFd<'_>,
        count: usize,
        spill: &mut [u8],
    ) -> io::Result<Received> {
        self.call.clear();
        self.call.extend(self.vectors.iter().take(count.min(MAX_VECTORS - 1)));
        let capacity = self.call.iter().map(|vector| vector.iov_len).sum();
        self.call.push(iovec { iov_base: spill.as_mut_ptr().cast(), iov_len: spill.len() });
        let vectors = c_int::try_from(self.call.len()).unwrap_or(c_int::MAX);
        // SAFETY:
        // - `call` holds `vectors` iovecs.
        // - All but the last point into `self.memory`, which is mapped and only ever accessed as
        //   volatile memory; the kernel's writes there are no different from the guest's own.
        // - The last is `spill`, borrowed mutably over the call.
        let len = retry(|| unsafe { libc::readv(fd.as_raw_fd(), self.call.as_ptr(), vectors) })?;
        let in_guest = len.min(capacity);
        self.mark_dirty(in_guest);
        Ok(Received { len, in_guest })
    }

    /// Notes that the first `len` bytes of the buffers were written.
    fn mark_dirty(&self, len: usize) {
        let mut left = if self.tracked { len } else { 0 };
        for (vector, address) in self.vectors.iter().zip(&self.addresses) {
            if left == 0 {
                break;
            }
            let now = left.min(vector.iov_len);
            memory::mark_dirty(&self.memory, *address, now);
            left -= now;
        }
    }

    /// Writes `header` and then all buffers as one frame.
    ///
    /// # Errors
    /// What `writev` says: [`io::ErrorKind::WouldBlock`] when the receiver is full.
    pub fn write_frame(&mut self, fd: BorrowedFd<'_>, header: &[u8]) -> io::Result<usize> {
        self.call.clear();
        // writev only reads from its buffers.
        self.call
            .push(iovec { iov_base: header.as_ptr().cast_mut().cast(), iov_len: header.len() });
        self.call.extend(self.vectors.iter());
        let vectors = c_int::try_from(self.call.len()).unwrap_or(c_int::MAX);
        // SAFETY:
        // - `call` holds `vectors` iovecs.
        // - The first is `header`, borrowed over the call; the kernel doesn't write to it.
        // - The others point into `self.memory`, which is mapped; the guest may change the bytes
        //   meanwhile, which the kernel expects of any user memory.
        retry(|| unsafe { libc::writev(fd.as_raw_fd(), self.call.as_ptr(), vectors) })
    }

    /// Returns how many bytes the buffers hold.
    pub fn byte_len(&self) -> usize {
        self.vectors.iter().fold(0, |sum, vector| sum.saturating_add(vector.iov_len))
    }

    /// Fills `bytes` from the buffers, `offset` bytes from the start of the first. Returns how
    /// many there were. The guest may change them meanwhile.
    pub fn read_at(&self, mut offset: usize, bytes: &mut [u8]) -> usize {
        let (wanted, mut rest) = (bytes.len(), bytes);
        for (vector, address) in self.vectors.iter().zip(&self.addresses) {
            if rest.is_empty() {
                break;
            }
            let Some(room) = vector.iov_len.checked_sub(offset) else {
                offset -= vector.iov_len;
                continue;
            };
            let (now, later) = rest.split_at_mut(room.min(rest.len()));
            if self.memory.read_slice(now, address.unchecked_add(offset as u64)).is_err() {
                return wanted - now.len() - later.len();
            }
            offset = 0;
            rest = later;
        }
        wanted - rest.len()
    }

    /// Copies `bytes` into the buffers, `offset` bytes from the start of the first. Returns how
    /// many fit.
    pub fn write_at(&self, mut offset: usize, mut bytes: &[u8]) -> usize {
        let wanted = bytes.len();
        for (vector, address) in self.vectors.iter().zip(&self.addresses) {
            if bytes.is_empty() {
                break;
            }
            let Some(room) = vector.iov_len.checked_sub(offset) else {
                offset -= vector.iov_len;
                continue;
            };
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            // SAFETY: the vector was made from a slice of `iov_len` bytes of `self.memory`, which
            // is still mapped.
            let slice: VolatileSlice<'_> =
                unsafe { VolatileSlice::new(vector.iov_base.cast(), vector.iov_len) };
            if let Ok(target) = slice.subslice(offset, now.len()) {
                target.copy_from(now);
                if self.tracked {
                    let at = address.unchecked_add(offset as u64);
                    memory::mark_dirty(&self.memory, at, now.len());
                }
            }
            offset = 0;
            bytes = later;
        }
        wanted - bytes.len()
    }
}

fn retry(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        match usize::try_from(call()) {
            Ok(len) => return Ok(len),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

fn check(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn check_name(name: &str) -> Result<(), TapError> {
    let bad = |byte: u8| {
        !byte.is_ascii_graphic() && byte.is_ascii() || matches!(byte, b'/' | b':' | b'%')
    };
    let fits = (1..libc::IFNAMSIZ).contains(&name.len());
    if !fits || name == "." || name == ".." || name.bytes().any(bad) {
        return Err(TapError::InvalidName { name: name.to_owned() });
    }
    Ok(())
}

/// TUNSETIFF would make an interface that isn't there.
fn check_exists(name: &str) -> Result<(), TapError> {
    let probe = socket(AddressFamily::UNIX, SocketType::DGRAM, None)
        .and_then(|socket| netdevice::name_to_index(socket, name));
    match probe {
        Ok(_) => Ok(()),
        Err(rustix::io::Errno::NODEV) => Err(TapError::Absent { name: name.to_owned() }),
        Err(error) => Err(TapError::Request {
            name: name.to_owned(),
            request: "SIOCGIFINDEX",
            source: error.into(),
        }),
    }
}

fn attach(name: &str, queues: u16) -> Result<File, TapError> {
    let name = name.to_owned();
    let multi = libc::IFF_MULTI_QUEUE;
    let first = if queues > 1 { multi } else { 0 };
    match attach_with(&name, first)? {
        Ok(file) => return Ok(file),
        Err(error) if error.raw_os_error() != Some(libc::EINVAL) => {
            return Err(refusal(name, error));
        }
        Err(_) => {}
    }
    // It isn't a TAP, or a single-queue one where several were wanted or the other way round.
    match attach_with(&name, multi ^ first)? {
        Ok(file) if queues == 1 => Ok(file),
        Ok(_) => Err(TapError::SingleQueue { name, queues }),
        Err(error) => match error.raw_os_error() {
            Some(libc::EINVAL) => Err(TapError::NotTap { name }),
            Some(libc::EBUSY) if queues > 1 => Err(TapError::SingleQueue { name, queues }),
            _ => Err(refusal(name, error)),
        },
    }
}

fn refusal(name: String, source: io::Error) -> TapError {
    match source.raw_os_error() {
        Some(libc::EPERM) => TapError::NotPermitted { name },
        Some(libc::EBUSY) => TapError::Busy { name },
        _ => TapError::Request { name, request: "TUNSETIFF", source },
    }
}

/// Opens a queue of `name`; the inner error is TUNSETIFF's.
fn attach_with(name: &str, flags: c_int) -> Result<io::Result<File>, TapError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(TUN_DEVICE)
        .map_err(|source| TapError::NoTun { name: name.to_owned(), source })?;
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | flags;
    let mut request = interface_request(name, flags);
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which lives over the call.
    let result = unsafe { ioctl_with_mut_ref(&file, libc::TUNSETIFF, &mut request) };
    Ok(check(result).map(|()| file))
}

fn is_persistent(file: &File) -> io::Result<bool> {
    let mut request = interface_request("", 0);
    // SAFETY: TUNGETIFF writes one `ifreq`, which lives over the call.
    check(unsafe { ioctl_with_mut_ref(file, libc::TUNGETIFF, &mut request) })?;
    // SAFETY: TUNGETIFF fills in the flags; any bytes are a valid `c_short`.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    Ok(c_int::from(flags) & libc::IFF_PERSIST != 0)
}

fn set_header_size(file: &File) -> io::Result<()> {
    let size: c_int = 12;
    const _: () = assert!(VNET_HEADER_SIZE == 12);
    // SAFETY: TUNSETVNETHDRSZ reads one `int`, which lives over the call.
    check(unsafe { ioctl_with_ref(file, libc::TUNSETVNETHDRSZ, &size) })
}

/// An `ifreq` with the first 15 bytes of `name` and the low 16 bits of `flags`.
fn interface_request(name: &str, flags: c_int) -> ifreq {
    // SAFETY: `ifreq` is a name and a union of plain values and pointers: all zeroes are valid.
    let mut request: ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = from as c_char;
    }
    #[expect(clippy::cast_possible_truncation, reason = "the kernel's flags are 16 bits")]
    let flags = flags as c_short;
    request.ifr_ifru.ifru_flags = flags;
    request
}

#[cfg(test)]
mod tests;
