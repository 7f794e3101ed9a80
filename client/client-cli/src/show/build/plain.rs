//! Lines, as BuildKit's plain form has them: `#2 [build 2/5] RUN make`.

use super::{Finding, Screen, Step};
use anyhow::Result;
use serde_json::Value;
use std::collections::HashMap;
use std::time::{Duration, Instant};

pub(super) struct Lines {
    steps: Vec<Step>,
    running: HashMap<usize, Running>,
    /// The step whose lines came last: lines of another begin with an empty one.
    last: Option<usize>,
    findings: Vec<Finding>,
    notes: bool,
    print: Print,
}

/// Where lines go.
enum Print {
    Errors,
    /// And times are letters.
    #[cfg(test)]
    Memory(String),
}

struct Running {
    since: Instant,
    /// What has no newline yet.
    rest: Vec<u8>,
}

impl Lines {
    pub(super) fn new() -> Lines {
        Lines {
            steps: Vec::new(),
            running: HashMap::new(),
            last: None,
            findings: Vec::new(),
            notes: false,
            print: Print::Errors,
        }
    }

    #[cfg(test)]
    pub(super) fn for_tests() -> Lines {
        Lines {
            print: Print::Memory(String::new()),
            ..Lines::new()
        }
    }

    #[cfg(test)]
    pub(super) fn text(&self) -> String {
        match &self.print {
            Print::Memory(text) => text.clone(),
            Print::Errors => String::new(),
        }
    }

    fn line(&mut self, text: &str) {
        match &mut self.print {
            Print::Errors => eprintln!("{text}"),
            #[cfg(test)]
            Print::Memory(memory) => memory.push_str(&format!("{text}\n")),
        }
    }

    fn seconds(&self, span: Duration, digits: usize) -> String {
        match self.print {
            Print::Errors => format!("{:.digits$}", span.as_secs_f64()),
            #[cfg(test)]
            Print::Memory(_) => "T".to_owned(),
        }
    }

    /// A line of a step; where the one before was another's, its title comes again.
    fn of_step(&mut self, step: usize, text: &str) {
        if self.last != Some(step) {
            if self.last.is_some() {
                self.line("");
            }
            if let Some(title) = self.steps.get(step).map(Step::title) {
                self.line(&format!("#{} {title}", step + 1));
            }
            self.last = Some(step);
        }
        self.line(&format!("#{} {text}", step + 1));
    }

    fn output_line(&mut self, step: usize, line: &[u8]) {
        let since = self
            .running
            .get(&step)
            .map(|running| running.since.elapsed());
        let text = String::from_utf8_lossy(line).into_owned();
        let at = self.seconds(since.unwrap_or_default(), 3);
        self.of_step(step, &format!("{at} {}", text.trim_end_matches('\r')));
    }

    fn finish(&mut self, step: usize) -> Duration {
        let Some(running) = self.running.get_mut(&step) else {
            return Duration::ZERO;
        };
        let rest = std::mem::take(&mut running.rest);
        if !rest.is_empty() {
            self.output_line(step, &rest);
        }
        self.running
            .remove(&step)
            .map_or(Duration::ZERO, |running| running.since.elapsed())
    }
}

impl Screen for Lines {
    fn planned(&mut self, steps: &[Step]) -> Result<()> {
        self.steps = steps.to_vec();
        Ok(())
    }

    fn started(&mut self, step: usize) -> Result<()> {
        let running = Running {
            since: Instant::now(),
            rest: Vec::new(),
        };
        self.running.insert(step, running);
        Ok(())
    }

    fn output(&mut self, step: usize, _: u8, bytes: &[u8]) -> Result<()> {
        let mut text = match self.running.get_mut(&step) {
            Some(running) => std::mem::take(&mut running.rest),
            None => Vec::new(),
        };
        text.extend_from_slice(bytes);
        while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            self.output_line(step, &line[..end]);
        }
        if let Some(running) = self.running.get_mut(&step) {
            running.rest = text;
        }
        Ok(())
    }

    fn pulling(&mut self, step: usize, progress: &Value) -> Result<()> {
        // What is final is worth a line; amounts are not.
        if progress["progressDetail"]["current"].is_number() {
            return Ok(());
        }
        if let Some(status) = progress["status"].as_str() {
            let text = match progress["id"].as_str() {
                Some(id) => format!("{id}: {status}"),
                None => status.to_owned(),
            };
            self.of_step(step, &text);
        }
        Ok(())
    }

    fn done(&mut self, step: usize, cached: bool) -> Result<()> {
        let took = self.finish(step);
        match cached {
            true => self.of_step(step, "CACHED"),
            false => {
                let took = self.seconds(took, 1);
                self.of_step(step, &format!("DONE {took}s"));
            }
        }
        Ok(())
    }

    fn failed(&mut self, step: usize, message: &str) -> Result<()> {
        self.finish(step);
        self.of_step(step, &format!("ERROR: {message}"));
        Ok(())
    }

    fn warning(&mut self, text: &str) -> Result<()> {
        self.line(&format!("WARNING: {text}"));
        Ok(())
    }

    fn finding(&mut self, finding: &Finding) -> Result<()> {
        self.findings.push(finding.clone());
        Ok(())
    }

    fn note(&mut self, text: &str) -> Result<()> {
        if !self.notes {
            self.notes = true;
            self.line("");
        }
        let number = self.steps.len() + 1;
        self.line(&format!("#{number} {text}"));
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        let findings = std::mem::take(&mut self.findings);
        if let Some(text) = super::findings::summary(&findings) {
            self.line(&format!("\n{}", text.trim_end()));
        }
        Ok(())
    }
}
