//! Each test's calls are made in a process of its own: this one, started anew for [`child`] alone.
#![expect(unsafe_code, reason = "system calls that nobody has wrapped, because they are forbidden")]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use sys::forbidden_call::Destination;

use super::*;

/// Tells [`child`] what to do: a role and a call's name.
const TASK: &str = "VMM_SECCOMP_TEST";
/// Where it writes events to.
const EVENTS: &str = "VMM_SECCOMP_EVENTS";

const ROLES: [Role; 6] =
    [Role::Main, Role::Api, Role::Vcpu, Role::Worker, Role::Files, Role::Snapshot];

/// A system call by its number, with its first arguments.
struct Call {
    name: &'static str,
    number: i64,
    args: [u64; 4],
    forbidden_to: &'static [Role],
}

const fn call(
    name: &'static str,
    number: i64,
    args: [u64; 4],
    forbidden_to: &'static [Role],
) -> Call {
    Call { name, number, args, forbidden_to }
}

use Role::{Api, Files, Main, Snapshot, Vcpu, Worker};

const FORBIDDEN: &[Call] = &[
    call("execve", libc::SYS_execve, [0; 4], &ROLES),
    call("ptrace", libc::SYS_ptrace, [0; 4], &ROLES),
    call("kill", libc::SYS_kill, [0; 4], &ROLES),
    call("bpf", libc::SYS_bpf, [0; 4], &ROLES),
    call("mount", libc::SYS_mount, [0; 4], &ROLES),
    call("setns", libc::SYS_setns, [0; 4], &ROLES),
    call("internet socket", libc::SYS_socket, [libc::AF_INET as u64, 1, 0, 0], &ROLES),
    call("packet socket", libc::SYS_socket, [libc::AF_PACKET as u64, 3, 0, 0], &ROLES),
    call("executable memory", libc::SYS_mprotect, [0, 4096, 5, 0], &ROLES),
    call("executable mapping", libc::SYS_mmap, [0, 4096, 7, 0x22], &ROLES),
    call("new process", libc::SYS_clone, [libc::SIGCHLD as u64, 0, 0, 0], &ROLES),
    call("new namespace", libc::SYS_clone, [0x1000_0000, 0, 0, 0], &ROLES),
    call("typed input", libc::SYS_ioctl, [0, libc::TIOCSTI, 0, 0], &ROLES),
    call("other signal handler", libc::SYS_rt_sigaction, [libc::SIGSYS as u64, 0, 0, 8], &ROLES),
    call("other process's signal", libc::SYS_tgkill, [1, 1, 9, 0], &ROLES),
    call("debugging", libc::SYS_prctl, [libc::PR_SET_PTRACER as u64, 1, 0, 0], &ROLES),
    call("file", libc::SYS_openat, [u64::MAX, 0, 0, 0], &[Api, Vcpu, Worker]),
    call("Unix socket", libc::SYS_socket, [libc::AF_UNIX as u64, 1, 0, 0], &[Api]),
    call("name's end", libc::SYS_unlinkat, [u64::MAX, 0, 0, 0], &[Api, Vcpu, Worker]),
    call("other root", libc::SYS_chroot, [0; 4], &ROLES),
    call("guest", libc::SYS_ioctl, [u64::MAX, 0xae80, 0, 0], &[Api, Worker, Files, Snapshot]),
    call(
        "new machine",
        libc::SYS_ioctl,
        [u64::MAX, 0xae01, 0, 0],
        &[Api, Vcpu, Worker, Files, Snapshot],
    ),
    call("io_uring", libc::SYS_io_uring_setup, [0; 4], &[Api, Worker, Files, Snapshot]),
    call("userfaultfd", libc::SYS_userfaultfd, [0; 4], &[Api, Vcpu, Worker, Files, Snapshot]),
];

/// Does what [`TASK`] says; nothing as one test of many.
#[test]
fn child() {
    let Ok(task) = std::env::var(TASK) else { return };
    let (role, name) = task.split_once('/').unwrap();
    let role = *ROLES.iter().find(|it| format!("{it:?}") == role).unwrap();
    let path = PathBuf::from(std::env::var_os(EVENTS).unwrap());
    let events = File::create(&path).unwrap();
    forbidden_call::tell(Destination::EventLog, Some(events.as_fd()));
    let mut pair = UnixStream::pair().unwrap();
    forbidden_call::install_handler(last_words()).unwrap();
    apply_filter(NO_CLONE3).unwrap();
    install(role).unwrap();
    match FORBIDDEN.iter().find(|call| call.name == name) {
        Some(call) => {
            let [a, b, c, d] = call.args;
            // SAFETY: the arguments are no pointers to anything, and calls that need one fail.
            unsafe { libc::syscall(call.number, a, b, c, d) };
        }
        None => allowed(role, &mut pair, &path),
    }
    std::process::exit(0);
}

/// Does some of what a thread of `role` does.
fn allowed(role: Role, (one, other): &mut (UnixStream, UnixStream), path: &Path) {
    if role == Files {
        return share_files(path).unwrap();
    }
    one.set_nonblocking(true).unwrap();
    one.write_all(&vec![1; 1 << 16]).unwrap();
    other.read_exact(&mut vec![0; 1 << 16]).unwrap();
    let mut bytes = [0; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).unwrap();
    if matches!(role, Vcpu | Main) {
        let answer = std::thread::spawn(|| vec![7; 1 << 20].len()).join().unwrap();
        assert_eq!(answer, 1 << 20);
        vmm_sys_util::eventfd::EventFd::new(0).unwrap();
    }
    if matches!(role, Snapshot | Main) {
        File::open("/proc/self/status").unwrap().read_to_string(&mut String::new()).unwrap();
    }
    if role == Main {
        sys::signal::install_kick_handler().unwrap();
        UnixStream::connect(path.with_file_name("nobody")).unwrap_err();
        std::fs::write(path.with_file_name("file"), b"text").unwrap();
    }
}

/// Does beside `path` what a file system's guest may ask for.
fn share_files(path: &Path) -> rustix::io::Result<()> {
    use rustix::fs::{self, AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, ResolveFlags};
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let above = fs::openat(CWD, path.parent().unwrap(), flags, Mode::empty())?;
    fs::mkdirat(&above, "shared", Mode::RWXU)?;
    let directory = fs::openat2(&above, "shared", flags, Mode::empty(), ResolveFlags::BENEATH)?;
    fs::statx(&directory, "", AtFlags::EMPTY_PATH, fs::StatxFlags::BASIC_STATS)?;
    fs::mknodat(&directory, "file", FileType::RegularFile, Mode::RWXU, 0)?;
    fs::symlinkat("file", &directory, "link")?;
    fs::readlinkat(&directory, "link", Vec::new())?;
    let file = fs::openat(&directory, "file", OFlags::RDWR, Mode::empty())?;
    let by_fd = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    fs::chmodat(CWD, &by_fd, Mode::RWXU, AtFlags::empty())?;
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    fs::chownat(&file, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?;
    fs::linkat(CWD, &by_fd, &directory, "hard", AtFlags::SYMLINK_FOLLOW)?;
    fs::renameat_with(&directory, "hard", &directory, "other", RenameFlags::NOREPLACE)?;
    fs::unlinkat(&directory, "other", AtFlags::empty())?;
    let time = fs::Timespec { tv_sec: 1, tv_nsec: 0 };
    let times = fs::Timestamps { last_access: time, last_modification: time };
    fs::utimensat(&file, "", &times, AtFlags::EMPTY_PATH)?;
    for result in [
        fs::setxattr(&by_fd, "user.a", b"value", fs::XattrFlags::empty()),
        fs::getxattr(&by_fd, "user.a", &mut [0; 16][..]).map(drop),
        fs::listxattr(&by_fd, &mut [0; 64][..]).map(drop),
        fs::removexattr(&by_fd, "user.a"),
    ] {
        // Not every file system has them.
        assert!(matches!(result, Ok(()) | Err(rustix::io::Errno::OPNOTSUPP)));
    }
    let file = File::from(file);
    std::os::unix::fs::FileExt::write_all_at(&file, b"text", 0).unwrap();
    fs::fallocate(&file, fs::FallocateFlags::KEEP_SIZE, 0, 4096)?;
    fs::copy_file_range(&file, Some(&mut 0), &file, Some(&mut 8), 4)?;
    fs::seek(&file, fs::SeekFrom::Data(0))?;
    fs::ftruncate(&file, 2)?;
    fs::fsync(&file)?;
    fs::fdatasync(&file)?;
    fs::fstatvfs(&directory)?;
    let listed = fs::openat(&directory, ".", OFlags::RDONLY, Mode::empty())?;
    let mut buffer = [std::mem::MaybeUninit::uninit(); 1024];
    assert!(fs::RawDir::new(&listed, &mut buffer).next().is_some());
    Ok(())
}

fn run(role: Role, name: &str, events: &Path) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "seccomp::tests::child", "--nocapture", "--test-threads=1"]);
    command.env(TASK, format!("{role:?}/{name}"));
    command.env(EVENTS, events).output().unwrap()
}

#[test]
fn forbidden_call_ends_the_process_and_is_named() {
    let directory = tempfile::tempdir().unwrap();
    for call in FORBIDDEN {
        for role in call.forbidden_to {
            let output = run(*role, call.name, &directory.path().join("events"));
            let error = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(148), "{role:?} {}: {error}", call.name);
            let said = format!("made system call {}, which its filter forbids", call.number);
            assert!(error.contains(&said), "{role:?} {}: {error}", call.name);
        }
    }
}

#[test]
fn threads_do_their_work_under_their_filters() {
    let directory = tempfile::tempdir().unwrap();
    for role in ROLES {
        let output = run(role, "work", &directory.path().join("events"));
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{role:?}: {error}");
    }
}

#[test]
fn forbidden_call_is_the_last_event() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("events");
    run(Role::Worker, "execve", &path);
    let line = std::fs::read(&path).unwrap();
    let Ok(Event::Failed { error }) = Event::parse_line(&line) else { panic!("{line:?}") };
    assert_eq!(error.kind, ErrorKind::ForbiddenCall);
    let said = format!("made system call {}, which its filter forbids", libc::SYS_execve);
    assert!(error.message.ends_with(&said), "{}", error.message);
    assert!(line.ends_with(b"\n"));
}

#[test]
fn first_rule_that_a_vcpu_s_ioctl_meets_is_that_of_kvm_run() {
    // BPF_JMP | BPF_JEQ | BPF_K on the request's low half comes right after the call's number.
    let ioctl =
        VCPU.iter().position(|it| it.code == 0x15 && i64::from(it.k) == libc::SYS_ioctl).unwrap();
    let first = VCPU.iter().skip(ioctl + 1).find(|it| it.code == 0x15).unwrap();
    assert_eq!(first.k, 0xae80);
}
