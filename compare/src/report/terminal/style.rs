//! Colours and signs, and what stands for them where there are none.

use crate::model::Verdict;

/// What the terminal can show.
#[derive(Clone, Copy)]
pub(super) struct Style {
    pub(super) color: bool,
    pub(super) unicode: bool,
}

impl Style {
    fn paint(&self, code: &str, text: &str) -> String {
        if self.color && !text.trim().is_empty() {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }

    pub(super) fn plain(&self, text: &str) -> String {
        text.to_owned()
    }

    pub(super) fn bold(&self, text: &str) -> String {
        self.paint("1", text)
    }

    pub(super) fn dim(&self, text: &str) -> String {
        self.paint("2", text)
    }

    pub(super) fn bar(&self, text: &str) -> String {
        self.paint("36", text)
    }

    pub(super) fn failure(&self, text: &str) -> String {
        self.paint("31", text)
    }

    /// A verdict's word; only what reached the host is in capitals.
    pub(super) fn verdict(&self, verdict: Verdict, text: &str) -> String {
        match verdict {
            Verdict::Own | Verdict::Contained | Verdict::Refused => self.paint("32", text),
            Verdict::Shared => self.paint("33", text),
            Verdict::Reached => self.paint("1;31", text),
            Verdict::Unclear => self.dim(text),
        }
    }

    /// The number of a footnote.
    pub(super) fn superscript(&self, number: usize) -> String {
        if !self.unicode {
            return format!("[{number}]");
        }
        let digit = |digit: char| match digit {
            '0' => '⁰',
            '1' => '¹',
            '2' => '²',
            '3' => '³',
            '4' => '⁴',
            '5' => '⁵',
            '6' => '⁶',
            '7' => '⁷',
            '8' => '⁸',
            _ => '⁹',
        };
        number.to_string().chars().map(digit).collect()
    }

    /// How many outliers there are.
    pub(super) fn outlier(&self, count: usize) -> String {
        format!("{}{count}", if self.unicode { '°' } else { '^' })
    }

    /// An interval, with signs that there are.
    pub(super) fn interval(&self, interval: &str) -> String {
        if self.unicode { interval.to_owned() } else { interval.replace('±', "+-") }
    }

    /// A bar of at most `width` columns; what isn't nothing can be seen.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it's between 0 and eight times a terminal's width"
    )]
    pub(super) fn bar_of(&self, share: f64, width: usize) -> String {
        let steps = if self.unicode { 8 } else { 1 };
        if !share.is_finite() || share <= 0.0 {
            return String::new();
        }
        let length = ((share.min(1.0) * (width * steps) as f64).round() as usize).max(1);
        if !self.unicode {
            return "#".repeat(length);
        }
        const PARTS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
        format!("{}{}", "█".repeat(length / 8), PARTS[length % 8])
    }
}
