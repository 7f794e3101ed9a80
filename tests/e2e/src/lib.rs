//! The tests are in `tests/e2e`: one binary for all tiers that need a real engine or machine.
