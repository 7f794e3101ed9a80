//! `machine ls`

use crate::failure::Failure;
use crate::{Context, template};
use clap::Args;
use go_template::table::{Columns, Format};
use machine_core::driver::Status;
use machine_core::use_cases::list::{DueCertificate, Listed, Whose};
use regex::Regex;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Print only names
    #[arg(short, long)]
    quiet: bool,
    /// Show only some: driver=, state=, name=, label=, swarm=
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Seconds to wait for each machine
    #[arg(short, long, value_name = "SECONDS", default_value_t = 10)]
    timeout: u64,
    /// A Go template, "table TEMPLATE", or json
    #[arg(short, long, value_name = "TEMPLATE")]
    format: Option<String>,
}

const DEFAULT_FORMAT: &str = "table {{.Name}}\t{{.Active}}\t{{.DriverName}}\t{{.State}}\t{{.URL}}\t{{.Swarm}}\t\
    {{.DockerVersion}}\t{{.Error}}";
const HEADINGS: [(&str, &str); 14] = [
    ("Name", "NAME"),
    ("Active", "ACTIVE"),
    ("ActiveHost", "ACTIVE_HOST"),
    ("ActiveSwarm", "ACTIVE_SWARM"),
    ("DriverName", "DRIVER"),
    ("State", "STATE"),
    ("URL", "URL"),
    ("SwarmOptions", "SWARM_OPTIONS"),
    ("Swarm", "SWARM"),
    ("EngineOptions", "ENGINE_OPTIONS"),
    ("Error", "ERRORS"),
    ("DockerVersion", "DOCKER"),
    ("ResponseTime", "RESPONSE"),
    ("CertificateUntil", "CERTIFICATE UNTIL"),
];

pub(crate) fn run(context: &Context, arguments: &Arguments) -> anyhow::Result<()> {
    let filters = Filters::parse(&arguments.filter)?;
    let mut listed = context.machines.records()?;
    let swarms = Swarms::of(&listed);
    listed.retain(|machine| filters.fits_record(machine, &swarms));
    // Names alone need no questions.
    if !arguments.quiet || !filters.states.is_empty() {
        listed = context
            .machines
            .ask(listed, Duration::from_secs(arguments.timeout));
        listed.retain(|machine| filters.fits_state(machine));
    }
    if arguments.quiet {
        for machine in &listed {
            context.console.print(&machine.name);
        }
        return Ok(());
    }
    let format = arguments
        .format
        .as_deref()
        .filter(|format| !format.is_empty());
    let format = format.unwrap_or(DEFAULT_FORMAT);
    let docker_host = std::env::var("DOCKER_HOST").unwrap_or_default();
    let rows: Vec<Value> = listed
        .iter()
        .map(|machine| shown(machine, &swarms, &docker_host))
        .collect();
    let text = Format::parse(format)
        .and_then(|parsed| parsed.render(&rows, &HEADINGS, Columns::MACHINE))
        .map_err(|error| template::failure(format, &error))?;
    for line in text.lines() {
        context.console.print(line);
    }
    Ok(())
}

/// What a template sees of one machine; the names are docker-machine's.
fn shown(machine: &Listed, swarms: &Swarms, docker_host: &str) -> Value {
    let active = machine.status == Status::Running
        && machine.url.as_deref().is_some_and(|url| url == docker_host);
    let version = match (&machine.engine_version, &machine.error) {
        (Some(version), _) => format!("v{version}"),
        (None, _) => "Unknown".to_owned(),
    };
    let swarm_text = match swarms.master_of(machine) {
        Some(master) if machine.swarm_options.master => format!("{master} (master)"),
        Some(master) => master.to_owned(),
        None => String::new(),
    };
    json!({
        "Name": machine.name,
        "Active": if active { "*" } else { "-" },
        "ActiveHost": active,
        "ActiveSwarm": false,
        "DriverName": machine.driver_name,
        "State": machine.status.name(),
        "URL": machine.url.clone().unwrap_or_default(),
        "SwarmOptions": machine.swarm_options,
        "Swarm": swarm_text,
        "EngineOptions": machine.engine_options,
        "Error": trouble(machine).replace(['\n', '\t'], " "),
        "DockerVersion": version,
        // Nanoseconds, as Go counts durations.
        "ResponseTime": machine.response_time.as_nanos() as u64,
        "CertificateUntil": machine.certificate_until.map(|until| until.date().to_string()).unwrap_or_default(),
    })
}

/// What is wrong with a machine, or soon will be.
fn trouble(machine: &Listed) -> String {
    match (&machine.error, &machine.certificate_due) {
        (Some(error), _) => error.clone(),
        (None, Some(due)) => certificate_trouble(&machine.name, due),
        (None, None) => String::new(),
    }
}

fn certificate_trouble(machine: &str, due: &DueCertificate) -> String {
    let (what, remedy) = match due.whose {
        Whose::Engine => ("its certificate", "machine regenerate-certs"),
        Whose::Client => (
            "the certificate of its clients",
            "machine regenerate-certs --client-certs",
        ),
        Whose::Authority => ("its authority", "machine regenerate-certs"),
    };
    let until = due.until.date();
    match due.is_ours {
        true => format!("{what} ends on {until}: {remedy} {machine}"),
        false => format!("{what} ends on {until}: whoever gave it to you has to renew it"),
    }
}

/// The master of each classic swarm, by what its members discover each other with. A swarm is called by its master.
struct Swarms(BTreeMap<String, String>);

impl Swarms {
    fn of(all: &[Listed]) -> Swarms {
        let masters = all.iter().filter(|machine| machine.swarm_options.master);
        Swarms(
            masters
                .map(|machine| {
                    (
                        machine.swarm_options.discovery.clone(),
                        machine.name.clone(),
                    )
                })
                .collect(),
        )
    }

    fn master_of<'a>(&'a self, machine: &'a Listed) -> Option<&'a str> {
        let swarm = &machine.swarm_options;
        if swarm.master {
            return Some(&machine.name);
        }
        // Machines of no swarm have no discovery.
        let discovery = Some(&swarm.discovery).filter(|discovery| !discovery.is_empty())?;
        self.0.get(discovery).map(String::as_str)
    }
}

/// Same key: any of the values. Different keys: all of them.
#[derive(Debug, Default)]
struct Filters {
    drivers: Vec<String>,
    states: Vec<String>,
    names: Vec<Regex>,
    labels: Vec<String>,
    swarms: Vec<String>,
}

impl Filters {
    fn parse(texts: &[String]) -> Result<Filters, Failure> {
        let mut filters = Filters::default();
        for text in texts {
            let (key, value) = text.split_once('=').ok_or_else(|| {
                Failure::new(
                    format!("invalid filter \"{text}\""),
                    "a filter is KEY=VALUE, for example state=Running",
                )
            })?;
            let value = value.to_owned();
            match key.to_ascii_lowercase().as_str() {
                "driver" => filters.drivers.push(value),
                "state" => filters.states.push(value),
                "label" => filters.labels.push(value),
                "swarm" => filters.swarms.push(value),
                "name" => filters.names.push(Regex::new(&value).map_err(|error| {
                    let last = error.to_string().lines().last().unwrap_or("").to_owned();
                    Failure::new(
                        format!("invalid filter \"{text}\": {last}"),
                        "name= takes a regular expression",
                    )
                })?),
                _ => {
                    return Err(Failure::new(
                        format!("there is no filter \"{key}\""),
                        "filters are driver, state, name, label and swarm",
                    ));
                }
            }
        }
        Ok(filters)
    }

    fn fits_record(&self, machine: &Listed, swarms: &Swarms) -> bool {
        let labels = &machine.engine_options.labels;
        any(&self.drivers, |driver| {
            driver.eq_ignore_ascii_case(&machine.driver_name)
        }) && any(&self.names, |name| name.is_match(&machine.name))
            // `label=key` without a value asks for the key alone.
            && any(&self.labels, |wanted| {
                labels.iter().any(|label| {
                    label == wanted || label.split('=').next() == Some(wanted.as_str())
                })
            })
            && any(&self.swarms, |swarm| {
                let master = swarms.master_of(machine);
                master.is_some_and(|master| swarm.eq_ignore_ascii_case(master))
            })
    }

    fn fits_state(&self, machine: &Listed) -> bool {
        any(&self.states, |state| {
            state.eq_ignore_ascii_case(machine.status.name())
        })
    }
}

fn any<T>(wanted: &[T], fits: impl Fn(&T) -> bool) -> bool {
    wanted.is_empty() || wanted.iter().any(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_ends_is_told_with_what_helps() {
        #[track_caller]
        fn check(whose: Whose, is_ours: bool, expected: &str) {
            let until = time::OffsetDateTime::UNIX_EPOCH;
            let due = DueCertificate {
                whose,
                until,
                is_ours,
            };
            assert_eq!(certificate_trouble("dev", &due), expected);
        }
        check(
            Whose::Engine,
            true,
            "its certificate ends on 1970-01-01: machine regenerate-certs dev",
        );
        check(
            Whose::Client,
            true,
            "the certificate of its clients ends on 1970-01-01: machine regenerate-certs --client-certs dev",
        );
        check(
            Whose::Authority,
            true,
            "its authority ends on 1970-01-01: machine regenerate-certs dev",
        );
        check(
            Whose::Authority,
            false,
            "its authority ends on 1970-01-01: whoever gave it to you has to renew it",
        );
    }
}
