use clap::Parser;

use super::*;

#[derive(Debug, Parser)]
#[command(disable_help_flag = true)]
struct Line {
    #[command(flatten)]
    flags: CreateFlags,
    image: String,
}

fn config(line: &str) -> Result<ContainerConfig, String> {
    let words = ["vmctl"].into_iter().chain(line.split_whitespace()).chain(["image"]);
    let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
    line.flags.to_config(&line.image, &[]).map_err(|error| error.to_string())
}

#[test]
fn nothing_said_is_the_default() {
    let expected = ContainerConfig { image: "image".to_owned(), ..ContainerConfig::default() };
    assert_eq!(config(""), Ok(expected));
    assert_eq!(config("--memory 0").unwrap().memory_bytes, None, "0 is no limit");
    assert_eq!(config("--pids-limit -1").unwrap().pids_limit, None);
}

#[test]
fn flags_of_docker_run_are_understood_in_their_usual_spellings() {
    let config = config(
        "-it --rm --name web -h nginx -p 8080:80 -p 90-91:90-91/udp -P -v /tmp:/a:ro -v data:/b \
         --mount type=tmpfs,target=/c --tmpfs /d:size=1m -e A=1 -eB=2 -w /srv -u www:www \
         --entrypoint sh --cpus 1.5 -m 256m --network app --network-alias w --dns 1.1.1.1 \
         --add-host db:10.0.0.2 --read-only -l a=b --label c --stop-signal INT --stop-timeout -1 \
         --ulimit nofile=5:6 --health-cmd true --health-interval 5s --health-retries 2 --init \
         --cap-add net_admin --cap-drop ALL --security-opt no-new-privileges --shm-size 1g \
         --platform linux/amd64 --log-opt max-size=10m --log-opt max-file=3 --expose 1-2",
    )
    .unwrap();
    assert!(config.open_stdin && config.tty && config.auto_remove && config.publish_all);
    assert!(config.read_only && config.init);
    assert_eq!(config.name.as_deref(), Some("web"));
    assert_eq!(config.hostname.as_deref(), Some("nginx"));
    assert_eq!(config.ports.len(), 3);
    let targets: Vec<_> = config.mounts.iter().map(|mount| mount.target.as_str()).collect();
    assert_eq!(targets, ["/a", "/b", "/c", "/d"]);
    assert_eq!(config.env, ["A=1", "B=2"]);
    assert_eq!(config.working_dir.as_deref(), Some("/srv"));
    assert_eq!(config.entrypoint, Some(vec!["sh".to_owned()]));
    assert_eq!(config.nano_cpus, Some(1_500_000_000));
    assert_eq!(config.memory_bytes, Some(256 << 20));
    assert_eq!(config.networks[0].aliases, ["w"]);
    assert_eq!(config.labels.len(), 2);
    assert_eq!((config.stop_signal.as_deref(), config.stop_timeout_s), (Some("2"), Some(-1)));
    let health = config.health.unwrap();
    assert_eq!(health.test.unwrap(), ["CMD-SHELL", "true"]);
    assert_eq!((health.interval_ns, health.retries), (Some(5_000_000_000), Some(2)));
    assert_eq!(
        (config.cap_add, config.cap_drop),
        (vec!["CAP_NET_ADMIN".into()], vec!["ALL".into()])
    );
    assert_eq!(config.security_opt, ["no-new-privileges"]);
    assert_eq!((config.log.max_size_bytes, config.log.max_files), (Some(10 << 20), Some(3)));
    assert_eq!(config.expose, ["1/tcp", "2/tcp"]);
}

#[test]
fn empty_entry_point_takes_the_images_away() {
    let line = Line::try_parse_from(["vmctl", "--entrypoint", "", "image"]).unwrap();
    assert_eq!(line.flags.to_config("image", &[]).unwrap().entrypoint, Some(vec![]));
}

#[test]
fn no_healthcheck_is_dockers_none() {
    let health = config("--no-healthcheck").unwrap().health.unwrap();
    assert_eq!(health.test.unwrap(), ["NONE"]);
}

#[test]
fn flags_that_make_no_sense_are_named() {
    for (line, words) in [
        ("--rm --restart always", "conflicting options: --restart and --rm"),
        ("--restart sometimes", "'sometimes' for '--restart <POLICY>': unknown policy 'sometimes'"),
        ("-m 1x", "invalid value '1x' for '--memory <SIZE>': invalid size: '1x'"),
        ("--cpus 0", "invalid value '0' for '--cpus <NUMBER>'"),
        ("-p 80:x", "invalid value '80:x' for '--publish <PORT>': invalid containerPort: x"),
        ("-v /tmp:a", "'--volume <MOUNT>': invalid mount path: 'a' mount path must be absolute"),
        ("-v /tmp:/a --tmpfs /a", "duplicate mount point: /a"),
        ("-v /no/such/path:/a", "bind source path does not exist: /no/such/path"),
        ("--mount type=bind,src=/no/such/path,dst=/a", "bind source path does not exist"),
        ("--network none --network app", "without a network is on no other one"),
        ("--network-alias web", "only supported on a network that --network names"),
        ("--network host", "a virtual machine can't be in the host's network"),
        ("--no-healthcheck --health-cmd true", "cannot be used with"),
        ("-w srv", "the working directory 'srv' is invalid, it needs to be an absolute path"),
        ("--pull sometimes", "[possible values: always, missing, never]"),
        ("--log-opt max-file=0", "invalid value for max-file: 0"),
        ("--log-opt tag=x", "unknown log opt 'tag=x'"),
        ("--log-driver syslog", "[possible values: json-file, none]"),
        ("--expose x", "invalid range format for --expose: x"),
        ("--env-file /no/such/file", "--env-file /no/such/file: the file can't be read"),
        ("--stop-signal NOPE", "invalid signal: NOPE"),
        ("--name -x", "unexpected argument '-x'"),
        ("--name a/b", "invalid name (a/b)"),
    ] {
        let error = config(line).expect_err(line);
        assert!(error.contains(words), "{line}: {error}");
    }
}
