use super::*;
use crate::ErrorKind;

#[test]
fn volume_in_use_stays() {
    let host = Host::new();
    host.create("one");
    let name = host.engine.volumes().unwrap()[0].name.clone();
    let error = host.engine.remove_volume(&name, true).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("one"), "{error}");
    assert!(host.engine.prune_volumes(true).unwrap().removed.is_empty());
    host.engine.remove("one", false, false).unwrap();
    host.engine.remove_volume(&name, false).unwrap();
    host.engine.remove_volume(&name, false).unwrap_err();
    host.engine.remove_volume(&name, true).unwrap();
}

#[test]
fn prune_removes_anonymous_volumes_and_named_ones_when_that_is_wanted() {
    let host = Host::new();
    host.engine.create_volume(Some("named"), &BTreeMap::new()).unwrap();
    let anonymous = host.engine.create_volume(None, &BTreeMap::new()).unwrap();
    assert_eq!(host.engine.prune_volumes(false).unwrap().removed, [anonymous.name]);
    std::fs::write(host.engine.volume("named").unwrap().mountpoint.join("x"), vec![1; 9000])
        .unwrap();
    let pruned = host.engine.prune_volumes(true).unwrap();
    assert_eq!(pruned.removed, ["named"]);
    assert!(pruned.freed_bytes >= 9000, "{pruned:?}");
}

#[test]
fn prune_removes_containers_that_do_not_run_and_fit() {
    let host = Host::new();
    let supervisor = host.run("running");
    let mut config = host.config("labelled");
    config.labels.insert("keep".to_owned(), "yes".to_owned());
    let labelled = host.engine.create(&config).unwrap().id;
    let plain = host.create("plain");
    let prune = |filters: &[(&str, &str)]| host.engine.prune(&filter_map(filters));
    prune(&[("bogus", "1")]).unwrap_err();
    prune(&[("until", "when")]).unwrap_err();
    assert!(prune(&[("until", "1h")]).unwrap().removed.is_empty(), "they're younger");
    assert_eq!(prune(&[("label!", "keep")]).unwrap().removed, [plain]);
    assert_eq!(prune(&[("label", "keep=yes")]).unwrap().removed, [labelled]);
    assert!(prune(&[]).unwrap().removed.is_empty());
    host.engine.stop("running", None, None).unwrap();
    supervisor.asked();
    assert_eq!(prune(&[]).unwrap().removed.len(), 1);
}

#[test]
fn use_of_disks_and_counts_add_up() {
    let host = Host::new();
    let supervisor = host.run("one");
    host.create("two");
    let log = host.engine.store.paths(&supervisor.id).log();
    std::fs::write(log, vec![1; 100_000]).unwrap();
    let template = host.engine.paths.templates().join("key");
    std::fs::create_dir_all(&template).unwrap();
    std::fs::write(template.join("memory"), vec![1; 50_000]).unwrap();
    let usage = host.engine.disk_usage().unwrap();
    assert_eq!((usage.containers.total, usage.containers.active), (2, 1));
    assert!(usage.containers.size_bytes >= 100_000);
    assert!(usage.containers.reclaimable_bytes < 100_000);
    assert_eq!((usage.volumes.total, usage.volumes.active), (2, 2));
    assert_eq!((usage.images.total, usage.images.active), (1, 1));
    assert!(usage.templates.size_bytes >= 50_000);
    let info = host.engine.info().unwrap();
    assert_eq!((info.running, info.stopped, info.paused), (1, 1, 0));
    assert_eq!((info.images, info.volumes, info.templates), (1, 2, 1));
    // A template of an image that's gone goes, others stay; while one is made, nothing does.
    let gone = host.engine.paths.templates().join("gone");
    std::fs::create_dir_all(&gone).unwrap();
    std::fs::write(gone.join("image"), format!("sha256:{}", "0".repeat(64))).unwrap();
    let lock = host.engine.paths.templates().join("lock");
    let held = crate::files::LockFile::try_take(&lock).unwrap();
    host.engine.sweep_templates().unwrap();
    assert!(gone.exists());
    drop(held);
    host.engine.sweep_templates().unwrap();
    assert!(!gone.exists() && template.exists());
    assert_eq!(host.engine.prune_templates().unwrap().removed, ["key"]);
    assert_eq!(host.engine.disk_usage().unwrap().templates, crate::Usage::default());
    host.engine.stop("one", None, None).unwrap();
    supervisor.asked();
}
