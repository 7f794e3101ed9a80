//! A seccomp profile: rules by system call name, with conditions. Read from Docker's JSON form or built in.

use serde::Deserialize;

/// What happens when a call matches (SECCOMP_RET_*).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Allow,
    Errno(u16),
    KillThread,
    KillProcess,
    Trap,
    Trace(u16),
    Log,
}

impl Action {
    /// The filter's return value (linux/seccomp.h).
    pub fn value(self) -> u32 {
        match self {
            Action::Allow => 0x7fff_0000,
            Action::Errno(errno) => 0x0005_0000 | u32::from(errno),
            Action::KillThread => 0,
            Action::KillProcess => 0x8000_0000,
            Action::Trap => 0x0003_0000,
            Action::Trace(data) => 0x7ff0_0000 | u32::from(data),
            Action::Log => 0x7ffc_0000,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    NotEqual,
    Less,
    LessOrEqual,
    Equal,
    GreaterOrEqual,
    Greater,
    /// (argument & value) == second value.
    MaskedEqual,
}

/// A condition on one argument of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Argument {
    /// 0 to 5.
    pub index: u8,
    pub comparison: Comparison,
    pub value: u64,
    pub second: u64,
}

impl Argument {
    pub fn new(index: u8, comparison: Comparison, value: u64) -> Argument {
        Argument {
            index,
            comparison,
            value,
            second: 0,
        }
    }

    pub fn masked(index: u8, mask: u64, wanted: u64) -> Argument {
        Argument {
            index,
            comparison: Comparison::MaskedEqual,
            value: mask,
            second: wanted,
        }
    }
}

/// Whether a rule is part of the profile at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    Architecture(&'static [&'static str]),
    Capability(String),
    NoCapability(String),
    /// Decided while reading: a kernel version or an architecture that does not hold here.
    Never,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub action: Action,
    pub names: Vec<String>,
    /// All must hold.
    pub arguments: Vec<Argument>,
    /// All must hold.
    pub conditions: Vec<Condition>,
}

impl Rule {
    /// Names are separated by spaces.
    pub fn new(action: Action, names: &str) -> Rule {
        Rule {
            action,
            names: names.split_whitespace().map(str::to_owned).collect(),
            arguments: Vec::new(),
            conditions: Vec::new(),
        }
    }

    pub fn allow(names: &str) -> Rule {
        Rule::new(Action::Allow, names)
    }

    pub fn when(mut self, argument: Argument) -> Rule {
        self.arguments.push(argument);
        self
    }

    pub fn only_if(mut self, condition: Condition) -> Rule {
        self.conditions.push(condition);
        self
    }

    /// Whether the rule is in force for a process with these capabilities on this architecture.
    pub fn holds(&self, capabilities: &[String], architecture: &str) -> bool {
        let has = |name: &String| capabilities.contains(name);
        self.conditions.iter().all(|condition| match condition {
            Condition::Architecture(names) => names.contains(&architecture),
            Condition::Capability(name) => has(name),
            Condition::NoCapability(name) => !has(name),
            Condition::Never => false,
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    pub default: Action,
    pub rules: Vec<Rule>,
}

// Docker's JSON form.

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonProfile {
    default_action: String,
    default_errno_ret: Option<u16>,
    #[serde(default)]
    syscalls: Option<Vec<JsonRule>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonRule {
    name: Option<String>,
    #[serde(default)]
    names: Option<Vec<String>>,
    action: String,
    errno_ret: Option<u16>,
    #[serde(default)]
    args: Option<Vec<JsonArgument>>,
    #[serde(default)]
    includes: Option<JsonFilter>,
    #[serde(default)]
    excludes: Option<JsonFilter>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonArgument {
    index: u8,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct JsonFilter {
    #[serde(default)]
    caps: Option<Vec<String>>,
    #[serde(default)]
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

/// Reads a profile; the error is for the person who wrote it.
pub fn parse(json: &str) -> Result<Profile, String> {
    let profile: JsonProfile = serde_json::from_str(json).map_err(|error| error.to_string())?;
    let mut rules = Vec::new();
    for rule in profile.syscalls.unwrap_or_default() {
        let mut names = rule.names.unwrap_or_default();
        names.extend(rule.name);
        let mut conditions = Vec::new();
        let includes = rule.includes.unwrap_or_default();
        let excludes = rule.excludes.unwrap_or_default();
        conditions.extend(
            includes
                .caps
                .unwrap_or_default()
                .into_iter()
                .map(Condition::Capability),
        );
        conditions.extend(
            excludes
                .caps
                .unwrap_or_default()
                .into_iter()
                .map(Condition::NoCapability),
        );
        let here = docker_architecture();
        let included = includes.arches.unwrap_or_default();
        let excluded = excludes.arches.unwrap_or_default();
        if (!included.is_empty() && !included.iter().any(|name| name == here))
            || excluded.iter().any(|name| name == here)
            || !includes
                .min_kernel
                .as_deref()
                .map_or(Ok(true), kernel_is_at_least)?
            || excludes
                .min_kernel
                .as_deref()
                .map_or(Ok(false), kernel_is_at_least)?
        {
            conditions.push(Condition::Never);
        }
        let mut arguments = Vec::new();
        for argument in rule.args.unwrap_or_default() {
            if argument.index > 5 {
                return Err(format!("argument index {} is not 0 to 5", argument.index));
            }
            arguments.push(Argument {
                index: argument.index,
                comparison: comparison(&argument.op)?,
                value: argument.value,
                second: argument.value_two,
            });
        }
        let base = Rule {
            action: action(&rule.action, rule.errno_ret)?,
            names,
            arguments: Vec::new(),
            conditions,
        };
        // As runc: several conditions on the same argument are alternatives, those on different ones all must hold.
        let repeated = arguments.iter().any(|one| {
            arguments
                .iter()
                .filter(|other| other.index == one.index)
                .count()
                > 1
        });
        if repeated {
            rules.extend(
                arguments
                    .into_iter()
                    .map(|argument| base.clone().when(argument)),
            );
        } else {
            rules.push(Rule { arguments, ..base });
        }
    }
    Ok(Profile {
        default: action(&profile.default_action, profile.default_errno_ret)?,
        rules,
    })
}

fn action(name: &str, errno: Option<u16>) -> Result<Action, String> {
    Ok(match name {
        "SCMP_ACT_ALLOW" => Action::Allow,
        "SCMP_ACT_ERRNO" => Action::Errno(errno.unwrap_or(1)),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Action::KillThread,
        "SCMP_ACT_KILL_PROCESS" => Action::KillProcess,
        "SCMP_ACT_TRAP" => Action::Trap,
        "SCMP_ACT_TRACE" => Action::Trace(errno.unwrap_or(1)),
        "SCMP_ACT_LOG" => Action::Log,
        _ => return Err(format!("action {name:?} is not known or not supported")),
    })
}

fn comparison(name: &str) -> Result<Comparison, String> {
    Ok(match name {
        "SCMP_CMP_NE" => Comparison::NotEqual,
        "SCMP_CMP_LT" => Comparison::Less,
        "SCMP_CMP_LE" => Comparison::LessOrEqual,
        "SCMP_CMP_EQ" => Comparison::Equal,
        "SCMP_CMP_GE" => Comparison::GreaterOrEqual,
        "SCMP_CMP_GT" => Comparison::Greater,
        "SCMP_CMP_MASKED_EQ" => Comparison::MaskedEqual,
        _ => return Err(format!("comparison {name:?} is not known")),
    })
}

/// Go's name of this architecture, which Docker's profiles use.
fn docker_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn kernel_is_at_least(wanted: &str) -> Result<bool, String> {
    let name = nix::sys::utsname::uname().map_err(|error| error.to_string())?;
    let release = name.release().to_string_lossy();
    let here = version(&release).ok_or_else(|| format!("kernel version {release:?}"))?;
    let wanted = version(wanted).ok_or_else(|| format!("minKernel {wanted:?} is not a version"))?;
    Ok(here >= wanted)
}

fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_dockers_form() {
        let profile = parse(
            r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38,"architectures":["SCMP_ARCH_X86_64"],
            "syscalls":[{"names":["read","write"],"action":"SCMP_ACT_ALLOW","args":[],"comment":"","includes":{},"excludes":{}},
            {"name":"kill","action":"SCMP_ACT_ERRNO","args":[{"index":0,"value":1,"valueTwo":0,"op":"SCMP_CMP_EQ"},
              {"index":0,"value":7,"op":"SCMP_CMP_EQ"}],"excludes":{"caps":["CAP_KILL"]}},
            {"names":["bpf"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"999.0"}}]}"#,
        )
        .unwrap();
        assert_eq!(profile.default, Action::Errno(38));
        assert_eq!(profile.rules.len(), 4);
        assert_eq!(profile.rules[1].arguments[0].value, 1);
        assert_eq!(profile.rules[2].arguments[0].value, 7);
        assert!(!profile.rules[2].holds(&["CAP_KILL".into()], "x86_64"));
        assert!(!profile.rules[3].holds(&[], "x86_64"));
    }

    #[test]
    fn a_wrong_profile_says_what_is_wrong() {
        assert!(parse("{").is_err());
        let error = parse(r#"{"defaultAction":"SCMP_ACT_MAYBE"}"#).unwrap_err();
        assert!(error.contains("SCMP_ACT_MAYBE"), "{error}");
    }
}
