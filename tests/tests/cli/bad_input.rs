//! Everything that a user can get wrong: one error that names the flag and the value, a hint where
//! there is something to do about it, and nothing left behind.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use integration_tests::artifacts;
use integration_tests::network::Tap;

use crate::run::{Refusal, Run, Workshop, run, vmctl};

/// The largest command line that a guest is given, in bytes.
const MAX_CMDLINE_BYTES: usize = 2047;

/// Boots with these arguments and a socket, which mustn't be there afterwards.
fn boot(workshop: &Workshop, kernel: &Path, arguments: &[&str]) -> Result<Run> {
    let socket = workshop.path("vsock");
    let kernel = kernel.to_str().context("a path in UTF-8")?;
    let vsock = format!("cid=3,path={}", socket.display());
    let command = ["boot", "--kernel", kernel, "--vsock", &vsock, "--cmdline", "panic=-1"];
    // A later --cmdline would be a repeated flag.
    let fixed = if arguments.contains(&"--cmdline") { &command[..5] } else { &command[..] };
    let run = run(vmctl(&[fixed, arguments].concat()))?;
    ensure!(!socket.exists(), "the socket was left behind");
    Ok(run)
}

/// An ELF header that says no more than which machine it's for.
fn elf(class: u8, machine: u16) -> Vec<u8> {
    let mut header = vec![0; 64];
    header[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', class, 1, 1]);
    header[16] = 2;
    header[18..20].copy_from_slice(&machine.to_le_bytes());
    header[20] = 1;
    header
}

#[test]
fn kernels_that_are_none_are_refused_with_what_they_are() -> Result<()> {
    const HINT: Option<&str> = Some("a kernel is a bzImage or an uncompressed vmlinux");
    let workshop = Workshop::new()?;
    let lean = std::fs::read(artifacts::lean_kernel())?;
    let (_, stock, _) = artifacts::stock_kernels().pop().context("no stock kernel")?;
    let stock = std::fs::read(stock)?;
    let contents = [
        ("empty", Vec::new(), "the kernel is empty"),
        ("truncated-elf", lean[..lean.len() / 2].to_vec(), "the kernel is truncated: "),
        ("truncated-bzimage", stock[..stock.len() / 2].to_vec(), "the kernel is truncated: "),
        ("32-bit", elf(1, 3), "the kernel is a 32-bit "),
        ("aarch64", elf(2, 183), "built for aarch64, the guest is x86_64"),
        ("text", b"#!/bin/sh\necho not a kernel\n".to_vec(), "not a kernel image but a text file"),
    ];
    for (name, content, words) in contents {
        let kernel = workshop.file(name, &content)?;
        let place = format!("--kernel {}: ", kernel.display());
        let run = boot(&workshop, &kernel, &[])?;
        Refusal { code: 1, place: &place, words, hint: HINT }.check(&run).context(name)?;
    }
    Ok(())
}

#[test]
fn kernels_that_cannot_be_read_are_refused_with_the_reason() -> Result<()> {
    let workshop = Workshop::new()?;
    let directory = workshop.path("directory");
    std::fs::create_dir(&directory)?;
    for (kernel, words) in
        [(workshop.path("missing"), "No such file or directory"), (directory, "Is a directory")]
    {
        let place = format!("--kernel {}: ", kernel.display());
        let run = boot(&workshop, &kernel, &[])?;
        Refusal { code: 1, place: &place, words, hint: None }.check(&run)?;
    }
    Ok(())
}

#[test]
fn bad_initrds_are_refused() -> Result<()> {
    let workshop = Workshop::new()?;
    let cases = [
        (workshop.path("missing"), "No such file or directory", None),
        (workshop.file("empty", b"")?, "the initrd is empty", None),
        (workshop.sparse("large", 600 << 20)?, "does not fit into 512 MiB", Some("--memory")),
    ];
    for (initrd, words, hint) in cases {
        let place = format!("--initrd {}: ", initrd.display());
        let arguments = ["--memory", "512M", "--initrd", initrd.to_str().context("UTF-8")?];
        let run = boot(&workshop, &artifacts::lean_kernel(), &arguments)?;
        Refusal { code: 1, place: &place, words, hint }.check(&run)?;
    }
    Ok(())
}

#[test]
fn bad_disks_are_refused_and_left_as_they_are() -> Result<()> {
    let workshop = Workshop::new()?;
    let directory = workshop.path("directory");
    std::fs::create_dir(&directory)?;
    let cases = [
        (workshop.path("missing"), "", "doesn't exist", None),
        (directory, "", "neither a regular file nor a block device", Some("format=")),
        (workshop.file("empty", b"")?, "", "is empty", Some("empty disk of")),
        (workshop.file("odd", &[7; 513])?, "", "513 bytes, not a multiple of 512", Some("512")),
        (workshop.file("raw", &[7; 512])?, ",format=qcow2", "can't be used as qcow2", Some("raw")),
    ];
    for (disk, options, words, hint) in cases {
        let before = std::fs::read(&disk).ok();
        let disk_flag = format!("{}{options}", disk.display());
        let run = boot(&workshop, &artifacts::lean_kernel(), &["--disk", &disk_flag])?;
        let place = format!("--disk {disk_flag}: ");
        Refusal { code: 1, place: &place, words, hint }.check(&run)?;
        ensure!(std::fs::read(&disk).ok() == before, "{disk:?} was changed");
    }
    Ok(())
}

/// Root may write every file, but not one on a file system that's mounted read-only.
#[test]
fn read_only_file_is_refused_for_writing_and_taken_with_ro() -> Result<()> {
    let workshop = Workshop::new()?;
    let disk = workshop.sparse("disk.img", 1 << 20)?;
    let script = "mount --bind \"$1\" \"$1\" && mount -o remount,bind,ro \"$1\" && shift && \
                  exec \"$@\"";
    let boot_on_ro = |disk_flag: &str| {
        let mut command = std::process::Command::new("unshare");
        command.args(["--mount", "sh", "-c", script, "sh"]).arg(workshop.path(""));
        command.arg(artifacts::vmctl()).args(["boot", "--kernel"]).arg(artifacts::lean_kernel());
        command.arg("--initrd").arg(artifacts::lean_initrd());
        command.args(["--cmdline", "quiet reboot=k panic=-1 rdinit=/bin/poweroff -- -f"]);
        command.args(["--disk", disk_flag]);
        run(command)
    };
    let writable = disk.display().to_string();
    let place = format!("--disk {writable}: ");
    let words = "can't be opened for writing";
    let hint = Some("attach it with ,ro");
    Refusal { code: 1, place: &place, words, hint }.check(&boot_on_ro(&writable)?)?;
    let read_only = boot_on_ro(&format!("{writable},ro"))?;
    ensure!(read_only.code == 0 && read_only.stderr.is_empty(), "{read_only:?}");
    Ok(())
}

#[test]
fn memory_that_cannot_be_had_is_refused() -> Result<()> {
    let workshop = Workshop::new()?;
    let kernel = artifacts::lean_kernel();
    let host_mib = host_memory_mib()?;
    let above = format!("{}M", host_mib + 1024);
    let above_place = format!("--memory {above}: ");
    let kernel_place = format!("--kernel {}: ", kernel.display());
    let cases = [
        ("0", 2, "--memory 0: ", "0 is not from 1 to ", None),
        ("8M", 1, &*kernel_place, "does not fit into 8 MiB of guest memory", Some("--memory")),
        (&*above, 1, &*above_place, "this machine has", Some("less with --memory")),
    ];
    for (memory, code, place, words, hint) in cases {
        let run = boot(&workshop, &kernel, &["--memory", memory])?;
        Refusal { code, place, words, hint }.check(&run).context(memory.to_owned())?;
    }
    Ok(())
}

fn host_memory_mib() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find(|line| line.starts_with("MemTotal:")).context("no MemTotal")?;
    let kib: u64 = line.split_whitespace().nth(1).context("no number")?.parse()?;
    Ok(kib / 1024)
}

#[test]
fn values_out_of_range_are_usage_errors() -> Result<()> {
    let workshop = Workshop::new()?;
    let long = "x".repeat(MAX_CMDLINE_BYTES + 1);
    let cases: [(&[&str], &str, &str, Option<&str>); 4] = [
        (&["--cpus", "0"], "--cpus 0: ", "0 is not from 1 to 32", None),
        (&["--cpus", "33"], "--cpus 33: ", "33 is not from 1 to 32", None),
        (&["--cmdline", &long], "--cmdline x", "2048 bytes; at most 2047 fit", None),
        (&["--hugepages", "--memory", "3M"], "--memory 3M: ", "3 is not an even number", None),
    ];
    for (arguments, place, words, hint) in cases {
        let run = boot(&workshop, &artifacts::lean_kernel(), arguments)?;
        Refusal { code: 2, place, words, hint }.check(&run)?;
    }
    Ok(())
}

#[test]
fn unknown_keys_are_usage_errors() -> Result<()> {
    let workshop = Workshop::new()?;
    let kernel = artifacts::lean_kernel();
    let run = boot(&workshop, &kernel, &["--disk", "a.img,bogus=1"])?;
    let words = "unknown option \"bogus\"; the options are ";
    let place = "invalid value 'a.img,bogus=1' for '--disk ";
    Refusal { code: 2, place, words, hint: None }.check(&run)?;

    for (name, json) in [
        ("top", r#"{"bogus": 1}"#),
        ("machine", r#"{"machine-config": {"bogus": 1}}"#),
        ("drive", r#"{"drives": [{"drive_id": "a", "path_on_host": "a", "bogus": 1}]}"#),
    ] {
        let file = workshop.file(name, json.as_bytes())?;
        let path = file.to_str().context("UTF-8")?;
        let place = format!("--config {path}: ");
        let run = boot(&workshop, &kernel, &["--config", path])?;
        let words = "unknown field `bogus`";
        Refusal { code: 2, place: &place, words, hint: None }.check(&run).context(name)?;
    }
    Ok(())
}

#[test]
fn taps_that_cannot_be_used_are_refused_and_left_as_they_are() -> Result<()> {
    let workshop = Workshop::new()?;
    let kernel = artifacts::lean_kernel();
    let refused = |net: &str, words, hint| {
        let place = format!("--net {net}: ");
        Refusal { code: 1, place: &place, words, hint: Some(hint) }
            .check(&boot(&workshop, &kernel, &["--net", net])?)
            .context(net.to_owned())
    };
    refused("tap=lo", "is not a TAP", "port of a bridge")?;
    refused("tap=vmctl-absent", "no persistent TAP called vmctl-absent", "ip tuntap add")?;
    let tap = Tap::new("vmctl-single", &[])?;
    let before = tap.settings()?;
    refused("tap=vmctl-single,queues=2", "made without multi_queue", "multi_queue")?;
    let after = tap.settings()?;
    ensure!(after == before, "the TAP changed from {before} to {after}");
    let absent = integration_tests::network::ip(&["link", "show", "dev", "vmctl-absent"]);
    ensure!(absent.is_err(), "a TAP was made");
    Ok(())
}

#[test]
fn vsock_socket_that_cannot_be_made_is_refused() -> Result<()> {
    let workshop = Workshop::new()?;
    let kernel = artifacts::lean_kernel().display().to_string();
    let file = workshop.file("precious", b"not a socket")?;
    let nowhere = workshop.path("missing").join("socket");
    for (path, words, hint) in [
        (&file, "already", Some("a socket of its own")),
        (&nowhere, "No such file or directory", None),
    ] {
        let vsock = format!("cid=3,path={}", path.display());
        let place = format!("--vsock {vsock}: ");
        let run = run(vmctl(&["boot", "--kernel", &kernel, "--vsock", &vsock]))?;
        Refusal { code: 1, place: &place, words, hint }.check(&run)?;
    }
    ensure!(std::fs::read(&file)? == b"not a socket", "a file was overwritten");
    Ok(())
}
