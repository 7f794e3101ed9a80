//! The end: containers in order, then everything else, then the disks, then the power.

use super::supervise::Service;
use super::{devices, mounts, programs, say};
use guest_contract::{DATA_ROOT, EXEC_ROOT};
use rustix::process::{Pid, Signal, kill_process};
use rustix::system::{RebootCommand, reboot};
use std::fs::File;
use std::io::Read;
use std::sync::Once;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

/// How long containers may take, with what the engine itself needs.
const ENGINE_LIMIT: Duration = Duration::from_secs(guest_contract::STOP_TIMEOUT_SECONDS + 10);
/// How often the desktop is told that containers are still being stopped: it pulls the plug when it hears nothing for long.
const SIGN_OF_LIFE: Duration = Duration::from_secs(2);

/// Stops everything and powers off; a second call waits for the first.
pub fn off(serve: &Service, sshd: &Service) -> ! {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        say("power off: stopping containers");
        // The signal that asks the engine to stop its containers, see guest_contract::ENGINE_SHUTDOWN_SIGNAL.
        let (ended, waiting) = std::sync::mpsc::channel::<()>();
        let _ = super::start("stopping", move || {
            while waiting.recv_timeout(SIGN_OF_LIFE) == Err(RecvTimeoutError::Timeout) {
                super::REPORTER.still_stopping();
            }
        });
        serve.stop(Signal::POWER, ENGINE_LIMIT);
        drop(ended);
        sshd.stop(Signal::TERM, Duration::from_secs(1));
        end_processes(Signal::TERM, Duration::from_secs(2));
        end_processes(Signal::KILL, Duration::from_secs(2));
        rustix::fs::sync();
        mounts::unmount_below(EXEC_ROOT);
        programs::leave_disk();
        mounts::unmount_below(DATA_ROOT);
        rustix::fs::sync();
        say("power off");
        at_once();
    });
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

/// Without asking anyone. The kernel's own buffers are written.
pub fn at_once() -> ! {
    rustix::fs::sync();
    let _ = reboot(RebootCommand::PowerOff);
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

/// Sends `signal` to every process but us and the kernel's, and waits until they are gone.
fn end_processes(signal: Signal, limit: Duration) {
    let deadline = Instant::now() + limit;
    let mut first = true;
    loop {
        let processes = processes();
        if processes.is_empty() {
            return;
        }
        if first {
            for pid in &processes {
                let _ = kill_process(*pid, signal);
            }
            first = false;
        }
        if Instant::now() > deadline {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn processes() -> Vec<Pid> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| *pid != 1)
        // Kernel threads and zombies have an empty command line.
        .filter(|pid| {
            std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
        })
        .filter_map(Pid::from_raw)
        .collect()
}

/// Calls `pressed` whenever a power button is. Runs on a thread of its own; returns when there is none.
pub fn watch_buttons(pressed: impl Fn() + Send + Sync + 'static) {
    let Ok(buttons) = devices::wait_for("power button", || {
        Some(devices::power_buttons()).filter(|buttons| !buttons.is_empty())
    }) else {
        return;
    };
    // One is all that QEMU has.
    let Some(mut events) = buttons.first().and_then(|path| File::open(path).ok()) else {
        return;
    };
    let mut event = [0u8; INPUT_EVENT_BYTES];
    while events.read_exact(&mut event).is_ok() {
        if is_power_press(&event) {
            pressed();
        }
    }
}

/// `struct input_event` of 64-bit kernels: 16 bytes of time, type, code, value (linux/input.h).
const INPUT_EVENT_BYTES: usize = 24;

fn is_power_press(event: &[u8; INPUT_EVENT_BYTES]) -> bool {
    const EV_KEY: u16 = 1;
    const KEY_POWER: u16 = 116;
    let kind = u16::from_le_bytes([event[16], event[17]]);
    let code = u16::from_le_bytes([event[18], event[19]]);
    let value = i32::from_le_bytes([event[20], event[21], event[22], event[23]]);
    kind == EV_KEY && code == KEY_POWER && value == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pressing_the_power_key_counts() {
        let mut event = [0u8; INPUT_EVENT_BYTES];
        event[16] = 1;
        event[18] = 116;
        event[20] = 1;
        assert!(is_power_press(&event));
        event[20] = 0;
        assert!(!is_power_press(&event), "released");
        event[20] = 1;
        event[18] = 30;
        assert!(!is_power_press(&event), "another key");
    }
}
