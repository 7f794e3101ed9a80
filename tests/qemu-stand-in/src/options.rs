//! QEMU's command line, as far as the driver writes it.

use std::net::Ipv4Addr;

/// Where a byte stream of the machine goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chardev {
    Pipe { id: String, name: String },
    File { id: String, path: String },
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub accelerator: String,
    pub kernel: String,
    pub initrd: String,
    /// In their order.
    pub chardevs: Vec<Chardev>,
    /// (chardev, name) of the guest's ports.
    pub ports: Vec<(String, String)>,
    /// Files of disks, and whether they may be written to.
    pub disks: Vec<(String, bool)>,
    /// (address, its port, the guest's port).
    pub forwards: Vec<(Ipv4Addr, u16, u16)>,
    pub incoming: Option<String>,
}

impl Options {
    pub fn parse(arguments: impl Iterator<Item = String>) -> Result<Options, String> {
        let mut arguments = arguments;
        let mut options = Options::default();
        while let Some(argument) = arguments.next() {
            if ["-nodefaults", "-no-user-config", "-no-reboot"].contains(&argument.as_str()) {
                continue;
            }
            let value = arguments
                .next()
                .ok_or_else(|| format!("{argument}: requires an argument"))?;
            let parts = parts(&value);
            let part = |key: &str| {
                let found = parts.iter().find(|(name, _)| name == key);
                found
                    .map(|(_, value)| value.clone())
                    .ok_or_else(|| format!("{argument} {value}: no {key}"))
            };
            let first = parts
                .first()
                .map(|(name, _)| name.as_str())
                .unwrap_or_default();
            match argument.as_str() {
                "-accel" => options.accelerator = value,
                "-kernel" => options.kernel = value,
                "-initrd" => options.initrd = value,
                "-incoming" => options.incoming = Some(value),
                "-chardev" => {
                    let (id, path) = (part("id")?, part("path")?);
                    options.chardevs.push(match first {
                        "pipe" => Chardev::Pipe { id, name: path },
                        "file" => Chardev::File { id, path },
                        _ => return Err(format!("-chardev {value}: not on this system")),
                    });
                }
                "-device" if first == "virtserialport" => {
                    options.ports.push((part("chardev")?, part("name")?));
                }
                "-drive" => {
                    let writable = !parts.iter().any(|part| part.0 == "readonly");
                    options.disks.push((part("file")?, writable));
                }
                "-netdev" => {
                    for (_, rule) in parts.iter().filter(|(name, _)| name == "hostfwd") {
                        let forward = forward(rule).ok_or_else(|| format!("hostfwd={rule}"))?;
                        options.forwards.push(forward);
                    }
                }
                "-append" | "-cpu" | "-device" | "-display" | "-m" | "-machine" | "-mon"
                | "-serial" | "-smp" => {}
                _ => return Err(format!("{argument}: invalid option")),
            }
        }
        Ok(options)
    }
}

/// `a,b=c,,d` is `a` and `b` with `c,d`.
fn parts(value: &str) -> Vec<(String, String)> {
    let marked = value.replace(",,", "\0");
    let each = marked.split(',').map(|part| part.replace('\0', ","));
    each.map(|part| match part.split_once('=') {
        Some((name, value)) => (name.to_owned(), value.to_owned()),
        None => (part, String::new()),
    })
    .collect()
}

/// `tcp:127.1.2.3:2376-:2376`
fn forward(rule: &str) -> Option<(Ipv4Addr, u16, u16)> {
    let (here, there) = rule.strip_prefix("tcp:")?.split_once("-:")?;
    let (address, port) = here.split_once(':')?;
    Some((
        address.parse().ok()?,
        port.parse().ok()?,
        there.parse().ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_taken_apart_as_qemu_does() {
        let line = [
            "-nodefaults",
            "-accel",
            "tcg,thread=multi",
            "-kernel",
            r"C:\a,b c\vmlinux",
            "-initrd",
            "initrd",
            "-incoming",
            r"file:C:\memory",
            "-device",
            "virtserialport,chardev=qmp,name=dev.x",
            "-chardev",
            "pipe,id=qmp,path=berth-0-qmp",
            "-chardev",
            r"file,id=console,path=C:\a,,b c\console.log",
            "-drive",
            r"if=none,id=seed,format=raw,file=C:\a,,b c\seed.tar,readonly=on",
            "-netdev",
            "user,id=net,hostfwd=tcp:127.2.3.4:2376-:2376,hostfwd=tcp:127.2.3.4:2222-:22",
        ];
        let options = Options::parse(line.into_iter().map(str::to_owned)).unwrap();
        assert_eq!(options.accelerator, "tcg,thread=multi");
        assert_eq!(
            (options.kernel.as_str(), options.initrd.as_str()),
            (r"C:\a,b c\vmlinux", "initrd")
        );
        assert_eq!(options.incoming.as_deref(), Some(r"file:C:\memory"));
        assert_eq!(options.ports, [("qmp".to_owned(), "dev.x".to_owned())]);
        let path = r"C:\a,b c\console.log".to_owned();
        assert_eq!(
            options.chardevs,
            [
                Chardev::Pipe {
                    id: "qmp".into(),
                    name: "berth-0-qmp".into()
                },
                Chardev::File {
                    id: "console".into(),
                    path
                }
            ]
        );
        assert_eq!(options.disks, [(r"C:\a,b c\seed.tar".to_owned(), false)]);
        let address = Ipv4Addr::new(127, 2, 3, 4);
        assert_eq!(
            options.forwards,
            [(address, 2376, 2376), (address, 2222, 22)]
        );
        assert!(Options::parse(["-fancy".to_owned(), "x".to_owned()].into_iter()).is_err());
    }
}
