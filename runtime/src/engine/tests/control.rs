use super::*;
use crate::ErrorKind;
use crate::config::{LogConfig, LogDriver};
use crate::logs::LogWriter;
use crate::options::{LogOptions, OutputStream};

#[test]
fn stop_says_its_signal_and_leaves_what_does_not_run_alone() {
    let host = Host::new();
    let supervisor = host.run("one");
    host.engine.stop("one", Some("SIGINT"), Some(3)).unwrap();
    let asked = supervisor.asked();
    assert_eq!(asked, [Request::Stop { signal: Some(2), timeout_s: Some(3) }]);
    host.engine.stop("one", None, None).unwrap();
    host.engine.stop("one", Some("NOTHING"), None).unwrap_err();
    assert_eq!(host.actions()[2..], ["container kill", "container stop"]);
}

#[test]
fn signals_reach_the_process_and_a_kill_is_for_good() {
    let host = Host::new();
    let supervisor = host.run("one");
    host.engine.kill("one", Some("HUP")).unwrap();
    host.engine.kill("one", None).unwrap();
    let asked = supervisor.asked();
    assert_eq!(asked[0], Request::Signal(1));
    assert_eq!(asked[1], Request::Stop { signal: Some(9), timeout_s: Some(0) });
    let error = host.engine.kill("one", None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("is not running"), "{error}");
}

#[test]
fn paused_container_goes_on_and_nothing_is_paused_twice() {
    let host = Host::new();
    let supervisor = host.run("one");
    host.engine.unpause("one").unwrap_err();
    host.engine.pause("one").unwrap();
    assert_eq!(host.state(&supervisor.id).status, Status::Paused);
    assert_eq!(host.engine.pause("one").unwrap_err().kind(), ErrorKind::Conflict);
    let error = host.engine.top("one").unwrap_err();
    assert!(error.to_string().contains("paused"), "{error}");
    host.engine.unpause("one").unwrap();
    assert_eq!(host.state(&supervisor.id).status, Status::Running);
    host.engine.stop("one", None, None).unwrap();
    supervisor.asked();
    host.engine.pause("one").unwrap_err();
}

#[test]
fn waiters_get_the_exit_code_at_the_end_and_after_it() {
    let host = Host::new();
    let supervisor = host.run("one");
    std::thread::scope(|scope| {
        let waits = [(); 2].map(|()| scope.spawn(|| host.engine.wait("one").unwrap()));
        host.engine.stop("one", None, None).unwrap();
        for wait in waits {
            assert_eq!(wait.join().unwrap(), 143);
        }
    });
    supervisor.asked();
    assert_eq!(host.engine.wait("one").unwrap(), 143);
}

#[test]
fn running_container_is_removed_by_force_only() {
    let host = Host::new();
    let supervisor = host.run("one");
    let paths = host.engine.store.paths(&supervisor.id);
    let error = host.engine.remove("one", false, false).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    host.engine.remove("one", true, false).unwrap();
    supervisor.asked();
    assert!(!paths.data.exists() && !paths.run.exists());
    assert_eq!(host.engine.volumes().unwrap().len(), 1, "volumes stay unless said");
    assert!(matches!(host.engine.remove("one", true, true), Err(RuntimeError::NotFound { .. })));
    assert_eq!(host.actions().last().unwrap(), "container destroy");
}

#[test]
fn supervisor_that_does_not_listen_is_killed_with_its_container() {
    let host = Host::new();
    let id = host.create("one");
    let paths = host.engine.store.paths(&id);
    crate::paths::make_dir(&paths.run).unwrap();
    // It holds the lock as a supervisor does, and answers nothing.
    let mut child = std::process::Command::new("flock")
        .args(["--no-fork", paths.life_lock().to_str().unwrap(), "sh", "-c"])
        .arg("echo locked; exec sleep 1000")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut out, &mut line).unwrap();
    let pid = child.id();
    host.engine
        .store
        .update(&id, |state| {
            state.status = Status::Running;
            state.supervisor_pid = Some(pid);
        })
        .unwrap();
    assert_eq!(host.names(false, &[]), ["one"]);
    host.engine.remove("one", true, true).unwrap();
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    assert!(!paths.data.exists());
}

#[test]
fn anonymous_volumes_go_with_their_container_when_that_is_wanted() {
    let host = Host::new();
    let mut config = host.config("one");
    config.mounts = vec![crate::MountSpec {
        source: Some("named".to_owned()),
        target: "/named".to_owned(),
        ..crate::MountSpec::default()
    }];
    host.engine.create(&config).unwrap();
    assert_eq!(host.engine.volumes().unwrap().len(), 2);
    host.engine.remove("one", false, true).unwrap();
    let left: Vec<_> = host.engine.volumes().unwrap().into_iter().map(|it| it.name).collect();
    assert_eq!(left, ["named"]);
}

#[test]
fn new_name_takes_the_place_of_the_old_one() {
    let host = Host::new();
    let id = host.create("one");
    host.create("two");
    host.engine.rename("one", "three").unwrap();
    assert_eq!(host.engine.find("three").unwrap().0.id, id);
    host.engine.find("one").unwrap_err();
    assert_eq!(host.engine.rename("three", "two").unwrap_err().kind(), ErrorKind::NameInUse);
    assert_eq!(host.engine.rename("three", "a/b").unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(host.names(true, &[]), ["two", "three"]);
}

#[test]
fn log_is_read_while_and_after_the_container_runs() {
    let host = Host::new();
    let supervisor = host.run("one");
    let path = host.engine.store.paths(&supervisor.id).log();
    let mut log = LogWriter::open(&path, None).unwrap();
    log.write(OutputStream::Stdout, b"hello\n").unwrap();
    let options = LogOptions { follow: true, stdout: true, stderr: true, ..LogOptions::default() };
    let mut reader = host.engine.logs("one", &options).unwrap();
    assert_eq!(reader.next().unwrap().unwrap().text, "hello\n");
    log.write(OutputStream::Stderr, b"bye\n").unwrap();
    assert_eq!(reader.next().unwrap().unwrap().text, "bye\n");
    host.engine.stop("one", None, None).unwrap();
    assert!(reader.next().is_none());
    supervisor.asked();
    assert_eq!(host.engine.logs("one", &options).unwrap().count(), 2);

    let mut config = host.config("silent");
    config.log = LogConfig { driver: LogDriver::None, ..LogConfig::default() };
    host.engine.create(&config).unwrap();
    host.engine.logs("silent", &options).unwrap_err();
    host.create("never-started");
    assert_eq!(host.engine.logs("never-started", &options).unwrap().count(), 0);
}

#[test]
fn what_needs_a_running_container_says_so() {
    let host = Host::new();
    host.create("one");
    for error in [host.engine.top("one").unwrap_err(), host.engine.kill("one", None).unwrap_err()] {
        assert!(error.to_string().contains("one is not running"), "{error}");
    }
    let stats = host.engine.stats("one").unwrap();
    assert_eq!((stats.name.as_str(), stats.pids), ("one", 0));
}
