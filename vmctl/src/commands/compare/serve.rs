//! `vmctl compare --serve`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;

use compare::comparison::Comparison;
use compare::interrupt::Interrupt;
use compare::model::{Row, Workload};
use compare::serve::{Server, Show, WorkloadRunner};
use compare::workloads::Observer;
use log::LevelFilter;

use super::{Target, prepare};
use crate::errors::CliError;
use crate::errors::compare::CompareError;
use crate::output;

/// Serves the live page until Ctrl-C.
pub(super) fn run(
    target: &Target<'_>,
    address: SocketAddr,
    allow_remote: bool,
    level: LevelFilter,
) -> Result<u8, CliError> {
    // A port that's taken is known before anything is pulled or mounted.
    let server = Server::bind(Some(address), allow_remote).map_err(CompareError::from)?;
    let (comparison, signals) = prepare(target, level)?;
    let comparison = Arc::new(comparison);
    let show = Show {
        image: comparison.image().reference.clone(),
        runners: comparison.runners().to_vec(),
        spec: comparison.spec(),
        rows: Vec::new(),
        workloads: comparison.workloads().to_vec(),
        workload_runner: Some(Arc::new(Again { comparison, interrupt: signals.clone() })),
    };
    output::print(&format!(
        "{}\nCtrl-C ends it, and removes what it has started.\n",
        server.url()
    ))?;
    let stop = server.stop_handle();
    let waiting = signals.clone();
    thread::spawn(move || {
        waiting.wait();
        stop.stop();
    });
    let served = server.run(show).map_err(CompareError::from);
    // The thread ends with this, however the server ended.
    signals.tell();
    served?;
    Ok(api::exit::STOPPED)
}

/// Measures workloads again, for the page.
struct Again {
    comparison: Arc<Comparison>,
    interrupt: Interrupt,
}

impl WorkloadRunner for Again {
    fn run(&self, workload: Workload, progress: &dyn Fn(String)) -> Result<Vec<Row>, String> {
        // Where it's told from isn't where it's heard.
        let (sender, texts) = std::sync::mpsc::channel();
        thread::scope(|scope| {
            let measuring = scope.spawn(move || {
                self.comparison.run_workload(workload, &Sender(std::sync::Mutex::new(sender)))
            });
            for text in texts {
                progress(text);
            }
            let report = measuring.join().map_err(|_| "the measurement broke off".to_owned())?;
            if report.rows.is_empty() {
                return Err(report.notes.last().cloned().unwrap_or_else(|| "no rows".to_owned()));
            }
            Ok(report.rows)
        })
    }

    fn cancel(&self) {
        self.interrupt.tell();
    }
}

/// Passes on what a measurement says.
struct Sender(std::sync::Mutex<std::sync::mpsc::Sender<String>>);

impl Observer for Sender {
    fn progress(&self, text: &str) {
        let sender = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // Nobody listens any more once the page is gone.
        let _ = sender.send(text.to_owned());
    }
}
