//! The terminal is raw while a VM has it, and as it was after every end.

use std::fs::File;
use std::io::BufReader;
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};

use super::support::{Host, signal_teller, wait_for_line, wait_for_lines};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{InputModes, LocalModes, OptionalActions, OutputModes, tcgetattr, tcsetattr};

/// A pseudo terminal: the side that types and reads the screen, and the one that programs get.
struct Terminal {
    screen: OwnedFd,
    side: OwnedFd,
}

impl Terminal {
    fn open() -> Self {
        let screen =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&screen).unwrap();
        unlockpt(&screen).unwrap();
        let name = ptsname(&screen, Vec::new()).unwrap();
        let side =
            open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        // Something that a plain reset wouldn't give back.
        let mut modes = tcgetattr(&side).unwrap();
        modes.input_modes |= InputModes::IXANY;
        tcsetattr(&side, OptionalActions::Now, &modes).unwrap();
        Self { screen, side }
    }

    fn modes(&self) -> (InputModes, OutputModes, LocalModes) {
        let modes = tcgetattr(&self.side).unwrap();
        (modes.input_modes, modes.output_modes, modes.local_modes)
    }

    fn type_keys(&self, keys: &[u8]) {
        assert_eq!(rustix::io::write(&self.screen, keys), Ok(keys.len()));
    }

    /// Boots on this terminal, and returns once the console is connected and the VMM has said that
    /// it's ready, with the line that says so.
    fn boot(&self, host: &Host) -> (Child, BufReader<File>, String) {
        let stdio = || Stdio::from(self.side.try_clone().unwrap());
        let child = host
            .vmctl(&["boot", "--kernel", "k"])
            .stdin(stdio())
            .stdout(stdio())
            .stderr(stdio())
            .spawn()
            .unwrap();
        let mut screen = BufReader::new(File::from(self.screen.try_clone().unwrap()));
        let words = ["Connected to the guest's console", "ready"];
        let lines = wait_for_lines(&mut screen, words);
        assert!(lines[0].ends_with("\r\n"), "{lines:?}");
        (child, screen, lines[1].clone())
    }
}

/// A VMM that tells what it reads, a byte at a time, and ends in order at the letter q; signals kill
/// it.
const CONSOLE: &str = r#"
echo '{"event":"vm_created","monotonic_ns":1}' >&4
echo pid $$ ready
while byte=$(dd bs=1 count=1 2>/dev/null | od -An -tx1 | tr -d ' '); do
    case $byte in
    71) echo '{"event":"stopped","reason":"power_off","monotonic_ns":2}' >&4; exit 0 ;;
    ?*) echo "byte $byte" ;;
    esac
done
"#;

#[test]
fn terminal_is_raw_and_then_as_it_was_after_each_sort_of_end() {
    type End = fn(&Terminal, &Child, i32);
    let ends: [(&str, i32, End); 6] = [
        ("power-off", 0, |terminal, _, _| terminal.type_keys(b"q")),
        ("escape sequence", 0, |terminal, _, _| terminal.type_keys(b"\x01x")),
        ("death of the VMM", 1, |_, _, vmm| send(vmm, Signal::KILL)),
        ("SIGQUIT", 1, |_, child, _| send(pid(child), Signal::QUIT)),
        ("SIGTERM twice", 1, |_, child, _| {
            send(pid(child), Signal::TERM);
            send(pid(child), Signal::INT);
        }),
        ("SIGHUP and SIGINT", 1, |_, child, _| {
            send(pid(child), Signal::HUP);
            send(pid(child), Signal::INT);
        }),
    ];
    for (name, code, end) in ends {
        let terminal = Terminal::open();
        let before = terminal.modes();
        let host = Host::with_vmm(CONSOLE);
        let (mut child, _screen, line) = terminal.boot(&host);
        let vmm = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        let (input, output, local) = terminal.modes();
        assert!(!local.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG));
        assert!(!input.intersects(InputModes::ICRNL | InputModes::IXON), "{name}");
        assert!(output.contains(OutputModes::OPOST), "{name}");
        end(&terminal, &child, vmm);
        let status = child.wait().unwrap();
        assert_eq!(status.code(), Some(code), "{name}");
        assert_eq!(terminal.modes(), before, "{name}");
    }
}

fn pid(child: &Child) -> i32 {
    Pid::from_child(child).as_raw_nonzero().get()
}

fn send(pid: i32, signal: Signal) {
    match kill_process(Pid::from_raw(pid).unwrap(), signal) {
        // It may have ended at the signal before.
        Ok(()) | Err(Errno::SRCH) => {}
        Err(errno) => panic!("{errno}"),
    }
}

#[test]
fn terminal_is_never_touched_by_a_vm_that_does_not_start() {
    let terminal = Terminal::open();
    let before = terminal.modes();
    let script =
        r#"echo '{"event":"failed","error":{"kind":"kernel_missing","message":"no"}}' >&4"#;
    let host = Host::with_vmm(script);
    let mut child = host
        .vmctl(&["boot", "--kernel", "k"])
        .stdin(Stdio::from(terminal.side.try_clone().unwrap()))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert_eq!(terminal.modes(), before);
}

#[test]
fn keys_that_are_signals_elsewhere_reach_the_guest() {
    let terminal = Terminal::open();
    let host = Host::with_vmm(CONSOLE);
    let (mut child, mut screen, _) = terminal.boot(&host);
    // Ctrl-C, Ctrl-Z, Ctrl-D, Ctrl-Q, carriage return; then Ctrl-A itself.
    for (keys, told) in [
        (&b"\x03"[..], "byte 03"),
        (b"\x1a", "byte 1a"),
        (b"\x04", "byte 04"),
        (b"\x11", "byte 11"),
        (b"\r", "byte 0d"),
        (b"\x01\x01", "byte 01"),
    ] {
        terminal.type_keys(keys);
        wait_for_line(&mut screen, told);
    }
    terminal.type_keys(b"\x01h");
    wait_for_line(&mut screen, "Ctrl-A p       presses the guest's power button");
    terminal.type_keys(b"q");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn escape_sequence_presses_the_power_button_once() {
    let terminal = Terminal::open();
    // The second press must not reach the VMM, which would end the VM.
    let script = signal_teller(
        "POSIX::_exit(9)",
        r#"
            sigprocmask(SIG_UNBLOCK, POSIX::SigSet->new(SIGTERM, SIGINT));
            for (1..2) { my $line = <STDIN> }
            syswrite($status, "{\"event\":\"stopped\",\"reason\":\"power_off\",\"monotonic_ns\":2}\n");
            POSIX::_exit(0);
        "#,
    );
    let host = Host::with_vmm(&script);
    let (mut child, mut screen, _) = terminal.boot(&host);
    terminal.type_keys(b"\x01p");
    wait_for_line(&mut screen, "got TERM");
    terminal.type_keys(b"\x01pa\nb\n");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
