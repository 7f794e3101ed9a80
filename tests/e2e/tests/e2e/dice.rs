//! Chance that can be had again.

use std::time::{SystemTime, UNIX_EPOCH};

/// xorshift64.
pub struct Dice(u64);

impl Dice {
    /// From `BERTH_CRASH_SEED`, or the clock; printed, so that a failure can be had again.
    pub fn thrown() -> Dice {
        let given = std::env::var("BERTH_CRASH_SEED").ok();
        let seed = match given.and_then(|text| text.parse::<u64>().ok()) {
            Some(seed) => seed,
            None => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH);
                now.expect("after 1970").as_nanos() as u64
            }
        };
        println!("BERTH_CRASH_SEED={seed}");
        Dice(seed | 1)
    }

    /// Another one, for a thread of its own.
    pub fn another(&mut self) -> Dice {
        self.below(u64::MAX);
        Dice(self.0.rotate_left(17) | 1)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}
