//! What a build takes from its context: so that a client sends that and no more. Wherever this cannot be told for
//! certain, the answer is everything.
//!
//! ```text
//! Dockerfile, target, arguments -> base_images() -> what the engine says of those -> taken() -> patterns
//! ```

use crate::arguments::Arguments;
use crate::file::{Dockerfile, Stage};
use crate::ignore::clean;
use crate::instruction::{CopyFiles, Instruction, Source};
use crate::mount::{Mount, MountError, MountKind};
use crate::nearest;
use crate::words::Expander;
use std::collections::{BTreeMap, BTreeSet};

/// What must be known of a base image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Base {
    /// `NAME=value`
    pub environment: Vec<String>,
    /// Instructions that run in builds on this image.
    pub on_build: Vec<String>,
}

/// What is taken of a context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    Everything,
    /// Patterns of paths, cleaned; what is below a path that matches belongs to it.
    Paths(BTreeSet<String>),
}

/// A `FROM` that names a stage which is not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("target stage {name:?} could not be found{hint}")]
pub struct NoSuchTarget {
    pub name: String,
    hint: String,
}

/// Names ([`context_name`]) of what the client puts in the place of stages and images: `--build-context`.
pub type Contexts = BTreeSet<String>;

/// A name as BuildKit compares them: `docker.io/library/alpine:latest` is `alpine`.
pub fn context_name(name: &str) -> String {
    let without_tag = name.strip_suffix(":latest").unwrap_or(name);
    let path = ["docker.io/", "index.docker.io/"]
        .iter()
        .find_map(|domain| without_tag.strip_prefix(domain))
        .unwrap_or(without_tag);
    match path.strip_prefix("library/") {
        Some(short) if !short.contains('/') => short.to_owned(),
        _ => path.to_owned(),
    }
}

/// Images (not stages, not `scratch`) that the stages needed for `target` are built on, and that files are copied from.
/// Empty `target`: the last stage.
pub fn base_images(
    file: &Dockerfile,
    target: &str,
    arguments: &Arguments,
    contexts: &Contexts,
) -> Result<BTreeSet<String>, NoSuchTarget> {
    let mut reader = Reader::new(file, target, arguments, contexts, None)?;
    reader.read();
    Ok(reader.images)
}

/// What is taken, with the facts of the base images; an image that is missing there makes it everything.
pub fn taken(
    file: &Dockerfile,
    target: &str,
    arguments: &Arguments,
    contexts: &Contexts,
    bases: &BTreeMap<String, Base>,
) -> Result<Taken, NoSuchTarget> {
    let mut reader = Reader::new(file, target, arguments, contexts, Some(bases))?;
    reader.read();
    Ok(match reader.everything {
        true => Taken::Everything,
        false => Taken::Paths(reader.paths),
    })
}

struct Reader<'a> {
    file: &'a Dockerfile,
    /// Those of the part before the first `FROM` are declared.
    arguments: Arguments,
    contexts: &'a Contexts,
    bases: Option<&'a BTreeMap<String, Base>>,
    /// Stages to look at.
    waiting: Vec<usize>,
    seen: BTreeSet<usize>,
    images: BTreeSet<String>,
    paths: BTreeSet<String>,
    everything: bool,
}

/// Variables of a stage.
#[derive(Clone)]
struct Scope {
    environment: BTreeMap<String, String>,
    arguments: Arguments,
}

impl Scope {
    fn set(&mut self, variable: &str) {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        self.environment.insert(name.to_owned(), value.to_owned());
    }

    /// `None` where it is wrong; the engine says how.
    fn expand(&self, escape: char, word: &str) -> Option<String> {
        let lookup = |name: &str| {
            let own = self.environment.get(name).cloned();
            own.or_else(|| self.arguments.get(name))
        };
        let expander = Expander {
            escape,
            lookup: &lookup,
            raw_quotes: false,
        };
        expander.word(word).ok()
    }
}

impl<'a> Reader<'a> {
    fn new(
        file: &'a Dockerfile,
        target: &str,
        arguments: &Arguments,
        contexts: &'a Contexts,
        bases: Option<&'a BTreeMap<String, Base>>,
    ) -> Result<Reader<'a>, NoSuchTarget> {
        let mut arguments = arguments.clone();
        for step in &file.arguments {
            if let Instruction::Arg(declared) = &step.instruction {
                for (name, default) in declared {
                    let default = default.as_deref().map(|text| {
                        expand_global(file.escape, &arguments, text)
                            .unwrap_or_else(|| text.to_owned())
                    });
                    arguments.declare_global(name.clone(), default);
                }
            }
        }
        let target = match target {
            "" => file.stages.len().saturating_sub(1),
            name => find_stage(file, file.stages.len(), name).ok_or_else(|| NoSuchTarget {
                name: name.to_owned(),
                hint: nearest::hint(name, stage_names(file)),
            })?,
        };
        Ok(Reader {
            file,
            arguments,
            contexts,
            bases,
            waiting: vec![target],
            seen: BTreeSet::new(),
            images: BTreeSet::new(),
            paths: BTreeSet::new(),
            everything: false,
        })
    }

    fn read(&mut self) {
        while let Some(index) = self.waiting.pop() {
            if self.seen.insert(index) {
                self.scope_at_end(index);
            }
        }
    }

    /// Notes what a stage takes, and answers what variables there are at its end.
    fn scope_at_end(&mut self, index: usize) -> Scope {
        // A chain of stages is followed from its first one on: no recursion, whatever somebody wrote.
        let mut chain = vec![index];
        let (triggers, mut scope) = loop {
            let at = *chain.last().unwrap_or(&index);
            let base = self.base_of(&self.file.stages[at], at);
            match base {
                BaseOf::Stage(earlier) => chain.push(earlier),
                BaseOf::Image(found) => {
                    let mut scope = self.empty_scope();
                    for variable in &found.environment {
                        scope.set(variable);
                    }
                    break (found.on_build, scope);
                }
            }
        };
        for at in chain.iter().rev() {
            let is_first = Some(at) == chain.last();
            self.seen.insert(*at);
            // Of what stands in for a stage neither triggers nor instructions are done.
            if self.context_of(*at).is_some() {
                continue;
            }
            if is_first {
                self.triggers(&triggers, &mut scope, *at);
            }
            for step in &self.file.stages[*at].steps {
                self.instruction(&step.instruction, &mut scope, *at);
            }
        }
        scope
    }

    fn empty_scope(&self) -> Scope {
        Scope {
            environment: BTreeMap::new(),
            arguments: self.arguments.for_stage(),
        }
    }

    /// What the client has put in the place of a stage.
    fn context_of(&self, at: usize) -> Option<&'a str> {
        let name = self.file.stages[at].name.as_deref()?;
        self.contexts.get(&context_name(name)).map(String::as_str)
    }

    fn base_of(&mut self, stage: &Stage, at: usize) -> BaseOf {
        if let Some(context) = self.context_of(at) {
            return self.image(context.to_owned());
        }
        let Some(name) = expand_global(self.file.escape, &self.arguments, &stage.base) else {
            self.everything = true;
            return BaseOf::Image(Base::default());
        };
        if let Some(earlier) = find_stage_by_name(self.file, at, &name) {
            return BaseOf::Stage(earlier);
        }
        if name == "scratch" || name.is_empty() {
            return BaseOf::Image(Base::default());
        }
        self.image(name)
    }

    fn image(&mut self, name: String) -> BaseOf {
        let context = Some(context_name(&name)).filter(|short| self.contexts.contains(short));
        let name = context.unwrap_or(name);
        self.images.insert(name.clone());
        match self.bases.map(|bases| bases.get(&name)) {
            Some(Some(base)) => BaseOf::Image(base.clone()),
            Some(None) => {
                self.everything = true;
                BaseOf::Image(Base::default())
            }
            None => BaseOf::Image(Base::default()),
        }
    }

    fn triggers(&mut self, triggers: &[String], scope: &mut Scope, stage: usize) {
        for trigger in triggers {
            let text = format!("FROM scratch\n{trigger}\n");
            match Dockerfile::parse(text.as_bytes()) {
                Ok(read) => {
                    for step in read.stages.iter().flat_map(|stage| &stage.steps) {
                        self.instruction(&step.instruction, scope, stage);
                    }
                }
                Err(_) => self.everything = true,
            }
        }
    }

    fn instruction(&mut self, instruction: &Instruction, scope: &mut Scope, stage: usize) {
        let escape = self.file.escape;
        match instruction {
            Instruction::Arg(declared) => {
                for (name, default) in declared {
                    let default = default
                        .as_deref()
                        .map(|text| scope.expand(escape, text).unwrap_or_default());
                    scope.arguments.declare(name.clone(), default);
                }
            }
            Instruction::Env(pairs) => {
                // All of one instruction see what was before it.
                let expanded: Vec<(String, String)> = pairs
                    .iter()
                    .filter_map(|(name, value)| {
                        Some((scope.expand(escape, name)?, scope.expand(escape, value)?))
                    })
                    .collect();
                scope.environment.extend(expanded);
            }
            Instruction::Copy(copy) | Instruction::Add(copy) => self.copy(copy, scope, stage),
            Instruction::Run(run) => {
                for mount in &run.mounts {
                    let wrong = || MountError::Type(mount.clone());
                    let expand = |value: &str| scope.expand(escape, value).ok_or_else(wrong);
                    match Mount::parse_with(mount, expand) {
                        Ok(mount) => self.mount(&mount.kind, stage),
                        Err(_) => self.everything = true,
                    }
                }
            }
            _ => {}
        }
    }

    fn copy(&mut self, copy: &CopyFiles, scope: &Scope, stage: usize) {
        if let Some(from) = &copy.from {
            match scope.expand(self.file.escape, from) {
                Some(from) => self.other(&from, stage),
                None => self.everything = true,
            }
            return;
        }
        for source in &copy.sources {
            let Source::Path(path) = source else {
                continue;
            };
            match scope.expand(self.file.escape, path) {
                Some(path) => self.path(&path),
                None => self.everything = true,
            }
        }
    }

    fn mount(&mut self, kind: &MountKind, stage: usize) {
        match kind {
            MountKind::Bind { from: None, source } => self.path(source),
            MountKind::Bind {
                from: Some(from), ..
            }
            | MountKind::Cache {
                from: Some(from), ..
            } => self.other(from, stage),
            _ => {}
        }
    }

    /// A stage, an image, or a context of another name.
    fn other(&mut self, name: &str, stage: usize) {
        match find_stage(self.file, stage, name) {
            Some(other) if !self.contexts.contains(&context_name(name)) => {
                self.waiting.push(other);
            }
            // Its instructions for builds do not run here, but it may need a password.
            _ => {
                if self.bases.is_none_or(|bases| bases.contains_key(name)) {
                    self.images.insert(name.to_owned());
                }
            }
        }
    }

    fn path(&mut self, path: &str) {
        if path.contains("://") || path.starts_with("git@") {
            return;
        }
        match clean(&format!("/{path}")) {
            all if all.is_empty() => self.everything = true,
            path => drop(self.paths.insert(path)),
        }
    }
}

/// The names of all stages that have one.
pub fn stage_names(file: &Dockerfile) -> impl Iterator<Item = &str> {
    let stages = file.stages.iter();
    stages.filter_map(|stage| stage.name.as_deref())
}

enum BaseOf {
    Stage(usize),
    Image(Base),
}

fn expand_global(escape: char, arguments: &Arguments, text: &str) -> Option<String> {
    let lookup = |name: &str| arguments.global(name);
    let expander = Expander {
        escape,
        lookup: &lookup,
        raw_quotes: false,
    };
    expander.word(text).ok()
}

/// By name or number, among the first `before` stages; the last one of a name counts.
fn find_stage(file: &Dockerfile, before: usize, name: &str) -> Option<usize> {
    find_stage_by_name(file, before, name)
        .or_else(|| name.parse().ok().filter(|number| *number < before))
}

fn find_stage_by_name(file: &Dockerfile, before: usize, name: &str) -> Option<usize> {
    let name = name.to_ascii_lowercase();
    file.stages[..before]
        .iter()
        .rposition(|stage| stage.name.as_deref() == Some(&name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::PlatformNames;

    fn arguments(given: &[(&str, &str)]) -> Arguments {
        let given = given
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Arguments::new(given, &PlatformNames::default(), &PlatformNames::default())
    }

    fn base(environment: &[&str], on_build: &[&str]) -> Base {
        let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        Base {
            environment: owned(environment),
            on_build: owned(on_build),
        }
    }

    /// Expected paths, joined by spaces; `*all*` for everything.
    #[track_caller]
    fn check(text: &str, target: &str, expected: &str) {
        let file = Dockerfile::parse(text.as_bytes()).expect("a Dockerfile");
        let bases = BTreeMap::from([
            ("base".to_owned(), base(&["DIR=from-base"], &[])),
            ("there".to_owned(), base(&["DIR=put"], &[])),
            (
                "trigger".to_owned(),
                base(&[], &["COPY onbuild/file /x", "ENV A=b"]),
            ),
        ]);
        let contexts = Contexts::from(["there".to_owned()]);
        let arguments = arguments(&[("GIVEN", "g")]);
        let taken = taken(&file, target, &arguments, &contexts, &bases).expect("a stage");
        let shown = match taken {
            Taken::Everything => "*all*".to_owned(),
            Taken::Paths(paths) => paths.into_iter().collect::<Vec<_>>().join(" "),
        };
        assert_eq!(shown, expected, "{text}");
    }

    #[test]
    fn sources_are_collected() {
        check(
            "FROM base\nCOPY a b/ ./c/../d /e/*.txt /dest/",
            "",
            "a b d e/*.txt",
        );
        check("FROM base\nCOPY . /x", "", "*all*");
        check("FROM base\nCOPY ../.. /x", "", "*all*");
        check(
            "FROM base\nRUN true\nADD https://a/b git@h:x.git f /",
            "",
            "f",
        );
        check(
            "FROM base\nCOPY <<X /x\nhello\nX\nCOPY [\"a b\", \"/x\"]",
            "",
            "a b",
        );
        check(
            "FROM base\nRUN --mount=type=bind,source=s,target=/s --mount=type=cache,target=/c true",
            "",
            "s",
        );
        check("FROM base\nRUN --mount=target=/s true", "", "*all*");
        check("FROM scratch\nENV A=1", "", "");
    }

    #[test]
    fn variables_are_those_of_the_build() {
        check("FROM base\nCOPY $DIR/x /", "", "from-base/x");
        check("FROM base\nENV DIR=own\nCOPY $DIR/x /", "", "own/x");
        check("ARG A=1\nFROM base\nARG A\nCOPY a$A /", "", "a1");
        check("ARG A=1\nFROM base\nCOPY a$A /", "", "a");
        check(
            "FROM base\nARG GIVEN=x\nCOPY ${GIVEN}${NONE:-y} /",
            "",
            "gy",
        );
        check("FROM base AS one\nENV D=q\nFROM one\nCOPY $D /", "", "q");
        check("FROM base AS one\nARG D=q\nFROM one\nCOPY x$D /", "", "xq");
        check("FROM base\nCOPY ${A /", "", "*all*");
        check("FROM base\nCOPY ${A:?} /", "", "*all*");
    }

    #[test]
    fn only_stages_that_are_needed_count() {
        let text = "FROM base AS a\nCOPY a /\nFROM base AS b\nCOPY b /\nFROM base AS c\nCOPY --from=a /a /\nCOPY c /";
        check(text, "", "a c");
        check(text, "B", "b");
        check(text, "0", "a");
        check(
            "FROM base AS a\nCOPY a /\nFROM base\nRUN --mount=from=0,target=/a true",
            "",
            "a",
        );
        let file = Dockerfile::parse(text.as_bytes()).expect("good");
        let error = taken(
            &file,
            "none",
            &arguments(&[]),
            &Contexts::new(),
            &BTreeMap::new(),
        )
        .expect_err("none");
        assert_eq!(
            error.to_string(),
            "target stage \"none\" could not be found"
        );
        let near = Dockerfile::parse(b"FROM x AS build").expect("good");
        let error =
            base_images(&near, "biuld", &arguments(&[]), &Contexts::new()).expect_err("none");
        assert_eq!(
            error.to_string(),
            "target stage \"biuld\" could not be found (did you mean build?)"
        );
    }

    #[test]
    fn what_the_client_puts_there_is_not_built() {
        let text =
            "FROM base AS there\nCOPY left /\nFROM there\nCOPY $DIR /\nCOPY --from=there x /";
        check(text, "", "put");
        check(
            "FROM docker.io/library/there:latest\nCOPY $DIR /",
            "",
            "put",
        );
        // Triggers of an image that stands in for a stage are not done.
        let file = Dockerfile::parse(b"FROM x AS there\nFROM there\nCOPY y /").expect("good");
        let bases = BTreeMap::from([("there".to_owned(), base(&[], &["COPY onbuild /"]))]);
        let contexts = Contexts::from(["there".to_owned()]);
        let paths = taken(&file, "", &arguments(&[]), &contexts, &bases).expect("a stage");
        assert_eq!(paths, Taken::Paths(["y".to_owned()].into()));
        let file = Dockerfile::parse(text.as_bytes()).expect("good");
        let contexts = Contexts::from(["there".to_owned()]);
        let images = base_images(&file, "", &arguments(&[]), &contexts).expect("a stage");
        assert_eq!(images.into_iter().collect::<Vec<_>>(), ["there"]);
        for (name, expected) in [
            ("docker.io/library/a:latest", "a"),
            ("library/a", "a"),
            ("docker.io/me/a", "me/a"),
            ("docker.io/library/a/b", "library/a/b"),
            ("host:1/library/a:1", "host:1/library/a:1"),
        ] {
            assert_eq!(context_name(name), expected);
        }
    }

    #[test]
    fn base_images_decide_too() {
        check("FROM trigger\nCOPY x /", "", "onbuild/file x");
        check(
            "FROM trigger AS t\nFROM t\nCOPY x$A /",
            "",
            "onbuild/file xb",
        );
        check("FROM unknown\nCOPY x /", "", "*all*");
        let file = Dockerfile::parse(
            b"ARG T=1\nFROM host:5000/a:$T AS x\nFROM scratch\nFROM x\nCOPY --from=other:2 /a /b\nFROM unused",
        )
        .expect("good");
        let images = base_images(&file, "2", &arguments(&[]), &Contexts::new()).expect("a stage");
        assert_eq!(
            images.into_iter().collect::<Vec<_>>(),
            ["host:5000/a:1", "other:2"]
        );
    }

    proptest::proptest! {
        #[test]
        fn any_dockerfile_ends(text in "(FROM [a-c]( AS [a-c])?\n|COPY (--from=[a-c0-3] )?[$a-c/.]{1,4} /x\n|ENV [a-c]=[$a-c]{0,4}\n|ARG [a-c]\n|RUN --mount=from=[a-c],target=/x a\n){1,12}") {
            if let Ok(file) = Dockerfile::parse(text.as_bytes()) {
                let bases = BTreeMap::from([("a".to_owned(), Base::default())]);
                let contexts = Contexts::from(["c".to_owned()]);
                let _ = taken(&file, "", &arguments(&[]), &contexts, &bases);
                let _ = base_images(&file, "", &arguments(&[]), &contexts);
            }
        }
    }
}
