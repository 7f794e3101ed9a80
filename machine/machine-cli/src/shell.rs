//! How shells set and unset variables; the exact texts are docker-machine's, since people evaluate them.

use crate::parents;
use std::path::Path;

/// The shells whose syntax differs. All that is not named is taken for a Bourne shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shell {
    Bourne,
    Fish,
    PowerShell,
    Cmd,
    Tcsh,
    Emacs,
    Nushell,
    Elvish,
    Xonsh,
    /// A file of `KEY=value` lines, for compose and many others.
    Dotenv,
    /// An object, for programs.
    Json,
}

impl Shell {
    pub(crate) fn named(name: &str) -> Shell {
        Shell::known(name).unwrap_or(Shell::Bourne)
    }

    fn known(name: &str) -> Option<Shell> {
        Some(match name {
            "sh" | "bash" | "zsh" | "dash" | "ash" | "ksh" => Shell::Bourne,
            "fish" => Shell::Fish,
            "powershell" | "pwsh" | "powershell_ise" => Shell::PowerShell,
            "cmd" => Shell::Cmd,
            "tcsh" | "csh" => Shell::Tcsh,
            "emacs" => Shell::Emacs,
            "nu" | "nushell" => Shell::Nushell,
            "elvish" => Shell::Elvish,
            "xonsh" => Shell::Xonsh,
            "dotenv" => Shell::Dotenv,
            "json" => Shell::Json,
            _ => return None,
        })
    }

    /// The shell that runs us. SHELL is the user's choice of an interactive one; on Unix, what runs without it (cron, CI,
    /// containers) runs `sh`, and Windows' own shells never set it.
    pub(crate) fn detect() -> Shell {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        if let Some(shell) = set("SHELL") {
            let name = Path::new(&shell).file_stem().unwrap_or_default();
            return Shell::named(&name.to_string_lossy());
        }
        if set("__fish_bin_dir").is_some() {
            return Shell::Fish;
        }
        match cfg!(windows) {
            true => Shell::on_windows(&parents::programs(), set("PROMPT").is_some()),
            false => Shell::Bourne,
        }
    }

    /// The nearest shell of those who started us. Where none is known: `cmd` sets PROMPT, PowerShell does not.
    fn on_windows(parents: &[String], has_prompt: bool) -> Shell {
        let known = |program: &String| {
            let program = program.to_ascii_lowercase();
            Shell::known(program.strip_suffix(".exe").unwrap_or(&program))
        };
        let otherwise = match has_prompt {
            true => Shell::Cmd,
            false => Shell::PowerShell,
        };
        parents.iter().find_map(known).unwrap_or(otherwise)
    }

    /// The lines that set variables.
    pub(crate) fn set_all(self, variables: &[(&str, String)]) -> Vec<String> {
        if self == Shell::Json {
            let object: serde_json::Map<String, serde_json::Value> = variables
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.as_str().into()))
                .collect();
            return vec![serde_json::Value::Object(object).to_string()];
        }
        variables
            .iter()
            .map(|(name, value)| self.set(name, value))
            .collect()
    }

    /// The lines that unset variables; one with a value gets it.
    pub(crate) fn unset_all(self, variables: &[(&str, Option<String>)]) -> Vec<String> {
        if self == Shell::Json {
            let object: serde_json::Map<String, serde_json::Value> = variables
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.as_deref().into()))
                .collect();
            return vec![serde_json::Value::Object(object).to_string()];
        }
        variables
            .iter()
            .map(|(name, value)| match value {
                Some(value) => self.set(name, value),
                None => self.unset(name),
            })
            .collect()
    }

    /// One line that sets a variable.
    pub(crate) fn set(self, name: &str, value: &str) -> String {
        let value = self.quoted(value);
        match self {
            Shell::Bourne => format!("export {name}=\"{value}\""),
            Shell::Fish => format!("set -gx {name} \"{value}\";"),
            Shell::PowerShell => format!("$Env:{name} = \"{value}\""),
            Shell::Cmd => format!("SET {name}={value}"),
            Shell::Tcsh => format!("setenv {name} \"{value}\";"),
            Shell::Emacs => format!("(setenv \"{name}\" \"{value}\")"),
            Shell::Nushell => format!("$env.{name} = \"{value}\""),
            Shell::Elvish => format!("set-env {name} '{value}'"),
            Shell::Xonsh => format!("${name} = \"{value}\""),
            Shell::Dotenv if is_plain(&value) => format!("{name}={value}"),
            Shell::Dotenv => format!("{name}='{value}'"),
            Shell::Json => serde_json::json!({ name: value }).to_string(),
        }
    }

    /// One line that unsets a variable.
    pub(crate) fn unset(self, name: &str) -> String {
        match self {
            Shell::Bourne => format!("unset {name}"),
            Shell::Fish => format!("set -e {name};"),
            Shell::PowerShell => format!("Remove-Item Env:\\\\{name}"),
            Shell::Cmd => format!("SET {name}="),
            Shell::Tcsh => format!("unsetenv {name};"),
            Shell::Emacs => format!("(setenv \"{name}\" nil)"),
            Shell::Nushell => format!("hide-env --ignore-errors {name}"),
            Shell::Elvish => format!("unset-env {name}"),
            Shell::Xonsh => format!("${{...}}.pop(\"{name}\", None)"),
            Shell::Dotenv => format!("{name}="),
            Shell::Json => serde_json::json!({ name: null }).to_string(),
        }
    }

    /// Two comment lines that say how to evaluate the rest; none where a program reads it. `typed` is our own command line.
    pub(crate) fn hint(self, typed: &[String]) -> Option<String> {
        let mut words = typed.to_vec();
        if self == Shell::Nushell {
            ask_for_json(&mut words);
        }
        if let Some(program) = words.first_mut()
            && program.contains([' ', '\\'])
        {
            *program = format!("\"{program}\"");
        }
        let line = words.join(" ");
        let (comment, command) = match self {
            Shell::Bourne => ("#", format!("eval $({line})")),
            Shell::Fish => ("#", format!("eval ({line})")),
            Shell::PowerShell => ("#", format!("& {line} | Invoke-Expression")),
            Shell::Cmd => (
                "REM",
                format!("\t@FOR /f \"tokens=*\" %i IN ('{line}') DO @%i"),
            ),
            Shell::Tcsh => (":", format!("eval `{line}`")),
            Shell::Emacs => (
                ";;",
                format!(
                    "(with-temp-buffer (shell-command \"{line}\" (current-buffer)) (eval-buffer))"
                ),
            ),
            // Nushell evaluates no text, but takes variables from data.
            Shell::Nushell => ("#", format!("{line} | from json | load-env")),
            Shell::Elvish => ("#", format!("eval ({line} | slurp)")),
            Shell::Xonsh => ("#", format!("execx($({line}))")),
            Shell::Dotenv | Shell::Json => return None,
        };
        Some(format!(
            "{comment} Run this command to configure your shell: \n{comment} {command}"
        ))
    }

    /// Makes a folder's odd characters harmless inside double quotes.
    fn quoted(self, value: &str) -> String {
        let (escape, special): (char, &[char]) = match self {
            Shell::Bourne => ('\\', &['\\', '"', '$', '`']),
            Shell::Fish => ('\\', &['\\', '"', '$']),
            Shell::PowerShell => ('`', &['`', '"', '$']),
            Shell::Emacs | Shell::Nushell | Shell::Xonsh => ('\\', &['\\', '"']),
            Shell::Elvish => ('\'', &['\'']),
            Shell::Dotenv => ('\\', &['\'']),
            // These two have no way to quote inside quotes.
            Shell::Cmd | Shell::Tcsh | Shell::Json => return value.to_owned(),
        };
        let mut quoted = String::with_capacity(value.len());
        for character in value.chars() {
            if special.contains(&character) {
                quoted.push(escape);
            }
            quoted.push(character);
        }
        quoted
    }
}

/// Makes our command line one that prints JSON.
fn ask_for_json(words: &mut Vec<String>) {
    const OPTION: &str = "--shell";
    let place = words.iter().position(|word| {
        let after = word.strip_prefix(OPTION);
        after.is_some_and(|after| after.is_empty() || after.starts_with('='))
    });
    let end = match place {
        // The value is a word of its own.
        Some(place) if words[place] == OPTION => place + 2,
        Some(place) => place + 1,
        None => words.len(),
    };
    let asked = [OPTION, "json"].map(str::to_owned);
    words.splice(place.unwrap_or(end)..end.min(words.len()), asked);
}

/// Such a value means the same with and without quotes, to every reader of dotenv files.
fn is_plain(value: &str) -> bool {
    value
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"-_./:@,+".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_shells_are_known_by_who_started_us() {
        #[track_caller]
        fn check(parents: &[&str], has_prompt: bool, expected: Shell) {
            let parents: Vec<String> = parents.iter().map(|name| (*name).to_owned()).collect();
            assert_eq!(Shell::on_windows(&parents, has_prompt), expected);
        }
        check(
            &["powershell.exe", "explorer.exe"],
            false,
            Shell::PowerShell,
        );
        check(&["PowerShell.EXE", "cmd.exe"], true, Shell::PowerShell);
        check(
            &["pwsh.exe", "WindowsTerminal.exe"],
            true,
            Shell::PowerShell,
        );
        check(&["cmd.exe", "powershell.exe"], true, Shell::Cmd);
        check(&["make.exe", "nu.exe"], true, Shell::Nushell);
        check(&["make.exe", "explorer.exe"], true, Shell::Cmd);
        check(&["explorer.exe"], false, Shell::PowerShell);
        check(&[], false, Shell::PowerShell);
    }

    /// Nushell loads JSON only, however it was asked for.
    #[test]
    fn nushells_hint_asks_for_json() {
        #[track_caller]
        fn check(typed: &str, expected: &str) {
            let typed: Vec<String> = typed.split(' ').map(str::to_owned).collect();
            let hint = Shell::Nushell.hint(&typed).unwrap();
            let last = hint.lines().last().unwrap();
            assert_eq!(last, format!("# {expected} | from json | load-env"));
        }
        check("m env --shell nu dev", "m env --shell json dev");
        check("m env dev --shell nu", "m env dev --shell json");
        check("m env --shell=nu dev", "m env --shell json dev");
        check(
            "m env --shell nushell nushell",
            "m env --shell json nushell",
        );
        check("m env nushell", "m env nushell --shell json");
    }

    #[test]
    fn odd_folders_cannot_run_commands() {
        let odd = "/a \"b\" $(c) `d` \\e";
        assert_eq!(
            Shell::Bourne.set("K", odd),
            r#"export K="/a \"b\" \$(c) \`d\` \\e""#
        );
        assert_eq!(
            Shell::PowerShell.set("K", odd),
            "$Env:K = \"/a `\"b`\" `$(c) ``d`` \\e\""
        );
    }
}
