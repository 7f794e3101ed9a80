//! The meeting point of a container's standard streams and the clients attached to it.
//!
//! ```text
//!   process --output--> pump --+--> client A      a client that reads slowly makes the process wait, as with Docker;
//!                              '--> client B      nothing is lost and nothing piles up
//!   client A --stdin--> feed --> process
//! ```
//! Clients may come before the process does: they are then served from its first byte.

use crate::runtime::{ProcessIo, StreamKind};
use bytes::Bytes;
use std::sync::Mutex;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// A piece of output.
pub type Chunk = (StreamKind, Bytes);

/// Pieces that may wait for one client.
const WAITING: usize = 16;

/// Input for a container from one of possibly several clients.
#[derive(Debug)]
pub enum StdinChunk {
    Data(Bytes),
    /// No more from anybody.
    Close,
}

/// Where a client writes a process's input.
#[derive(Debug)]
pub enum StdinWriter {
    /// Shared with other clients; the end of one closes it only where asked to.
    Shared {
        sender: mpsc::Sender<StdinChunk>,
        close_at_end: bool,
    },
    /// The client's own: its end is the end.
    Own(mpsc::Sender<Bytes>),
}

impl StdinWriter {
    /// Waits for room; `false` where nobody takes it any more.
    pub async fn write(&self, data: Bytes) -> bool {
        match self {
            StdinWriter::Shared { sender, .. } => sender.send(StdinChunk::Data(data)).await.is_ok(),
            StdinWriter::Own(sender) => sender.send(data).await.is_ok(),
        }
    }

    /// The client has said everything it had to say.
    pub async fn finish(self) {
        if let StdinWriter::Shared { sender, close_at_end: true } = self {
            let _ = sender.send(StdinChunk::Close).await;
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct OutputHub {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    subscribers: Vec<Subscriber>,
    stdin: mpsc::Sender<StdinChunk>,
    /// Taken by the run that feeds from it.
    stdin_source: Option<mpsc::Receiver<StdinChunk>>,
}

impl Default for Inner {
    fn default() -> Self {
        let (stdin, source) = mpsc::channel(WAITING);
        Inner { subscribers: Vec::new(), stdin, stdin_source: Some(source) }
    }
}

#[derive(Debug, Clone)]
struct Subscriber {
    sender: mpsc::Sender<Chunk>,
    stdout: bool,
    stderr: bool,
}

impl OutputHub {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().expect("no code panics while it holds this lock")
    }

    /// Output from now on, until the run ends.
    pub fn subscribe(&self, stdout: bool, stderr: bool) -> mpsc::Receiver<Chunk> {
        let (sender, receiver) = mpsc::channel(WAITING);
        self.lock().subscribers.push(Subscriber { sender, stdout, stderr });
        receiver
    }

    /// Input of the current or, where none is on, the next run.
    pub fn stdin(&self, close_at_end: bool) -> StdinWriter {
        StdinWriter::Shared { sender: self.lock().stdin.clone(), close_at_end }
    }

    /// Connects a process that has started. The returned task ends with the process's output.
    pub fn connect(self: &Arc<Self>, io: ProcessIo) -> JoinHandle<()> {
        let source = {
            let mut inner = self.lock();
            inner.stdin_source.take().unwrap_or_else(|| {
                let (stdin, source) = mpsc::channel(WAITING);
                inner.stdin = stdin;
                source
            })
        };
        let feed = tokio::spawn(feed(source, io.stdin));
        let hub = self.clone();
        tokio::spawn(async move {
            hub.pump(io.output).await;
            feed.abort();
        })
    }

    async fn pump(&self, mut output: mpsc::Receiver<Chunk>) {
        while let Some((stream, data)) = output.recv().await {
            let targets: Vec<Subscriber> = self.lock().subscribers.clone();
            let mut somebody_left = false;
            for target in &targets {
                let wanted = match stream {
                    StreamKind::Stdout => target.stdout,
                    StreamKind::Stderr => target.stderr,
                };
                let gone = if wanted {
                    target.sender.send((stream, data.clone())).await.is_err()
                } else {
                    target.sender.is_closed()
                };
                somebody_left |= gone;
            }
            if somebody_left {
                self.lock().subscribers.retain(|target| !target.sender.is_closed());
            }
        }
        self.end();
    }

    /// Ends the streams of everybody attached: the run is over, or there will be none.
    pub fn end(&self) {
        // Dropped outside of the lock.
        let _old = std::mem::take(&mut *self.lock());
    }
}

async fn feed(mut source: mpsc::Receiver<StdinChunk>, mut stdin: Option<mpsc::Sender<Bytes>>) {
    while let Some(chunk) = source.recv().await {
        match (chunk, &stdin) {
            (StdinChunk::Data(data), Some(sender)) => {
                if sender.send(data).await.is_err() {
                    stdin = None;
                }
            }
            (StdinChunk::Close, _) => stdin = None,
            // The process has no standard input (any more): what is written is lost, as with a closed pipe.
            (StdinChunk::Data(_), None) => {}
        }
    }
    // Every client is gone and the hub has a new channel: the process keeps its input until the pump ends this task.
    std::future::pending::<()>().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn io() -> (ProcessIo, mpsc::Sender<Chunk>, mpsc::Receiver<Bytes>) {
        let (output, receiver) = mpsc::channel(1);
        let (stdin, input) = mpsc::channel(1);
        (ProcessIo { stdin: Some(stdin), output: receiver }, output, input)
    }

    fn out(text: &'static str) -> Chunk {
        (StreamKind::Stdout, Bytes::from_static(text.as_bytes()))
    }

    #[tokio::test]
    async fn clients_that_come_before_the_start_see_the_first_byte_and_the_end() {
        let hub = Arc::new(OutputHub::default());
        let mut one = hub.subscribe(true, true);
        let mut two = hub.subscribe(false, true);
        let (io, output, _input) = io();
        let pump = hub.connect(io);
        output.send(out("a")).await.expect("the pump reads");
        output.send((StreamKind::Stderr, Bytes::from_static(b"e"))).await.expect("the pump reads");
        drop(output);
        assert_eq!(one.recv().await, Some(out("a")));
        assert_eq!(one.recv().await.map(|chunk| chunk.0), Some(StreamKind::Stderr));
        assert_eq!(one.recv().await, None);
        assert_eq!(two.recv().await.map(|chunk| chunk.0), Some(StreamKind::Stderr));
        assert_eq!(two.recv().await, None);
        pump.await.expect("the pump ends");
    }

    #[tokio::test]
    async fn a_slow_client_loses_nothing_and_a_client_that_left_holds_nobody_up() {
        let hub = Arc::new(OutputHub::default());
        let mut slow = hub.subscribe(true, true);
        drop(hub.subscribe(true, true));
        let (io, output, _input) = io();
        let _pump = hub.connect(io);
        let writer = tokio::spawn(async move {
            for _ in 0..200 {
                output.send(out("x")).await.expect("the pump reads");
            }
        });
        let mut count = 0;
        while slow.recv().await.is_some() {
            count += 1;
            tokio::task::yield_now().await;
        }
        assert_eq!(count, 200);
        writer.await.expect("everything was taken");
    }

    #[tokio::test]
    async fn input_from_before_the_start_arrives_and_is_closed_only_where_asked() {
        let hub = Arc::new(OutputHub::default());
        let early = hub.stdin(false);
        assert!(early.write(Bytes::from_static(b"1")).await);
        early.finish().await;
        let (io, output, mut input) = io();
        let _pump = hub.connect(io);
        assert_eq!(input.recv().await, Some(Bytes::from_static(b"1")));
        let once = hub.stdin(true);
        assert!(once.write(Bytes::from_static(b"2")).await);
        once.finish().await;
        assert_eq!(input.recv().await, Some(Bytes::from_static(b"2")));
        assert_eq!(input.recv().await, None);
        drop(output);
    }
}
