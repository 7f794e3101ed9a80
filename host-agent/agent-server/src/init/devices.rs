//! Finding devices by what they say of themselves: names like `vda` depend on the order of probing.

use anyhow::{Result, bail};
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long a device may take to appear after its driver was loaded.
const APPEARS_WITHIN: Duration = Duration::from_secs(30);

/// Asks `find` again and again until it finds something.
pub fn wait_for<T>(what: &str, mut find: impl FnMut() -> Option<T>) -> Result<T> {
    let deadline = Instant::now() + APPEARS_WITHIN;
    loop {
        if let Some(found) = find() {
            return Ok(found);
        }
        if Instant::now() > deadline {
            bail!("no {what} appeared within {} s", APPEARS_WITHIN.as_secs());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The block device whose `serial` is the given one.
pub fn disk_with_serial(serial: &str) -> Option<PathBuf> {
    for entry in fs::read_dir("/sys/block").ok()?.flatten() {
        let found = fs::read_to_string(entry.path().join("serial")).unwrap_or_default();
        if found.trim() == serial {
            let device = PathBuf::from("/dev").join(entry.file_name());
            return device.exists().then_some(device);
        }
    }
    None
}

/// The virtio-serial port with the given name.
pub fn serial_port(name: &str) -> Option<PathBuf> {
    for entry in fs::read_dir("/sys/class/virtio-ports").ok()?.flatten() {
        let found = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if found.trim() == name {
            let device = PathBuf::from("/dev").join(entry.file_name());
            return device.exists().then_some(device);
        }
    }
    None
}

/// The first virtio network card.
pub fn network_card() -> Option<String> {
    let mut cards: Vec<String> = fs::read_dir("/sys/class/net")
        .ok()?
        .flatten()
        .filter(|entry| {
            fs::read_link(entry.path().join("device/driver"))
                .is_ok_and(|driver| driver.ends_with("virtio_net"))
        })
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    cards.sort();
    cards.into_iter().next()
}

/// The input devices that are power buttons.
pub fn power_buttons() -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir("/sys/class/input") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("event"))
        .filter(|entry| {
            fs::read_to_string(entry.path().join("device/name"))
                .is_ok_and(|name| name.trim() == "Power Button")
        })
        .map(|entry| PathBuf::from("/dev/input").join(entry.file_name()))
        .collect()
}
