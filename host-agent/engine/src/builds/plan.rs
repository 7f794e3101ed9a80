//! Which stages a build needs, and which stage waits for which. Pure.
//!
//! A stage can only name stages above it, so that there is no circle to look for.

use super::arguments::Arguments;
use super::dockerfile::{Dockerfile, DockerfileError, Stage};
use super::error::BuildError;
use super::event::PlannedStep;
use super::instruction::{Instruction, Step};
use super::mount::{Mount, MountKind};
use super::stage_state::StepError;
use super::words::Expander;
use super::{nearest, needs};
use crate::images::Platform;
use std::collections::{BTreeMap, BTreeSet};

/// Where a stage begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    Scratch,
    /// An earlier stage, by its position in the Dockerfile.
    Stage(usize),
    /// An image's name (or that of a named context).
    Image(String),
}

/// A stage that is needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedStage {
    pub base: Base,
    pub platform: Option<String>,
    /// Stages that have to be there, also for single steps.
    pub needs: BTreeSet<usize>,
    /// Index of its `FROM` among all steps that are done.
    pub first_step: usize,
    /// The client has put something in its place.
    pub replaced: bool,
}

/// What is to be done.
#[derive(Debug, Clone)]
pub struct Plan {
    /// By position in the Dockerfile.
    pub stages: BTreeMap<usize, PlannedStage>,
    pub target: usize,
    /// In the order of the Dockerfile.
    pub steps: Vec<PlannedStep>,
    /// With the `ARG`s before the first `FROM`.
    pub arguments: Arguments,
}

/// The stage a name or number stands for, among those above `below`; a later one of the same name counts.
pub fn find_stage(stages: &[Stage], name: &str, below: usize) -> Option<usize> {
    let lower = name.to_ascii_lowercase();
    let by_name = stages[..below]
        .iter()
        .rposition(|stage| stage.name.as_deref() == Some(lower.as_str()));
    by_name.or_else(|| name.parse().ok().filter(|number| *number < below))
}

/// Names of stages, images and contexts in an instruction's `from`, as written.
pub fn sources_of(instruction: &Instruction) -> Vec<String> {
    match instruction {
        Instruction::Copy(copy) | Instruction::Add(copy) => copy.from.iter().cloned().collect(),
        Instruction::Run(run) => run
            .mounts
            .iter()
            // What is wrong with a mount is told when its variables are known.
            .filter_map(|text| Mount::parse(text).ok())
            .filter_map(|mount| match mount.kind {
                MountKind::Bind { from, .. } | MountKind::Cache { from, .. } => from,
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    }
}

/// Whether an instruction may read the context.
pub fn may_read_context(instruction: &Instruction) -> bool {
    match instruction {
        Instruction::Copy(copy) | Instruction::Add(copy) => copy.from.is_none(),
        Instruction::Run(run) => run.mounts.iter().any(|text| match Mount::parse(text) {
            Ok(mount) => matches!(mount.kind, MountKind::Bind { from: None, .. }),
            // With its variables known it may be one.
            Err(_) => true,
        }),
        _ => false,
    }
}

impl Plan {
    /// `given` are the build arguments, `target` the name of the wanted stage, `labels` what is put on it. A stage that
    /// `is_context` says to be one of the client's is that and no more.
    pub fn of(
        file: &mut Dockerfile,
        given: BTreeMap<String, String>,
        platform: &Platform,
        target: &str,
        labels: &BTreeMap<String, String>,
        is_context: impl Fn(&str) -> bool,
    ) -> Result<Plan, BuildError> {
        let arguments = global_arguments(file, given, platform)?;
        let count = file.stages.len();
        if count == 0 {
            return Err(DockerfileError::Line {
                line: 0,
                column: 0,
                message: "no build stage in current context".into(),
                shown: String::new(),
            }
            .into());
        }
        let target = match target {
            "" => count - 1,
            name => find_stage(&file.stages, name, count).ok_or_else(|| {
                let hint = nearest::hint(name, needs::stage_names(file));
                BuildError::Invalid(format!(
                    "failed to reach build target {name} in Dockerfile{hint}"
                ))
            })?,
        };
        let replaced = |stage: &Stage| stage.name.as_deref().is_some_and(&is_context);
        let replaced: BTreeSet<usize> = (0..count)
            .filter(|index| replaced(&file.stages[*index]))
            .collect();
        for index in &replaced {
            file.stages[*index].steps.clear();
        }
        if !labels.is_empty() {
            let line = file.stages[target].line;
            file.stages[target].steps.extend(label_steps(labels, line));
        }
        let mut stages = BTreeMap::new();
        let mut wanted = vec![target];
        while let Some(index) = wanted.pop() {
            if stages.contains_key(&index) {
                continue;
            }
            let stage = match replaced.contains(&index) {
                true => context_stage(&file.stages[index]),
                false => plan_stage(file, index, &arguments, &is_context)?,
            };
            wanted.extend(stage.needs.iter().copied());
            stages.insert(index, stage);
        }
        let mut steps = Vec::new();
        for (index, planned) in &mut stages {
            let stage = &file.stages[*index];
            planned.first_step = steps.len();
            let of = stage.steps.len() + 1;
            let step = |number: usize, line: usize, text: &str, needs: Vec<usize>| PlannedStep {
                stage: *index,
                stage_name: stage.name.clone(),
                number,
                of,
                line,
                text: text.to_owned(),
                needs,
            };
            steps.push(step(1, stage.line, &stage.text, Vec::new()));
            for (at, inner) in stage.steps.iter().enumerate() {
                steps.push(step(
                    at + 2,
                    inner.line,
                    &inner.text,
                    vec![planned.first_step + at],
                ));
            }
        }
        // What a step needs of other stages is their last step.
        let last_of = |stage: usize| stages[&stage].first_step + file.stages[stage].steps.len();
        for (index, planned) in &stages {
            let stage = &file.stages[*index];
            if let Base::Stage(base) = planned.base {
                steps[planned.first_step].needs.push(last_of(base));
            }
            for (at, inner) in stage.steps.iter().enumerate() {
                for name in sources_of(&inner.instruction) {
                    if !is_context(&name)
                        && let Some(other) = find_stage(&file.stages, &name, *index)
                    {
                        steps[planned.first_step + at + 1]
                            .needs
                            .push(last_of(other));
                    }
                }
            }
        }
        Ok(Plan {
            stages,
            target,
            steps,
            arguments,
        })
    }
}

impl Plan {
    /// Steps that may read the context. `FROM` is one: what an image's triggers do is known when the image is here.
    pub fn context_readers(&self, file: &Dockerfile) -> usize {
        let read_in = |(index, planned): (&usize, &PlannedStage)| {
            let steps = file.stages[*index].steps.iter();
            let own = steps.filter(|step| may_read_context(&step.instruction));
            own.count() + usize::from(planned.may_have_triggers())
        };
        self.stages.iter().map(read_in).sum()
    }
}

impl PlannedStage {
    /// Whether `ONBUILD` instructions of its base are to be done. What stands in for a stage is a result already, and its
    /// instructions are not done (`dockerfile2llb` of BuildKit counts such a stage as dispatched).
    pub fn may_have_triggers(&self) -> bool {
        !self.replaced && !matches!(self.base, Base::Scratch)
    }
}

fn global_arguments(
    file: &Dockerfile,
    given: BTreeMap<String, String>,
    platform: &Platform,
) -> Result<Arguments, BuildError> {
    let native = Platform::host();
    let mut arguments = Arguments::new(given, &platform.into(), &(&native).into());
    for step in &file.arguments {
        let Instruction::Arg(declared) = &step.instruction else {
            return Err(BuildError::in_step(
                step,
                BuildError::Invalid("no build stage in current context".into()),
            ));
        };
        for (name, default) in declared {
            let default = match default {
                None => None,
                Some(text) => Some(
                    expand(text, file.escape, &arguments)
                        .map_err(|error| BuildError::in_step(step, error.into()))?,
                ),
            };
            arguments.declare_global(name.clone(), default);
        }
    }
    Ok(arguments)
}

/// Expands what stands before the first stage, or in a `FROM`.
fn expand(text: &str, escape: char, arguments: &Arguments) -> Result<String, StepError> {
    let lookup = |name: &str| arguments.global(name);
    let expander = Expander {
        escape,
        lookup: &lookup,
        raw_quotes: false,
    };
    expander.word(text).map_err(|source| StepError::Word {
        text: text.to_owned(),
        source,
    })
}

/// A stage in whose place the client has put something.
fn context_stage(stage: &Stage) -> PlannedStage {
    PlannedStage {
        base: Base::Image(stage.name.clone().unwrap_or_default()),
        platform: stage.platform.clone().filter(|text| !text.contains('$')),
        needs: BTreeSet::new(),
        first_step: 0,
        replaced: true,
    }
}

fn plan_stage(
    file: &Dockerfile,
    index: usize,
    arguments: &Arguments,
    is_context: &impl Fn(&str) -> bool,
) -> Result<PlannedStage, BuildError> {
    let stage = &file.stages[index];
    let wrong = |error: BuildError| BuildError::in_from(stage, error);
    let name = expand(&stage.base, file.escape, arguments).map_err(|error| wrong(error.into()))?;
    let platform = stage
        .platform
        .as_ref()
        .map(|text| expand(text, file.escape, arguments))
        .transpose()
        .map_err(|error| wrong(error.into()))?;
    let by_name = |name: &str| {
        let lower = name.to_ascii_lowercase();
        file.stages[..index]
            .iter()
            .rposition(|stage| stage.name.as_deref() == Some(lower.as_str()))
    };
    let base = match name.as_str() {
        "" => {
            return Err(wrong(BuildError::Invalid(format!(
                "base name ({}) should not be blank",
                stage.base
            ))));
        }
        "scratch" => Base::Scratch,
        // A number is not a stage here: it may be an image's id.
        name => match by_name(name) {
            Some(earlier) => Base::Stage(earlier),
            None => Base::Image(name.to_owned()),
        },
    };
    let mut needs = BTreeSet::new();
    if let Base::Stage(earlier) = base {
        needs.insert(earlier);
    }
    for step in &stage.steps {
        for name in sources_of(&step.instruction) {
            let wrong = |text: String| BuildError::in_step(step, BuildError::Invalid(text));
            if name.contains('$') {
                return Err(wrong(format!(
                    "variables are not expanded in from={name}: name a stage for it (FROM {name} AS ...) and use that"
                )));
            }
            match find_stage(&file.stages, &name, index) {
                // The files are taken from what the client has put there.
                _ if is_context(&name) => {}
                Some(earlier) => {
                    needs.insert(earlier);
                }
                None => check_unknown(file, &name, index).map_err(wrong)?,
            }
        }
    }
    Ok(PlannedStage {
        base,
        platform,
        needs,
        first_step: 0,
        replaced: false,
    })
}

/// A name that is no stage above is an image, unless it is a stage all the same.
fn check_unknown(file: &Dockerfile, name: &str, index: usize) -> Result<(), String> {
    let count = file.stages.len();
    match find_stage(&file.stages, name, count) {
        Some(same) if same == index => Err(format!("a stage cannot copy from itself: {name}")),
        Some(_) => Err(format!(
            "circular or forward dependency: stage {name} is below the stage that uses it"
        )),
        None if name.parse::<usize>().is_ok() => Err(format!(
            "invalid from flag value {name}: there are {count} stages, and only those above can be used"
        )),
        None => Ok(()),
    }
}

/// `--label` as instructions, one for each, as Docker does it.
fn label_steps(labels: &BTreeMap<String, String>, line: usize) -> Vec<Step> {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "'\"'\"'"));
    labels
        .iter()
        .map(|(name, value)| (quoted(name), quoted(value)))
        .map(|(name, value)| Step {
            line,
            column: 1,
            is_one_line: true,
            text: format!("LABEL {name}={value}"),
            instruction: Instruction::Label(vec![(name, value)]),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(text: &str, target: &str) -> Result<Plan, String> {
        let mut file = Dockerfile::parse(text.as_bytes()).map_err(|error| error.to_string())?;
        let labels = BTreeMap::new();
        Plan::of(
            &mut file,
            BTreeMap::new(),
            &Platform::host(),
            target,
            &labels,
            |name| name == "replaced",
        )
        .map_err(|error| crate::error::full_message(&error))
    }

    #[test]
    fn only_stages_that_are_needed_are_planned() {
        let text = "ARG base=busybox\nFROM $base AS a\nRUN a\nFROM a AS unused\nRUN no\nFROM scratch AS b\nCOPY x /\n\
                    FROM scratch\nCOPY --from=a /x /\nCOPY --from=2 /y /\nRUN --mount=type=bind,from=b,target=/m z";
        let whole = plan(text, "").expect("good");
        assert_eq!(whole.stages.keys().copied().collect::<Vec<_>>(), [0, 2, 3]);
        assert_eq!(whole.stages[&0].base, Base::Image("busybox".into()));
        assert_eq!(whole.stages[&3].needs, BTreeSet::from([0, 2]));
        let needs: Vec<_> = whole.steps.iter().map(|step| step.needs.clone()).collect();
        assert_eq!(
            needs,
            [
                vec![],
                vec![0],
                vec![],
                vec![2],
                vec![],
                vec![4, 1],
                vec![5, 3],
                vec![6, 3]
            ]
        );
        let part = plan(text, "unused").expect("good");
        assert_eq!(part.stages.keys().copied().collect::<Vec<_>>(), [0, 1]);
        assert_eq!(part.stages[&1].base, Base::Stage(0));
    }

    #[test]
    fn stages_cannot_go_in_circles() {
        for (text, expected) in [
            (
                "FROM x AS a\nCOPY --from=b / /\nFROM a AS b",
                "stage b is below",
            ),
            ("FROM x AS a\nCOPY --from=a / /", "cannot copy from itself"),
            ("FROM x\nCOPY --from=0 / /", "cannot copy from itself"),
            ("FROM x\nCOPY --from=7 / /", "invalid from flag value 7"),
            ("FROM $nothing", "should not be blank"),
            (
                "ARG a=1\nFROM x\nCOPY --from=$a / /",
                "variables are not expanded in from=$a",
            ),
        ] {
            // The target is the first stage where there are two.
            let error = plan(text, "0").expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
        assert!(
            plan("FROM x", "y")
                .expect_err("no")
                .contains("failed to reach build target y")
        );
        // A stage of an image's own name is that image's.
        assert_eq!(
            plan("FROM x AS x", "").expect("good").stages[&0].base,
            Base::Image("x".into())
        );
    }

    #[test]
    fn contexts_stand_in_for_stages_and_names_may_come_twice() {
        let text = "FROM y AS x\nRUN y\nFROM x AS replaced\nRUN a\nCOPY --from=x / /\nFROM scratch AS b\n\
                    FROM y AS b\nRUN b\nFROM replaced\nCOPY --from=b / /\nCOPY --from=replaced / /";
        let whole = plan(text, "").expect("good");
        assert_eq!(whole.stages.keys().copied().collect::<Vec<_>>(), [1, 3, 4]);
        assert_eq!(whole.stages[&1].base, Base::Image("replaced".into()));
        let triggers = |index: usize| whole.stages[&index].may_have_triggers();
        assert!(!triggers(1) && triggers(3) && triggers(4));
        assert_eq!(whole.steps.len(), 1 + 2 + 3);
        assert_eq!(whole.stages[&4].needs, BTreeSet::from([1, 3]));
        let files = plan("FROM a AS replaced\nFROM b\nCOPY --from=replaced / /", "").expect("good");
        assert_eq!(files.stages.keys().copied().collect::<Vec<_>>(), [1]);
        assert_eq!(plan(text, "b").expect("good").target, 3);
        assert!(
            plan(text, "replacde")
                .expect_err("none")
                .ends_with("target replacde in Dockerfile (did you mean replaced?)")
        );
    }

    #[test]
    fn labels_become_an_instruction_whose_values_are_left_alone() {
        let mut file = Dockerfile::parse(b"FROM x").expect("good");
        let labels = BTreeMap::from([("k".to_owned(), "it's $x".to_owned())]);
        let plan = Plan::of(
            &mut file,
            BTreeMap::new(),
            &Platform::host(),
            "",
            &labels,
            |_| false,
        );
        let plan = plan.expect("good");
        assert_eq!(plan.steps.len(), 2);
        let mut state = super::super::stage_state::StageState::new(
            crate::images::ImageConfig::default(),
            String::new(),
            plan.arguments,
            '\\',
        );
        state.apply(&file.stages[0].steps[0]).expect("good");
        assert_eq!(state.config.labels, labels);
    }
}
