//! What is refused, and with which words.

use super::files::{self, NOTE_HEADER, bzimage, elf, patched, program_header, pvh};
use super::*;

/// Loads each file and compares what is said.
fn assert_refused(cases: Vec<(&str, Vec<u8>, &str)>) {
    let memory = memory();
    for (what, file, expected) in cases {
        match load_into(&memory, file) {
            Ok(info) => panic!("{what}: loaded as {info:?}"),
            Err(error) => assert_eq!(error.to_string(), expected, "{what}"),
        }
    }
}

#[test]
fn files_that_are_no_kernel_are_called_what_they_are() {
    let head = |start: &[u8]| patched(vec![0x90; 600], 0, start);
    assert_refused(vec![
        ("empty", Vec::new(), "the kernel is empty"),
        ("one byte", vec![0], "the kernel is not a kernel image but data of an unknown format"),
        (
            "random",
            vec![0xd7; 5000],
            "the kernel is not a kernel image but data of an unknown format",
        ),
        (
            "gzip",
            head(&[0x1f, 0x8b, 8]),
            "the kernel is not a kernel image but a gzip-compressed file",
        ),
        (
            "zstd",
            head(&[0x28, 0xb5, 0x2f, 0xfd]),
            "the kernel is not a kernel image but a zstd-compressed file",
        ),
        ("xz", head(b"\xfd7zXZ\0"), "the kernel is not a kernel image but an xz-compressed file"),
        (
            "cpio",
            head(b"070701"),
            "the kernel is not a kernel image but a cpio archive (an initrd?)",
        ),
        (
            "text",
            b"#!/bin/sh\n\techo no\r\n".to_vec(),
            "the kernel is not a kernel image but a text file",
        ),
        (
            "EFI program",
            head(b"MZ"),
            "the kernel is not a kernel image but an EFI program without a Linux boot header",
        ),
        (
            "aarch64 Image",
            patched(head(b"MZ"), 56, b"ARM\x64"),
            "the kernel is built for aarch64, the guest is x86_64",
        ),
    ]);
}

#[test]
fn elf_files_of_other_machines_and_kinds_are_refused() {
    let machine = |number: u16| patched(elf(), 18, &number.to_le_bytes());
    let no_executable =
        "the kernel cannot be booted: it is no executable at fixed addresses, as a vmlinux is";
    let not_64_bit = "the kernel is a 32-bit ELF; only 64-bit kernels can be booted";
    assert_refused(vec![
        ("32-bit", patched(elf(), 4, &[1]), not_64_bit),
        ("i386", patched(machine(3), 4, &[1]), not_64_bit),
        ("i386 in a 64-bit file", machine(3), not_64_bit),
        ("aarch64", machine(183), "the kernel is built for aarch64, the guest is x86_64"),
        ("riscv", machine(243), "the kernel is built for riscv, the guest is x86_64"),
        ("s390", machine(22), "the kernel is built for another CPU, the guest is x86_64"),
        ("big-endian", patched(elf(), 5, &[2]), "the kernel is malformed: it is big-endian"),
        ("relocatable", patched(elf(), 16, &[1]), no_executable),
        ("shared object", patched(elf(), 16, &[3]), no_executable),
    ]);
}

#[test]
fn truncated_elf_files_say_what_is_missing() {
    let file = pvh(&0x10_0040_u64.to_le_bytes());
    let cut = |size: usize| file[..size].to_vec();
    assert_refused(vec![
        (
            "magic number only",
            cut(4),
            "the kernel is truncated: the ELF header goes up to byte 64, the file ends at byte 4",
        ),
        (
            "header",
            cut(63),
            "the kernel is truncated: the ELF header goes up to byte 64, the file ends at byte 63",
        ),
        (
            "program headers",
            cut(287),
            "the kernel is truncated: the program header table goes up to byte 288, the file ends at \
             byte 287",
        ),
        (
            "notes",
            cut(file.len() - 1),
            "the kernel is truncated: the note segment goes up to byte 664, the file ends at byte 663",
        ),
        (
            "segment",
            patched(cut(files::ELF_DATA + 0x3f), NOTE_HEADER, &[0]),
            "the kernel is truncated: a segment goes up to byte 640, the file ends at byte 639",
        ),
    ]);
}

#[test]
fn program_headers_that_make_no_sense_are_refused() {
    let count = |count: u16| patched(elf(), 56, &count.to_le_bytes());
    let offset = |offset: u64| patched(elf(), 32, &offset.to_le_bytes());
    assert_refused(vec![
        ("none", count(0), "the kernel is malformed: it has 0 program headers of 56 bytes"),
        ("65", count(65), "the kernel is malformed: it has 65 program headers of 56 bytes"),
        (
            "as many as can be",
            count(u16::MAX),
            "the kernel is malformed: it has 65535 program headers of 56 bytes",
        ),
        (
            "of another size",
            patched(elf(), 54, &[32]),
            "the kernel is malformed: it has 4 program headers of 32 bytes",
        ),
        (
            "past the largest file",
            offset(u64::MAX - 100),
            "the kernel is malformed: the program header table ends past the largest file",
        ),
        (
            "past the largest offset that seek takes",
            offset(1 << 63),
            "the kernel is truncated: the program header table goes up to byte 9223372036854776032, the \
             file ends at byte 640",
        ),
        (
            "nothing to load",
            patched(patched(elf(), program_header(1), &[0]), program_header(2), &[0]),
            "the kernel is malformed: its entry point 0x100020 is in no segment",
        ),
    ]);
}

#[test]
fn segments_that_make_no_sense_are_refused() {
    let field = |offset: usize, value: u64| {
        patched(elf(), program_header(2) + offset, &value.to_le_bytes())
    };
    let (file_offset, address, file_bytes, memory_bytes) = (8, 24, 32, 40);
    assert_refused(vec![
        (
            "below 1 MiB",
            field(address, 0xf_f000),
            "the kernel is malformed: a segment wants to be loaded at 0xff000",
        ),
        (
            "at the boot structures",
            field(address, 0),
            "the kernel is malformed: a segment wants to be loaded at 0x0",
        ),
        (
            "wraps around",
            field(address, u64::MAX - 0xffe),
            "the kernel is malformed: a segment wants to be loaded at 0xfffffffffffff001",
        ),
        (
            "ends at the last address",
            field(address, u64::MAX - 0x1000),
            "the kernel does not fit into 8 MiB of guest memory, and would not with more",
        ),
        (
            "more bytes in the file than in memory",
            field(file_bytes, 0x1001),
            "the kernel is malformed: a segment has more bytes in the file than in memory",
        ),
        (
            "past the largest file",
            field(file_offset, u64::MAX),
            "the kernel is malformed: a segment ends past the largest file",
        ),
        (
            "past the end of the file",
            field(file_offset, files::ELF_DATA as u64 + 1),
            "the kernel is truncated: a segment goes up to byte 641, the file ends at byte 640",
        ),
        (
            "past the end of memory",
            field(memory_bytes, 8 << 20),
            "the kernel does not fit into 8 MiB of guest memory: at least 10 MiB are needed",
        ),
        (
            "in the gap for devices",
            field(address, 0xc000_0000),
            "the kernel does not fit into 8 MiB of guest memory, and would not with more",
        ),
        (
            "all of the address space",
            field(memory_bytes, u64::MAX),
            "the kernel is malformed: a segment wants to be loaded at 0x102000",
        ),
    ]);
}

#[test]
fn entry_points_outside_all_segments_are_refused() {
    let entry = |entry: u64| patched(elf(), 24, &entry.to_le_bytes());
    let between = "the kernel is malformed: its entry point 0x100100 is in no segment";
    assert_refused(vec![
        ("between two", entry(0x10_0100), between),
        ("zero", entry(0), "the kernel is malformed: its entry point 0x0 is in no segment"),
        (
            "virtual",
            entry(0xffff_ffff_8100_0000),
            "the kernel is malformed: its entry point 0xffffffff81000000 is in no segment",
        ),
        ("PVH, 4 bytes", pvh(&0x10_0100_u32.to_le_bytes()), between),
        (
            "PVH, past 4 GiB",
            pvh(&0x1_0010_0040_u64.to_le_bytes()),
            "the kernel is malformed: its entry point 0x100100040 is in no segment",
        ),
    ]);
}

#[test]
fn notes_outside_the_file_are_refused() {
    let field = |offset: usize, value: u64| {
        patched(pvh(&[0; 8]), NOTE_HEADER + offset, &value.to_le_bytes())
    };
    assert_refused(vec![
        (
            "past the largest file",
            field(8, u64::MAX),
            "the kernel is malformed: the note segment ends past the largest file",
        ),
        (
            "past the end",
            field(8, 0x10_0000),
            "the kernel is truncated: the note segment goes up to byte 1048600, the file ends at byte 664",
        ),
    ]);
}

#[test]
fn truncated_bzimages_say_what_is_missing() {
    let file = bzimage();
    let cut = |size: usize| file[..size].to_vec();
    let header = "the kernel is malformed: the setup header is cut off";
    assert_refused(vec![
        ("after the magic number", cut(0x206), header),
        ("in the fields", cut(0x263), header),
        ("in the header", cut(0x26b), header),
        (
            "after the header",
            cut(0x26c),
            "the kernel is truncated: the protected-mode code goes up to byte 2545, the file ends \
             at byte 620",
        ),
        (
            "after the setup code",
            cut(0x600),
            "the kernel is truncated: the protected-mode code goes up to byte 2545, the file ends \
             at byte 1536",
        ),
        (
            "by a paragraph",
            cut(0xa00 - 16),
            "the kernel is truncated: the protected-mode code goes up to byte 2545, the file ends \
             at byte 2544",
        ),
    ]);
}

#[test]
fn bzimages_that_cannot_be_booted_are_refused() {
    let u32_at = |offset: usize, value: u32| patched(bzimage(), offset, &value.to_le_bytes());
    let preferred = |address: u64| patched(bzimage(), 0x258, &address.to_le_bytes());
    let not_64_bit = "the kernel is a 32-bit bzImage; only 64-bit kernels can be booted";
    let beyond = "the kernel does not fit into 8 MiB of guest memory, and would not with more";
    assert_refused(vec![
        (
            "protocol 2.11",
            patched(bzimage(), 0x206, &0x20b_u16.to_le_bytes()),
            "the kernel cannot be booted: its boot protocol 2.11 is older than 2.12",
        ),
        (
            "protocol 0",
            patched(bzimage(), 0x206, &[0, 0]),
            "the kernel cannot be booted: its boot protocol 0.00 is older than 2.12",
        ),
        ("no 64-bit entry", patched(bzimage(), 0x236, &[0xfe]), not_64_bit),
        ("loaded low", patched(bzimage(), 0x211, &[0x80]), not_64_bit),
        (
            "header without its last fields",
            patched(bzimage(), 0x201, &[0x61]),
            "the kernel is malformed: its setup header ends at 0x263",
        ),
        (
            "jump backwards",
            patched(bzimage(), 0x201, &[0x80]),
            "the kernel is malformed: its setup header ends at 0x282",
        ),
        (
            "no code",
            u32_at(0x1f4, 0),
            "the kernel is malformed: it has 0 bytes of protected-mode code",
        ),
        (
            "code that ends where it is entered",
            u32_at(0x1f4, 0x20),
            "the kernel is malformed: it has 512 bytes of protected-mode code",
        ),
        (
            "more code than there is",
            u32_at(0x1f4, u32::MAX),
            "the kernel is truncated: the protected-mode code goes up to byte 68719478241, the \
             file ends at byte 2560",
        ),
        (
            "more setup code than there is",
            patched(bzimage(), 0x1f1, &[0xff]),
            "the kernel is truncated: the protected-mode code goes up to byte 132081, the file \
             ends at byte 2560",
        ),
        (
            "preferred address 0",
            preferred(0),
            "the kernel is malformed: it wants to be loaded at 0x0",
        ),
        (
            "preferred address just below 1 MiB",
            preferred(0xf_ffff),
            "the kernel is malformed: it wants to be loaded at 0xfffff",
        ),
        (
            "preferred address that wraps",
            preferred(u64::MAX),
            "the kernel is malformed: it wants to be loaded at 0xffffffffffffffff",
        ),
        ("preferred address in the gap", preferred(0xc000_0000), beyond),
        ("preferred address above 4 GiB", preferred(1 << 32), beyond),
        ("init_size past the gap", u32_at(0x260, u32::MAX), beyond),
        (
            "init_size larger than RAM",
            u32_at(0x260, 62 << 20),
            "the kernel does not fit into 8 MiB of guest memory: at least 64 MiB are needed",
        ),
    ]);
}

#[test]
fn directory_is_a_read_error() {
    let layout = memory_layout(RAM_BYTES, 46).unwrap();
    let mut directory = std::fs::File::open("/").unwrap();
    let error = load(&memory(), &layout, &mut directory).unwrap_err();
    assert!(matches!(error, BootError::Read { image: Image::Kernel, .. }), "{error}");
}
