//! From a plan to a machine whose engine answers: starts the keeper and follows the guest's own account of its boot.

use super::files::Files;
use super::keeper::status::{Conversation, Heard, KeeperRecord, Request, Status};
use super::keeper::{ADOPT, TAKEN, VERB, VmPlan};
use super::system::{self, Child};
use guest_contract::readiness::Stage;
use machine_core::driver::{DriverError, Progress, SeedFiles};
use machine_core::store::atomic;
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long the keeper may take to answer its socket.
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);
/// How long a keeper may take that takes over from another, until the guest has told how it is.
const ADOPTS_WITHIN: Duration = Duration::from_secs(30);
/// Then another is started; one too many sees that it is not needed and ends.
const ATTEMPT: Duration = Duration::from_secs(6);
const GONE_WITHIN: Duration = Duration::from_secs(10);
/// How often Ctrl-C is looked for.
const GLANCE: Duration = Duration::from_millis(50);
/// The sshd of a guest starts beside its engine; after this long the machine is used without it.
const SSH_WITHIN: Duration = Duration::from_secs(20);
/// So many of the console's last lines are shown.
const CONSOLE_LINES: usize = 20;

/// How long a stage may take. Generous: an emulated machine on a busy computer is slow, a stuck one is caught anyway.
fn limit(stage: Stage) -> Duration {
    Duration::from_secs(match stage {
        Stage::Kernel => 120,
        Stage::Disk => 120,
        Stage::Network => 60,
        Stage::Engine => 60,
        Stage::Api => 120,
    })
}

/// Writes the seed as a tar stream that only its owner can read: the server's key is in it.
pub fn write_seed(path: &Path, seed: &SeedFiles) -> Result<(), DriverError> {
    let failed = |error| DriverError::failed(format!("write the seed {}", path.display()), error);
    let mut builder = tar::Builder::new(Vec::new());
    for (name, contents) in &seed.files {
        let mut header = tar::Header::new_ustar();
        header.set_size(contents.len() as u64);
        header.set_mode(0o600);
        header.set_cksum();
        builder
            .append_data(&mut header, name, &contents[..])
            .map_err(failed)?;
    }
    let bytes = builder.into_inner().map_err(failed)?;
    if bytes.len() as u64 > guest_contract::seed::MAX_SEED_BYTES {
        return Err(failed(std::io::Error::other(format!(
            "it has {} bytes, a guest reads at most {}",
            bytes.len(),
            guest_contract::seed::MAX_SEED_BYTES
        ))));
    }
    atomic::write(path, &bytes).map_err(failed)
}

/// Starts the machine and returns when its engine answers, and its sshd at `ssh`. After an error nothing of it runs.
pub fn run(
    files: &Files,
    plan: &VmPlan,
    ssh: (Ipv4Addr, u16),
    keeper: &Path,
    progress: &dyn Progress,
) -> Result<(), DriverError> {
    let text = serde_json::to_vec_pretty(plan).expect("plain data");
    atomic::write(&files.plan(), &text)
        .map_err(|error| DriverError::failed(format!("write {}", files.plan().display()), error))?;
    // The last boot's console must not be taken for this one's.
    let _ = std::fs::remove_file(files.console());
    let mut child = start_keeper(files, keeper, false)?;
    let connected = connect(files, &mut child, progress);
    let result = connected
        .and_then(|mut conversation| follow(&mut conversation, &mut child, files, progress))
        .and_then(|()| wait_for_sshd(ssh, progress));
    if result.is_err() {
        end(files, Some(&mut child));
    }
    result
}

fn start_keeper(files: &Files, keeper: &Path, adopts: bool) -> Result<Child, DriverError> {
    let mut arguments = vec![VERB.as_ref()];
    if adopts {
        arguments.push(ADOPT.as_ref());
    }
    arguments.push(files.folder().as_os_str());
    // The last boot's log is of no more use.
    system::start_keeper(keeper, &arguments, &files.keeper_log(), !adopts)
        .map_err(|error| DriverError::failed("start the machine's keeper", error))
}

/// Starts a keeper for a machine that has lost its own, and returns when that one knows how the guest is. Somebody may kill it as
/// well, and QEMU may still be busy with the connections of the last one: then another is started.
pub fn adopt(files: &Files, keeper: &Path) -> Result<(), DriverError> {
    let deadline = Instant::now() + ADOPTS_WITHIN;
    let mut last = "nothing came of it".to_owned();
    while Instant::now() < deadline {
        let mut child = start_keeper(files, keeper, true)?;
        let patience = deadline.min(Instant::now() + ATTEMPT);
        match follow_adoption(files, &mut child, patience) {
            Ok(()) => return Ok(()),
            Err(why) => last = why,
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Err(DriverError::failed("take the machine over", last))
}

fn follow_adoption(files: &Files, child: &mut Child, deadline: Instant) -> Result<(), String> {
    while Instant::now() < deadline {
        // Another verb may have been faster with a keeper of its own.
        let socket = files.keeper_socket();
        if let Ok(mut conversation) = Conversation::open(&socket, Request::Status) {
            while Instant::now() < deadline {
                match conversation.listen(GLANCE) {
                    // A guest that boots may take long, and is told as it is.
                    Heard::Status(_) => return Ok(()),
                    Heard::End => break,
                    Heard::Nothing => {}
                }
            }
        }
        match child.try_wait() {
            // The faster one's is about to listen.
            Ok(Some(status)) if status.code() == Some(TAKEN.into()) => {}
            Ok(Some(_)) => return Err(why_it_ended(files, child)),
            _ => {}
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err("its keeper does not answer".to_owned())
}

fn connect(
    files: &Files,
    child: &mut Child,
    progress: &dyn Progress,
) -> Result<Conversation, DriverError> {
    let deadline = Instant::now() + ANSWERS_WITHIN;
    loop {
        if let Ok(conversation) = Conversation::open(&files.keeper_socket(), Request::Watch) {
            return Ok(conversation);
        }
        if progress.interrupted() {
            return Err(DriverError::Interrupted);
        }
        if let Ok(Some(_)) = child.try_wait() {
            return Err(boot_error(Stage::Kernel, why_it_ended(files, child), files));
        }
        if Instant::now() > deadline {
            return Err(boot_error(
                Stage::Kernel,
                "its keeper does not answer".into(),
                files,
            ));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Why the keeper ended. It hangs up before it says so: wait for its end.
fn why_it_ended(files: &Files, child: &mut Child) -> String {
    let deadline = Instant::now() + GONE_WITHIN;
    while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    last_words(&std::fs::read_to_string(files.keeper_log()).unwrap_or_default())
}

/// The keeper's own reason and QEMU's, from the keeper's log.
fn last_words(log: &str) -> String {
    let last = |who: &str| log.lines().rev().find_map(|line| line.strip_prefix(who));
    match (last("keeper: "), last("qemu: ")) {
        (Some(keeper), Some(qemu)) if !keeper.contains(qemu) => {
            format!("{keeper}; QEMU's last words: {qemu}")
        }
        (Some(keeper), _) => keeper.to_owned(),
        (None, Some(qemu)) => format!("QEMU's last words: {qemu}"),
        (None, None) => "its keeper ended without a word".to_owned(),
    }
}

fn follow(
    conversation: &mut Conversation,
    child: &mut Child,
    files: &Files,
    progress: &dyn Progress,
) -> Result<(), DriverError> {
    let mut reached = None;
    let mut since = Instant::now();
    let mut latest = Status::new();
    loop {
        if progress.interrupted() {
            return Err(DriverError::Interrupted);
        }
        match conversation.listen(GLANCE) {
            Heard::Status(status) => latest = status,
            Heard::Nothing => {}
            Heard::End => {
                let stage = latest.missing().unwrap_or(Stage::Api);
                let why = match latest.ended.clone() {
                    Some(why) => why,
                    None => why_it_ended(files, child),
                };
                return Err(boot_error(stage, why, files));
            }
        }
        if let Some(failure) = latest.failure() {
            let why = failure
                .message
                .clone()
                .unwrap_or_else(|| "no reason given".into());
            let stage = failure.stage;
            // The guest is about to power off; its last console lines are worth a moment.
            std::thread::sleep(Duration::from_millis(100));
            return Err(boot_error(stage, why, files));
        }
        let Some(missing) = latest.missing() else {
            return Ok(());
        };
        if reached != Some(missing) {
            reached = Some(missing);
            since = Instant::now();
        }
        if since.elapsed() > limit(missing) {
            let why = format!(
                "nothing was heard from the guest for {} s",
                limit(missing).as_secs()
            );
            return Err(boot_error(missing, why, files));
        }
        if let Some(why) = &latest.ended {
            return Err(boot_error(missing, why.clone(), files));
        }
    }
}

/// Returns when the guest's sshd greets: QEMU takes connections that nobody in the guest takes yet, and then resets them.
fn wait_for_sshd(address: (Ipv4Addr, u16), progress: &dyn Progress) -> Result<(), DriverError> {
    let deadline = Instant::now() + SSH_WITHIN;
    let greets = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&address.into(), SSH_WITHIN)?;
        stream.set_read_timeout(Some(SSH_WITHIN))?;
        let mut greeting = [0; 4];
        stream.read_exact(&mut greeting)?;
        Ok(&greeting == b"SSH-")
    };
    while !greets().unwrap_or(false) {
        if progress.interrupted() {
            return Err(DriverError::Interrupted);
        }
        if Instant::now() > deadline {
            progress.say("Its sshd does not answer: `machine ssh` will not work until it does (see `machine logs`)");
            return Ok(());
        }
        std::thread::sleep(GLANCE);
    }
    Ok(())
}

fn boot_error(stage: Stage, why: String, files: &Files) -> DriverError {
    let console = std::fs::read(files.console()).unwrap_or_default();
    DriverError::Boot {
        stage: stage.name().to_owned(),
        why,
        console: last_lines(&console),
    }
}

/// The last lines of a console, fit for a terminal.
fn last_lines(console: &[u8]) -> Vec<String> {
    let start = console.len().saturating_sub(16 * 1024);
    let text = String::from_utf8_lossy(&console[start..]);
    let lines: Vec<String> = text
        .lines()
        .map(|line| {
            line.chars()
                .filter(|c| !c.is_control() || *c == '\t')
                .collect::<String>()
        })
        .map(|line| line.trim_end().to_owned())
        .filter(|line| !line.is_empty())
        .collect();
    lines[lines.len().saturating_sub(CONSOLE_LINES)..].to_vec()
}

/// Ends keeper and QEMU at once, whatever state they are in, and removes what only a running machine has.
/// Returns whether all of it is gone.
pub fn end(files: &Files, child: Option<&mut Child>) -> bool {
    let record = KeeperRecord::load(files);
    if let Ok(mut conversation) = Conversation::open(&files.keeper_socket(), Request::Kill) {
        let deadline = Instant::now() + GONE_WITHIN;
        while Instant::now() < deadline {
            if let Heard::End = conversation.listen(GLANCE) {
                break;
            }
        }
    }
    // The keeper may be stuck, or was killed and left QEMU behind.
    let mut gone = true;
    if let Some(record) = record {
        for process in [record.keeper, record.vm].into_iter().flatten() {
            gone &= process.kill(GONE_WITHIN);
        }
    }
    if let Some(child) = child {
        let _ = child.kill();
        let _ = child.wait();
    }
    if gone {
        files.remove_running();
    }
    gone
}

/// Appends a line to the keeper's log, for those who look there why a machine is gone.
pub fn note(files: &Files, line: &str) {
    if let Ok(mut log) = OpenOptions::new().append(true).open(files.keeper_log()) {
        let _ = writeln!(log, "{line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_consoles_last_lines_are_fit_to_show() {
        let mut console = String::new();
        for number in 0..30 {
            console.push_str(&format!("line {number}\x1b[1m\r\n\n"));
        }
        let lines = last_lines(console.as_bytes());
        assert_eq!(lines.len(), CONSOLE_LINES);
        assert_eq!(lines.last().unwrap(), "line 29[1m");
        assert_eq!(last_lines(b""), Vec::<String>::new());
        assert_eq!(last_lines(b"\xff\xfe only"), ["\u{fffd}\u{fffd} only"]);
    }

    #[test]
    fn the_reason_of_an_end_has_qemus_words() {
        let check = |log: &str, words: &str| assert_eq!(last_words(log), words);
        check("", "its keeper ended without a word");
        check("qemu: no\n", "QEMU's last words: no");
        check("qemu: no\nkeeper: it ended: no\n", "it ended: no");
        check(
            "qemu: a\nqemu: no\nkeeper: it hung up\n",
            "it hung up; QEMU's last words: no",
        );
    }

    #[test]
    fn a_seed_is_private_and_has_its_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("seed.tar");
        let seed = |bytes: usize| SeedFiles {
            files: vec![
                ("seed.json".into(), b"{}".to_vec()),
                ("big".into(), vec![1; bytes]),
            ],
        };
        write_seed(&path, &seed(1000)).unwrap();
        let found = std::fs::metadata(&path).unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(found.permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(found.len() % 512, 0, "a disk has whole sectors");
        let names: Vec<String> = tar::Archive::new(std::fs::File::open(&path).unwrap())
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        assert_eq!(names, ["seed.json", "big"]);
        assert!(write_seed(&path, &seed(5 * 1024 * 1024)).is_err());
    }
}
