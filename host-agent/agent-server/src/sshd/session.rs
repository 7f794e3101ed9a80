//! Programs for clients: a login shell, a command, or the sftp server, on pipes or on a terminal.

use super::input::Receiver;
use bytes::BytesMut;
use engine_linux::pty::{self, Size};
use russh::server::{Handle, Msg};
use russh::{ChannelWriteHalf, Sig};
use rustix::process::{Pid, Signal};
use std::ffi::{OsStr, OsString};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::unix::pipe;
use tokio::process::Child;
use tokio::sync::Notify;

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What is read from a program at a time; also the largest packet we send.
const PIECE: usize = 32 * 1024;
/// Variables a client may set.
const VARIABLES: usize = 64;
/// After its shell a terminal is hung up by the kernel; what is left in it is read for no longer than this.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// The user whose programs we start.
pub(super) struct Account {
    name: String,
    home: PathBuf,
    shell: PathBuf,
}

impl Account {
    /// From /etc/passwd; what it does not tell is as for root in a guest.
    pub(super) fn of_this_process() -> Account {
        let uid = rustix::process::geteuid().as_raw().to_string();
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let fields = passwd
            .lines()
            .map(|line| line.split(':').collect::<Vec<_>>())
            .find(|fields| fields.len() >= 7 && fields[2] == uid);
        let field = |index: usize, fallback: &str| {
            let text = fields.as_ref().map_or("", |fields| fields[index]);
            if text.is_empty() { fallback } else { text }.to_owned()
        };
        let shell = PathBuf::from(field(6, "/bin/sh"));
        Account {
            name: field(0, "root"),
            home: PathBuf::from(field(5, "/root")),
            shell: if shell.exists() {
                shell
            } else {
                "/bin/sh".into()
            },
        }
    }
}

pub(super) enum Program<'a> {
    Shell,
    Command(&'a [u8]),
    Sftp,
}

/// A terminal as the client asked for it.
pub(super) struct TerminalRequest {
    pub term: String,
    pub size: Size,
}

/// Whether a client may set that variable: language and colours, as Debian's sshd.
pub(super) fn accepts_variable(name: &str, have: usize) -> bool {
    have < VARIABLES
        && (matches!(name, "LANG" | "COLORTERM" | "NO_COLOR") || name.starts_with("LC_"))
}

/// What can be done to a program from outside.
pub(super) struct Running {
    /// 0: it has ended.
    pid: Arc<AtomicI32>,
    terminal: Option<Weak<OwnedFd>>,
}

impl Running {
    pub(super) fn resize(&self, size: Size) {
        if let Some(terminal) = self.terminal.as_ref().and_then(Weak::upgrade)
            && let Err(error) = pty::resize(&*terminal, size)
        {
            tracing::debug!(%error, "cannot resize a terminal");
        }
    }

    /// Signals the program and what it started.
    pub(super) fn signal(&self, signal: &Sig) {
        let signal = match signal {
            Sig::ABRT => Signal::ABORT,
            Sig::ALRM => Signal::ALARM,
            Sig::FPE => Signal::FPE,
            Sig::HUP => Signal::HUP,
            Sig::ILL => Signal::ILL,
            Sig::INT => Signal::INT,
            Sig::KILL => Signal::KILL,
            Sig::PIPE => Signal::PIPE,
            Sig::QUIT => Signal::QUIT,
            Sig::SEGV => Signal::SEGV,
            Sig::TERM => Signal::TERM,
            Sig::USR1 => Signal::USR1,
            Sig::Custom(name) if name == "USR2" => Signal::USR2,
            Sig::Custom(name) => {
                tracing::debug!(name, "a client sent a signal we do not know");
                return;
            }
        };
        if let Some(pid) = Pid::from_raw(self.pid.load(Ordering::Relaxed)) {
            // Every program is the leader of its group.
            let _ = rustix::process::kill_process_group(pid, signal);
        }
    }
}

/// A program that was started and is not connected to its channel yet.
pub(super) struct Started {
    child: Child,
    pid: Arc<AtomicI32>,
    terminal: Option<Terminal>,
}

struct Terminal {
    master: Arc<OwnedFd>,
    reader: pipe::Receiver,
    writer: pipe::Sender,
}

pub(super) fn start(
    account: &Account,
    program: Program<'_>,
    environment: &[(String, String)],
    request: Option<&TerminalRequest>,
    (peer, local): (SocketAddr, Option<SocketAddr>),
) -> io::Result<Started> {
    let mut command = match program {
        Program::Shell => {
            let mut command = Command::new(&account.shell);
            // A dash in front makes it a login shell.
            let mut name = OsString::from("-");
            name.push(account.shell.file_name().unwrap_or(OsStr::new("sh")));
            command.arg0(name);
            command
        }
        Program::Command(text) => {
            let mut command = Command::new(&account.shell);
            command.arg("-c").arg(OsStr::from_bytes(text));
            command
        }
        Program::Sftp => {
            let mut command = Command::new("/proc/self/exe");
            command.args(["sshd", "sftp-server"]);
            command
        }
    };
    command.env_clear();
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    command
        .env("USER", &account.name)
        .env("LOGNAME", &account.name)
        .env("HOME", &account.home)
        .env("SHELL", &account.shell)
        .env("PATH", PATH);
    if let Some(local) = local {
        let (from, to) = (peer.ip().to_canonical(), local.ip().to_canonical());
        command.env(
            "SSH_CLIENT",
            format!("{from} {} {}", peer.port(), local.port()),
        );
        command.env(
            "SSH_CONNECTION",
            format!("{from} {} {to} {}", peer.port(), local.port()),
        );
    }
    command.current_dir(if account.home.is_dir() {
        &account.home
    } else {
        Path::new("/")
    });

    let terminal = match request {
        Some(request) => {
            let (master, slave) = pty::open(request.size)?;
            if !request.term.is_empty() {
                command.env("TERM", &request.term);
            }
            if let Ok(name) = rustix::termios::ttyname(&slave, Vec::new()) {
                command.env("SSH_TTY", OsStr::from_bytes(name.as_bytes()));
            }
            pty::attach(&mut command, slave)?;
            // A terminal's master is not a pipe, but is read, written and waited for like one.
            let reader = pipe::Receiver::from_owned_fd_unchecked(master.try_clone()?)?;
            let writer = pipe::Sender::from_owned_fd_unchecked(master.try_clone()?)?;
            Some(Terminal {
                master: Arc::new(master),
                reader,
                writer,
            })
        }
        None => {
            command
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .process_group(0);
            None
        }
    };
    // The command is dropped here, and with it our copies of the terminal's other end.
    let child = tokio::process::Command::from(command).spawn()?;
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    Ok(Started {
        child,
        pid: Arc::new(AtomicI32::new(pid.unwrap_or(0))),
        terminal,
    })
}

impl Started {
    pub(super) fn running(&self) -> Running {
        Running {
            pid: self.pid.clone(),
            terminal: self
                .terminal
                .as_ref()
                .map(|terminal| Arc::downgrade(&terminal.master)),
        }
    }

    /// Carries input and output until the program has ended, and tells the client how. When the client goes first, the
    /// program loses its pipes, or its terminal hangs up; it is reaped when it ends.
    pub(super) async fn run(
        mut self,
        mut input: Receiver,
        output: ChannelWriteHalf<Msg>,
        handle: Handle,
    ) {
        let ended = Notify::new();
        let status = match self.terminal.take() {
            Some(Terminal {
                master: _master,
                reader,
                writer,
            }) => {
                tokio::select! {
                    // The end of the client's input is not the end of a terminal: programs on it go on.
                    () = input.feed(KeepOpen(writer), &ended) => None,
                    status = on_terminal(&mut self.child, reader, &output) => Some(status),
                }
            }
            None => {
                let (stdin, stdout, stderr) = (
                    self.child.stdin.take(),
                    self.child.stdout.take(),
                    self.child.stderr.take(),
                );
                let (Some(stdin), Some(stdout), Some(stderr)) = (stdin, stdout, stderr) else {
                    return;
                };
                let child = &mut self.child;
                let outputs = async {
                    // As OpenSSH: until everybody who has the pipes is done.
                    tokio::join!(
                        carry(stdout, &output, None),
                        carry(stderr, &output, Some(1)),
                        child.wait()
                    )
                    .2
                };
                tokio::select! {
                    () = input.feed(stdin, &ended) => None,
                    status = outputs => Some(status),
                }
            }
        };
        let Some(status) = status else {
            // Nobody is told any more, but a program that nobody waits for would stay a zombie.
            drop((input, output, handle));
            let _ = self.child.wait().await;
            self.pid.store(0, Ordering::Relaxed);
            return;
        };
        self.pid.store(0, Ordering::Relaxed);
        let id = output.id();
        let _ = output.eof().await;
        match status {
            Ok(status) => tell(&handle, id, &output, status).await,
            Err(error) => tracing::warn!(%error, "cannot learn how a program ended"),
        }
        let _ = output.close().await;
    }
}

async fn on_terminal(
    child: &mut Child,
    reader: pipe::Receiver,
    output: &ChannelWriteHalf<Msg>,
) -> io::Result<ExitStatus> {
    let carrying = carry(reader, output, None);
    tokio::pin!(carrying);
    tokio::select! {
        () = &mut carrying => child.wait().await,
        status = child.wait() => {
            let _ = tokio::time::timeout(LAST_WORDS, carrying).await;
            status
        }
    }
}

async fn tell(
    handle: &Handle,
    id: russh::ChannelId,
    output: &ChannelWriteHalf<Msg>,
    status: ExitStatus,
) {
    if let Some(code) = status.code() {
        let _ = output.exit_status(code.cast_unsigned()).await;
    } else if let Some(number) = status.signal() {
        let signal = signal_name(number);
        let core = status.core_dumped();
        let _ = handle
            .exit_signal_request(id, signal, core, String::new(), String::new())
            .await;
    }
}

fn signal_name(number: i32) -> Sig {
    let Some(signal) = Signal::from_named_raw(number) else {
        return Sig::Custom(format!("{number}@berth"));
    };
    match signal {
        Signal::ABORT => Sig::ABRT,
        Signal::ALARM => Sig::ALRM,
        Signal::FPE => Sig::FPE,
        Signal::HUP => Sig::HUP,
        Signal::ILL => Sig::ILL,
        Signal::INT => Sig::INT,
        Signal::KILL => Sig::KILL,
        Signal::PIPE => Sig::PIPE,
        Signal::QUIT => Sig::QUIT,
        Signal::SEGV => Sig::SEGV,
        Signal::TERM => Sig::TERM,
        Signal::USR1 => Sig::USR1,
        Signal::USR2 => Sig::Custom("USR2".into()),
        Signal::BUS => Sig::Custom("BUS@berth".into()),
        Signal::SYS => Sig::Custom("SYS@berth".into()),
        Signal::TRAP => Sig::Custom("TRAP@berth".into()),
        _ => Sig::Custom(format!("{number}@berth")),
    }
}

/// Carries what `source` says to the client, as output or (`extension` 1) as error output, until its end. Waits while the
/// client's window is closed.
pub(super) async fn carry(
    mut source: impl AsyncRead + Unpin,
    output: &ChannelWriteHalf<Msg>,
    extension: Option<u32>,
) {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(PIECE);
        // A terminal whose programs are gone answers EIO: an end like any other.
        match source.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let piece = buffer.split().freeze();
        let sent = match extension {
            None => output.data_bytes(piece).await,
            Some(extension) => output.extended_data_bytes(extension, piece).await,
        };
        if sent.is_err() {
            return;
        }
    }
}

/// A writer whose end is not the end of what it writes to.
struct KeepOpen<W>(W);

impl<W: AsyncWrite + Unpin> AsyncWrite for KeepOpen<W> {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<io::Result<usize>> {
        std::pin::Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        _context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_harmless_variables_are_taken() {
        assert!(accepts_variable("LANG", 0));
        assert!(accepts_variable("LC_ALL", 5));
        assert!(!accepts_variable("LC_ALL", VARIABLES));
        for name in ["LD_PRELOAD", "PATH", "BASH_ENV", "ENV", "HOME"] {
            assert!(!accepts_variable(name, 0), "{name}");
        }
    }
}
