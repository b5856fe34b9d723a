//! Hosts of every sort, told from facts alone.

use std::fs;

use api::host::{CgroupVersion, Virtualized};

use super::kvm::{Capability, Need, OpenKvm, backend};
use super::system::{Memory, bracketed, cgroup_version_at, parse_flag, parse_meminfo};
use super::*;

fn facts(backend: KvmBackend) -> KvmFacts {
    let capabilities = vec![
        Capability { name: "IRQFD", need: Need::Required, present: true },
        Capability { name: "XSAVE2", need: Need::Useful, present: false },
    ];
    KvmFacts { kvm: Ok(OpenKvm { api_version: 12, max_vcpus: 710, capabilities }), backend }
}

fn unopened(errno: i32) -> KvmFacts {
    KvmFacts { kvm: Err(io::Error::from_raw_os_error(errno)), backend: KvmBackend::Vmx }
}

#[test]
fn hardware_back_end_with_all_required_capabilities_can_run_linux() {
    for backend in [KvmBackend::Vmx, KvmBackend::Svm, KvmBackend::El2] {
        judge(&facts(backend)).unwrap();
    }
}

#[test]
fn each_obstacle_has_its_own_kind() {
    let mut old_api = facts(KvmBackend::Svm);
    old_api.kvm.as_mut().unwrap().api_version = 11;
    let mut incapable = facts(KvmBackend::Svm);
    incapable.kvm.as_mut().unwrap().capabilities[0].present = false;
    for (facts, kind, words) in [
        (unopened(libc::ENOENT), ErrorKind::KvmMissing, "no /dev/kvm"),
        (unopened(libc::EACCES), ErrorKind::KvmDenied, "may not open"),
        (unopened(libc::EPERM), ErrorKind::KvmDenied, "may not open"),
        (unopened(libc::EMFILE), ErrorKind::KvmUnable, "can't be opened"),
        (facts(KvmBackend::Pvm), ErrorKind::KvmUnable, "PVM"),
        (facts(KvmBackend::None), ErrorKind::KvmUnable, "no hardware virtualization"),
        (old_api, ErrorKind::KvmUnable, "API version 11"),
        (incapable, ErrorKind::KvmUnable, "lacks IRQFD"),
    ] {
        let judgement = judge(&facts);
        let error = judgement.as_ref().unwrap_err();
        assert_eq!(error.kind(), kind);
        assert!(error.to_string().contains(words), "{error}");
        let verdict = verdict(&judgement, facts.backend);
        assert!(!verdict.can_run && verdict.kind == Some(kind));
    }
}

#[test]
fn pvm_is_the_back_end_only_when_no_other_module_is_there() {
    let with = |modules: &'static [&str]| move |name: &str| modules.contains(&name);
    assert_eq!(backend(KvmBackend::None, with(&["kvm", "kvm_pvm"])), KvmBackend::Pvm);
    assert_eq!(backend(KvmBackend::Vmx, with(&["kvm_pvm"])), KvmBackend::Pvm);
    assert_eq!(backend(KvmBackend::Svm, with(&["kvm_amd", "kvm_pvm"])), KvmBackend::Svm);
    assert_eq!(backend(KvmBackend::None, with(&["kvm"])), KvmBackend::None);
}

#[test]
fn boot_check_and_report_agree_about_this_host() {
    let report = probe();
    let check = can_run_linux();
    assert_eq!(report.linux_guests.can_run, check.is_ok());
    assert_eq!(report.linux_guests.kind, check.err().map(|error| error.kind()));
    assert!(report.mem_total_mib > 0 && report.cpus > 0);
}

#[test]
fn kernel_files_are_read_as_the_kernel_writes_them() {
    let meminfo = "MemTotal:       16318412 kB\nMemFree: 1 kB\nMemAvailable:    2048 kB\n";
    assert_eq!(parse_meminfo(meminfo), Memory { total_mib: 15935, available_mib: 2 });
    assert_eq!(parse_meminfo("nonsense"), Memory::default());
    assert_eq!(bracketed("always [madvise] never\n").as_deref(), Some("madvise"));
    assert_eq!(bracketed("none"), None);
    assert_eq!(
        [parse_flag("Y\n"), parse_flag("0\n"), parse_flag("")],
        [Some(true), Some(false), None]
    );
}

#[test]
fn cgroup_version_is_told_by_the_files_at_its_mount() {
    let root = std::env::temp_dir().join(format!("host-probe-cgroup-{}", std::process::id()));
    fs::create_dir_all(&root).unwrap();
    assert_eq!(cgroup_version_at(&root), CgroupVersion::None);
    fs::create_dir(root.join("memory")).unwrap();
    assert_eq!(cgroup_version_at(&root), CgroupVersion::V1);
    fs::create_dir(root.join("unified")).unwrap();
    fs::write(root.join("unified/cgroup.controllers"), "").unwrap();
    assert_eq!(cgroup_version_at(&root), CgroupVersion::Hybrid);
    fs::write(root.join("cgroup.controllers"), "").unwrap();
    assert_eq!(cgroup_version_at(&root), CgroupVersion::V2);
    fs::remove_dir_all(&root).unwrap();
}

#[test]
fn hypervisor_signature_has_no_padding_and_no_control_characters() {
    assert_eq!(cpu::signature_text(b"KVMKVMKVM\0\0\0"), "KVMKVMKVM");
    assert_eq!(cpu::signature_text(b" lrpepyh  vr"), "lrpepyh  vr");
    assert_eq!(cpu::signature_text(&[0x1b; 12]), "unknown");
    let _: Virtualized = cpu::virtualized();
}
