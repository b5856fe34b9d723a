//! Records of pax headers: `LENGTH KEY=VALUE\n` (POSIX.1-2001, pax, "Extended Header").

use super::TarError;

/// What pax records say, as far as layers need it.
#[derive(Debug, Default)]
pub(super) struct Records {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mtime: Option<(i64, u32)>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse_name: Option<Vec<u8>>,
    pub(super) sparse: SparseRecords,
}

/// GNU's records for sparse files, of its formats 0.0, 0.1 and 1.0.
#[derive(Debug, Default)]
pub(super) struct SparseRecords {
    /// Format 1.0: the map comes before the data.
    pub(super) map_in_data: bool,
    /// The file's size with holes.
    pub(super) real_size: Option<u64>,
    /// Offsets and lengths in turn.
    pub(super) map: Vec<u64>,
}

pub(super) fn parse(mut bytes: &[u8]) -> Result<Records, TarError> {
    let mut records = Records::default();
    while !bytes.is_empty() {
        let space = bytes.iter().take(20).position(|&byte| byte == b' ');
        let space = space.ok_or(TarError::PaxRecord)?;
        let len = usize::try_from(decimal(&bytes[..space])?).map_err(|_| TarError::PaxRecord)?;
        let (record, rest) = bytes.split_at_checked(len).ok_or(TarError::PaxRecord)?;
        let record = record.get(space + 1..).and_then(|record| record.strip_suffix(b"\n"));
        let record = record.ok_or(TarError::PaxRecord)?;
        let equals = record.iter().position(|&byte| byte == b'=').ok_or(TarError::PaxRecord)?;
        records.apply(&record[..equals], &record[equals + 1..])?;
        bytes = rest;
    }
    Ok(records)
}

impl Records {
    fn apply(&mut self, key: &[u8], value: &[u8]) -> Result<(), TarError> {
        // An empty value takes back what the header says; only names are worth the distinction,
        // and no entry has an empty one.
        let text = || (!value.is_empty()).then(|| value.to_vec());
        match key {
            b"path" => self.path = text(),
            b"linkpath" => self.link = text(),
            b"size" => self.size = Some(decimal(value)?),
            b"uid" => self.uid = Some(id(value)?),
            b"gid" => self.gid = Some(id(value)?),
            b"mtime" => self.mtime = Some(time(value)?),
            b"GNU.sparse.name" => self.sparse_name = text(),
            b"GNU.sparse.major" => self.sparse.map_in_data = decimal(value)? == 1,
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => {
                self.sparse.real_size = Some(decimal(value)?);
            }
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => self.sparse.map.push(decimal(value)?),
            b"GNU.sparse.map" => {
                self.sparse.map = value
                    .split(|&byte| byte == b',')
                    .filter(|number| !number.is_empty())
                    .map(decimal)
                    .collect::<Result<_, _>>()?;
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

pub(super) fn decimal(text: &[u8]) -> Result<u64, TarError> {
    let text = std::str::from_utf8(text).map_err(|_| TarError::PaxRecord)?;
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(TarError::PaxRecord);
    }
    text.parse().map_err(|_| TarError::PaxRecord)
}

fn id(text: &[u8]) -> Result<u32, TarError> {
    u32::try_from(decimal(text)?).map_err(|_| TarError::PaxRecord)
}

/// Seconds with an optional fraction, cut to nanoseconds; before 1970 the fraction counts down.
fn time(text: &[u8]) -> Result<(i64, u32), TarError> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(text) => (true, text),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |&byte| byte == b'.');
    let seconds = i64::try_from(decimal(parts.next().unwrap_or_default())?);
    let seconds = seconds.map_err(|_| TarError::PaxRecord)?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(TarError::PaxRecord);
    }
    let digits = fraction.iter().chain(std::iter::repeat(&b'0')).take(9);
    let nanos = digits.fold(0, |value, &digit| value * 10 + u32::from(digit - b'0'));
    Ok(match (negative, nanos) {
        (false, _) => (seconds, nanos),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanos),
    })
}
