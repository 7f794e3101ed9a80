use super::*;
use crate::builds::Dockerfile;
use crate::images::Platform;

fn state() -> StageState {
    let base = ImageConfig {
        env: vec!["PATH=/bin".to_owned()],
        cmd: Some(vec!["sh".to_owned()]),
        ..ImageConfig::default()
    };
    let given = [("GIVEN".to_owned(), "g".to_owned())].into();
    StageState::new(
        base,
        String::new(),
        Arguments::new(
            given,
            &(&Platform::host()).into(),
            &(&Platform::host()).into(),
        ),
        '\\',
    )
}

fn applied(text: &str) -> (StageState, Vec<Applied>) {
    let file = Dockerfile::parse(format!("FROM scratch\n{text}").as_bytes()).unwrap();
    let mut state = state();
    let all = file.stages[0]
        .steps
        .iter()
        .map(|step| state.apply(step).unwrap())
        .collect();
    (state, all)
}

/// The sentences were printed by dockerd 20.10's builder.
#[test]
fn the_history_is_dockers() {
    let (_, all) = applied(
        "ENV a=1 b=\"x y\"\nLABEL l=$a\nMAINTAINER me\nCMD echo \"$a\"\nENTRYPOINT [\"e\", \"f\"]\nEXPOSE 81/udp 80\n\
         HEALTHCHECK --interval=5s --retries=2 CMD test -f /x\nONBUILD RUN x\nSTOPSIGNAL SIGINT\nUSER u:g\n\
         VOLUME /v /w\nWORKDIR /d/../e\nWORKDIR f\nARG GIVEN=d\nRUN x $GIVEN\nSHELL [\"/bin/sh\", \"-ec\"]\nRUN y\n",
    );
    let sentences: Vec<&str> = all
        .iter()
        .map(|applied| applied.created_by.as_str())
        .collect();
    assert_eq!(
        sentences,
        [
            "/bin/sh -c #(nop)  ENV a=1 b=x y",
            "/bin/sh -c #(nop)  LABEL l=1",
            "/bin/sh -c #(nop)  MAINTAINER me",
            "/bin/sh -c #(nop)  CMD [\"/bin/sh\" \"-c\" \"echo \\\"$a\\\"\"]",
            "/bin/sh -c #(nop)  ENTRYPOINT [\"e\" \"f\"]",
            "/bin/sh -c #(nop)  EXPOSE 80 81/udp",
            "/bin/sh -c #(nop)  HEALTHCHECK &{[\"CMD-SHELL\" \"test -f /x\"] \"5s\" \"0s\" \"0s\" '\\x02'}",
            "/bin/sh -c #(nop)  ONBUILD RUN x",
            "/bin/sh -c #(nop)  STOPSIGNAL SIGINT",
            "/bin/sh -c #(nop)  USER u:g",
            "/bin/sh -c #(nop)  VOLUME [/v /w]",
            "/bin/sh -c #(nop) WORKDIR /e",
            "/bin/sh -c #(nop) WORKDIR /e/f",
            "/bin/sh -c #(nop)  ARG GIVEN=d",
            "|1 GIVEN=g /bin/sh -c x $GIVEN",
            "/bin/sh -ec #(nop)  SHELL [/bin/sh -ec]",
            "|1 GIVEN=g /bin/sh -ec y",
        ]
    );
}

#[test]
fn an_entrypoint_drops_the_bases_command_but_not_ours() {
    assert_eq!(applied("ENTRYPOINT [\"e\"]").0.config.cmd, None);
    assert!(applied("CMD x\nENTRYPOINT [\"e\"]").0.config.cmd.is_some());
    assert_eq!(applied("ENTRYPOINT []").0.config.entrypoint, None);
}

#[test]
fn variables_are_those_from_before_the_instruction() {
    let (state, _) = applied("ENV abc=hello\nENV abc=bye def=$abc\nENV ghi=$abc PATH=/x:$PATH");
    assert_eq!(
        state.config.env,
        ["PATH=/x:/bin", "abc=bye", "def=hello", "ghi=bye"]
    );
    // ENV wins over ARG.
    let (_, all) = applied("ENV GIVEN=e\nARG GIVEN\nRUN $GIVEN");
    let Work::Run(run) = &all[2].work else {
        panic!()
    };
    assert_eq!(
        (run.env.as_slice(), all[2].created_by.as_str()),
        (
            &["PATH=/bin".to_owned(), "GIVEN=e".to_owned()][..],
            "/bin/sh -c $GIVEN"
        )
    );
}

#[test]
fn scripts_are_run_by_the_shell_or_by_themselves() {
    let (_, all) = applied(
        "ARG GIVEN\nRUN <<E\necho $GIVEN\nE\nRUN <<P\n#!/usr/bin/python3\nprint('$GIVEN')\nP\n",
    );
    let Work::Run(shell) = &all[1].work else {
        panic!()
    };
    assert_eq!(shell.args, ["/bin/sh", "-c", "echo $GIVEN\n"]);
    let Work::Run(python) = &all[2].work else {
        panic!()
    };
    assert_eq!(python.args, ["/dev/pipes/P"]);
    assert_eq!(
        python.script,
        Some(("P".into(), "#!/usr/bin/python3\nprint('$GIVEN')\n".into()))
    );
}

#[test]
fn copies_know_where_they_go() {
    let (_, all) = applied(
        "WORKDIR /w\nENV d=sub\nCOPY a b $d/\nADD --chown=$d:1 a /x\nCOPY a .\nCOPY <<'E' f\n$d\nE\n",
    );
    let copy = |at: usize| match &all[at].work {
        Work::Copy(copy) => copy.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(copy(2).destination, "/w/sub/");
    assert_eq!(copy(3).destination, "/x");
    assert_eq!(copy(3).files.chown.as_deref(), Some("sub:1"));
    assert_eq!(copy(4).destination, "/w/");
    let Source::Here(here) = &copy(5).files.sources[0] else {
        panic!()
    };
    assert_eq!(here.content, "$d\n");
    let (state, _) = applied("USER x");
    assert_eq!(
        state.copied(&copy(3), "file:abc").join(" "),
        "/bin/sh -c #(nop) ADD --chown=sub:1file:abc in /x "
    );
}

#[test]
fn what_is_wrong_is_told() {
    for (text, expected) in [
        ("STOPSIGNAL nope", "Invalid signal: nope"),
        ("EXPOSE x", "invalid containerPort: x"),
        (
            "COPY a b /c",
            "the destination must be a directory and end with a /",
        ),
        (
            "COPY --chmod=u+q a /c",
            "invalid chmod parameter: 'u+q'. it should be octal string and between 0 and 07777",
        ),
        ("RUN --network=moon x", "invalid network mode \"moon\""),
        (
            "RUN --security=insecure x",
            "security.insecure is not allowed",
        ),
        (
            "HEALTHCHECK --interval=1us CMD x",
            "cannot be less than 1ms",
        ),
        (
            "HEALTHCHECK --retries=-1 CMD x",
            "--retries must be a number",
        ),
        ("USER ${x:?who}", "failed to process \"${x:?who}\": x: who"),
        ("VOLUME [\" \"]", "can not be an empty string"),
    ] {
        let file = Dockerfile::parse(format!("FROM scratch\n{text}").as_bytes()).unwrap();
        let error = state()
            .apply(&file.stages[0].steps[0])
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
    let long = format!(
        "FROM scratch\nCOPY <<E /f\n{}${{x:?who}}\nE\n",
        "x".repeat(1 << 20)
    );
    let file = Dockerfile::parse(long.as_bytes()).unwrap();
    let error = state().apply(&file.stages[0].steps[0]).unwrap_err();
    let error = error.to_string();
    assert!(
        error.len() < 1000 && error.ends_with("...\": x: who"),
        "{error}"
    );
}

#[test]
fn of_published_ports_the_containers_counts() {
    for (text, port) in [
        ("80", "80"),
        ("80:81", "81"),
        ("127.0.0.1:80:8080/udp", "8080/udp"),
        ("[::1]:80:81", "81"),
        ("127.0.0.1::81", "81"),
        ("8000-8001:80-81", "80-81"),
        ("8000-8001:80", "80"),
    ] {
        assert_eq!(port_of_container(text).as_deref(), Ok(port), "{text}");
    }
    for (text, why) in [
        ("80:", "no port specified: 80:<empty>"),
        ("x:80", "invalid hostPort: x"),
        ("1.2.3:80:80", "invalid IP address: 1.2.3"),
        (
            "80-82:80-81",
            "invalid ranges specified for container and host Ports: 80-81 and 80-82",
        ),
    ] {
        let error = port_of_container(text).expect_err(text);
        assert_eq!(error.to_string(), why, "{text}");
    }
}
