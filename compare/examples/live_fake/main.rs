//! The live page with nothing behind it: `cargo run -p compare --example live_fake`. It ends with its
//! standard input.

mod fake;

use std::io::Read;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use compare::model::WayId;
use compare::serve::Server;
use compare::ways::Runner;
use fake::{Act, Does, FakeRunner};

/// A boot of so many milliseconds, that many lines long.
fn boot(millis: u64, lines: u64) -> Vec<Act> {
    let at = |share: u64, does| Act { after: Duration::from_millis(millis * share / 100), does };
    let mut script = vec![at(0, Does::Step("command started"))];
    if lines > 1 {
        script.push(at(10, Does::Step("VMM started")));
        script.push(at(25, Does::Step("kernel entered")));
    }
    for line in 0..lines {
        let seconds = millis as f64 / 1000.0 * (line as f64) / lines as f64;
        let text = format!("[{seconds:9.6}] \x1b[32mfake\x1b[0m: line {line} of the start\r\n");
        script.push(at(30 + line * 60 / lines, Does::Print(text.into_bytes())));
    }
    script.push(at(100, Does::Step("ready")));
    script.push(at(100, Does::Print(b"/docker-entrypoint.sh: ready for start up\r\n".to_vec())));
    script
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let runners = [
        (WayId::Container, boot(120, 1)),
        (WayId::MicrovmCold, boot(480, 60)),
        (WayId::MicrovmWarm, boot(160, 4)),
        (WayId::FullVm, boot(9000, 400)),
    ];
    let runners =
        runners.map(|(way, script)| Arc::new(FakeRunner::new(way, script)) as Arc<dyn Runner>);
    let server = Server::bind(None, false)?;
    println!("{}", server.url());
    let stop = server.stop_handle();
    thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        stop.stop();
    });
    server.run(fake::show(runners.to_vec()))?;
    Ok(())
}
