//! What the instructions of a stage make of its image's configuration, and what work they leave to do.
//!
//! Pure: the same Dockerfile, arguments and base give the same. The history's sentences are those of Docker's builder.

use super::arguments::Arguments;
use super::duration;
use super::ignore;
use super::instruction::{
    Command, CopyFiles, Healthcheck as Check, Here, Instruction, Run, Source, Step,
};
use super::mode::FileMode;
use super::mount::{Mount, MountError};
use super::words::{Expander, WordError};
use crate::containers::{ports, signals};
use crate::images::{Healthcheck, ImageConfig};
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// A stage between two of its instructions.
#[derive(Debug, Clone)]
pub struct StageState {
    pub config: ImageConfig,
    pub author: String,
    pub arguments: Arguments,
    escape: char,
    /// `CMD` was given in this stage: a later `ENTRYPOINT` keeps it.
    command_is_ours: bool,
}

/// What an instruction leaves to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// Only the configuration changed.
    Nothing,
    /// Makes a folder, if it is not there.
    Folder(String),
    Run(RunWork),
    Copy(CopyWork),
}

/// A `RUN`, ready to be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunWork {
    pub args: Vec<String>,
    pub env: Vec<String>,
    /// A file in /dev/pipes: the script with a `#!` of its own.
    pub script: Option<(String, String)>,
    pub mounts: Vec<Mount>,
    pub network: RunNetwork,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunNetwork {
    /// What the build was given.
    Default,
    None,
    Host,
}

/// A `COPY` or `ADD` with its variables expanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyWork {
    pub keyword: &'static str,
    pub files: CopyFiles,
    /// Absolute; ends with `/` where the instruction's did.
    pub destination: String,
}

/// An instruction done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The history's `created_by`. A copy's is made when the digest of its files is known.
    pub created_by: String,
    /// The same as the `Cmd` of Docker's `container_config`.
    pub command: Vec<String>,
    pub work: Work,
}

impl Applied {
    fn new(command: Vec<String>, work: Work) -> Applied {
        Applied {
            created_by: command.join(" "),
            command,
            work,
        }
    }
}

/// Why an instruction cannot be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    #[error("failed to process {:?}: {source}", shown(text))]
    Word { text: String, source: WordError },
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error("{0}")]
    Invalid(String),
}

/// Characters of a text that an error repeats: a here-document may have millions.
const SHOWN_MAX: usize = 500;

fn shown(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(SHOWN_MAX) {
        None => text.into(),
        Some((end, _)) => format!("{}...", &text[..end]).into(),
    }
}

impl StageState {
    pub fn new(
        base: ImageConfig,
        author: String,
        arguments: Arguments,
        escape: char,
    ) -> StageState {
        StageState {
            config: base,
            author,
            arguments,
            escape,
            command_is_ours: false,
        }
    }

    fn lookup(&self, name: &str) -> Option<String> {
        variable(&self.config.env, name).or_else(|| self.arguments.get(name))
    }

    fn word(&self, text: &str) -> Result<String, StepError> {
        self.expand(text, false)
    }

    fn expand(&self, text: &str, raw_quotes: bool) -> Result<String, StepError> {
        let lookup = |name: &str| self.lookup(name);
        let expander = Expander {
            escape: self.escape,
            lookup: &lookup,
            raw_quotes,
        };
        expander.word(text).map_err(|source| StepError::Word {
            text: text.to_owned(),
            source,
        })
    }

    fn words(&self, text: &str) -> Result<Vec<String>, StepError> {
        let lookup = |name: &str| self.lookup(name);
        let expander = Expander {
            escape: self.escape,
            lookup: &lookup,
            raw_quotes: false,
        };
        expander.words(text).map_err(|source| StepError::Word {
            text: text.to_owned(),
            source,
        })
    }

    fn shell(&self) -> Vec<String> {
        let default = || vec!["/bin/sh".to_owned(), "-c".to_owned()];
        self.config
            .shell
            .clone()
            .filter(|shell| !shell.is_empty())
            .unwrap_or_else(default)
    }

    fn with_shell(&self, command: &Command) -> Vec<String> {
        match command {
            Command::Exec(arguments) => arguments.clone(),
            Command::Shell(line) => {
                let mut arguments = self.shell();
                arguments.push(line.clone());
                arguments
            }
        }
    }

    /// The history line of an instruction that makes no files.
    fn no_operation(&self, text: String) -> Vec<String> {
        let mut command = self.shell();
        command.push("#(nop) ".to_owned());
        command.push(text);
        command
    }

    /// A copy's history line as a command, once it is known what was copied.
    pub fn copied(&self, work: &CopyWork, digest: &str) -> Vec<String> {
        let owner = match &work.files.chown {
            // Docker puts no space behind it.
            Some(owner) => format!("--chown={owner}"),
            None => String::new(),
        };
        let mut command = self.shell();
        command.push(format!(
            "#(nop) {} {owner}{digest} in {} ",
            work.keyword, work.files.destination
        ));
        command
    }

    /// Applies one instruction.
    pub fn apply(&mut self, step: &Step) -> Result<Applied, StepError> {
        let mut work = Work::Nothing;
        let said = match &step.instruction {
            Instruction::Env(pairs) => {
                let said = self.pairs("ENV", pairs)?;
                for (name, value) in said.1 {
                    set_variable(&mut self.config.env, &name, &value);
                }
                said.0
            }
            Instruction::Label(pairs) => {
                let said = self.pairs("LABEL", pairs)?;
                self.config.labels.extend(said.1);
                said.0
            }
            Instruction::Arg(arguments) => self.arg(arguments)?,
            Instruction::Maintainer(name) => {
                self.author.clone_from(name);
                format!("MAINTAINER {name}")
            }
            Instruction::Cmd(command) => {
                let arguments = self.with_shell(command);
                let said = format!("CMD {}", quoted(&arguments));
                self.config.cmd = Some(arguments);
                self.command_is_ours = true;
                said
            }
            Instruction::Entrypoint(command) => {
                let arguments = self.with_shell(command);
                let said = format!("ENTRYPOINT {}", quoted(&arguments));
                // `ENTRYPOINT []` takes the base's away.
                self.config.entrypoint = Some(arguments).filter(|arguments| !arguments.is_empty());
                if !self.command_is_ours {
                    self.config.cmd = None;
                }
                said
            }
            Instruction::Expose(ports) => {
                let mut words = Vec::new();
                for port in ports {
                    words.extend(self.words(port)?);
                }
                words.sort();
                let of_container = words.iter().map(|word| port_of_container(word));
                let of_container = of_container.collect::<Result<Vec<_>, _>>()?;
                let exposed = ports::normalize_exposed(of_container).map_err(StepError::Invalid)?;
                let mut all: BTreeSet<String> = self.config.exposed_ports.drain(..).collect();
                all.extend(exposed);
                self.config.exposed_ports = all.into_iter().collect();
                format!("EXPOSE {}", words.join(" "))
            }
            Instruction::Healthcheck(check) => self.healthcheck(check)?,
            Instruction::Onbuild(text) => {
                self.config.on_build.push(text.clone());
                format!("ONBUILD {text}")
            }
            Instruction::Shell(shell) => {
                self.config.shell = Some(shell.clone());
                format!("SHELL [{}]", shell.join(" "))
            }
            Instruction::Stopsignal(signal) => {
                let signal = self.word(signal)?;
                if signals::parse(&signal).is_none() {
                    return Err(StepError::Invalid(format!("Invalid signal: {signal}")));
                }
                let said = format!("STOPSIGNAL {signal}");
                self.config.stop_signal = Some(signal);
                said
            }
            Instruction::User(user) => {
                self.config.user = self.word(user)?;
                format!("USER {}", self.config.user)
            }
            Instruction::Volume(volumes) => {
                let volumes = volumes
                    .iter()
                    .map(|volume| self.word(volume))
                    .collect::<Result<Vec<_>, _>>()?;
                if volumes.iter().any(|volume| volume.trim().is_empty()) {
                    return Err(StepError::Invalid(
                        "VOLUME specified can not be an empty string".to_owned(),
                    ));
                }
                for volume in &volumes {
                    if !self.config.volumes.contains(volume) {
                        self.config.volumes.push(volume.clone());
                    }
                }
                self.config.volumes.sort();
                format!("VOLUME [{}]", volumes.join(" "))
            }
            Instruction::Workdir(folder) => {
                let folder = self.word(folder)?;
                if folder.is_empty() {
                    return Err(StepError::Invalid("cannot normalize nothing".to_owned()));
                }
                let folder = self.absolute(&folder);
                self.config.working_directory.clone_from(&folder);
                let mut command = self.shell();
                command.push(format!("#(nop) WORKDIR {folder}"));
                return Ok(Applied::new(command, Work::Folder(folder)));
            }
            Instruction::Run(run) => return self.run(run),
            Instruction::Copy(files) => {
                work = Work::Copy(self.copy("COPY", files)?);
                String::new()
            }
            Instruction::Add(files) => {
                work = Work::Copy(self.copy("ADD", files)?);
                String::new()
            }
        };
        Ok(Applied::new(self.no_operation(said), work))
    }

    /// The path against the working directory, cleaned.
    fn absolute(&self, path: &str) -> String {
        let joined = if path.starts_with('/') {
            path.to_owned()
        } else {
            format!("/{}/{path}", self.config.working_directory)
        };
        format!("/{}", ignore::clean(&joined))
    }

    /// All of them against the variables as they were before the instruction.
    fn pairs(
        &self,
        keyword: &str,
        pairs: &[(String, String)],
    ) -> Result<(String, Vec<(String, String)>), StepError> {
        let mut said = keyword.to_owned();
        let mut expanded = Vec::new();
        for (name, value) in pairs {
            let (name, value) = (self.word(name)?, self.word(value)?);
            if name.is_empty() {
                return Err(StepError::Invalid(format!(
                    "{keyword} names can not be blank"
                )));
            }
            said.push_str(&format!(" {name}={value}"));
            expanded.push((name, value));
        }
        Ok((said, expanded))
    }

    fn arg(&mut self, arguments: &[(String, Option<String>)]) -> Result<String, StepError> {
        let mut said = "ARG".to_owned();
        for (name, default) in arguments {
            let name = self.word(name)?;
            let default = default.as_deref().map(|text| self.word(text)).transpose()?;
            match &default {
                Some(default) => said.push_str(&format!(" {name}={default}")),
                None => said.push_str(&format!(" {name}")),
            }
            self.arguments.declare(name, default);
        }
        Ok(said)
    }

    fn healthcheck(&mut self, check: &Check) -> Result<String, StepError> {
        let health = match check {
            Check::None => Healthcheck {
                test: vec!["NONE".to_owned()],
                ..Healthcheck::default()
            },
            Check::Command {
                command,
                interval,
                timeout,
                start_period,
                start_interval,
                retries,
            } => {
                let test = match command {
                    Command::Exec(arguments) if arguments.is_empty() => {
                        return Err(StepError::Invalid(
                            "Missing command after HEALTHCHECK CMD".to_owned(),
                        ));
                    }
                    Command::Exec(arguments) => {
                        let mut test = vec!["CMD".to_owned()];
                        test.extend(arguments.iter().cloned());
                        test
                    }
                    Command::Shell(line) => vec!["CMD-SHELL".to_owned(), line.clone()],
                };
                Healthcheck {
                    test,
                    interval: health_duration("interval", interval)?,
                    timeout: health_duration("timeout", timeout)?,
                    start_period: health_duration("start-period", start_period)?,
                    start_interval: health_duration("start-interval", start_interval)?,
                    retries: match retries.as_deref() {
                        None => 0,
                        Some(text) => match text.parse::<i64>() {
                            Ok(retries) if retries >= 0 => retries,
                            _ => {
                                return Err(StepError::Invalid(format!(
                                    "--retries must be a number, at least 0, not {text:?}"
                                )));
                            }
                        },
                    },
                }
            }
        };
        // Go's `%+q` of the structure, as Docker's builder prints it.
        let said = format!(
            "HEALTHCHECK &{{{} {:?} {:?} {:?} {}}}",
            quoted(&health.test),
            duration::show(health.interval),
            duration::show(health.timeout),
            duration::show(health.start_period),
            quoted_rune(health.retries),
        );
        self.config.healthcheck = Some(health);
        Ok(said)
    }

    fn run(&self, run: &Run) -> Result<Applied, StepError> {
        let mut script = None;
        let args = match &run.script {
            None => self.with_shell(&run.command),
            Some(here) if here.content.starts_with("#!") => {
                let path = format!("/dev/pipes/{}", here.name);
                // Its program reads it as it is.
                script = Some((here.name.clone(), here.content.clone()));
                vec![path]
            }
            Some(here) => {
                let mut args = self.shell();
                // The shell reads its variables itself.
                args.push(here.content.clone());
                args
            }
        };
        if args.first().is_none_or(String::is_empty) {
            return Err(StepError::Invalid("RUN has no program to run".to_owned()));
        }
        let network = match run.network.as_deref() {
            None | Some("default") => RunNetwork::Default,
            Some("none") => RunNetwork::None,
            Some("host") => RunNetwork::Host,
            Some(other) => {
                return Err(StepError::Invalid(format!(
                    "invalid network mode {other:?}"
                )));
            }
        };
        match run.security.as_deref() {
            None | Some("sandbox") => {}
            Some("insecure") => {
                return Err(StepError::Invalid(
                    "security.insecure is not allowed: steps run in a container's usual confinement".to_owned(),
                ));
            }
            Some(other) => {
                return Err(StepError::Invalid(format!(
                    "security {other:?} is not valid"
                )));
            }
        }
        let mounts = run
            .mounts
            .iter()
            .map(|mount| Mount::parse_with(mount, |value| self.word(value)))
            .collect::<Result<_, StepError>>()?;
        let taken: BTreeSet<&str> = self
            .config
            .env
            .iter()
            .map(|variable| name_of(variable))
            .collect();
        let (variables, recorded) = self.arguments.for_run(&taken);
        let has_arguments = !variables.is_empty();
        let mut env = self.config.env.clone();
        env.extend(variables);
        let mut command = Vec::new();
        // Proxies are counted as nothing, but said to be there.
        if has_arguments {
            command.push(format!("|{}", recorded.len()));
            command.extend(recorded);
        }
        command.extend(args.iter().cloned());
        let work = RunWork {
            args,
            env,
            script,
            mounts,
            network,
        };
        Ok(Applied::new(command, Work::Run(work)))
    }

    fn document(&self, here: &Here) -> Result<String, StepError> {
        if here.expand {
            self.expand(&here.content, true)
        } else {
            Ok(here.content.clone())
        }
    }

    fn copy(&self, keyword: &'static str, files: &CopyFiles) -> Result<CopyWork, StepError> {
        let mut expanded = files.clone();
        for source in &mut expanded.sources {
            match source {
                Source::Path(path) => *path = self.word(path)?,
                Source::Here(here) => {
                    here.content = self.document(here)?;
                    here.expand = false;
                }
            }
        }
        for text in [
            &mut expanded.from,
            &mut expanded.chown,
            &mut expanded.chmod,
            &mut expanded.checksum,
        ]
        .into_iter()
        .flatten()
        .chain(&mut expanded.exclude)
        {
            *text = self.word(text)?;
        }
        if let Some(mode) = &expanded.chmod
            && let Err(error) = mode.parse::<FileMode>()
        {
            return Err(StepError::Invalid(format!(
                "invalid chmod parameter: '{mode}'. {error}"
            )));
        }
        expanded.destination = self.word(&expanded.destination)?;
        let mut destination = self.absolute(&expanded.destination);
        let is_folder = expanded.destination.ends_with('/')
            || matches!(expanded.destination.as_str(), "" | ".")
            || expanded.destination.ends_with("/.");
        if is_folder && destination != "/" {
            destination.push('/');
        }
        if expanded.sources.len() > 1 && !is_folder {
            return Err(StepError::Invalid(format!(
                "When using {keyword} with more than one source file, the destination must be a directory and end with a /"
            )));
        }
        Ok(CopyWork {
            keyword,
            files: expanded,
            destination,
        })
    }
}

/// `127.0.0.1:80:8080/tcp` -> `8080/tcp`: Docker takes what is for publishing in an `EXPOSE`, and lets it be. The sentences
/// are Docker's (go-connections, `nat.ParsePortSpec`).
fn port_of_container(text: &str) -> Result<String, StepError> {
    let invalid = |what: &str| Err(StepError::Invalid(what.to_owned()));
    let (host, port) = match text.rsplit_once(':') {
        None => return Ok(text.to_owned()),
        Some((host, port)) => (host, port),
    };
    if port.is_empty() || port.starts_with('/') {
        return invalid(&format!("no port specified: {text}<empty>"));
    }
    let (address, host_port) = host.rsplit_once(':').unwrap_or(("", host));
    let bare = address
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    if !address.is_empty() && bare.unwrap_or(address).parse::<IpAddr>().is_err() {
        return invalid(&format!("invalid IP address: {address}"));
    }
    let range = port.split('/').next().unwrap_or_default();
    let width = |text: &str| {
        ports::parse_container_port(text)
            .ok()
            .map(|(first, last, _)| last - first)
    };
    match (host_port, width(host_port), width(range)) {
        ("" | "0", _, _) => {}
        (_, None, _) => return invalid(&format!("invalid hostPort: {host_port}")),
        // One port of the container may come of any of a range.
        (_, Some(of_host), Some(own)) if own != 0 && own != of_host => {
            return invalid(&format!(
                "invalid ranges specified for container and host Ports: {range} and {host_port}"
            ));
        }
        _ => {}
    }
    Ok(port.to_owned())
}

fn health_duration(name: &str, text: &Option<String>) -> Result<i64, StepError> {
    let Some(text) = text.as_deref() else {
        return Ok(0);
    };
    let invalid = |why: &str| StepError::Invalid(format!("invalid --{name} {text:?}: {why}"));
    match duration::parse(text) {
        None => Err(invalid("it is no duration such as 5s or 1m30s")),
        Some(value) if value < 0 => Err(invalid("it is negative")),
        Some(value) if value != 0 && value < 1_000_000 => {
            Err(invalid("it cannot be less than 1ms"))
        }
        Some(value) => Ok(value),
    }
}

/// `NAME=value` -> `NAME`.
fn name_of(variable: &str) -> &str {
    variable.split_once('=').map_or(variable, |(name, _)| name)
}

fn variable(env: &[String], name: &str) -> Option<String> {
    env.iter()
        .rev()
        .find(|variable| name_of(variable) == name)
        .map(|variable| {
            variable
                .split_once('=')
                .map(|(_, value)| value)
                .unwrap_or_default()
                .to_owned()
        })
}

/// In its old place if there was one.
fn set_variable(env: &mut Vec<String>, name: &str, value: &str) {
    let variable = format!("{name}={value}");
    match env.iter_mut().find(|variable| name_of(variable) == name) {
        Some(old) => *old = variable,
        None => env.push(variable),
    }
}

/// Go's `%q` of a list of strings.
fn quoted(arguments: &[String]) -> String {
    let words: Vec<String> = arguments
        .iter()
        .map(|argument| go_quoted(argument))
        .collect();
    format!("[{}]", words.join(" "))
}

/// Go's `%q`.
fn go_quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            '\r' => quoted.push_str("\\r"),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{b}' => quoted.push_str("\\v"),
            '\u{c}' => quoted.push_str("\\f"),
            character if (character as u32) < 0x20 || character as u32 == 0x7f => {
                quoted.push_str(&format!("\\x{:02x}", character as u32));
            }
            character => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}

/// Go's `%q` of a number: the character of that number.
fn quoted_rune(number: i64) -> String {
    let character = u32::try_from(number)
        .ok()
        .and_then(char::from_u32)
        .unwrap_or('\u{fffd}');
    let text = go_quoted(&character.to_string());
    let inside = &text[1..text.len() - 1];
    match character {
        '\'' => "'\\''".to_owned(),
        '"' => "'\"'".to_owned(),
        _ => format!("'{inside}'"),
    }
}

#[cfg(test)]
mod tests;
