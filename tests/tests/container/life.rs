//! What containers get, keep and leave: files, signals, limits, exit codes.

use std::fs;

use anyhow::{Context, Result, ensure};
use integration_tests::containers::finish;
use integration_tests::transfer::{random_bytes, sha256};

use crate::support::host;

#[test]
fn exit_codes_are_dockers() -> Result<()> {
    let host = host()?;
    host.ok("pull busybox")?;
    for (command, code) in
        [("true", 0), ("/no/such/program", 127), ("/etc/passwd", 126), ("/etc", 126)]
    {
        let said = host.say(&format!("run --rm busybox {command}"))?;
        ensure!(said.code == code, "{command}: {said:#?}");
    }
    for (script, code) in [("exit 7", 7), ("sh -c 'kill -KILL $$'; exit $?", 137)] {
        let said = finish(&mut host.command(["run", "--rm", "busybox", "sh", "-c", script]), b"")?;
        ensure!(said.code == code, "{script}: {said:#?}");
    }
    ensure!(host.ok("ps --all --quiet")?.is_empty());
    Ok(())
}

#[test]
fn container_whose_kernel_panics_is_lost_for_a_reason() -> Result<()> {
    let host = host()?;
    host.ok("pull busybox")?;
    let mut run = host.command(["run", "--rm", "--privileged", "busybox", "sh", "-c"]);
    let said = finish(run.arg("echo c >/proc/sysrq-trigger"), b"")?;
    ensure!(said.code == 137, "{said:#?}");
    ensure!(said.err == "error: the guest's kernel panicked\n", "{said:#?}");
    Ok(())
}

#[test]
fn processes_get_the_signals_that_they_wait_for() -> Result<()> {
    let host = host()?;
    host.ok("pull busybox")?;
    let script = "grep SigBlk /proc/self/status; trap 'echo told; exit 5' TERM; \
                  while :; do sleep 1 & wait; done";
    for (name, flags) in [("plain", &[][..]), ("with-init", &["--init"][..])] {
        let mut run = host.command(["run", "-d", "--name", name]);
        run.args(flags).args(["busybox", "sh", "-c", script]);
        let said = finish(&mut run, b"")?;
        ensure!(said.code == 0, "{said:#?}");
        let blocked = host.shell(name, "grep SigBlk /proc/self/status")?;
        ensure!(blocked.trim() == "SigBlk:\t0000000000000000", "{blocked}");
        host.ok(&format!("stop --time 300 {name}"))?;
        let code = host.ok(&format!("inspect --format {{{{.State.ExitCode}}}} {name}"))?;
        ensure!(code.trim() == "5", "{name}: {code}");
        let log = host.ok(&format!("logs {name}"))?;
        ensure!(log.lines().collect::<Vec<_>>() == [blocked.trim(), "told"], "{log}");
    }
    Ok(())
}

#[test]
fn files_of_a_container_that_doesnt_run_are_there() -> Result<()> {
    let host = host()?;
    host.ok("pull busybox")?;
    host.ok("create --name job busybox cat /input")?;
    let (input, output) = (host.path("input"), host.path("output"));
    fs::write(&input, "from the host")?;
    host.ok(&format!("cp {} job:/input", input.display()))?;
    ensure!(host.ok("inspect --format {{.State.Status}} job")? == "created\n");
    ensure!(host.ok("start --attach job")? == "from the host");
    host.ok(&format!("cp job:/input {}", output.display()))?;
    ensure!(fs::read_to_string(output)? == "from the host");
    let changes = host.ok("diff job")?;
    ensure!(changes.lines().any(|line| line == "A /input"), "{changes}");
    host.ok("commit job with-input")?;
    ensure!(host.ok("run --rm with-input cat /input")? == "from the host");
    ensure!(host.ok("inspect --format {{.State.Status}} job")? == "exited\n");
    host.fails("cp job:/none /tmp/none", 1)?;
    host.ok("rm job")?;
    host.ok("rmi with-input")?;
    Ok(())
}

#[test]
fn bytes_go_through_unharmed() -> Result<()> {
    let host = host()?;
    host.ok("pull busybox")?;
    let bytes = random_bytes(4 << 20)?;
    let hash = sha256(&bytes)?;
    let said = finish(&mut host.command(["run", "--rm", "-i", "busybox", "sha256sum"]), &bytes)?;
    ensure!(said.out.starts_with(&hash), "{said:#?}");
    Ok(())
}

#[test]
fn container_has_what_the_flags_say() -> Result<()> {
    let host = host()?;
    host.ok("pull busybox")?;
    let shared = host.path("shared");
    fs::create_dir_all(&shared)?;
    fs::write(shared.join("from-host"), "host")?;
    let volume = format!("{}:/shared", shared.display());
    let script = "cat /shared/from-host; echo guest >/shared/from-guest; id -u; pwd; hostname; \
                  echo $NAME; cat /sys/fs/cgroup/memory.max; touch /file 2>&1; df -h /tmp | tail -1";
    let mut command = host.command(["run", "--rm", "-v", &volume, "-u", "www-data", "-w", "/tmp"]);
    command.args(["--hostname", "box", "-e", "NAME=value", "-m", "64m", "--read-only"]);
    command.args(["--tmpfs", "/tmp", "busybox", "sh", "-c", script]);
    fs::set_permissions(&shared, std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
    let said = finish(&mut command, b"")?;
    let lines: Vec<_> = said.out.lines().collect();
    ensure!(lines[..5] == ["host33", "/tmp", "box", "value", "67108864"], "{said:#?}");
    ensure!(lines[5].contains("Read-only file system"), "{said:#?}");
    ensure!(fs::read_to_string(shared.join("from-guest"))? == "guest\n");
    Ok(())
}

#[test]
fn container_outlives_who_started_it_and_is_found_by_its_names() -> Result<()> {
    let host = host()?;
    host.ok("pull busybox")?;
    let id = host.ok("run -d --name long --label a=b busybox sleep 1000")?;
    let state = host.ok("inspect --format {{.State.Status}} long")?;
    ensure!(state == "running\n", "{state}");
    ensure!(host.ok(&format!("inspect --format {{{{.Name}}}} {}", &id[..6]))? == "/long\n");
    ensure!(host.ok("ps -q --filter label=a=b")?.trim() == &id[..12]);
    let error = host.fails("run --name long busybox true", 125)?;
    ensure!(error.contains("already in use"), "{error}");

    host.shell("long", "echo kept >/kept")?;
    host.ok(&format!("cp long:/kept {}", host.path("kept").display()))?;
    ensure!(fs::read_to_string(host.path("kept"))? == "kept\n");
    let changes = host.ok("diff long")?;
    ensure!(changes.contains("A /kept"), "{changes}");
    host.ok("pause long")?;
    ensure!(host.ok("ps")?.contains("(Paused)"));
    host.ok("unpause long")?;
    host.ok("rename long longer")?;
    host.ok("commit longer kept:1")?;
    host.ok("kill longer")?;
    ensure!(host.ok("wait longer")?.trim() == "137");
    ensure!(host.ok("run --rm kept:1 cat /kept")? == "kept\n");
    host.ok("rm longer")?;
    host.ok("rmi kept:1")?;
    Ok(())
}

#[test]
fn supervisor_that_was_killed_leaves_nothing_behind() -> Result<()> {
    let host = host()?;
    host.ok("pull busybox")?;
    host.ok("run -d --name victim busybox sleep 1000")?;
    let pid = host.ok("inspect --format {{.State.Pid}} victim")?;
    let pid: u32 = pid.trim().parse().context("a process id")?;
    let parent = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let parent: u32 = parent.rsplit(") ").next().context("a stat line")?[2..]
        .split(' ')
        .next()
        .context("a parent")?
        .parse()?;
    integration_tests::vm::signal_process(parent, rustix::process::Signal::KILL)?;
    ensure!(
        integration_tests::vm::wait_process(pid, integration_tests::PATIENCE)?,
        "the VMM outlives its supervisor"
    );
    let all = host.ok("ps -a")?;
    ensure!(all.contains("Exited ("), "{all}");
    host.ok("start victim")?;
    ensure!(host.ok("ps")?.contains("victim"));
    host.ok("rm -f victim")?;
    let taps = integration_tests::network::ip(&["-brief", "link"])?;
    ensure!(!taps.contains("vmt"), "TAPs are left: {taps}");
    Ok(())
}
