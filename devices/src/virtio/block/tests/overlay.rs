//! A device that goes on with an overlay over the image that it had.

use tempfile::TempDir;

use super::*;
use crate::disk::{BackingFile, create_overlay};

/// A raw image that is 1 all over.
fn base(directory: &TempDir) -> DiskOptions {
    let path = directory.path().join("base.img");
    std::fs::write(&path, vec![1; DISK_LEN as usize]).unwrap();
    DiskOptions { format: Some(Format::Raw), ..DiskOptions::new(path) }
}

/// Makes an image over that of `below`.
fn over(below: &DiskOptions, name: &str) -> DiskOptions {
    let path = below.path.with_file_name(name);
    let nearest = BackingFile { path: below.path.clone(), format: below.format.unwrap() };
    create_overlay(&path, DISK_LEN, &nearest).unwrap();
    let mut backing = below.backing.clone();
    backing.insert(0, nearest);
    DiskOptions { format: Some(Format::Qcow2), engine: None, backing, ..DiskOptions::new(path) }
}

#[test]
fn paused_device_goes_on_with_an_overlay_and_never_writes_below() {
    for engine in [Engine::Sync, Engine::IoUring] {
        let directory = TempDir::new().unwrap();
        let mut options = DiskOptions { engine: Some(engine), ..base(&directory) };
        let config = BlockConfig { num_queues: 2, ..config() };
        let mut block = Block::new(&config, Disk::open(&options).unwrap()).unwrap();
        let memory = guest_ram();
        let mut drivers = [0, 1].map(|index| Driver::new(memory.clone(), QUEUE_SIZE, index));
        let (_interrupts, kicks) = activate(&mut block, &[&drivers[0], &drivers[1]]);
        memory.write_slice(&[2; 512], GuestAddress(DATA)).unwrap();
        for round in 0..4 {
            // Requests that are in flight, and others that come while nobody serves.
            let early = [0, 1].map(|n| {
                let sector = round * 100 + n as u64;
                drivers[n].request(VIRTIO_BLK_T_OUT, sector, &[Buffer::readable(DATA, 512)])
            });
            kicks.iter().for_each(|kick| kick.write(1).unwrap());
            block.pause();
            let late = [0, 1].map(|n| {
                let sector = round * 100 + 50 + n as u64;
                drivers[n].request(VIRTIO_BLK_T_OUT, sector, &[Buffer::readable(DATA, 512)])
            });
            kicks.iter().for_each(|kick| kick.write(1).unwrap());

            let control = Arc::clone(block.control());
            control.disk().freeze().unwrap();
            let frozen = std::fs::read(&options.path).unwrap();
            let next = over(&options, &format!("{round}.qcow2"));
            let fork = over(&options, &format!("{round}-fork.qcow2"));
            let disk = Disk::open(&next).unwrap();
            control.prepare_change(disk).unwrap().commit_unannounced();
            block.resume();
            for n in [0, 1] {
                let start = Instant::now();
                let mut used = 0;
                while drivers[n].status(late[n]) == UNSET || drivers[n].status(early[n]) == UNSET {
                    used += drivers[n].queue.used().len();
                    assert!(start.elapsed() < PATIENCE, "{used} came back");
                    std::thread::yield_now();
                }
                assert_eq!([drivers[n].status(early[n]), drivers[n].status(late[n])], [OK; 2]);
                drivers[n].queue.used();
            }
            assert!(std::fs::read(&options.path).unwrap() == frozen, "written below");
            assert!(
                Disk::open(&DiskOptions { backing: options.backing.clone(), ..options.clone() })
                    .is_err_and(|error| error.kind() == crate::disk::DiskErrorKind::InUse)
            );
            assert_eq!(sector_of(&fork, round * 100 + 50), [1; 512], "of after the fork");
            options = next;
        }
        drop(block);
        for sector in [0, 50, 100, 150, 200, 250, 300, 350] {
            assert_eq!(sector_of(&options, sector), [2; 512], "sector {sector}");
            assert_eq!(sector_of(&options, sector + 2), [1; 512]);
        }
    }
}

/// Reads a sector of another disk.
fn sector_of(options: &DiskOptions, sector: u64) -> Vec<u8> {
    let options = DiskOptions { read_only: true, ..options.clone() };
    let mut rig = Rig::on(Disk::open(&options).unwrap());
    assert_eq!(rig.run(VIRTIO_BLK_T_IN, sector, &[Buffer::writable(DATA, 512)]).0, OK);
    rig.driver.bytes(DATA, 512)
}

#[test]
fn change_that_is_given_up_leaves_the_disk_which_can_be_written_again() {
    let directory = TempDir::new().unwrap();
    let options = base(&directory);
    let mut rig = Rig::on(Disk::open(&options).unwrap());
    let control = Arc::clone(rig.block.control());
    control.disk().freeze().unwrap();
    let next = Disk::open(&over(&options, "next.qcow2")).unwrap();
    drop(control.prepare_change(next).unwrap());
    control.disk().thaw().unwrap();
    let reading = DiskOptions { read_only: true, ..options };
    assert!(Disk::open(&reading).is_err(), "only the device may have it");
    rig.driver.memory().write_slice(&[3; 512], GuestAddress(DATA)).unwrap();
    assert_eq!(rig.run(VIRTIO_BLK_T_OUT, 7, &[Buffer::readable(DATA, 512)]).0, OK);
    assert_eq!(std::fs::read(&reading.path).unwrap()[7 * 512..8 * 512], [3; 512]);
}
