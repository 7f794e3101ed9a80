//! What a person sees while an image is built: bars on a terminal, plain lines elsewhere, nothing in tests.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;

/// Where progress goes. All of it is written to standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Says nothing.
    Silent,
    /// One line a step and a download.
    Lines,
    /// A line a step, a moving bar a download.
    Bars,
}

impl Progress {
    /// Bars where standard error is a terminal, else lines.
    pub fn for_stderr() -> Progress {
        if std::io::stderr().is_terminal() {
            Progress::Bars
        } else {
            Progress::Lines
        }
    }

    /// Tells of a step or a remark.
    pub fn step(self, text: &str) {
        if self != Progress::Silent {
            eprintln!("{text}");
        }
    }

    /// Begins a download of `total` bytes, where that is known.
    pub(crate) fn download(self, name: &str, total: Option<u64>) -> Transfer {
        let size = total
            .map(megabytes)
            .unwrap_or_else(|| "size unknown".into());
        let bar = match self {
            Progress::Silent => ProgressBar::hidden(),
            Progress::Lines => {
                eprintln!("  fetching {name} ({size})");
                ProgressBar::hidden()
            }
            Progress::Bars => {
                let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
                let style = ProgressStyle::with_template(
                    "  {msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}",
                )
                .expect("the template is a constant that indicatif accepts");
                bar.set_style(style);
                bar.set_message(name.to_owned());
                bar
            }
        };
        Transfer { bar }
    }
}

/// One download under way; the bar disappears with it.
pub(crate) struct Transfer {
    bar: ProgressBar,
}

impl Transfer {
    pub(crate) fn received(&self, bytes: u64) {
        self.bar.inc(bytes);
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// `12.3 MB` for a number of bytes (MB = 1,000,000 bytes, as download sizes are given everywhere).
pub fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
