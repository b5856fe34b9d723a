use super::*;
use crate::ErrorKind;
use crate::config::{MountKind, MountSpec, NetworkAttachment, PortSpec, Protocol, RestartPolicy};

fn refused(host: &Host, change: impl FnOnce(&mut ContainerConfig)) -> RuntimeError {
    let mut config = host.config("refused");
    change(&mut config);
    let error = host.engine.create(&config).expect_err("it makes no sense");
    assert_eq!(host.names(true, &[("name", "refused")]), Vec::<String>::new(), "{error}");
    error
}

fn bind(source: &str, target: &str, create_source: bool) -> MountSpec {
    MountSpec {
        kind: MountKind::Bind,
        source: Some(source.to_owned()),
        target: target.to_owned(),
        create_source,
        ..MountSpec::default()
    }
}

#[test]
fn container_has_what_was_asked_for_and_what_the_image_says() {
    let host = Host::new();
    let mut config = host.config("one");
    config.command = vec!["other".to_owned()];
    config.env = vec!["A=1".to_owned()];
    config.labels.insert("own".to_owned(), "1".to_owned());
    config.mounts = vec![
        MountSpec {
            source: Some("kept".to_owned()),
            target: "/kept//x/".to_owned(),
            ..MountSpec::default()
        },
        bind("/", "/host", false),
    ];
    let created = host.engine.create(&config).unwrap();
    assert_eq!((created.name.as_str(), created.id.len()), ("one", 64));
    let (record, state) = host.engine.find(&created.id[..5]).unwrap();
    assert_eq!(record.resolved.command, ["other"]);
    assert_eq!(record.resolved.env, ["PATH=/bin", "A=1"]);
    assert_eq!(record.resolved.hostname, created.id[..12]);
    assert_eq!(record.resolved.labels.len(), 2);
    let mounts: Vec<_> =
        record.mounts.iter().map(|mount| (mount.target.as_str(), mount.anonymous)).collect();
    assert_eq!(mounts, [("/kept/x", false), ("/host", false), ("/data", true)]);
    assert!(record.mounts.iter().all(|mount| mount.source.as_ref().unwrap().is_dir()));
    assert_eq!((state.status, state.summary.networks), (Status::Created, vec!["bridge".into()]));
    assert_eq!(state.summary.ports.len(), 1);
    assert_eq!(
        host.actions(),
        ["volume create", "volume create", "container create"],
        "and nothing else"
    );
}

#[test]
fn what_is_not_there_is_named_and_nothing_is_left_of_the_attempt() {
    let host = Host::new();
    let error = refused(&host, |config| config.image = "absent".to_owned());
    assert_eq!(error.to_string(), "no such image: absent");
    let error = refused(&host, |config| {
        let network = "no-such-net".to_owned();
        config.networks = vec![NetworkAttachment { network, ..NetworkAttachment::default() }];
    });
    assert!(error.to_string().contains("no-such-net"), "{error}");
    let error = refused(&host, |config| {
        let network = "host".to_owned();
        config.networks = vec![NetworkAttachment { network, ..NetworkAttachment::default() }];
    });
    assert!(error.to_string().contains("virtual machine"), "{error}");
    let error = refused(&host, |config| config.mounts = vec![bind("/no/such", "/x", false)]);
    assert_eq!(error.kind(), ErrorKind::SourceMissing);
    assert!(error.to_string().contains("/no/such"), "{error}");
    let error = refused(&host, |config| config.memory_bytes = Some(1 << 20));
    assert!(error.to_string().contains("memory"), "{error}");
    assert_eq!(error.exit_code(), 125);
    let error = refused(&host, |config| config.platform = Some("linux/s390x".to_owned()));
    assert!(error.to_string().contains("linux/s390x"), "{error}");
    assert!(host.engine.volumes().unwrap().is_empty());
}

#[test]
fn missing_source_of_a_bind_is_made_when_docker_would() {
    let host = Host::new();
    let source = host.engine.paths.data().join("new/dir");
    let mut config = host.config("one");
    config.mounts = vec![bind(source.to_str().unwrap(), "/x", true)];
    host.engine.create(&config).unwrap();
    assert!(source.is_dir());
}

#[test]
fn ports_published_twice_and_mounts_at_one_place_are_refused() {
    let host = Host::new();
    let port = PortSpec {
        container_port: 80,
        protocol: Protocol::Tcp,
        host_ip: None,
        host_port: Some(8080),
    };
    let error = refused(&host, |config| {
        config.ports = vec![port, PortSpec { container_port: 81, ..port }];
    });
    assert_eq!(error.kind(), ErrorKind::PortInUse);
    refused(&host, |config| config.ports = vec![PortSpec { container_port: 0, ..port }]);
    let volume = |target: &str| MountSpec { target: target.to_owned(), ..MountSpec::default() };
    refused(&host, |config| config.mounts = vec![volume("/a/b"), volume("/a/./b")]);
}

#[test]
fn name_in_use_is_refused_and_its_volumes_are_not_made() {
    let host = Host::new();
    let id = host.create("taken");
    let before = host.engine.volumes().unwrap();
    let error = host.engine.create(&host.config("taken")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NameInUse);
    assert!(error.to_string().contains("already in use") && error.to_string().contains(&id[..12]));
    assert_eq!(host.engine.volumes().unwrap(), before);
}

#[test]
fn volumes_of_a_container_that_does_not_come_to_be_are_removed() {
    let host = Host::new();
    let volume = |source: &str, target: &str| MountSpec {
        source: Some(source.to_owned()),
        target: target.to_owned(),
        ..MountSpec::default()
    };
    // The second one can't be made: a file is in its place that's no directory.
    std::fs::write(host.engine.paths.volumes().join("blocked"), "").unwrap();
    refused(&host, |config| config.mounts = vec![volume("first", "/1"), volume("blocked", "/2")]);
    assert!(host.engine.volumes().unwrap().is_empty());
}

#[test]
fn images_that_no_container_can_be_made_of_are_refused() {
    let host = Host::new();
    host.add_image("odd", json!({ "Cmd": ["x"], "Volumes": { "/../etc": {} } }));
    host.add_image("wrong", json!({ "Cmd": [1] }));
    host.add_image("empty", json!({}));
    for (image, word) in [("odd", "/etc"), ("wrong", "Cmd"), ("empty", "no command")] {
        let error = refused(&host, |config| config.image = image.to_owned());
        assert!(error.to_string().contains(word), "{error}");
    }
}

#[test]
fn what_is_unwise_is_said() {
    let host = Host::new();
    let mut config = host.config("one");
    config.nano_cpus = Some(32_000_000_000);
    config.memory_bytes = Some(1 << 50);
    config.publish_all = true;
    let network = "none".to_owned();
    config.networks = vec![NetworkAttachment { network, ..NetworkAttachment::default() }];
    assert_eq!(host.engine.create(&config).unwrap().warnings.len(), 3);
}

#[test]
fn inspect_shows_dockers_shape() {
    let host = Host::new();
    let mut config = host.config("one");
    config.restart = RestartPolicy::OnFailure { max_retries: 3 };
    config.ports = vec![PortSpec {
        container_port: 80,
        protocol: Protocol::Tcp,
        host_ip: None,
        host_port: Some(8080),
    }];
    let id = host.engine.create(&config).unwrap().id;
    let shown = host.engine.inspect("one").unwrap();
    assert_eq!((&shown["Id"], &shown["Name"]), (&json!(id), &json!("/one")));
    assert_eq!(shown["State"]["Status"], "created");
    assert_eq!(shown["State"]["StartedAt"], "0001-01-01T00:00:00Z");
    assert_eq!((&shown["State"]["Pid"], &shown["State"]["Running"]), (&json!(0), &json!(false)));
    assert_eq!(shown["Config"]["Cmd"], json!(["serve"]));
    assert_eq!(shown["Config"]["ExposedPorts"], json!({ "80/tcp": {} }));
    let bindings = json!({ "80/tcp": [{ "HostIp": "", "HostPort": "8080" }] });
    assert_eq!(shown["HostConfig"]["PortBindings"], bindings);
    let policy = json!({ "Name": "on-failure", "MaximumRetryCount": 3 });
    assert_eq!(shown["HostConfig"]["RestartPolicy"], policy);
    assert_eq!(shown["NetworkSettings"]["Ports"], json!({}), "it doesn't run");
    assert_eq!(shown["Mounts"][0]["Type"], "volume");

    let supervisor = Supervisor::start(&host.engine, &id);
    let own = crate::process::ProcessIdentity::of(std::process::id()).unwrap();
    host.engine
        .store
        .update(&id, |state| {
            state.vmm = Some(own);
            state.summary.ports[0].host = Some(("127.0.0.1".parse().unwrap(), 8080));
            state.endpoints = vec![crate::Endpoint {
                network: "bridge".to_owned(),
                addresses: vec![("172.17.0.2".parse().unwrap(), 16)],
                ..crate::Endpoint::default()
            }];
        })
        .unwrap();
    let shown = host.engine.inspect("one").unwrap();
    assert_eq!(shown["State"]["Pid"], std::process::id());
    let settings = &shown["NetworkSettings"];
    assert_eq!(settings["Ports"]["80/tcp"][0]["HostIp"], "127.0.0.1");
    assert_eq!(settings["IPAddress"], "172.17.0.2");
    assert_eq!(settings["Networks"]["bridge"]["IPPrefixLen"], 16);
    assert_eq!(host.engine.ports("one").unwrap().len(), 1);
    host.engine.store.update(&id, |state| state.vmm = None).unwrap();
    host.engine.stop("one", None, None).unwrap();
    supervisor.asked();
    assert!(host.engine.ports("one").unwrap().is_empty());
}
