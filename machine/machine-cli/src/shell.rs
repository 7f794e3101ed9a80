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
}

impl Shell {
    pub(crate) fn named(name: &str) -> Shell {
        match name {
            "fish" => Shell::Fish,
            "powershell" | "pwsh" => Shell::PowerShell,
            "cmd" => Shell::Cmd,
            "tcsh" | "csh" => Shell::Tcsh,
            "emacs" => Shell::Emacs,
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
        }
    }

    /// Two comment lines that say how to evaluate the rest. `typed` is our own command line.
    pub(crate) fn hint(self, typed: &[String]) -> String {
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
        };
        format!("{comment} Run this command to configure your shell: \n{comment} {command}")
    }

    /// Makes a folder's odd characters harmless inside double quotes.
    fn quoted(self, value: &str) -> String {
        let (escape, special): (char, &[char]) = match self {
            Shell::Bourne => ('\\', &['\\', '"', '$', '`']),
            Shell::Fish => ('\\', &['\\', '"', '$']),
            Shell::PowerShell => ('`', &['`', '"', '$']),
            Shell::Emacs => ('\\', &['\\', '"']),
            // These two have no way to quote inside quotes.
            Shell::Cmd | Shell::Tcsh => return value.to_owned(),
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
