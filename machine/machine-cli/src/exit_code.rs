//! Exit codes of `machine`. 0 and 1 are docker-machine's; so is 3 for a driver whose pre-create check failed, for example because
//! QEMU is not installed. `ssh` ends with the status of the remote command.

pub const SUCCESS: u8 = 0;
pub const FAILURE: u8 = 1;
pub const CHECK_FAILED: u8 = 3;
/// 128 + SIGINT, as shells have it.
pub const INTERRUPTED: u8 = 130;
