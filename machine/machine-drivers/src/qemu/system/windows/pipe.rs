//! Named pipes that behave as Unix sockets do: both directions at once, limits of time, a listener that takes many.
//!
//! A plain file on a pipe does one thing at a time: who waits to read keeps everybody from writing. So the pipes are opened for
//! overlapped operations, which tokio does, on one thread of its own. What arrives is taken in at once and kept until
//! somebody reads: QEMU writes to its pipes in its main loop and would stand still when nobody asks its monitor anything.

use crate::qemu::system::PIPES;
use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};
use tokio::net::windows::named_pipe::{
    ClientOptions, NamedPipeClient, NamedPipeServer, ServerOptions,
};
use tokio::runtime::{Builder, Handle};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// So much is kept; then the writer waits.
const KEPT: usize = 1 << 20;
/// All instances of a pipe are taken for the moment that its listener needs to make another.
const ERROR_PIPE_BUSY: i32 = 231;
const BUSY_WITHIN: Duration = Duration::from_secs(2);
const GLANCE: Duration = Duration::from_millis(10);

/// The thread that all pipes of this process are on.
fn runtime() -> &'static Handle {
    static RUNTIME: OnceLock<Handle> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a desktop has room for a few handles");
        let handle = runtime.handle().clone();
        std::thread::Builder::new()
            .name("pipes".to_owned())
            .spawn(move || runtime.block_on(std::future::pending::<()>()))
            .expect("a desktop has room for a thread");
        handle
    })
}

enum Pipe {
    Client(NamedPipeClient),
    Server(NamedPipeServer),
}

impl Pipe {
    async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let result = match self {
                Pipe::Client(pipe) => {
                    pipe.readable().await?;
                    pipe.try_read(buffer)
                }
                Pipe::Server(pipe) => {
                    pipe.readable().await?;
                    pipe.try_read(buffer)
                }
            };
            match result {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }

    async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            let result = match self {
                Pipe::Client(pipe) => {
                    pipe.writable().await?;
                    pipe.try_write(bytes)
                }
                Pipe::Server(pipe) => {
                    pipe.writable().await?;
                    pipe.try_write(bytes)
                }
            };
            match result {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }
}

/// What has arrived.
#[derive(Default)]
struct Arrived {
    bytes: VecDeque<u8>,
    ended: bool,
}

#[derive(Default)]
struct Inbox {
    arrived: Mutex<Arrived>,
    news: Condvar,
    room: Notify,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Arrived> {
        lock(&self.arrived)
    }
}

/// Takes in what arrives until the other end is gone.
async fn take_in(pipe: Arc<Pipe>, inbox: Arc<Inbox>) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        while inbox.lock().bytes.len() >= KEPT {
            inbox.room.notified().await;
        }
        let count = pipe.read(&mut buffer).await.unwrap_or(0);
        {
            let mut arrived = inbox.lock();
            arrived.bytes.extend(&buffer[..count]);
            arrived.ended = count == 0;
        }
        inbox.news.notify_all();
        if count == 0 {
            return;
        }
    }
}

/// One connection; clones are the same one.
pub(in crate::qemu) struct Stream {
    shared: Arc<Shared>,
}

struct Shared {
    pipe: Arc<Pipe>,
    inbox: Arc<Inbox>,
    taking_in: AbortHandle,
    limits: Mutex<Limits>,
}

#[derive(Clone, Copy, Default)]
struct Limits {
    read: Option<Duration>,
    write: Option<Duration>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.taking_in.abort();
    }
}

impl Stream {
    fn over(pipe: Pipe) -> Stream {
        let pipe = Arc::new(pipe);
        let inbox = Arc::<Inbox>::default();
        let task = runtime().spawn(take_in(pipe.clone(), inbox.clone()));
        Stream {
            shared: Arc::new(Shared {
                pipe,
                inbox,
                taking_in: task.abort_handle(),
                limits: Mutex::default(),
            }),
        }
    }

    pub(in crate::qemu) fn try_clone(&self) -> io::Result<Stream> {
        Ok(Stream {
            shared: self.shared.clone(),
        })
    }

    pub(in crate::qemu) fn set_read_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
        lock(&self.shared.limits).read = limit;
        Ok(())
    }

    pub(in crate::qemu) fn set_write_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
        lock(&self.shared.limits).write = limit;
        Ok(())
    }

    #[cfg(test)]
    pub(in crate::qemu) fn pair() -> io::Result<(Stream, Stream)> {
        let folder = tempfile::tempdir()?;
        let place = super::SocketPlace::of(folder.path());
        place.renew()?;
        let path = place.path("pair");
        let listener = Listener::bind(&path)?;
        let ours = connect(&path)?;
        Ok((ours, listener.accept()?))
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let limit = lock(&self.shared.limits).read;
        let deadline = limit.map(|limit| Instant::now() + limit);
        let inbox = &self.shared.inbox;
        let mut arrived = inbox.lock();
        while arrived.bytes.is_empty() {
            if arrived.ended {
                return Ok(0);
            }
            let left = match deadline {
                None => Duration::from_secs(3600),
                Some(deadline) => deadline.saturating_duration_since(Instant::now()),
            };
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            let waited = inbox.news.wait_timeout(arrived, left);
            arrived = waited
                .map(|(arrived, _)| arrived)
                .unwrap_or_else(|poisoned| poisoned.into_inner().0);
        }
        let count = arrived.bytes.read(buffer)?;
        drop(arrived);
        inbox.room.notify_one();
        Ok(count)
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let limit = lock(&self.shared.limits).write;
        let writing = self.shared.pipe.write(bytes);
        runtime().block_on(async {
            match limit {
                None => writing.await,
                Some(limit) => tokio::time::timeout(limit, writing)
                    .await
                    .unwrap_or_else(|_| Err(ErrorKind::TimedOut.into())),
            }
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Connects to a pipe of this computer; any other path is none.
pub(in crate::qemu) fn connect(path: &Path) -> io::Result<Stream> {
    if path.to_str().is_none_or(|path| !path.starts_with(PIPES)) {
        return Err(ErrorKind::NotFound.into());
    }
    let _context = runtime().enter();
    let deadline = Instant::now() + BUSY_WITHIN;
    loop {
        match ClientOptions::new().open(path) {
            Err(error)
                if error.raw_os_error() == Some(ERROR_PIPE_BUSY) && Instant::now() < deadline =>
            {
                std::thread::sleep(GLANCE);
            }
            result => return result.map(|pipe| Stream::over(Pipe::Client(pipe))),
        }
    }
}

/// Takes connections at a pipe that nobody else has. The rights are those that Windows gives by itself: all for the
/// owner, reading alone for others.
pub(in crate::qemu) struct Listener {
    path: OsString,
    /// What the next client connects to.
    next: Mutex<NamedPipeServer>,
}

impl Listener {
    pub(in crate::qemu) fn bind(path: &Path) -> io::Result<Listener> {
        let path = path.as_os_str().to_owned();
        let _context = runtime().enter();
        let first = ServerOptions::new()
            .first_pipe_instance(true)
            .reject_remote_clients(true)
            .create(&path)?;
        Ok(Listener {
            path,
            next: Mutex::new(first),
        })
    }

    pub(in crate::qemu) fn accept(&self) -> io::Result<Stream> {
        let mut next = lock(&self.next);
        let connected = runtime().block_on(next.connect());
        let _context = runtime().enter();
        let another = ServerOptions::new()
            .reject_remote_clients(true)
            .create(&self.path)?;
        let pipe = std::mem::replace(&mut *next, another);
        // One that is gone again has ended.
        connected.map(|()| Stream::over(Pipe::Server(pipe)))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
