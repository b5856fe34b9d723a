use std::collections::BTreeMap;
use std::time::Duration;

use runtime::{Health, HealthStatus, Status, Summary};

use super::*;

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)
}

fn ago(seconds: u64) -> SystemTime {
    now() - Duration::from_secs(seconds)
}

fn state(status: Status) -> State {
    let summary = Summary {
        id: "0123456789abcdef".repeat(4),
        name: "web".to_owned(),
        image: "nginx".to_owned(),
        image_id: format!("sha256:{}", "ab".repeat(32)),
        command: ["nginx", "-g", "daemon \"off\";"].map(str::to_owned).to_vec(),
        created: ago(120),
        labels: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
        ports: Vec::new(),
        mounts: vec!["data".to_owned(), "/srv".to_owned()],
        networks: vec!["bridge".to_owned()],
    };
    State {
        status,
        summary,
        started: Some(ago(100)),
        finished: Some(ago(7200)),
        exit_code: 137,
        oom_killed: false,
        error: String::new(),
        restart_count: 0,
        stopped_by_user: false,
        supervisor_pid: None,
        vmm: None,
        health: None,
        endpoints: Vec::new(),
        warm: false,
    }
}

#[test]
fn status_is_said_in_dockers_words() {
    for (status, words) in [
        (Status::Created, "Created"),
        (Status::Running, "Up About a minute"),
        (Status::Paused, "Up About a minute (Paused)"),
        (Status::Restarting, "Restarting (137) 2 hours ago"),
        (Status::Removing, "Removal In Progress"),
        (Status::Exited, "Exited (137) 2 hours ago"),
        (Status::Dead, "Dead"),
    ] {
        assert_eq!(status::in_words(&state(status), now()), words);
    }
    for (health, words) in [
        (HealthStatus::Starting, "Up About a minute (health: starting)"),
        (HealthStatus::Healthy, "Up About a minute (healthy)"),
        (HealthStatus::Unhealthy, "Up About a minute (unhealthy)"),
    ] {
        let health = Some(Health { status: health, ..Health::default() });
        let state = State { health, ..state(Status::Running) };
        assert_eq!(status::in_words(&state, now()), words);
    }
}

#[test]
fn table_is_dockers() {
    let rows = [row(&state(Status::Running), false, now())];
    let expected = "\
        CONTAINER ID   IMAGE     COMMAND                   CREATED         STATUS              PORTS     NAMES\n\
        0123456789ab   nginx     \"nginx -g daemon \\\"of…\"   2 minutes ago   Up About a minute             web\n";
    assert_eq!(COLUMNS.render(&rows, None).unwrap(), expected);
}

#[test]
fn fields_that_scripts_use_are_there() {
    let rows = [row(&state(Status::Exited), true, now())];
    for (format, expected) in [
        ("{{.Names}}", "web"),
        ("{{.Command}}", "\"nginx -g daemon \\\"off\\\";\""),
        ("{{.State}}|{{.LocalVolumes}}|{{.Mounts}}|{{.Networks}}", "exited|1|data,/srv|bridge"),
        ("{{.Label \"a\"}} {{.Labels}}", "b a=b"),
        ("{{len .ID}}", "64"),
    ] {
        assert_eq!(COLUMNS.render(&rows, Some(format)).unwrap().trim_end(), expected, "{format}");
    }
}

#[test]
fn every_field_has_a_title() {
    let row = row(&state(Status::Running), false, now());
    let titled: Vec<_> = COLUMNS.titles.iter().map(|(key, _)| *key).collect();
    let fields = row.as_object().unwrap().keys().filter(|key| !key.starts_with('\0'));
    for key in fields {
        assert!(titled.contains(&key.as_str()), "{key}");
    }
}

#[test]
fn identifiers_of_images_are_shortened() {
    let mut state = state(Status::Running);
    state.summary.image = state.summary.image_id.clone();
    assert_eq!(image(&state.summary, false), "abababababab");
    state.summary.image = "ab".repeat(32);
    assert_eq!(image(&state.summary, false), "abababababab");
    assert_eq!(image(&state.summary, true), "ab".repeat(32));
}
