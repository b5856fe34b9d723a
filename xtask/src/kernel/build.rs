//! One build of the guest kernel: unpack, configure, compile, strip.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result, bail, ensure};

use super::config;
use super::progress::Progress;
use crate::process;

/// Part of the cache's key: raised whenever a change to this file changes what is built.
pub(super) const RECIPE: &str = "1";

/// What isn't unpacked: code that no configuration of ours compiles, two thirds of the source.
/// Kconfig files and makefiles are kept, since the ones above them include them by name.
const EXCLUDED: &[&str] = &[
    "*/Documentation/*/*",
    "*/arch/[!x]*/*.[chsS]",
    "*/arch/*/boot/dts/*",
    "*/drivers/accel/*.[ch]",
    "*/drivers/clk/*.[ch]",
    "*/drivers/gpu/*.[ch]",
    "*/drivers/infiniband/*.[ch]",
    "*/drivers/media/*.[ch]",
    "*/drivers/net/ethernet/*.[ch]",
    "*/drivers/net/wireless/*.[ch]",
    "*/drivers/pinctrl/*.[ch]",
    "*/drivers/scsi/*.[ch]",
    "*/drivers/staging/*.[ch]",
    "*/drivers/usb/*.[ch]",
    "*/sound/*.[ch]",
    "*/tools/perf/*",
    "*/tools/testing/*",
];

/// The kernel's own flags for its last link, with segments aligned to a page instead of to 2 MiB:
/// a file aligned so is a third of it padding. Addresses come from the linker script either way.
const LINK_FLAGS: &str =
    "LDFLAGS_vmlinux=--build-id=sha1 --orphan-handling=error -z max-page-size=4096";

/// Lines of the log that an error shows.
const SHOWN_LOG_LINES: usize = 15;

/// A build's places and limits. The caller holds the lock that makes it the only one in `work`.
pub(super) struct Build<'a> {
    /// Debian's source package's tarball.
    pub(super) tarball: &'a Path,
    /// Directory for source and objects, deleted before (an interrupted build leaves it) and after.
    pub(super) work: &'a Path,
    /// File for all that the build's programs print. It stays.
    pub(super) log: &'a Path,
    /// How many compilers run at once.
    pub(super) jobs: usize,
}

impl Build<'_> {
    /// Builds into the directory `out`: `vmlinux` and the `config` that it was made with.
    ///
    /// # Errors
    ///
    /// Fails when the configuration can't be met or a program fails; the error has the log's end.
    pub(super) fn run(&self, out: &Path) -> Result<()> {
        self.clean()?;
        let progress = Progress::start();
        let built = self.run_stages(out, &progress);
        // Three quarters of a gigabyte: not to be kept after a failure either.
        let cleaned = self.clean();
        built.with_context(|| {
            format!("cannot build the guest kernel (log: {})", self.log.display())
        })?;
        progress.finish();
        cleaned
    }

    fn run_stages(&self, out: &Path, progress: &Progress) -> Result<()> {
        let log = File::create(self.log)
            .with_context(|| format!("cannot create {}", self.log.display()))?;
        let stages = Stages { build: self, log, progress };
        progress.stage("unpacking");
        stages.unpack()?;
        progress.stage("configuring");
        stages.configure()?;
        progress.stage("compiling");
        stages.compile()?;
        stages.install(out)
    }

    fn clean(&self) -> Result<()> {
        match fs::remove_dir_all(self.work) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot delete {}", self.work.display()))
            }
            _ => Ok(()),
        }
    }
}

struct Stages<'a> {
    build: &'a Build<'a>,
    log: File,
    progress: &'a Progress,
}

impl Stages<'_> {
    fn unpack(&self) -> Result<()> {
        let work = self.build.work;
        fs::create_dir_all(work).with_context(|| format!("cannot create {}", work.display()))?;
        let mut tar = self.command("tar");
        tar.args(["--extract", "--strip-components=1", "--use-compress-program=xz --threads=0"])
            .args(EXCLUDED.iter().map(|pattern| format!("--exclude={pattern}")))
            .arg("--file")
            .arg(self.build.tarball);
        self.run(tar)
    }

    fn configure(&self) -> Result<()> {
        let work = self.build.work;
        let requested = config::FRAGMENTS.concat();
        let fragments = work.join("fragments.config");
        fs::write(&fragments, &requested)
            .with_context(|| format!("cannot write {}", fragments.display()))?;
        let mut make = self.make()?;
        make.arg("KCONFIG_ALLCONFIG=fragments.config").arg("allnoconfig");
        self.run(make)?;

        let resulting = work.join(".config");
        let resulting = fs::read_to_string(&resulting)
            .with_context(|| format!("cannot read {}", resulting.display()))?;
        let unmet = config::unmet(&requested, &resulting);
        ensure!(
            unmet.is_empty(),
            "the kernel's configuration differs from resources/kernel:\n    {}",
            unmet.join("\n    ")
        );
        Ok(())
    }

    fn compile(&self) -> Result<()> {
        let mut make = self.make()?;
        make.arg(format!("--jobs={}", self.build.jobs)).args([LINK_FLAGS, "vmlinux"]);
        self.run(make)
    }

    /// Leaves in `out` what the cache keeps. Stripping keeps what a loader reads: the program
    /// headers and with them the note with the PVH entry.
    fn install(&self, out: &Path) -> Result<()> {
        let mut strip = self.command("strip");
        strip.args(["--strip-all", "-o"]).arg(out.join("vmlinux")).arg("vmlinux");
        self.run(strip)?;
        let config = self.build.work.join(".config");
        fs::copy(&config, out.join("config"))
            .with_context(|| format!("cannot copy {}", config.display()))?;
        Ok(())
    }

    /// Prepares a command in the build's directory. The caller's environment (`ARCH`, `CFLAGS`,
    /// `MAKEFLAGS`, a language) must not change what is built.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let path = std::env::var_os("PATH").unwrap_or_default();
        command.current_dir(self.build.work).env_clear().env("PATH", path).env("LC_ALL", "C.UTF-8");
        command
    }

    /// Prepares `make`, with names and date that make two builds of one source equal.
    fn make(&self) -> Result<Command> {
        let tarball = self.build.tarball;
        let modified = fs::metadata(tarball)
            .and_then(|metadata| metadata.modified())
            .with_context(|| format!("cannot read {}", tarball.display()))?;
        let seconds = modified.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let date = process::capture(self.command("date").args([
            "--utc",
            "--date",
            &format!("@{seconds}"),
            "+%F %T UTC",
        ]))?;
        let mut make = self.command("make");
        make.env("KBUILD_BUILD_TIMESTAMP", date.trim())
            .env("KBUILD_BUILD_VERSION", "1")
            .env("KBUILD_BUILD_USER", "vmctl")
            .env("KBUILD_BUILD_HOST", "vmctl");
        Ok(make)
    }

    /// Runs a program with its output in the log and its steps shown.
    fn run(&self, mut command: Command) -> Result<()> {
        let name = process::line(&command);
        let (output, output_writer) = io::pipe().context("cannot create a pipe")?;
        let error_writer = output_writer.try_clone().context("cannot create a pipe")?;
        command.stdin(Stdio::null()).stdout(output_writer).stderr(error_writer);
        let mut child = command.spawn().map_err(|error| process::spawn_error(&command, error))?;
        // The command has the pipe's other end: the output would never end.
        drop(command);

        let logged = self.log_output(BufReader::new(output));
        let status = child.wait().with_context(|| format!("cannot wait for `{name}`"))?;
        logged?;
        if !status.success() {
            let log = fs::read_to_string(self.build.log).unwrap_or_default();
            bail!("`{name}` failed ({status}){}", process::last_lines(&log, SHOWN_LOG_LINES));
        }
        Ok(())
    }

    fn log_output(&self, output: impl BufRead) -> Result<()> {
        let mut log = &self.log;
        for line in output.split(b'\n') {
            let line = line.context("cannot read the build's output")?;
            let line = String::from_utf8_lossy(&line);
            writeln!(log, "{line}")
                .with_context(|| format!("cannot write {}", self.build.log.display()))?;
            self.progress.output_line(&line);
        }
        Ok(())
    }
}
