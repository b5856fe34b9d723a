//! Talks to the agent of a container's virtual machine by hand.
//!
//! ```text
//! agentctl SOCKET run [-i] [-t] [-u USER] [-f JSON] COMMAND...   makes the container and runs this
//! agentctl SOCKET exec [-i] [-t] [-u USER] COMMAND...            runs another process in it
//! agentctl SOCKET ps | stats | stat PATH | changes | events | shutdown
//! agentctl SOCKET kill PROCESS SIGNAL
//! agentctl SOCKET cp-out PATH > TAR
//! agentctl SOCKET cp-in DIR < TAR
//! agentctl SOCKET layer > TAR
//! agentctl SOCKET configure JSON
//! ```
//!
//! `-f` takes a file with a `ContainerSpec` whose process's command is replaced. The exit code is the
//! process's.

use std::error::Error;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use agent_proto::{
    ChangeReader, Client, Clock, Configuration, ContainerSpec, ProcessId, ProcessSpec, Request,
    Stdio, Stream, TerminalSize, Upper,
};

type Outcome<T> = Result<T, Box<dyn Error>>;

const TIMEOUT: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(125)),
        Err(error) => {
            eprint!("agentctl: {error}");
            let mut source = error.source();
            while let Some(cause) = source {
                eprint!(": {cause}");
                source = cause.source();
            }
            eprintln!();
            ExitCode::from(125)
        }
    }
}

fn run(arguments: &[String]) -> Outcome<i32> {
    let [socket, command, rest @ ..] = arguments else {
        return Err("usage: agentctl SOCKET COMMAND...".into());
    };
    let socket = Path::new(socket);
    let client = Client::connect(socket, TIMEOUT)?;
    let first = rest.first().map_or("", String::as_str);
    match command.as_str() {
        "run" => return start(socket, &client, &Flags::parse(rest)?, true),
        "exec" => return start(socket, &client, &Flags::parse(rest)?, false),
        "configure" => client.configure(serde_json::from_str(first)?)?,
        "ps" => {
            for process in client.processes()? {
                println!("{process:?}");
            }
        }
        "stats" => println!("{:#?}", client.stats()?),
        "stat" => println!("{:?}", client.stat(first, false)?),
        "kill" => {
            let signal = rest.get(1).ok_or("which signal?")?.parse()?;
            client.signal(ProcessId(first.parse()?), signal, false)?;
        }
        "events" => {
            for event in client.subscribe()? {
                println!("{event:?}");
            }
        }
        "changes" => list_changes(socket, &client)?,
        "layer" => copy(socket, &client, &Request::CopyLayer { freeze: true })?,
        "cp-out" => copy(socket, &client, &Request::CopyOut { path: first.into() })?,
        "cp-in" => {
            let (path, keep_owners, replace) = (first.into(), true, false);
            copy(socket, &client, &Request::CopyIn { path, keep_owners, replace })?;
        }
        "shutdown" => client.shutdown(Duration::from_secs(5))?,
        _ => return Err(format!("unknown command {command:?}").into()),
    }
    Ok(0)
}

#[derive(Default)]
struct Flags {
    interactive: bool,
    terminal: bool,
    user: String,
    file: Option<String>,
    command: Vec<String>,
}

impl Flags {
    fn parse(arguments: &[String]) -> Outcome<Self> {
        let mut flags = Self::default();
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().cloned().ok_or("a flag without its value");
            match argument.as_str() {
                "-i" => flags.interactive = true,
                "-t" => flags.terminal = true,
                "-u" => flags.user = value()?,
                "-f" => flags.file = Some(value()?),
                _ => {
                    flags.command = std::iter::once(argument).chain(arguments).cloned().collect();
                    break;
                }
            }
        }
        Ok(flags)
    }

    fn process(&self) -> ProcessSpec {
        ProcessSpec {
            args: self.command.clone(),
            user: self.user.clone(),
            terminal: self.terminal.then(TerminalSize::default),
            stdio: Stdio { stdin: self.interactive, ..Stdio::default() },
            ..ProcessSpec::default()
        }
    }
}

fn start(socket: &Path, client: &Client, flags: &Flags, create: bool) -> Outcome<i32> {
    let process = if create {
        client.configure(Configuration {
            hostname: "agentctl".into(),
            clock: Some(Clock::now()),
            ..Configuration::default()
        })?;
        let mut spec = match &flags.file {
            Some(file) => serde_json::from_slice(&std::fs::read(file)?)?,
            None => {
                let mut spec = ContainerSpec::default();
                spec.root.upper = Upper::Tmpfs { size_bytes: None };
                spec
            }
        };
        spec.process = ProcessSpec { args: flags.command.clone(), ..flags.process() };
        client.create(spec)?;
        ProcessId::MAIN
    } else {
        client.exec(flags.process())?
    };
    let mut readers = Vec::new();
    let mut input = None;
    if flags.terminal {
        let stream = Client::stream(socket, Stream::Tty { process }, TIMEOUT)?;
        input = Some(stream.try_clone()?);
        readers.push(thread::spawn(move || pour(stream, io::stdout())));
    } else {
        for (stream, is_error) in
            [(Stream::Stdout { process }, false), (Stream::Stderr { process }, true)]
        {
            let stream = Client::stream(socket, stream, TIMEOUT)?;
            readers.push(thread::spawn(move || match is_error {
                false => pour(stream, io::stdout()),
                true => pour(stream, io::stderr()),
            }));
        }
        if flags.interactive {
            input = Some(Client::stream(socket, Stream::Stdin { process }, TIMEOUT)?);
        }
    }
    client.start(process)?;
    if let Some(stream) = input.filter(|_| flags.interactive) {
        thread::spawn(move || {
            let _ = io::copy(&mut io::stdin(), &mut { &stream });
            let _ = stream.shutdown(Shutdown::Write);
        });
    }
    let status = client.wait(process)?;
    for reader in readers {
        reader.join().map_err(|_| "a reader failed")??;
    }
    Ok(status.code)
}

fn pour(mut from: UnixStream, mut to: impl Write) -> io::Result<()> {
    io::copy(&mut from, &mut to)?;
    to.flush()
}

fn list_changes(socket: &Path, client: &Client) -> Outcome<()> {
    let transfer = client.transfer(&Request::Changes)?;
    let mut reader =
        ChangeReader::new(Client::stream(socket, Stream::Transfer { transfer }, TIMEOUT)?);
    while let Some(batch) = reader.next_batch()? {
        for change in batch {
            println!("{:?} {}", change.kind, change.path);
        }
    }
    Ok(client.finish(transfer)?)
}

fn copy(socket: &Path, client: &Client, request: &Request) -> Outcome<()> {
    let transfer = client.transfer(request)?;
    let mut stream = Client::stream(socket, Stream::Transfer { transfer }, TIMEOUT)?;
    if matches!(request, Request::CopyIn { .. }) {
        io::copy(&mut io::stdin(), &mut stream)?;
        stream.shutdown(Shutdown::Write)?;
        stream.read_to_end(&mut Vec::new())?;
    } else {
        io::copy(&mut stream, &mut io::stdout())?;
    }
    Ok(client.finish(transfer)?)
}
