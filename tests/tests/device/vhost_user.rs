//! A drive that another process serves: QEMU's storage daemon.

use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use api::config::{DriveSpec, VmSpec};
use integration_tests::api_vm::lean;
use integration_tests::transfer::sha256;

use crate::support::{MIB, Place, eventually, head};

const COUNT: usize = 65536;

/// A running `qemu-storage-daemon`, killed when dropped.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended: then there is nothing to kill.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn drive_of_another_process_is_read_and_written() -> Result<()> {
    let place = Place::new("vhost_user")?;
    let (image, socket) = (place.image("served.img", 8 * MIB)?, place.file("daemon.sock"));
    let arguments = [
        "--blockdev".to_owned(),
        format!("driver=file,node-name=image,filename={}", image.display()),
        "--export".to_owned(),
        format!(
            "type=vhost-user-blk,id=export,node-name=image,writable=on,\
             addr.type=unix,addr.path={}",
            socket.display()
        ),
    ];
    let daemon = Command::new("qemu-storage-daemon")
        .args(arguments)
        .stdin(Stdio::null())
        .spawn()
        .context("start qemu-storage-daemon")?;
    let _daemon = Daemon(daemon);
    eventually("the daemon listens", || Ok(socket.exists()))?;
    let served =
        DriveSpec { drive_id: "served".to_owned(), socket: Some(socket), ..DriveSpec::default() };
    let drives = vec![place.drive("own", 4 * MIB)?, served];
    let mut guest = place.boot(VmSpec { drives, ..lean(2, 128) })?;
    let sectors: u64 = guest.run("cat /sys/block/vdb/size")?.parse()?;
    ensure!(sectors * 512 == 8 * MIB, "{sectors} sectors");
    let hash = guest.run(&format!("head -c {COUNT} /dev/vdb | sha256sum"))?;
    let expected = sha256(&head(&image, COUNT)?)?;
    ensure!(hash.starts_with(&expected), "read {hash} instead of {expected}");

    let hash = guest.run(&format!(
        "head -c {COUNT} /dev/urandom >/tmp/new && \
         dd if=/tmp/new of=/dev/vdb bs=4096 conv=fsync 2>/dev/null && \
         echo 3 >/proc/sys/vm/drop_caches && cmp -n {COUNT} /tmp/new /dev/vdb && \
         sha256sum </tmp/new"
    ))?;
    let written = sha256(&head(&image, COUNT)?)?;
    ensure!(hash.starts_with(&written), "the image has {written} instead of {hash}");
    guest.power_off()
}
