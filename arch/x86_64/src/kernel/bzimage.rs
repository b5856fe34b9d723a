//! `bzImage`: the setup header and the 64-bit boot protocol
//! (Linux Documentation/arch/x86/boot.rst).

use std::io::{Read, Seek};

use arch::{BootError, BootProtocol, GuestRange, KernelFormat, KernelInfo, MemoryLayout};
use vm_memory::{GuestAddress, GuestMemoryBackend, ReadVolatile};

use super::{Source, check_room, malformed, not_64_bit, number, read_at, read_into};
use crate::layout;

/// Where the setup header starts in the file.
const HEADER: usize = 0x1f1;
/// The oldest protocol with everything that is used here: `xloadflags` came with 2.12.
const MIN_VERSION: u64 = 0x20c;
/// `loadflags`: the protected-mode code is loaded at 1 MiB or above.
const LOADED_HIGH: u64 = 1 << 0;
/// `xloadflags`: the kernel has the 64-bit entry point at 0x200.
const XLF_KERNEL_64: u64 = 1 << 0;
/// Where the 64-bit entry point is in the protected-mode code.
const ENTRY_64: u64 = 0x200;
/// Where the last field that is used ends: the kernel gets back no less of the header than that.
const HEADER_END_MIN: usize = 0x264;
/// Size of a sector.
const SECTOR: u64 = 512;
/// Longest version string that is read.
const VERSION_MAX_BYTES: u64 = 256;

/// The fields of the setup header that are used, by their names there.
struct Header {
    setup_sects: u64,
    syssize: u64,
    kernel_version: u64,
    loadflags: u64,
    initrd_addr_max: u64,
    xloadflags: u64,
    cmdline_size: u64,
    pref_address: u64,
    init_size: u64,
    bytes: Vec<u8>,
}

/// Says whether a file that starts with `head` has a setup header.
pub(super) fn is_one(head: &[u8]) -> bool {
    head.get(0x202..0x206) == Some(b"HdrS") && number::<2>(head, 0x1fe) == Some(0xaa55)
}

impl Header {
    fn parse(head: &[u8]) -> Result<Self, BootError> {
        let cut = || malformed("the setup header is cut off".to_owned());
        let version = number::<2>(head, 0x206).ok_or_else(cut)?;
        if version < MIN_VERSION {
            let (major, minor) = (version >> 8, version & 0xff);
            let reason = format!("its boot protocol {major}.{minor:02} is older than 2.12");
            return Err(BootError::Unsupported { reason });
        }
        // The header ends where the jump over it, at 0x200, goes. Its distance is signed, so that
        // no header gets past 0x281; `boot_params` has room up to 0x290.
        let distance = number::<1>(head, 0x201).ok_or_else(cut)?;
        let end = 0x202 + usize::try_from(distance).unwrap_or_default();
        if end < HEADER_END_MIN || distance > 0x7f {
            return Err(malformed(format!("its setup header ends at {end:#x}")));
        }
        let read = |field: Option<u64>| field.ok_or_else(cut);
        Ok(Self {
            setup_sects: read(number::<1>(head, HEADER))?,
            syssize: read(number::<4>(head, 0x1f4))?,
            kernel_version: read(number::<2>(head, 0x20e))?,
            loadflags: read(number::<1>(head, 0x211))?,
            initrd_addr_max: read(number::<4>(head, 0x22c))?,
            xloadflags: read(number::<2>(head, 0x236))?,
            cmdline_size: read(number::<4>(head, 0x238))?,
            pref_address: read(number::<8>(head, 0x258))?,
            init_size: read(number::<4>(head, 0x260))?,
            bytes: head.get(HEADER..end).ok_or_else(cut)?.to_vec(),
        })
    }

    /// Returns where the protected-mode code starts in the file: after the boot sector and the
    /// setup code, of which there are 4 sectors when the field says 0.
    fn code_offset(&self) -> u64 {
        let sectors = if self.setup_sects == 0 { 4 } else { self.setup_sects };
        (sectors + 1) * SECTOR
    }
}

/// Loads a bzImage at its preferred address, for the 64-bit entry point.
pub(super) fn load<M, F>(
    memory: &M,
    layout: &MemoryLayout,
    file: &mut F,
    source: &Source<'_>,
) -> Result<KernelInfo, BootError>
where
    M: GuestMemoryBackend,
    F: Read + Seek + ReadVolatile,
{
    let header = Header::parse(source.head)?;
    if header.loadflags & LOADED_HIGH == 0 || header.xloadflags & XLF_KERNEL_64 == 0 {
        return Err(not_64_bit(KernelFormat::BzImage));
    }
    let offset = header.code_offset();
    // `syssize` counts paragraphs of 16 bytes, the last of which need not be whole. What follows
    // the code, such as an appended signature, isn't the kernel's.
    let code_bytes = header.syssize * 16;
    source.check("the protected-mode code", offset, code_bytes.saturating_sub(15))?;
    let size = code_bytes.min(source.file_bytes - offset);
    if size <= ENTRY_64 {
        return Err(malformed(format!("it has {size} bytes of protected-mode code")));
    }

    let reserved = GuestRange::new(GuestAddress(header.pref_address), header.init_size.max(size))
        .filter(|range| range.start() >= layout::HIGH_MEMORY)
        .ok_or_else(|| malformed(format!("it wants to be loaded at {:#x}", header.pref_address)))?;
    check_room(layout, &reserved)?;
    read_into(memory, file, offset, reserved.start(), size)?;
    Ok(KernelInfo {
        format: KernelFormat::BzImage,
        protocol: BootProtocol::Linux64,
        entry: GuestAddress(reserved.start().0 + ENTRY_64),
        loaded: GuestRange::from_bounds(reserved.start(), GuestAddress(reserved.start().0 + size)),
        reserved,
        initrd_end_max: GuestAddress(header.initrd_addr_max + 1),
        cmdline_max_bytes: usize::try_from(header.cmdline_size).unwrap_or(usize::MAX),
        version: version(file, &header, source),
        boot_header: header.bytes,
    })
}

/// Reads the version string, whose first word is what `uname -r` prints; a header that doesn't
/// point into the setup code has none.
fn version<F: Read + Seek>(file: &mut F, header: &Header, source: &Source<'_>) -> Option<String> {
    let offset = (header.kernel_version != 0).then_some(header.kernel_version + SECTOR)?;
    let end = header.code_offset().min(source.file_bytes);
    let size = VERSION_MAX_BYTES.min(end.checked_sub(offset)?);
    let bytes = read_at(file, offset, size).ok()?;
    let word: String = bytes
        .iter()
        .take_while(|byte| byte.is_ascii_graphic())
        .map(|&byte| char::from(byte))
        .collect();
    (!word.is_empty()).then_some(word)
}
