use super::*;
use crate::virtio::testing::guest_ram;

const MIB: u64 = 1 << 20;
const HEADER: u64 = 0x1_0000;
const RANGE: u64 = 0x1_1000;

const WRITABLE: Limits = Limits {
    len: MIB,
    read_only: false,
    features: 1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES,
};

fn segment(address: u64, len: u32) -> Segment {
    Segment { address: GuestAddress(address), len }
}

fn header(kind: u32, sector: u64) -> GuestRam {
    let memory = guest_ram();
    memory.write_obj(kind.to_le(), GuestAddress(HEADER)).unwrap();
    memory.write_obj(sector.to_le(), GuestAddress(HEADER + 8)).unwrap();
    memory
}

fn parse(
    memory: &GuestRam,
    readable: &[Segment],
    writable: &[Segment],
    limits: &Limits,
) -> (Result<Request, RequestError>, ChainBuffers) {
    let mut buffers = ChainBuffers { readable: readable.to_vec(), writable: writable.to_vec() };
    let request = Request::parse(memory, &mut buffers, limits);
    (request, buffers)
}

/// Parses a request with a header of its own and `len` bytes of data in the direction of its type.
fn parse_simple(kind: u32, sector: u64, len: u32) -> Result<Request, RequestError> {
    let memory = header(kind, sector);
    let data = [segment(0x2_0000, len)];
    let data = if len == 0 { &[][..] } else { &data };
    if kind == VIRTIO_BLK_T_OUT {
        let readable = [&[segment(HEADER, 16)], data].concat();
        return parse(&memory, &readable, &[], &WRITABLE).0;
    }
    parse(&memory, &[segment(HEADER, 16)], data, &WRITABLE).0
}

/// Parses a discard or write-zeroes of one range, in `bytes` bytes of data.
fn parse_range(
    kind: u32,
    (sector, sectors, flags): (u64, u32, u32),
    bytes: u32,
    limits: &Limits,
) -> Result<Request, RequestError> {
    let memory = header(kind, 0);
    memory.write_obj(sector.to_le(), GuestAddress(RANGE)).unwrap();
    memory.write_obj(sectors.to_le(), GuestAddress(RANGE + 8)).unwrap();
    memory.write_obj(flags.to_le(), GuestAddress(RANGE + 12)).unwrap();
    parse(&memory, &[segment(HEADER, 16), segment(RANGE, bytes)], &[], limits).0
}

#[test]
fn status_is_the_last_writable_byte_whatever_it_shares_its_buffer_with() {
    let mut buffers = ChainBuffers::default();
    assert_eq!(take_status(&mut buffers), None);
    buffers.writable = vec![segment(0x1000, 512), segment(0x2000, 1)];
    assert_eq!(take_status(&mut buffers), Some(GuestAddress(0x2000)));
    assert_eq!(buffers.writable, [segment(0x1000, 512)]);
    assert_eq!(take_status(&mut buffers), Some(GuestAddress(0x11ff)));
    assert_eq!(buffers.writable, [segment(0x1000, 511)]);
}

#[test]
fn header_is_taken_off_however_it_is_split_and_what_follows_is_data() {
    let memory = header(VIRTIO_BLK_T_OUT, 3);
    let expected = Ok(Request::Write { offset: 1536, len: 512 });
    let data = segment(0x2_0000, 512);
    for parts in [vec![16], vec![1, 15], vec![4, 4, 8], vec![1; 16]] {
        let mut at = HEADER;
        let mut readable: Vec<Segment> = parts
            .iter()
            .map(|&len| {
                at += u64::from(len);
                segment(at - u64::from(len), len)
            })
            .collect();
        readable.push(data);
        let (request, buffers) = parse(&memory, &readable, &[], &WRITABLE);
        assert_eq!(request, expected, "{parts:?}");
        assert_eq!(buffers.readable, [data]);
    }
    let (request, buffers) = parse(&memory, &[segment(HEADER, 16 + 512)], &[], &WRITABLE);
    assert_eq!(request, expected);
    assert_eq!(buffers.readable, [segment(HEADER + 16, 512)]);
}

#[test]
fn header_that_is_too_short_is_refused() {
    let memory = header(VIRTIO_BLK_T_IN, 0);
    for readable in [vec![], vec![segment(HEADER, 15)], vec![segment(HEADER, 8), segment(0, 7)]] {
        let (request, _) = parse(&memory, &readable, &[segment(0x2_0000, 512)], &WRITABLE);
        assert_eq!(request, Err(RequestError::TooShort));
    }
}

#[test]
fn reads_and_writes_up_to_the_last_sector_pass() {
    let last = MIB / 512 - 1;
    let offset = last * 512;
    assert_eq!(parse_simple(VIRTIO_BLK_T_IN, last, 512), Ok(Request::Read { offset, len: 512 }));
    assert_eq!(parse_simple(VIRTIO_BLK_T_OUT, last, 512), Ok(Request::Write { offset, len: 512 }));
    assert_eq!(parse_simple(VIRTIO_BLK_T_IN, 0, 0), Ok(Request::Read { offset: 0, len: 0 }));
}

#[test]
fn sectors_past_the_end_and_parts_of_sectors_are_refused() {
    let end = MIB / 512;
    for kind in [VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT] {
        for (sector, len) in [
            (end, 512),
            (end - 1, 1024),
            (end + 1, 0),
            (u64::MAX, 512),
            (u64::MAX / 512, 512),
            (u64::MAX / 512 + 1, 512),
            (1 << 55, 512),
            (0, 511),
            (0, 513),
            (0, 1),
        ] {
            let refused = parse_simple(kind, sector, len);
            assert_eq!(refused, Err(RequestError::OutOfRange { sector, len: len.into() }));
            assert_eq!(refused.unwrap_err().status(), 1);
        }
    }
}

#[test]
fn flush_ignores_its_sector() {
    assert_eq!(parse_simple(VIRTIO_BLK_T_FLUSH, u64::MAX, 0), Ok(Request::Flush));
}

#[test]
fn serial_needs_room() {
    assert_eq!(parse_simple(VIRTIO_BLK_T_GET_ID, 0, 20), Ok(Request::GetId));
    assert_eq!(parse_simple(VIRTIO_BLK_T_GET_ID, 0, 19), Err(RequestError::TooShort));
}

#[test]
fn unknown_types_are_unsupported() {
    for kind in [2, 3, 5, 10, 14, 15, 1 << 31, u32::MAX] {
        let refused = parse_simple(kind, 0, 512).unwrap_err();
        assert_eq!(refused, RequestError::Unsupported(kind));
        assert_eq!(refused.status(), 2);
    }
}

#[test]
fn read_only_disk_is_only_read() {
    let limits = Limits { read_only: true, features: 0, ..WRITABLE };
    for kind in [VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES] {
        let memory = header(kind, 0);
        let readable = [segment(HEADER, 16), segment(0x2_0000, 512)];
        let refused = parse(&memory, &readable, &[], &limits).0.unwrap_err();
        assert_eq!(refused, RequestError::ReadOnly);
        assert_eq!(refused.status(), 1);
    }
}

#[test]
fn ranges_within_the_disk_pass() {
    let end = u32::try_from(MIB / 512).unwrap();
    for (range, len) in [((0, end, 0), MIB), ((u64::from(end), 0, 0), 0)] {
        let offset = range.0 * 512;
        assert_eq!(
            parse_range(VIRTIO_BLK_T_DISCARD, range, 16, &WRITABLE),
            Ok(Request::Discard { offset, len })
        );
        assert_eq!(
            parse_range(VIRTIO_BLK_T_WRITE_ZEROES, range, 16, &WRITABLE),
            Ok(Request::WriteZeroes { offset, len, unmap: false })
        );
    }
    assert_eq!(
        parse_range(VIRTIO_BLK_T_WRITE_ZEROES, (8, 8, 1), 16, &WRITABLE),
        Ok(Request::WriteZeroes { offset: 4096, len: 4096, unmap: true })
    );
}

#[test]
fn range_flags_that_mean_nothing_are_unsupported() {
    for (kind, flags) in [
        (VIRTIO_BLK_T_DISCARD, 1),
        (VIRTIO_BLK_T_DISCARD, u32::MAX),
        (VIRTIO_BLK_T_WRITE_ZEROES, 2),
        (VIRTIO_BLK_T_WRITE_ZEROES, 3),
    ] {
        let refused = parse_range(kind, (0, 8, flags), 16, &WRITABLE).unwrap_err();
        assert_eq!(refused, RequestError::Flags(flags));
        assert_eq!(refused.status(), 2);
    }
}

#[test]
fn ranges_past_the_end_too_long_too_many_or_cut_short_are_refused() {
    for kind in [VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES] {
        let refused = |range, bytes| parse_range(kind, range, bytes, &WRITABLE).unwrap_err();
        for range in [(MIB / 512, 1, 0), (0, 2049, 0), (u64::MAX, 1, 0), (1 << 55, 1, 0)] {
            assert!(matches!(refused(range, 16), RequestError::OutOfRange { .. }), "{range:?}");
        }
        for (range, bytes) in [((0, u32::MAX, 0), 16), ((0, 8, 0), 17), ((0, 8, 0), 32)] {
            assert!(matches!(refused(range, bytes), RequestError::TooMuch { .. }), "{range:?}");
        }
        assert_eq!(refused((0, 8, 0), 15), RequestError::TooShort);
    }
}

#[test]
fn ranges_are_unsupported_unless_negotiated() {
    let limits = Limits { features: 0, ..WRITABLE };
    for kind in [VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES] {
        let refused = parse_range(kind, (0, 8, 0), 16, &limits);
        assert_eq!(refused, Err(RequestError::Unsupported(kind)));
    }
}
