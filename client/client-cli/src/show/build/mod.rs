//! A build as it goes, in three forms: lines, bars on a terminal, and BuildKit's JSON. Reads the events of our engine; of
//! another one the lines of Docker's classic builder are shown as they come.

mod findings;
mod plain;
mod raw;
mod terminal;

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::Value;

/// The longest line an engine may send.
const MAX_LINE: usize = 16 << 20;

/// How a build is shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Form {
    /// Bars on a terminal, lines elsewhere
    #[default]
    Auto,
    /// Lines
    Plain,
    /// Bars
    Tty,
    /// One JSON object a line, as BuildKit has them
    Rawjson,
}

/// A step as the engine planned it.
#[derive(Debug, Clone, Default)]
struct Step {
    stage: u64,
    stage_name: Option<String>,
    number: u64,
    of: u64,
    text: String,
    needs: Vec<usize>,
}

impl Step {
    fn of(value: &Value) -> Step {
        Step {
            stage: value["stage"].as_u64().unwrap_or_default(),
            stage_name: value["stageName"].as_str().map(str::to_owned),
            number: value["number"].as_u64().unwrap_or_default(),
            of: value["of"].as_u64().unwrap_or_default(),
            text: value["text"].as_str().unwrap_or_default().to_owned(),
            needs: value["needs"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|need| usize::try_from(need.as_u64()?).ok())
                .collect(),
        }
    }

    /// `[build 2/5] RUN make`
    fn title(&self) -> String {
        let stage = match &self.stage_name {
            Some(name) => format!("{name} "),
            None => format!("stage-{} ", self.stage),
        };
        format!("[{stage}{}/{}] {}", self.number, self.of, self.text)
    }
}

/// One of the forms.
trait Screen {
    fn planned(&mut self, steps: &[Step]) -> Result<()>;
    fn started(&mut self, step: usize) -> Result<()>;
    /// `stream`: 1 is standard output, 2 standard error.
    fn output(&mut self, step: usize, stream: u8, bytes: &[u8]) -> Result<()>;
    /// What a download does.
    fn pulling(&mut self, step: usize, progress: &Value) -> Result<()>;
    fn done(&mut self, step: usize, cached: bool) -> Result<()>;
    fn failed(&mut self, step: usize, message: &str) -> Result<()>;
    fn warning(&mut self, text: &str) -> Result<()>;
    fn finding(&mut self, finding: &Finding) -> Result<()>;
    /// The image is there, or has a name now.
    fn note(&mut self, text: &str) -> Result<()>;
    /// Nothing comes any more.
    fn end(&mut self) -> Result<()>;
}

/// What a lint rule found.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    rule: String,
    message: String,
    description: String,
    line: u64,
    shown: String,
}

impl Finding {
    fn of(value: &Value) -> Finding {
        let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
        Finding {
            rule: text("rule"),
            message: text("message"),
            description: text("description"),
            line: value["line"].as_u64().unwrap_or_default(),
            shown: text("shown"),
        }
    }
}

/// What a build left.
pub(crate) struct Outcome {
    /// `sha256:...`
    pub(crate) image: Option<String>,
    pub(crate) findings: usize,
    /// The target's files come next: what was read of them, and the rest.
    pub(crate) files: Option<(Bytes, Incoming)>,
}

/// What is asked of [`show`].
pub(crate) struct Wish {
    pub(crate) form: Form,
    /// Nothing but errors.
    pub(crate) quiet: bool,
    /// Findings are what is wanted (`--check`): they go to standard output.
    pub(crate) check: bool,
    /// Path of the Dockerfile as it was named, for findings.
    pub(crate) dockerfile: String,
}

/// Bars want a terminal, and nobody asks for them to see nothing.
pub(crate) fn check(form: Form) -> Result<()> {
    if form == Form::Tty && !terminal::Bars::can_be_seen() {
        bail!(
            "failed to get console: standard error is not a terminal: leave out --progress=tty, or run berth in a terminal"
        );
    }
    Ok(())
}

/// Shows a build until it ends; its error is ours.
pub(crate) async fn show(body: Incoming, wish: &Wish) -> Result<Outcome> {
    let mut screen: Box<dyn Screen> = match wish.form {
        _ if wish.check => Box::new(findings::Findings::new(&wish.dockerfile)),
        _ if wish.quiet => Box::new(Silence),
        Form::Rawjson => Box::new(raw::Raw::new()),
        Form::Tty => Box::new(terminal::Bars::new()),
        Form::Auto if terminal::Bars::can_be_seen() => Box::new(terminal::Bars::new()),
        Form::Auto | Form::Plain => Box::new(plain::Lines::new()),
    };
    let outcome = read(body, &mut *screen, wish.quiet).await;
    let ended = screen.end();
    let outcome = outcome?;
    ended?;
    Ok(outcome)
}

async fn read(mut body: Incoming, screen: &mut dyn Screen, quiet: bool) -> Result<Outcome> {
    let mut outcome = Outcome {
        image: None,
        findings: 0,
        files: None,
    };
    let mut buffer = BytesMut::new();
    loop {
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line = buffer.split_to(end + 1);
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let message: Value =
                serde_json::from_slice(&line).context("the engine sent no JSON")?;
            if message["files"] == true {
                outcome.files = Some((buffer.freeze(), body));
                return Ok(outcome);
            }
            take(&message, screen, &mut outcome, quiet)?;
        }
        if buffer.len() > MAX_LINE {
            bail!("the engine sent a message without an end");
        }
        match body.frame().await {
            None => break,
            Some(frame) => {
                if let Ok(data) = frame.context("the engine hung up")?.into_data() {
                    buffer.extend_from_slice(&data);
                }
            }
        }
    }
    if !buffer.iter().all(u8::is_ascii_whitespace) {
        let message = serde_json::from_slice(&buffer).context("the engine sent no JSON")?;
        take(&message, screen, &mut outcome, quiet)?;
    }
    Ok(outcome)
}

fn take(
    message: &Value,
    screen: &mut dyn Screen,
    outcome: &mut Outcome,
    quiet: bool,
) -> Result<()> {
    if let Some(error) = message["errorDetail"]["message"]
        .as_str()
        .or_else(|| message["error"].as_str())
    {
        bail!("{error}");
    }
    let Some((kind, value)) = message.as_object().and_then(|object| object.iter().next()) else {
        return Ok(());
    };
    let step = usize::try_from(value["step"].as_u64().unwrap_or_default())?;
    match kind.as_str() {
        "planned" => {
            let steps: Vec<Step> = value
                .as_array()
                .into_iter()
                .flatten()
                .map(Step::of)
                .collect();
            screen.planned(&steps)
        }
        "started" => screen.started(step),
        "output" => {
            let data = STANDARD
                .decode(value["data"].as_str().unwrap_or_default())
                .context("the engine sent output that is not base64")?;
            let stream = value["stream"].as_u64().unwrap_or(1);
            screen.output(step, u8::try_from(stream)?, &data)
        }
        "pulling" => screen.pulling(step, &value["progress"]),
        "done" => screen.done(step, value["cached"] == true),
        "failed" => screen.failed(step, value["message"].as_str().unwrap_or_default()),
        "warning" => screen.warning(value["text"].as_str().unwrap_or_default()),
        "lint" => {
            outcome.findings += 1;
            screen.finding(&Finding::of(value))
        }
        "built" => {
            let image = value["image"].as_str().unwrap_or_default().to_owned();
            screen.note(&format!("writing image {image} done"))?;
            outcome.image = Some(image);
            Ok(())
        }
        "tagged" => {
            let name = value["name"].as_str().unwrap_or_default();
            screen.note(&format!("naming to {name} done"))
        }
        // What another engine says.
        "aux" => {
            if let Some(id) = value["ID"].as_str() {
                outcome.image = Some(id.to_owned());
            }
            Ok(())
        }
        "stream" => {
            let text = value.as_str().unwrap_or_default();
            match quiet {
                // With `q` it says nothing but the id.
                true => outcome.image = Some(text.trim().to_owned()),
                false => eprint!("{text}"),
            }
            Ok(())
        }
        // Of the downloads of another engine; and what is newer than this program.
        _ => Ok(()),
    }
}

/// Nothing is shown.
struct Silence;

impl Screen for Silence {
    fn planned(&mut self, _: &[Step]) -> Result<()> {
        Ok(())
    }
    fn started(&mut self, _: usize) -> Result<()> {
        Ok(())
    }
    fn output(&mut self, _: usize, _: u8, _: &[u8]) -> Result<()> {
        Ok(())
    }
    fn pulling(&mut self, _: usize, _: &Value) -> Result<()> {
        Ok(())
    }
    fn done(&mut self, _: usize, _: bool) -> Result<()> {
        Ok(())
    }
    fn failed(&mut self, _: usize, _: &str) -> Result<()> {
        Ok(())
    }
    fn warning(&mut self, text: &str) -> Result<()> {
        eprintln!("WARNING: {text}");
        Ok(())
    }
    fn finding(&mut self, _: &Finding) -> Result<()> {
        Ok(())
    }
    fn note(&mut self, _: &str) -> Result<()> {
        Ok(())
    }
    fn end(&mut self) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Shows some messages in plain lines.
    fn lines(messages: &[Value]) -> (String, Result<Outcome>) {
        let mut screen = plain::Lines::for_tests();
        let mut outcome = Outcome {
            image: None,
            findings: 0,
            files: None,
        };
        let mut error = None;
        for message in messages {
            if let Err(why) = take(message, &mut screen, &mut outcome, false) {
                error = Some(why);
                break;
            }
        }
        screen.end().expect("shown");
        (screen.text(), error.map_or(Ok(outcome), Err))
    }

    fn plan() -> Value {
        json!({"planned": [
            {"stage": 0, "stageName": "build", "number": 1, "of": 2, "text": "FROM base", "needs": []},
            {"stage": 0, "stageName": "build", "number": 2, "of": 2, "text": "RUN make", "needs": [0]},
        ]})
    }

    #[test]
    fn a_build_is_shown_in_lines() {
        let (text, outcome) = lines(&[
            plan(),
            json!({"started": {"step": 0}}),
            json!({"done": {"step": 0, "cached": true}}),
            json!({"started": {"step": 1}}),
            json!({"output": {"step": 1, "stream": 1, "data": STANDARD.encode("one\ntw")}}),
            json!({"output": {"step": 1, "stream": 1, "data": STANDARD.encode("o\nthree")}}),
            json!({"done": {"step": 1, "cached": false}}),
            json!({"lint": {"rule": "StageNameCasing", "message": "lower case", "line": 3}}),
            json!({"built": {"image": "sha256:ab"}}),
            json!({"tagged": {"name": "a:latest"}}),
        ]);
        let outcome = outcome.expect("good");
        assert_eq!(outcome.image.as_deref(), Some("sha256:ab"));
        assert_eq!(outcome.findings, 1);
        assert_eq!(
            text,
            "#1 [build 1/2] FROM base\n#1 CACHED\n\n#2 [build 2/2] RUN make\n#2 T one\n#2 T two\n#2 T three\n#2 DONE Ts\n\n#3 writing image sha256:ab done\n#3 naming to a:latest done\n\n1 warning found (use --check to expand):\n - StageNameCasing: lower case (line 3)\n"
        );
    }

    #[test]
    fn errors_are_ours_and_what_another_engine_says_is_understood() {
        let (text, outcome) = lines(&[
            plan(),
            json!({"started": {"step": 1}}),
            json!({"failed": {"step": 1, "message": "exit code 2"}}),
            json!({"errorDetail": {"code": 2, "message": "line 2: exit code 2"}, "error": "x"}),
        ]);
        assert!(text.contains("#2 ERROR: exit code 2\n"), "{text}");
        let error = outcome.err().expect("failed").to_string();
        assert_eq!(error, "line 2: exit code 2");
        let (_, outcome) = lines(&[
            json!({"stream": ""}),
            json!({"aux": {"ID": "sha256:cd"}}),
            json!({"status": "Pulling from x", "id": "y"}),
        ]);
        assert_eq!(outcome.expect("good").image.as_deref(), Some("sha256:cd"));
    }
}
