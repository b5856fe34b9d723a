//! The emulated machine: QEMU's command line and the channels to what runs inside.

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::Spec;
use crate::debian_kernel::DebianKernel;
use crate::process;

/// The name of the emulator, from the package `qemu-system-x86`.
const QEMU: &str = "qemu-system-x86_64";

/// How long QEMU may take to connect to our sockets; it does so before it starts the machine.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);

/// A running QEMU, killed when dropped.
pub(crate) struct Machine {
    child: Child,
}

/// Connections to what runs in the machine.
pub(crate) struct Channels {
    /// Standard input, output and error; or, for a terminal, one that is all three.
    pub(crate) command: CommandChannels,
    /// Lines of text, see `stage2`.
    pub(crate) control: UnixStream,
}

/// How the command's input and output travel.
pub(crate) enum CommandChannels {
    /// Over a terminal of its own.
    Terminal(UnixStream),
    /// Over a stream each.
    Streams { stdin: UnixStream, stdout: UnixStream, stderr: UnixStream },
}

/// The files of one run.
pub(crate) struct Files<'a> {
    /// Directory of this run: sockets, the command's script, QEMU's and the kernel's output.
    pub(crate) run_dir: &'a Path,
    /// The initramfs.
    pub(crate) initramfs: &'a Path,
    /// The kernel.
    pub(crate) kernel: &'a DebianKernel,
}

impl Files<'_> {
    /// Returns where the lab kernel's messages go.
    pub(crate) fn kernel_log(&self) -> PathBuf {
        self.run_dir.join("kernel.log")
    }

    /// Returns where QEMU's own messages go.
    pub(crate) fn qemu_log(&self) -> PathBuf {
        self.run_dir.join("qemu.log")
    }
}

impl Machine {
    /// Starts QEMU and waits until it has connected all channels.
    ///
    /// # Errors
    ///
    /// Fails when QEMU can't be started or refuses its configuration.
    pub(crate) fn start(
        spec: &Spec,
        terminal: bool,
        files: &Files<'_>,
    ) -> Result<(Self, Channels)> {
        let names: &[&str] = if terminal {
            &["terminal", "control"]
        } else {
            &["stdin", "stdout", "stderr", "control"]
        };
        let listeners = names
            .iter()
            .map(|name| listen(&files.run_dir.join(name)))
            .collect::<Result<Vec<UnixListener>>>()?;

        let mut command = qemu(spec, terminal, files)?;
        let log = std::fs::File::create(files.qemu_log()).context("cannot create QEMU's log")?;
        let errors = log.try_clone().context("cannot share QEMU's log")?;
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        let child = command.spawn().map_err(|error| process::spawn_error(&command, error))?;
        let mut machine = Self { child };

        let mut streams = Vec::new();
        for listener in &listeners {
            streams.push(machine.accept(listener, &files.qemu_log())?);
        }
        let control = streams.pop().context("the control channel is the last one")?;
        let command = match <[UnixStream; 3]>::try_from(streams) {
            Ok([stdin, stdout, stderr]) => CommandChannels::Streams { stdin, stdout, stderr },
            Err(mut streams) => {
                CommandChannels::Terminal(streams.pop().context("a terminal is one channel")?)
            }
        };
        Ok((machine, Channels { command, control }))
    }

    /// Kills QEMU and waits for its end.
    pub(crate) fn kill(&mut self) -> io::Result<ExitStatus> {
        self.child.kill()?;
        self.child.wait()
    }

    fn accept(&mut self, listener: &UnixListener, log: &Path) -> Result<UnixStream> {
        // Sockets can't be waited for together with a child's end: look at both in turns.
        let deadline = Instant::now() + CONNECT_LIMIT;
        loop {
            match listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false).context("cannot set up a channel to QEMU")?;
                    return Ok(stream);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("cannot accept QEMU's connection"),
            }
            if let Some(status) = self.child.try_wait().context("cannot watch QEMU")? {
                let text = std::fs::read_to_string(log).unwrap_or_default();
                bail!("{QEMU} ended early ({status}){}", process::last_lines(&text, 15));
            }
            if Instant::now() > deadline {
                bail!("{QEMU} didn't connect within {} s", CONNECT_LIMIT.as_secs());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended by itself; a zombie is all that could be left, and it is reaped here.
        let _ = self.kill();
    }
}

fn listen(path: &Path) -> Result<UnixListener> {
    let listener =
        UnixListener::bind(path).with_context(|| format!("cannot bind {}", path.display()))?;
    listener.set_nonblocking(true).with_context(|| format!("cannot set up {}", path.display()))?;
    Ok(listener)
}

fn qemu(spec: &Spec, terminal: bool, files: &Files<'_>) -> Result<Command> {
    let mut command = Command::new(QEMU);
    command.args(["-no-user-config", "-nodefaults", "-display", "none", "-no-reboot"]);
    command.args(["-M", "q35,hpet=off,smbus=off,sata=off,vmport=off", "-cpu", "max"]);
    command.args(["-m", &spec.memory]);
    if spec.icount {
        // Each instruction takes 2 ns of the lab's time; one thread, or there would be no order.
        command.args(["-accel", "tcg,thread=single", "-icount", "shift=1,sleep=off"]);
    } else {
        command.args(["-accel", "tcg,thread=multi"]);
    }
    command.args(["-smp", &spec.cpus.to_string()]);
    command.args(["-serial", &format!("file:{}", path_option(&files.kernel_log())?)]);

    command.arg("-kernel").arg(files.kernel.image());
    command.arg("-initrd").arg(files.initramfs);
    command.args(["-append", &kernel_command_line(spec, terminal, files)?]);

    command.args(["-virtfs", &share("root", Path::new("/"), ",readonly=on")?]);
    if let Some(results) = &spec.results {
        command.args(["-virtfs", &share("results", results, "")?]);
    }
    add_channels(&mut command, terminal, files)?;
    Ok(command)
}

fn kernel_command_line(spec: &Spec, terminal: bool, files: &Files<'_>) -> Result<String> {
    // The kernel hands variables that it doesn't know to /init as its environment. There is
    // nothing to protect in here, so the CPU's weaknesses aren't worked around.
    let modules = files.kernel.modules();
    Ok(format!(
        "console=ttyS0 quiet panic=-1 mitigations=off nokaslr random.trust_cpu=on tsc=reliable \
         LAB_DIR={} LAB_MODULES={} LAB_RESULTS={} LAB_CONSOLE={}",
        plain(files.run_dir)?,
        plain(&modules)?,
        if spec.results.is_some() { super::RESULTS_DIR } else { "" },
        if terminal { "terminal" } else { "streams" },
    ))
}

fn add_channels(command: &mut Command, terminal: bool, files: &Files<'_>) -> Result<()> {
    command.args(["-device", "virtio-serial-pci"]);
    let mut add = |device: &str, port: usize, name: &str| -> Result<()> {
        let path = path_option(&files.run_dir.join(name))?;
        command.args(["-chardev", &format!("socket,id={name},path={path}")]);
        command.args(["-device", &format!("{device},chardev={name},nr={port}")]);
        Ok(())
    };
    if terminal {
        add("virtconsole", 0, "terminal")?;
    } else {
        for (port, name) in [(1, "stdin"), (2, "stdout"), (3, "stderr")] {
            add("virtserialport", port, name)?;
        }
    }
    add("virtserialport", 4, "control")
}

fn share(tag: &str, path: &Path, more: &str) -> Result<String> {
    let path = path_option(path)?;
    Ok(format!("local,path={path},mount_tag={tag},security_model=none,multidevs=remap{more}"))
}

/// Writes a path as part of an option's value, in which QEMU wants commas doubled.
fn path_option(path: &Path) -> Result<String> {
    let path = path.to_str().with_context(|| format!("{} isn't UTF-8", path.display()))?;
    Ok(path.replace(',', ",,"))
}

/// Writes a path as a word of the kernel's command line.
fn plain(path: &Path) -> Result<&str> {
    let text = path.to_str().filter(|text| !text.contains(['"', ' ', '\t', '\n']));
    text.with_context(|| format!("the lab can't use a directory with spaces: {}", path.display()))
}
