//! One client: who it is, and which channels it opened.

use super::forward;
use super::input::{self, Queued};
use super::keys;
use super::session::{self, Account, Program, Running, TerminalRequest};
use engine_linux::pty::Size;
use russh::keys::HashAlg;
use russh::server::{
    Auth, ChannelOpenHandle, Config, Handler, Msg, PublicKeyOffer, Session, VerifiedPublicKey,
};
use russh::{Channel, ChannelId, ChannelOpenFailure, ChannelWriteHalf, Pty, Sig};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

/// Time to log in.
const GRACE: Duration = Duration::from_secs(60);
/// Channels of one connection at a time.
const CHANNELS: usize = 128;

/// Who may log in, and as whom.
pub(super) struct Policy {
    pub users: Vec<String>,
    pub authorized_keys: PathBuf,
    pub account: Account,
}

/// Serves one connection to its end.
pub(super) async fn serve(
    config: Arc<Config>,
    policy: Arc<Policy>,
    stream: TcpStream,
    peer: SocketAddr,
) {
    let logged_in = Arc::new(AtomicBool::new(false));
    let local = stream.local_addr().ok();
    let _ = stream.set_nodelay(true);
    let stream = Guarded {
        stream,
        logged_in: logged_in.clone(),
        deadline: Box::pin(tokio::time::sleep_until(Instant::now() + GRACE)),
    };
    let connection = Connection {
        policy,
        peer,
        local,
        logged_in,
        queued: Queued::default(),
        channels: HashMap::new(),
    };
    let ended = async {
        russh::server::run_stream(config, stream, connection)
            .await?
            .await
    };
    match ended.await {
        Ok(()) => tracing::debug!(%peer, "connection ended"),
        Err(error) => tracing::info!(%peer, %error, "connection ended"),
    }
}

/// A connection that breaks when nobody logged in for too long, whatever the protocol was waiting for.
struct Guarded {
    stream: TcpStream,
    logged_in: Arc<AtomicBool>,
    deadline: Pin<Box<Sleep>>,
}

impl Guarded {
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if !self.logged_in.load(Ordering::Relaxed)
            && self.deadline.as_mut().poll(context).is_ready()
        {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "nobody logged in within a minute",
            ));
        }
        Ok(())
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

struct Connection {
    policy: Arc<Policy>,
    peer: SocketAddr,
    local: Option<SocketAddr>,
    logged_in: Arc<AtomicBool>,
    queued: Queued,
    channels: HashMap<ChannelId, Open>,
}

/// A channel.
struct Open {
    input: input::Sender,
    /// Until a program is started.
    waiting: Option<Waiting>,
    running: Option<Running>,
}

/// A session that has no program yet.
struct Waiting {
    input: input::Receiver,
    output: ChannelWriteHalf<Msg>,
    environment: Vec<(String, String)>,
    terminal: Option<TerminalRequest>,
}

impl Connection {
    /// Makes place for a channel's data. `None`: there are too many.
    fn open(&mut self, id: ChannelId) -> Option<input::Receiver> {
        self.channels
            .retain(|_, open| open.waiting.is_some() || !open.input.is_closed());
        if self.channels.len() >= CHANNELS {
            return None;
        }
        let (sender, receiver) = input::queue(&self.queued);
        let open = Open {
            input: sender,
            waiting: None,
            running: None,
        };
        self.channels.insert(id, open);
        Some(receiver)
    }

    fn may(&self, user: &str, key: &russh::keys::PublicKey) -> Auth {
        let known = self.policy.users.iter().any(|name| name == user);
        if known && keys::is_authorized(&self.policy.authorized_keys, key) {
            Auth::Accept
        } else {
            Auth::reject()
        }
    }

    fn start(
        &mut self,
        channel: ChannelId,
        program: Program<'_>,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        let open = self.channels.get_mut(&channel);
        let Some((open, waiting)) =
            open.and_then(|open| open.waiting.take().map(|waiting| (open, waiting)))
        else {
            // One program for each channel.
            return session.channel_failure(channel);
        };
        let started = session::start(
            &self.policy.account,
            program,
            &waiting.environment,
            waiting.terminal.as_ref(),
            (self.peer, self.local),
        );
        match started {
            Ok(started) => {
                open.running = Some(started.running());
                session.channel_success(channel)?;
                tokio::spawn(started.run(waiting.input, waiting.output, session.handle()));
                Ok(())
            }
            Err(error) => {
                tracing::warn!(peer = %self.peer, %error, "cannot start a program");
                session.channel_failure(channel)
            }
        }
    }

    fn answer(
        &mut self,
        channel: ChannelId,
        session: &mut Session,
        change: impl FnOnce(&mut Waiting) -> bool,
    ) -> Result<(), russh::Error> {
        let waiting = self
            .channels
            .get_mut(&channel)
            .and_then(|open| open.waiting.as_mut());
        if waiting.is_some_and(change) {
            session.channel_success(channel)
        } else {
            session.channel_failure(channel)
        }
    }
}

fn size(columns: u32, rows: u32) -> Size {
    Size {
        columns: columns.try_into().unwrap_or(u16::MAX),
        rows: rows.try_into().unwrap_or(u16::MAX),
    }
}

impl Handler for Connection {
    type Error = russh::Error;

    async fn auth_publickey_offered(
        &mut self,
        user: &str,
        offer: PublicKeyOffer<'_>,
    ) -> Result<Auth, russh::Error> {
        Ok(self.may(user, offer.public_key))
    }

    async fn auth_publickey(
        &mut self,
        user: &str,
        key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, russh::Error> {
        let answer = self.may(user, key.public_key);
        let fingerprint = key.public_key.fingerprint(HashAlg::Sha256);
        match answer {
            Auth::Accept => tracing::info!(peer = %self.peer, user, %fingerprint, "logged in"),
            _ => tracing::info!(peer = %self.peer, user, %fingerprint, "login refused"),
        }
        Ok(answer)
    }

    async fn auth_succeeded(&mut self, _session: &mut Session) -> Result<(), russh::Error> {
        self.logged_in.store(true, Ordering::Relaxed);
        Ok(())
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), russh::Error> {
        let id = channel.id();
        let Some(input) = self.open(id) else {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
            return Ok(());
        };
        // Data comes through the `data` callback; the half that would also get it is dropped.
        let (_, output) = channel.split();
        if let Some(open) = self.channels.get_mut(&id) {
            open.waiting = Some(Waiting {
                input,
                output,
                environment: Vec::new(),
                terminal: None,
            });
        }
        reply.accept().await;
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host_to_connect: &str,
        port_to_connect: u32,
        _originator_address: &str,
        _originator_port: u32,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), russh::Error> {
        let (id, port) = (channel.id(), u16::try_from(port_to_connect));
        let (Ok(port), Some(input)) = (port, self.open(id)) else {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
            return Ok(());
        };
        let (_, output) = channel.split();
        let target = forward::Target::Tcp(host_to_connect.to_owned(), port);
        tokio::spawn(forward::run(target, input, output, reply));
        Ok(())
    }

    async fn channel_open_direct_streamlocal(
        &mut self,
        channel: Channel<Msg>,
        socket_path: &str,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), russh::Error> {
        let Some(input) = self.open(channel.id()) else {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
            return Ok(());
        };
        let (_, output) = channel.split();
        let target = forward::Target::Unix(socket_path.into());
        tokio::spawn(forward::run(target, input, output, reply));
        Ok(())
    }

    async fn data(
        &mut self,
        channel: ChannelId,
        data: &[u8],
        _session: &mut Session,
    ) -> Result<(), russh::Error> {
        if let Some(open) = self.channels.get(&channel) {
            open.input.data(data);
        }
        Ok(())
    }

    fn adjust_window(&mut self, _channel: ChannelId, _current: u32) -> u32 {
        self.queued.window()
    }

    async fn channel_eof(
        &mut self,
        channel: ChannelId,
        _session: &mut Session,
    ) -> Result<(), russh::Error> {
        if let Some(open) = self.channels.get(&channel) {
            open.input.end();
        }
        Ok(())
    }

    async fn channel_close(
        &mut self,
        channel: ChannelId,
        _session: &mut Session,
    ) -> Result<(), russh::Error> {
        self.channels.remove(&channel);
        Ok(())
    }

    async fn pty_request(
        &mut self,
        channel: ChannelId,
        term: &str,
        col_width: u32,
        row_height: u32,
        _pix_width: u32,
        _pix_height: u32,
        _modes: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        let request = TerminalRequest {
            term: term.to_owned(),
            size: size(col_width, row_height),
        };
        self.answer(channel, session, |waiting| {
            waiting.terminal = Some(request);
            true
        })
    }

    async fn env_request(
        &mut self,
        channel: ChannelId,
        variable_name: &str,
        variable_value: &str,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        self.answer(channel, session, |waiting| {
            let accepted = session::accepts_variable(variable_name, waiting.environment.len());
            if accepted {
                waiting
                    .environment
                    .push((variable_name.to_owned(), variable_value.to_owned()));
            }
            accepted
        })
    }

    async fn shell_request(
        &mut self,
        channel: ChannelId,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        self.start(channel, Program::Shell, session)
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        data: &[u8],
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        self.start(channel, Program::Command(data), session)
    }

    async fn subsystem_request(
        &mut self,
        channel: ChannelId,
        name: &str,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        if name == "sftp" {
            self.start(channel, Program::Sftp, session)
        } else {
            session.channel_failure(channel)
        }
    }

    async fn window_change_request(
        &mut self,
        channel: ChannelId,
        col_width: u32,
        row_height: u32,
        _pix_width: u32,
        _pix_height: u32,
        _session: &mut Session,
    ) -> Result<(), russh::Error> {
        if let Some(open) = self.channels.get_mut(&channel) {
            let size = size(col_width, row_height);
            if let Some(running) = &open.running {
                running.resize(size);
            } else if let Some(terminal) = open.waiting.as_mut().and_then(|w| w.terminal.as_mut()) {
                terminal.size = size;
            }
        }
        Ok(())
    }

    async fn signal(
        &mut self,
        channel: ChannelId,
        signal: Sig,
        _session: &mut Session,
    ) -> Result<(), russh::Error> {
        if let Some(running) = self
            .channels
            .get(&channel)
            .and_then(|open| open.running.as_ref())
        {
            running.signal(&signal);
        }
        Ok(())
    }
}
