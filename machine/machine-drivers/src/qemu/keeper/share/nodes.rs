//! Which path each of the guest's inode numbers stands for. Nodes have paths, not open files: a kernel remembers
//! hundreds of thousands of them, and what was renamed on the desktop is found by its new name.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// More than this and the guest's kernel no longer behaves like one.
const MOST_NODES: usize = 4_000_000;

/// Device and inode on the desktop: another file under the same name is another node.
pub type Identity = (u64, u64);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Node {
    /// Below the shared folder; `None`: it was removed or replaced.
    path: Option<PathBuf>,
    identity: Identity,
    /// How often the kernel was told of it.
    told: u64,
}

#[derive(Debug, Default)]
pub struct Nodes {
    nodes: HashMap<u64, Node>,
    by_path: BTreeMap<PathBuf, u64>,
    last: u64,
}

/// The nodes as they are kept beside a suspended machine's memory. What has no path or no path in UTF-8 is left out:
/// the guest gets ESTALE for it.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    last: u64,
    nodes: Vec<(u64, Node)>,
}

impl Nodes {
    /// The shared folder itself is `ROOT` and needs no entry.
    pub fn new() -> Nodes {
        Nodes {
            last: super::wire::ROOT,
            ..Nodes::default()
        }
    }

    /// No nodes yet, and none with a number up to this one.
    pub fn above(last: u64) -> Nodes {
        Nodes {
            last,
            ..Nodes::default()
        }
    }

    pub fn path(&self, node: u64) -> Option<&Path> {
        if node == super::wire::ROOT {
            return Some(Path::new(""));
        }
        self.nodes.get(&node)?.path.as_deref()
    }

    /// The node of what is at `path` now, which the kernel is about to be told of. `None`: there are too many.
    pub fn tell(&mut self, path: &Path, identity: Identity) -> Option<u64> {
        if let Some(number) = self.by_path.get(path) {
            let number = *number;
            let node = self.nodes.get_mut(&number).expect("both maps agree");
            if node.identity == identity {
                node.told += 1;
                return Some(number);
            }
            self.removed(path);
        }
        if self.nodes.len() >= MOST_NODES {
            return None;
        }
        self.last += 1;
        self.by_path.insert(path.to_owned(), self.last);
        self.nodes.insert(
            self.last,
            Node {
                path: Some(path.to_owned()),
                identity,
                told: 1,
            },
        );
        Some(self.last)
    }

    pub fn forget(&mut self, number: u64, times: u64) {
        let Some(node) = self.nodes.get_mut(&number) else {
            return;
        };
        node.told = node.told.saturating_sub(times);
        if node.told == 0
            && let Some(node) = self.nodes.remove(&number)
            && let Some(path) = node.path
        {
            self.by_path.remove(&path);
        }
    }

    /// What is at `path` and below it has no name any more.
    pub fn removed(&mut self, path: &Path) {
        for path in self.at_and_below(path) {
            if let Some(number) = self.by_path.remove(&path)
                && let Some(node) = self.nodes.get_mut(&number)
            {
                node.path = None;
            }
        }
    }

    pub fn renamed(&mut self, from: &Path, to: &Path) {
        if from == to {
            return;
        }
        self.removed(to);
        for path in self.at_and_below(from) {
            let Some(number) = self.by_path.remove(&path) else {
                continue;
            };
            let rest = path.strip_prefix(from).expect("at or below it");
            let path = match rest.as_os_str().is_empty() {
                true => to.to_owned(),
                false => to.join(rest),
            };
            if let Some(node) = self.nodes.get_mut(&number) {
                node.path = Some(path.clone());
            }
            self.by_path.insert(path, number);
        }
    }

    /// Paths compare component by component, so that what is below a folder follows it directly.
    fn at_and_below(&self, path: &Path) -> Vec<PathBuf> {
        self.by_path
            .range(path.to_owned()..)
            .map(|(found, _)| found)
            .take_while(|found| found.starts_with(path))
            .cloned()
            .collect()
    }

    pub fn keep(&self) -> Kept {
        let fit = |node: &Node| {
            node.path
                .as_ref()
                .is_some_and(|path| path.to_str().is_some())
        };
        let nodes = self.nodes.iter().filter(|(_, node)| fit(node));
        Kept {
            last: self.last,
            nodes: nodes
                .map(|(number, node)| (*number, node.clone()))
                .collect(),
        }
    }

    pub fn from_kept(kept: Kept) -> Nodes {
        let mut nodes = Nodes {
            last: kept.last.max(super::wire::ROOT),
            ..Nodes::default()
        };
        for (number, node) in kept.nodes {
            if let Some(path) = &node.path {
                nodes.by_path.insert(path.clone(), number);
            }
            nodes.nodes.insert(number, node);
        }
        nodes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(nodes: &Nodes, number: u64) -> Option<&str> {
        nodes.path(number).and_then(Path::to_str)
    }

    #[test]
    fn a_node_follows_its_file() {
        let mut nodes = Nodes::new();
        let folder = nodes.tell(Path::new("a"), (1, 1)).unwrap();
        let file = nodes.tell(Path::new("a/b"), (1, 2)).unwrap();
        let other = nodes.tell(Path::new("ab"), (1, 3)).unwrap();
        nodes.renamed(Path::new("a"), Path::new("c"));
        assert_eq!(path(&nodes, folder), Some("c"));
        assert_eq!(path(&nodes, file), Some("c/b"));
        assert_eq!(path(&nodes, other), Some("ab"));
        // What was there before has lost its name.
        nodes.renamed(Path::new("c/b"), Path::new("ab"));
        assert_eq!(path(&nodes, file), Some("ab"));
        assert_eq!(path(&nodes, other), None);
        nodes.removed(Path::new("c"));
        assert_eq!(path(&nodes, folder), None);
        assert_eq!(path(&nodes, 1), Some(""));
    }

    #[test]
    fn another_file_under_the_same_name_is_another_node() {
        let mut nodes = Nodes::new();
        let first = nodes.tell(Path::new("f"), (1, 1)).unwrap();
        assert_eq!(nodes.tell(Path::new("f"), (1, 1)), Some(first));
        let second = nodes.tell(Path::new("f"), (1, 2)).unwrap();
        assert_ne!(first, second);
        assert_eq!(path(&nodes, first), None);
        // Forgotten as often as it was told of, and not before.
        nodes.forget(second, 1);
        assert_eq!(path(&nodes, second), None);
        nodes.forget(first, 1);
        assert_eq!(nodes.nodes.len(), 1);
        nodes.forget(first, 1);
        assert!(nodes.nodes.is_empty() && nodes.by_path.is_empty());
    }

    #[test]
    fn what_was_kept_comes_back_and_no_number_twice() {
        let mut nodes = Nodes::new();
        let first = nodes.tell(Path::new("a/b"), (1, 2)).unwrap();
        let text = serde_json::to_string(&nodes.keep()).unwrap();
        let mut again = Nodes::from_kept(serde_json::from_str(&text).unwrap());
        assert_eq!(path(&again, first), Some("a/b"));
        assert!(again.tell(Path::new("c"), (1, 3)).unwrap() > first);
    }
}
