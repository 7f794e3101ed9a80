//! Staged readiness: the guest tells how far it is, one JSON object a line, over the control port.

use serde::{Deserialize, Serialize};

/// The stages of a boot, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// `init` runs: the kernel and the initial file system are up.
    Kernel,
    /// The data disk is formatted (at first boot), grown and mounted.
    Disk,
    /// The network has an address.
    Network,
    /// `serve` has been started.
    Engine,
    /// The API answered `/_ping`.
    Api,
}

impl Stage {
    /// All stages in order.
    pub const ALL: [Stage; 5] = [
        Stage::Kernel,
        Stage::Disk,
        Stage::Network,
        Stage::Engine,
        Stage::Api,
    ];

    /// The word used on the wire and in messages.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Kernel => "kernel",
            Stage::Disk => "disk",
            Stage::Network => "network",
            Stage::Engine => "engine",
            Stage::Api => "api",
        }
    }
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// How a stage ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Ready,
    Failed,
}

/// One line from the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadinessEvent {
    pub stage: Stage,
    pub outcome: Outcome,
    /// Milliseconds since the guest's kernel started.
    pub uptime_ms: u64,
    /// Why a stage failed, or a remark worth showing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The guest's address (stage `network`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

impl ReadinessEvent {
    /// The event as one line of JSON, newline included.
    pub fn to_line(&self) -> String {
        let mut line = serde_json::to_string(self).expect("a readiness event is plain data");
        line.push('\n');
        line
    }

    /// Reads one line; `None` for anything else (a kernel message, an event of a newer image).
    pub fn from_line(line: &str) -> Option<ReadinessEvent> {
        serde_json::from_str(line.trim()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_comes_back_as_the_event() {
        let event = ReadinessEvent {
            stage: Stage::Network,
            outcome: Outcome::Ready,
            uptime_ms: 1234,
            message: None,
            address: Some("10.0.2.15".into()),
        };
        let line = event.to_line();
        assert_eq!(
            line,
            "{\"stage\":\"network\",\"outcome\":\"ready\",\"uptime_ms\":1234,\"address\":\"10.0.2.15\"}\n"
        );
        assert_eq!(ReadinessEvent::from_line(&line), Some(event));
        assert_eq!(
            ReadinessEvent::from_line("[    1.0] random kernel text"),
            None
        );
    }
}
