//! `vmctl boot` from the VMM's side: what it passes on, and what it makes of every end.

use std::fs;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Stdio};

use super::support::{
    Host, VM_CREATED, lines, run_with_input, signal_teller, stderr, stdout, stopped, wait_for_line,
};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

#[test]
fn each_end_of_the_vm_has_its_exit_code() {
    for (reason, code, words) in [
        ("power_off", 0, ""),
        ("reset", 0, ""),
        ("guest_panic", 3, "error: the guest's kernel panicked (exit code 3)\nhint: "),
        ("triple_fault", 3, "error: the guest's CPU took a triple fault"),
        ("deadline", 1, "error: the guest didn't power off in time"),
        ("killed", 1, "error: the VM was ended by a request to its API"),
    ] {
        let output = Host::with_vmm(&format!("{VM_CREATED}\n{}", stopped(reason))).boot(&[]);
        assert_eq!(output.status.code(), Some(code), "{reason}: {}", stderr(&output));
        assert!(stderr(&output).starts_with(words), "{reason}: {}", stderr(&output));
        assert_eq!(stderr(&output).is_empty(), words.is_empty(), "{reason}");
    }
}

#[test]
fn failure_is_told_with_flag_causes_and_hint() {
    for (error, arguments, code, expected) in [
        (
            r#"{"kind":"disk_in_use","field":"drives[1].path_on_host","message":"can not attach it","causes":["locked"]}"#,
            &["--disk", "a.img", "--disk", "b.img,ro"][..],
            1,
            "error: --disk b.img,ro: can not attach it\ncaused by: locked\nhint: another VM has",
        ),
        (
            r#"{"kind":"kernel_missing","message":"not there"}"#,
            &[],
            1,
            "error: --kernel k: not there\n",
        ),
        (
            r#"{"kind":"kvm_denied","message":"may not"}"#,
            &[],
            1,
            "error: may not\nhint: join the group",
        ),
        (r#"{"kind":"config_invalid","message":"wrong"}"#, &[], 2, "error: wrong\n"),
        (r#"{"kind":"from_the_future","message":"odd"}"#, &[], 1, "error: odd\n"),
    ] {
        let script = format!(r#"echo '{{"event":"failed","error":{error}}}' >&4; exit 1"#);
        let output = Host::with_vmm(&script).boot(arguments);
        assert_eq!(output.status.code(), Some(code), "{error}: {}", stderr(&output));
        assert!(stderr(&output).starts_with(expected), "{error}: {}", stderr(&output));
    }
}

#[test]
fn vmm_that_dies_without_a_word_is_an_error_with_its_status() {
    for (script, words) in [
        ("exit 7", "ended unexpectedly: exit status: 7"),
        ("kill -KILL $$", "ended unexpectedly: signal: 9 (SIGKILL)"),
        ("echo nonsense >&4; exit 0", "ended unexpectedly: exit status: 0"),
    ] {
        let output = Host::with_vmm(script).boot(&[]);
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains(words), "{}", stderr(&output));
    }
}

#[test]
fn missing_vmm_is_told_with_where_it_was_looked_for() {
    let host = Host::with_vmm("exit 0");
    fs::remove_file(host.path("vmm")).unwrap();
    let output = host.boot(&[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("VMCTL_VMM="), "{}", stderr(&output));
    assert!(stderr(&output).contains("hint: vmm is built and installed beside vmctl"));
}

#[test]
fn vmm_gets_the_checked_configuration_and_the_flags_that_are_its_own() {
    let script = format!("echo \"$@\" >args; cat /proc/self/fd/3 >config; {}", stopped("reset"));
    let host = Host::with_vmm(&script);
    let output = host.boot(&["--disk", "a.img", "--shutdown-timeout", "7", "-vv"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let arguments = fs::read_to_string(host.path("args")).unwrap();
    let words: Vec<_> = arguments.split_whitespace().collect();
    let value = |flag| {
        let place = words.iter().position(|word| *word == flag).unwrap_or_else(|| panic!("{flag}"));
        words[place + 1]
    };
    assert_eq!(value("--config-file"), "/proc/self/fd/3");
    assert_eq!((value("--status-fd"), value("--shutdown-timeout")), ("4", "7"));
    assert_eq!(value("--level"), "debug");
    let dir = host.path("run/vms").join(value("--id"));
    assert_eq!(value("--api-sock"), dir.join("api.sock").to_str().unwrap());
    assert_eq!(value("--event-log"), dir.join("events").to_str().unwrap());
    assert!(!words.contains(&"--outlive-parent"));
    assert!(!dir.exists(), "nothing is left of a VM that ended in the foreground");
    let config: serde_json::Value =
        serde_json::from_slice(&fs::read(host.path("config")).unwrap()).unwrap();
    assert_eq!(config["drives"][0]["drive_id"], "disk0");
}

#[test]
fn vmm_gets_each_descriptor_once_and_none_of_vmctls_own() {
    let script =
        format!("for fd in /proc/$$/fd/*; do readlink $fd; done >fds; {}", stopped("reset"));
    let host = Host::with_vmm(&format!("readlink /proc/$$/fd/4 >status\n{script}"));
    host.boot(&[]);
    let status = fs::read_to_string(host.path("status")).unwrap();
    let all = fs::read_to_string(host.path("fds")).unwrap();
    let count = |words: &str| all.lines().filter(|target| target.contains(words)).count();
    assert_eq!((count("memfd:vm-config"), count(status.trim())), (1, 1), "{all}");
    assert_eq!(count("pidfd"), 0, "{all}");
}

#[test]
fn input_passes_through_whole_and_its_end_closes_the_consoles() {
    let script = format!("{VM_CREATED}; cat; {}", stopped("power_off"));
    let host = Host::with_vmm(&script);
    // More than a pipe holds, with bytes that would be escape sequences on a terminal.
    let input: Vec<u8> = (0..300_000_u32).map(|number| (number % 251) as u8).collect();
    let output = run_with_input(&mut host.vmctl(&["boot", "--kernel", "k"]), &input);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(output.stdout == input, "{} bytes came back", output.stdout.len());
}

#[test]
fn console_that_is_no_stdio_gets_no_input() {
    let script = format!("{VM_CREATED}; cat; {}", stopped("power_off"));
    let host = Host::with_vmm(&script);
    let arguments = ["boot", "--kernel", "k", "--console", "none"];
    let output = run_with_input(&mut host.vmctl(&arguments), b"typed");
    assert_eq!((output.status.code(), stdout(&output)), (Some(0), String::new()));
}

#[test]
fn timeline_has_every_event_and_vmctls_own_start() {
    let host = Host::with_vmm(&format!("{VM_CREATED}; {}", stopped("reset")));
    let output = host.boot(&["--timeline", "times.jsonl"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = fs::read_to_string(host.path("times.jsonl")).unwrap();
    let events: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names: Vec<_> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(names, ["command_started", "vm_created", "stopped"]);
    assert!(events[0]["monotonic_ns"].as_u64().unwrap() > 0);
}

#[test]
fn timeline_that_cannot_be_written_is_named_before_anything_starts() {
    let host = Host::with_vmm("touch started");
    let output = host.boot(&["--timeline", "no/such/dir"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).starts_with("error: --timeline no/such/dir: "));
    assert!(!host.path("started").exists());
}

/// At SIGINT: the last word, and the end.
const STOP: &str = r#"
    syswrite($status, "{\"event\":\"stopped\",\"reason\":\"killed\",\"monotonic_ns\":2}\n");
    POSIX::_exit(1);
"#;

fn start(host: &Host) -> Child {
    host.vmctl(&["boot", "--kernel", "k"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

#[test]
fn first_signal_asks_the_guest_and_the_second_ends_the_vm() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let host = Host::with_vmm(&signal_teller(STOP, ""));
        let mut child = start(&host);
        let mut output = lines(child.stdout.take().unwrap());
        wait_for_line(&mut output, "ready");
        send(&child, signal);
        wait_for_line(&mut output, "got TERM");
        send(&child, signal);
        wait_for_line(&mut output, "got INT");
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).starts_with("error: the VM was ended before"));
    }
}

#[test]
fn vmm_that_ignores_everything_is_killed_and_none_stays_behind() {
    let host = Host::with_vmm(&signal_teller("", ""));
    let mut child = start(&host);
    let mut output = lines(child.stdout.take().unwrap());
    let line = wait_for_line(&mut output, "ready");
    let pid: i32 = line.trim().trim_start_matches("ready, pid ").parse().unwrap();
    for answer in ["got TERM", "got INT"] {
        send(&child, Signal::TERM);
        wait_for_line(&mut output, answer);
    }
    send(&child, Signal::TERM);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).starts_with("error: the VM was ended before"), "{}", stderr(&output));
    assert!(test_kill_process(Pid::from_raw(pid).unwrap()).is_err());
}

#[test]
fn signal_before_the_vmm_handles_any_ends_it() {
    let host = Host::with_vmm("echo ready; read -r line");
    let mut child = start(&host);
    let mut output = lines(child.stdout.take().unwrap());
    wait_for_line(&mut output, "ready");
    send(&child, Signal::TERM);
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.status.signal()), (Some(1), None));
}

#[test]
fn input_that_the_guest_does_not_read_stalls_nothing() {
    let script = format!("{VM_CREATED}; echo ready; exec 0<&-; {}", stopped("power_off"));
    let host = Host::with_vmm(&script);
    let mut child = start(&host);
    let mut stdin = child.stdin.take().unwrap();
    // The pipe may break half-way: that's the point.
    let _ = stdin.write_all(&vec![b'x'; 1 << 20]);
    drop(stdin);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(0));
}
