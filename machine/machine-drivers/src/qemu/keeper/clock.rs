//! Keeps the guest's clock right: a desktop that slept wakes up hours later, its guests do not notice by themselves.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How often to look. Sleep must be noticed before certificates are checked against a clock of yesterday.
pub const INTERVAL: Duration = Duration::from_secs(2);
/// The guest is told at least this often: under emulation its clock drifts. It ignores differences it cannot notice.
const AT_LEAST: Duration = Duration::from_secs(60);
/// Less than this is scheduling, not sleep.
const JUMP: Duration = Duration::from_secs(1);

/// Compares two clocks: the wall's, and one that stands still while the computer sleeps.
pub struct Watch {
    wall: Duration,
    steady: Duration,
    told: Duration,
}

impl Watch {
    pub fn new(wall: Duration, steady: Duration) -> Watch {
        Watch {
            wall,
            steady,
            told: steady,
        }
    }

    /// Should the guest be told the time?
    pub fn look(&mut self, wall: Duration, steady: Duration) -> bool {
        let passed = steady.saturating_sub(self.steady);
        let shown = wall.as_secs_f64() - self.wall.as_secs_f64();
        let jumped = (shown - passed.as_secs_f64()).abs() > JUMP.as_secs_f64();
        self.wall = wall;
        self.steady = steady;
        if jumped || steady.saturating_sub(self.told) >= AT_LEAST {
            self.told = steady;
            return true;
        }
        false
    }
}

/// Calls `tell` with the time in milliseconds whenever the guest should know it. Runs until `tell` says false.
pub fn keep(mut tell: impl FnMut(u64) -> bool) {
    let begin = Instant::now();
    let mut watch = Watch::new(wall(), Duration::ZERO);
    loop {
        std::thread::sleep(INTERVAL);
        if watch.look(wall(), begin.elapsed()) && !tell(wall().as_millis() as u64) {
            return;
        }
    }
}

pub fn wall() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleep_and_a_set_clock_are_noticed_and_ordinary_time_is_not() {
        let s = Duration::from_secs;
        let mut watch = Watch::new(s(1000), s(0));
        assert!(!watch.look(s(1002), s(2)));
        assert!(watch.look(s(9004), s(4)), "slept");
        assert!(!watch.look(s(9006), s(6)));
        assert!(watch.look(s(5000), s(8)), "set back");
        assert!(!watch.look(s(5002), s(10)));
        assert!(watch.look(s(5072), s(80)), "a minute has passed");
    }
}
