//! The guest's file tree in memory, and how it is written as a cpio archive (`newc`) that the kernel unpacks. Names are
//! sorted, times and owners are 0: the same tree gives the same bytes.

use std::collections::BTreeMap;
use std::io::{self, Write};

/// File type bits of a mode, stat(2).
const FILE: u32 = 0o100_000;
const FOLDER: u32 = 0o040_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// One entry of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Node {
    Folder { mode: u32 },
    File { mode: u32, data: Vec<u8> },
    Symlink { target: String },
    CharacterDevice { mode: u32, major: u32, minor: u32 },
}

/// Entries by path, without the leading `/`. Parent folders come into being by themselves, with mode 0755.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    nodes: BTreeMap<String, Node>,
}

impl Tree {
    pub(crate) fn get(&self, path: &str) -> Option<&Node> {
        self.nodes.get(path)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&String, &Node)> {
        self.nodes.iter()
    }

    /// Puts a node at a path, in place of what was there.
    pub(crate) fn put(&mut self, path: impl Into<String>, node: Node) {
        let path = path.into();
        debug_assert!(!path.starts_with('/') && !path.is_empty(), "{path:?}");
        let mut parent = path.as_str();
        while let Some((folder, _)) = parent.rsplit_once('/') {
            if !self.nodes.contains_key(folder) {
                self.nodes
                    .insert(folder.to_owned(), Node::Folder { mode: 0o755 });
            }
            parent = folder;
        }
        self.nodes.insert(path, node);
    }

    pub(crate) fn file(&mut self, path: impl Into<String>, mode: u32, data: impl Into<Vec<u8>>) {
        let data = data.into();
        self.put(path, Node::File { mode, data });
    }

    pub(crate) fn folder(&mut self, path: &str, mode: u32) {
        self.put(path, Node::Folder { mode });
    }

    pub(crate) fn symlink(&mut self, path: impl Into<String>, target: impl Into<String>) {
        let target = target.into();
        self.put(path, Node::Symlink { target });
    }

    /// Writes the tree as one cpio archive, padded to 512 bytes so that another one may follow.
    pub(crate) fn write_cpio(&self, out: &mut impl Write) -> io::Result<()> {
        let mut counted = Counted { out, bytes: 0 };
        for (index, (path, node)) in self.nodes.iter().enumerate() {
            let (mode, links, device, data): (u32, u32, (u32, u32), &[u8]) = match node {
                Node::Folder { mode } => (FOLDER | mode, 2, (0, 0), &[]),
                Node::File { mode, data } => (FILE | mode, 1, (0, 0), data),
                Node::Symlink { target } => (SYMLINK | 0o777, 1, (0, 0), target.as_bytes()),
                Node::CharacterDevice { mode, major, minor } => {
                    (CHARACTER_DEVICE | mode, 1, (*major, *minor), &[])
                }
            };
            let size = u32::try_from(data.len()).map_err(|_| {
                io::Error::new(io::ErrorKind::FileTooLarge, format!("{path} passes 4 GiB"))
            })?;
            let mut writer = cpio::newc::Builder::new(path)
                .ino(index as u32 + 1)
                .mode(mode)
                .nlink(links)
                .rdev_major(device.0)
                .rdev_minor(device.1)
                .write(&mut counted, size);
            writer.write_all(data)?;
            writer.finish()?;
        }
        cpio::newc::trailer(&mut counted)?;
        let padding = counted.bytes.next_multiple_of(512) - counted.bytes;
        counted.write_all(&vec![0; padding as usize])
    }
}

struct Counted<'a, W> {
    out: &'a mut W,
    bytes: u64,
}

impl<W: Write> Write for Counted<'_, W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let written = self.out.write(data)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_sorted_and_repeatable() {
        let build = |reversed: bool| {
            let mut tree = Tree::default();
            type Step = Box<dyn Fn(&mut Tree)>;
            let mut steps: Vec<Step> = vec![
                Box::new(|tree| tree.file("usr/bin/tool", 0o755, "tool")),
                Box::new(|tree| tree.symlink("bin", "usr/bin")),
                Box::new(|tree| {
                    let node = Node::CharacterDevice {
                        mode: 0o600,
                        major: 5,
                        minor: 1,
                    };
                    tree.put("dev/console", node);
                }),
                Box::new(|tree| tree.folder("tmp", 0o1777)),
            ];
            if reversed {
                steps.reverse();
            }
            steps.iter().for_each(|step| step(&mut tree));
            let mut bytes = Vec::new();
            tree.write_cpio(&mut bytes).unwrap();
            bytes
        };
        let bytes = build(false);
        assert_eq!(bytes, build(true));
        assert_eq!(bytes.len() % 512, 0);

        let mut names = Vec::new();
        let mut rest = &bytes[..];
        loop {
            let reader = cpio::newc::Reader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            let entry = reader.entry();
            assert_eq!((entry.mtime(), entry.uid(), entry.gid()), (0, 0, 0));
            names.push(format!("{} {:o}", entry.name(), entry.mode()));
            rest = reader.finish().unwrap();
        }
        assert_eq!(
            names,
            [
                "bin 120777",
                "dev 40755",
                "dev/console 20600",
                "tmp 41777",
                "usr 40755",
                "usr/bin 40755",
                "usr/bin/tool 100755"
            ]
        );
    }
}
