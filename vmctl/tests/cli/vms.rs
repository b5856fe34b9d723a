//! `vmctl vm` over VMs whose VMM is a script, and whose API a thread of the test serves.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use api::event::Event;
use api::http::{EventHub, Reply, Server, ServerHandle, VmmService};
use api::v1::{InstanceInfo, InstanceState};
use api::{VmmAction, VmmData};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::support::{Host, VM_CREATED, lines, stderr, stdout, vmctl, wait_for_line};

/// A VMM that enters its kernel and then stays.
const STAYS: &str = r#"echo '{"event":"kernel_entered","monotonic_ns":1}' >&4; exec sleep 1000"#;

/// Answers as a VMM would, and notes what it was asked.
struct Service {
    state: Mutex<InstanceState>,
    asked: Mutex<Vec<&'static str>>,
}

impl VmmService for Service {
    fn submit(&self, action: VmmAction, reply: Reply) {
        let mut state = self.state.lock().unwrap();
        self.asked.lock().unwrap().push(action.name());
        match action {
            VmmAction::Pause => *state = InstanceState::Paused,
            VmmAction::Resume => *state = InstanceState::Running,
            _ => {}
        }
        reply.send(Ok(match action {
            VmmAction::GetInstanceInfo => VmmData::InstanceInfo(InstanceInfo {
                app_name: "test".to_owned(),
                id: "test".to_owned(),
                state: *state,
                vmm_version: "1".to_owned(),
            }),
            VmmAction::GetVmConfig => VmmData::VmConfig(Box::default()),
            VmmAction::GetMetrics => {
                VmmData::Metrics("# TYPE x counter\nx{a=\"b\"} 3\n".to_owned())
            }
            _ => VmmData::Empty,
        }));
    }
}

/// A detached VM, killed when this is dropped.
struct Vm {
    host: Host,
    id: String,
}

impl Vm {
    fn boot(name: &str) -> Self {
        let host = Host::with_vmm(STAYS);
        let output = host.boot(&["--detach", "--name", name, "--memory", "128M"]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        Self { id: stdout(&output).trim().to_owned(), host }
    }

    /// Runs `vmctl` with these words; returns the exit code and both outputs.
    fn vmctl(&self, line: &str) -> (Option<i32>, String, String) {
        let words: Vec<_> = line.split_whitespace().collect();
        let output = self.host.vmctl(&words).stdin(Stdio::null()).output().unwrap();
        (output.status.code(), stdout(&output), stderr(&output))
    }

    fn json(&self, line: &str) -> Value {
        let (code, stdout, stderr) = self.vmctl(line);
        assert_eq!(code, Some(0), "{line}: {stderr}");
        serde_json::from_str(&stdout).unwrap()
    }

    fn serve(&self) -> (ServerHandle, Arc<Service>, Arc<EventHub>) {
        let socket = self.host.path("run/vms").join(&self.id).join("api.sock");
        let (state, asked) = (Mutex::new(InstanceState::Running), Mutex::default());
        let service = Arc::new(Service { state, asked });
        let hub = Arc::new(EventHub::default());
        let server = Server::bind(&socket).unwrap();
        let handle = server.spawn(Arc::clone(&service) as _, Arc::clone(&hub)).unwrap();
        (handle, service, hub)
    }

    fn pid(&self) -> Option<Pid> {
        let record = self.host.path("run/vms").join(&self.id).join("vm.json");
        let record: Value = serde_json::from_slice(&fs::read(record).ok()?).ok()?;
        Pid::from_raw(i32::try_from(record["process"]["pid"].as_i64()?).ok()?)
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        if let Some(pid) = self.pid() {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

#[test]
fn detached_vm_outlives_its_vmctl_and_is_listed_with_documented_fields() {
    let vm = Vm::boot("web");
    assert_eq!(vm.id.len(), 12);
    let (_handle, ..) = vm.serve();
    let list = vm.json("vm ls --json");
    let row = &list[0];
    let expected = serde_json::json!({
        "id": vm.id, "name": "web", "status": "running", "vcpus": 1, "mem_mib": 128,
        "foreground": false, "pid": row["pid"], "uptime_ms": row["uptime_ms"],
        "created_unix_ms": row["created_unix_ms"], "api_socket": row["api_socket"],
    });
    assert_eq!(*row, expected);
    assert!(row["pid"].is_number() && row["uptime_ms"].is_number());
    let (_, table, _) = vm.vmctl("vm ls");
    let head: Vec<_> = table.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(head, ["ID", "NAME", "STATUS", "CPUS", "MEMORY", "UPTIME"]);
    let inspected = vm.json(&format!("vm inspect {}", &vm.id[..6]));
    assert_eq!(inspected[0]["config"]["console"]["mode"], "socket");
    assert_eq!(inspected[0]["status"], "running");
}

#[test]
fn requests_reach_the_vmm_and_answers_are_printed() {
    let vm = Vm::boot("web");
    let (_handle, service, hub) = vm.serve();
    assert_eq!(vm.json("vm pause web --json")["status"], "paused");
    assert_eq!(vm.json("vm resume web --json")["status"], "running");
    assert_eq!(vm.json("vm metrics web --json")["x{a=\"b\"}"], 3.0);
    hub.publish(&Event::VmCreated { monotonic_ns: 7 });
    let (_, events, _) = vm.vmctl("vm events web");
    assert_eq!(events, "{\"event\":\"vm_created\",\"monotonic_ns\":7}\n");
    let (code, out, _) = vm.vmctl("vm attach web --disk /tmp/a.img,ro");
    assert_eq!((code, out.as_str()), (Some(0), "disk0\n"));
    let asked = service.asked.lock().unwrap().join(" ");
    for action in ["pause", "resume", "get_metrics", "hotplug_drive"] {
        assert!(asked.split(' ').any(|word| word == action), "{asked} lacks {action}");
    }
}

#[test]
fn snapshot_pauses_saves_and_resumes() {
    let vm = Vm::boot("web");
    let (_handle, service, _) = vm.serve();
    let files = vm.json("vm snapshot web saved --json");
    assert_eq!(files["resumed"], true);
    assert!(Path::new(files["dir"].as_str().unwrap()).join("config.json").exists());
    let asked = service.asked.lock().unwrap().clone();
    let place = |action| asked.iter().position(|name| *name == action).unwrap();
    assert!(place("pause") < place("create_snapshot"));
    assert!(place("create_snapshot") < place("resume"));
}

#[test]
fn vmm_that_does_not_answer_is_unresponsive_and_can_be_killed_and_forgotten() {
    let vm = Vm::boot("web");
    assert_eq!(vm.json("vm ls --json")[0]["status"], "unresponsive");
    let (code, _, stderr) = vm.vmctl("vm pause web");
    assert_eq!(code, Some(1));
    assert!(stderr.contains("hint: vmctl vm inspect web"), "{stderr}");
    let (code, _, stderr) = vm.vmctl("vm rm web");
    assert_eq!(code, Some(1));
    assert!(stderr.contains("error: web still runs\nhint: vmctl vm stop web"), "{stderr}");
    assert_eq!(vm.json("vm kill web --json")["status"], "killed");
    let (code, _, stderr) = vm.vmctl("vm pause web");
    assert_eq!(code, Some(1));
    assert!(stderr.starts_with("error: web isn't running: it's killed\nhint: "), "{stderr}");
    assert_eq!(vm.vmctl("vm rm web").0, Some(0));
    assert_eq!(vm.json("vm ls --json"), serde_json::json!([]));
}

#[test]
fn stop_of_a_vmm_without_an_api_is_a_signal() {
    let vm = Vm::boot("web");
    assert_eq!(vm.vmctl("vm stop web --timeout 5").0, Some(0));
    assert_eq!(vm.json("vm ls --json")[0]["status"], "crashed", "it left no last word");
    assert_eq!(vm.vmctl("vm prune"), (Some(0), "web\n".to_owned(), String::new()));
}

#[test]
fn foreground_vm_says_what_another_vmctl_does_to_it() {
    let script = format!(
        r#"{VM_CREATED}
        echo '{{"event":"paused","monotonic_ns":2}}' >&4
        echo '{{"event":"resumed","monotonic_ns":3}}' >&4
        exec sleep 1000"#
    );
    for end in [&["vm", "kill", "web"][..], &["vm", "rm", "--force", "web"]] {
        let host = Host::with_vmm(&script);
        let boot = ["boot", "--kernel", "k", "--name", "web"];
        let mut command = host.vmctl(&boot);
        let mut vmctl = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = lines(vmctl.stderr.take().unwrap());
        wait_for_line(&mut stderr, "The VM was paused; vmctl vm resume web lets it go on.");
        wait_for_line(&mut stderr, "The VM goes on.");
        assert!(host.vmctl(end).stdout(Stdio::null()).status().unwrap().success());
        wait_for_line(&mut stderr, "error: the VM was ended by another vmctl (vm kill");
        assert_eq!(vmctl.wait().unwrap().code(), Some(1));
        assert_eq!(fs::read_dir(host.path("run/vms")).unwrap().count(), 0);
    }
}

#[test]
fn name_in_use_and_name_of_nobody_are_told_with_what_there_is() {
    let vm = Vm::boot("web");
    let output = vm.host.boot(&["--detach", "--name", "web"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).starts_with("error: there's a VM called web already"));
    let (code, _, stderr) = vm.vmctl("vm pause wbe");
    assert_eq!(code, Some(1));
    assert_eq!(stderr, "error: there's no VM called wbe\nhint: running ones: web\n");
    assert_eq!(vm.vmctl("boot --kernel k -d --name a/b").0, Some(2));
}

#[test]
fn detached_boot_that_fails_is_told_as_in_the_foreground_and_leaves_nothing() {
    let failed = r#"echo '{"event":"failed","error":{"kind":"kernel_missing","message":"not there"}}' >&4; exit 1"#;
    for (script, words) in [
        (failed, "error: --kernel k: not there\n"),
        ("exit 7", "error: the vmm process ended unexpectedly: exit status: 7"),
    ] {
        let host = Host::with_vmm(script);
        let output = host.boot(&["--detach"]);
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).starts_with(words), "{}", stderr(&output));
        assert_eq!(fs::read_dir(host.path("run/vms")).unwrap().count(), 0);
    }
}

#[test]
fn completion_and_manual_cover_every_command() {
    let dir = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = vmctl(dir.path(), &["completion", shell]).output().unwrap();
        assert!(stdout(&output).contains("prune"), "{shell}");
    }
    assert!(vmctl(dir.path(), &["man", "pages"]).status().unwrap().success());
    for page in ["vmctl", "vmctl-boot", "vmctl-clone", "vmctl-vm-ls", "vmctl-snapshot-merge"] {
        let text = fs::read_to_string(dir.path().join(format!("pages/{page}.1"))).unwrap();
        assert!(text.contains(".SH SYNOPSIS"), "{page}");
    }
}
