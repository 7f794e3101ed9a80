//! The Dockerfile instructions that only change an image's settings: `docker commit --change`, `docker import --change`,
//! and those parts of a Dockerfile. Reading and applying are apart, so that a builder can do other things in between.
//!
//! Rules and messages: the Dockerfile reference; moby `builder/dockerfile` (`dispatchers.go`, `shell/lex.go`).

use super::{Healthcheck, ImageConfig};
use crate::error::{Class, Classify};
use dockerfile::duration;
use dockerfile::pairs::name_value_pairs;
use dockerfile::words::Expander;

/// A change has no parser directive that could choose another.
const ESCAPE: char = '\\';

/// One instruction, read but with its variables still in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Instruction {
    Cmd(CommandLine),
    Entrypoint(CommandLine),
    Env(Vec<(String, String)>),
    Expose(Vec<String>),
    Healthcheck(Healthcheck),
    Label(Vec<(String, String)>),
    /// What is to be done in a build from this image, as it was written.
    OnBuild(String),
    StopSignal(String),
    User(String),
    Volume(Vec<String>),
    WorkingDirectory(String),
}

/// A program and its arguments, or a line for the shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandLine {
    Exec(Vec<String>),
    Shell(String),
}

/// Why an instruction cannot be used; the sentence is complete.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct InstructionError {
    pub why: String,
}

impl Classify for InstructionError {
    fn class(&self) -> Class {
        Class::Invalid
    }
}

fn refuse<T>(why: impl Into<String>) -> Result<T, InstructionError> {
    Err(InstructionError { why: why.into() })
}

/// Reads the changes of a commit or import, each of which may have several lines, and applies them.
pub fn change(config: &mut ImageConfig, changes: &[String]) -> Result<(), InstructionError> {
    let mut command_is_set = false;
    for line in logical_lines(&changes.join("\n")) {
        let instruction = Instruction::parse(&line)?;
        instruction.apply(config, &mut command_is_set)?;
    }
    Ok(())
}

/// Lines without comments and empty ones, those that end with a backslash joined with the next.
pub fn logical_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut current = String::new();
    for line in text.lines() {
        let trimmed = line.trim();
        // Comments and empty lines within a continued line do not end it.
        if trimmed.is_empty() || trimmed.starts_with('#') {
            continue;
        }
        let line = if current.is_empty() { trimmed } else { line };
        match line.trim_end().strip_suffix('\\') {
            Some(begin) => current.push_str(begin),
            None => {
                current.push_str(line);
                lines.push(std::mem::take(&mut current).trim().to_owned());
            }
        }
    }
    if !current.trim().is_empty() {
        lines.push(current.trim().to_owned());
    }
    lines
}

impl Instruction {
    /// Reads one logical line.
    pub fn parse(line: &str) -> Result<Instruction, InstructionError> {
        let line = line.trim();
        let (word, rest) = line
            .split_once(char::is_whitespace)
            .map_or((line, ""), |(word, rest)| (word, rest.trim()));
        let name = word.to_ascii_uppercase();
        let flags;
        let rest = if name == "HEALTHCHECK" {
            let (found, rest) = split_flags(rest);
            flags = found;
            rest
        } else {
            flags = Vec::new();
            rest
        };
        let known = [
            "CMD",
            "ENTRYPOINT",
            "ENV",
            "EXPOSE",
            "HEALTHCHECK",
            "LABEL",
            "ONBUILD",
            "STOPSIGNAL",
            "USER",
            "VOLUME",
            "WORKDIR",
        ];
        if !known.contains(&name.as_str()) {
            return refuse(format!("{word} is not a valid change command"));
        }
        if rest.is_empty() && !["CMD", "ENTRYPOINT"].contains(&name.as_str()) {
            return match name.as_str() {
                "USER" | "WORKDIR" | "STOPSIGNAL" => {
                    refuse(format!("{name} requires exactly one argument"))
                }
                _ => refuse(format!("{name} requires at least one argument")),
            };
        }
        let one = || rest.to_owned();
        Ok(match name.as_str() {
            "CMD" => Instruction::Cmd(command_line(rest)),
            "ENTRYPOINT" => Instruction::Entrypoint(command_line(rest)),
            "ENV" => Instruction::Env(pairs(rest, "ENV")?),
            "LABEL" => Instruction::Label(pairs(rest, "LABEL")?),
            "EXPOSE" => Instruction::Expose(rest.split_whitespace().map(str::to_owned).collect()),
            "HEALTHCHECK" => Instruction::Healthcheck(healthcheck(&flags, rest)?),
            "ONBUILD" => Instruction::OnBuild(on_build(rest)?),
            "STOPSIGNAL" => Instruction::StopSignal(one()),
            "USER" => Instruction::User(one()),
            "VOLUME" => Instruction::Volume(match json_words(rest) {
                Some(words) => words,
                None => rest.split_whitespace().map(str::to_owned).collect(),
            }),
            _ => Instruction::WorkingDirectory(one()),
        })
    }

    /// Changes settings. Variables are those of the settings before the instruction. `command_is_set` remembers whether a
    /// CMD came already: an ENTRYPOINT takes one back that came from below.
    pub fn apply(
        &self,
        config: &mut ImageConfig,
        command_is_set: &mut bool,
    ) -> Result<(), InstructionError> {
        let env = config.env.clone();
        let expand = |text: &str| expand(text, &env);
        match self {
            Instruction::Cmd(line) => {
                config.cmd = Some(line.words(config));
                *command_is_set = true;
            }
            Instruction::Entrypoint(line) => {
                let words = line.words(config);
                config.entrypoint = (!words.is_empty()).then_some(words);
                if !*command_is_set {
                    config.cmd = None;
                }
            }
            Instruction::Env(pairs) => {
                for (name, value) in pairs {
                    let (name, value) = (expand(name)?, expand(value)?);
                    let entry = format!("{name}={value}");
                    let is_it = |old: &&mut String| old.split('=').next() == Some(name.as_str());
                    match config.env.iter_mut().find(is_it) {
                        Some(old) => *old = entry,
                        None => config.env.push(entry),
                    }
                }
            }
            Instruction::Label(pairs) => {
                for (name, value) in pairs {
                    config.labels.insert(expand(name)?, expand(value)?);
                }
            }
            Instruction::Expose(specs) => {
                for spec in specs {
                    for word in expand(spec)?.split_whitespace() {
                        for port in ports(word)? {
                            if !config.exposed_ports.contains(&port) {
                                config.exposed_ports.push(port);
                            }
                        }
                    }
                }
            }
            Instruction::Healthcheck(check) => config.healthcheck = Some(check.clone()),
            Instruction::OnBuild(trigger) => config.on_build.push(trigger.clone()),
            Instruction::StopSignal(signal) => {
                let signal = expand(signal)?;
                if crate::containers::signals::parse(&signal).is_none() {
                    return refuse(format!("Invalid signal: {signal}"));
                }
                config.stop_signal = Some(signal);
            }
            Instruction::User(user) => config.user = expand(user)?,
            Instruction::Volume(paths) => {
                for path in paths {
                    let path = expand(path)?.trim().to_owned();
                    if path.is_empty() {
                        return refuse("VOLUME specified can not be an empty string");
                    }
                    if !config.volumes.contains(&path) {
                        config.volumes.push(path);
                    }
                }
            }
            Instruction::WorkingDirectory(path) => {
                config.working_directory = joined(&config.working_directory, &expand(path)?);
            }
        }
        Ok(())
    }
}

impl CommandLine {
    /// The words that are run, with the image's shell in front of a line for it.
    pub fn words(&self, config: &ImageConfig) -> Vec<String> {
        match self {
            CommandLine::Exec(words) => words.clone(),
            CommandLine::Shell(line) if line.is_empty() => Vec::new(),
            CommandLine::Shell(line) => {
                let mut words = match &config.shell {
                    Some(shell) if !shell.is_empty() => shell.clone(),
                    _ => vec!["/bin/sh".into(), "-c".into()],
                };
                words.push(line.clone());
                words
            }
        }
    }
}

/// A JSON list of texts, where the rest of an instruction is one.
fn json_words(rest: &str) -> Option<Vec<String>> {
    if !rest.starts_with('[') {
        return None;
    }
    serde_json::from_str(rest).ok()
}

fn command_line(rest: &str) -> CommandLine {
    match json_words(rest) {
        Some(words) => CommandLine::Exec(words),
        None => CommandLine::Shell(rest.to_owned()),
    }
}

/// `--name=value` words at the beginning.
fn split_flags(mut rest: &str) -> (Vec<(String, String)>, &str) {
    let mut flags = Vec::new();
    while let Some(flag) = rest.strip_prefix("--") {
        let (word, behind) = flag
            .split_once(char::is_whitespace)
            .map_or((flag, ""), |(word, behind)| (word, behind.trim_start()));
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        flags.push((name.to_owned(), value.to_owned()));
        rest = behind;
    }
    (flags, rest)
}

fn healthcheck(flags: &[(String, String)], rest: &str) -> Result<Healthcheck, InstructionError> {
    let (kind, command) = rest
        .split_once(char::is_whitespace)
        .map_or((rest, ""), |(kind, command)| (kind, command.trim()));
    let mut check = Healthcheck::default();
    match kind.to_ascii_uppercase().as_str() {
        "NONE" if command.is_empty() => {
            check.test = vec!["NONE".into()];
            return Ok(check);
        }
        "NONE" => return refuse("HEALTHCHECK NONE takes no arguments"),
        "CMD" => match command_line(command) {
            CommandLine::Exec(words) if !words.is_empty() => {
                check.test = std::iter::once("CMD".to_owned()).chain(words).collect();
            }
            CommandLine::Shell(line) if !line.is_empty() => {
                check.test = vec!["CMD-SHELL".into(), line];
            }
            _ => return refuse("Missing command after HEALTHCHECK CMD"),
        },
        other => return refuse(format!("Unknown type {other:?} in HEALTHCHECK (try CMD)")),
    }
    for (name, value) in flags {
        let interval = || -> Result<i64, InstructionError> {
            match duration::parse(value) {
                Some(0) => Ok(0),
                Some(time) if time < 1_000_000 => {
                    refuse(format!("Interval {name:?} cannot be less than 1ms"))
                }
                Some(time) => Ok(time),
                None => refuse(format!("time: invalid duration {value:?}")),
            }
        };
        match name.as_str() {
            "interval" => check.interval = interval()?,
            "timeout" => check.timeout = interval()?,
            "start-period" => check.start_period = interval()?,
            "start-interval" => check.start_interval = interval()?,
            "retries" => {
                check.retries = match value.parse::<i32>() {
                    Ok(count) if count >= 0 => count.into(),
                    Ok(count) => return refuse(format!("--retries cannot be negative ({count})")),
                    Err(_) => return refuse(format!("--retries must be a number, not {value:?}")),
                };
            }
            _ => return refuse(format!("unknown flag: --{name}")),
        }
    }
    Ok(check)
}

fn on_build(rest: &str) -> Result<String, InstructionError> {
    let word = rest.split_whitespace().next().unwrap_or_default();
    match word.to_ascii_uppercase().as_str() {
        "ONBUILD" => refuse("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"),
        name @ ("MAINTAINER" | "FROM") => {
            refuse(format!("{name} isn't allowed as an ONBUILD trigger"))
        }
        _ => Ok(rest.to_owned()),
    }
}

/// `80`, `80/udp`, `8000-8010/tcp`, with or without a host's part in front, as `80/tcp` each.
fn ports(spec: &str) -> Result<Vec<String>, InstructionError> {
    let invalid = || InstructionError {
        why: format!("invalid containerPort: {spec}"),
    };
    let (numbers, protocol) = spec.split_once('/').unwrap_or((spec, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !["tcp", "udp", "sctp"].contains(&protocol.as_str()) {
        return refuse(format!("invalid proto: {protocol}"));
    }
    let numbers = numbers.rsplit(':').next().unwrap_or(numbers);
    let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
    let number = |text: &str| text.parse::<u16>().map_err(|_| invalid());
    let (first, last) = (number(first)?, number(last)?);
    if first > last {
        return Err(invalid());
    }
    Ok((first..=last)
        .map(|port| format!("{port}/{protocol}"))
        .collect())
}

/// `a=b "c=d e" f=g`, or the old form `a everything else`.
fn pairs(rest: &str, name: &str) -> Result<Vec<(String, String)>, InstructionError> {
    name_value_pairs(name, rest, ESCAPE).map_err(|why| InstructionError { why })
}

/// Takes quotes away and puts variables in, as in a Dockerfile.
pub fn expand(text: &str, env: &[String]) -> Result<String, InstructionError> {
    let lookup = |name: &str| {
        let mut values = env
            .iter()
            .filter_map(|entry| entry.strip_prefix(name)?.strip_prefix('='));
        values.next().map(str::to_owned)
    };
    let expander = Expander {
        escape: ESCAPE,
        lookup: &lookup,
        raw_quotes: false,
    };
    expander.word(text).map_err(|error| InstructionError {
        why: error.to_string(),
    })
}

/// A relative folder goes on from the one before.
fn joined(before: &str, path: &str) -> String {
    let whole = match path.starts_with('/') {
        true => path.to_owned(),
        false => format!("{before}/{path}"),
    };
    let mut parts: Vec<&str> = Vec::new();
    for part in whole.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn changed(changes: &[&str]) -> Result<ImageConfig, InstructionError> {
        let mut config = ImageConfig {
            env: vec!["PATH=/bin".into(), "A=one".into()],
            cmd: Some(vec!["below".into()]),
            working_directory: "/srv".into(),
            ..ImageConfig::default()
        };
        let changes: Vec<String> = changes.iter().map(|text| (*text).to_owned()).collect();
        change(&mut config, &changes).map(|()| config)
    }

    fn words_of(list: &[&str]) -> Option<Vec<String>> {
        Some(list.iter().map(|word| (*word).to_owned()).collect())
    }

    #[test]
    fn commands_in_both_forms() {
        let config = changed(&["CMD [\"a\", \"b c\"]"]).expect("good");
        assert_eq!(config.cmd, words_of(&["a", "b c"]));
        let config = changed(&["cmd echo $A \"x\""]).expect("good");
        assert_eq!(config.cmd, words_of(&["/bin/sh", "-c", "echo $A \"x\""]));
        // Not JSON after all: a line for the shell.
        let config = changed(&["CMD ['a']"]).expect("good");
        assert_eq!(config.cmd, words_of(&["/bin/sh", "-c", "['a']"]));
        let config = changed(&["ENTRYPOINT [\"/entry\"]"]).expect("good");
        assert_eq!(
            (config.entrypoint, config.cmd),
            (words_of(&["/entry"]), None)
        );
        let config = changed(&["CMD [\"x\"]", "ENTRYPOINT [\"/entry\"]"]).expect("good");
        assert_eq!(config.cmd, words_of(&["x"]));
        let config = changed(&["ENTRYPOINT []"]).expect("good");
        assert_eq!(config.entrypoint, None);
    }

    #[test]
    fn variables_labels_and_the_like() {
        let config = changed(&[
            "ENV B=\"two $A\" C=three\\ words",
            "ENV D everything  else",
            "ENV A=${B:+changed}",
            "LABEL a.b=c \"d e\"='f $A'",
            "EXPOSE 80 53/udp 8000-8001",
            "USER ada",
            "WORKDIR work",
            "WORKDIR ../$C",
            "VOLUME /data /more",
            "VOLUME [\"/with space\"]",
            "STOPSIGNAL SIGQUIT",
            "ONBUILD RUN make",
        ])
        .expect("good");
        assert_eq!(
            config.env,
            [
                "PATH=/bin",
                "A=changed",
                "B=two one",
                "C=three words",
                "D=everything  else"
            ]
        );
        assert_eq!(config.labels["a.b"], "c");
        assert_eq!(config.labels["d e"], "f $A");
        assert_eq!(
            config.exposed_ports,
            ["80/tcp", "53/udp", "8000/tcp", "8001/tcp"]
        );
        assert_eq!(config.user, "ada");
        assert_eq!(config.working_directory, "/srv/three words");
        assert_eq!(config.volumes, ["/data", "/more", "/with space"]);
        assert_eq!(config.stop_signal.as_deref(), Some("SIGQUIT"));
        assert_eq!(config.on_build, ["RUN make"]);
    }

    #[test]
    fn health_checks() {
        let check = |line: &str| changed(&[line]).map(|config| config.healthcheck.expect("set"));
        let found = check("HEALTHCHECK --interval=1m30s --retries=3 CMD curl -f x").expect("good");
        assert_eq!(found.test, ["CMD-SHELL", "curl -f x"]);
        assert_eq!((found.interval, found.retries), (90_000_000_000, 3));
        assert_eq!(check("HEALTHCHECK NONE").expect("good").test, ["NONE"]);
        let found = check("HEALTHCHECK --start-period=1.5s CMD [\"a\",\"b\"]").expect("good");
        assert_eq!((found.test.len(), found.start_period), (3, 1_500_000_000));
        for (line, part) in [
            ("HEALTHCHECK NONE x", "takes no arguments"),
            ("HEALTHCHECK CMD", "Missing command"),
            ("HEALTHCHECK TRY x", "try CMD"),
            (
                "HEALTHCHECK --interval=1us CMD x",
                "cannot be less than 1ms",
            ),
            ("HEALTHCHECK --interval=soon CMD x", "invalid duration"),
            ("HEALTHCHECK --retries=-1 CMD x", "cannot be negative"),
            ("HEALTHCHECK --color=red CMD x", "unknown flag"),
        ] {
            let error = check(line).expect_err(line);
            assert!(error.why.contains(part), "{line}: {error}");
        }
    }

    #[track_caller]
    fn refused(line: &str, part: &str) {
        let error = changed(&[line]).expect_err("Docker refuses this");
        assert!(error.why.contains(part), "{line}: {error}");
    }

    #[test]
    fn what_makes_no_sense_is_refused_in_docker_s_words() {
        refused("RUN make", "RUN is not a valid change command");
        refused("COPY a b", "COPY is not a valid change command");
        refused("ENV", "ENV requires at least one argument");
        refused("ENV A", "ENV must have two arguments");
        refused("ENV =x", "ENV names can not be blank");
        refused("ENV A=1 B", "can't find =");
        refused("USER", "USER requires exactly one argument");
        refused("EXPOSE many", "invalid containerPort: many");
        refused("EXPOSE 80/ip", "invalid proto");
        refused("STOPSIGNAL NOW", "Invalid signal: NOW");
        refused("ONBUILD ONBUILD RUN x", "Chaining ONBUILD");
        refused("ONBUILD FROM x", "FROM isn't allowed as an ONBUILD trigger");
        refused("VOLUME [\" \"]", "can not be an empty string");
        refused("LABEL a='b", "matching single-quote");
        refused("ENV X=${A", "missing '}'");
        refused("ENV X=${}", "bad substitution");
    }

    #[test]
    fn lines_are_joined_and_comments_left_out() {
        assert_eq!(
            logical_lines("# note\nENV A=1 \\\n# inside\n  B=2\n\nUSER x\\\n"),
            ["ENV A=1   B=2", "USER x"]
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "([A-Za-z$\\\\{}\"'=:+ -]|\\n|CMD|ENV |EXPOSE |HEALTHCHECK ){0,40}") {
            let _ = changed(&[&text]);
        }

        #[test]
        fn text_without_marks_stays_as_it_is(text in "[a-zA-Z0-9 ./_=-]{0,30}") {
            prop_assert_eq!(expand(&text, &[]), Ok(text));
        }
    }
}
