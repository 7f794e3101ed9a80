//! Bodies that are refused before they were read. A client that is still sending when the connection closes sees "broken
//! pipe" and not the answer; so what is left is read and forgotten first, as Go's servers do it, but more of it.

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use engine::images::ByteStream;
use futures_util::StreamExt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Poll;
use std::time::Duration;

/// Bytes that are taken after an error; who has more to send learns it the hard way.
const BYTES_MAX: usize = 256 << 20;
/// How long a client may take for them.
const TIME_MAX: Duration = Duration::from_secs(30);

/// Around every route: an error is answered when the request's body is at its end. An error in a stream that has begun
/// is the handler's own to hold back.
pub(super) async fn before_errors(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    if body.is_end_stream() {
        return next.run(Request::from_parts(parts, body)).await;
    }
    let pieces = body
        .into_data_stream()
        .map(|piece| piece.map_err(std::io::Error::other));
    let (content, rest) = split(Box::pin(pieces));
    let response = next
        .run(Request::from_parts(parts, Body::from_stream(content)))
        .await;
    if response.status().is_client_error() || response.status().is_server_error() {
        rest.drain().await;
    }
    response
}

/// What nobody has read of a body.
pub(super) struct Rest(Arc<Mutex<ByteStream>>);

/// A body to be read, and a handle on what is left of it when nobody reads any more.
pub(super) fn split(body: ByteStream) -> (ByteStream, Rest) {
    let shared = Arc::new(Mutex::new(body));
    let rest = Rest(shared.clone());
    let content =
        futures_util::stream::poll_fn(move |context| lock(&shared).poll_next_unpin(context));
    (Box::pin(content), rest)
}

impl Rest {
    /// Reads what is left. The other half must not be read any more.
    pub(super) async fn drain(self) {
        let mut count = 0;
        let drained = async {
            while count < BYTES_MAX {
                let next =
                    std::future::poll_fn(|context| match lock(&self.0).poll_next_unpin(context) {
                        Poll::Ready(next) => Poll::Ready(next),
                        Poll::Pending => Poll::Pending,
                    });
                match next.await {
                    Some(Ok(piece)) => count += piece.len(),
                    // At its end, or the client is gone.
                    Some(Err(_)) | None => return,
                }
            }
        };
        // Too slow is as good as gone.
        let _ = tokio::time::timeout(TIME_MAX, drained).await;
    }
}

fn lock(stream: &Mutex<ByteStream>) -> MutexGuard<'_, ByteStream> {
    stream
        .lock()
        .expect("no code panics while it holds this lock")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test]
    async fn what_nobody_read_is_taken_and_an_endless_body_is_not() {
        let taken = Arc::new(AtomicUsize::new(0));
        let counter = taken.clone();
        let pieces = futures_util::stream::iter(0..5).map(move |_| {
            counter.fetch_add(1, Ordering::SeqCst);
            Ok(bytes::Bytes::from_static(b"piece"))
        });
        let (mut content, rest) = split(Box::pin(pieces));
        content.next().await.expect("a piece").expect("good");
        drop(content);
        rest.drain().await;
        assert_eq!(taken.load(Ordering::SeqCst), 5);

        let endless =
            futures_util::stream::repeat_with(|| Ok(bytes::Bytes::from(vec![0; 1 << 20])));
        let (_content, rest) = split(Box::pin(endless));
        rest.drain().await;
    }
}
