//! Holds the dependencies between our crates against the table in ARCHITECTURE.md.
//!
//! The table stands between `<!-- layers -->` and `<!-- /layers -->`: crate | may use (ours) | must not use (others).

use crate::process::{cargo, output, workspace};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// One row of the table.
#[derive(Debug, PartialEq, Eq)]
struct Rule {
    may_use: BTreeSet<String>,
    must_not_use: BTreeSet<String>,
}

/// Fails with every offence named.
pub(crate) fn run() -> Result<()> {
    let text = std::fs::read_to_string(workspace().join("ARCHITECTURE.md"))
        .context("cannot read ARCHITECTURE.md")?;
    let rules = parse(&text)?;
    let metadata = output(cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
    let offences = offences(&rules, &serde_json::from_str(&metadata)?)?;
    if offences.is_empty() {
        println!("layers: {} crates keep to ARCHITECTURE.md", rules.len());
        return Ok(());
    }
    bail!(
        "dependencies that ARCHITECTURE.md does not allow:\n  {}",
        offences.join("\n  ")
    );
}

fn parse(text: &str) -> Result<BTreeMap<String, Rule>> {
    let table = text
        .split_once("<!-- layers -->")
        .and_then(|(_, rest)| rest.split_once("<!-- /layers -->"))
        .context("ARCHITECTURE.md has no table between <!-- layers --> and <!-- /layers -->")?
        .0;
    let names = |cell: &str| -> BTreeSet<String> {
        cell.split(',')
            .map(|name| name.trim().trim_matches('`').to_owned())
            .filter(|name| !name.is_empty())
            .collect()
    };
    let mut rules = BTreeMap::new();
    for line in table.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim().trim_matches('|').split('|').collect();
        let [name, may_use, must_not_use] = cells[..] else {
            bail!("not three columns: {line}")
        };
        let rule = Rule {
            may_use: names(may_use),
            must_not_use: names(must_not_use),
        };
        rules.insert(name.trim().trim_matches('`').to_owned(), rule);
    }
    Ok(rules)
}

fn offences(rules: &BTreeMap<String, Rule>, metadata: &Value) -> Result<Vec<String>> {
    let packages = metadata["packages"]
        .as_array()
        .context("cargo metadata lists packages")?;
    let ours: BTreeSet<&str> = packages
        .iter()
        .filter_map(|package| package["name"].as_str())
        .collect();
    let mut offences = Vec::new();
    for package in packages {
        let name = package["name"].as_str().context("a package has a name")?;
        let Some(rule) = rules.get(name) else {
            offences.push(format!("{name} has no row"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            // Tests may look across.
            if dependency["kind"] == "dev" {
                continue;
            }
            let used = dependency["name"]
                .as_str()
                .context("a dependency has a name")?;
            if ours.contains(used) && !rule.may_use.contains(used) {
                offences.push(format!("{name} uses {used}"));
            }
            if rule.must_not_use.contains(used) {
                offences.push(format!("{name} uses {used}, which it must not"));
            }
        }
    }
    for name in rules.keys().filter(|name| !ours.contains(name.as_str())) {
        offences.push(format!("{name} has a row but is no crate"));
    }
    Ok(offences)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const TABLE: &str = "x\n<!-- layers -->\n| crate | may use | must not use |\n|---|---|---|\n\
        | `engine` | `engine-api` | `axum`, `nix` |\n| `engine-api` | | |\n<!-- /layers -->\n";

    fn package(name: &str, dependencies: &[(&str, Option<&str>)]) -> Value {
        let list: Vec<Value> = dependencies
            .iter()
            .map(|(name, kind)| json!({ "name": name, "kind": kind }))
            .collect();
        json!({ "name": name, "dependencies": list })
    }

    #[track_caller]
    fn check(packages: &[Value], expected: &[&str]) {
        let rules = parse(TABLE).expect("a good table");
        let found = offences(&rules, &json!({ "packages": packages })).expect("good metadata");
        assert_eq!(found, expected);
    }

    #[test]
    fn what_the_table_allows_passes() {
        check(
            &[
                package("engine", &[("engine-api", None), ("serde", None)]),
                package("engine-api", &[]),
            ],
            &[],
        );
    }

    #[test]
    fn tests_may_look_across() {
        check(
            &[
                package("engine", &[]),
                package("engine-api", &[("engine", Some("dev"))]),
            ],
            &[],
        );
    }

    #[test]
    fn a_dependency_upwards_is_named() {
        check(
            &[
                package("engine", &[]),
                package("engine-api", &[("engine", None)]),
            ],
            &["engine-api uses engine"],
        );
    }

    #[test]
    fn a_banned_crate_is_named() {
        check(
            &[
                package("engine", &[("axum", None)]),
                package("engine-api", &[]),
            ],
            &["engine uses axum, which it must not"],
        );
    }

    #[test]
    fn a_crate_without_a_row_and_a_row_without_a_crate_are_named() {
        check(
            &[package("engine", &[]), package("stray", &[])],
            &["stray has no row", "engine-api has a row but is no crate"],
        );
    }
}
