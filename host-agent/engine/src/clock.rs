//! Time as a dependency, so that tests can hold it still.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Tells the time of day.
pub trait Clock: Send + Sync + 'static {
    fn now(&self) -> OffsetDateTime;
}

/// The host's clock.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> OffsetDateTime {
        OffsetDateTime::now_utc()
    }
}

/// The text of Docker's zero time, which Go clients expect where nothing happened yet.
pub const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

/// RFC 3339 with up to nine digits of fraction, in UTC: Docker's `time.RFC3339Nano`.
pub fn rfc3339(at: OffsetDateTime) -> String {
    at.to_offset(time::UtcOffset::UTC)
        .format(&Rfc3339)
        .expect("a date of our era can be written")
}
