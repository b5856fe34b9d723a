//! Files cut and changed at random: nothing panics, nothing is put where it doesn't belong.

use super::files::{bzimage, elf, pvh};
use super::*;

const ROUNDS: usize = 6000;

/// Marsaglia's xorshift64: the same sequence in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }
}

fn valid_files() -> [(&'static str, Vec<u8>); 3] {
    [("vmlinux", elf()), ("PVH", pvh(&0x10_0040_u64.to_le_bytes())), ("bzImage", bzimage())]
}

/// Loads `file`, whatever it is. Guest memory starts at 1 MiB and ends with RAM, so that a write
/// to any other place is an error of its own.
fn try_load(memory: &GuestMemoryMmap, file: &[u8], context: &dyn Fn() -> String) -> bool {
    match load_into(memory, file.to_vec()) {
        Ok(info) => {
            let ram = range(MIB, RAM_BYTES);
            assert!(ram.encloses(&info.reserved), "{}: {info:?}", context());
            assert!(info.reserved.encloses(&info.loaded), "{}: {info:?}", context());
            assert!(info.loaded.contains(info.entry), "{}: {info:?}", context());
            true
        }
        Err(error @ (BootError::GuestMemory { .. } | BootError::Read { .. })) => {
            panic!("{}: {error:?}", context())
        }
        Err(_) => false,
    }
}

#[test]
fn no_prefix_of_a_valid_file_panics() {
    let memory = memory();
    for (name, file) in valid_files() {
        for size in 0..file.len() {
            let context = || format!("{name} cut to {size} bytes");
            let loaded = try_load(&memory, &file[..size], &context);
            // All of a vmlinux is needed; of a bzImage, all but the rest of its last paragraph.
            let whole = name == "bzImage" && size + 15 >= file.len();
            assert_eq!(loaded, whole, "{}", context());
        }
        assert!(try_load(&memory, &file, &|| name.to_owned()));
    }
}

#[test]
fn no_change_of_a_valid_file_panics_or_writes_outside_ram() {
    let memory = memory();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for (name, valid) in valid_files() {
        // Where the headers are: changes of the code change nothing.
        let interesting = if name == "bzImage" { 0x1f1..0x270 } else { 0..288 };
        let mut loaded = 0;
        for round in 0..ROUNDS {
            let mut file = valid.clone();
            for _ in 0..=random.below(3) {
                let at = match random.below(4) {
                    0 => random.below(file.len()),
                    _ => interesting.start + random.below(interesting.len()),
                };
                file[at] = match random.below(3) {
                    0 => file[at] ^ 1 << random.below(8),
                    1 => [0, 1, 0x7f, 0x80, 0xff][random.below(5)],
                    _ => random.next().to_le_bytes()[0],
                };
            }
            loaded += usize::from(try_load(&memory, &file, &|| format!("{name}, {round}")));
        }
        // Neither all nor none: the changes hit what matters.
        assert!((ROUNDS / 100..ROUNDS * 99 / 100).contains(&loaded), "{name}: {loaded} loaded");
    }
}

#[test]
fn changes_of_the_notes_never_panic() {
    let memory = memory();
    let mut random = Random(42);
    let valid = pvh(&0x10_0040_u64.to_le_bytes());
    for round in 0..ROUNDS {
        let mut file = valid.clone();
        for _ in 0..=random.below(4) {
            let at = files::NOTES + random.below(file.len() - files::NOTES);
            file[at] = [0, 1, 0xfc, 0xff, random.next().to_le_bytes()[0]][random.below(5)];
        }
        try_load(&memory, &file, &|| format!("round {round}"));
    }
}
