//! The meeting point of a container's standard streams and the clients attached to it.
//!
//! ```text
//!   process --output--> pump --+--> client A      a client that reads slowly makes the process wait, as with Docker;
//!                              '--> client B      nothing is lost and nothing piles up
//!   client A --stdin--> feed --> process
//! ```
//! Clients may come before the process does: they are then served from its first byte. Each run has clients of its own.

use crate::runtime::{ProcessIo, StreamKind};
use bytes::Bytes;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
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

/// See the module.
#[derive(Debug, Default)]
pub struct OutputHub {
    /// Of the run that is on; where none is, of the next one.
    current: Mutex<Arc<RunStreams>>,
}

/// The clients of one run. It lives as long as the hub or the run's pump holds it, and their streams end with it: a client
/// that does not read holds up the pump of its own run, and no later one.
#[derive(Debug, Default)]
pub struct RunStreams {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    last_client: u64,
    subscribers: Vec<Subscriber>,
    stdin: mpsc::Sender<StdinChunk>,
    /// Taken when the run begins.
    stdin_source: Option<mpsc::Receiver<StdinChunk>>,
}

impl Default for Inner {
    fn default() -> Self {
        let (stdin, source) = mpsc::channel(WAITING);
        Inner {
            last_client: 0,
            subscribers: Vec::new(),
            stdin,
            stdin_source: Some(source),
        }
    }
}

/// One attached client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientId(u64);

/// How a terminal's client detaches by its keys.
#[derive(Debug)]
pub struct Escape {
    pub keys: DetachKeys,
    pub client: ClientId,
    /// Set when it was done.
    pub detached: Arc<AtomicBool>,
}

#[derive(Debug, Clone)]
struct Subscriber {
    id: ClientId,
    sender: mpsc::Sender<Chunk>,
    stdout: bool,
    stderr: bool,
}

impl OutputHub {
    fn lock(&self) -> MutexGuard<'_, Arc<RunStreams>> {
        self.current
            .lock()
            .expect("no code panics while it holds this lock")
    }

    /// Where clients of the current or, where none is on, of the next run attach.
    pub fn run(&self) -> Arc<RunStreams> {
        self.lock().clone()
    }

    /// Connects a process that has started. The returned task ends with the process's output.
    pub fn connect(self: &Arc<Self>, io: ProcessIo) -> JoinHandle<()> {
        let run = self.run();
        let source = run.lock().stdin_source.take();
        let source = source.expect("a run ends before the next one begins");
        let feed = tokio::spawn(feed(source, io.stdin));
        let hub = self.clone();
        tokio::spawn(async move {
            run.pump(io.output).await;
            feed.abort();
            // It may be over since long.
            let mut current = hub.lock();
            if Arc::ptr_eq(&current, &run) {
                *current = Arc::default();
            }
        })
    }

    /// The run is over, or there will be none: who comes from now on waits for the next one. What its clients have not read
    /// by now is still delivered; then their streams end.
    pub fn end(&self) {
        // Dropped outside of the lock.
        let _over = std::mem::take(&mut *self.lock());
    }
}

impl RunStreams {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner
            .lock()
            .expect("no code panics while it holds this lock")
    }

    /// Output from now on, until the run ends.
    pub fn subscribe(&self, stdout: bool, stderr: bool) -> (ClientId, mpsc::Receiver<Chunk>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        let mut inner = self.lock();
        inner.last_client += 1;
        let id = ClientId(inner.last_client);
        inner.subscribers.push(Subscriber {
            id,
            sender,
            stdout,
            stderr,
        });
        (id, receiver)
    }

    /// Input of the run. Dropping it is the client's end of input, which ends the process's only with `close_at_end`. With
    /// `escape`, keys typed in that order end the client's output (detach).
    pub fn stdin(
        self: &Arc<Self>,
        close_at_end: bool,
        escape: Option<Escape>,
    ) -> mpsc::Sender<Bytes> {
        let shared = self.lock().stdin.clone();
        let (client, mut typed) = mpsc::channel::<Bytes>(1);
        // A client that still types does not keep the streams of the others from ending.
        let run = Arc::downgrade(self);
        tokio::spawn(async move {
            let mut escape = escape;
            while let Some(mut data) = typed.recv().await {
                let mut detached = false;
                if let Some(escape) = &mut escape {
                    (data, detached) = escape.keys.scan(&data);
                }
                // What was typed before the keys is still for the process.
                if detached {
                    if !data.is_empty() {
                        let _ = shared.send(StdinChunk::Data(data)).await;
                    }
                    if let Some(escape) = &escape {
                        escape.detached.store(true, Ordering::Relaxed);
                        if let Some(run) = run.upgrade() {
                            run.leave(escape.client);
                        }
                    }
                    return;
                }
                if !data.is_empty() && shared.send(StdinChunk::Data(data)).await.is_err() {
                    return;
                }
            }
            if close_at_end {
                let _ = shared.send(StdinChunk::Close).await;
            }
        });
        client
    }

    /// Ends one client's output.
    fn leave(&self, client: ClientId) {
        self.lock()
            .subscribers
            .retain(|subscriber| subscriber.id != client);
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
                self.lock()
                    .subscribers
                    .retain(|target| !target.sender.is_closed());
            }
        }
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
}

/// The keys that detach a terminal's client: `ctrl-p,ctrl-q` unless it says otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetachKeys {
    keys: Vec<u8>,
    /// So many of them were typed last.
    matched: usize,
}

impl Default for DetachKeys {
    fn default() -> Self {
        DetachKeys {
            keys: vec![0x10, 0x11],
            matched: 0,
        }
    }
}

impl DetachKeys {
    /// The bytes that the keys send.
    pub fn bytes(&self) -> &[u8] {
        &self.keys
    }

    /// From `ctrl-a,x,...`; `None` is no such text. An empty one is the default.
    pub fn parse(text: &str) -> Option<DetachKeys> {
        if text.is_empty() {
            return Some(DetachKeys::default());
        }
        let key = |word: &str| match word.strip_prefix("ctrl-") {
            Some("@") => Some(0),
            Some("[") => Some(27),
            Some("\\") => Some(28),
            Some("]") => Some(29),
            Some("^") => Some(30),
            Some("_") => Some(31),
            Some(letter) => match letter.as_bytes() {
                [letter @ b'a'..=b'z'] => Some(letter - b'a' + 1),
                _ => None,
            },
            None => match word.as_bytes() {
                [byte] => Some(*byte),
                _ => None,
            },
        };
        let keys: Option<Vec<u8>> = text.split(',').map(key).collect();
        Some(DetachKeys {
            keys: keys?,
            matched: 0,
        })
    }

    /// What of `typed` is for the process, and whether the keys are complete. The beginning of the keys is held back
    /// until it is clear that they are not meant.
    pub fn scan(&mut self, typed: &Bytes) -> (Bytes, bool) {
        let mut kept = Vec::with_capacity(typed.len());
        for byte in typed {
            if *byte == self.keys[self.matched] {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    self.matched = 0;
                    return (kept.into(), true);
                }
                continue;
            }
            kept.extend_from_slice(&self.keys[..self.matched]);
            self.matched = usize::from(*byte == self.keys[0] && self.keys.len() > 1);
            if self.matched == 0 {
                kept.push(*byte);
            }
        }
        (kept.into(), false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn io() -> (ProcessIo, mpsc::Sender<Chunk>, mpsc::Receiver<Bytes>) {
        let (output, receiver) = mpsc::channel(1);
        let (stdin, input) = mpsc::channel(1);
        (
            ProcessIo {
                stdin: Some(stdin),
                output: receiver,
            },
            output,
            input,
        )
    }

    fn out(text: &'static str) -> Chunk {
        (StreamKind::Stdout, Bytes::from_static(text.as_bytes()))
    }

    #[tokio::test]
    async fn clients_that_come_before_the_start_see_the_first_byte_and_the_end() {
        let hub = Arc::new(OutputHub::default());
        let (_, mut one) = hub.run().subscribe(true, true);
        let (_, mut two) = hub.run().subscribe(false, true);
        let (io, output, _input) = io();
        let pump = hub.connect(io);
        output.send(out("a")).await.expect("the pump reads");
        output
            .send((StreamKind::Stderr, Bytes::from_static(b"e")))
            .await
            .expect("the pump reads");
        drop(output);
        assert_eq!(one.recv().await, Some(out("a")));
        assert_eq!(
            one.recv().await.map(|chunk| chunk.0),
            Some(StreamKind::Stderr)
        );
        assert_eq!(one.recv().await, None);
        assert_eq!(
            two.recv().await.map(|chunk| chunk.0),
            Some(StreamKind::Stderr)
        );
        assert_eq!(two.recv().await, None);
        pump.await.expect("the pump ends");
    }

    #[tokio::test]
    async fn a_slow_client_loses_nothing_and_a_client_that_left_holds_nobody_up() {
        let hub = Arc::new(OutputHub::default());
        let (_, mut slow) = hub.run().subscribe(true, true);
        drop(hub.run().subscribe(true, true));
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
        let early = hub.run().stdin(false, None);
        early.send(Bytes::from_static(b"1")).await.expect("taken");
        drop(early);
        let (io, output, mut input) = io();
        let _pump = hub.connect(io);
        assert_eq!(input.recv().await, Some(Bytes::from_static(b"1")));
        let once = hub.run().stdin(true, None);
        once.send(Bytes::from_static(b"2")).await.expect("taken");
        drop(once);
        assert_eq!(input.recv().await, Some(Bytes::from_static(b"2")));
        assert_eq!(input.recv().await, None);
        drop(output);
    }

    /// A client that stopped reading, as a suspended `docker run` has, is its own run's matter.
    #[tokio::test]
    async fn what_an_earlier_run_has_left_does_not_reach_the_clients_of_the_next() {
        let hub = Arc::new(OutputHub::default());
        let (_, mut suspended) = hub.run().subscribe(true, true);
        let (first, output, _input) = io();
        let pump = hub.connect(first);
        let written = WAITING + 2;
        for _ in 0..written {
            output.send(out("old")).await.expect("there is room");
        }
        drop(output);
        hub.end();

        let (_, mut client) = hub.run().subscribe(true, true);
        let stdin = hub.run().stdin(true, None);
        let (second, output, mut input) = io();
        let _pump = hub.connect(second);
        output.send(out("new")).await.expect("the pump reads");
        assert_eq!(client.recv().await, Some(out("new")));
        for _ in 0..written {
            assert_eq!(suspended.recv().await, Some(out("old")));
        }
        assert_eq!(suspended.recv().await, None);
        pump.await.expect("the first pump ends");

        output.send(out("newer")).await.expect("the pump reads");
        assert_eq!(client.recv().await, Some(out("newer")));
        stdin.send(Bytes::from_static(b"in")).await.expect("taken");
        assert_eq!(input.recv().await, Some(Bytes::from_static(b"in")));
        let (_, mut later) = hub.run().subscribe(true, true);
        output.send(out("newest")).await.expect("the pump reads");
        assert_eq!(later.recv().await, Some(out("newest")));
    }

    #[tokio::test]
    async fn where_no_run_comes_the_streams_end_also_of_a_client_that_types() {
        let hub = Arc::new(OutputHub::default());
        let (_, mut output) = hub.run().subscribe(true, true);
        let stdin = hub.run().stdin(true, None);
        hub.end();
        assert_eq!(output.recv().await, None);
        drop(stdin);
    }

    #[tokio::test]
    async fn the_detach_keys_end_one_client_only() {
        let hub = Arc::new(OutputHub::default());
        let (id, mut output) = hub.run().subscribe(true, true);
        let (_, mut other) = hub.run().subscribe(true, true);
        let detached = Arc::new(AtomicBool::new(false));
        let escape = Escape {
            keys: DetachKeys::default(),
            client: id,
            detached: detached.clone(),
        };
        let stdin = hub.run().stdin(true, Some(escape));
        stdin
            .send(Bytes::from_static(b"a\x10\x11"))
            .await
            .expect("taken");
        assert_eq!(output.recv().await, None);
        assert!(detached.load(Ordering::Relaxed));
        assert!(
            other
                .try_recv()
                .is_err_and(|error| error == mpsc::error::TryRecvError::Empty)
        );
    }

    #[test]
    fn detach_keys_are_read_and_found() {
        let mut keys = DetachKeys::parse("ctrl-a,x").expect("good");
        let scan =
            |keys: &mut DetachKeys, typed: &'static [u8]| keys.scan(&Bytes::from_static(typed));
        assert_eq!(
            scan(&mut keys, b"hi\x01"),
            (Bytes::from_static(b"hi"), false)
        );
        assert_eq!(scan(&mut keys, b"y"), (Bytes::from_static(b"\x01y"), false));
        assert_eq!(
            scan(&mut keys, b"\x01\x01x"),
            (Bytes::from_static(b"\x01"), true)
        );
        assert_eq!(DetachKeys::parse("ctrl-aa"), None);
        assert_eq!(
            DetachKeys::parse("").expect("the default"),
            DetachKeys::default()
        );
    }
}
