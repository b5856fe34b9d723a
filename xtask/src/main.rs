//! What a newcomer and CI call: demo, test, lab, kernel, bench.

mod artifacts;
mod bench;
mod cache;
mod cpio;
mod debian_kernel;
mod demo;
mod dirs;
mod guest;
mod images;
mod initramfs;
mod kernel;
mod lab;
mod packages;
mod probe;
mod process;
mod progress;
mod terminal;
mod testing;

use std::process::ExitCode;

use clap::Parser;

use crate::packages::{Consent, Purpose};

/// The project's own tasks, run as `cargo xtask TASK`.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
enum Task {
    /// Boot a Debian guest, from whatever this machine has to a login prompt, and time it.
    Demo(demo::Args),
    /// The part of the demo that measures, where KVM can run Linux.
    #[command(hide = true)]
    DemoBoot(demo::BootArgs),
    /// Install the Debian packages that are missing.
    Setup(packages::Args),
    /// Run a command in an emulated machine in which KVM can run Linux.
    Lab(lab::Args),
    /// The part of the lab that works around an error of its emulator.
    #[command(hide = true)]
    LabInjections(lab::InjectionArgs),
    /// Build the lean guest kernel, unless it is cached, and print its path.
    Kernel(kernel::Args),
    /// Check formatting, lints and unit tests, then boot guests and test them.
    Test(testing::Args),
    /// Make what guests are booted from (kernels, initramfs images, disk) and print its directory.
    Artifacts,
    /// Build the container images of the tests and the demo, and print or serve their registry.
    Images(images::Args),
    /// Measure boots, memory, disks and networks in the lab, beside QEMU's microvm.
    Bench(bench::Args),
    /// The part of the measurements that runs in the lab.
    #[command(hide = true)]
    BenchRun(bench::RunArgs),
}

fn main() -> ExitCode {
    match run(Task::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> anyhow::Result<ExitCode> {
    match task {
        Task::Demo(args) => return demo::run(&args),
        Task::DemoBoot(args) => demo::run_boot(&args)?,
        Task::Setup(args) => packages::run(&args)?,
        Task::Lab(args) => return Ok(lab::run(args)),
        Task::LabInjections(args) => lab::run_injections(&args)?,
        Task::Kernel(args) => {
            packages::install(&[Purpose::Kernel], Consent::Ask)?;
            kernel::run(&args)?;
        }
        Task::Test(args) => return testing::run(&args),
        Task::Images(args) => return images::run(&args),
        Task::Bench(args) => bench::run(&args)?,
        Task::BenchRun(args) => bench::run_inside(&args)?,
        Task::Artifacts => {
            packages::install(packages::ALL, Consent::Ask)?;
            println!("{}", artifacts::obtain_all()?.display());
        }
    }
    Ok(ExitCode::SUCCESS)
}
