//! When a container that ended is started again, and after how long.

use super::spec::RestartPolicy;
use std::time::Duration;

/// Docker's first pause; it doubles with every quick end up to [`LONGEST`].
pub const FIRST: Duration = Duration::from_millis(100);
pub const LONGEST: Duration = Duration::from_secs(60);
/// A run at least this long makes the next pause the first again.
pub const GOOD_RUN: Duration = Duration::from_secs(10);

/// Whether the policy wants another run after one that ended with `code`.
pub fn wants_restart(
    policy: RestartPolicy,
    code: i32,
    restarts: u32,
    stopped_by_hand: bool,
) -> bool {
    if stopped_by_hand {
        return false;
    }
    match policy {
        RestartPolicy::No => false,
        RestartPolicy::Always | RestartPolicy::UnlessStopped => true,
        RestartPolicy::OnFailure(maximum) => code != 0 && (maximum == 0 || restarts < maximum),
    }
}

/// Whether a container that does not run is started when the engine starts.
pub fn starts_with_engine(
    policy: RestartPolicy,
    was_running: bool,
    code: i32,
    stopped_by_hand: bool,
) -> bool {
    match policy {
        RestartPolicy::No => false,
        // `always` means it, even after a stop by hand (Docker's documentation of the policies).
        RestartPolicy::Always => true,
        RestartPolicy::UnlessStopped => !stopped_by_hand,
        RestartPolicy::OnFailure(_) => was_running && code != 0 && !stopped_by_hand,
    }
}

/// The pause before the next run, given the one before the last.
pub fn next_pause(last: Option<Duration>, ran: Duration) -> Duration {
    match last {
        Some(last) if ran < GOOD_RUN => (last * 2).min(LONGEST),
        _ => FIRST,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policies() {
        use RestartPolicy::{Always, No, OnFailure, UnlessStopped};
        assert!(!wants_restart(No, 1, 0, false));
        assert!(wants_restart(Always, 0, 99, false));
        assert!(!wants_restart(Always, 0, 0, true));
        assert!(!wants_restart(OnFailure(3), 0, 0, false));
        assert!(wants_restart(OnFailure(3), 1, 2, false));
        assert!(!wants_restart(OnFailure(3), 1, 3, false));
        assert!(starts_with_engine(Always, false, 0, true));
        assert!(!starts_with_engine(UnlessStopped, false, 0, true));
        assert!(!starts_with_engine(OnFailure(0), false, 1, false));
    }

    #[test]
    fn the_pause_doubles_up_to_a_minute_and_a_good_run_makes_it_the_first_again() {
        let quick = Duration::from_millis(9_999);
        let mut last = None;
        for milliseconds in [
            100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 51_200, 60_000, 60_000,
        ] {
            let pause = next_pause(last, quick);
            assert_eq!(pause, Duration::from_millis(milliseconds));
            last = Some(pause);
        }
        let pause = next_pause(last, Duration::from_secs(10));
        assert_eq!(pause, Duration::from_millis(100));
    }
}
