//! How shells set and unset variables; the exact texts are docker-machine's, since people evaluate them.

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
        match name {
            "fish" => Shell::Fish,
            "powershell" | "pwsh" => Shell::PowerShell,
            "cmd" => Shell::Cmd,
            "tcsh" | "csh" => Shell::Tcsh,
            "emacs" => Shell::Emacs,
            "nu" | "nushell" => Shell::Nushell,
            "elvish" => Shell::Elvish,
            "xonsh" => Shell::Xonsh,
            "dotenv" => Shell::Dotenv,
            "json" => Shell::Json,
            _ => Shell::Bourne,
        }
    }

    /// The shell that runs us, as far as the environment tells. On Unix SHELL is the user's choice of an interactive
    /// shell; what runs without it (cron, CI, containers) runs `sh`.
    pub(crate) fn detect() -> Shell {
        if let Some(shell) = std::env::var_os("SHELL").filter(|shell| !shell.is_empty()) {
            let path = std::path::Path::new(&shell);
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            return Shell::named(&name);
        }
        if std::env::var_os("__fish_bin_dir").is_some() {
            return Shell::Fish;
        }
        if cfg!(windows) {
            return Shell::Cmd;
        }
        Shell::Bourne
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
            Shell::Nushell => (
                "#",
                format!(
                    "{} | from json | load-env",
                    line.replacen("nushell", "json", 1)
                        .replacen("--shell nu ", "--shell json ", 1)
                ),
            ),
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
