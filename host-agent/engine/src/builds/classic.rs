//! The lines of Docker's classic builder.
//!
//! It does one step after the other; here stages run at the same time. What a stage says that is not the one being shown
//! is held back until the stages above it in the Dockerfile are done, so that the lines come in the order people know.

use super::event::{BuildEvent, OutputOf, PlannedStep};
use crate::images::{Digest, Progress};
use std::collections::BTreeMap;

/// One message of the classic stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClassicMessage {
    /// `stream`
    Stream(String),
    /// What a pull says.
    Pull(Progress),
    /// `aux`: the id that programs read.
    Aux(Digest),
}

/// Makes the lines.
#[derive(Debug, Default)]
pub struct Classic {
    steps: Vec<PlannedStep>,
    /// Index of the stage's last step.
    last: BTreeMap<usize, usize>,
    /// The stage that is shown.
    shown: usize,
    held: BTreeMap<usize, Vec<BuildEvent>>,
    /// Bytes of a character that is not whole yet.
    partial: BTreeMap<(usize, bool), Vec<u8>>,
}

/// The first twelve digits.
fn short(digest: &Digest) -> &str {
    &digest.hex()[..12]
}

impl Classic {
    pub fn new() -> Classic {
        Classic::default()
    }

    /// What an event says, and what was waiting for it.
    pub fn event(&mut self, event: BuildEvent) -> Vec<ClassicMessage> {
        let mut said = Vec::new();
        if let BuildEvent::Planned(steps) = event {
            self.shown = steps.first().map_or(0, |step| step.stage);
            for (index, step) in steps.iter().enumerate() {
                self.last.insert(step.stage, index);
            }
            self.steps = steps;
            return said;
        }
        match self.stage_of(&event) {
            Some(stage) if stage != self.shown => self.held.entry(stage).or_default().push(event),
            _ => self.show(event, &mut said),
        }
        said
    }

    /// What was held back when the build ended.
    pub fn finish(&mut self) -> Vec<ClassicMessage> {
        let mut said = Vec::new();
        for (stage, events) in std::mem::take(&mut self.held) {
            self.shown = stage;
            for event in events {
                self.say(event, &mut said);
            }
        }
        said
    }

    fn stage_of(&self, event: &BuildEvent) -> Option<usize> {
        let step = match event {
            BuildEvent::Started { step }
            | BuildEvent::Pulling { step, .. }
            | BuildEvent::Running { step, .. }
            | BuildEvent::Output { step, .. }
            | BuildEvent::Removed { step, .. }
            | BuildEvent::Done { step, .. }
            | BuildEvent::Failed { step, .. } => *step,
            BuildEvent::Warning { step, .. } => (*step)?,
            BuildEvent::Planned(_)
            | BuildEvent::Lint(_)
            | BuildEvent::Built { .. }
            | BuildEvent::Tagged { .. } => return None,
        };
        Some(self.steps.get(step)?.stage)
    }

    /// Says it; where that ends a stage, the next one is shown.
    fn show(&mut self, event: BuildEvent, said: &mut Vec<ClassicMessage>) {
        let mut ended = self.say(event, said);
        while ended {
            ended = false;
            let Some(next) = self
                .last
                .range(self.shown + 1..)
                .next()
                .map(|(stage, _)| *stage)
            else {
                return;
            };
            self.shown = next;
            for event in self.held.remove(&next).unwrap_or_default() {
                ended |= self.say(event, said);
            }
        }
    }

    /// Answers whether it was the last of its stage.
    fn say(&mut self, event: BuildEvent, said: &mut Vec<ClassicMessage>) -> bool {
        let mut line = |text: String| said.push(ClassicMessage::Stream(text));
        match event {
            BuildEvent::Planned(_) | BuildEvent::Failed { .. } | BuildEvent::Lint(_) => {}
            BuildEvent::Started { step } => {
                let all = self.steps.len();
                line(format!(
                    "Step {}/{all} : {}",
                    step + 1,
                    self.steps[step].text
                ));
                line("\n".into());
            }
            BuildEvent::Pulling { progress, .. } => said.push(ClassicMessage::Pull(progress)),
            BuildEvent::Running { container, .. } => {
                line(format!(
                    " ---> Running in {}\n",
                    &container[..12.min(container.len())]
                ));
            }
            BuildEvent::Output { step, of, bytes } => {
                let rest = self
                    .partial
                    .entry((step, of == OutputOf::Stderr))
                    .or_default();
                rest.extend_from_slice(&bytes);
                let text = whole_characters(rest);
                match of {
                    _ if text.is_empty() => {}
                    OutputOf::Stdout => line(text),
                    // In red, as dockerd's builder has it (moby, `streamformatter`).
                    OutputOf::Stderr => line(format!("\u{1b}[91m{text}\u{1b}[0m")),
                }
            }
            BuildEvent::Removed { container, .. } => {
                line(format!(
                    "Removing intermediate container {}\n",
                    &container[..12.min(container.len())]
                ));
            }
            BuildEvent::Done {
                step,
                state,
                cached,
            } => {
                if cached {
                    line(" ---> Using cache\n".into());
                }
                line(format!(" ---> {}\n", state.as_ref().map_or("", short)));
                let is_last = self.last.get(&self.steps[step].stage) == Some(&step);
                if is_last && let Some(state) = state {
                    said.push(ClassicMessage::Aux(state));
                }
                return is_last;
            }
            BuildEvent::Warning { step: None, text } => line(format!("[Warning] {text}\n")),
            BuildEvent::Warning { text, .. } => line(format!(" ---> [Warning] {text}\n")),
            BuildEvent::Built { image } => {
                line(format!("Successfully built {}\n", short(&image)));
            }
            BuildEvent::Tagged { name } => line(format!("Successfully tagged {name}\n")),
        }
        false
    }
}

/// Takes out what is whole; what is no UTF-8 becomes the replacement character.
fn whole_characters(bytes: &mut Vec<u8>) -> String {
    let keep = match std::str::from_utf8(bytes) {
        // An incomplete character at the end waits for its rest.
        Err(error) if error.error_len().is_none() => bytes.len() - error.valid_up_to(),
        Err(_) => {
            let tail = bytes.len().saturating_sub(3);
            (tail..bytes.len())
                .find(|at| matches!(std::str::from_utf8(&bytes[*at..]), Err(error) if error.valid_up_to() == 0 && error.error_len().is_none()))
                .map_or(0, |at| bytes.len() - at)
        }
        Ok(_) => 0,
    };
    let rest = bytes.split_off(bytes.len() - keep);
    let whole = std::mem::replace(bytes, rest);
    String::from_utf8_lossy(&whole).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::config::digest_of;

    fn step(stage: usize, text: &str) -> PlannedStep {
        PlannedStep {
            stage,
            stage_name: None,
            number: 1,
            of: 1,
            line: 1,
            text: text.into(),
            needs: Vec::new(),
        }
    }

    fn text(messages: &[ClassicMessage]) -> String {
        messages
            .iter()
            .map(|message| match message {
                ClassicMessage::Stream(text) => text.clone(),
                ClassicMessage::Aux(id) => format!("aux {}\n", short(id)),
                ClassicMessage::Pull(_) => "pull\n".into(),
            })
            .collect()
    }

    #[test]
    fn stages_are_shown_one_after_the_other() {
        let mut classic = Classic::new();
        let steps = vec![step(0, "FROM a"), step(0, "RUN x"), step(2, "FROM b")];
        let id = digest_of(b"x");
        let done = |step, cached| BuildEvent::Done {
            step,
            state: Some(id.clone()),
            cached,
        };
        let mut said = classic.event(BuildEvent::Planned(steps));
        for event in [
            BuildEvent::Started { step: 0 },
            BuildEvent::Started { step: 2 },
            done(0, false),
            done(2, false),
            BuildEvent::Started { step: 1 },
            BuildEvent::Running {
                step: 1,
                container: "0123456789abcdef".into(),
            },
            BuildEvent::Output {
                step: 1,
                of: OutputOf::Stdout,
                bytes: b"h\xc3"[..].into(),
            },
            BuildEvent::Output {
                step: 1,
                of: OutputOf::Stdout,
                bytes: b"\xb6h\n"[..].into(),
            },
            BuildEvent::Removed {
                step: 1,
                container: "0123456789abcdef".into(),
            },
            done(1, true),
            BuildEvent::Warning {
                step: None,
                text: "of the build".into(),
            },
            BuildEvent::Built { image: id.clone() },
            BuildEvent::Tagged {
                name: "t:latest".into(),
            },
        ] {
            said.extend(classic.event(event));
        }
        let id = short(&id);
        assert_eq!(
            text(&said),
            format!(
                "Step 1/3 : FROM a\n ---> {id}\nStep 2/3 : RUN x\n ---> Running in 0123456789ab\nh\u{f6}h\n\
                 Removing intermediate container 0123456789ab\n ---> Using cache\n ---> {id}\naux {id}\n\
                 Step 3/3 : FROM b\n ---> {id}\naux {id}\n[Warning] of the build\nSuccessfully built {id}\nSuccessfully tagged t:latest\n"
            )
        );
        assert!(classic.finish().is_empty());
    }

    #[test]
    fn what_is_no_text_is_replaced() {
        let mut bytes = b"a\xff\xffb\xe2\x82".to_vec();
        assert_eq!(whole_characters(&mut bytes), "a\u{fffd}\u{fffd}b");
        assert_eq!(bytes, b"\xe2\x82");
    }
}
