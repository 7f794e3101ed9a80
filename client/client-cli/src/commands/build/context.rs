//! The folder that is built: what of it is needed, and on its way to the engine.
//!
//! ```text
//! folder --.dockerignore--> entries --what the Dockerfile takes--> entries --what the engine has--> tar
//! ```

use anyhow::{Context as _, Result, bail};
use dockerfile::ignore::Ignore;
use dockerfile::needs::Taken;
use dockerfile::pattern::PathPattern;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// What Docker reads as a Dockerfile at most is not told; this is what the engine takes.
const RULES_MAX: u64 = 4 * 1024 * 1024;

/// Below this many bytes it is quicker to send everything than to ask.
const ASK_FROM: u64 = 256 * 1024;

/// Files that go into the context beside those of the folder: the Dockerfile, and what leaves it out.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Extra {
    /// Name in the context and content; it takes the place of the folder's own file.
    pub(super) files: BTreeMap<String, Vec<u8>>,
}

/// A Dockerfile, where it is, and the rules that belong to it.
pub(super) struct Recipe {
    pub(super) text: Vec<u8>,
    /// In the context.
    pub(super) path: String,
    pub(super) ignore: Ignore,
    pub(super) extra: Extra,
}

/// Where the Dockerfile comes from.
pub(super) enum DockerfileFrom<'a> {
    /// `-f FILE`; by default `Dockerfile` of the context.
    File(Option<&'a Path>),
    /// `-f -`
    Text(Vec<u8>),
}

impl Recipe {
    /// Reads Dockerfile and rules.
    pub(super) fn read(folder: &Path, from: DockerfileFrom<'_>) -> Result<Recipe> {
        let folder = std::fs::canonicalize(folder).with_context(|| {
            format!(
                "unable to prepare context: path {} not found",
                folder.display()
            )
        })?;
        if !folder.is_dir() {
            bail!(
                "unable to prepare context: {} is not a folder",
                folder.display()
            );
        }
        let (text, inside, own_rules) = match from {
            DockerfileFrom::Text(text) => (text, None, None),
            DockerfileFrom::File(named) => {
                let path = match named {
                    Some(path) => path.to_owned(),
                    None => default_dockerfile(&folder),
                };
                let text = read_small(&path)?.with_context(|| {
                    format!(
                        "failed to read dockerfile: open {}: no such file or directory",
                        path.display()
                    )
                })?;
                let real = std::fs::canonicalize(&path).unwrap_or_else(|_| path.clone());
                let mut rules = path.clone().into_os_string();
                rules.push(".dockerignore");
                let inside = real.strip_prefix(&folder).ok().and_then(slashed);
                (text, inside, read_small(Path::new(&rules))?)
            }
        };
        let rules = match own_rules {
            Some(rules) => Some(rules),
            None => read_small(&folder.join(".dockerignore"))?,
        };
        let rules_text = String::from_utf8_lossy(rules.as_deref().unwrap_or_default()).into_owned();
        let ignore = Ignore::parse(&rules_text).context("error reading .dockerignore")?;
        let mut extra = Extra::default();
        let path = match inside {
            Some(path) => path,
            None => {
                // It must not be in the image: an engine leaves out what .dockerignore says.
                let name = format!(".dockerfile.{}", &hex(&Sha256::digest(&text))[..20]);
                let mut rules = rules.unwrap_or_else(|| b".dockerignore".to_vec());
                rules.extend_from_slice(format!("\n{name}\n").as_bytes());
                extra.files.insert(".dockerignore".to_owned(), rules);
                extra.files.insert(name.clone(), text.clone());
                name
            }
        };
        Ok(Recipe {
            text,
            path,
            ignore,
            extra,
        })
    }
}

impl Recipe {
    /// Of a folder that has no Dockerfile for us: its `.dockerignore` alone.
    pub(super) fn rules_alone(folder: &Path) -> Result<Recipe> {
        let rules = read_small(&folder.join(".dockerignore"))?.unwrap_or_default();
        let rules = String::from_utf8_lossy(&rules);
        Ok(Recipe {
            text: Vec::new(),
            path: String::new(),
            ignore: Ignore::parse(&rules).context("error reading .dockerignore")?,
            extra: Extra::default(),
        })
    }
}

/// As Docker, a lower-case name counts where the usual one is not there.
fn default_dockerfile(folder: &Path) -> PathBuf {
    let usual = folder.join("Dockerfile");
    let lower = folder.join("dockerfile");
    match !usual.exists() && lower.exists() {
        true => lower,
        false => usual,
    }
}

fn read_small(path: &Path) -> Result<Option<Vec<u8>>> {
    let file = match std::fs::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.with_context(|| format!("cannot open {}", path.display()))?,
    };
    let mut bytes = Vec::new();
    file.take(RULES_MAX + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("cannot read {}", path.display()))?;
    if bytes.len() as u64 > RULES_MAX {
        bail!("{} is larger than {RULES_MAX} bytes", path.display());
    }
    Ok(Some(bytes))
}

/// With `/` between the names, as engines want it; `None` where a name is no text.
fn slashed(path: &Path) -> Option<String> {
    let names: Option<Vec<&str>> = path
        .components()
        .map(|name| name.as_os_str().to_str())
        .collect();
    Some(names?.join("/"))
}

/// Something in the context.
#[derive(Debug)]
pub(super) struct Entry {
    /// Relative to the folder.
    path: PathBuf,
    facts: std::fs::Metadata,
    /// Of a file's content, where it was asked for.
    digest: Option<String>,
}

/// What is sent.
#[derive(Debug)]
pub(super) struct Context {
    folder: PathBuf,
    entries: Vec<Entry>,
    extra: Extra,
    /// Contents that the engine has.
    known: HashSet<String>,
}

impl Context {
    /// Finds the entries that `.dockerignore` leaves and the Dockerfile takes.
    pub(super) fn collect(folder: &Path, recipe: Recipe, taken: &Taken) -> Result<Context> {
        let folder = std::fs::canonicalize(folder)
            .with_context(|| format!("cannot find {}", folder.display()))?;
        let always = match recipe.path.as_str() {
            // It has no Dockerfile.
            "" => Vec::new(),
            path => vec![
                path.to_owned(),
                ".dockerignore".to_owned(),
                format!("{path}.dockerignore"),
            ],
        };
        let walk = Walk {
            folder: &folder,
            ignore: &recipe.ignore,
            always: &always,
        };
        let wanted = match taken {
            Taken::Everything => None,
            Taken::Paths(paths) => walk.patterns(paths)?,
        };
        let entries = walk.entries(wanted.as_deref())?;
        Ok(Context {
            folder,
            entries,
            extra: recipe.extra,
            known: HashSet::new(),
        })
    }

    /// Bytes of all files.
    pub(super) fn size(&self) -> u64 {
        let files = self.entries.iter().filter(|entry| entry.facts.is_file());
        files.map(|entry| entry.facts.len()).sum()
    }

    /// Digests of the files, where it pays to ask for them.
    pub(super) fn digests(&mut self) -> Result<Vec<String>> {
        if self.size() < ASK_FROM {
            return Ok(Vec::new());
        }
        let mut digests = HashSet::new();
        for entry in &mut self.entries {
            if entry.facts.is_file() && entry.facts.len() > 0 {
                let path = self.folder.join(&entry.path);
                let digest =
                    digest_of(&path).with_context(|| format!("cannot read {}", path.display()))?;
                digests.insert(digest.clone());
                entry.digest = Some(digest);
            }
        }
        Ok(digests.into_iter().collect())
    }

    /// Notes what need not be sent.
    pub(super) fn set_known(&mut self, known: HashSet<String>) {
        self.known = known;
    }

    /// Whether contents are left out.
    pub(super) fn leaves_out(&self) -> bool {
        !self.known.is_empty()
    }

    /// The tar.
    pub(super) fn write(&self, output: impl Write) -> io::Result<()> {
        let mut builder = tar::Builder::new(io::BufWriter::with_capacity(256 * 1024, output));
        let mut links: HashMap<(u64, u64), PathBuf> = HashMap::new();
        for entry in &self.entries {
            if self
                .extra
                .files
                .contains_key(&entry.path.to_string_lossy()[..])
            {
                continue;
            }
            self.write_entry(&mut builder, entry, &mut links)?;
        }
        for (name, content) in &self.extra.files {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o600);
            header.set_size(content.len() as u64);
            builder.append_data(&mut header, name, &content[..])?;
        }
        builder.into_inner()?.flush()
    }

    fn write_entry(
        &self,
        builder: &mut tar::Builder<impl Write>,
        entry: &Entry,
        links: &mut HashMap<(u64, u64), PathBuf>,
    ) -> io::Result<()> {
        let path = self.folder.join(&entry.path);
        let mut header = tar::Header::new_gnu();
        header.set_metadata(&entry.facts);
        // Whose they are here means nothing there.
        header.set_uid(0);
        header.set_gid(0);
        if cfg!(windows) && !entry.facts.is_symlink() {
            header.set_mode(0o755);
        }
        if entry.facts.is_dir() {
            return builder.append_data(&mut header, &entry.path, io::empty());
        }
        if entry.facts.is_symlink() {
            header.set_size(0);
            let target = std::fs::read_link(&path)?;
            return builder.append_link(&mut header, &entry.path, target);
        }
        if let Some(number) = crate::archive::file_number(&entry.facts) {
            if let Some(first) = links.get(&number) {
                header.set_entry_type(tar::EntryType::Link);
                header.set_size(0);
                return builder.append_link(&mut header, &entry.path, first);
            }
            links.insert(number, entry.path.clone());
        }
        if let Some(digest) = &entry.digest
            && self.known.contains(digest)
        {
            builder.append_pax_extensions([("BERTH.sha256", digest.as_bytes())])?;
            header.set_size(0);
            return builder.append_data(&mut header, &entry.path, io::empty());
        }
        let file = std::fs::File::open(&path)?;
        let size = entry.facts.len();
        header.set_size(size);
        // A file that grows meanwhile must not break the tar; one that shrinks is filled up.
        let filled = file.chain(io::repeat(0)).take(size);
        builder.append_data(&mut header, &entry.path, filled)
    }
}

struct Walk<'a> {
    folder: &'a Path,
    ignore: &'a Ignore,
    /// Files that are sent in any case.
    always: &'a [String],
}

impl Walk<'_> {
    /// The patterns; `None` (everything) where links on the way make it uncertain what they lead to.
    fn patterns(
        &self,
        paths: &std::collections::BTreeSet<String>,
    ) -> Result<Option<Vec<PathPattern>>> {
        let mut patterns = Vec::new();
        for path in paths {
            let Ok(pattern) = PathPattern::new(path) else {
                // The engine says what is wrong with it.
                return Ok(None);
            };
            let mut way = self.folder.to_owned();
            for name in path.split('/') {
                if name.contains(['*', '?', '[', '\\']) {
                    break;
                }
                way.push(name);
                if std::fs::symlink_metadata(&way).is_ok_and(|facts| facts.is_symlink()) {
                    return Ok(None);
                }
            }
            patterns.push(pattern);
        }
        Ok(Some(patterns))
    }

    fn entries(&self, wanted: Option<&[PathPattern]>) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let mut waiting = vec![PathBuf::new()];
        while let Some(folder) = waiting.pop() {
            let full = self.folder.join(&folder);
            let step = || format!("cannot read {}", full.display());
            let mut names: Vec<_> = std::fs::read_dir(&full)
                .with_context(step)?
                .collect::<io::Result<Vec<_>>>()
                .with_context(step)?;
            names.sort_by_key(|entry| entry.file_name());
            for found in names {
                let path = folder.join(found.file_name());
                // A name that is no text cannot be in a pattern either, but it can be below one.
                let text = slashed(&path).unwrap_or_else(|| path.to_string_lossy().into_owned());
                let facts = match std::fs::symlink_metadata(self.folder.join(&path)) {
                    // It went away meanwhile.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    facts => facts.with_context(|| format!("cannot look at {}", path.display()))?,
                };
                let is_folder = facts.is_dir();
                let always = self.always.contains(&text);
                let is_wanted = wanted
                    .is_none_or(|patterns| patterns.iter().any(|pattern| pattern.covers(&text)));
                if is_wanted
                    && facts.is_symlink()
                    && wanted.is_some_and(|patterns| {
                        patterns.iter().any(|pattern| pattern.matches(&text))
                    })
                {
                    // A wildcard that finds a link: where it leads is taken, too.
                    return self.entries(None);
                }
                if is_folder {
                    let may_have = self.always.iter().any(|own| is_below(own, &text))
                        || (!self.ignore.leaves_out_all_below(&text)
                            && (is_wanted
                                || wanted.is_some_and(|patterns| {
                                    patterns.iter().any(|own| own.may_match_below(&text))
                                })));
                    if may_have {
                        waiting.push(path.clone());
                    }
                }
                let left_out = self.ignore.leaves_out(&text);
                let is_special = !is_folder && !facts.is_file() && !facts.is_symlink();
                if always || (is_wanted && !left_out && !is_special) {
                    entries.push(Entry {
                        path,
                        facts,
                        digest: None,
                    });
                }
            }
        }
        entries.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(entries)
    }
}

fn is_below(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder)
        .is_some_and(|rest| rest.starts_with('/'))
}

fn digest_of(path: &Path) -> io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&hash.finalize())),
            count => hash.update(&buffer[..count]),
        }
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::fs;

    struct Place(tempfile::TempDir);

    impl Place {
        fn new(files: &[(&str, &str)]) -> Place {
            let place = Place(tempfile::tempdir().expect("a folder"));
            for (name, content) in files {
                let path = place.0.path().join(name);
                fs::create_dir_all(path.parent().expect("a parent")).expect("made");
                fs::write(path, content).expect("written");
            }
            place
        }

        /// Names that are sent, folders with a slash, joined by spaces.
        fn sent(&self, taken: &Taken) -> String {
            let recipe =
                Recipe::read(self.0.path(), DockerfileFrom::File(None)).expect("a Dockerfile");
            let context = Context::collect(self.0.path(), recipe, taken).expect("collected");
            names(&context)
        }
    }

    fn names(context: &Context) -> String {
        let mut bytes = Vec::new();
        context.write(&mut bytes).expect("memory");
        let mut archive = tar::Archive::new(&bytes[..]);
        let names = archive.entries().expect("a tar").map(|entry| {
            let entry = entry.expect("an entry");
            entry.path().expect("a name").to_string_lossy().into_owned()
        });
        names.collect::<Vec<_>>().join(" ")
    }

    fn paths(list: &[&str]) -> Taken {
        Taken::Paths(list.iter().map(|path| (*path).to_owned()).collect())
    }

    #[test]
    fn only_what_is_taken_is_sent() {
        let place = Place::new(&[
            ("Dockerfile", "FROM scratch"),
            (
                ".dockerignore",
                "**/*.log\nnode_modules\n!node_modules/keep",
            ),
            ("src/a", "a"),
            ("src/x.log", "x"),
            ("src/deep/b", "b"),
            ("node_modules/keep/file", "k"),
            ("node_modules/other", "o"),
            ("README", "r"),
        ]);
        assert_eq!(
            place.sent(&Taken::Everything),
            ".dockerignore Dockerfile README node_modules/keep node_modules/keep/file src src/a src/deep src/deep/b"
        );
        assert_eq!(
            place.sent(&paths(&["src/deep", "nothing"])),
            ".dockerignore Dockerfile src/deep src/deep/b"
        );
        assert_eq!(
            place.sent(&paths(&["s*/a", "*.md"])),
            ".dockerignore Dockerfile src/a"
        );
        assert_eq!(place.sent(&paths(&[])), ".dockerignore Dockerfile");
    }

    #[cfg(unix)]
    #[test]
    fn links_on_the_way_make_it_everything() {
        let place = Place::new(&[("Dockerfile", "FROM scratch"), ("real/file", "x")]);
        std::os::unix::fs::symlink("real", place.0.path().join("link")).expect("made");
        for path in ["link", "link/file", "li*"] {
            assert_eq!(
                place.sent(&paths(&[path])),
                "Dockerfile link real real/file",
                "{path}"
            );
        }
        assert_eq!(place.sent(&paths(&["real"])), "Dockerfile real real/file");
    }

    #[test]
    fn a_dockerfile_from_elsewhere_comes_along_and_is_left_out_of_the_image() {
        let place = Place::new(&[("file", "x"), (".dockerignore", "*.log")]);
        let read = |from| Recipe::read(place.0.path(), from).expect("good");
        let recipe = read(DockerfileFrom::Text(b"FROM scratch".to_vec()));
        let name = recipe.path.clone();
        assert!(name.starts_with(".dockerfile."), "{name}");
        let rules = String::from_utf8(recipe.extra.files[".dockerignore"].clone()).expect("text");
        assert_eq!(rules, format!("*.log\n{name}\n"));
        let context =
            Context::collect(place.0.path(), recipe, &Taken::Everything).expect("collected");
        assert_eq!(names(&context), format!("file {name} .dockerignore"));
        let other = Place::new(&[("build.txt", "FROM scratch")]);
        let named = other.0.path().join("build.txt");
        let recipe = read(DockerfileFrom::File(Some(&named)));
        assert!(recipe.path.starts_with(".dockerfile."));
        let none = place.0.path().join("none");
        let error = Recipe::read(place.0.path(), DockerfileFrom::File(Some(&none)));
        let error = error.err().expect("not there").to_string();
        assert!(error.contains("no such file"), "{error}");
    }

    #[test]
    fn rules_of_the_dockerfile_itself_come_first() {
        let place = Place::new(&[
            ("Dockerfile", "FROM scratch"),
            ("Dockerfile.dockerignore", "b"),
            (".dockerignore", "a"),
            ("a", "a"),
            ("b", "b"),
        ]);
        assert_eq!(
            place.sent(&Taken::Everything),
            ".dockerignore Dockerfile Dockerfile.dockerignore a"
        );
    }

    #[test]
    fn contents_that_the_engine_has_are_left_out() {
        let large = "x".repeat(ASK_FROM as usize);
        let place = Place::new(&[
            ("Dockerfile", "FROM scratch"),
            ("large", &large),
            ("again", &large),
        ]);
        let recipe = Recipe::read(place.0.path(), DockerfileFrom::File(None)).expect("good");
        let mut context =
            Context::collect(place.0.path(), recipe, &Taken::Everything).expect("collected");
        let digests = context.digests().expect("read");
        assert_eq!(digests.len(), 2);
        let digest = hex(&Sha256::digest(&large));
        assert!(digests.contains(&digest));
        let mut whole = Vec::new();
        context.write(&mut whole).expect("memory");
        context.set_known(HashSet::from([digest.clone()]));
        assert!(context.leaves_out());
        let mut short = Vec::new();
        context.write(&mut short).expect("memory");
        assert!(whole.len() > large.len() && short.len() < 16 * 1024);
        let mut archive = tar::Archive::new(&short[..]);
        let mut known = BTreeSet::new();
        for entry in archive.entries().expect("a tar") {
            let mut entry = entry.expect("an entry");
            let name = entry.path().expect("a name").into_owned();
            let extensions = entry.pax_extensions().expect("read");
            for extension in extensions.into_iter().flatten().flatten() {
                assert_eq!(extension.key(), Ok("BERTH.sha256"));
                assert_eq!(extension.value(), Ok(&digest[..]));
                known.insert(name.clone());
            }
        }
        assert_eq!(known.len(), 2);
    }
}
