//! Registries that said when to come back (`Retry-After`, RFC 9110, 10.2.3): they are not asked again before, by nobody
//! who signs in the same way.

use super::auth::user_of;
use super::endpoint::{Endpoint, authority};
use engine::images::registry::{Credentials, Waits};
use futures_util::future::BoxFuture;
use reqwest::Response;
use reqwest::header::{self, HeaderName};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

/// The longest that somebody is waited for. Who asks for more gets no second request: the pull or push ends with an error
/// that says so.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// Above so many seconds, only each tenth is told.
const TOLD_SINGLY: u64 = 10;

/// How time passes; tests have one of their own.
pub(super) trait Time: Send + Sync {
    fn now(&self) -> Instant;
    fn sleep(&self, wait: Duration) -> BoxFuture<'static, ()>;
}

/// The host's.
pub(super) struct HostTime;

impl Time for HostTime {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn sleep(&self, wait: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(wait))
    }
}

/// Whom not to ask, and until when.
pub(super) struct Patience {
    time: Arc<dyn Time>,
    /// By host and port, with TLS or without, and by user.
    until: Mutex<HashMap<(String, String), Instant>>,
}

impl Patience {
    pub fn new(time: Arc<dyn Time>) -> Patience {
        Patience {
            time,
            until: Mutex::default(),
        }
    }

    /// Notes that an endpoint wants to be left alone for so long.
    pub fn asked(&self, endpoint: &Endpoint, credentials: Option<&Credentials>, wait: Duration) {
        let now = self.time.now();
        let mut until = self.lock();
        until.retain(|_, until| *until > now);
        let latest = until.entry(key(endpoint, credentials)).or_insert(now);
        *latest = (*latest).max(now + wait);
    }

    /// How long an endpoint must still be left alone; nothing where it may be asked.
    pub fn left(&self, endpoint: &Endpoint, credentials: Option<&Credentials>) -> Duration {
        let until = self.lock();
        if until.is_empty() {
            return Duration::ZERO;
        }
        until
            .get(&key(endpoint, credentials))
            .map_or(Duration::ZERO, |until| {
                until.saturating_duration_since(self.time.now())
            })
    }

    /// Waits until an endpoint may be asked, and tells how many seconds that still takes.
    pub async fn wait(
        &self,
        endpoint: &Endpoint,
        credentials: Option<&Credentials>,
        waits: Option<&Waits>,
    ) {
        let mut is_first = true;
        loop {
            let left = self.left(endpoint, credentials);
            if left.is_zero() {
                return;
            }
            // A part of a second is one more.
            let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
            if let Some(waits) = waits
                && (is_first || seconds <= TOLD_SINGLY || seconds.is_multiple_of(10))
            {
                waits(seconds);
            }
            is_first = false;
            let to_next = left - Duration::from_secs(seconds - 1);
            self.time.sleep(to_next).await;
        }
    }

    /// Waits without a word.
    pub async fn sleep(&self, wait: Duration) {
        self.time.sleep(wait).await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(String, String), Instant>> {
        self.until
            .lock()
            .expect("no code panics while it holds this lock")
    }
}

fn key(endpoint: &Endpoint, credentials: Option<&Credentials>) -> (String, String) {
    (authority(&endpoint.base), user_of(credentials))
}

/// How long a server asks to be left alone: seconds, or a date in one of HTTP's three forms.
pub(super) fn retry_after(response: &Response) -> Option<Duration> {
    let text = |name: HeaderName| response.headers().get(name)?.to_str().ok().map(str::trim);
    // A date is the server's, whose clock may be another than ours.
    let now = text(header::DATE).and_then(|date| httpdate::parse_http_date(date).ok());
    wait_of(
        text(header::RETRY_AFTER)?,
        now.unwrap_or_else(SystemTime::now),
    )
}

fn wait_of(text: &str, now: SystemTime) -> Option<Duration> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More than can be counted is still no permission to come at once.
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    // A date that has passed is no wait.
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_dates_are_read() {
        let now = httpdate::parse_http_date("Wed, 21 Oct 2015 07:28:00 GMT").expect("a date");
        for (text, wait) in [
            ("7", Some(7)),
            ("0", Some(0)),
            ("99999999999999999999999", Some(u64::MAX)),
            ("Wed, 21 Oct 2015 07:28:05 GMT", Some(5)),
            ("Wednesday, 21-Oct-15 07:29:00 GMT", Some(60)),
            ("Wed Oct 21 08:28:00 2015", Some(3600)),
            ("Wed, 21 Oct 2015 07:27:00 GMT", Some(0)),
            ("-1", None),
            ("", None),
            ("soon", None),
        ] {
            let expected = wait.map(Duration::from_secs);
            assert_eq!(wait_of(text, now), expected, "{text}");
        }
    }
}
