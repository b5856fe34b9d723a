//! What a running VM has, a second one is refused; and the first keeps it.

use std::os::unix::fs::FileTypeExt;

use anyhow::{Context, Result, ensure};
use integration_tests::artifacts;
use integration_tests::network::Tap;
use integration_tests::vm::Boot;

use crate::run::{Refusal, Run, Workshop, run, vmctl};

fn second_vm(arguments: &[&str]) -> Result<Run> {
    let mut command = vmctl(&["boot", "--kernel"]);
    command.arg(artifacts::lean_kernel()).arg("--initrd").arg(artifacts::lean_initrd());
    command.args(["--cmdline", "quiet reboot=k panic=-1 rdinit=/bin/poweroff -- -f"]);
    command.args(arguments);
    run(command)
}

#[test]
fn disk_tap_and_socket_of_a_running_vm_are_refused_to_a_second_one() -> Result<()> {
    let workshop = Workshop::new()?;
    let disk = workshop.sparse("disk.img", 1 << 20)?.display().to_string();
    let socket = workshop.path("vsock");
    let vsock = format!("cid=3,path={}", socket.display());
    let tap = Tap::new("vmctl-busy", &[])?;
    let net = format!("tap={}", tap.name);
    let mut guest = Boot::lean("in_use")
        .flag("--disk", &disk)
        .flag("--net", &net)
        .flag("--vsock", &vsock)
        .guest()?;

    let read_only = format!("{disk},ro");
    let in_use = "is in use by another process";
    let cases = [
        ("--disk", &disk, in_use, "another VM has the image open"),
        ("--disk", &read_only, in_use, "another VM has the image open"),
        ("--net", &net, in_use, "each VM needs a TAP of its own"),
        ("--vsock", &vsock, "already", "a socket of its own"),
    ];
    for (flag, value, words, hint) in cases {
        let place = format!("{flag} {value}: ");
        let refusal = Refusal { code: 1, place: &place, words, hint: Some(hint) };
        refusal.check(&second_vm(&[flag, value])?).with_context(|| place.clone())?;
    }

    ensure!(socket.symlink_metadata()?.file_type().is_socket(), "the first VM lost its socket");
    guest.run("head -c 4096 /dev/zero >/dev/vda && ip link set dev eth0 up")?;
    guest.power_off()?;
    ensure!(!socket.exists(), "the socket was left behind");
    let free = second_vm(&["--disk", &disk, "--net", &net, "--vsock", &vsock])?;
    ensure!(free.code == 0 && free.stderr.is_empty(), "still in use: {free:?}");
    Ok(())
}

#[test]
fn two_vms_share_a_disk_that_both_only_read() -> Result<()> {
    let workshop = Workshop::new()?;
    let disk = workshop.sparse("disk.img", 1 << 20)?.display().to_string();
    let read_only = format!("{disk},ro");
    let guest = Boot::lean("shared_disk").flag("--disk", &read_only).guest()?;
    let second = second_vm(&["--disk", &read_only])?;
    ensure!(second.code == 0 && second.stderr.is_empty(), "{second:?}");
    let writer = second_vm(&["--disk", &disk])?;
    let place = format!("--disk {disk}: ");
    let (words, hint) = ("is in use by another process", Some("several can share one"));
    Refusal { code: 1, place: &place, words, hint }.check(&writer)?;
    guest.power_off()
}
