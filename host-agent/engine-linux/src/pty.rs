//! Pseudo-terminals: making one, its size, and starting a program on it.

use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// Columns and rows, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub columns: u16,
    pub rows: u16,
}

/// A new terminal: the master, not blocking, and the slave for the program on it.
pub fn open(size: Size) -> io::Result<(OwnedFd, OwnedFd)> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    // By the master, not by a path: /dev/pts may be another mount's.
    let slave = ioctl_tiocgptpeer(
        &master,
        OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC,
    )?;
    resize(&master, size)?;
    rustix::io::ioctl_fionbio(&master, true)?;
    Ok((master, slave))
}

/// Tells the terminal its size; programs on it get SIGWINCH when it changed.
pub fn resize(terminal: impl AsFd, size: Size) -> io::Result<()> {
    let size = Winsize {
        ws_col: size.columns,
        ws_row: size.rows,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    Ok(tcsetwinsize(terminal, size)?)
}

/// Lets `command` run in a session of its own with `slave` as controlling terminal, standard input, output and error.
/// Drop `command` after the start: it holds the slave, and the master sees no end while anybody does.
pub fn attach(command: &mut Command, slave: OwnedFd) -> io::Result<()> {
    command.stdin(Stdio::from(slave.try_clone()?));
    command.stdout(Stdio::from(slave.try_clone()?));
    command.stderr(Stdio::from(slave));
    // SAFETY: between fork and exec only async-signal-safe functions may be called. The closure makes two system calls
    // (setsid, ioctl) directly, allocates nothing, takes no lock, and touches no memory of the parent.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(|| {
            rustix::process::setsid()?;
            // Standard input is the slave by now.
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
            Ok(())
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_program_on_a_terminal_sees_it_and_its_size() {
        let size = Size {
            columns: 91,
            rows: 17,
        };
        let (master, slave) = open(size).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "stty size; tty < /dev/tty"]);
        attach(&mut command, slave).unwrap();
        let mut child = command.spawn().unwrap();
        drop(command);
        assert!(child.wait().unwrap().success());
        let mut text = Vec::new();
        // The end of a terminal without programs is EIO.
        let _ = std::fs::File::from(master).read_to_end(&mut text);
        let text = String::from_utf8(text).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "17 91");
        assert!(lines[1].starts_with("/dev/"), "{text}");
    }
}
