//! Processes: the keeper that outlives the program which started it, and those that are known by their number.

use super::told;
use crate::qemu::process::ProcessId;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::windows::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::sync::OnceLock;
use winsafe::co;
use winsafe::guard::{CloseHandleGuard, CloseHandlePiGuard};

const CREATE_NO_WINDOW: u32 = 0x0800_0000;
/// What a process that is ended by force leaves behind.
const KILLED: u32 = 1;

/// When the process with this number started, in ticks of 100 ns; `None` when there is none or it has ended.
pub(in crate::qemu) fn started(pid: u32) -> Option<u64> {
    let rights = co::PROCESS::QUERY_LIMITED_INFORMATION | co::PROCESS::SYNCHRONIZE;
    let process = open(pid, rights)?;
    start_of(&process)
}

/// Ends the process if it is still the same one: an open process keeps its number.
pub(in crate::qemu) fn terminate(process: ProcessId) {
    let rights =
        co::PROCESS::QUERY_LIMITED_INFORMATION | co::PROCESS::SYNCHRONIZE | co::PROCESS::TERMINATE;
    if let Some(open) = open(process.pid, rights)
        && start_of(&open) == Some(process.started)
    {
        let _ = open.TerminateProcess(KILLED);
    }
}

fn open(pid: u32, rights: co::PROCESS) -> Option<CloseHandleGuard<winsafe::HPROCESS>> {
    winsafe::HPROCESS::OpenProcess(rights, false, pid).ok()
}

fn start_of(process: &winsafe::HPROCESS) -> Option<u64> {
    // Somebody may hold on to a process that has ended.
    if process.WaitForSingleObject(Some(0)).ok()? != co::WAIT::TIMEOUT {
        return None;
    }
    let (created, ..) = process.GetProcessTimes().ok()?;
    Some(u64::from(created.dwHighDateTime) << 32 | u64::from(created.dwLowDateTime))
}

/// A keeper, as `std::process::Child` is one elsewhere.
pub(in crate::qemu) struct Child {
    process: CloseHandlePiGuard,
}

impl Child {
    pub(in crate::qemu) fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        match self.process.hProcess.WaitForSingleObject(Some(0)) {
            Ok(co::WAIT::TIMEOUT) => Ok(None),
            Ok(_) => self.status().map(Some),
            Err(error) => Err(told(error)),
        }
    }

    pub(in crate::qemu) fn wait(&mut self) -> io::Result<ExitStatus> {
        let waited = self.process.hProcess.WaitForSingleObject(None);
        waited.map_err(told)?;
        self.status()
    }

    pub(in crate::qemu) fn kill(&mut self) -> io::Result<()> {
        self.process.hProcess.TerminateProcess(KILLED).map_err(told)
    }

    fn status(&self) -> io::Result<ExitStatus> {
        let code = self.process.hProcess.GetExitCodeProcess().map_err(told)?;
        Ok(ExitStatus::from_raw(code))
    }
}

/// Starts the keeper. Not with `std`, whose children inherit what this program itself was given: a script that reads
/// `machine create`'s output would wait for the keeper's end. So it gets nothing, and opens its log by itself.
pub(in crate::qemu) fn start_keeper(
    program: &Path,
    arguments: &[&OsStr],
    log: &Path,
    forget_log: bool,
) -> io::Result<Child> {
    match forget_log {
        true => drop(File::create(log)?),
        false => drop(OpenOptions::new().create(true).append(true).open(log)?),
    }
    let text = |word: &OsStr| {
        word.to_str()
            .map(quoted)
            .ok_or_else(|| io::Error::other(format!("{} is no text", Path::new(word).display())))
    };
    let mut line = text(program.as_os_str())?;
    for argument in arguments {
        line.push(' ');
        line.push_str(&text(argument)?);
    }
    // Not the creator's folder: where a process is cannot be removed.
    let folder = std::env::var("SystemRoot").unwrap_or_else(|_| r"C:\".to_owned());
    let process = winsafe::CreateProcess(
        program.to_str(),
        Some(&line),
        None,
        None,
        false,
        co::CREATE::DETACHED_PROCESS | co::CREATE::NEW_PROCESS_GROUP,
        &[],
        Some(&folder),
        &mut winsafe::STARTUPINFO::default(),
    );
    Ok(Child {
        process: process.map_err(told)?,
    })
}

/// A word of a command line, as programs of Windows take it apart again.
fn quoted(word: &str) -> String {
    if !word.is_empty() && !word.contains([' ', '\t', '"']) {
        return word.to_owned();
    }
    let mut text = String::from('"');
    let mut backslashes = 0;
    for letter in word.chars() {
        match letter {
            '\\' => backslashes += 1,
            '"' => {
                // Before a quotation mark backslashes count double.
                text.push_str(&"\\".repeat(backslashes + 1));
                backslashes = 0;
            }
            _ => backslashes = 0,
        }
        text.push(letter);
    }
    text.push_str(&"\\".repeat(backslashes));
    text.push('"');
    text
}

static LOG: OnceLock<File> = OnceLock::new();

/// The keeper's first step: it was given no place to write to.
pub(in crate::qemu) fn begin_keeping(log: &Path) {
    if let Ok(file) = OpenOptions::new().create(true).append(true).open(log) {
        let _ = LOG.set(file);
    }
}

/// The keeper's log.
pub(in crate::qemu) fn log() -> impl Write {
    match LOG.get() {
        Some(file) => Box::new(file) as Box<dyn Write>,
        None => Box::new(io::stderr()),
    }
}

/// A program with a console would show one.
pub(in crate::qemu) fn in_background(command: &mut Command) -> &mut Command {
    command.creation_flags(CREATE_NO_WINDOW)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_as_programs_read_them() {
        for (word, text) in [
            ("plain", "plain"),
            (r"C:\a\b", r"C:\a\b"),
            ("", "\"\""),
            (r"C:\Program Files\x", "\"C:\\Program Files\\x\""),
            (r"C:\a b\", "\"C:\\a b\\\\\""),
            ("a\"b", "\"a\\\"b\""),
            ("a\\\"b", "\"a\\\\\\\"b\""),
        ] {
            assert_eq!(quoted(word), text, "{word}");
        }
    }
}
