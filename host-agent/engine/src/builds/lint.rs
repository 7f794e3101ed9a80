//! Warnings about a Dockerfile: BuildKit's rules under its names, with its words (`docker build --check`).
//!
//! `# check=skip=Rule,Other` (or `skip=all`) in the first lines switches rules off; `error=true` makes findings errors.

use super::Dockerfile;
use super::dockerfile::Stage;
use super::event::Finding;
use super::ignore::Ignore;
use super::instruction::{Command, Instruction, Source, Step};
use super::nearest;
use crate::images::Platform;
use std::collections::{BTreeMap, BTreeSet};

/// Names of stages that mean something else.
const RESERVED: [&str; 2] = ["context", "scratch"];
/// Words in names of variables that hold secrets.
const SECRET_WORDS: [&str; 10] = [
    "apikey",
    "auth",
    "credential",
    "credentials",
    "key",
    "password",
    "pword",
    "passwd",
    "secret",
    "token",
];
/// Arguments that every stage may use without a default, once declared.
const PREDEFINED: [&str; 8] = [
    "BUILDPLATFORM",
    "BUILDOS",
    "BUILDARCH",
    "BUILDVARIANT",
    "TARGETPLATFORM",
    "TARGETOS",
    "TARGETARCH",
    "TARGETVARIANT",
];

/// What is known of the build beside the Dockerfile.
pub(super) struct Surroundings<'a> {
    pub text: &'a str,
    pub ignore: &'a Ignore,
    /// Variables of a base image; `None` where it is not known.
    pub env_of: &'a dyn Fn(&str) -> Option<Vec<String>>,
    /// What an image is for; `None` where it is not known.
    pub platform_of: &'a dyn Fn(&str) -> Option<Platform>,
    /// What is built for.
    pub platform: &'a Platform,
}

/// The `check` directive.
#[derive(Debug, Default, PartialEq, Eq)]
struct Directive {
    skip: BTreeSet<String>,
    skip_all: bool,
    is_error: bool,
}

/// What was found, and whether that fails the build.
pub(super) struct Checked {
    pub findings: Vec<Finding>,
    pub is_error: bool,
}

/// What the rules find, in the order of lines.
pub(super) fn check(file: &Dockerfile, around: &Surroundings<'_>) -> Checked {
    let directive = directive(around.text);
    if directive.skip_all {
        return Checked {
            findings: Vec::new(),
            is_error: false,
        };
    }
    let mut linter = Linter {
        file,
        around,
        lines: around.text.lines().collect(),
        findings: Vec::new(),
    };
    linter.casing();
    linter.continuations();
    linter.arguments_of_from();
    linter.duplicates();
    let mut known: Vec<Known> = Vec::new();
    for stage in &file.stages {
        linter.from(stage);
        linter.base_platform(stage);
        let variables = linter.stage(stage, &known);
        known.push(variables);
    }
    let mut findings = linter.findings;
    findings.retain(|finding| !directive.skip.contains(&finding.rule.to_ascii_lowercase()));
    findings.sort_by_key(|finding| finding.line);
    Checked {
        is_error: directive.is_error && !findings.is_empty(),
        findings,
    }
}

type Rule = (&'static str, &'static str);

const STAGE_CASING: Rule = ("StageNameCasing", "Stage names should be lowercase");
const AS_CASING: Rule = (
    "FromAsCasing",
    "The 'as' keyword should match the case of the 'from' keyword",
);
const EMPTY_CONTINUATION: Rule = (
    "NoEmptyContinuation",
    "Empty continuation lines will become errors in a future release",
);
const KEYWORD_CASING: Rule = (
    "ConsistentInstructionCasing",
    "All commands within the Dockerfile should use the same casing (either upper or lower)",
);
const DUPLICATE_STAGE: Rule = ("DuplicateStageName", "Stage names should be unique");
const RESERVED_STAGE: Rule = (
    "ReservedStageName",
    "Reserved words should not be used as stage names",
);
const JSON_ARGUMENTS: Rule = (
    "JSONArgsRecommended",
    "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals",
);
const MAINTAINER: Rule = (
    "MaintainerDeprecated",
    "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
);
const UNDEFINED_IN_FROM: Rule = ("UndefinedArgInFrom", "FROM command must use declared ARGs");
const RELATIVE_WORKDIR: Rule = (
    "WorkdirRelativePath",
    "Relative workdir without an absolute workdir declared within the build can have unexpected results if the base image changes",
);
const UNDEFINED: Rule = (
    "UndefinedVar",
    "Variables should be defined before their use",
);
const MULTIPLE: Rule = (
    "MultipleInstructionsDisallowed",
    "Multiple instructions of the same type should not be used in the same stage",
);
const LEGACY_PAIRS: Rule = (
    "LegacyKeyValueFormat",
    "Legacy key/value format with whitespace separator should not be used",
);
const REDUNDANT_PLATFORM: Rule = (
    "RedundantTargetPlatform",
    "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
);
const SECRETS: Rule = (
    "SecretsUsedInArgOrEnv",
    "Sensitive data should not be used in the ARG or ENV commands",
);
const INVALID_DEFAULT: Rule = (
    "InvalidDefaultArgInFrom",
    "Default value for global ARG results in an empty or invalid base image name",
);
const CONSTANT_PLATFORM: Rule = (
    "FromPlatformFlagConstDisallowed",
    "FROM --platform flag should not use a constant value",
);
const COPY_IGNORED: Rule = (
    "CopyIgnoredFile",
    "Attempting to Copy file that is excluded by .dockerignore",
);
const BASE_PLATFORM: Rule = (
    "InvalidBaseImagePlatform",
    "Base image platform does not match expected target platform",
);
const EXPOSE_CASING: Rule = (
    "ExposeProtoCasing",
    "Protocol in EXPOSE instruction should be lowercase",
);
const EXPOSE_FORMAT: Rule = (
    "ExposeInvalidFormat",
    "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a future release",
);

/// Variables of a stage at its end; `None` where its base is not known.
type Known = Option<BTreeSet<String>>;

struct Linter<'a> {
    file: &'a Dockerfile,
    around: &'a Surroundings<'a>,
    lines: Vec<&'a str>,
    findings: Vec<Finding>,
}

fn directive(text: &str) -> Directive {
    let mut found = Directive::default();
    for line in text.lines() {
        let Some((name, value)) = line
            .trim()
            .strip_prefix('#')
            .and_then(|rest| rest.split_once('='))
        else {
            break;
        };
        if !name.trim().eq_ignore_ascii_case("check") {
            continue;
        }
        for part in value.split(';') {
            match part.trim().split_once('=') {
                Some(("skip", rules)) => {
                    found.skip_all |= rules.trim() == "all";
                    found.skip.extend(
                        rules
                            .split(',')
                            .map(|rule| rule.trim().to_ascii_lowercase()),
                    );
                }
                Some(("error", value)) => found.is_error = value.trim() == "true",
                _ => {}
            }
        }
    }
    found
}

/// The first word.
fn keyword(text: &str) -> &str {
    text.split_whitespace().next().unwrap_or_default()
}

/// Names after `$` in a text, with what says that they need not be set.
fn variables(text: &str, escape: char) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = text.char_indices().peekable();
    let (mut single, mut double) = (false, false);
    while let Some((at, character)) = rest.next() {
        match character {
            c if c == escape && !single => {
                rest.next();
            }
            '\'' if !double => single = !single,
            '"' if !single => double = !double,
            '$' if !single => {
                let after = &text[at + 1..];
                let (braces, after) = match after.strip_prefix('{') {
                    Some(inner) => (true, inner),
                    None => (false, after),
                };
                let end = after
                    .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                    .unwrap_or(after.len());
                let name = &after[..end];
                // `${name:-default}` and the like are made for what is not set.
                let is_plain = !braces || after[end..].starts_with('}');
                if is_plain && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
                    found.push(name.to_owned());
                }
            }
            _ => {}
        }
    }
    found
}

impl Linter<'_> {
    fn add(&mut self, line: usize, rule: Rule, message: String) {
        self.findings.push(Finding {
            rule: rule.0,
            message,
            description: rule.1,
            line,
            shown: self
                .lines
                .get(line.saturating_sub(1))
                .copied()
                .unwrap_or_default()
                .trim_end()
                .to_owned(),
        });
    }

    fn steps(&self) -> impl Iterator<Item = &Step> {
        let stages = self.file.stages.iter();
        self.file
            .arguments
            .iter()
            .chain(stages.flat_map(|stage| &stage.steps))
    }

    fn casing(&mut self) {
        let mut keywords: Vec<(usize, String)> = self
            .steps()
            .map(|step| (step.line, keyword(&step.text).to_owned()))
            .collect();
        keywords.extend(
            self.file
                .stages
                .iter()
                .map(|stage| (stage.line, keyword(&stage.text).to_owned())),
        );
        let is_lower = |word: &str| word == word.to_ascii_lowercase();
        let is_upper = |word: &str| word == word.to_ascii_uppercase();
        let lower = keywords.iter().filter(|(_, word)| is_lower(word)).count();
        let upper = keywords.iter().filter(|(_, word)| is_upper(word)).count();
        let (majority, fits): (_, &dyn Fn(&str) -> bool) = match lower > upper {
            true => ("lowercase", &is_lower),
            false => ("uppercase", &is_upper),
        };
        for (line, word) in &keywords {
            if !fits(word) {
                let message = format!(
                    "Command '{word}' should match the case of the command majority ({majority})"
                );
                self.add(*line, KEYWORD_CASING, message);
            }
        }
    }

    fn continuations(&mut self) {
        let mut found = Vec::new();
        let mut continues = false;
        let mut document: Option<String> = None;
        for (index, line) in self.lines.iter().enumerate() {
            if let Some(end) = &document {
                if line.trim() == end {
                    document = None;
                }
                continue;
            }
            let trimmed = line.trim();
            if continues && trimmed.is_empty() {
                found.push(index + 1);
                continue;
            }
            if trimmed.starts_with('#') {
                continue;
            }
            continues = trimmed.ends_with(self.file.escape);
            if let Some((_, rest)) = line.split_once("<<") {
                let name: String = rest
                    .trim_start_matches(['-', '"', '\''])
                    .chars()
                    .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
                    .collect();
                document = (!name.is_empty() && !continues).then_some(name);
            }
        }
        for line in found {
            self.add(line, EMPTY_CONTINUATION, "Empty continuation line".into());
        }
    }

    fn duplicates(&mut self) {
        let mut names = BTreeSet::new();
        for stage in &self.file.stages {
            if let Some(name) = &stage.name
                && !names.insert(name)
            {
                let message =
                    format!("Duplicate stage name {name:?}, stage names should be unique");
                self.add(stage.line, DUPLICATE_STAGE, message);
            }
        }
    }

    /// Global arguments that `FROM` uses.
    fn arguments_of_from(&mut self) {
        let mut defaults: BTreeMap<String, Option<String>> = BTreeMap::new();
        for step in &self.file.arguments {
            if let Instruction::Arg(declared) = &step.instruction {
                defaults.extend(declared.iter().cloned());
            }
        }
        for stage in &self.file.stages {
            let platform = stage.platform.as_deref().unwrap_or_default();
            for name in variables(&format!("{} {platform}", stage.base), self.file.escape) {
                if !defaults.contains_key(&name) && !PREDEFINED.contains(&name.as_str()) {
                    let declared = defaults.keys().map(String::as_str);
                    let hint = nearest::hint(&name, declared.chain(PREDEFINED));
                    self.add(
                        stage.line,
                        UNDEFINED_IN_FROM,
                        format!("FROM argument '{name}' is not declared{hint}"),
                    );
                }
            }
            let base = stage.base.clone();
            let used = variables(&base, self.file.escape);
            if used.iter().all(|name| defaults.contains_key(name)) && !used.is_empty() {
                let mut expanded = base.clone();
                for name in used.iter().rev() {
                    let value = defaults[name].clone().unwrap_or_default();
                    expanded = expanded
                        .replace(&format!("${{{name}}}"), &value)
                        .replace(&format!("${name}"), &value);
                }
                if expanded != "scratch" && crate::images::Reference::parse(&expanded).is_err() {
                    self.add(stage.line, INVALID_DEFAULT, format!("Default value for ARG {base} results in empty or invalid base image name"));
                }
            }
        }
    }

    fn from(&mut self, stage: &Stage) {
        let words: Vec<&str> = stage.text.split_whitespace().collect();
        let from = words.first().copied().unwrap_or_default();
        if let [.., word, name] = words.as_slice()
            && word.eq_ignore_ascii_case("as")
        {
            if *name != name.to_lowercase() {
                self.add(
                    stage.line,
                    STAGE_CASING,
                    format!("Stage name '{name}' should be lowercase"),
                );
            }
            let is_upper = |word: &str| word == word.to_uppercase();
            let is_lower = |word: &str| word == word.to_lowercase();
            if (is_upper(from), is_lower(from)) != (is_upper(word), is_lower(word)) {
                self.add(
                    stage.line,
                    AS_CASING,
                    format!("'{word}' and '{from}' keywords' casing do not match"),
                );
            }
        }
        if let Some(name) = &stage.name
            && RESERVED.contains(&name.as_str())
        {
            self.add(
                stage.line,
                RESERVED_STAGE,
                format!("Stage name should not use the same name as reserved stage {name:?}"),
            );
        }
        match stage.platform.as_deref() {
            Some(platform @ ("$TARGETPLATFORM" | "${TARGETPLATFORM}")) => {
                self.add(stage.line, REDUNDANT_PLATFORM, format!("Setting platform to predefined {platform} in FROM is redundant as this is the default behavior"));
            }
            // Where other stages have the same platform's name in theirs, it is a choice of images.
            Some(platform)
                if Platform::parse(platform).is_some_and(|platform| {
                    let name = stage.name.as_deref().unwrap_or_default();
                    !platform.os.contains('$')
                        && !name.contains(&platform.os)
                        && !name.contains(&platform.architecture)
                }) =>
            {
                self.add(
                    stage.line,
                    CONSTANT_PLATFORM,
                    format!("FROM --platform flag should not use constant value {platform:?}"),
                );
            }
            _ => {}
        }
    }

    /// An image that was made for another platform than the stage is.
    fn base_platform(&mut self, stage: &Stage) {
        let is_stage = |other: &&Stage| other.line < stage.line && other.name.is_some();
        let base = stage.base.to_ascii_lowercase();
        let mut earlier = self.file.stages.iter().filter(is_stage);
        if earlier.any(|other| other.name.as_deref() == Some(&*base)) {
            return;
        }
        let asked = stage.platform.as_deref().filter(|text| !text.contains('$'));
        let expected = asked.and_then(Platform::parse);
        let expected = expected
            .unwrap_or_else(|| self.around.platform.clone())
            .normalised();
        let Some(actual) = (self.around.platform_of)(&stage.base).map(Platform::normalised) else {
            return;
        };
        if !actual.os.is_empty()
            && (&expected.os, &expected.architecture) != (&actual.os, &actual.architecture)
        {
            self.add(
                stage.line,
                BASE_PLATFORM,
                format!(
                    "Base image {} was pulled with platform \"{actual}\", expected \"{expected}\" for current build",
                    stage.base
                ),
            );
        }
    }

    /// The steps of a stage; answers what variables there are at its end.
    fn stage(&mut self, stage: &Stage, earlier: &[Known]) -> Known {
        let base = self.file.stages[..earlier.len()]
            .iter()
            .rposition(|other| other.name.as_deref() == Some(&*stage.base.to_ascii_lowercase()));
        let mut known: Known = match (base, stage.base.as_str()) {
            (Some(index), _) => earlier[index].clone(),
            (None, "scratch") => Some(BTreeSet::new()),
            (None, name) => (self.around.env_of)(name).map(|env| {
                env.iter()
                    .map(|variable| variable.split('=').next().unwrap_or_default().to_owned())
                    .collect()
            }),
        };
        if let Some(known) = &mut known {
            known.insert("PATH".into());
        }
        let mut last: BTreeMap<&str, usize> = BTreeMap::new();
        let mut has_absolute = false;
        for step in &stage.steps {
            let keyword_upper = keyword(&step.text).to_ascii_uppercase();
            self.undefined(step, &known);
            let only_once = match &step.instruction {
                Instruction::Cmd(command) | Instruction::Entrypoint(command) => {
                    let is_cmd = matches!(step.instruction, Instruction::Cmd(_));
                    if matches!(command, Command::Shell(_))
                        && !stage
                            .steps
                            .iter()
                            .any(|step| matches!(step.instruction, Instruction::Shell(_)))
                    {
                        self.add(step.line, JSON_ARGUMENTS, format!("JSON arguments recommended for {keyword_upper} to prevent unintended behavior related to OS signals"));
                    }
                    Some(if is_cmd { "CMD" } else { "ENTRYPOINT" })
                }
                Instruction::Healthcheck(_) => Some("HEALTHCHECK"),
                Instruction::Maintainer(_) => {
                    self.add(
                        step.line,
                        MAINTAINER,
                        "Maintainer instruction is deprecated in favor of using label".into(),
                    );
                    None
                }
                Instruction::Workdir(folder) => {
                    let is_absolute = folder.starts_with(['/', '$']);
                    has_absolute |= is_absolute;
                    if !is_absolute && !has_absolute {
                        self.add(step.line, RELATIVE_WORKDIR, format!("Relative workdir {folder:?} can have unexpected results if the base image changes"));
                        has_absolute = true;
                    }
                    None
                }
                Instruction::Env(pairs) => {
                    self.legacy(step, &keyword_upper, pairs);
                    for (name, _) in pairs {
                        self.secret(step.line, "ENV", name);
                        if let Some(known) = &mut known {
                            known.insert(name.clone());
                        }
                    }
                    None
                }
                Instruction::Label(pairs) => {
                    self.legacy(step, &keyword_upper, pairs);
                    None
                }
                Instruction::Arg(arguments) => {
                    for (name, _) in arguments {
                        self.secret(step.line, "ARG", name);
                        if let Some(known) = &mut known {
                            known.insert(name.clone());
                        }
                    }
                    None
                }
                Instruction::Expose(ports) => {
                    self.ports(step.line, ports);
                    None
                }
                Instruction::Copy(files) | Instruction::Add(files) if files.from.is_none() => {
                    let verb = if keyword_upper == "ADD" {
                        "Add"
                    } else {
                        "Copy"
                    };
                    for source in &files.sources {
                        let Source::Path(path) = source else { continue };
                        let clean = super::ignore::clean(path);
                        let is_plain =
                            !path.contains(['$', '*', '?', '[']) && !path.contains("://");
                        if is_plain && !clean.is_empty() && self.around.ignore.leaves_out(&clean) {
                            self.add(step.line, COPY_IGNORED, format!("Attempting to {verb} file {path:?} that is excluded by .dockerignore"));
                        }
                    }
                    None
                }
                _ => None,
            };
            if let Some(name) = only_once
                && let Some(before) = last.insert(name, step.line)
            {
                self.add(before, MULTIPLE, format!("Multiple {name} instructions should not be used in the same stage because only the last one will be used"));
            }
        }
        known
    }

    fn legacy(&mut self, step: &Step, keyword: &str, pairs: &[(String, String)]) {
        let rest = step
            .text
            .split_once(char::is_whitespace)
            .map_or("", |(_, rest)| rest.trim());
        let first = rest.split_whitespace().next().unwrap_or_default();
        if pairs.len() == 1 && !first.contains('=') && !first.starts_with(['"', '\'']) {
            self.add(step.line, LEGACY_PAIRS, format!("\"{keyword} key=value\" should be used instead of legacy \"{keyword} key value\" format"));
        }
    }

    fn secret(&mut self, line: usize, keyword: &str, name: &str) {
        let lower = name.to_ascii_lowercase();
        let mut words = lower.split('_');
        let is_public = lower.split('_').any(|word| word == "public");
        if !is_public && words.any(|word| SECRET_WORDS.contains(&word)) {
            self.add(
                line,
                SECRETS,
                format!(
                    "Do not use ARG or ENV instructions for sensitive data ({keyword} {name:?})"
                ),
            );
        }
    }

    fn ports(&mut self, line: usize, ports: &[String]) {
        for port in ports {
            if let Some((_, protocol)) = port.split_once('/')
                && protocol != protocol.to_lowercase()
            {
                self.add(
                    line,
                    EXPOSE_CASING,
                    format!("Defined protocol '{port}' in EXPOSE instruction should be lowercase"),
                );
            }
            if port.contains(':') && !port.contains('$') {
                self.add(line, EXPOSE_FORMAT, format!("EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'"));
            }
        }
    }

    /// Variables that an instruction whose words are expanded uses and that are not there.
    fn undefined(&mut self, step: &Step, known: &Known) {
        let Some(known) = known else { return };
        let is_expanded = matches!(
            step.instruction,
            Instruction::Add(_)
                | Instruction::Copy(_)
                | Instruction::Env(_)
                | Instruction::Expose(_)
                | Instruction::Label(_)
                | Instruction::Stopsignal(_)
                | Instruction::User(_)
                | Instruction::Volume(_)
                | Instruction::Workdir(_)
                | Instruction::Arg(_)
        );
        if !is_expanded {
            return;
        }
        let mut told = BTreeSet::new();
        for name in variables(&step.text, self.file.escape) {
            if !known.contains(&name) && told.insert(name.clone()) {
                let near = nearest::nearest(&name, known.iter().map(String::as_str));
                let hint =
                    near.map_or_else(String::new, |near| format!(" (did you mean ${near}?)"));
                self.add(
                    step.line,
                    UNDEFINED,
                    format!("Usage of undefined variable '${name}'{hint}"),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests;
