//! A machine's keeper, asked by `machine`; replaced where it was killed; ended with all that it kept.

use super::boot;
use super::files::Files;
use super::keeper::status::{Conversation, Heard, KeeperRecord, Request, Status};
use super::process::ProcessId;
use super::system;
use machine_core::driver::DriverError;
use std::path::Path;
use std::time::{Duration, Instant};

const STATUS_LIMIT: Duration = Duration::from_secs(5);
/// How long a keeper that lives may not listen.
const LISTENS_WITHIN: Duration = Duration::from_secs(20);

pub(super) fn finish(files: &Files) -> Result<(), DriverError> {
    if boot::end(files, None) {
        return Ok(());
    }
    Err(DriverError::failed(
        format!("end the machine in {}", files.folder().display()),
        "its processes do not end",
    ))
}

/// What asking the keeper for its status brought.
pub(super) enum Asked {
    Status(Box<Status>),
    /// There is no keeper.
    Nobody,
    /// It ended while it was asked.
    End,
    Silence,
}

pub(super) fn ask(files: &Files) -> Asked {
    let Ok(mut conversation) = Conversation::open(&files.keeper_socket(), Request::Status) else {
        return Asked::Nobody;
    };
    let deadline = Instant::now() + STATUS_LIMIT;
    while Instant::now() < deadline {
        match conversation.listen(Duration::from_millis(200)) {
            Heard::Status(status) => return Asked::Status(Box::new(status)),
            Heard::Nothing => {}
            Heard::End => return Asked::End,
        }
    }
    Asked::Silence
}

/// The same; a machine whose keeper was killed gets another one first, which is `keeper`'s program.
pub(super) fn ask_or_adopt(files: &Files, keeper: &Path) -> Result<Asked, DriverError> {
    let deadline = Instant::now() + LISTENS_WITHIN;
    loop {
        let asked = ask(files);
        if !matches!(asked, Asked::Nobody | Asked::End) {
            return Ok(asked);
        }
        // Usually the machine is just off.
        let Some(record) = KeeperRecord::load(files) else {
            return Ok(asked);
        };
        let lives = |process: Option<ProcessId>| process.is_some_and(ProcessId::is_alive);
        match (lives(record.keeper), lives(record.vm)) {
            // It has just been started by another verb, or was killed this very moment.
            (true, true) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(50));
            }
            (true, _) => return Ok(asked),
            (false, false) => break,
            (false, true) => {
                if !system::QEMU_OUTLIVES_ITS_KEEPER {
                    boot::note(files, "keeper: was gone; its QEMU is ended");
                    break;
                }
                boot::note(files, "keeper: was gone; another takes its QEMU over");
                match boot::adopt(files, keeper) {
                    Ok(()) => return Ok(ask(files)),
                    // Without ports, clock and anyone to stop it in order it is of no use.
                    Err(why) => boot::note(files, &format!("keeper: QEMU is ended: {why}")),
                }
                break;
            }
        }
    }
    finish(files)?;
    Ok(Asked::Nobody)
}
