//! Page tables that map the first 4 GiB one to one, for kernels that are entered in long mode.
//!
//! The 64-bit Linux protocol asks for the kernel, `boot_params` and the command line to be mapped
//! so (Documentation/arch/x86/boot.rst, "64-bit Boot Protocol"); all of them lie below 4 GiB.
//! Pages of 2 MiB need 24 KiB of tables and, unlike those of 1 GiB, exist on every CPU.

use vm_memory::GuestAddress;

const ENTRIES: usize = 512;
/// Present, writable (SDM 3A §4.5.4, Table 4-14 and following).
const PRESENT_WRITABLE: u64 = 0b11;
/// Maps a page rather than refers to a table.
const PAGE_SIZE_2_MIB: u64 = 1 << 7;
/// One page directory for each GiB.
const DIRECTORIES: usize = 4;

/// Size of the tables in bytes: a PML4, a page directory pointer table, four page directories.
pub const TABLES_BYTES: usize = (2 + DIRECTORIES) * ENTRIES * 8;

/// Builds the tables for being placed at `base`, the PML4 first.
pub fn identity_map(base: GuestAddress) -> Vec<u8> {
    let table = |index: usize| base.0 + (index * ENTRIES * 8) as u64;
    let mut entries = vec![0_u64; (2 + DIRECTORIES) * ENTRIES];
    entries[0] = table(1) | PRESENT_WRITABLE;
    for directory in 0..DIRECTORIES {
        entries[ENTRIES + directory] = table(2 + directory) | PRESENT_WRITABLE;
    }
    for (page, entry) in entries[2 * ENTRIES..].iter_mut().enumerate() {
        *entry = (page as u64) << 21 | PRESENT_WRITABLE | PAGE_SIZE_2_MIB;
    }
    entries.into_iter().flat_map(u64::to_le_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout;

    /// Walks the tables as a CPU does (SDM 3A §4.5.4, Figure 4-9).
    fn translate(tables: &[u8], base: u64, linear: u64) -> Option<u64> {
        let mut table = base;
        for shift in [39, 30, 21] {
            let offset = usize::try_from(table - base + (linear >> shift & 511) * 8).unwrap();
            let entry = u64::from_le_bytes(tables[offset..offset + 8].try_into().unwrap());
            if entry & 1 == 0 {
                return None;
            }
            if shift == 21 {
                assert_ne!(entry & PAGE_SIZE_2_MIB, 0);
                return Some((entry & !0x1f_ffff) | linear & 0x1f_ffff);
            }
            table = entry & !0xfff;
        }
        None
    }

    #[test]
    fn first_4_gib_map_to_themselves_and_nothing_else_is_mapped() {
        let base = layout::PAGE_TABLES.start();
        let tables = identity_map(base);
        for linear in [0, 0x2000, 0x1f_ffff, 0x20_0000, 0x3fff_ffff, 0x4000_0000, 0xffff_ffff] {
            assert_eq!(translate(&tables, base.0, linear), Some(linear), "{linear:#x}");
        }
        assert_eq!(translate(&tables, base.0, 1 << 32), None);
        assert_eq!(translate(&tables, base.0, 1 << 39), None);
    }

    #[test]
    fn tables_fill_exactly_their_place() {
        assert_eq!(identity_map(layout::PAGE_TABLES.start()).len(), TABLES_BYTES);
        assert_eq!(TABLES_BYTES as u64, layout::PAGE_TABLES.size());
    }
}
