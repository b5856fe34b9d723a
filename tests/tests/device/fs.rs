//! Directories of the host's, mounted by the guest's own driver; and drives of several files.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use anyhow::{Result, ensure};
use api::action::VmmAction;
use api::config::{DriveSpec, FilesystemSpec, ShareSpec, VmSpec};
use api::v1::{CreateSnapshotParams, SnapshotType};
use integration_tests::api_vm::lean;
use integration_tests::transfer::{random_bytes, sha256};

use crate::support::{ApiGuest, Place, eventually};

/// A directory to share writable, the same read-only, and what is beside them.
fn shared(place: &Place) -> Result<FilesystemSpec> {
    fs::create_dir_all(place.file("shared/sub"))?;
    fs::write(place.file("secret"), "secret")?;
    fs::write(place.file("shared/hello"), "from the host")?;
    symlink("../secret", place.file("shared/escape"))?;
    symlink(place.file("secret"), place.file("shared/absolute"))?;
    let share = |name: Option<&str>, is_read_only| ShareSpec {
        name: name.map(str::to_owned),
        path: place.file("shared"),
        is_read_only,
    };
    let shares = vec![share(None, false), share(Some("fixed"), true)];
    Ok(FilesystemSpec { fs_id: "fs0".to_owned(), tag: Some("shares".to_owned()), shares })
}

fn mount(guest: &mut ApiGuest) -> Result<()> {
    guest.run("mkdir -p /mnt && mount -t virtiofs shares /mnt").map(drop)
}

#[test]
fn shared_directory_is_the_guest_s_and_nothing_beside_it() -> Result<()> {
    let place = Place::new("fs")?;
    let spec = VmSpec { filesystems: vec![shared(&place)?], ..lean(1, 128) };
    let mut guest = place.boot(spec)?;
    mount(&mut guest)?;
    ensure!(guest.run("ls -1 /mnt")? == "0\nfixed");
    ensure!(guest.run("cat /mnt/0/hello")? == "from the host");
    files_are_written_and_moved(&mut guest, &place)?;
    links_lead_where_the_guest_has_it(&mut guest)?;
    read_only_share_stays_as_it_is(&mut guest, &place)?;

    // What the host changes is there within the second that a name may be relied on.
    fs::write(place.file("shared/hello"), "from the host, again")?;
    fs::write(place.file("shared/new"), "new")?;
    guest.run("sleep 1.1")?;
    ensure!(guest.run("cat /mnt/0/hello")? == "from the host, again");
    ensure!(guest.run("cat /mnt/0/new")? == "new");
    guest.run("umount /mnt")?;
    mount(&mut guest)?;
    ensure!(guest.run("cat /mnt/fixed/new")? == "new");
    guest.power_off()
}

fn files_are_written_and_moved(guest: &mut ApiGuest, place: &Place) -> Result<()> {
    guest.run("dd if=/dev/urandom of=/mnt/0/big bs=64k count=48 conv=fsync 2>/dev/null")?;
    let hash = guest.run("sha256sum </mnt/0/big")?;
    ensure!(hash.starts_with(&sha256(&fs::read(place.file("shared/big"))?)?));
    guest.run("echo 3 >/proc/sys/vm/drop_caches && cp /mnt/0/big /tmp/big")?;
    ensure!(guest.run("sha256sum </tmp/big")? == hash);

    guest.run("mkdir /mnt/0/d && echo moved >/mnt/0/d/a && chown 12:34 /mnt/0/d/a")?;
    guest.run("chmod 640 /mnt/0/d/a && mv /mnt/0/d/a /mnt/0/sub/b && rmdir /mnt/0/d")?;
    ensure!(fs::read_to_string(place.file("shared/sub/b"))? == "moved\n");
    let moved = fs::metadata(place.file("shared/sub/b"))?;
    ensure!((moved.uid(), moved.gid(), moved.mode() & 0o777) == (12, 34, 0o640));
    guest.run("ln /mnt/0/sub/b /mnt/0/hard && [ $(stat -c %h /mnt/0/hard) = 2 ]")?;

    // A file that's open outlives its name.
    let open = "(exec 3<>/mnt/0/open; rm /mnt/0/open; echo kept >&3; cat /proc/self/fd/3)";
    ensure!(guest.run(open)? == "kept");
    // Programs are mapped from there.
    guest.run("cp /bin/busybox /mnt/0/busybox && echo 3 >/proc/sys/vm/drop_caches")?;
    ensure!(guest.run("/mnt/0/busybox echo runs")? == "runs");
    guest.run("for i in $(seq 200); do echo $i >/mnt/0/sub/n$i; done")?;
    ensure!(guest.run("ls -1 /mnt/0/sub | wc -l")?.trim() == "201");
    guest.run("rm -r /mnt/0/sub && df /mnt/0 >/dev/null")?;
    ensure!(!place.file("shared/sub").exists());
    Ok(())
}

fn links_lead_where_the_guest_has_it(guest: &mut ApiGuest) -> Result<()> {
    guest.run("! cat /mnt/0/escape 2>/dev/null && ! cat /mnt/0/absolute 2>/dev/null")?;
    // There is such a name in the guest: then it's that one.
    guest.run("echo mine >/mnt/secret 2>/dev/null; [ ! -e /mnt/secret ]")?;
    guest.run("ln -s /etc/motd /mnt/0/motd; mkdir -p /etc; echo guest >/etc/motd")?;
    ensure!(guest.run("cat /mnt/0/motd")? == "guest");
    guest.run("ls /mnt/0/../../ >/dev/null && [ ! -e /mnt/0/../secret ]")?;
    Ok(())
}

fn read_only_share_stays_as_it_is(guest: &mut ApiGuest, place: &Place) -> Result<()> {
    for command in [
        "echo x >/mnt/fixed/hello",
        "rm /mnt/fixed/hello",
        "mkdir /mnt/fixed/d",
        "chmod 777 /mnt/fixed",
    ] {
        guest.run(&format!("! {command} 2>/dev/null"))?;
    }
    ensure!(guest.run("cat /mnt/fixed/hello")? == "from the host");
    ensure!(fs::read_to_string(place.file("shared/hello"))? == "from the host");
    Ok(())
}

#[test]
fn shares_come_and_go_while_the_guest_runs_and_keep_it_from_being_saved() -> Result<()> {
    let place = Place::new("fs_hotplug")?;
    let mut guest = place.boot(lean(1, 128))?;
    guest.vm.api.add_filesystem(shared(&place)?)?;
    guest.run(
        "mkdir -p /mnt; for i in $(seq 300); do mount -t virtiofs shares /mnt 2>/dev/null && break; \
         sleep 0.1; done; grep -q virtiofs /proc/mounts",
    )?;
    ensure!(guest.run("cat /mnt/0/hello")? == "from the host");
    guest.run("echo plugged >/mnt/0/plugged")?;
    ensure!(fs::read_to_string(place.file("shared/plugged"))? == "plugged\n");

    guest.vm.api.pause()?;
    let snapshot = || {
        VmmAction::CreateSnapshot(CreateSnapshotParams {
            snapshot_type: SnapshotType::Full,
            snapshot_path: place.file("vm.state"),
            mem_file_path: place.file("vm.mem"),
        })
    };
    let refused = guest.vm.api.act(&snapshot()).map(drop).unwrap_err().to_string();
    ensure!(refused.contains("detach it first"), "{refused}");
    guest.vm.api.resume()?;

    ensure!(guest.run("cat /mnt/0/plugged")? == "plugged");
    guest.run("umount /mnt")?;
    guest.vm.api.remove_filesystem("fs0".to_owned())?;
    eventually("the file system is gone", || Ok(guest.vm.api.vm_config()?.filesystems.is_empty()))?;
    guest.vm.api.pause()?;
    guest.vm.api.act(&snapshot())?;
    guest.vm.api.resume()?;
    guest.power_off()
}

#[test]
fn drive_of_several_files_is_one_to_the_guest() -> Result<()> {
    let place = Place::new("concat")?;
    let lens = [4096, 512 << 10, 4096, 1 << 20];
    let mut whole = Vec::new();
    for (index, len) in lens.into_iter().enumerate() {
        let bytes = random_bytes(len)?;
        fs::write(place.file(&index.to_string()), &bytes)?;
        whole.extend(bytes);
    }
    let drive = DriveSpec {
        drive_id: "image".to_owned(),
        path_on_host: Some(place.file("0")),
        is_read_only: Some(true),
        concat: (1..lens.len()).map(|index| place.file(&index.to_string())).collect(),
        ..DriveSpec::default()
    };
    let mut guest = place.boot(VmSpec { drives: vec![drive], ..lean(1, 128) })?;
    let hash = guest.run("sha256sum </dev/vda")?;
    let expected = sha256(&whole)?;
    ensure!(hash.starts_with(&expected), "read {hash} instead of {expected}");
    guest.run("! dd if=/dev/zero of=/dev/vda bs=512 count=1 2>/dev/null")?;
    guest.power_off()
}
