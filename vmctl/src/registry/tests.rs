use std::process::{Child, Command};
use std::thread;

use api::event::{Event, StopReason};
use tempfile::TempDir;

use super::status::Status;
use super::*;

fn registry() -> (TempDir, Registry) {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::at(dir.path().join("run")).unwrap();
    (dir, registry)
}

fn draft(name: &str) -> Draft {
    let name = Some(name.to_owned());
    Draft { name, origin: Origin::Boot, foreground: false, api_socket: None }
}

/// Enters a VM whose process is this one's child.
fn enter_child(registry: &Registry, name: &str) -> (Entry, Child) {
    let child = Command::new("sleep").arg("1000").spawn().unwrap();
    let mut reservation = registry.reserve(draft(name)).unwrap();
    reservation.entry.set_process(child.id()).unwrap();
    (reservation.publish(), child)
}

fn end(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn one_of_many_that_race_for_a_name_gets_it() {
    let (_dir, registry) = registry();
    let taken = thread::scope(|scope| {
        let racers: Vec<_> =
            (0..16).map(|_| scope.spawn(|| registry.reserve(draft("web")))).collect();
        let outcomes: Vec<_> = racers.into_iter().map(|racer| racer.join().unwrap()).collect();
        outcomes.iter().filter(|outcome| outcome.is_err()).count()
    });
    assert_eq!(taken, 15);
    let (entries, broken) = registry.scan().unwrap();
    assert_eq!((entries.len(), broken.len()), (1, 0));
}

#[test]
fn vm_is_found_by_name_and_by_the_beginning_of_its_identifier() {
    let (_dir, registry) = registry();
    let first = registry.reserve(draft("a")).unwrap();
    let id = first.entry.record.id.clone();
    assert_eq!(id.len(), 12);
    for reference in ["a", &id, &id[..11]] {
        assert_eq!(registry.find(reference).unwrap().record.id, id, "{reference}");
    }
    // Not a hexadecimal digit: no identifier begins with it.
    let error = registry.find("z").unwrap_err();
    assert_eq!(error.hint().unwrap(), "running ones: a");
    assert!(registry.find("").is_err());
    drop(first);
}

#[test]
fn beginning_of_two_identifiers_is_refused_with_both() {
    let (_dir, registry) = registry();
    // Seventeen identifiers can't all begin with different digits.
    let all: Vec<_> =
        (0..17).map(|number| registry.reserve(draft(&format!("n{number}"))).unwrap()).collect();
    let starts = all.iter().map(|vm| vm.entry.record.id[..1].to_owned());
    let error = starts.filter_map(|start| registry.find(&start).err()).next().unwrap();
    let RegistryError::Ambiguous { candidates, .. } = &error else { panic!("{error}") };
    assert!(candidates.len() > 1 && error.hint().unwrap().contains(", "));
}

#[test]
fn bad_names_are_refused() {
    for name in ["", "-a", ".a", "a/b", "a b", "ä", &"x".repeat(65)] {
        assert!(matches!(check_name(name), Err(RegistryError::BadName { .. })), "{name}");
    }
    for name in ["a", "9", "web-1.x_y", &"x".repeat(64)] {
        check_name(name).unwrap();
    }
}

#[test]
fn process_that_ended_without_a_word_has_crashed_or_was_killed() {
    let (_dir, registry) = registry();
    let (mut entry, child) = enter_child(&registry, "vm");
    assert!(entry.is_alive());
    end(child);
    assert_eq!(entry.status(), Status::Crashed);
    entry.set_killed().unwrap();
    assert_eq!(registry.find("vm").unwrap().status(), Status::Killed);
}

#[test]
fn last_event_tells_how_a_vm_ended() {
    let (_dir, registry) = registry();
    let (entry, child) = enter_child(&registry, "vm");
    end(child);
    let stopped = Event::Stopped { reason: StopReason::PowerOff, monotonic_ns: 2 };
    let mut log = b"garbage\n".to_vec();
    Event::VmCreated { monotonic_ns: 1 }.write_line(&mut log).unwrap();
    stopped.write_line(&mut log).unwrap();
    log.extend(b"{\"event\":\"half");
    fs::write(&entry.record.events, log).unwrap();
    assert_eq!(entry.status(), Status::Stopped { reason: StopReason::PowerOff });
}

#[test]
fn leftovers_of_the_dead_are_removed_and_nothing_else() {
    let (dir, registry) = registry();
    let (mut entry, child) = enter_child(&registry, "dead");
    let vsock = dir.path().join("vsock");
    let spec = serde_json::json!({ "vsock": { "guest_cid": 3, "uds_path": vsock } });
    let config = serde_json::from_value(spec).unwrap();
    let console = entry.dir.join("console.sock");
    entry.set_config(config, Some(&console)).unwrap();
    for path in [&entry.record.api_socket, &vsock] {
        drop(std::os::unix::net::UnixListener::bind(path).unwrap());
    }
    // A file that isn't a socket is somebody's.
    fs::write(&console, "notes").unwrap();
    registry.sweep().unwrap();
    assert!(vsock.exists(), "it lives");
    end(child);
    registry.sweep().unwrap();
    assert!(!vsock.exists() && !entry.record.api_socket.exists() && console.exists());
    // Another VM listens there by now.
    let _other = std::os::unix::net::UnixListener::bind(&vsock).unwrap();
    entry.remove().unwrap();
    assert!(vsock.exists() && !entry.dir.exists());
}

#[test]
fn running_vm_cannot_be_removed() {
    let (_dir, registry) = registry();
    let (entry, child) = enter_child(&registry, "vm");
    assert!(matches!(entry.remove(), Err(RegistryError::Alive { .. })));
    end(child);
    entry.remove().unwrap();
}

#[test]
fn abandoned_starts_and_empty_directories_are_swept_and_those_under_way_are_not() {
    let (_dir, registry) = registry();
    drop(registry.reserve(draft("abandoned")).unwrap());
    let starting = registry.reserve(draft("starting")).unwrap();
    assert_eq!(starting.entry.status(), Status::Starting);
    fs::create_dir(registry.vms().join("half")).unwrap();
    registry.sweep().unwrap();
    let (entries, broken) = registry.scan().unwrap();
    let names: Vec<_> = entries.iter().map(|entry| entry.record.name.as_str()).collect();
    assert_eq!((names, broken.len()), (vec!["starting"], 0));
}

#[test]
fn record_that_is_garbage_or_another_vms_is_broken_and_harms_no_other() {
    let (_dir, registry) = registry();
    let good = registry.reserve(draft("good")).unwrap();
    for (name, text) in [("garbage", "{\"id\":"), ("empty", "")] {
        let dir = registry.vms().join(name);
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("vm.json"), text).unwrap();
    }
    let copy = registry.vms().join("copy");
    fs::create_dir(&copy).unwrap();
    fs::copy(good.entry.dir.join("vm.json"), copy.join("vm.json")).unwrap();
    let (entries, broken) = registry.scan().unwrap();
    assert_eq!((entries.len(), broken.len()), (1, 3));
    broken.iter().for_each(|broken| broken.remove().unwrap());
    assert!(registry.scan().unwrap().1.is_empty());
}

#[test]
fn root_that_others_may_write_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("run");
    fs::create_dir(&root).unwrap();
    fs::set_permissions(&root, fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(Registry::at(root), Err(RegistryError::Unsafe { .. })));
    let long = dir.path().join("x".repeat(120));
    let registry = Registry::at(long).unwrap();
    assert!(matches!(registry.reserve(draft("a")), Err(RegistryError::RootTooLong { .. })));
}

/// A VM that has ended, and needs an image, in a directory, over another one.
fn enter_clone(registry: &Registry, name: &str, image: &Path, below: &Path) -> Entry {
    let (mut entry, child) = enter_child(registry, name);
    end(child);
    fs::write(image, name).unwrap();
    let config = serde_json::from_value(serde_json::json!({
        "drives": [{
            "drive_id": "root", "path_on_host": image, "format": "qcow2", "is_root_device": false,
            "backing": [{ "path_on_host": below, "format": "raw" }],
        }]
    }));
    let unrelated = image.with_extension("unrelated");
    let candidates =
        [image.to_owned(), unrelated, below.to_owned(), below.parent().unwrap().into()];
    entry.set_owned(config.unwrap(), &candidates).unwrap();
    assert_eq!(entry.record.owned.len(), 3, "what it doesn't need isn't its own");
    entry
}

#[test]
fn shared_image_goes_with_the_last_clone_and_nothing_else_goes() {
    let (dir, registry) = registry();
    let fork = dir.path().join("fork");
    fs::create_dir(&fork).unwrap();
    let below = fork.join("below");
    fs::write(&below, "what all share").unwrap();
    let images = ["a", "b"].map(|name| fork.join(name));
    let clones = ["a", "b"].map(|name| enter_clone(&registry, name, &fork.join(name), &below));
    assert!(registry.is_owned(&fork).unwrap());
    registry.remove(&clones[0]).unwrap();
    assert!(!images[0].exists() && images[1].exists() && below.exists());
    let users = fork.join("a user's");
    fs::write(&users, "").unwrap();
    registry.remove(&clones[1]).unwrap();
    assert!(!images[1].exists() && !below.exists() && users.exists());
    assert!(!registry.is_owned(&fork).unwrap());
}

#[test]
fn directory_of_a_clones_clones_goes_before_the_one_that_it_is_in() {
    let (dir, registry) = registry();
    let outer = dir.path().join("outer");
    let inner = outer.join("inner");
    fs::create_dir_all(&inner).unwrap();
    let (image, below) = (inner.join("image"), outer.join("below"));
    fs::write(&below, "").unwrap();
    let mut clone = enter_clone(&registry, "a", &image, &below);
    assert_eq!(clone.record.owned, [image, below, outer.clone()]);
    clone.update(|record| record.owned.push(inner)).unwrap();
    registry.remove(&clone).unwrap();
    assert!(!outer.exists());
}

#[test]
fn images_that_a_snapshot_needs_stay_when_their_vm_goes() {
    let (dir, registry) = registry();
    let (image, below) = (dir.path().join("image"), dir.path().join("below"));
    fs::write(&below, "").unwrap();
    let clone = enter_clone(&registry, "a", &image, &below);
    registry.disown(&images(&clone.record.config)).unwrap();
    registry.remove(&clone).unwrap();
    assert!(image.exists() && below.exists());
    assert!(registry.scan().unwrap().0.is_empty());
}
