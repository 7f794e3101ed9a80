use super::*;

fn rules(text: &str) -> Vec<(&'static str, usize)> {
    findings(text)
        .iter()
        .map(|finding| (finding.rule, finding.line))
        .collect()
}

fn findings(text: &str) -> Vec<Finding> {
    let file = Dockerfile::parse(text.as_bytes()).expect("good");
    let ignore = Ignore::parse("secret.txt").expect("good");
    let around = Surroundings {
        text,
        ignore: &ignore,
        env_of: &|name| (name == "busybox").then(|| vec!["BASE=1".to_owned()]),
        platform_of: &|name| match name {
            "busybox" => Platform::parse("linux/x86_64"),
            "foreign" => Platform::parse("linux/s390x"),
            _ => None,
        },
        platform: &Platform::parse("linux/amd64").expect("good"),
    };
    check(&file, &around).findings
}

#[track_caller]
fn finds(text: &str, expected: &[(&str, usize)]) {
    assert_eq!(rules(text), expected, "{text}");
}

#[test]
fn each_rule_finds_its_own() {
    finds("FROM busybox\nRUN x", &[]);
    finds("FROM busybox AS Big", &[("StageNameCasing", 1)]);
    finds("FROM busybox as a", &[("FromAsCasing", 1)]);
    finds(
        "FROM busybox\nRUN a \\\n\n b",
        &[("NoEmptyContinuation", 3)],
    );
    finds("FROM busybox\nRUN <<E\na \\\n\nE\nRUN x", &[]);
    finds(
        "FROM busybox\nrun x\nRUN y",
        &[("ConsistentInstructionCasing", 2)],
    );
    finds("FROM busybox AS scratch", &[("ReservedStageName", 1)]);
    finds(
        "FROM busybox AS a\nFROM a AS b\nFROM b AS a",
        &[("DuplicateStageName", 3)],
    );
    finds("FROM busybox\nCMD x", &[("JSONArgsRecommended", 2)]);
    finds("FROM busybox\nSHELL [\"sh\"]\nCMD x", &[]);
    finds(
        "FROM busybox\nMAINTAINER me",
        &[("MaintainerDeprecated", 2)],
    );
    finds("FROM $X", &[("UndefinedArgInFrom", 1)]);
    finds("ARG X\nFROM $X", &[("InvalidDefaultArgInFrom", 2)]);
    finds("ARG X=busybox\nFROM ${X}", &[]);
    finds(
        "FROM busybox\nWORKDIR a\nWORKDIR b",
        &[("WorkdirRelativePath", 2)],
    );
    finds("FROM busybox\nWORKDIR /a\nWORKDIR b", &[]);
    finds(
        "FROM busybox\nCOPY $X $BASE /\nENV A=${Y:-1}",
        &[("UndefinedVar", 2)],
    );
    finds("FROM unknown\nCOPY $X /", &[]);
    finds(
        "FROM busybox\nLABEL m=\"it's $QQ\" n='\"$X'\nLABEL o='a\\' p=$P",
        &[("UndefinedVar", 2), ("UndefinedVar", 3)],
    );
    finds("FROM busybox AS a\nENV X=1\nFROM a\nLABEL x=$X", &[]);
    finds(
        "FROM busybox\nCMD [\"a\"]\nCMD [\"b\"]",
        &[("MultipleInstructionsDisallowed", 2)],
    );
    finds(
        "FROM busybox\nENV a b\nLABEL a=b",
        &[("LegacyKeyValueFormat", 2)],
    );
    finds(
        "FROM --platform=$TARGETPLATFORM busybox",
        &[("RedundantTargetPlatform", 1)],
    );
    finds(
        "FROM --platform=linux/amd64 busybox",
        &[("FromPlatformFlagConstDisallowed", 1)],
    );
    finds(
        "FROM busybox\nARG API_TOKEN\nENV PUBLIC_KEY=x",
        &[("SecretsUsedInArgOrEnv", 2)],
    );
    finds("FROM busybox\nCOPY secret.txt /", &[("CopyIgnoredFile", 2)]);
    finds("FROM foreign", &[("InvalidBaseImagePlatform", 1)]);
    finds(
        "FROM --platform=linux/s390x foreign AS for-s390x\nFROM busybox AS foreign\nFROM foreign",
        &[],
    );
    finds("FROM --platform=linux/arm64/v8 x AS for-arm64", &[]);
    let found = findings("FROM foreign");
    assert_eq!(
        found[0].message,
        "Base image foreign was pulled with platform \"linux/s390x\", expected \"linux/amd64\" for current build"
    );
    finds(
        "FROM busybox\nEXPOSE 80/TCP 1:2",
        &[("ExposeProtoCasing", 2), ("ExposeInvalidFormat", 2)],
    );
}

#[test]
fn names_that_are_nearly_right_are_suggested() {
    for (text, expected) in [
        (
            "FROM busybox\nENV HOME_DIR=/x\nLABEL a=$HOME_DRI",
            "Usage of undefined variable '$HOME_DRI' (did you mean $HOME_DIR?)",
        ),
        (
            "FROM busybox\nLABEL a=$NOTHING",
            "Usage of undefined variable '$NOTHING'",
        ),
        (
            "FROM --platform=$BUILDPLATFROM busybox",
            "FROM argument 'BUILDPLATFROM' is not declared (did you mean BUILDPLATFORM?)",
        ),
        (
            "FROM a AS b\nFROM busybox AS B",
            "Duplicate stage name \"b\", stage names should be unique",
        ),
    ] {
        let found = findings(text);
        assert!(
            found.iter().any(|finding| finding.message == expected),
            "{text}: {found:?}"
        );
    }
}

#[test]
fn the_directive_switches_rules_off() {
    finds(
        "# check=skip=StageNameCasing,JSONArgsRecommended\nFROM busybox AS A\nCMD x\nMAINTAINER y",
        &[("MaintainerDeprecated", 4)],
    );
    finds("# check=skip=all\nFROM busybox AS A", &[]);
    assert!(directive("# syntax=x\n# check=error=true;skip=A\n").is_error);
    assert!(!directive("FROM x\n# check=error=true").is_error);
}
