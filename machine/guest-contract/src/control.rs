//! Lines the desktop sends into the guest over the control port.

use serde::{Deserialize, Serialize};

/// The line by which a guest that powers off says that it still waits for containers. A keeper that does not know it takes it
/// for no event.
pub const STILL_STOPPING: &str = "{\"stopping\":\"containers\"}\n";

/// One control line, JSON with a `do` key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum ControlRequest {
    /// Sets the clock (after the desktop slept). Unix time in milliseconds.
    SetTime { unix_ms: u64 },
    /// Stops containers in order, unmounts and powers off, as the power button does.
    PowerOff,
    /// Says again how far the boot is: the keeper may have connected late.
    Report,
}

impl ControlRequest {
    /// The request as one line of JSON, newline included.
    pub fn to_line(&self) -> String {
        let mut line = serde_json::to_string(self).expect("a control request is plain data");
        line.push('\n');
        line
    }

    /// Reads one line; `None` for anything that is no request we know.
    pub fn from_line(line: &str) -> Option<ControlRequest> {
        serde_json::from_str(line.trim()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_survive_the_wire() {
        for request in [
            ControlRequest::SetTime {
                unix_ms: 1_795_000_000_000,
            },
            ControlRequest::PowerOff,
            ControlRequest::Report,
        ] {
            assert_eq!(ControlRequest::from_line(&request.to_line()), Some(request));
        }
        assert_eq!(ControlRequest::from_line("{\"do\":\"dance\"}"), None);
    }
}
