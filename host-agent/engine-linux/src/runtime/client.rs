//! serve's ends of a shim's connections.

use super::{blocking, connect, stream_purpose};
use crate::cgroup::{Cgroup, Version};
use crate::shim::exit_file;
use crate::shim::protocol::{
    self, Answer, Event, Greeting, HEADER, Kind, Order, Purpose, Reply, Request, VERSION,
};
use async_trait::async_trait;
use bytes::{Buf, Bytes, BytesMut};
use engine::id::{ContainerId, ExecId};
use engine::runtime::{
    ExecPlan, ExecTask, ExitStatus, ProcessIo, ResourcePlan, RuntimeError, Stats, StreamKind, Task,
    TtySize,
};
use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot, watch};

/// Pieces of output (up to 64 KiB each) between the connection and its reader.
const PIECES: usize = 16;

/// How long [`Task::wait`] holds the status back for a reader who is slow to take the last output.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where a container's things are.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub id: ContainerId,
    pub run: PathBuf,
    pub folder: PathBuf,
    pub cgroup: Cgroup,
}

/// A control connection, shared by the tasks of one container.
#[derive(Clone)]
pub(super) struct Control(Arc<Shared>);

struct Shared {
    place: Place,
    writer: tokio::sync::Mutex<OwnedWriteHalf>,
    numbers: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    asked: HashMap<u64, oneshot::Sender<Answer>>,
    exits: HashMap<Option<ExecId>, watch::Sender<Option<ExitStatus>>>,
    /// How often memory ran out.
    out_of_memory: watch::Sender<u64>,
    /// The shim is gone.
    gone: bool,
    /// The container is known to run: the end of its shim is then its end.
    running: bool,
}

impl Control {
    /// Takes one of the two connections a shim is born with.
    pub fn new(socket: std::os::unix::net::UnixStream, place: Place) -> io::Result<Control> {
        socket.set_nonblocking(true)?;
        let (reader, writer) = UnixStream::from_std(socket)?.into_split();
        let control = Control(Arc::new(Shared {
            place,
            writer: tokio::sync::Mutex::new(writer),
            numbers: AtomicU64::new(0),
            state: Mutex::default(),
        }));
        control.exit_of(None);
        tokio::spawn(listen(Arc::clone(&control.0), Frames::new(reader)));
        Ok(control)
    }

    /// Introduces itself on a connection to the shim's socket.
    pub async fn greet(
        socket: std::os::unix::net::UnixStream,
        place: Place,
    ) -> io::Result<Control> {
        let control = Control::new(socket, place)?;
        let mut writer = control.0.writer.lock().await;
        writer.write_all(&greeting(Purpose::Control)).await?;
        drop(writer);
        Ok(control)
    }

    /// Asks and waits for the answer; [`RuntimeError::NotRunning`] where the shim is gone.
    pub async fn ask(&self, order: Order) -> Result<Reply, RuntimeError> {
        let number = self.0.numbers.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        {
            let mut state = self.0.lock();
            if state.gone {
                return Err(RuntimeError::NotRunning);
            }
            state.asked.insert(number, sender);
        }
        let frame = protocol::json_frame(Kind::Request, &Request { number, order });
        let mut writer = self.0.writer.lock().await;
        let written = writer.write_all(&frame).await;
        drop(writer);
        if written.is_err() {
            self.0.lock().asked.remove(&number);
            return Err(RuntimeError::NotRunning);
        }
        let answer = receiver.await.map_err(|_| RuntimeError::NotRunning)?;
        answer.result.map_err(RuntimeError::from)
    }

    async fn order(&self, order: Order) -> Result<(), RuntimeError> {
        self.ask(order).await.map(drop)
    }

    /// Does something with the container's control group; the step is what an error says was tried.
    async fn group<T: Send + 'static>(
        &self,
        step: &str,
        work: impl FnOnce(&Cgroup) -> io::Result<T> + Send + 'static,
    ) -> Result<T, RuntimeError> {
        let cgroup = self.0.place.cgroup.clone();
        blocking(move || work(&cgroup))
            .await
            .map_err(|error| RuntimeError::failed(step, error))
    }

    /// From now on the end of the shim is the container's.
    fn runs(&self) {
        let mut state = self.0.lock();
        state.running = true;
        if state.gone {
            let shared = Arc::clone(&self.0);
            tokio::spawn(async move { gone(&shared).await });
        }
    }

    /// Where the exit status of a process will appear.
    fn exit_of(&self, process: Option<ExecId>) -> watch::Receiver<Option<ExitStatus>> {
        let mut state = self.0.lock();
        // The first process's status is stored, or will be told; an exec's goes with the shim.
        let lost = state.gone && process.is_some();
        let sender = state
            .exits
            .entry(process)
            .or_insert_with(|| watch::channel(lost.then(killed)).0);
        sender.subscribe()
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn exited(&self, process: Option<ExecId>, status: ExitStatus) {
        let mut state = self.lock();
        state
            .exits
            .entry(process)
            .or_insert_with(|| watch::channel(None).0)
            .send_replace(Some(status));
    }
}

/// The status of a process that went with its shim.
fn killed() -> ExitStatus {
    ExitStatus {
        code: 137,
        at: OffsetDateTime::now_utc(),
        oom_killed: false,
    }
}

/// Runs until the shim closes the connection.
async fn listen(shared: Arc<Shared>, mut frames: Frames) {
    while let Ok(Some((kind, payload))) = frames.next().await {
        match kind {
            Kind::Answer => {
                let Ok(answer) = serde_json::from_slice::<Answer>(&payload) else {
                    continue;
                };
                let asked = shared.lock().asked.remove(&answer.number);
                if let Some(sender) = asked {
                    // Whoever asked may have given up.
                    let _ = sender.send(answer);
                }
            }
            Kind::Event => match serde_json::from_slice(&payload) {
                Ok(Event::Exited { process, status }) => shared.exited(process, status),
                Ok(Event::OutOfMemory) => {
                    shared.lock().out_of_memory.send_modify(|times| *times += 1);
                }
                Err(error) => {
                    tracing::warn!(container = shared.place.id.short(), %error, "a shim says something strange");
                }
            },
            _ => {}
        }
    }
    gone(&shared).await;
}

/// The shim has ended. Where it did so without telling the container's end, it was killed: what is left of the container
/// is ended here, and its status stored in the shim's place.
async fn gone(shared: &Arc<Shared>) {
    let told = {
        let mut state = shared.lock();
        state.gone = true;
        state.asked.clear();
        if !state.running {
            // Whoever starts or looks for the container sees that nobody answers, and judges.
            return;
        }
        let first = state.exits.get(&None);
        first.is_some_and(|sender| sender.borrow().is_some())
    };
    if !told {
        let place = shared.place.clone();
        let status = blocking(move || {
            if let Some(status) = exit_file::read(&place.folder)? {
                return Ok(status);
            }
            place.cgroup.kill();
            let status = killed();
            if place.folder.is_dir() {
                exit_file::write(&place.folder, &status)?;
            }
            Ok(status)
        })
        .await
        .unwrap_or_else(|error| {
            tracing::error!(container = shared.place.id.short(), %error, "store the status of a container whose shim is gone");
            killed()
        });
        shared.exited(None, status);
    }
    for sender in shared.lock().exits.values() {
        sender.send_if_modified(|status| {
            let unknown = status.is_none();
            if unknown {
                *status = Some(killed());
            }
            unknown
        });
    }
}

fn greeting(purpose: Purpose) -> Vec<u8> {
    let greeting = Greeting {
        version: VERSION,
        purpose,
    };
    protocol::json_frame(Kind::Greeting, &greeting)
}

/// Frames of one direction.
struct Frames {
    reader: OwnedReadHalf,
    buffer: BytesMut,
}

impl Frames {
    fn new(reader: OwnedReadHalf) -> Frames {
        Frames {
            reader,
            buffer: BytesMut::new(),
        }
    }

    async fn next(&mut self) -> io::Result<Option<(Kind, Bytes)>> {
        loop {
            if let Some(head) = self.buffer.first_chunk::<HEADER>() {
                let (kind, length) = protocol::parse_header(*head)
                    .ok_or_else(|| io::Error::other("the shim speaks another protocol"))?;
                if self.buffer.len() >= HEADER + length {
                    self.buffer.advance(HEADER);
                    return Ok(Some((kind, self.buffer.split_to(length).freeze())));
                }
                self.buffer.reserve(HEADER + length - self.buffer.len());
            } else {
                self.buffer.reserve(4 << 10);
            }
            if self.reader.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }
}

/// The live end of a stream connection: tells when all output is delivered.
pub(super) struct Stream {
    delivered: watch::Receiver<bool>,
}

impl Stream {
    /// Takes one of the two connections a shim is born with.
    pub fn new(
        socket: std::os::unix::net::UnixStream,
        open_stdin: bool,
    ) -> io::Result<(Stream, ProcessIo)> {
        socket.set_nonblocking(true)?;
        let (reader, writer) = UnixStream::from_std(socket)?.into_split();
        Ok(Stream::start(Frames::new(reader), writer, open_stdin))
    }

    /// Introduces itself on a connection to the shim's socket; returns once the shim has attached it.
    pub async fn greet(
        socket: std::os::unix::net::UnixStream,
        exec: Option<ExecId>,
        open_stdin: bool,
    ) -> io::Result<(Stream, ProcessIo)> {
        socket.set_nonblocking(true)?;
        let (reader, mut writer) = UnixStream::from_std(socket)?.into_split();
        writer.write_all(&greeting(stream_purpose(exec))).await?;
        let mut frames = Frames::new(reader);
        match frames.next().await? {
            Some((Kind::Greeting, _)) => Ok(Stream::start(frames, writer, open_stdin)),
            _ => Err(io::Error::other("the shim refused the connection")),
        }
    }

    fn start(frames: Frames, writer: OwnedWriteHalf, open_stdin: bool) -> (Stream, ProcessIo) {
        let (output_sender, output) = mpsc::channel(PIECES);
        let (delivered_sender, delivered) = watch::channel(false);
        tokio::spawn(deliver(frames, output_sender, delivered_sender));
        let stdin = if open_stdin {
            let (sender, receiver) = mpsc::channel(PIECES);
            tokio::spawn(feed(writer, receiver));
            Some(sender)
        } else {
            // Kept open with the reading half: closing it would mean that serve is gone.
            tokio::spawn(hold(writer, delivered.clone()));
            None
        };
        (Stream { delivered }, ProcessIo { stdin, output })
    }

    /// Resolves when the process has ended and all it wrote is in its channel, or nobody takes it.
    async fn delivered(&self) {
        let mut delivered = self.delivered.clone();
        let _ = tokio::time::timeout(PATIENCE, delivered.wait_for(|done| *done)).await;
    }
}

async fn deliver(
    mut frames: Frames,
    output: mpsc::Sender<(StreamKind, Bytes)>,
    delivered: watch::Sender<bool>,
) {
    let mut output = Some(output);
    while let Ok(Some((kind, payload))) = frames.next().await {
        let stream = match kind {
            Kind::Stdout => StreamKind::Stdout,
            Kind::Stderr => StreamKind::Stderr,
            Kind::OutputEnd => {
                output = None;
                continue;
            }
            Kind::Ended => {
                delivered.send_replace(true);
                continue;
            }
            _ => continue,
        };
        if let Some(sender) = &output
            && sender.send((stream, payload)).await.is_err()
        {
            // Nobody listens any more: the rest is read and dropped, so that the container is not held up.
            output = None;
        }
        if output.is_none() && *delivered.borrow() {
            return;
        }
    }
    delivered.send_replace(true);
}

async fn feed(mut writer: OwnedWriteHalf, mut input: mpsc::Receiver<Bytes>) {
    while let Some(mut data) = input.recv().await {
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(64 << 10));
            let head = protocol::header(Kind::Stdin, piece.len());
            if writer.write_all(&head).await.is_err() || writer.write_all(&piece).await.is_err() {
                return;
            }
        }
    }
    let _ = writer
        .write_all(&protocol::frame(Kind::StdinEnd, b""))
        .await;
    // Dropping the half would shut the direction down, which the shim takes for serve's end.
    writer.forget();
}

async fn hold(writer: OwnedWriteHalf, mut delivered: watch::Receiver<bool>) {
    let _ = delivered.wait_for(|done| *done).await;
    writer.forget();
}

/// A running container.
pub(super) struct ShimTask {
    control: Control,
    stream: Stream,
    pid: u32,
    started_at: OffsetDateTime,
    exit: watch::Receiver<Option<ExitStatus>>,
}

impl ShimTask {
    pub fn new(control: Control, stream: Stream, pid: u32, started_at: OffsetDateTime) -> ShimTask {
        control.runs();
        ShimTask {
            exit: control.exit_of(None),
            control,
            stream,
            pid,
            started_at,
        }
    }
}

impl ShimTask {
    fn running(&self) -> Result<(), RuntimeError> {
        match *self.exit.borrow() {
            Some(_) => Err(RuntimeError::NotRunning),
            None => Ok(()),
        }
    }
}

async fn wait(exit: &watch::Receiver<Option<ExitStatus>>, stream: &Stream) -> ExitStatus {
    let mut exit = exit.clone();
    let status = match exit.wait_for(Option::is_some).await {
        Ok(status) => status.clone(),
        Err(_) => None,
    };
    stream.delivered().await;
    status.unwrap_or_else(killed)
}

#[async_trait]
impl Task for ShimTask {
    fn pid(&self) -> u32 {
        self.pid
    }

    fn started_at(&self) -> OffsetDateTime {
        self.started_at
    }

    async fn exec(&self, plan: ExecPlan) -> Result<(Box<dyn ExecTask>, ProcessIo), RuntimeError> {
        let id = plan.id.clone();
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => RuntimeError::NotRunning,
            _ => RuntimeError::failed("connect to the container's shim", error),
        };
        self.running()?;
        let exit = self.control.exit_of(Some(id.clone()));
        let socket = connect(&self.control.0.place.run).map_err(failed)?;
        let open_stdin = plan.process.open_stdin;
        let (stream, io) = Stream::greet(socket, Some(id.clone()), open_stdin)
            .await
            .map_err(failed)?;
        match self.control.ask(Order::Exec(Box::new(plan))).await {
            Ok(Reply::Running { pid, .. }) => Ok((
                Box::new(ShimExec {
                    control: self.control.clone(),
                    stream,
                    id,
                    pid,
                    exit,
                }),
                io,
            )),
            Ok(_) => Err(RuntimeError::failed(
                "start the process",
                "the shim answered something else",
            )),
            Err(error) => {
                self.control.0.lock().exits.remove(&Some(id));
                Err(error)
            }
        }
    }

    async fn signal(&self, signal: i32) -> Result<(), RuntimeError> {
        let order = Order::Signal {
            process: None,
            signal,
        };
        self.control.order(order).await?;
        if signal == libc::SIGKILL && self.control.0.place.cgroup.version() == Version::V1 {
            // A frozen process dies only when it runs again.
            let _ = self.control.group("end the container", Cgroup::thaw).await;
        }
        Ok(())
    }

    async fn resize(&self, size: TtySize) -> Result<(), RuntimeError> {
        self.control
            .order(Order::Resize {
                process: None,
                size,
            })
            .await
    }

    async fn pause(&self) -> Result<(), RuntimeError> {
        self.running()?;
        self.control
            .group("pause the container", Cgroup::freeze)
            .await
    }

    async fn resume(&self) -> Result<(), RuntimeError> {
        self.running()?;
        self.control
            .group("resume the container", Cgroup::thaw)
            .await
    }

    async fn update(&self, resources: ResourcePlan) -> Result<(), RuntimeError> {
        self.running()?;
        self.control
            .group("apply the new limits", move |group| {
                group.limit(&resources).map_err(io::Error::other)
            })
            .await
    }

    async fn stats(&self) -> Result<Stats, RuntimeError> {
        self.running()?;
        let cgroup = self.control.0.place.cgroup.clone();
        blocking(move || cgroup.stats())
            .await
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => RuntimeError::NotRunning,
                io::ErrorKind::Unsupported => RuntimeError::Unsupported {
                    what: "reading statistics".to_owned(),
                    why: error.to_string(),
                },
                _ => RuntimeError::failed("read the container's control group", error),
            })
    }

    async fn processes(&self) -> Result<Vec<u32>, RuntimeError> {
        self.running()?;
        self.control
            .group("list the container's processes", Cgroup::processes)
            .await
    }

    async fn out_of_memory(&self, known: u64) -> u64 {
        let mut times = self.control.0.lock().out_of_memory.subscribe();
        let more = times.wait_for(|times| *times > known).await;
        match more.map(|times| *times) {
            Ok(times) => times,
            Err(_) => std::future::pending().await,
        }
    }

    async fn wait(&self) -> ExitStatus {
        wait(&self.exit, &self.stream).await
    }
}

/// A process started with exec.
struct ShimExec {
    control: Control,
    stream: Stream,
    id: ExecId,
    pid: u32,
    exit: watch::Receiver<Option<ExitStatus>>,
}

#[async_trait]
impl ExecTask for ShimExec {
    fn pid(&self) -> u32 {
        self.pid
    }

    async fn resize(&self, size: TtySize) -> Result<(), RuntimeError> {
        self.control
            .order(Order::Resize {
                process: Some(self.id.clone()),
                size,
            })
            .await
    }

    async fn signal(&self, signal: i32) -> Result<(), RuntimeError> {
        self.control
            .order(Order::Signal {
                process: Some(self.id.clone()),
                signal,
            })
            .await
    }

    async fn wait(&self) -> ExitStatus {
        wait(&self.exit, &self.stream).await
    }
}

impl Drop for ShimExec {
    fn drop(&mut self) {
        self.control.0.lock().exits.remove(&Some(self.id.clone()));
    }
}
