//! Talking to the person: progress lines, questions, Ctrl-C.

use machine_core::driver::Progress;
use std::io::{self, BufRead, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Where lines go and whether Ctrl-C was pressed.
pub(crate) struct Console {
    on_stderr: bool,
    interrupted: Arc<AtomicBool>,
}

impl Console {
    /// With `on_stderr` progress goes to stderr: stdout is read by a shell.
    pub(crate) fn new(on_stderr: bool) -> Console {
        Console {
            on_stderr,
            interrupted: Arc::new(AtomicBool::new(false)),
        }
    }

    /// From now on the first Ctrl-C asks for an orderly end and the second one ends the program at once.
    pub(crate) fn catch_interrupts(&self) -> io::Result<()> {
        use signal_hook::consts::{SIGINT, SIGTERM};
        use signal_hook::flag;
        let signals = [
            SIGINT,
            SIGTERM,
            // The terminal was closed.
            #[cfg(unix)]
            signal_hook::consts::SIGHUP,
        ];
        for signal in signals {
            let flagged = self.interrupted.clone();
            // In this order: the first signal finds the flag still down.
            flag::register_conditional_shutdown(
                signal,
                i32::from(crate::exit_code::INTERRUPTED),
                flagged.clone(),
            )?;
            flag::register(signal, flagged)?;
        }
        Ok(())
    }

    /// A line of output. A reader that went away is no reason to stop half-way.
    pub(crate) fn print(&self, line: &str) {
        let _ = writeln!(io::stdout(), "{line}");
    }

    /// A remark that belongs to no program's input.
    pub(crate) fn say_to_person(&self, line: &str) {
        let _ = writeln!(io::stderr(), "{line}");
    }

    pub(crate) fn warn(&self, line: &str) {
        let _ = writeln!(io::stderr(), "Warning: {line}");
    }

    /// Asks until the answer begins with y or n; `None` when nobody answers.
    pub(crate) fn ask(&self, question: &str) -> io::Result<Option<bool>> {
        loop {
            print!("{question} (y/n): ");
            io::stdout().flush()?;
            let mut answer = String::new();
            if io::stdin().lock().read_line(&mut answer)? == 0 {
                println!();
                return Ok(None);
            }
            match answer.trim().to_ascii_lowercase().as_str() {
                "y" | "yes" => return Ok(Some(true)),
                "n" | "no" => return Ok(Some(false)),
                _ => {}
            }
        }
    }
}

impl Progress for Console {
    fn say(&self, line: &str) {
        let _ = match self.on_stderr {
            true => writeln!(io::stderr(), "{line}"),
            false => writeln!(io::stdout(), "{line}"),
        };
    }

    fn interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }
}
