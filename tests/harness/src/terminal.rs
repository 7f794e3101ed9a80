//! A program at a terminal, and what a person sees there.

use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use std::fs::File;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What a program at a terminal left there.
#[derive(Debug)]
pub struct Seen {
    /// `None` where a signal ended it or the limit was reached.
    pub code: Option<i32>,
    /// The lines at the end, without blanks behind them.
    pub lines: Vec<String>,
    /// The lines as they were after each piece of output.
    pub frames: Vec<Vec<String>>,
    /// What a terminal would not have understood.
    pub garbage: Vec<String>,
}

impl Seen {
    pub fn text(&self) -> String {
        self.lines.join("\n")
    }
}

/// Runs a program whose both outputs are a terminal of `columns`, for at most `limit`.
pub fn run_at_terminal(mut command: Command, columns: u16, limit: Duration) -> Seen {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
        .expect("this host has pseudo-terminals");
    grantpt(&ours).expect("granted");
    unlockpt(&ours).expect("unlocked");
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let theirs = ioctl_tiocgptpeer(&ours, flags).expect("its other side");
    let size = Winsize {
        ws_row: 40,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(&theirs, size).expect("its size");
    command
        .env("TERM", "xterm")
        .env_remove("NO_COLOR")
        .env_remove("CLICOLOR")
        .stdin(Stdio::null())
        .stdout(theirs.try_clone().expect("one more descriptor"))
        .stderr(theirs);
    let mut child = command.spawn().expect("the program is there");
    // Its descriptors are the only ones: the end of the program is the end of the output.
    drop(command);
    let reader = std::thread::spawn(move || {
        let mut screen = Screen::new(usize::from(columns));
        let mut frames = Vec::new();
        let mut ours = File::from(ours);
        let mut bytes = [0; 4096];
        // The other side's end is an error here.
        while let Ok(count @ 1..) = ours.read(&mut bytes) {
            screen.write(&bytes[..count]);
            let lines = screen.lines();
            if frames.last() != Some(&lines) {
                frames.push(lines);
            }
        }
        (screen, frames)
    });
    let end = Instant::now() + limit;
    let code = loop {
        match child.try_wait().expect("our own child can be waited for") {
            Some(status) => break status.code(),
            None if Instant::now() > end => {
                let _ = child.kill();
                let _ = child.wait();
                break None;
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    let (screen, frames) = reader.join().expect("the screen takes everything");
    Seen {
        code,
        lines: screen.lines(),
        frames,
        garbage: screen.garbage,
    }
}

/// As much of a terminal as programs use that draw lines over lines.
struct Screen {
    columns: usize,
    cells: Vec<Vec<char>>,
    row: usize,
    column: usize,
    /// Bytes of a character or an order that is not whole yet.
    rest: Vec<u8>,
    garbage: Vec<String>,
}

impl Screen {
    fn new(columns: usize) -> Screen {
        Screen {
            columns,
            cells: vec![Vec::new()],
            row: 0,
            column: 0,
            rest: Vec::new(),
            garbage: Vec::new(),
        }
    }

    fn lines(&self) -> Vec<String> {
        let text = |cells: &Vec<char>| cells.iter().collect::<String>().trim_end().to_owned();
        let mut lines: Vec<String> = self.cells.iter().map(text).collect();
        while lines.last().is_some_and(String::is_empty) {
            lines.pop();
        }
        lines
    }

    fn write(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        let bytes = std::mem::take(&mut self.rest);
        let whole = match std::str::from_utf8(&bytes) {
            Ok(_) => bytes.len(),
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            Err(error) => {
                let bad = String::from_utf8_lossy(&bytes[error.valid_up_to()..]).into_owned();
                self.garbage.push(bad);
                error.valid_up_to()
            }
        };
        let text = String::from_utf8_lossy(&bytes[..whole]).into_owned();
        let mut left = text.as_str();
        while let Some(letter) = left.chars().next() {
            let behind = &left[letter.len_utf8()..];
            left = match letter {
                '\x1b' => match self.order(behind) {
                    Some(behind) => behind,
                    None => break,
                },
                letter => {
                    self.letter(letter);
                    behind
                }
            };
        }
        self.rest = left.as_bytes().to_vec();
        self.rest.extend_from_slice(&bytes[whole..]);
    }

    fn letter(&mut self, letter: char) {
        match letter {
            '\r' => self.column = 0,
            '\n' => self.down(1),
            letter if letter.is_control() => self.garbage.push(format!("{letter:?}")),
            letter => {
                if self.column == self.columns {
                    self.column = 0;
                    self.down(1);
                }
                let line = &mut self.cells[self.row];
                if line.len() <= self.column {
                    line.resize(self.column + 1, ' ');
                }
                line[self.column] = letter;
                self.column += 1;
            }
        }
    }

    fn down(&mut self, rows: usize) {
        self.row += rows;
        if self.cells.len() <= self.row {
            self.cells.resize(self.row + 1, Vec::new());
        }
    }

    /// Does what stands behind an escape; answers what follows. `None`: it is not whole.
    fn order<'t>(&mut self, text: &'t str) -> Option<&'t str> {
        let mut letters = text.char_indices();
        if letters.next()?.1 != '[' {
            self.garbage.push(format!("escape {text:?}"));
            return Some(text);
        }
        let (at, what) = letters.find(|(_, letter)| ('@'..='~').contains(letter))?;
        let number = text[1..at].parse().unwrap_or(1_usize);
        let line = &mut self.cells[self.row];
        match (&text[1..at], what) {
            (_, 'A') => self.row = self.row.saturating_sub(number),
            (_, 'B') => self.down(number),
            (_, 'C') => self.column = (self.column + number).min(self.columns - 1),
            (_, 'D') => self.column = self.column.saturating_sub(number),
            ("" | "0", 'K') => line.truncate(self.column),
            ("2", 'K') => line.clear(),
            ("" | "0", 'J') => {
                line.truncate(self.column);
                self.cells.truncate(self.row + 1);
            }
            // Colours, and whether the cursor is seen.
            (_, 'm') | ("?25", 'h' | 'l') => {}
            (parameters, what) => self.garbage.push(format!("escape [{parameters}{what}")),
        }
        Some(&text[at + what.len_utf8()..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_drawn_over_lines() {
        let mut screen = Screen::new(10);
        screen.write(b"one\r\ntwo\x1b[1A\r\x1b[2K\xc3");
        screen.write(b"\xa4\r\nTWO\x1b[2");
        screen.write(b"m longer than it");
        assert_eq!(screen.lines(), ["\u{e4}", "TWO longer", " than it"]);
        assert!(screen.garbage.is_empty());
        screen.write(b"\x07\x1b[5n");
        assert_eq!(screen.garbage.len(), 2);
    }

    #[test]
    fn a_program_has_a_terminal() {
        let mut command = Command::new("sh");
        command.args(["-c", "test -t 1 && test -t 2 && echo yes && exit 3"]);
        let seen = run_at_terminal(command, 80, Duration::from_secs(20));
        assert_eq!((seen.code, seen.text().as_str()), (Some(3), "yes"));
    }
}
