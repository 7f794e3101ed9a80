//! `machine autostart`: a machine that starts when you log in. What does it is each system's own: a systemd user unit, a
//! launchd agent, a task of Windows' scheduler; the file is written, and on Linux and macOS that is all it takes.

use super::Name;
use crate::Context;
use anyhow::Context as _;
use clap::Args;
use machine_core::store::atomic;
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    name: Name,
    /// Do not start it any more
    #[arg(long)]
    off: bool,
}

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

pub(crate) fn run(context: &Context, arguments: &Arguments) -> anyhow::Result<()> {
    let name = &arguments.name.name;
    let store = context.machines.store();
    let system = System::here();
    let home = std::env::home_dir().context("there is no home folder")?;
    let configuration = std::env::var_os("XDG_CONFIG_HOME")
        .filter(|folder| !folder.is_empty())
        .map_or(home.join(".config"), PathBuf::from);
    let paths = Paths::of(system, name, &home, &configuration, store.root());
    if arguments.off {
        store.place(name)?;
        if system == System::TaskScheduler {
            schtasks(&["/Delete", "/F", "/TN", &task(name)])?;
        }
        for path in paths.link.iter().chain([&paths.file]) {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("cannot remove {}", path.display()));
                }
                _ => {}
            }
        }
        context
            .console
            .print(&format!("Machine \"{name}\" starts only when told to."));
        return Ok(());
    }
    store.load(name)?;
    let program = std::env::current_exe().context("cannot find this program's own path")?;
    let text = file(system, name, &program, store.root());
    for path in paths.link.iter().chain([&paths.file]) {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("cannot make {}", folder.display()))?;
        }
    }
    atomic::write(&paths.file, text.as_bytes())
        .with_context(|| format!("cannot write {}", paths.file.display()))?;
    if let Some(link) = &paths.link {
        enable(&paths.file, link).with_context(|| format!("cannot make {}", link.display()))?;
    }
    if system == System::TaskScheduler {
        let file = paths.file.to_string_lossy();
        schtasks(&["/Create", "/F", "/TN", &task(name), "/XML", &file])?;
    }
    context.console.print(&format!(
        "Machine \"{name}\" starts when you log in ({}).",
        paths.file.display()
    ));
    Ok(())
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
    let status = std::process::Command::new("schtasks")
        .args(arguments)
        .status();
    let status = status.context("cannot run schtasks")?;
    anyhow::ensure!(status.success(), "schtasks {} failed", arguments[0]);
    Ok(())
}

fn task(name: &str) -> String {
    format!("Berth\\{name}")
}

struct Paths {
    file: PathBuf,
    /// Enables the unit.
    link: Option<PathBuf>,
}

impl Paths {
    fn of(system: System, name: &str, home: &Path, configuration: &Path, store: &Path) -> Paths {
        match system {
            System::Systemd => {
                let folder = configuration.join("systemd/user");
                let unit = format!("berth-{name}.service");
                Paths {
                    link: Some(folder.join("default.target.wants").join(&unit)),
                    file: folder.join(unit),
                }
            }
            System::Launchd => Paths {
                file: home.join(format!("Library/LaunchAgents/dev.berth.{name}.plist")),
                link: None,
            },
            System::TaskScheduler => Paths {
                file: store.join("machines").join(name).join("autostart.xml"),
                link: None,
            },
        }
    }
}

/// The file's text. A path in it is quoted as each format wants it.
fn file(system: System, name: &str, program: &Path, store: &Path) -> String {
    let (program, store) = (program.to_string_lossy(), store.to_string_lossy());
    match system {
        System::Systemd => {
            // In a unit a percent sign begins a specifier, a dollar sign a variable.
            let word = |text: &str| {
                let text = text.replace('\\', "\\\\").replace('"', "\\\"");
                format!("\"{}\"", text.replace('%', "%%").replace('$', "$$"))
            };
            let (program, store) = (word(&program), word(&store));
            format!(
                "[Unit]\n\
                 Description=Berth machine {name}\n\
                 \n\
                 [Service]\n\
                 Type=oneshot\n\
                 RemainAfterExit=yes\n\
                 ExecStart={program} -s {store} start {name}\n\
                 ExecStop={program} -s {store} stop {name}\n\
                 TimeoutStartSec=300\n\
                 TimeoutStopSec=60\n\
                 \n\
                 [Install]\n\
                 WantedBy=default.target\n"
            )
        }
        System::Launchd => {
            let words = [&*program, "-s", &*store, "start", name]
                .map(|word| format!("        <string>{}</string>\n", for_xml(word)))
                .concat();
            format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
                 <!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">\n\
                 <plist version=\"1.0\">\n\
                 <dict>\n    \
                     <key>Label</key>\n    <string>dev.berth.{name}</string>\n    \
                     <key>ProgramArguments</key>\n    <array>\n{words}    </array>\n    \
                     <key>RunAtLoad</key>\n    <true/>\n    \
                     <key>AbandonProcessGroup</key>\n    <true/>\n\
                 </dict>\n\
                 </plist>\n"
            )
        }
        System::TaskScheduler => format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\r\n\
             <Task version=\"1.2\" xmlns=\"http://schemas.microsoft.com/windows/2004/02/mit/task\">\r\n  \
             <Triggers>\r\n    <LogonTrigger><Enabled>true</Enabled></LogonTrigger>\r\n  </Triggers>\r\n  \
             <Settings>\r\n    <DisallowStartIfOnBatteries>false</DisallowStartIfOnBatteries>\r\n    \
             <ExecutionTimeLimit>PT0S</ExecutionTimeLimit>\r\n  </Settings>\r\n  \
             <Actions>\r\n    <Exec>\r\n      <Command>{}</Command>\r\n      \
             <Arguments>-s &quot;{}&quot; start {name}</Arguments>\r\n    </Exec>\r\n  </Actions>\r\n\
             </Task>\r\n",
            for_xml(&program),
            for_xml(&store)
        ),
    }
}

fn for_xml(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_systems_file() {
        let mut text = String::new();
        for system in [System::Systemd, System::Launchd, System::TaskScheduler] {
            let paths = Paths::of(
                system,
                "dev",
                Path::new("/home/me"),
                Path::new("/home/me/.config"),
                Path::new("/home/me/50% & more"),
            );
            let contents = file(
                system,
                "dev",
                Path::new("/opt/a b/machine"),
                Path::new("/home/me/50% & more"),
            );
            text.push_str(&format!("== {}\n{contents}", paths.file.display()));
        }
        insta::assert_snapshot!(text.replace('\r', ""));
    }
}
