//! Bars: a line for each step that runs, the last words of its program beside it; what is done stays as a line above.

use super::{Finding, Screen, Step};
use anyhow::Result;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// Lines of a program that are shown when it fails.
const LAST_LINES: usize = 30;

pub(super) struct Bars {
    steps: Vec<Step>,
    bars: MultiProgress,
    running: HashMap<usize, Running>,
    findings: Vec<Finding>,
}

struct Running {
    bar: ProgressBar,
    since: Instant,
    rest: String,
    last: VecDeque<String>,
}

impl Running {
    fn line(&mut self, line: String) {
        // What a program does with the cursor must not reach ours.
        let plain: String = line.chars().filter(|c| !c.is_control()).collect();
        self.bar.set_message(plain.clone());
        self.last.push_back(plain);
        if self.last.len() > LAST_LINES {
            self.last.pop_front();
        }
    }
}

impl Bars {
    pub(super) fn new() -> Bars {
        Bars {
            steps: Vec::new(),
            bars: MultiProgress::with_draw_target(ProgressDrawTarget::stderr()),
            running: HashMap::new(),
            findings: Vec::new(),
        }
    }

    fn title(&self, step: usize) -> String {
        self.steps.get(step).map(Step::title).unwrap_or_default()
    }

    fn finish(&mut self, step: usize, word: &str) -> Result<Option<Running>> {
        let running = self.running.remove(&step);
        let took = running.as_ref().map_or(0.0, |running| {
            running.bar.finish_and_clear();
            running.since.elapsed().as_secs_f64()
        });
        let title = self.title(step);
        self.bars
            .println(format!(" => {word}{title}  {took:.1}s"))?;
        Ok(running)
    }
}

impl Screen for Bars {
    fn planned(&mut self, steps: &[Step]) -> Result<()> {
        self.steps = steps.to_vec();
        Ok(())
    }

    fn started(&mut self, step: usize) -> Result<()> {
        let bar = self.bars.add(ProgressBar::new_spinner());
        let style = ProgressStyle::with_template(" => {prefix}  {elapsed}  {wide_msg:.dim}")
            .expect("a good template");
        bar.set_style(style);
        bar.set_prefix(self.title(step));
        bar.enable_steady_tick(Duration::from_millis(200));
        let running = Running {
            bar,
            since: Instant::now(),
            rest: String::new(),
            last: VecDeque::new(),
        };
        self.running.insert(step, running);
        Ok(())
    }

    fn output(&mut self, step: usize, _: u8, bytes: &[u8]) -> Result<()> {
        if let Some(running) = self.running.get_mut(&step) {
            running.rest.push_str(&String::from_utf8_lossy(bytes));
            while let Some(end) = running.rest.find('\n') {
                let line: String = running.rest.drain(..=end).collect();
                running.line(line.trim_end().to_owned());
            }
        }
        Ok(())
    }

    fn pulling(&mut self, step: usize, progress: &Value) -> Result<()> {
        if let (Some(running), Some(status)) =
            (self.running.get_mut(&step), progress["status"].as_str())
        {
            let parts = [
                progress["id"].as_str(),
                Some(status),
                progress["progress"].as_str(),
            ];
            let text: Vec<&str> = parts.into_iter().flatten().collect();
            running.bar.set_message(text.join(" "));
        }
        Ok(())
    }

    fn done(&mut self, step: usize, cached: bool) -> Result<()> {
        self.finish(step, if cached { "CACHED " } else { "" })?;
        Ok(())
    }

    fn failed(&mut self, step: usize, message: &str) -> Result<()> {
        let running = self.finish(step, "ERROR ")?;
        let mut text = String::from("------\n");
        for line in running.into_iter().flat_map(|mut running| {
            let rest = std::mem::take(&mut running.rest);
            if !rest.is_empty() {
                running.line(rest);
            }
            running.last
        }) {
            text.push_str(&format!("{line}\n"));
        }
        text.push_str(&format!("------\n{message}"));
        self.bars.println(text)?;
        Ok(())
    }

    fn warning(&mut self, text: &str) -> Result<()> {
        Ok(self.bars.println(format!("WARNING: {text}"))?)
    }

    fn finding(&mut self, finding: &Finding) -> Result<()> {
        self.findings.push(finding.clone());
        Ok(())
    }

    fn note(&mut self, text: &str) -> Result<()> {
        Ok(self.bars.println(format!(" => {text}"))?)
    }

    fn end(&mut self) -> Result<()> {
        for (_, running) in self.running.drain() {
            running.bar.finish_and_clear();
        }
        if let Some(text) = super::findings::summary(&self.findings) {
            eprintln!("\n{}", text.trim_end());
        }
        Ok(())
    }
}
