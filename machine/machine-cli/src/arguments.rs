//! The grammar. `create` has flags of its own and those of the chosen driver, so the driver is looked for first, then the whole
//! command line is parsed once.

use crate::verbs::Verb;
use crate::{driver_flags, exit_code};
use anyhow::Context as _;
use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser};
use machine_core::MachineStore;
use machine_core::certificates::CertificatePaths;
use machine_core::driver::{Driver, DriverError, FlagValues};
use machine_drivers::DEFAULT_DRIVER;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

/// Make and manage machines that run containers.
#[derive(Debug, Parser)]
#[command(
    name = "machine",
    disable_version_flag = true,
    subcommand_required = true,
    after_help = "A verb without a machine's name works on the machine named \"default\"."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// Flags before the verb.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Say on stderr what is done
    #[arg(short = 'D', long, env = "MACHINE_DEBUG", value_parser = clap::builder::FalseyValueParser::new(), hide_env_values = true)]
    pub(crate) debug: bool,
    /// Where machines are kept [default: ~/.docker/machine]
    #[arg(short, long, value_name = "FOLDER", env = "MACHINE_STORAGE_PATH")]
    storage_path: Option<OsString>,
    /// The authority's certificate
    #[arg(long, value_name = "FILE", env = "MACHINE_TLS_CA_CERT")]
    tls_ca_cert: Option<OsString>,
    /// The authority's key
    #[arg(long, value_name = "FILE", env = "MACHINE_TLS_CA_KEY")]
    tls_ca_key: Option<OsString>,
    /// The client's certificate
    #[arg(long, value_name = "FILE", env = "MACHINE_TLS_CLIENT_CERT")]
    tls_client_cert: Option<OsString>,
    /// The client's key
    #[arg(long, value_name = "FILE", env = "MACHINE_TLS_CLIENT_KEY")]
    tls_client_key: Option<OsString>,
    /// Let `ssh` log in without an ssh program
    #[arg(long, env = "MACHINE_NATIVE_SSH", value_parser = clap::builder::FalseyValueParser::new())]
    pub(crate) native_ssh: bool,
    /// Accepted for docker-machine's scripts and ignored: nothing is asked of GitHub
    #[arg(
        long,
        value_name = "TOKEN",
        env = "MACHINE_GITHUB_API_TOKEN",
        hide = true
    )]
    github_api_token: Option<OsString>,
    /// Accepted for docker-machine's scripts and ignored: nothing is reported to anyone
    #[arg(
        long,
        value_name = "TOKEN",
        env = "MACHINE_BUGSNAG_API_TOKEN",
        hide = true
    )]
    bugsnag_api_token: Option<OsString>,
    /// Print the version
    #[arg(short = 'v', long, action = ArgAction::SetTrue)]
    version: bool,
}

impl Global {
    /// The store's folder, made absolute: drivers and other programs get paths made from it.
    pub(crate) fn store(&self) -> anyhow::Result<PathBuf> {
        match given(&self.storage_path) {
            Some(path) => std::path::absolute(&path)
                .with_context(|| format!("cannot use the store {}", path.display())),
            None => Ok(MachineStore::default_root()?),
        }
    }

    pub(crate) fn certificate_paths(&self, mut paths: CertificatePaths) -> CertificatePaths {
        for (flag, path) in [
            (&self.tls_ca_cert, &mut paths.ca_cert),
            (&self.tls_ca_key, &mut paths.ca_key),
            (&self.tls_client_cert, &mut paths.client_cert),
            (&self.tls_client_key, &mut paths.client_key),
        ] {
            if let Some(given) = given(flag) {
                *path = given;
            }
        }
        paths
    }

    /// The flags for another run of this program that is to do as this one does.
    pub(crate) fn again(&self) -> anyhow::Result<Vec<OsString>> {
        let mut words = vec!["--storage-path".into(), self.store()?.into()];
        for (flag, path) in [
            ("--tls-ca-cert", &self.tls_ca_cert),
            ("--tls-ca-key", &self.tls_ca_key),
            ("--tls-client-cert", &self.tls_client_cert),
            ("--tls-client-key", &self.tls_client_key),
        ] {
            if let Some(path) = given(path) {
                words.extend([flag.into(), path.into()]);
            }
        }
        if self.debug {
            words.push("--debug".into());
        }
        if self.native_ssh {
            words.push("--native-ssh".into());
        }
        Ok(words)
    }

    pub(crate) fn say_what_is_ignored(&self) {
        if self.github_api_token.is_some() {
            tracing::debug!("--github-api-token is ignored: nothing is asked of GitHub");
        }
        if self.bugsnag_api_token.is_some() {
            tracing::debug!("--bugsnag-api-token is ignored: nothing is reported to anyone");
        }
    }
}

/// An empty variable is as good as none.
fn given(value: &Option<OsString>) -> Option<PathBuf> {
    value
        .as_ref()
        .filter(|text| !text.is_empty())
        .map(PathBuf::from)
}

pub(crate) enum Outcome {
    Parsed(Box<Parsed>),
    /// Help, a version or a complaint was printed.
    Said(u8),
}

pub(crate) struct Parsed {
    pub(crate) cli: Cli,
    /// For `create`: what was given for the driver's flags.
    pub(crate) driver_values: FlagValues,
}

/// The whole grammar, without any driver's flags.
pub(crate) fn grammar() -> clap::Command {
    Cli::command()
}

/// Parses; help, version and complaints are printed here.
pub(crate) fn parse(
    arguments: Vec<OsString>,
    drivers: &mut Vec<Arc<dyn Driver>>,
) -> anyhow::Result<Outcome> {
    let program = program_name(&arguments);
    let mut command = grammar().bin_name(program.clone());
    let mut flags = Vec::new();
    if let Some(name) = driver_for_create(&arguments) {
        if !drivers.iter().any(|driver| driver.name() == name) {
            // Kept in the list: `create` goes on with the very plug-in that was asked for its flags.
            drivers.extend(machine_drivers::plugin::find(&name));
        }
        match drivers.iter().find(|driver| driver.name() == name) {
            Some(driver) => flags = driver.flags().map_err(|source| unusable(&name, source))?,
            // The bare `create --help` is of use even to a program without the default driver.
            None if asks_for_help(&arguments) && name == DEFAULT_DRIVER => {}
            None => {
                let known = drivers.iter().map(|d| d.name().to_owned()).collect();
                return Err(machine_core::MachineError::UnknownDriver { name, known }.into());
            }
        }
        command = command.mut_subcommand("create", |create| driver_flags::add(create, &flags));
    }
    if arguments.len() <= 1 {
        // clap would take a variable such as MACHINE_STORAGE_PATH for an argument and complain.
        print!("{}", command.render_help());
        return Ok(Outcome::Said(exit_code::SUCCESS));
    }
    if only_asks_for_version(&arguments) {
        println!("{}", crate::verbs::version::own_version(&program));
        return Ok(Outcome::Said(exit_code::SUCCESS));
    }
    let verb = verb(&arguments);
    let parsed = command
        .try_get_matches_from(arguments)
        .and_then(|matches| Ok((Cli::from_arg_matches(&matches)?, matches)));
    let (cli, matches) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => return Ok(Outcome::Said(say(&error, &program, verb.as_deref()))),
    };
    let driver_values = match matches.subcommand_matches("create") {
        Some(create) => driver_flags::values(create, &flags),
        None => FlagValues::default(),
    };
    Ok(Outcome::Parsed(Box::new(Parsed { cli, driver_values })))
}

/// Prints help on stdout, a complaint on stderr. Complaints end with 1, as all failures do.
fn say(error: &clap::Error, program: &str, verb: Option<&str>) -> u8 {
    use clap::error::ErrorKind;
    let text = error.render().to_string();
    match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            print!("{text}");
            exit_code::SUCCESS
        }
        _ => {
            let text = text.strip_prefix("error: ").unwrap_or(&text);
            let text = text
                .split("\n\nFor more information")
                .next()
                .unwrap_or(text)
                .trim_end();
            eprintln!("Error: {text}");
            match verb {
                Some(verb) => eprintln!("Hint: `{program} {verb} --help` shows what it takes"),
                None => eprintln!("Hint: `{program} --help` shows the verbs"),
            }
            exit_code::FAILURE
        }
    }
}

fn unusable(name: &str, source: DriverError) -> anyhow::Error {
    anyhow::Error::new(source).context(format!("the driver \"{name}\" cannot be used"))
}

/// How people called us: `machine`, or `docker-machine` through a link.
fn program_name(arguments: &[OsString]) -> String {
    arguments
        .first()
        .map(std::path::Path::new)
        .and_then(|path| path.file_stem())
        .map_or("machine".into(), |name| name.to_string_lossy().into_owned())
}

/// The verb that was typed, if it is one.
fn verb(arguments: &[OsString]) -> Option<String> {
    let grammar = grammar();
    let verbs = arguments.iter().skip(1).filter_map(|word| word.to_str());
    let mut known = verbs.filter(|word| grammar.find_subcommand(word).is_some());
    known.next().map(str::to_owned)
}

/// `-v` and `--version` stand alone; `version` the verb does the rest.
fn only_asks_for_version(arguments: &[OsString]) -> bool {
    matches!(arguments, [_, flag] if flag == "-v" || flag == "--version")
}

fn asks_for_help(arguments: &[OsString]) -> bool {
    arguments
        .iter()
        .any(|argument| argument == "-h" || argument == "--help")
}

/// The driver that a `create` names, by flag, by MACHINE_DRIVER or by default; `None` for other verbs.
fn driver_for_create(arguments: &[OsString]) -> Option<String> {
    let mut rest = arguments
        .iter()
        .skip(1)
        .skip_while(|argument| *argument != "create")
        .map(|argument| argument.to_string_lossy())
        .take_while(|argument| argument != "--");
    rest.next()?;
    let mut found = None;
    while let Some(argument) = rest.next() {
        if argument == "-d" || argument == "--driver" {
            found = rest.next().map(|value| value.into_owned());
        } else if let Some(value) = argument.strip_prefix("--driver=") {
            found = Some(value.to_owned());
        } else if let Some(value) = argument.strip_prefix("-d")
            && !value.is_empty()
        {
            found = Some(value.trim_start_matches('=').to_owned());
        }
    }
    found
        .or_else(|| std::env::var("MACHINE_DRIVER").ok())
        .filter(|name| !name.is_empty())
        .or_else(|| Some(DEFAULT_DRIVER.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_is_sound() {
        grammar().debug_assert();
    }

    /// Help, completion and manual pages are made of these words.
    #[test]
    fn every_verb_and_flag_says_what_it_is_for() {
        fn check(command: &clap::Command) {
            let verb = command.get_name();
            assert!(command.get_about().is_some(), "{verb}");
            for argument in command.get_arguments() {
                let is_said = argument.is_hide_set() || argument.get_help().is_some();
                assert!(is_said, "{verb}: {}", argument.get_id());
            }
            let inner = command.get_subcommands();
            inner.filter(|verb| !verb.is_hide_set()).for_each(check);
        }
        check(&grammar());
        for driver in machine_drivers::all() {
            for flag in driver.flags().unwrap() {
                assert!(!flag.help.is_empty(), "{}", flag.name);
            }
        }
    }

    /// The commands in the examples of a page: fenced blocks and indented lines, without comments.
    fn examples(page: &str) -> Vec<Vec<String>> {
        let mut fenced = false;
        let mut found = Vec::new();
        for line in page.lines() {
            if line.starts_with("```") {
                fenced = !fenced;
                continue;
            }
            if !fenced && !line.starts_with("    ") {
                continue;
            }
            let line = line.split(" #").next().unwrap_or_default();
            for command in line.split("&&").flat_map(|part| part.split(';')) {
                let command = command.trim().trim_start_matches("eval $(");
                let command = command.trim_end_matches(')').replace('\'', "");
                let words: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
                if words.first().is_some_and(|program| program == "machine") {
                    found.push(words);
                }
            }
        }
        found
    }

    /// What people copy from the pages is what this program takes.
    #[test]
    fn every_example_of_the_pages_is_understood() {
        let pages = [
            include_str!("../../../README.md"),
            include_str!("../../../docs/how-to/machine.md"),
            include_str!("../../../docs/how-to/run-the-engine-on-any-linux-host.md"),
            include_str!("../../../docs/how-to/guest-image.md"),
        ];
        let examples: Vec<Vec<String>> = pages.into_iter().flat_map(examples).collect();
        assert!(examples.len() > 40, "{} examples", examples.len());
        for words in examples {
            let line = words.join(" ");
            let arguments = words.into_iter().map(OsString::from).collect();
            let parsed = parse(arguments, &mut machine_drivers::all());
            let understood = match parsed {
                Ok(Outcome::Parsed(_)) => true,
                Ok(Outcome::Said(code)) => code == exit_code::SUCCESS,
                Err(_) => false,
            };
            assert!(understood, "{line}");
        }
    }

    #[track_caller]
    fn check(line: &str, expected: Option<&str>) {
        let arguments: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        assert_eq!(driver_for_create(&arguments).as_deref(), expected, "{line}");
    }

    #[test]
    fn the_driver_is_found_before_parsing() {
        check("machine ls", None);
        check("machine create dev", Some("qemu"));
        check("machine create -d none dev", Some("none"));
        check("machine create dev --driver=x", Some("x"));
        check("machine -s /x create --driver x dev", Some("x"));
        check("machine create -dnone dev", Some("none"));
        check("machine create dev -- -d x", Some("qemu"));
    }
}
