use super::*;

#[test]
fn names_on_the_host_fit_and_differ_by_data_root() {
    assert_eq!(instance(Path::new("/var/lib/vmctl")), "");
    assert_eq!(instance(Path::new("/tmp/a")).len(), 6);
    assert_ne!(instance(Path::new("/tmp/a")), instance(Path::new("/tmp/b")));
    let id = "f".repeat(64);
    assert_eq!(tap_name(&id, &id).len(), 14);
    assert_ne!(tap_name("a", "b"), tap_name("a", "c"));
    let directory = tempfile::tempdir().unwrap();
    let networks = Networks::open(directory.path()).unwrap();
    assert_eq!(networks.bridge_name(&id, false).len(), 15);
    assert!(networks.bridge_name(&id, true).len() <= 15);
}

#[test]
fn names_and_identifiers_that_cannot_be_are_refused() {
    for name in ["", "a", "-ab", "a/b", "../x", "a b", "ab\n", &"a".repeat(129)] {
        assert!(check_name(name).is_err(), "{name:?}");
    }
    for id in ["", "..", "a/b", "a.json", &"a".repeat(129)] {
        assert!(check_id(id).is_err(), "{id:?}");
    }
    check_name("my_net.1-x").unwrap();
}

#[test]
fn default_network_is_there_once_and_cannot_be_removed() {
    let directory = tempfile::tempdir().unwrap();
    let networks = Networks::open(directory.path()).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| networks.list().unwrap());
        }
    });
    let listed = networks.list().unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].name, "bridge");
    assert_eq!(networks.get(&listed[0].id[..8]).unwrap(), listed[0]);
    assert!(matches!(networks.get("nope"), Err(NetworkError::Absent(_))));
    assert!(matches!(networks.get(""), Err(NetworkError::Absent(_))));
    assert!(matches!(networks.remove("bridge"), Err(NetworkError::InUse { .. })));
    for name in ["bridge", "host", "none", "default"] {
        let spec = NetworkSpec { name: name.to_owned(), ..NetworkSpec::default() };
        assert!(matches!(networks.create(&spec), Err(NetworkError::Exists(_))), "{name}");
    }
}

#[test]
fn damaged_record_is_an_error_that_names_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let networks = Networks::open(directory.path()).unwrap();
    let id = networks.list().unwrap()[0].id.clone();
    let path = directory.path().join("networks").join(id).join("network.json");
    fs::write(&path, "{\"id\":").unwrap();
    let error = networks.list().unwrap_err().to_string();
    assert!(error.contains(path.to_str().unwrap()), "{error}");
}

#[test]
fn what_a_writer_left_half_written_is_not_read() {
    let directory = tempfile::tempdir().unwrap();
    let networks = Networks::open(directory.path()).unwrap();
    let network = networks.list().unwrap().remove(0);
    let root = directory.path().join("networks");
    fs::write(root.join(&network.id).join("leases/abc.tmp"), "{").unwrap();
    fs::create_dir(root.join("half")).unwrap();
    assert_eq!(networks.list().unwrap().len(), 1);
    assert_eq!(networks.endpoints(&network).unwrap(), []);
    assert_eq!(networks.sweep(|_| false).unwrap(), 0);
}
