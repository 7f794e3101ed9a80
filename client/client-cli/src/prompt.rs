//! Asking the person at the terminal.

use crate::streams::{raw_terminal, restore_terminal, stdin_is_terminal};
use anyhow::{Context, Result, bail};
use std::io::{Read, Write};

/// A line.
pub(crate) fn line(prompt: &str) -> Result<String> {
    if !stdin_is_terminal() {
        bail!("cannot ask for '{prompt}': standard input is not a terminal");
    }
    eprint!("{prompt}");
    std::io::stderr().flush()?;
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    Ok(line.trim().to_owned())
}

/// A line that is not shown while it is typed.
pub(crate) fn secret(prompt: &str) -> Result<String> {
    if !stdin_is_terminal() {
        bail!("cannot ask for '{prompt}': standard input is not a terminal; use --password-stdin");
    }
    eprint!("{prompt}");
    std::io::stderr().flush()?;
    raw_terminal()?;
    let read = read_secret(&mut std::io::stdin().lock());
    restore_terminal();
    eprintln!();
    read
}

fn read_secret(input: &mut dyn Read) -> Result<String> {
    let mut typed = Vec::new();
    let mut byte = [0u8];
    loop {
        if input.read(&mut byte).context("cannot read the terminal")? == 0 {
            break;
        }
        match byte[0] {
            b'\r' | b'\n' | 4 => break,
            3 => bail!("interrupted"),
            8 | 127 => {
                // The last character, which may have several bytes.
                while typed.pop().is_some_and(|byte: u8| byte & 0xc0 == 0x80) {}
            }
            other => typed.push(other),
        }
    }
    String::from_utf8(typed).context("this is not UTF-8")
}

/// Asks for a yes; anything else is no, and so is nobody there.
pub(crate) fn confirm(warning: &str) -> Result<bool> {
    eprint!("{warning}\nAre you sure you want to continue? [y/N] ");
    std::io::stderr().flush()?;
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    Ok(matches!(line.trim(), "y" | "Y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_ends_at_the_line_and_can_be_corrected() {
        let read = |text: &[u8]| read_secret(&mut &text[..]);
        assert_eq!(read(b"abc\rmore").expect("good"), "abc");
        assert_eq!(read("aä\u{7f}b\n".as_bytes()).expect("good"), "ab");
        assert_eq!(read(b"\x7fa").expect("good"), "a");
        assert!(read(b"a\x03").is_err());
    }
}
