use super::*;
use proptest::prelude::*;

fn parse(text: &str) -> Dockerfile {
    Dockerfile::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{error}"))
}

fn only(text: &str) -> Instruction {
    let file = parse(&format!("FROM scratch\n{text}"));
    assert_eq!(file.stages[0].steps.len(), 1, "{file:?}");
    file.stages[0].steps[0].instruction.clone()
}

fn shell(text: &str) -> Command {
    Command::Shell(text.to_owned())
}

#[test]
fn stages_have_names_bases_and_lines() {
    let file = parse(
        "# syntax=docker/dockerfile:1\nARG V=1\n\nFROM --platform=$BUILDPLATFORM a:$V AS Build\nRUN x\nFROM scratch\nCOPY --from=build /x /\n",
    );
    assert_eq!(file.syntax.as_deref(), Some("docker/dockerfile:1"));
    assert_eq!(
        file.arguments[0].instruction,
        Instruction::Arg(vec![("V".into(), Some("1".into()))])
    );
    let [build, last] = &file.stages[..] else {
        panic!()
    };
    assert_eq!((build.line, build.base.as_str()), (4, "a:$V"));
    assert_eq!(build.name.as_deref(), Some("build"));
    assert_eq!(build.platform.as_deref(), Some("$BUILDPLATFORM"));
    assert_eq!(
        (last.steps[0].line, last.steps[0].text.as_str()),
        (7, "COPY --from=build /x /")
    );
}

#[test]
fn lines_are_joined_and_comments_between_them_go() {
    let Instruction::Run(run) = only("RUN a && \\\n# no\n\n  b \\\n  c\n") else {
        panic!()
    };
    assert_eq!(run.command, shell("a &&   b   c"));
    let file = parse("# escape=`\nFROM scratch\nRUN dir c:\\ && `\n  b\n");
    let Instruction::Run(run) = &file.stages[0].steps[0].instruction else {
        panic!()
    };
    assert_eq!(run.command, shell("dir c:\\ &&   b"));
}

#[test]
fn commands_have_two_forms() {
    assert_eq!(
        only("CMD [\"a\", \"b c\"]"),
        Instruction::Cmd(Command::Exec(vec!["a".into(), "b c".into()]))
    );
    assert_eq!(only("CMD a  'b"), Instruction::Cmd(shell("a  'b")));
    assert_eq!(
        only("ENTRYPOINT [\"a\", b]"),
        Instruction::Entrypoint(shell("[\"a\", b]"))
    );
    assert_eq!(
        only("ENTRYPOINT []"),
        Instruction::Entrypoint(Command::Exec(vec![]))
    );
}

#[test]
fn here_documents_reach_the_shell_or_are_the_script() {
    let Instruction::Run(run) = only("RUN <<EOF\na\nb $x\nEOF\n") else {
        panic!()
    };
    assert_eq!(run.script.unwrap().content, "a\nb $x\n");
    let Instruction::Run(run) = only("RUN cat <<A <<B > /x\n1\nA\n2\nB\n") else {
        panic!()
    };
    assert_eq!(run.command, shell("cat <<A <<B > /x\n1\nA\n2\nB"));
    let Instruction::Run(run) = only("RUN --network=none python3 <<'E'\nprint()\nE\n") else {
        panic!()
    };
    assert_eq!(run.command, shell("python3 <<'E'\nprint()\nE"));
    assert_eq!(run.network.as_deref(), Some("none"));
    let Instruction::Copy(copy) = only("COPY --chmod=755 <<run.sh a /bin/\n#!/bin/sh\nrun.sh\n")
    else {
        panic!()
    };
    let Source::Here(here) = &copy.sources[0] else {
        panic!("{copy:?}")
    };
    assert_eq!(
        (here.name.as_str(), here.content.as_str(), here.expand),
        ("run.sh", "#!/bin/sh\n", true)
    );
    assert_eq!(copy.sources[1], Source::Path("a".into()));
    assert_eq!(
        (copy.destination.as_str(), copy.chmod.as_deref()),
        ("/bin/", Some("755"))
    );
}

#[test]
fn values_of_flags_lose_their_quotes() {
    let Instruction::Run(run) = only(
        "RUN --network=\"none\" --mount=type=bind,\"source=sp ace/f\",target=/q --mount='type=tmpfs',target=/a\\ b \\\n  cat \"/q x\"\n",
    ) else {
        panic!()
    };
    assert_eq!(run.network.as_deref(), Some("none"));
    assert_eq!(
        run.mounts,
        [
            "type=bind,source=sp ace/f,target=/q",
            "type=tmpfs,target=/a b"
        ]
    );
    assert_eq!(run.command, shell("cat \"/q x\""));
    let Instruction::Healthcheck(Healthcheck::Command { interval, .. }) =
        only("HEALTHCHECK --interval=\"5m\" CMD x")
    else {
        panic!()
    };
    assert_eq!(interval.as_deref(), Some("5m"));
    let Instruction::Copy(copy) = only("COPY --chown='a b' --link=\"TRUE\" c /d") else {
        panic!()
    };
    assert_eq!((copy.chown.as_deref(), copy.link), (Some("a b"), true));
    let file = parse("FROM --platform=\"linux/amd64\" a\n");
    assert_eq!(file.stages[0].platform.as_deref(), Some("linux/amd64"));
}

#[test]
fn every_instruction_is_read() {
    assert_eq!(
        only("ENV a=1 b=\"x y\""),
        Instruction::Env(vec![
            ("a".into(), "1".into()),
            ("b".into(), "\"x y\"".into())
        ])
    );
    assert_eq!(
        only("ENV a  1 2"),
        Instruction::Env(vec![("a".into(), "1 2".into())])
    );
    assert_eq!(
        only("EXPOSE 80 81/udp"),
        Instruction::Expose(vec!["80".into(), "81/udp".into()])
    );
    assert_eq!(
        only("VOLUME /a /b"),
        Instruction::Volume(vec!["/a".into(), "/b".into()])
    );
    assert_eq!(
        only("VOLUME [\"/a b\"]"),
        Instruction::Volume(vec!["/a b".into()])
    );
    assert_eq!(
        only("SHELL [\"/bin/sh\", \"-ec\"]"),
        Instruction::Shell(vec!["/bin/sh".into(), "-ec".into()])
    );
    assert_eq!(
        only("HEALTHCHECK NONE"),
        Instruction::Healthcheck(Healthcheck::None)
    );
    assert_eq!(
        only("onbuild run  a \\\n b"),
        Instruction::Onbuild("run  a  b".into())
    );
    assert_eq!(
        only("ONBUILD RUN <<E\nx\nE\n"),
        Instruction::Onbuild("RUN <<E\nx\nE".into())
    );
    let Instruction::Healthcheck(Healthcheck::Command {
        command,
        interval,
        retries,
        ..
    }) = only("HEALTHCHECK --interval=5s --retries=2 CMD test -f /x")
    else {
        panic!()
    };
    assert_eq!(
        (command, interval.as_deref(), retries.as_deref()),
        (shell("test -f /x"), Some("5s"), Some("2"))
    );
    assert_eq!(
        only("ARG a=1 b"),
        Instruction::Arg(vec![("a".into(), Some("1".into())), ("b".into(), None)])
    );
}

#[test]
fn what_is_wrong_names_its_line_and_shows_it() {
    for (text, expected) in [
        ("", "the Dockerfile cannot be empty"),
        ("ARG x\n", "no build stage in current context"),
        (
            "RUN x\n",
            "dockerfile parse error on line 1: expected FROM\n   1 | RUN x",
        ),
        (
            "FROM a\n\nFOO bar\n",
            "dockerfile parse error on line 3: unknown instruction: FOO (did you mean FROM?)\n   3 | FOO bar",
        ),
        (
            "FROM a\nRUNN bar\n",
            "line 2: unknown instruction: RUNN (did you mean RUN?)\n",
        ),
        (
            "FROM a\ncoppy bar\n",
            "unknown instruction: coppy (did you mean copy?)\n",
        ),
        (
            "FROM a\nCOPY x\n",
            "COPY instruction requires at least two arguments",
        ),
        (
            "FROM a\nCOPY --frm=b x y\n",
            "unknown flag: --frm (did you mean from?)",
        ),
        (
            "FROM a\nCOPY --chow=b x y\n",
            "unknown flag: --chow (did you mean chown?)",
        ),
        (
            "FROM a\nCOPY --owner=b x y\n",
            "unknown flag: --owner (there are: from, chown, chmod, link, parents, exclude)",
        ),
        (
            "FROM a\nCOPY --link=maybe x y\n",
            "expecting boolean value for flag link, not: maybe",
        ),
        ("FROM a\nCOPY --from x y\n", "missing a value on flag: from"),
        (
            "FROM a\nRUN <<EOF\nx\n",
            "line 2: unterminated heredoc: there is no line \"EOF\"",
        ),
        ("FROM a\nENV x\n", "ENV must have two arguments"),
        (
            "FROM a\nENV a=1 b\n",
            "Syntax error - can't find = in \"b\". Must be of the form: name=value",
        ),
        ("FROM a\nLABEL =x\n", "LABEL names can not be blank"),
        (
            "FROM a\nONBUILD FROM b\n",
            "FROM isn't allowed as an ONBUILD trigger",
        ),
        (
            "FROM a\nONBUILD ONBUILD RUN x\n",
            "ONBUILD ONBUILD is not allowed",
        ),
        ("FROM a AS 1st\n", "invalid name for build stage: \"1st\""),
        (
            "FROM a\nHEALTHCHECK --retries=1 NONE\n",
            "HEALTHCHECK NONE takes no options",
        ),
        ("FROM --what=b a\n", "unknown flag: --what"),
        (
            "FROM a\nVOLUME []\n",
            "VOLUME requires at least one argument",
        ),
        (
            "FROM a\nHEALTHCHECK CMD\n",
            "Missing command after HEALTHCHECK CMD",
        ),
        (
            "FROM a\nONBUILD\nRUN x\n",
            "line 2: ONBUILD requires at least one argument",
        ),
        (
            "FROM a\n ONBUILD",
            "line 2: ONBUILD requires at least one argument",
        ),
        (
            "# escape=`\n# syntax=x\n# Escape = \\\nFROM a\n",
            "line 3: only one escape parser directive can be used",
        ),
        ("# escape=x\nFROM a\n", "invalid escape"),
    ] {
        let error = Dockerfile::parse(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(expected), "{text:?}: {error}");
    }
    assert_eq!(
        Dockerfile::parse(b"FROM \xff"),
        Err(DockerfileError::NotText)
    );
    let many = format!("FROM a\n{}", "RUN x\n".repeat(STEPS_MAX));
    assert_eq!(
        Dockerfile::parse(many.as_bytes()),
        Err(DockerfileError::TooMany {
            what: "instructions"
        })
    );
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(
        text in "(FROM a\n)?((RUN|COPY|ADD|ENV|ARG|CMD|HEALTHCHECK|ONBUILD|LABEL|VOLUME|SHELL|USER) |<<E|E\n|\\[\"|\"\\]|--a=|[a-z$ {}\\\\\n\"'=,-]){0,40}"
    ) {
        read_or_refused(text.as_bytes());
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        read_or_refused(&bytes);
    }

    /// As strangers write: real instructions with something odd in their middle.
    #[test]
    fn any_mutation_of_a_real_file_is_read_or_refused(
        at in 0usize..400, odd in "\\PC{0,3}|[\\\\\n\t\"'$<{}\\[\\]=#`-]{1,4}", cut in 0usize..20,
    ) {
        let real = "# syntax=docker/dockerfile:1\nARG V=1\nFROM --platform=$X a:${V:-2} AS one\n\
            ENV A=b C=\"d e\" \\\n  F=g\nRUN --mount=type=cache,target=/x <<EOF cat\nbody $A\nEOF\n\
            COPY --from=one --chmod=755 [\"a\", \"b c\", \"/d\"]\nADD --checksum=sha256:0 x y /\n\
            HEALTHCHECK --interval=1s CMD [\"x\"]\nONBUILD RUN <<E\nz\nE\nVOLUME /v\nENTRYPOINT []\n";
        let mut text = real.to_owned();
        let place = |at: usize| {
            let mut at = at.min(text.len());
            while !text.is_char_boundary(at) {
                at -= 1;
            }
            at
        };
        let (start, end) = (place(at), place(at + cut));
        text.replace_range(start..end, &odd);
        read_or_refused(text.as_bytes());
    }
}

/// What is refused is refused at a place of the text.
fn read_or_refused(bytes: &[u8]) {
    match Dockerfile::parse(bytes) {
        Ok(file) => {
            assert!(!file.stages.is_empty());
            let lines = String::from_utf8_lossy(bytes).lines().count();
            for step in file.stages.iter().flat_map(|stage| &stage.steps) {
                assert!(
                    (1..=lines).contains(&step.line) && step.column > 0,
                    "{step:?}"
                );
            }
        }
        Err(DockerfileError::Line {
            line,
            column,
            shown,
            ..
        }) if line > 0 => {
            let text = std::str::from_utf8(bytes).expect("else it says so");
            let text = text.strip_prefix('\u{feff}').unwrap_or(text);
            let written = text.split('\n').nth(line - 1).expect("a line of the text");
            assert_eq!(shown, written.lines().next().unwrap_or_default().trim_end());
            assert!(
                (1..=written.chars().count() + 1).contains(&column),
                "{text:?}"
            );
        }
        Err(_) => {}
    }
}

/// `#|` in the text marks where the error is.
#[track_caller]
fn wrong_at(marked: &str, message: &str) {
    let at = marked.find("#|").expect("a mark");
    let text = marked.replace("#|", "");
    let before = &text[..at];
    let expected_line = before.matches('\n').count() + 1;
    let expected_column = before
        .rsplit('\n')
        .next()
        .unwrap_or_default()
        .chars()
        .count()
        + 1;
    let error = Dockerfile::parse(text.as_bytes()).expect_err(marked);
    let DockerfileError::Line {
        line,
        column,
        message: told,
        shown,
    } = &error
    else {
        panic!("{marked}: {error}");
    };
    assert!(told.contains(message), "{marked}: {error}");
    assert_eq!(
        (*line, *column),
        (expected_line, expected_column),
        "{marked}: {error}"
    );
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(shown, lines[line - 1].trim_end());
}

#[test]
fn errors_are_at_a_line_and_a_column() {
    wrong_at("FROM a\n  #|FOO x\n", "unknown instruction: FOO");
    wrong_at("FROM a\nRUN #|--speed=9 x\n", "unknown flag: --speed");
    wrong_at(
        "FROM a\nCOPY --link #|--chmod= a /b\n",
        "missing a value on flag: chmod",
    );
    wrong_at("FROM a\nCOPY #|--lnk=é a b\n", "unknown flag: --lnk");
    wrong_at("FROM a AS #|9x\n", "invalid name for build stage");
    wrong_at("FROM #|--arch=x a\n", "unknown flag: --arch");
    wrong_at("FROM a\nRUN cat \\\n  #|<<EOF\nx\n", "unterminated heredoc");
    wrong_at("FROM a\n\t#|ENV\n", "at least one argument");
    wrong_at("#|RUN x\n", "");
    let text = Dockerfile::parse(b"FROM a\n\tRUN --x y\n")
        .expect_err("wrong")
        .to_string();
    assert!(
        text.ends_with("\n   2 | \tRUN --x y\n     | \t    ^ column 6"),
        "{text}"
    );
}

#[test]
fn stages_may_have_the_same_name() {
    let file = parse("# syntax = docker/dockerfile:1\nFROM a AS b\nFROM c AS B\n");
    let names: Vec<_> = file
        .stages
        .iter()
        .map(|stage| stage.name.as_deref())
        .collect();
    assert_eq!(names, [Some("b"), Some("b")]);
    assert_eq!(file.syntax.as_deref(), Some("docker/dockerfile:1"));
}

#[test]
fn instructions_know_where_they_are() {
    let file = parse("FROM a\n  RUN b \\\n c\nENV x=1\n");
    let places: Vec<_> = file.stages[0]
        .steps
        .iter()
        .map(|step| (step.line, step.column, step.is_one_line))
        .collect();
    assert_eq!(places, [(2, 3, false), (4, 1, true)]);
}
