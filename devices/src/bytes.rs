//! Register accesses of any width, as little-endian bytes.

/// Returns the value of up to 8 little-endian bytes; bytes past the eighth count for nothing.
pub(crate) fn value(data: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    for (to, from) in bytes.iter_mut().zip(data) {
        *to = *from;
    }
    u64::from_le_bytes(bytes)
}

/// Returns the value of exactly four bytes.
pub(crate) fn value_u32(data: &[u8]) -> Option<u32> {
    data.try_into().ok().map(u32::from_le_bytes)
}

/// Copies what `source` has at `offset` into `data`; bytes past its end stay as they are.
pub(crate) fn read_at(source: &[u8], offset: u64, data: &mut [u8]) {
    let Some(rest) = usize::try_from(offset).ok().and_then(|offset| source.get(offset..)) else {
        return;
    };
    for (to, from) in data.iter_mut().zip(rest) {
        *to = *from;
    }
}

/// Copies `data` into `target` at `offset`; bytes past its end are dropped.
pub(crate) fn write_at(target: &mut [u8], offset: usize, data: &[u8]) {
    let Some(rest) = target.get_mut(offset..) else { return };
    for (to, from) in rest.iter_mut().zip(data) {
        *to = *from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_little_endian_and_of_exact_width_where_asked() {
        assert_eq!(value(&[1, 2]), 0x201);
        assert_eq!(value(&[]), 0);
        assert_eq!(value(&[0xff; 9]), u64::MAX);
        assert_eq!(value_u32(&[1, 2, 3, 4]), Some(0x0403_0201));
        assert_eq!(value_u32(&[0; 8]), None);
    }

    #[test]
    fn copies_stop_at_the_end_and_tolerate_any_offset() {
        let source = [1, 2, 3];
        let mut data = [9; 4];
        read_at(&source, 1, &mut data);
        assert_eq!(data, [2, 3, 9, 9]);
        for offset in [3, 4, u64::MAX] {
            let mut data = [9; 2];
            read_at(&source, offset, &mut data);
            assert_eq!(data, [9, 9]);
        }
        let mut target = [0; 3];
        write_at(&mut target, 2, &[7, 8]);
        write_at(&mut target, 3, &[7]);
        write_at(&mut target, usize::MAX, &[7]);
        assert_eq!(target, [0, 0, 7]);
    }
}
