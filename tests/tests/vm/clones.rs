//! Clones and forks with disks: each goes its own way from the moment at which it was made.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::support::{AttachedGuest, Host, first_line, is_socket, write_line};

const DISK: &str = "/dev/vda";

/// A VM and its guest.
struct Member {
    name: &'static str,
    guest: AttachedGuest,
}

/// Has a guest write its VM's name to its disk and its memory.
fn mark(guest: &mut AttachedGuest, name: &str) -> Result<()> {
    guest.run(&format!("echo {name} >/tmp/word"))?;
    write_line(guest, DISK, name)
}

fn expect_mark(guest: &mut AttachedGuest, name: &str) -> Result<()> {
    let (disk, memory) = (first_line(guest, DISK)?, guest.run("cat /tmp/word")?);
    ensure!(disk == name && memory == name, "disk {disk:?} and memory {memory:?} of {name}");
    Ok(())
}

/// Finds each guest's own name where each has written it.
fn expect_apart(members: &mut [Member]) -> Result<()> {
    for Member { name, guest } in &mut *members {
        mark(guest, name)?;
    }
    for Member { name, guest } in members {
        expect_mark(guest, name)?;
    }
    Ok(())
}

/// Waits for the guest of a new VM, which must be as the one was that wrote `of`.
fn meet(host: &Host, name: &'static str, of: &str) -> Result<Member> {
    let mut guest = host.resumed(name)?;
    expect_mark(&mut guest, of).with_context(|| format!("{name}, made of {of}"))?;
    Ok(Member { name, guest })
}

fn drive(config: &Value) -> &Value {
    &config["drives"][0]
}

#[test]
fn clones_and_forks_share_what_was_and_nothing_that_comes() -> Result<()> {
    let host = Host::new("clones")?;
    host.disk("data.img", "")?;
    host.boot("web", "--disk data.img --rng --vsock cid=3,path=web.vsock")?;
    let mut guest = host.booted("web")?;
    mark(&mut guest, "web")?;
    let mut members = vec![Member { name: "web", guest }];

    host.vmctl("clone web --count 2")?;
    members.push(meet(&host, "web-1", "web")?);
    members.push(meet(&host, "web-2", "web")?);
    expect_identities(&host)?;
    expect_apart(&mut members)?;

    host.vmctl("clone web-1 --name grand")?;
    members.push(meet(&host, "grand-1", "web-1")?);
    expect_apart(&mut members)?;

    // Its image builds upon one that builds upon data.img, and so does the fork's.
    let fork = host.json("vm fork web fork --json")?;
    ensure!(fork["paused_ns"].as_u64() < fork["total_ns"].as_u64(), "{fork}");
    expect_apart(&mut members)?;
    host.vmctl("vm restore fork --name forked --vsock forked.vsock")?;
    members.push(meet(&host, "forked", "web")?);
    expect_apart(&mut members)?;
    let chain = |name: &str| -> Result<Option<usize>> {
        Ok(drive(&host.config(name)?)["backing"].as_array().map(Vec::len))
    };
    ensure!(chain("forked")? == chain("web")? && chain("web")? > Some(1), "{:?}", chain("web")?);
    expect_images_to_go(&host, members)?;
    host.finish()
}

/// Finds another socket and context identifier at each.
fn expect_identities(host: &Host) -> Result<()> {
    let mut cids = Vec::new();
    for name in ["web", "web-1", "web-2"] {
        let config = host.config(name)?;
        let socket = config["vsock"]["uds_path"].as_str().context("no socket")?;
        ensure!(is_socket(&host.file(socket)), "no socket at {socket}");
        ensure!(name == "web" || socket.ends_with(name), "{name} listens on {socket}");
        cids.push(config["vsock"]["guest_cid"].as_u64());
        // The registry's record is the VMM's own word.
        let image = drive(&config)["path_on_host"].as_str().context("no image")?;
        ensure!(host.file(image).exists(), "no image at {image}");
    }
    cids.sort_unstable();
    cids.dedup();
    ensure!(cids.len() == 3, "{cids:?}");
    Ok(())
}

/// Ends one after the other: what others build upon stays until they're gone.
fn expect_images_to_go(host: &Host, mut members: Vec<Member>) -> Result<()> {
    // Those of web-1 are below those of its clone.
    for gone in ["web-1", "web-2"] {
        host.vmctl(&format!("vm rm --force {gone}"))?;
        members.retain(|member| member.name != gone);
        expect_apart(&mut members)?;
    }
    for member in members {
        member.guest.power_off()?;
    }
    ensure!(host.vmctl("vm prune")?.lines().count() == 3);
    let clones = host.listing(&["clones"])?;
    ensure!(clones.is_empty(), "of clones that are gone there are {clones:?}");
    let sockets = host.listing(&["vsock"])?;
    ensure!(sockets.is_empty(), "{sockets:?}");
    Ok(())
}

#[test]
fn snapshots_clones_need_its_disk_to_stand_still() -> Result<()> {
    let host = Host::new("snapshot_clones")?;
    host.disk("data.img", "")?;
    host.boot("web", "--disk data.img,id=data")?;
    let mut guest = host.booted("web")?;
    mark(&mut guest, "web")?;
    host.vmctl("vm snapshot web saved --resume false")?;
    // The VM could write what they'd read.
    host.refuses("clone ./saved --name one", "in use")?;
    ensure!(host.listing(&["qcow2"])?.is_empty());
    host.vmctl("vm kill web")?;
    host.vmctl("clone ./saved --count 2 --name one")?;
    let mut members = vec![meet(&host, "one-1", "web")?, meet(&host, "one-2", "web")?];
    expect_apart(&mut members)?;
    // The VM itself can't go on now: they build upon its disk as it was.
    host.refuses("vm restore saved --name again", "in use")?;
    drop(members);
    host.vmctl("vm rm --force one-1 one-2 web")?;
    let saved = host.file("saved");
    let mut left: Vec<_> = std::fs::read_dir(saved)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    left.sort();
    ensure!(left == ["config.json", "vm.mem", "vm.state"], "{left:?}");
    host.finish()
}
