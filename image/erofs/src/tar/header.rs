//! The 512-byte header of an entry.

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Kind, TarError};

/// Bytes of a record: headers have one, data are padded to a multiple.
pub(super) const RECORD: usize = 512;

/// POSIX.1-1988's header; GNU's differs after `device_minor`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Header {
    name: [u8; 100],
    mode: [u8; 8],
    uid: [u8; 8],
    gid: [u8; 8],
    size: [u8; 12],
    mtime: [u8; 12],
    checksum: [u8; 8],
    type_flag: u8,
    link: [u8; 100],
    magic: [u8; 6],
    version: [u8; 2],
    user: [u8; 32],
    group: [u8; 32],
    device_major: [u8; 8],
    device_minor: [u8; 8],
    prefix: [u8; 155],
    padding: [u8; 12],
}

impl Header {
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        self.as_mut_bytes()
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.as_bytes()
    }

    pub(super) fn is_zero(&self) -> bool {
        self.as_bytes().iter().all(|&byte| byte == 0)
    }

    /// Compares the checksum: the sum of all bytes, the checksum's own taken as spaces. Some old
    /// tools summed up signed bytes.
    pub(super) fn check(&self) -> Result<(), TarError> {
        let stored = number(&self.checksum, "checksum").map_err(|_| TarError::Checksum)?;
        let mut copy = *self;
        copy.checksum = [b' '; 8];
        let unsigned: i64 = copy.as_bytes().iter().map(|&byte| i64::from(byte)).sum();
        let signed: i64 = copy.as_bytes().iter().map(|&b| i64::from(b.cast_signed())).sum();
        if stored == unsigned || stored == signed { Ok(()) } else { Err(TarError::Checksum) }
    }

    pub(super) fn type_flag(&self) -> u8 {
        self.type_flag
    }

    pub(super) fn is_gnu_sparse(&self) -> bool {
        self.type_flag == b'S'
    }

    /// What the entry is; before POSIX, a directory was a file whose name ends in a slash.
    pub(super) fn kind(&self, path: &[u8]) -> Result<Kind, TarError> {
        Ok(match self.type_flag {
            b'0' | 0 if path.ends_with(b"/") => Kind::Directory,
            b'0' | 0 | b'7' | b'S' => Kind::Regular,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharDevice,
            b'4' => Kind::BlockDevice,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => return Err(TarError::Type(char::from(other))),
        })
    }

    pub(super) fn path(&self) -> Vec<u8> {
        let name = until_nul(&self.name);
        let prefix = until_nul(&self.prefix);
        // GNU's headers have the same magic with a space, and other things in the prefix's place.
        if &self.magic == b"ustar\0" && !prefix.is_empty() {
            return [prefix, b"/", name].concat();
        }
        name.to_vec()
    }

    pub(super) fn link(&self) -> Vec<u8> {
        until_nul(&self.link).to_vec()
    }

    pub(super) fn mode(&self) -> Result<u32, TarError> {
        unsigned(&self.mode, "mode")
    }

    pub(super) fn uid(&self) -> Result<u32, TarError> {
        unsigned(&self.uid, "user ID")
    }

    pub(super) fn gid(&self) -> Result<u32, TarError> {
        unsigned(&self.gid, "group ID")
    }

    pub(super) fn size(&self) -> Result<u64, TarError> {
        let size = number(&self.size, "size")?;
        u64::try_from(size).map_err(|_| TarError::Number("size"))
    }

    pub(super) fn mtime(&self) -> Result<(i64, u32), TarError> {
        Ok((number(&self.mtime, "modification time")?, 0))
    }

    pub(super) fn device(&self) -> Result<(u32, u32), TarError> {
        let major = unsigned(&self.device_major, "device number")?;
        Ok((major, unsigned(&self.device_minor, "device number")?))
    }
}

impl Default for Header {
    fn default() -> Self {
        Self::new_zeroed()
    }
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or_default()
}

fn unsigned(field: &[u8], what: &'static str) -> Result<u32, TarError> {
    u32::try_from(number(field, what)?).map_err(|_| TarError::Number(what))
}

/// Reads a number: octal digits, or GNU's big-endian two's complement, marked by the first bit.
pub(super) fn number(field: &[u8], what: &'static str) -> Result<i64, TarError> {
    let error = || TarError::Number(what);
    let (&first, rest) = field.split_first().ok_or_else(error)?;
    if first & 0x80 != 0 {
        // The bit below the mark is the sign.
        let start =
            if first & 0x40 == 0 { i64::from(first & 0x3f) } else { i64::from(first as i8) };
        return rest
            .iter()
            .try_fold(start, |value, &byte| value.checked_mul(256)?.checked_add(i64::from(byte)))
            .ok_or_else(error);
    }
    let is_blank = |byte: &u8| *byte == b' ' || *byte == 0;
    let digits = field.split(|byte| is_blank(byte)).find(|part| !part.is_empty());
    let Some(digits) = digits else { return Ok(0) };
    let mut parts = field.split(|byte| is_blank(byte)).filter(|part| !part.is_empty());
    if parts.nth(1).is_some() {
        return Err(error());
    }
    digits
        .iter()
        .try_fold(0_i64, |value, &digit| match digit {
            b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
            _ => None,
        })
        .ok_or_else(error)
}
