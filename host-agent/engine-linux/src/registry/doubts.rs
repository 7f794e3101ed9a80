//! Which mirrors sent damaged blobs: they are not asked for them again for a while.

use engine::images::Digest;
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long a mirror is not asked again for a blob it sent damaged.
const DOUBT: Duration = Duration::from_secs(600);
/// Blobs that are remembered before those of least use are forgotten.
const BLOBS: usize = 512;

/// Who sent which blob.
#[derive(Default)]
pub(super) struct Doubts {
    /// By blob and mirror: since when it is in doubt; `None` where it is not.
    sent: Mutex<HashMap<(Digest, String), Option<Instant>>>,
}

impl Doubts {
    /// Notes that a mirror begins to send a blob.
    pub fn sends(&self, digest: &Digest, mirror: &str) {
        let mut sent = self.lock();
        if sent.len() >= BLOBS {
            sent.retain(|_, since| is_recent(since));
        }
        sent.entry((digest.clone(), mirror.to_owned()))
            .or_insert(None);
    }

    /// Notes that a blob came damaged. Whether a mirror sent it that was not in doubt before.
    pub fn damaged(&self, digest: &Digest) -> bool {
        let mut is_news = false;
        for ((blob, _), since) in self.lock().iter_mut() {
            if blob == digest && !is_recent(since) {
                *since = Some(Instant::now());
                is_news = true;
            }
        }
        is_news
    }

    /// Whether a mirror is in doubt about a blob.
    pub fn about(&self, digest: &Digest, mirror: &str) -> bool {
        self.lock()
            .get(&(digest.clone(), mirror.to_owned()))
            .is_some_and(is_recent)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(Digest, String), Option<Instant>>> {
        self.sent
            .lock()
            .expect("no code panics while it holds this lock")
    }
}

fn is_recent(since: &Option<Instant>) -> bool {
    since.is_some_and(|since| since.elapsed() < DOUBT)
}
