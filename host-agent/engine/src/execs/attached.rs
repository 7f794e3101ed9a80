//! The streams of an exec's client.
//!
//! ```text
//!  client --typed--> [detach keys] --> process --output--> [streams asked for] --> client
//! ```

use super::{Exec, ExecService};
use crate::containers::output::DetachKeys;
use crate::runtime::{ExecTask, ProcessIo, StreamKind};
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Pieces that may wait for the client.
const WAITING: usize = 4;

/// Puts itself between a process and its client. The client's output ends when the exit code is known (it asks for that right
/// after), or with the detach keys of a terminal: then the process goes on, and its output goes nowhere.
pub(super) fn connect(
    service: Arc<ExecService>,
    exec: Arc<Exec>,
    task: Arc<dyn ExecTask>,
    io: ProcessIo,
) -> ProcessIo {
    let (detach, mut detached) = oneshot::channel();
    let request = &exec.request;
    let keys = request
        .tty
        .then(|| DetachKeys::parse(&request.detach_keys))
        .flatten();
    let stdin = match (io.stdin, keys) {
        (Some(stdin), Some(keys)) => Some(watch_keys(stdin, keys, detach)),
        (stdin, _) => stdin,
    };
    let (sender, output) = mpsc::channel(WAITING);
    let mut from_process = io.output;
    tokio::spawn(async move {
        let mut sender = Some(sender);
        let mut may_detach = true;
        loop {
            let chunk = tokio::select! {
                biased;
                keys = &mut detached, if may_detach => {
                    may_detach = false;
                    if keys.is_ok() {
                        sender = None;
                        let attributes = [("execID", exec.id.to_string())];
                        service.containers.deps().tell(&exec.container, "exec_detach", attributes);
                    }
                    continue;
                }
                chunk = from_process.recv() => chunk,
            };
            let Some((stream, data)) = chunk else { break };
            let wanted = match stream {
                StreamKind::Stdout => exec.request.attach_stdout,
                StreamKind::Stderr => exec.request.attach_stderr,
            };
            // A client that left does not end the process: its output goes nowhere, as in Docker.
            if let (true, Some(client)) = (wanted, &sender) {
                let _ = client.send((stream, data)).await;
            }
        }
        let exit = task.wait().await;
        service.settle(&exec, &*task, exit.code);
    });
    ProcessIo { stdin, output }
}

/// Looks for the keys in what is typed.
fn watch_keys(
    stdin: mpsc::Sender<Bytes>,
    mut keys: DetachKeys,
    detach: oneshot::Sender<()>,
) -> mpsc::Sender<Bytes> {
    let (client, mut typed) = mpsc::channel::<Bytes>(1);
    tokio::spawn(async move {
        while let Some(data) = typed.recv().await {
            let (kept, detached) = keys.scan(&data);
            if !kept.is_empty() && stdin.send(kept).await.is_err() {
                return;
            }
            if detached {
                let _ = detach.send(());
                // The process keeps its input open: somebody only looked away.
                stdin.closed().await;
                return;
            }
        }
    });
    client
}
