//! What's wrong with a command line or a file is told with the flag and the value, before anything
//! is started: exit code 2.

use std::fs;
use std::process::Output;

use super::support::{Host, stderr, stdout, vmctl};

fn run(line: &str) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let words: Vec<_> = line.split_whitespace().collect();
    vmctl(dir.path(), &words).output().unwrap()
}

#[test]
fn wrong_flags_exit_with_2_and_are_named() {
    for (line, words) in [
        ("boot", "error: --kernel: is required\nhint: give --kernel PATH"),
        ("boot --kernel", "a value is required for '--kernel <PATH>'"),
        ("boot --kernel k --bogus", "unexpected argument '--bogus'"),
        ("boot --kernel k --cpus 0", "error: --cpus 0: 0 is not from 1 to 32"),
        ("boot --kernel k --cpus 33", "error: --cpus 33: 33 is not from 1 to 32"),
        ("boot --kernel k --cpus -1", "invalid value '-1' for '--cpus <N>'"),
        ("boot --kernel k --cpus x", "invalid value 'x' for '--cpus <N>'"),
        ("boot --kernel k --memory 0", "error: --memory 0: 0 is not from 1 to"),
        ("boot --kernel k --memory 512", "such as 512M"),
        ("boot --kernel k --memory 1MB", "unknown unit \"MB\""),
        ("boot --kernel k --memory 1000K", "whole number of MiB"),
        ("boot --kernel k --hugepages --memory 3M", "error: --memory 3M: 3 is not an even number"),
        ("boot --kernel k --transport isa", "invalid value 'isa' for '--transport <KIND>'"),
        ("boot --kernel k --disk a.img,bogus=1", "unknown option \"bogus\"; the options are ro,"),
        ("boot --kernel k --disk a.img,engine=x", "engine=x: expected sync or uring"),
        ("boot --kernel k --disk a.img,queues=17", "error: --disk a.img,queues=17: 17 is not"),
        ("boot --kernel k --disk a.img --disk a.img", "\"a.img\" is already used by --disk a.img"),
        ("boot --kernel k --net mac=52:54:00:00:00:01", "tap=NAME is missing"),
        ("boot --kernel k --net tap=0123456789abcdef", "\"0123456789abcdef\" is 16 bytes long"),
        ("boot --kernel k --net tap=a --net tap=a", "error: --net tap=a: \"a\" is already used by"),
        ("boot --kernel k --vsock cid=2,path=s", "hint: 0, 1 and 2 are the host's"),
        ("boot --kernel k --vsock cid=3", "path=SOCKET is missing"),
        ("boot --kernel k --console pty", "unknown option \"pty\""),
        ("boot --kernel k --console file=", "\"file\" needs a value"),
        ("boot --kernel k --shutdown-timeout -1", "--shutdown-timeout"),
        ("nonsense", "unrecognized subcommand 'nonsense'"),
        ("", "Usage: vmctl"),
    ] {
        let output = run(line);
        let stderr = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "vmctl {line}: {stderr}");
        assert!(stderr.contains(words), "vmctl {line}: {stderr:?} lacks {words:?}");
        assert!(output.stdout.is_empty(), "vmctl {line} printed a result");
    }
}

#[test]
fn command_line_of_2048_bytes_exits_with_2_and_2047_do_not() {
    let dir = tempfile::tempdir().unwrap();
    for (length, code) in [(2047, 0), (2048, 2)] {
        let cmdline = "x".repeat(length);
        let arguments = ["boot", "--kernel", "k", "--dry-run", "--cmdline", &cmdline];
        let output = vmctl(dir.path(), &arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
    }
}

#[test]
fn wrong_files_are_named_with_the_place() {
    let dir = tempfile::tempdir().unwrap();
    for (text, code, words) in [
        ("", 2, "error: --config vm.json: the configuration can't be read\ncaused by: EOF"),
        ("{", 2, "caused by: EOF while parsing an object"),
        (r#"{"bogus": 1}"#, 2, "caused by: unknown field `bogus`"),
        (r#"{"machine-config": {"bogus": 1}}"#, 2, "unknown field `bogus`"),
        (
            r#"{"machine-config": {"vcpu_count": 0}}"#,
            2,
            "error: --config vm.json: machine-config.vcpu_count: 0 is not from 1 to 32",
        ),
        (
            r#"{"machine-config": {"smt": true}}"#,
            2,
            "error: --config vm.json: machine-config.smt: true is not supported; only false is",
        ),
    ] {
        fs::write(dir.path().join("vm.json"), text).unwrap();
        let arguments = ["boot", "--kernel", "k", "--config", "vm.json"];
        let output = vmctl(dir.path(), &arguments).output().unwrap();
        let stderr = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{text}: {stderr}");
        assert!(stderr.contains(words), "{text}: {stderr:?} lacks {words:?}");
    }
}

#[test]
fn file_that_is_not_there_is_a_failure_with_its_cause() {
    let output = run("boot --config nowhere.json");
    assert_eq!(output.status.code(), Some(1));
    let expected = "error: --config nowhere.json: the file can't be read\n\
                    caused by: No such file or directory (os error 2)\n";
    assert_eq!(stderr(&output), expected);
}

#[test]
fn dry_run_prints_a_configuration_that_reads_back_as_the_same() {
    let host = Host::with_vmm("exit 1");
    let first = host.boot(&["--disk", "a.img", "--net", "tap=t0", "--cpus", "2", "--dry-run"]);
    assert_eq!(first.status.code(), Some(0), "{}", stderr(&first));
    assert!(
        stdout(&first)
            .contains("\"boot_args\": \"console=ttyS0 reboot=k panic=-1 root=/dev/vda rw\"")
    );
    fs::write(host.path("vm.json"), &first.stdout).unwrap();
    let arguments = ["boot", "--config", "vm.json", "--dry-run"];
    let second = host.vmctl(&arguments).output().unwrap();
    assert_eq!(stdout(&first), stdout(&second));
}

#[test]
fn help_and_version_are_no_errors() {
    for line in ["--help", "boot --help", "--version", "doctor --help"] {
        let output = run(line);
        assert_eq!(output.status.code(), Some(0), "vmctl {line}");
        assert!(output.stderr.is_empty() && !output.stdout.is_empty(), "vmctl {line}");
    }
}
