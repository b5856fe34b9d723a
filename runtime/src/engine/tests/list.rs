use super::*;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::EXIT_LOST;
use crate::record::{Health, HealthStatus};

#[test]
fn containers_are_listed_newest_first_and_those_that_run_unless_all_are_wanted() {
    let host = Host::new();
    host.create("old");
    let supervisor = host.run("new");
    assert_eq!(host.names(true, &[]), ["new", "old"]);
    assert_eq!(host.names(false, &[]), ["new"]);
    let options = ListOptions { last: Some(1), ..ListOptions::default() };
    assert_eq!(host.engine.list(&options).unwrap().len(), 1);
    host.engine.kill("new", None).unwrap();
    supervisor.asked();
    assert_eq!(host.names(false, &[]), Vec::<String>::new());
}

#[test]
fn filters_choose_by_all_that_docker_knows() {
    let host = Host::new();
    let mut config = host.config("one");
    config.labels.insert("a".to_owned(), "1".to_owned());
    config.expose = vec!["53/udp".to_owned()];
    let one = host.engine.create(&config).unwrap().id;
    let two = host.create("two");
    host.engine
        .store
        .update(&two, |state| {
            state.status = Status::Exited;
            state.exit_code = 3;
            state.health = Some(Health { status: HealthStatus::Unhealthy, ..Health::default() });
        })
        .unwrap();
    let volume = host.engine.find("one").unwrap().0.mounts[0].name.clone().unwrap();
    for (filters, expected) in [
        (&[("id", &one[..4])][..], &["one"][..]),
        (&[("name", "^/two$")], &["two"]),
        (&[("name", "o")], &["two", "one"]),
        (&[("label", "a=1")], &["one"]),
        (&[("label", "a"), ("label", "absent")], &[]),
        (&[("label", "from=image")], &["two", "one"]),
        (&[("status", "exited")], &["two"]),
        (&[("status", "exited"), ("status", "created")], &["two", "one"]),
        (&[("exited", "3")], &["two"]),
        (&[("exited", "0")], &[]),
        (&[("ancestor", "web")], &["two", "one"]),
        (&[("ancestor", "web:latest")], &["two", "one"]),
        (&[("ancestor", "other")], &[]),
        (&[("before", "two")], &["one"]),
        (&[("since", "one")], &["two"]),
        (&[("volume", volume.as_str())], &["one"]),
        (&[("volume", "/data")], &["two", "one"]),
        (&[("network", "bridge")], &["two", "one"]),
        (&[("network", "absent")], &[]),
        (&[("expose", "50-60/udp")], &["one"]),
        (&[("expose", "80")], &["two", "one"]),
        (&[("publish", "80")], &[]),
        (&[("health", "unhealthy")], &["two"]),
        (&[("health", "none")], &["one"]),
    ] {
        assert_eq!(host.names(true, filters), expected, "{filters:?}");
    }
    for filter in [
        ("bogus", "1"),
        ("status", "gone"),
        ("exited", "x"),
        ("health", "ill"),
        ("publish", "x"),
        ("before", "absent"),
    ] {
        let filters = filter_map(&[filter]);
        host.engine.list(&ListOptions { filters, ..ListOptions::default() }).unwrap_err();
    }
}

#[test]
fn container_is_found_by_its_name_before_the_beginning_of_an_identifier() {
    let host = Host::new();
    let one = host.create("one");
    // A name that's the beginning of the other's identifier.
    let tricky = host.create(&one[..6]);
    assert_eq!(host.engine.find(&one[..6]).unwrap().0.id, tricky);
    assert_eq!(host.engine.find("/one").unwrap().0.id, one);
    assert!(matches!(host.engine.find(""), Err(RuntimeError::NotFound { .. })));
    assert!(matches!(host.engine.find("../x"), Err(RuntimeError::NotFound { .. })));
}

#[test]
fn container_whose_supervisor_was_killed_has_ended_for_whoever_looks() {
    let host = Host::new();
    let id = host.lose(&host.config("lost"));
    let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    let vmm = crate::process::ProcessIdentity::of(child.id()).unwrap();
    host.engine.store.update(&id, |state| state.vmm = Some(vmm)).unwrap();
    let socket = host.engine.store.paths(&id).supervisor_socket();
    std::fs::create_dir_all(socket.parent().unwrap()).unwrap();
    std::fs::write(&socket, "").unwrap();

    assert_eq!(host.names(false, &[]), Vec::<String>::new());
    let (_, state) = host.engine.find("lost").unwrap();
    assert_eq!((state.status, state.exit_code), (Status::Exited, EXIT_LOST));
    assert!(!state.error.is_empty() && state.finished.is_some() && state.vmm.is_none());
    assert!(!socket.exists());
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(child.wait().unwrap().signal(), Some(9), "the VMM doesn't outlive it");
    assert_eq!(host.state(&id), state, "it's mended on disk");
    assert_eq!(host.engine.wait("lost").unwrap(), EXIT_LOST);
    let dies = host.actions().iter().filter(|action| *action == "container die").count();
    assert_eq!(dies, 1, "said once");
}

#[test]
fn container_that_was_to_be_removed_at_its_end_is_gone_after_a_crash() {
    let host = Host::new();
    let mut config = host.config("lost");
    config.auto_remove = true;
    host.lose(&config);
    assert_eq!(host.names(true, &[]), Vec::<String>::new());
    assert!(host.engine.volumes().unwrap().is_empty());
    assert!(matches!(host.engine.find("lost"), Err(RuntimeError::NotFound { .. })));
}

#[test]
fn several_that_look_at_once_mend_a_crash_once() {
    let host = Host::new();
    let ids: Vec<_> =
        (0..8).map(|number| host.lose(&host.config(&format!("lost{number}")))).collect();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| host.names(true, &[]));
        }
    });
    for id in ids {
        assert_eq!(host.state(&id).status, Status::Exited);
    }
    let dies = host.actions().iter().filter(|action| *action == "container die").count();
    assert_eq!(dies, 8);
}

#[test]
fn damaged_state_is_made_anew_and_foreign_files_are_left_alone() {
    let host = Host::new();
    let id = host.create("one");
    std::fs::write(host.engine.store.paths(&id).state(), "{\"status\":").unwrap();
    let containers = host.engine.paths.containers();
    std::fs::create_dir(containers.join("not-an-id")).unwrap();
    std::fs::create_dir(containers.join("0".repeat(64))).unwrap();
    assert_eq!(host.names(true, &[]), ["one"]);
    assert_eq!(host.engine.find("one").unwrap().1.status, Status::Exited);
}

/// The bar is 15 ms for the whole command; this is its part of it. CPU time, the least of several:
/// other tests run beside it.
#[test]
fn five_hundred_containers_are_listed_within_ten_milliseconds() {
    let host = Host::new();
    let id = host.create("first");
    let record = host.engine.store.record(&id).unwrap();
    let registry = host.engine.store.registry().unwrap();
    for number in 1..500 {
        let mut record = record.clone();
        record.id = registry.new_id().unwrap();
        record.name = format!("container-{number}");
        registry.enter(&record).unwrap();
    }
    drop(registry);
    // What `ps` needs is in the state files alone.
    std::fs::remove_dir_all(host.engine.paths.data().join("images")).unwrap();
    let best = (0..20)
        .map(|_| {
            let start = clock_gettime(ClockId::ThreadCPUTime);
            assert_eq!(host.names(true, &[]).len(), 500);
            Duration::try_from(clock_gettime(ClockId::ThreadCPUTime) - start).unwrap()
        })
        .min()
        .unwrap();
    eprintln!("500 containers listed in {best:?}");
    assert!(best < Duration::from_millis(10), "{best:?}");
    assert!(!host.engine.paths.data().join("images").exists(), "no store was opened");
}
