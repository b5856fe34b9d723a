//! What a block device tells its driver: features and the configuration space.

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_MQ,
    VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_WRITE_ZEROES,
};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{Immutable, IntoBytes};

use crate::disk::DiskBackend;
use crate::virtio::serve::RING_FEATURES;

/// The unit of sectors on the wire, whatever the block size (VIRTIO 1.3 §5.2.4).
pub(super) const SECTOR: u64 = 512;

/// How many sectors one discard or write-zeroes covers at most: 1 GiB. An image that can't make
/// zeros writes them, which then takes the time of writing that much.
pub(super) const MAX_RANGE_SECTORS: u32 = 2 << 20;

/// How many ranges one discard or write-zeroes has at most: each request is one operation.
pub(super) const MAX_RANGES: u32 = 1;

/// The configuration space (VIRTIO 1.3 §5.2.4), up to what the offered features define.
#[derive(Debug, Immutable, IntoBytes)]
#[repr(C)]
pub(super) struct ConfigSpace {
    capacity: U64,
    size_max: U32,
    seg_max: U32,
    geometry: [u8; 4],
    blk_size: U32,
    physical_block_exp: u8,
    alignment_offset: u8,
    min_io_size: U16,
    opt_io_size: U32,
    writeback: u8,
    unused0: u8,
    num_queues: U16,
    max_discard_sectors: U32,
    max_discard_seg: U32,
    discard_sector_alignment: U32,
    max_write_zeroes_sectors: U32,
    max_write_zeroes_seg: U32,
    write_zeroes_may_unmap: u8,
    unused1: [u8; 3],
}

impl ConfigSpace {
    /// Describes `disk`, served by `num_queues` queues of at most `queue_size` descriptors.
    pub(super) fn new(disk: &dyn DiskBackend, num_queues: u16, queue_size: u16) -> Self {
        let block = disk.block_size();
        let physical = disk.physical_block_size();
        let ratio = physical.checked_div(block).unwrap_or(1).max(1);
        Self {
            capacity: (disk.len_bytes() / SECTOR).into(),
            size_max: 0.into(),
            // Header and status have a descriptor each.
            seg_max: u32::from(queue_size.saturating_sub(2).max(1)).into(),
            geometry: [0; 4],
            blk_size: block.into(),
            physical_block_exp: u8::try_from(ratio.ilog2()).unwrap_or(0),
            alignment_offset: 0,
            min_io_size: u16::try_from(ratio).unwrap_or(0).into(),
            opt_io_size: 0.into(),
            writeback: 0,
            unused0: 0,
            num_queues: num_queues.into(),
            max_discard_sectors: MAX_RANGE_SECTORS.into(),
            max_discard_seg: MAX_RANGES.into(),
            discard_sector_alignment: (physical / 512).into(),
            max_write_zeroes_sectors: MAX_RANGE_SECTORS.into(),
            max_write_zeroes_seg: MAX_RANGES.into(),
            write_zeroes_may_unmap: 1,
            unused1: [0; 3],
        }
    }
}

/// Returns the features that the device offers (VIRTIO 1.3 §5.2.3).
pub(super) fn offered_features(disk: &dyn DiskBackend, num_queues: u16) -> u64 {
    let mut features = RING_FEATURES
        | 1 << VIRTIO_BLK_F_BLK_SIZE
        | 1 << VIRTIO_BLK_F_FLUSH
        | 1 << VIRTIO_BLK_F_SEG_MAX
        | 1 << VIRTIO_BLK_F_TOPOLOGY;
    if disk.read_only() {
        features |= 1 << VIRTIO_BLK_F_RO;
    } else {
        features |= 1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES;
    }
    if num_queues > 1 {
        features |= 1 << VIRTIO_BLK_F_MQ;
    }
    features
}
