//! A driver's flags as flags of `create`, and what was given for them.

use clap::builder::{BoolishValueParser, Str};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use machine_core::driver::{Flag, FlagKind, FlagValue, FlagValues};

/// Adds the flags of one driver.
pub(crate) fn add(mut command: Command, flags: &[Flag]) -> Command {
    for flag in flags {
        command = command.arg(argument(flag));
    }
    command
}

fn argument(flag: &Flag) -> Arg {
    let argument = Arg::new(flag.name)
        .long(flag.name)
        .visible_aliases(flag.aliases.iter().map(|alias| Str::from(*alias)))
        .help(flag.help)
        .help_heading("Options of the driver");
    let argument = match flag.environment {
        // An empty variable is as good as none; a list's variable is split below.
        Some(name)
            if flag.kind != FlagKind::List
                && std::env::var_os(name).is_none_or(|value| !value.is_empty()) =>
        {
            argument.env(name)
        }
        _ => argument,
    };
    match flag.kind {
        FlagKind::Bool => argument
            .action(ArgAction::Set)
            .num_args(0..=1)
            .require_equals(true)
            .default_value("false")
            .default_missing_value("true")
            .hide_default_value(true)
            .hide_possible_values(true)
            .value_parser(BoolishValueParser::new()),
        FlagKind::Int(default) => argument
            .value_parser(value_parser!(i64))
            .allow_negative_numbers(true)
            .value_name("NUMBER")
            .help(format!("{} [default: {default}]", flag.help)),
        FlagKind::Text(default) => {
            let argument = argument.value_name("TEXT").default_value(default);
            argument.hide_default_value(default.is_empty())
        }
        FlagKind::List => argument.action(ArgAction::Append).value_name("TEXT"),
    }
}

/// The values of the flags that [`add`] added, defaults included.
pub(crate) fn values(matches: &ArgMatches, flags: &[Flag]) -> FlagValues {
    let mut values = FlagValues::default();
    for flag in flags {
        let value = match flag.kind {
            FlagKind::Bool => matches.get_one(flag.name).copied().map(FlagValue::Bool),
            FlagKind::Int(default) => {
                let given = matches.get_one(flag.name).copied();
                Some(FlagValue::Int(given.unwrap_or(default)))
            }
            FlagKind::Text(_) => matches.get_one(flag.name).cloned().map(FlagValue::Text),
            FlagKind::List => Some(FlagValue::List(list(matches, flag))),
        };
        if let Some(value) = value {
            values.0.insert(flag.name.to_owned(), value);
        }
    }
    values
}

/// From the command line, else from the variable, there separated by commas as docker-machine has it.
fn list(matches: &ArgMatches, flag: &Flag) -> Vec<String> {
    if let Some(given) = matches.get_many::<String>(flag.name) {
        return given.cloned().collect();
    }
    let variable = flag.environment.and_then(|name| std::env::var(name).ok());
    variable
        .iter()
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(str::to_owned)
        .collect()
}
