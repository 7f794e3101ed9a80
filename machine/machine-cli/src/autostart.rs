//! What starts a machine when you log in: each system's own, a systemd user unit, a launchd agent, a task of Windows'
//! scheduler. The file is written, and on Linux and macOS that is all it takes.

use anyhow::Context as _;
use machine_core::MachineStore;
use machine_core::store::atomic;
use std::path::{Path, PathBuf};

/// Who starts programs at log-in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum System {
    Systemd,
    Launchd,
    TaskScheduler,
}

impl System {
    fn here() -> System {
        match std::env::consts::OS {
            "macos" => System::Launchd,
            "windows" => System::TaskScheduler,
            _ => System::Systemd,
        }
    }
}

/// The file that starts one machine of one store, written or not.
pub(crate) struct Autostart {
    system: System,
    name: String,
    store: PathBuf,
    file: PathBuf,
    /// Enables the unit.
    link: Option<PathBuf>,
}

impl Autostart {
    pub(crate) fn of(store: &MachineStore, name: &str) -> anyhow::Result<Autostart> {
        store.place(name)?;
        let home = std::env::home_dir().context("there is no home folder")?;
        let configuration = std::env::var_os("XDG_CONFIG_HOME")
            .filter(|folder| !folder.is_empty())
            .map_or(home.join(".config"), PathBuf::from);
        let system = System::here();
        let root = store.root();
        Ok(Autostart::at(system, name, &home, &configuration, root))
    }

    fn at(
        system: System,
        name: &str,
        home: &Path,
        configuration: &Path,
        store: &Path,
    ) -> Autostart {
        let (file, link) = match system {
            System::Systemd => {
                let folder = configuration.join("systemd/user");
                let unit = format!("berth-{name}.service");
                let link = folder.join("default.target.wants").join(&unit);
                (folder.join(unit), Some(link))
            }
            System::Launchd => {
                let agent = format!("Library/LaunchAgents/dev.berth.{name}.plist");
                (home.join(agent), None)
            }
            System::TaskScheduler => {
                let folder = store.join("machines").join(name);
                (folder.join("autostart.xml"), None)
            }
        };
        Autostart {
            system,
            name: name.to_owned(),
            store: store.to_path_buf(),
            file,
            link,
        }
    }

    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// Whether this machine starts at log-in: another store's machine of that name has its file in the same place.
    pub(crate) fn is_on(&self) -> bool {
        let text = std::fs::read_to_string(&self.file).unwrap_or_default();
        text.contains(&self.words("start"))
    }

    pub(crate) fn turn_on(&self) -> anyhow::Result<()> {
        let program = std::env::current_exe().context("cannot find this program's own path")?;
        for path in self.link.iter().chain([&self.file]) {
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder)
                    .with_context(|| format!("cannot make {}", folder.display()))?;
            }
        }
        atomic::write(&self.file, self.text(&program, &user()).as_bytes())
            .with_context(|| format!("cannot write {}", self.file.display()))?;
        if let Some(link) = &self.link {
            enable(&self.file, link).with_context(|| format!("cannot make {}", link.display()))?;
        }
        if self.system == System::TaskScheduler {
            let file = self.file.to_string_lossy();
            schtasks(&["/Create", "/F", "/TN", &self.task(), "/XML", &file])?;
        }
        Ok(())
    }

    pub(crate) fn turn_off(&self) -> anyhow::Result<()> {
        if self.system == System::TaskScheduler {
            schtasks(&["/Delete", "/F", "/TN", &self.task()])?;
        }
        for path in self.link.iter().chain([&self.file]) {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("cannot remove {}", path.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Users of one computer share the scheduler's names.
    fn task(&self) -> String {
        let user = std::env::var("USERNAME").unwrap_or_default();
        format!("Berth\\{} of {user}", self.name)
    }

    /// The arguments as the file has them.
    fn words(&self, verb: &str) -> String {
        let (name, store) = (&self.name, self.store.to_string_lossy());
        match self.system {
            System::Systemd => format!("-s {} {verb} {name}", for_unit(&store)),
            System::Launchd => ["-s", &store, verb, name]
                .map(|word| format!("        <string>{}</string>\n", for_xml(word)))
                .concat(),
            System::TaskScheduler => format!("-s &quot;{}&quot; {verb} {name}", for_xml(&store)),
        }
    }

    /// The file's text. A path in it is quoted as each format wants it.
    fn text(&self, program: &Path, user: &str) -> String {
        let (name, program) = (&self.name, program.to_string_lossy());
        let start = self.words("start");
        match self.system {
            System::Systemd => {
                let (program, stop) = (for_unit(&program), self.words("stop"));
                format!(
                    "[Unit]\n\
                     Description=Berth machine {name}\n\
                     \n\
                     [Service]\n\
                     Type=oneshot\n\
                     RemainAfterExit=yes\n\
                     ExecStart={program} {start}\n\
                     ExecStop={program} {stop}\n\
                     TimeoutStartSec=300\n\
                     TimeoutStopSec=60\n\
                     \n\
                     [Install]\n\
                     WantedBy=default.target\n"
                )
            }
            System::Launchd => format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
                 <!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">\n\
                 <plist version=\"1.0\">\n\
                 <dict>\n    \
                     <key>Label</key>\n    <string>dev.berth.{name}</string>\n    \
                     <key>ProgramArguments</key>\n    <array>\n        \
                         <string>{}</string>\n{start}    </array>\n    \
                     <key>RunAtLoad</key>\n    <true/>\n    \
                     <key>AbandonProcessGroup</key>\n    <true/>\n\
                 </dict>\n\
                 </plist>\n",
                for_xml(&program)
            ),
            // Without a user the task is every user's, and only an administrator may make it.
            System::TaskScheduler => format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\r\n\
                 <Task version=\"1.2\" xmlns=\"http://schemas.microsoft.com/windows/2004/02/mit/task\">\r\n  \
                 <Triggers>\r\n    <LogonTrigger>\r\n      <Enabled>true</Enabled>\r\n      \
                 <UserId>{user}</UserId>\r\n    </LogonTrigger>\r\n  </Triggers>\r\n  \
                 <Principals>\r\n    <Principal id=\"Author\">\r\n      <UserId>{user}</UserId>\r\n      \
                 <LogonType>InteractiveToken</LogonType>\r\n      <RunLevel>LeastPrivilege</RunLevel>\r\n    \
                 </Principal>\r\n  </Principals>\r\n  \
                 <Settings>\r\n    <DisallowStartIfOnBatteries>false</DisallowStartIfOnBatteries>\r\n    \
                 <ExecutionTimeLimit>PT0S</ExecutionTimeLimit>\r\n  </Settings>\r\n  \
                 <Actions Context=\"Author\">\r\n    <Exec>\r\n      <Command>{}</Command>\r\n      \
                 <Arguments>{start}</Arguments>\r\n    </Exec>\r\n  </Actions>\r\n\
                 </Task>\r\n",
                for_xml(&program),
                user = for_xml(user),
            ),
        }
    }
}

/// Whoever is logged in, as Windows writes it.
fn user() -> String {
    let variable = |name| std::env::var(name).unwrap_or_default();
    format!("{}\\{}", variable("USERDOMAIN"), variable("USERNAME"))
}

/// What `systemctl --user enable` does; it need not run for that.
#[cfg(unix)]
fn enable(file: &Path, link: &Path) -> std::io::Result<()> {
    match std::os::unix::fs::symlink(file, link) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

#[cfg(not(unix))]
fn enable(_file: &Path, _link: &Path) -> std::io::Result<()> {
    Ok(())
}

fn schtasks(arguments: &[&str]) -> anyhow::Result<()> {
    let output = std::process::Command::new("schtasks")
        .args(arguments)
        .output()
        .context("cannot run schtasks")?;
    anyhow::ensure!(
        output.status.success(),
        "schtasks {} failed: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// A word of a unit's line, where a percent sign begins a specifier, a dollar sign a variable.
fn for_unit(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{}\"", text.replace('%', "%%").replace('$', "$$"))
}

fn for_xml(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYSTEMS: [System; 3] = [System::Systemd, System::Launchd, System::TaskScheduler];

    fn dev(system: System, home: &Path, store: &Path) -> Autostart {
        Autostart::at(system, "dev", home, &home.join(".config"), store)
    }

    #[test]
    fn every_systems_file() {
        let mut text = String::new();
        for system in SYSTEMS {
            let store = Path::new("/home/me/50% & more");
            let dev = dev(system, Path::new("/home/me"), store);
            let contents = dev.text(Path::new("/opt/a b/machine"), "DESK\\me & you");
            text.push_str(&format!("== {}\n{contents}", dev.file.display()));
        }
        insta::assert_snapshot!(text.replace('\r', ""));
    }

    #[test]
    fn another_stores_machine_of_that_name_is_another_one() {
        let home = tempfile::tempdir().unwrap();
        let (ours, theirs) = (home.path().join("a \"b\""), home.path().join("other"));
        for system in SYSTEMS {
            let dev = |store| dev(system, home.path(), store);
            let autostart = dev(&ours);
            assert!(!autostart.is_on(), "{system:?}");
            std::fs::create_dir_all(autostart.file.parent().unwrap()).unwrap();
            let text = autostart.text(Path::new("/opt/machine"), "DESK\\me");
            std::fs::write(&autostart.file, text).unwrap();
            assert!(autostart.is_on(), "{system:?}");
            assert!(!dev(&theirs).is_on(), "{system:?}");
        }
    }
}
