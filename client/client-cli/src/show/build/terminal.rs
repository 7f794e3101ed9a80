//! Bars: a line for each step that runs, the last words of its program beside it; what is done stays as a line above.

use super::{Finding, Screen, Step};
use anyhow::Result;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// Lines of a program that are shown when it fails.
const LAST_LINES: usize = 30;

/// Bytes of a line after which it is taken for ended.
const LONGEST_LINE: usize = 64 << 10;

pub(super) struct Bars {
    steps: Vec<Step>,
    bars: MultiProgress,
    running: HashMap<usize, Running>,
    findings: Vec<Finding>,
}

struct Running {
    bar: ProgressBar,
    since: Instant,
    rest: Vec<u8>,
    last: VecDeque<String>,
}

impl Running {
    fn line(&mut self, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        // Of what a program has written over itself the last is seen.
        let text = plain(text.trim_end().rsplit('\r').next().unwrap_or_default());
        self.bar.set_message(text.clone());
        self.last.push_back(text);
        if self.last.len() > LAST_LINES {
            self.last.pop_front();
        }
    }
}

/// Without what moves a cursor or colours: what a program does with its terminal must not reach ours.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\x1b' => match letters.next() {
                // Parameters, and one letter that says what to do with them.
                Some('[') => drop(letters.find(|letter| ('@'..='~').contains(letter))),
                // Titles and links, up to a bell or another escape.
                Some(']') => {
                    let end = letters.find(|letter| ['\x07', '\x1b'].contains(letter));
                    if end == Some('\x1b') {
                        letters.next();
                    }
                }
                // Character sets and the like: one letter more.
                Some(' '..='/') => drop(letters.next()),
                _ => {}
            },
            '\t' | '\n' => plain.push(' '),
            letter if letter.is_control() => {}
            letter => plain.push(letter),
        }
    }
    plain
}

impl Bars {
    /// Whether there is a terminal that can draw them.
    pub(super) fn can_be_seen() -> bool {
        !ProgressDrawTarget::stderr().is_hidden()
    }

    pub(super) fn new() -> Bars {
        Bars::on(ProgressDrawTarget::stderr())
    }

    fn on(target: ProgressDrawTarget) -> Bars {
        Bars {
            steps: Vec::new(),
            bars: MultiProgress::with_draw_target(target),
            running: HashMap::new(),
            findings: Vec::new(),
        }
    }

    fn title(&self, step: usize) -> String {
        let step = self.steps.get(step);
        step.map(|step| plain(&step.title())).unwrap_or_default()
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
            rest: Vec::new(),
            last: VecDeque::new(),
        };
        self.running.insert(step, running);
        Ok(())
    }

    fn output(&mut self, step: usize, _: u8, bytes: &[u8]) -> Result<()> {
        if let Some(running) = self.running.get_mut(&step) {
            running.rest.extend_from_slice(bytes);
            while let Some(end) = running.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = running.rest.drain(..=end).collect();
                running.line(&line);
            }
            if running.rest.len() > LONGEST_LINE {
                let line = std::mem::take(&mut running.rest);
                running.line(&line);
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
            running.bar.set_message(plain(&text.join(" ")));
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
                running.line(&rest);
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
            self.bars.println(format!("\n{}", text.trim_end()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::{Arc, Mutex};

    /// A terminal's lines, and where the cursor is.
    #[derive(Debug, Clone, Default)]
    struct Paper(Arc<Mutex<(Vec<String>, usize)>>);

    impl Paper {
        fn change(&self, change: impl FnOnce(&mut Vec<String>, &mut usize)) -> io::Result<()> {
            let mut paper = self.0.lock().expect("nobody panics with it");
            let (lines, row) = &mut *paper;
            change(lines, row);
            if lines.len() <= *row {
                lines.resize(*row + 1, String::new());
            }
            Ok(())
        }

        /// Times are letters.
        fn text(&self) -> String {
            let paper = self.0.lock().expect("nobody panics with it");
            let lines = paper.0.iter().map(|line| line.trim_end());
            let text = lines.collect::<Vec<_>>().join("\n");
            text.replace("0.0s", "Ts").trim_end().to_owned()
        }
    }

    impl indicatif::TermLike for Paper {
        fn width(&self) -> u16 {
            80
        }
        fn move_cursor_up(&self, n: usize) -> io::Result<()> {
            self.change(|_, row| *row -= n)
        }
        fn move_cursor_down(&self, n: usize) -> io::Result<()> {
            self.change(|_, row| *row += n)
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(text)?;
            self.change(|_, row| *row += 1)
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            self.change(|lines, row| {
                for letter in text.chars() {
                    // A full line goes on below.
                    if lines[*row].chars().count() == 80 {
                        *row += 1;
                        lines.resize(lines.len().max(*row + 1), String::new());
                    }
                    lines[*row].push(letter);
                }
            })
        }
        fn clear_line(&self) -> io::Result<()> {
            self.change(|lines, row| lines[*row].clear())
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    fn bars(texts: &[&str]) -> (Bars, Paper) {
        let paper = Paper::default();
        paper.change(|_, _| ()).expect("paper");
        let mut bars = Bars::on(ProgressDrawTarget::term_like(Box::new(paper.clone())));
        let step = |(at, text): (usize, &&str)| Step {
            stage_name: Some("build".into()),
            number: at as u64 + 1,
            of: texts.len() as u64,
            text: (*text).to_owned(),
            ..Step::default()
        };
        let steps: Vec<Step> = texts.iter().enumerate().map(step).collect();
        bars.planned(&steps).expect("planned");
        (bars, paper)
    }

    #[test]
    fn steps_are_bars_and_become_lines() {
        let (mut bars, paper) = bars(&["FROM base", "RUN make\tall"]);
        bars.started(0).expect("drawn");
        bars.done(0, true).expect("drawn");
        bars.started(1).expect("drawn");
        bars.output(1, 1, b"10%\r20%\r\x1b[1;32mhalf \xc3")
            .expect("drawn");
        bars.output(1, 1, b"\xa4 way\x1b[0m\x1b]0;title\x07\n")
            .expect("drawn");
        bars.running[&1].bar.tick();
        bars.running[&1].bar.force_draw();
        assert_eq!(
            paper.text(),
            " => CACHED [build 1/2] FROM base  Ts\n => [build 2/2] RUN make all  0s  half ä way"
        );
        bars.done(1, false).expect("drawn");
        bars.note("naming to a:latest done").expect("drawn");
        let finding = Finding {
            rule: "StageNameCasing".into(),
            message: "lower case".into(),
            description: String::new(),
            line: 3,
            shown: String::new(),
        };
        bars.finding(&finding).expect("kept");
        bars.end().expect("drawn");
        assert_eq!(
            paper.text(),
            " => CACHED [build 1/2] FROM base  Ts\n => [build 2/2] RUN make all  Ts\n => naming to a:latest done\n\n\
             1 warning found (use --check to expand):\n - StageNameCasing: lower case (line 3)"
        );
    }

    #[test]
    fn a_failed_step_shows_its_last_lines() {
        let (mut bars, paper) = bars(&["RUN make"]);
        bars.started(0).expect("drawn");
        for line in 0..40 {
            let line = format!("\x1b[31mline {line}\x1b[0m\n");
            bars.output(0, 2, line.as_bytes()).expect("drawn");
        }
        bars.output(0, 2, b"no end").expect("drawn");
        bars.failed(0, "exit code 2").expect("drawn");
        bars.end().expect("drawn");
        let text = paper.text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..2], [" => ERROR [build 1/1] RUN make  Ts", "------"]);
        assert_eq!(lines[2], "line 11");
        assert_eq!(lines[31..], ["no end", "------", "exit code 2"]);
    }

    #[test]
    fn escapes_are_left_out() {
        for (text, expected) in [
            ("a\x1b[2K\x1b[1Ab", "ab"),
            ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
            ("\x1b(Bx\x07\x08", "x"),
            ("cut\x1b[", "cut"),
            ("\x1b", ""),
        ] {
            assert_eq!(plain(text), expected, "{text:?}");
        }
    }
}
