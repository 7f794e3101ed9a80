//! Reads a Dockerfile: stages, their instructions with line numbers, parser directives.

use crate::here::{self, HereDocument};
use crate::instruction::{Command, CopyFiles, Healthcheck, Here, Instruction, Run, Source, Step};
use crate::nearest;
use crate::pairs::{name_value_pairs, split_words};
use parse_dockerfile as parser;

/// What is accepted at most, bytes. Docker reads any; people's files are a few KiB.
pub const TEXT_MAX: usize = 4 * 1024 * 1024;
const STAGES_MAX: usize = 1000;
const STEPS_MAX: usize = 10_000;
const INSTRUCTIONS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// A Dockerfile that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dockerfile {
    /// `\` unless a parser directive says otherwise.
    pub escape: char,
    /// `# syntax=`: told to people, not obeyed.
    pub syntax: Option<String>,
    /// `ARG` before the first `FROM`.
    pub arguments: Vec<Step>,
    /// Never empty.
    pub stages: Vec<Stage>,
}

/// From one `FROM` to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    pub line: usize,
    /// Where the `FROM` begins in that line, in characters from 1.
    pub column: usize,
    /// The `FROM` as it was written.
    pub text: String,
    /// An image, an earlier stage or `scratch`; variables are not expanded yet.
    pub base: String,
    /// `AS name`, lower case.
    pub name: Option<String>,
    /// `--platform`, not expanded.
    pub platform: Option<String>,
    pub steps: Vec<Step>,
}

/// What is wrong with a Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DockerfileError {
    #[error("the Dockerfile cannot be empty")]
    Empty,
    #[error("the Dockerfile is larger than {TEXT_MAX} bytes")]
    TooLarge,
    #[error("the Dockerfile has too many {what}")]
    TooMany { what: &'static str },
    #[error("the Dockerfile is not UTF-8 text")]
    NotText,
    /// `shown` is the line itself, `column` counts its characters from 1.
    #[error("dockerfile parse error on line {line}: {message}{}", quoted_line(.line, .column, .shown))]
    Line {
        line: usize,
        column: usize,
        message: String,
        shown: String,
    },
}

/// The line with a mark below the place.
fn quoted_line(line: &usize, column: &usize, shown: &str) -> String {
    if shown.is_empty() {
        return String::new();
    }
    // A tab stays one, so that the mark is below what it marks.
    let before: String = shown
        .chars()
        .take(column.saturating_sub(1))
        .map(|character| if character == '\t' { '\t' } else { ' ' })
        .collect();
    format!("\n{line:>4} | {shown}\n     | {before}^ column {column}")
}

impl Dockerfile {
    pub fn parse(bytes: &[u8]) -> Result<Dockerfile, DockerfileError> {
        if bytes.len() > TEXT_MAX {
            return Err(DockerfileError::TooLarge);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| DockerfileError::NotText)?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        Reader {
            text,
            escape: escape(text),
        }
        .checked()
    }
}

/// What is wrong with an instruction, and at which byte of the Dockerfile where that is known.
struct Wrong {
    at: Option<usize>,
    message: String,
}

impl Wrong {
    fn at(flag: &parser::Flag<'_>, message: String) -> Wrong {
        Wrong {
            // With its dashes.
            at: Some(flag.name.span.start.saturating_sub(2)),
            message,
        }
    }
}

impl<T: Into<String>> From<T> for Wrong {
    fn from(message: T) -> Wrong {
        Wrong {
            at: None,
            message: message.into(),
        }
    }
}

/// Bytes of a line in front of what is written there.
fn indentation(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// The name of a parser directive.
fn directive(line: &str) -> Option<&'static str> {
    let (name, value) = line.trim().strip_prefix('#')?.split_once('=')?;
    if value.trim().is_empty() {
        return None;
    }
    let known = ["syntax", "escape", "check"];
    known
        .into_iter()
        .find(|known| name.trim().eq_ignore_ascii_case(known))
}

/// What a directive of the first lines says.
fn directive_value<'t>(text: &'t str, wanted: &str) -> Option<&'t str> {
    let lines = text
        .lines()
        .map_while(|line| Some((directive(line)?, line)));
    let (_, line) = lines.into_iter().find(|(name, _)| *name == wanted)?;
    line.split_once('=').map(|(_, value)| value.trim())
}

/// The escape directive. The parser refuses wrong ones.
fn escape(text: &str) -> char {
    match directive_value(text, "escape") {
        Some("`") => '`',
        _ => '\\',
    }
}

struct Reader<'t> {
    text: &'t str,
    escape: char,
}

impl<'t> Reader<'t> {
    fn line_of(&self, at: usize) -> usize {
        self.text.as_bytes()[..at]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count()
            + 1
    }

    /// Line and column of a byte, both from 1.
    fn place_of(&self, at: usize) -> (usize, usize) {
        let start = self.line_start(at);
        (self.line_of(at), self.text[start..at].chars().count() + 1)
    }

    fn line_start(&self, at: usize) -> usize {
        self.text[..at].rfind('\n').map_or(0, |newline| newline + 1)
    }

    fn wrong_at(&self, at: usize, message: impl Into<String>) -> DockerfileError {
        let mut at = at.min(self.text.len());
        while !self.text.is_char_boundary(at) {
            at -= 1;
        }
        let (line, column) = self.place_of(at);
        let shown = &self.text[self.line_start(at)..];
        DockerfileError::Line {
            line,
            column,
            message: message.into(),
            shown: shown
                .lines()
                .next()
                .unwrap_or_default()
                .trim_end()
                .to_owned(),
        }
    }

    /// What the parser says. It knows the line; the column it tells is right in the first line only, so that it is asked
    /// again about the text from that line on.
    fn refused(&self, masked: &str, error: &parser::Error) -> DockerfileError {
        if error.line() == 0 {
            return match self.text.trim().is_empty() {
                true => DockerfileError::Empty,
                false => DockerfileError::Line {
                    line: 0,
                    column: 0,
                    message: "no build stage in current context".into(),
                    shown: String::new(),
                },
            };
        }
        let lines = masked.split_inclusive('\n').take(error.line() - 1);
        let start: usize = lines.map(str::len).sum();
        let rest = &masked[start..];
        let line = rest.lines().next().unwrap_or_default();
        if line.trim().eq_ignore_ascii_case("ONBUILD") {
            let message = "ONBUILD requires at least one argument";
            return self.wrong_at(start + indentation(line), message);
        }
        let message = format!("{error:#}");
        let within = match parser::parse(rest) {
            Err(again) if again.line() == 1 && format!("{again:#}") == message => {
                again.column().saturating_sub(1)
            }
            _ => indentation(line),
        };
        let at = start + within.min(line.len());
        if message.starts_with("unknown instruction") {
            let word = masked[at..].split_whitespace().next().unwrap_or_default();
            return self.wrong_at(at, unknown_instruction(word));
        }
        self.wrong_at(at, message)
    }

    /// The parser forgets all directives where one comes twice.
    fn checked(&self) -> Result<Dockerfile, DockerfileError> {
        let mut seen = Vec::new();
        let mut at = 0;
        for line in self.text.split_inclusive('\n') {
            let Some(name) = directive(line) else { break };
            if seen.contains(&name) {
                let message = format!("only one {name} parser directive can be used");
                return Err(self.wrong_at(at + indentation(line), message));
            }
            seen.push(name);
            at += line.len();
        }
        self.dockerfile()
    }

    fn dockerfile(&self) -> Result<Dockerfile, DockerfileError> {
        let masked = here::mask(self.text, self.escape).map_err(|unterminated| {
            self.wrong_at(
                unterminated.at,
                format!(
                    "unterminated heredoc: there is no line {:?}",
                    unterminated.name
                ),
            )
        })?;
        // One by one: all together, the parser refuses two stages of one name.
        let parsed = parser::parse_iter(&masked.text).and_then(Iterator::collect::<Result<_, _>>);
        let parsed: Vec<parser::Instruction<'_>> =
            parsed.map_err(|error| self.refused(&masked.text, &error))?;
        let mut file = Dockerfile {
            escape: self.escape,
            syntax: directive_value(self.text, "syntax").map(str::to_owned),
            arguments: Vec::new(),
            stages: Vec::new(),
        };
        if parsed.len() > STEPS_MAX {
            return Err(DockerfileError::TooMany {
                what: "instructions",
            });
        }
        let starts: Vec<usize> = parsed.iter().map(start).collect();
        for (at, instruction) in parsed.iter().enumerate() {
            let end = starts.get(at + 1).copied().unwrap_or(self.text.len());
            let span = starts[at]..end;
            let (line, column) = self.place_of(span.start);
            let documents: Vec<&HereDocument> = masked
                .documents
                .iter()
                .filter(|document| span.contains(&document.marker.start))
                .collect();
            let text_end = documents
                .first()
                .map_or(end, |document| document.body.start);
            let first_line = self.text[span.start..].lines().next().unwrap_or_default();
            let text = self.joined(&self.text[span.start..text_end]);
            if let parser::Instruction::From(from) = instruction {
                file.stages.push(self.stage(from, (line, column), text)?);
                if file.stages.len() > STAGES_MAX {
                    return Err(DockerfileError::TooMany { what: "stages" });
                }
                continue;
            }
            let read = self.instruction(instruction, &documents);
            let step = Step {
                line,
                column,
                is_one_line: text == first_line.trim(),
                text,
                instruction: read.map_err(|wrong: Wrong| {
                    self.wrong_at(wrong.at.unwrap_or(span.start), wrong.message)
                })?,
            };
            match file.stages.last_mut() {
                Some(stage) => stage.steps.push(step),
                None => file.arguments.push(step),
            }
        }
        Ok(file)
    }

    fn stage(
        &self,
        from: &parser::FromInstruction<'_>,
        (line, column): (usize, usize),
        text: String,
    ) -> Result<Stage, DockerfileError> {
        let mut platform = None;
        for flag in &from.options {
            match (&*flag.name.value, &flag.value) {
                ("platform", Some(value)) => platform = Some(self.value_of(value)),
                (name, _) => {
                    let wrong = Wrong::at(flag, unknown_flag(name, &["platform"]));
                    return Err(self.wrong_at(wrong.at.unwrap_or_default(), wrong.message));
                }
            }
        }
        let name = from
            .as_
            .as_ref()
            .map(|(_, name)| name.value.to_ascii_lowercase());
        if let (Some(name), Some((_, written))) = (&name, &from.as_)
            && !is_stage_name(name)
        {
            return Err(self.wrong_at(
                written.span.start,
                format!(
                    "invalid name for build stage: {name:?}, name can't start with a number or contain symbols"
                ),
            ));
        }
        Ok(Stage {
            line,
            column,
            text,
            base: from.image.value.to_string(),
            name,
            platform,
            steps: Vec::new(),
        })
    }

    fn instruction(
        &self,
        instruction: &parser::Instruction<'_>,
        documents: &[&HereDocument],
    ) -> Result<Instruction, Wrong> {
        use parser::Instruction as Parsed;
        let pairs = |keyword: &str, text: &str| name_value_pairs(keyword, text, self.escape);
        Ok(match instruction {
            Parsed::Add(add) => {
                Instruction::Add(self.copy("ADD", &add.options, &add.src, &add.dest, documents)?)
            }
            Parsed::Copy(copy) => Instruction::Copy(self.copy(
                "COPY",
                &copy.options,
                &copy.src,
                &copy.dest,
                documents,
            )?),
            Parsed::Arg(arg) => Instruction::Arg(
                split_words(&arg.arguments.value, self.escape)
                    .into_iter()
                    .map(|word| match word.split_once('=') {
                        Some(("", _)) => Err("ARG names can not be blank".to_owned()),
                        Some((name, value)) => Ok((name.to_owned(), Some(value.to_owned()))),
                        None => Ok((word, None)),
                    })
                    .collect::<Result<_, _>>()?,
            ),
            Parsed::Cmd(cmd) => Instruction::Cmd(self.command(&cmd.arguments)),
            Parsed::Entrypoint(entrypoint) => {
                Instruction::Entrypoint(self.command(&entrypoint.arguments))
            }
            Parsed::Env(env) => Instruction::Env(pairs("ENV", &env.arguments.value)?),
            Parsed::Label(label) => Instruction::Label(pairs("LABEL", &label.arguments.value)?),
            Parsed::Expose(expose) => Instruction::Expose(strings(&expose.arguments)),
            Parsed::Healthcheck(check) => Instruction::Healthcheck(self.healthcheck(check)?),
            Parsed::Maintainer(maintainer) => {
                Instruction::Maintainer(maintainer.name.value.to_string())
            }
            Parsed::Onbuild(onbuild) => match &*onbuild.instruction {
                Parsed::From(_) => return Err("FROM isn't allowed as an ONBUILD trigger".into()),
                Parsed::Maintainer(_) => {
                    return Err("MAINTAINER isn't allowed as an ONBUILD trigger".into());
                }
                inner => {
                    // A wrong trigger is told here, not when somebody builds on the image.
                    self.instruction(inner, documents)?;
                    let end = documents
                        .last()
                        .map_or(usize::MAX, |document| document.body.end);
                    Instruction::Onbuild(self.trigger(start(inner), end))
                }
            },
            Parsed::Run(run) => Instruction::Run(self.run(run, documents)?),
            Parsed::Shell(shell) => Instruction::Shell(strings(&shell.arguments)),
            Parsed::Stopsignal(signal) => {
                Instruction::Stopsignal(signal.arguments.value.to_string())
            }
            Parsed::User(user) => Instruction::User(user.arguments.value.to_string()),
            Parsed::Volume(volume) => Instruction::Volume(match &volume.arguments {
                parser::JsonOrStringArray::Json(array) if array.value.is_empty() => {
                    return Err("VOLUME requires at least one argument".into());
                }
                parser::JsonOrStringArray::Json(array) => strings(&array.value),
                parser::JsonOrStringArray::String(array) => strings(array),
            }),
            Parsed::Workdir(workdir) => Instruction::Workdir(workdir.arguments.value.to_string()),
            other => return Err(format!("this instruction is not known: {other:?}").into()),
        })
    }

    /// The text of an `ONBUILD`'s instruction: one line, or up to the end of its here-documents.
    fn trigger(&self, start: usize, documents_end: usize) -> String {
        if documents_end != usize::MAX {
            return self.text[start..documents_end].trim_end().to_owned();
        }
        self.joined(&self.text[start..])
    }

    fn copy(
        &self,
        keyword: &str,
        options: &[parser::Flag<'_>],
        sources: &[parser::Source<'_>],
        destination: &parser::UnescapedString<'_>,
        documents: &[&HereDocument],
    ) -> Result<CopyFiles, Wrong> {
        let add = keyword == "ADD";
        let known: &[&str] = if add {
            &[
                "chown",
                "chmod",
                "link",
                "exclude",
                "checksum",
                "keep-git-dir",
                "unpack",
            ]
        } else {
            &["from", "chown", "chmod", "link", "parents", "exclude"]
        };
        let mut copy = CopyFiles {
            destination: destination.value.to_string(),
            ..CopyFiles::default()
        };
        for flag in options {
            let name = &*flag.name.value;
            if !known.contains(&name) {
                return Err(Wrong::at(flag, unknown_flag(name, known)));
            }
            let text = || match &flag.value {
                Some(value) if !value.value.is_empty() => Ok(self.value_of(value)),
                _ => Err(Wrong::at(flag, format!("missing a value on flag: {name}"))),
            };
            let word = flag.value.as_ref().map(|value| self.value_of(value));
            let word = word.map(|word| word.to_ascii_lowercase());
            let boolean = || match word.as_deref() {
                None | Some("true") => Ok(true),
                Some("false") => Ok(false),
                Some(value) => Err(Wrong::at(
                    flag,
                    format!("expecting boolean value for flag {name}, not: {value}"),
                )),
            };
            match name {
                "from" => copy.from = Some(text()?),
                "chown" => copy.chown = Some(text()?),
                "chmod" => copy.chmod = Some(text()?),
                "checksum" => copy.checksum = Some(text()?),
                "exclude" => copy.exclude.push(text()?),
                "link" => copy.link = boolean()?,
                "parents" => copy.parents = boolean()?,
                "keep-git-dir" => copy.keep_git_folder = boolean()?,
                _ => copy.unpack = Some(boolean()?),
            }
        }
        for source in sources {
            let parser::Source::Path(path) = source else {
                return Err("a here-document could not be read".into());
            };
            let document = documents
                .iter()
                .find(|document| document.marker.start == path.span.start);
            copy.sources.push(match document {
                Some(document) => Source::Here(here_of(document)),
                None => Source::Path(path.value.to_string()),
            });
        }
        Ok(copy)
    }

    fn command(&self, command: &parser::Command<'_>) -> Command {
        match command {
            parser::Command::Exec(array) => Command::Exec(strings(&array.value)),
            parser::Command::Shell(line) => match self.joined(&self.text[line.span.clone()]) {
                line if here::is_empty_array(&line) => Command::Exec(Vec::new()),
                line => Command::Shell(line),
            },
            // The type may grow.
            _ => Command::Exec(Vec::new()),
        }
    }

    fn run(
        &self,
        run: &parser::RunInstruction<'_>,
        documents: &[&HereDocument],
    ) -> Result<Run, Wrong> {
        let known = ["mount", "network", "security"];
        let mut read = Run {
            command: self.command(&run.arguments),
            script: None,
            mounts: Vec::new(),
            network: None,
            security: None,
        };
        for flag in &run.options {
            let name = &*flag.name.value;
            let value = match &flag.value {
                _ if !known.contains(&name) => {
                    return Err(Wrong::at(flag, unknown_flag(name, &known)));
                }
                Some(value) if !value.value.is_empty() => self.value_of(value),
                _ => {
                    let message = format!("missing a value on flag: {name}");
                    return Err(Wrong::at(flag, message));
                }
            };
            match name {
                "mount" => read.mounts.push(value),
                "network" => read.network = Some(value),
                _ => read.security = Some(value),
            }
        }
        if let Command::Shell(line) = &mut read.command {
            match documents {
                [] => {}
                // Nothing but the document: it is the script.
                [document] if line.as_str() == &self.text[document.marker.clone()] => {
                    read.script = Some(here_of(document));
                }
                // The shell reads the documents itself.
                documents => {
                    for document in documents {
                        line.push('\n');
                        line.push_str(self.text[document.body.clone()].trim_end_matches('\n'));
                    }
                }
            }
            if line.is_empty() {
                return Err("RUN requires at least one argument".into());
            }
        }
        Ok(read)
    }

    fn healthcheck(
        &self,
        check: &parser::HealthcheckInstruction<'_>,
    ) -> Result<Healthcheck, Wrong> {
        let known = [
            "interval",
            "timeout",
            "start-period",
            "start-interval",
            "retries",
        ];
        let mut values: [Option<String>; 5] = Default::default();
        for flag in &check.options {
            let name = &*flag.name.value;
            let Some(at) = known.iter().position(|known| *known == name) else {
                return Err(Wrong::at(flag, unknown_flag(name, &known)));
            };
            match &flag.value {
                Some(value) if !value.value.is_empty() => values[at] = Some(self.value_of(value)),
                _ => {
                    let message = format!("missing a value on flag: {name}");
                    return Err(Wrong::at(flag, message));
                }
            }
        }
        match &check.arguments {
            parser::HealthcheckArguments::Cmd { arguments, .. } => {
                let command = self.command(arguments);
                if matches!(&command, Command::Shell(line) if line.is_empty()) {
                    return Err("Missing command after HEALTHCHECK CMD".into());
                }
                let [interval, timeout, start_period, start_interval, retries] = values;
                Ok(Healthcheck::Command {
                    command,
                    interval,
                    timeout,
                    start_period,
                    start_interval,
                    retries,
                })
            }
            _ if values.iter().any(Option::is_some) => {
                Err("HEALTHCHECK NONE takes no options".into())
            }
            _ => Ok(Healthcheck::None),
        }
    }

    /// A flag's value without its quotes, as BuildKit reads it: a backslash takes the next character as it is, whatever the
    /// escape character of the Dockerfile is.
    fn value_of(&self, value: &parser::UnescapedString<'_>) -> String {
        let written = self.joined(&self.text[value.span.clone()]);
        let mut text = String::new();
        let mut quote = None;
        let mut characters = written.chars();
        while let Some(character) = characters.next() {
            match (quote, character) {
                (_, '\\') => text.extend(characters.next()),
                (None, '"' | '\'') => quote = Some(character),
                (Some(open), character) if character == open => quote = None,
                _ => text.push(character),
            }
        }
        text
    }

    /// The first logical line of some text as one line: continued lines are joined, comments between them go.
    fn joined(&self, text: &str) -> String {
        let mut joined = String::new();
        for (at, line) in text.lines().enumerate() {
            let trimmed = line.trim();
            if at > 0 && (trimmed.is_empty() || trimmed.starts_with('#')) {
                continue;
            }
            match line.trim_end().strip_suffix(self.escape) {
                Some(line) => joined.push_str(line),
                None => {
                    joined.push_str(line);
                    break;
                }
            }
        }
        joined.trim().to_owned()
    }
}

fn here_of(document: &HereDocument) -> Here {
    Here {
        name: document.name.clone(),
        content: document.content.clone(),
        expand: document.expand,
    }
}

fn strings(array: &[parser::UnescapedString<'_>]) -> Vec<String> {
    array.iter().map(|text| text.value.to_string()).collect()
}

/// With the nearest one that there is, or all.
fn unknown_flag(name: &str, known: &[&str]) -> String {
    let hint = match nearest::hint(name, known.iter().copied()) {
        none if none.is_empty() => format!(" (there are: {})", known.join(", ")),
        hint => hint,
    };
    format!("unknown flag: --{name}{hint}")
}

fn unknown_instruction(word: &str) -> String {
    let hint = nearest::hint(&word.to_ascii_uppercase(), INSTRUCTIONS);
    // In the case it was written in.
    let hint = match word == word.to_ascii_lowercase() {
        true => hint.to_ascii_lowercase(),
        false => hint,
    };
    format!("unknown instruction: {word}{hint}")
}

fn is_stage_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_lowercase())
        && bytes.all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte)
        })
}

/// Where an instruction's keyword begins.
fn start(instruction: &parser::Instruction<'_>) -> usize {
    use parser::Instruction as Parsed;
    match instruction {
        Parsed::Add(i) => i.add.span.start,
        Parsed::Arg(i) => i.arg.span.start,
        Parsed::Cmd(i) => i.cmd.span.start,
        Parsed::Copy(i) => i.copy.span.start,
        Parsed::Entrypoint(i) => i.entrypoint.span.start,
        Parsed::Env(i) => i.env.span.start,
        Parsed::Expose(i) => i.expose.span.start,
        Parsed::From(i) => i.from.span.start,
        Parsed::Healthcheck(i) => i.healthcheck.span.start,
        Parsed::Label(i) => i.label.span.start,
        Parsed::Maintainer(i) => i.maintainer.span.start,
        Parsed::Onbuild(i) => i.onbuild.span.start,
        Parsed::Run(i) => i.run.span.start,
        Parsed::Shell(i) => i.shell.span.start,
        Parsed::Stopsignal(i) => i.stopsignal.span.start,
        Parsed::User(i) => i.user.span.start,
        Parsed::Volume(i) => i.volume.span.start,
        Parsed::Workdir(i) => i.workdir.span.start,
        _ => 0,
    }
}

#[cfg(test)]
mod tests;
