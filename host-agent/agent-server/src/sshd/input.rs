//! What a client sends on a channel, on its way to a program. russh opens the window again as soon as data arrives, not when
//! it was used, and waits inside its loop for whoever takes it; a program that reads slowly would stop the whole
//! connection. So the queue here never makes anybody wait, and [`Queued`] makes the window tiny while it is long.

use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, mpsc};

/// Bytes of one connection that wait for programs before its clients are slowed down.
const MANY: usize = 4 * 1024 * 1024;
/// The smallest window that russh opens again: two bytes for each round trip.
const TRICKLE: u32 = 2;

enum Piece {
    Data(Bytes),
    End,
}

/// How much waits, over all channels of a connection.
#[derive(Clone, Default)]
pub(super) struct Queued(Arc<AtomicUsize>);

impl Queued {
    /// The window to open next.
    pub(super) fn window(&self) -> u32 {
        if self.0.load(Ordering::Relaxed) > MANY {
            TRICKLE
        } else {
            super::WINDOW
        }
    }
}

/// Where the connection puts data.
pub(super) struct Sender {
    pieces: mpsc::UnboundedSender<Piece>,
    queued: Queued,
}

/// Where a program's feeder takes it.
pub(super) struct Receiver {
    pieces: mpsc::UnboundedReceiver<Piece>,
    queued: Queued,
}

pub(super) fn queue(queued: &Queued) -> (Sender, Receiver) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (
        Sender {
            pieces: sender,
            queued: queued.clone(),
        },
        Receiver {
            pieces: receiver,
            queued: queued.clone(),
        },
    )
}

impl Sender {
    pub(super) fn data(&self, data: &[u8]) {
        let piece = Piece::Data(Bytes::copy_from_slice(data));
        if self.pieces.send(piece).is_ok() {
            self.queued.0.fetch_add(data.len(), Ordering::Relaxed);
        }
    }

    pub(super) fn end(&self) {
        let _ = self.pieces.send(Piece::End);
    }

    /// Whether nobody will take more.
    pub(super) fn is_closed(&self) -> bool {
        self.pieces.is_closed()
    }
}

impl Receiver {
    /// Carries everything to `target`, and ends that when the client ends its half. Returns when the channel is gone.
    pub(super) async fn feed(&mut self, target: impl AsyncWrite + Unpin, ended: &Notify) {
        let mut target = Some(target);
        while let Some(piece) = self.pieces.recv().await {
            match piece {
                Piece::Data(data) => {
                    if let Some(writer) = &mut target {
                        let written = async {
                            writer.write_all(&data).await?;
                            writer.flush().await
                        };
                        // A program that closed its input does not want the rest.
                        if written.await.is_err() {
                            target = None;
                        }
                    }
                    self.queued.0.fetch_sub(data.len(), Ordering::Relaxed);
                }
                Piece::End => {
                    if let Some(mut writer) = target.take() {
                        let _ = writer.shutdown().await;
                    }
                    ended.notify_one();
                }
            }
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.pieces.close();
        while let Ok(piece) = self.pieces.try_recv() {
            if let Piece::Data(data) = piece {
                self.queued.0.fetch_sub(data.len(), Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_long_queue_makes_the_window_small_until_it_is_short() {
        let queued = Queued::default();
        let (sender, mut receiver) = queue(&queued);
        for _ in 0..MANY / 1000 + 1 {
            sender.data(&[7; 1000]);
        }
        assert_eq!(queued.window(), TRICKLE);
        sender.end();
        drop(sender);
        let mut target = Vec::new();
        receiver.feed(&mut target, &Notify::new()).await;
        assert_eq!(target.len(), (MANY / 1000 + 1) * 1000);
        assert_eq!(queued.window(), super::super::WINDOW);

        let (sender, receiver) = queue(&queued);
        sender.data(&vec![7; MANY + 1]);
        assert_eq!(queued.window(), TRICKLE);
        drop(receiver);
        assert_eq!(queued.window(), super::super::WINDOW);
        assert!(sender.is_closed());
    }
}
