//! How a transfer goes: a bar per layer on a terminal, a line per change elsewhere.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use image::Progress;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::format::one_line;

/// Where progress is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    /// Of `pull` and `push`, whose result it is.
    Stdout,
    /// Of `run`, whose standard output is the container's.
    Stderr,
}

/// Layers on their way.
#[derive(Debug)]
pub(super) struct Layers {
    stream: Stream,
    /// None if the stream is no terminal.
    bars: Option<MultiProgress>,
    layers: Mutex<BTreeMap<String, Layer>>,
}

/// What's shown of a layer.
#[derive(Debug, Default)]
struct Layer {
    state: &'static str,
    bar: Option<ProgressBar>,
    /// Whether the bar shows an amount.
    has_amount: bool,
}

impl Stream {
    fn is_terminal(self) -> bool {
        match self {
            Self::Stdout => io::stdout().is_terminal(),
            Self::Stderr => io::stderr().is_terminal(),
        }
    }

    fn target(self) -> ProgressDrawTarget {
        match self {
            Self::Stdout => ProgressDrawTarget::stdout(),
            Self::Stderr => ProgressDrawTarget::stderr(),
        }
    }

    /// Writes a line. A reader that has gone keeps no transfer from its end.
    pub(super) fn line(self, text: &str) {
        let line = format!("{}\n", one_line(text));
        let _ = match self {
            Self::Stdout => io::stdout().write_all(line.as_bytes()),
            Self::Stderr => io::stderr().write_all(line.as_bytes()),
        };
    }
}

impl Layers {
    pub(super) fn new(stream: Stream) -> Self {
        let bars = stream.is_terminal().then(|| MultiProgress::with_draw_target(stream.target()));
        Self { stream, bars, layers: Mutex::default() }
    }

    /// Leaves what's shown as it is.
    pub(super) fn finish(&self) {
        for layer in self.lock().values() {
            if let Some(bar) = &layer.bar {
                bar.abandon();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Layer>> {
        self.layers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what's shown of a layer.
    fn change(&self, id: &str, change: impl FnOnce(&mut Layer)) {
        let mut layers = self.lock();
        let layer = layers.entry(id.to_owned()).or_default();
        if let Some(bars) = &self.bars
            && layer.bar.is_none()
        {
            let bar = bars.add(ProgressBar::new(0).with_style(plain()));
            bar.set_prefix(one_line(id));
            layer.bar = Some(bar);
        }
        change(layer);
    }
}

impl Progress for Layers {
    fn layer(&self, id: &str, state: &'static str) {
        self.change(id, |layer| {
            let is_new = layer.state != state;
            layer.state = state;
            match &layer.bar {
                Some(bar) => {
                    bar.set_style(plain());
                    bar.set_message(state);
                    layer.has_amount = false;
                }
                None if is_new => self.stream.line(&format!("{id}: {state}")),
                None => {}
            }
        });
    }

    fn bytes(&self, id: &str, done: u64, total: u64) {
        if self.bars.is_none() {
            return;
        }
        self.change(id, |layer| {
            let Some(bar) = &layer.bar else { return };
            if !layer.has_amount {
                bar.set_style(with_amount());
                layer.has_amount = true;
            }
            bar.set_length(total);
            bar.set_position(done);
        });
    }

    fn note(&self, text: &str) {
        match &self.bars {
            // Above the bars.
            Some(bars) => {
                let _ = bars.println(one_line(text));
            }
            None => self.stream.line(text),
        }
    }
}

fn plain() -> ProgressStyle {
    style("{prefix}: {msg}")
}

fn with_amount() -> ProgressStyle {
    style("{prefix}: {msg:11} [{bar:30}] {decimal_bytes}/{decimal_total_bytes}")
}

fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template);
    style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}
