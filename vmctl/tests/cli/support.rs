//! Runs the real `vmctl` with a shell script in the VMM's place, so that its every word can be
//! chosen without KVM.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// What a VMM says once its machine is assembled.
pub(crate) const VM_CREATED: &str = r#"echo '{"event":"vm_created","monotonic_ns":1}' >&4"#;

/// A VMM that says which signals it gets on its standard output, and does `at_int` (Perl) at SIGINT;
/// `at_first` after the first one. It's no shell: that may look for signals just before one comes,
/// and then wait for input.
pub(crate) fn signal_teller(at_int: &str, at_first: &str) -> String {
    format!(
        r#"exec perl -e '
            use POSIX;
            open(my $status, ">&=", 4) or die;
            sigprocmask(SIG_BLOCK, POSIX::SigSet->new(SIGTERM, SIGINT));
            $SIG{{TERM}} = sub {{ syswrite(STDOUT, "got TERM\n") }};
            $SIG{{INT}} = sub {{ syswrite(STDOUT, "got INT\n"); {at_int} }};
            syswrite($status, "{{\"event\":\"vm_created\",\"monotonic_ns\":1}}\n");
            syswrite(STDOUT, "ready, pid $$\n");
            sigsuspend(POSIX::SigSet->new);
            {at_first}
            sigsuspend(POSIX::SigSet->new) while 1;
        '"#
    )
}

/// A directory of its own for a test, with a script that plays the VMM.
pub(crate) struct Host {
    dir: TempDir,
}

impl Host {
    /// A host whose VMM runs these shell commands. The status pipe is descriptor 4, the
    /// configuration descriptor 3.
    pub(crate) fn with_vmm(script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vmm");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Self { dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `vmctl` in the host's directory, with these arguments.
    pub(crate) fn vmctl(&self, arguments: &[&str]) -> Command {
        let mut command = vmctl(self.dir.path(), arguments);
        command.env("VMCTL_VMM", self.path("vmm"));
        command
    }

    /// Runs `vmctl boot --kernel k` to its end, without input.
    pub(crate) fn boot(&self, more: &[&str]) -> Output {
        let arguments = [&["boot", "--kernel", "k"], more].concat();
        self.vmctl(&arguments).stdin(Stdio::null()).output().unwrap()
    }
}

/// The real binary, in a directory, without a VMM.
pub(crate) fn vmctl(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmctl"));
    command.current_dir(dir).args(arguments).env("VMCTL_RUNTIME_DIR", dir.join("run"));
    command
}

/// A stopped event with this reason.
pub(crate) fn stopped(reason: &str) -> String {
    format!(r#"echo '{{"event":"stopped","reason":"{reason}","monotonic_ns":2}}' >&4"#)
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Reads lines until one has these words.
pub(crate) fn wait_for_line(reader: &mut impl BufRead, words: &str) -> String {
    wait_for_lines(reader, [words]).remove(0)
}

/// Reads lines until each of these words was in one; the order doesn't matter, as two processes
/// may write.
pub(crate) fn wait_for_lines<const N: usize>(
    reader: &mut impl BufRead,
    words: [&str; N],
) -> Vec<String> {
    let mut found = vec![None; N];
    while found.iter().any(Option::is_none) {
        let mut line = String::new();
        let length = reader.read_line(&mut line).unwrap();
        assert_ne!(length, 0, "the output ended before one of {words:?}");
        if let Some(index) = words.iter().position(|words| line.contains(words)) {
            found[index] = Some(line);
        }
    }
    found.into_iter().flatten().collect()
}

/// Runs a command with this input, and returns what it printed.
pub(crate) fn run_with_input(command: &mut Command, input: &[u8]) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // On a thread of its own: the output may fill its pipe before the input is through.
    std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input).unwrap());
        child.wait_with_output().unwrap()
    })
}

/// A reader of a child's output by lines.
pub(crate) fn lines(output: impl Read) -> BufReader<impl Read> {
    BufReader::new(output)
}
