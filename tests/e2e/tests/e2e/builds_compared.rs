//! Images that are built here beside those that Docker's own builder makes of the same Dockerfiles: settings, those of the
//! last step's container, history, authors and sizes, field by field. `builds/cases.txt` has the Dockerfiles,
//! `builds/recorded.json` what dockerd 20.10 made of them.
//!
//! To record again: `BERTH_RECORD_BUILDS=1 cargo test -p e2e --test e2e builds_compared`.

use crate::{busybox_archive, engine_with_busybox};
use harness::agent::LIMIT;
use harness::dockerd::Dockerd;
use harness::image::busybox_or_skip;
use harness::namespace::Namespace;
use harness::run::{run, run_with_input};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One Dockerfile.
struct Case {
    name: String,
    flags: Vec<String>,
    text: String,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("builds")
}

fn cases() -> Vec<Case> {
    let text = std::fs::read_to_string(folder().join("cases.txt")).expect("the cases");
    let mut cases: Vec<Case> = Vec::new();
    for line in text.lines() {
        if let Some(head) = line.strip_prefix("=== ") {
            let mut words = head.split(' ').map(str::to_owned);
            cases.push(Case {
                name: words.next().expect("a name"),
                flags: words.collect(),
                text: String::new(),
            });
        } else if let Some(case) = cases.last_mut() {
            case.text.push_str(line);
            case.text.push('\n');
        }
    }
    cases
}

fn make_context(folder: &Path) {
    let write = |path: &str, content: &str| {
        let path = folder.join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, content).expect("a file");
    };
    write("a.txt", "a\n");
    write("b.txt", "bb\n");
    write("d/x", "x\n");
    write("d/e/y", "y\n");
    write("run.sh", "#!/bin/sh\necho ran\n");
    write("in/one", "one\n");
    write("in/two", "two\n");
    write("ignored.txt", "no\n");
    write(".dockerignore", "ignored.txt\ncase.Dockerfile\n");
    // The same bytes every time: its size is compared.
    let mut tar = Command::new("sh");
    tar.current_dir(folder).args([
        "-c",
        "tar --sort=name --mtime=@1 --owner=0 --group=0 --numeric-owner --mode=755 -cf - in | gzip -n > bundle.tar.gz",
    ]);
    run(&mut tar, LIMIT).success();
    std::fs::remove_dir_all(folder.join("in")).expect("it was there");
}

/// Settings without what differs from build to build.
fn settings(config: &Value) -> Value {
    let mut config = config.clone();
    let settings = config.as_object_mut().expect("an object");
    for key in ["Hostname", "Image"] {
        settings.remove(key);
    }
    // Docker leaves it out where it is false, later versions do not.
    if settings.get("ArgsEscaped") == Some(&json!(false)) {
        settings.remove("ArgsEscaped");
    }
    // None of them is written in two ways.
    if settings.get("Labels") == Some(&json!({})) {
        settings["Labels"] = Value::Null;
    }
    for word in settings["Cmd"].as_array_mut().into_iter().flatten() {
        *word = json!(without_digest(word.as_str().unwrap_or_default()));
    }
    config
}

/// Author and emptiness of each step, which only the stored image tells.
fn steps(docker: &dyn Fn(&[&str]) -> Command, image: &str) -> Value {
    let folder = tempfile::tempdir().expect("a folder");
    let archive = folder.path().join("image.tar");
    let save = ["save", "-o", &archive.display().to_string(), image];
    run(&mut docker(&save), LIMIT).success();
    let manifest = saved_file(&archive, "manifest.json");
    let stored = saved_file(&archive, manifest[0]["Config"].as_str().expect("a name"));
    let history = stored["history"].as_array().into_iter().flatten();
    history
        .map(|step| json!([step["author"], step["empty_layer"]]))
        .collect()
}

/// A file of an image's archive.
fn saved_file(archive: &Path, name: &str) -> Value {
    let mut tar = Command::new("tar");
    let text = run(tar.arg("xOf").arg(archive).arg(name), LIMIT).success();
    serde_json::from_str(&text).expect("JSON")
}

/// What is compared of an image: everything that does not differ from build to build, or from host to host.
fn facts(docker: &dyn Fn(&[&str]) -> Command, image: &str) -> Value {
    let mut inspect = docker(&["image", "inspect", image]);
    // Later versions of the API leave `ContainerConfig` out.
    inspect.env("DOCKER_API_VERSION", "1.41");
    let inspected: Value = serde_json::from_str(&run(&mut inspect, LIMIT).success()).expect("JSON");
    let inspected = &inspected[0];
    let format = ["version", "--format", "{{.Server.Arch}}"];
    let host = run(&mut docker(&format), LIMIT).success();
    let architecture = match inspected["Architecture"] == host.trim() {
        true => json!("the host's"),
        false => inspected["Architecture"].clone(),
    };
    let layers = inspected["RootFS"]["Layers"].as_array().map_or(0, Vec::len);
    let steps = match layers {
        // dockerd does not save what has no files.
        0 => Value::Null,
        _ => steps(docker, image),
    };
    let format = ["history", "--no-trunc", "--format", "{{json .}}", image];
    let history: Vec<Value> = run(&mut docker(&format), LIMIT)
        .success()
        .lines()
        .map(|line| {
            let line: Value = serde_json::from_str(line).expect("JSON");
            let created_by = without_digest(line["CreatedBy"].as_str().unwrap_or_default());
            json!([created_by, line["Comment"], line["Size"]])
        })
        .collect();
    json!({
        "Author": inspected["Author"],
        "Comment": inspected["Comment"],
        "Os": inspected["Os"],
        "Architecture": architecture,
        "Config": settings(&inspected["Config"]),
        "ContainerConfig": settings(&inspected["ContainerConfig"]),
        "Steps": steps,
        "Layers": layers,
        "History": history,
    })
}

/// `file:0123...` -> `file:HASH`: how files are summed up is each builder's own matter.
fn without_digest(text: &str) -> String {
    let mut words: Vec<String> = text.split(' ').map(str::to_owned).collect();
    for word in &mut words {
        for kind in ["file:", "dir:", "multi:"] {
            let hash = word.find(kind).map(|at| at + kind.len());
            if let Some(at) = hash
                && word.len() == at + 64
            {
                word.replace_range(at.., "HASH");
            }
        }
    }
    words.join(" ")
}

/// Builds every case; errors are compared by their message.
fn build_all(docker: &dyn Fn(&[&str]) -> Command) -> BTreeMap<String, Value> {
    let context = tempfile::tempdir().expect("a folder");
    make_context(context.path());
    let mut all = BTreeMap::new();
    for case in cases() {
        let file = context.path().join("case.Dockerfile");
        std::fs::write(&file, &case.text).expect("a file");
        let tag = format!("compared-{}", case.name);
        let file = file.display().to_string();
        let place = context.path().display().to_string();
        let mut arguments = vec!["build", "--network", "none", "-t", &tag, "-f", &file];
        arguments.extend(case.flags.iter().map(String::as_str));
        arguments.push(&place);
        let mut build = docker(&arguments);
        let output = run(build.env("DOCKER_BUILDKIT", "0"), LIMIT);
        let made = match output.code == Some(0) {
            true => facts(docker, &tag),
            false => {
                let said = output.stderr.trim();
                let (_, error) = said
                    .rsplit_once("Error response from daemon: ")
                    .unwrap_or_default();
                let error = match error {
                    "" => said.lines().last().unwrap_or_default(),
                    error => error,
                };
                json!({ "Error": error })
            }
        };
        all.insert(case.name, made);
    }
    all
}

fn record() {
    let namespace = Namespace::create().expect("a namespace");
    let dockerd = Dockerd::start(&namespace, &["--iptables=false"]).expect("dockerd starts");
    let client = tempfile::tempdir().expect("a folder");
    let docker = |arguments: &[&str]| {
        let mut command = Command::new("docker");
        command
            .env(
                "DOCKER_HOST",
                format!("unix://{}", dockerd.socket().display()),
            )
            .env("DOCKER_CONFIG", client.path())
            .args(arguments);
        command
    };
    let archive = busybox_archive("busybox:latest");
    run_with_input(&mut docker(&["load"]), &archive, LIMIT).success();
    let recorded = serde_json::to_string_pretty(&build_all(&docker)).expect("JSON");
    std::fs::write(folder().join("recorded.json"), recorded + "\n").expect("a file");
}

/// Where our answer is another one on purpose: the case, and a part of what is said instead.
const OTHER: [(&str, &str); 7] = [
    // The line is shown.
    ("error-empty-env", "line 2"),
    ("error-instruction", "   2 | FLY away"),
    ("error-no-from", "   1 | RUN x"),
    // Today's Dockerfile reference: a stage inherits the ARGs of the stage it begins with. dockerd 20.10 did not.
    ("arg-in-from-other-stage", "|1 A=x /bin/sh -c"),
    // The classic builder mounts the volume in steps: its folder is made by the first one, and WORKDIR has nothing to make.
    (
        "run-beside-volume",
        r#"[["/bin/sh -c #(nop)  CMD [\"ls\"]","","0B"],["/bin/sh -c #(nop) WORKDIR /kept","","0B"],["/bin/sh -c echo after > /file","","6B"]"#,
    ),
    // The classic builder's container of the step still has the entry point that the step takes away.
    ("entrypoint-empty", r#""Entrypoint":null"#),
    // BuildKit keeps what a step writes into a volume's folder; the classic builder drops it.
    ("run-into-volume", r#"echo after > /kept/file","","6B"]"#),
];

#[test]
fn images_are_those_that_docker_builds() {
    if std::env::var_os("BERTH_RECORD_BUILDS").is_some() {
        if busybox_or_skip().is_some() {
            record();
        }
        return;
    }
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    if agent.docker(&[]).is_none() {
        return;
    }
    let docker = |arguments: &[&str]| agent.docker(arguments).expect("it was there");
    let recorded = std::fs::read(folder().join("recorded.json")).expect("the recording");
    let recorded: BTreeMap<String, Value> = serde_json::from_slice(&recorded).expect("JSON");
    assert!(recorded.len() >= 60, "{} cases", recorded.len());
    let mut different = String::new();
    for (name, ours) in build_all(&docker) {
        let theirs = &recorded[&name];
        if let Some((_, expected)) = OTHER.iter().find(|(other, _)| *other == name) {
            let shown = match ours["Error"].as_str() {
                Some(text) => text.to_owned(),
                None => ours.to_string(),
            };
            assert!(shown.contains(expected), "{name}: {shown}");
            continue;
        }
        if ours != *theirs {
            different.push_str(&format!("{name}\n  ours:   {ours}\n  theirs: {theirs}\n"));
        }
    }
    assert!(different.is_empty(), "{different}\n{}", agent.log());
}
