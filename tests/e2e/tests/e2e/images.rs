//! Images between engines, registries and archives: pushed, pulled, saved and loaded by ours and by the judges (docker,
//! skopeo, podman, dockerd), with digests equal all the way.

use harness::agent::{Agent, LIMIT};
use harness::image::{TestImage, busybox_or_skip};
use harness::programs::find;
use harness::registry::Registry;
use harness::run::{Output, run, run_with_input};
use std::process::Command;

/// An engine and a registry; `None`, with a line that says why, where this host has not got what they need.
pub fn engine_and_registry(flags: &[&str]) -> Option<(Agent, Registry)> {
    busybox_or_skip()?;
    if !Registry::is_available_or_skip() {
        return None;
    }
    let agent = Agent::start(flags)?;
    Some((agent, Registry::start().expect("a registry")))
}

/// One of the judges; `None`, with a line, where it is not here.
fn judge(name: &str, arguments: &[&str]) -> Option<Output> {
    let Some(program) = find(name) else {
        println!("skipped: there is no {name} here");
        return None;
    };
    Some(run(Command::new(program).args(arguments), LIMIT))
}

/// The digest of what skopeo finds under a name.
fn skopeo_digest(place: &str) -> Option<String> {
    let output = judge(
        "skopeo",
        &[
            "inspect",
            "--tls-verify=false",
            "--format",
            "{{.Digest}}",
            place,
        ],
    )?;
    Some(output.success().trim().to_owned())
}

fn repo_digest(agent: &Agent, image: &str) -> String {
    let shown = agent.run(&["inspect", "--format", "{{index .RepoDigests 0}}", image]);
    let shown = shown.success();
    let (_, digest) = shown.trim().split_once('@').expect("a digest");
    digest.to_owned()
}

#[test]
fn what_we_push_has_its_digest_and_runs_elsewhere() {
    let Some((agent, registry)) = engine_and_registry(&[]) else {
        return;
    };
    let digest = registry
        .push_busybox("team/one", "1", "push")
        .expect("pushed");
    let host = registry.host();
    let (one, two, three) = (
        format!("{host}/team/one:1"),
        format!("{host}/team/two:2"),
        format!("{host}/three:latest"),
    );
    agent.run(&["pull", &one]).success();
    agent.run(&["tag", &one, &two]).success();
    let told = agent.run(&["push", &two]).success();
    assert!(
        told.contains(&format!("The push refers to repository [{host}/team/two]")),
        "{told}"
    );
    assert!(told.contains("Mounted from team/one"), "{told}");
    assert!(
        told.contains(&format!("2: digest: {digest} size: ")),
        "{told}"
    );
    // The stock client, and everything is there already.
    agent.run(&["tag", &one, &three]).success();
    if let Some(mut docker) = agent.docker(&["push", &three]) {
        let told = run(&mut docker, LIMIT).success();
        assert!(told.contains("Preparing"), "{told}");
        assert!(
            told.contains(&format!("latest: digest: {digest} size: ")),
            "{told}"
        );
    } else {
        agent.run(&["push", &three]).success();
    }
    let again = agent.run(&["push", &two]).success();
    assert!(again.contains("Layer already exists"), "{again}");
    let missing = agent.run(&["push", &format!("{host}/none")]).fails_with(1);
    assert!(
        missing.contains("An image does not exist locally with the tag"),
        "{missing}"
    );
    for name in [&two, &three] {
        if let Some(found) = skopeo_digest(&format!("docker://{name}")) {
            assert_eq!(found, digest, "{name}");
        }
    }
    // Search and distribution ask the same registry.
    let found = agent.run(&["search", &format!("{host}/tw")]).success();
    assert!(found.contains(&format!("{host}/team/two")), "{found}");
    let path = format!("/distribution/{two}/json");
    let answer = harness::http::request(&agent.socket(), "GET", &path, b"").expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(answer.body.contains(&digest) && answer.body.contains("\"os\":\"linux\""));

    // Removed here, it comes back from there as it was; all tags at once, too.
    let id = agent
        .run(&["inspect", "--format", "{{.Id}}", &one])
        .success();
    agent.run(&["rmi", &one, &two, &three]).success();
    agent
        .run(&["pull", "--all-tags", &format!("{host}/team/two")])
        .success();
    assert_eq!(repo_digest(&agent, &two), digest);
    let back = agent
        .run(&["inspect", "--format", "{{.Id}}", &two])
        .success();
    assert_eq!(back, id);
    let said = agent.run(&["run", "--rm", "--network", "none", &two, "echo", "hello"]);
    assert_eq!(said.success(), "hello\n");
    let pruned = agent.run(&["image", "prune", "--all", "--force"]).success();
    assert!(pruned.contains("untagged: ") && pruned.contains("Total reclaimed space: "));
    assert_eq!(agent.run(&["images", "-q"]).success(), "");
}

#[test]
fn archives_go_to_skopeo_and_back_with_the_same_digests() {
    let Some((agent, registry)) = engine_and_registry(&[]) else {
        return;
    };
    if find("skopeo").is_none() {
        println!("skipped: there is no skopeo here");
        return;
    }
    registry
        .push_busybox("library/docker", "1", "archive")
        .expect("pushed");
    let skopeo = |arguments: &[&str]| {
        let mut words = vec!["--insecure-policy"];
        words.extend(arguments);
        judge("skopeo", &words).expect("looked for above").success()
    };
    // With an OCI manifest: skopeo looks for no other in a layout.
    let name = format!("{}/library/a:1", registry.host());
    skopeo(&[
        "copy",
        "--src-tls-verify=false",
        "--dest-tls-verify=false",
        "--format=oci",
        &format!("docker://{}/library/docker:1", registry.host()),
        &format!("docker://{name}"),
    ]);
    let digest = skopeo_digest(&format!("docker://{name}")).expect("looked for above");
    agent.run(&["pull", &name]).success();
    assert_eq!(repo_digest(&agent, &name), digest);
    agent.run(&["tag", &name, "other:2"]).success();
    let folder = agent.folder().join("archives");
    std::fs::create_dir(&folder).expect("made");
    let file = |name: &str| folder.join(name).display().to_string();
    agent
        .run(&["save", "-o", &file("ours.tar"), &name, "other:2"])
        .success();
    // Ours as an OCI layout and as a Docker archive, to a registry.
    skopeo(&[
        "copy",
        "--dest-tls-verify=false",
        &format!("oci-archive:{}:1", file("ours.tar")),
        &format!("docker://{}/from/layout:1", registry.host()),
    ]);
    assert_eq!(
        skopeo_digest(&format!("docker://{}/from/layout:1", registry.host())).as_deref(),
        Some(digest.as_str())
    );
    skopeo(&[
        "copy",
        "--dest-tls-verify=false",
        &format!("docker-archive:{}:other:2", file("ours.tar")),
        &format!("docker://{}/from/docker:1", registry.host()),
    ]);
    let id = agent
        .run(&["inspect", "--format", "{{.Id}}", &name])
        .success();
    let (theirs, layout) = (
        format!("{}/from/docker:1", registry.host()),
        format!("{}/from/layout:1", registry.host()),
    );
    for pulled in [&theirs, &layout] {
        agent.run(&["pull", pulled]).success();
        let shown = agent
            .run(&["inspect", "--format", "{{.Id}}", pulled])
            .success();
        assert_eq!(shown, id, "{pulled}: the configuration is the same");
    }
    // Theirs in every form, packed as people pack them.
    let source = format!("docker://{name}");
    for (form, target) in [
        (
            "docker.tar",
            format!("docker-archive:{}:saved:docker", file("docker.tar")),
        ),
        (
            "oci.tar",
            format!("oci-archive:{}:saved:oci", file("oci.tar")),
        ),
    ] {
        skopeo(&["copy", "--src-tls-verify=false", &source, &target]);
        for (program, suffix) in [("gzip", "gz"), ("xz", "xz"), ("zstd", "zst")] {
            let packed = format!("{}.{suffix}", file(form));
            let Some(program) = find(program) else {
                println!("skipped: there is no {program} here");
                continue;
            };
            let output = Command::new(program)
                .args(["-1", "-c", &file(form)])
                .output()
                .expect("it runs");
            std::fs::write(&packed, output.stdout).expect("written");
            all_gone(&agent);
            let told = agent.run(&["load", "-i", &packed]).success();
            assert!(told.contains("Loaded image"), "{packed}: {told}");
            let listed = agent.run(&["images", "--no-trunc", "-q"]).success();
            assert_eq!(listed.trim(), id.trim(), "{packed}");
        }
    }
    // What is saved loads again, cut off it does not, and nothing is left of that.
    all_gone(&agent);
    let whole = std::fs::read(file("ours.tar")).expect("there");
    for end in [whole.len() / 3, whole.len() - 2000] {
        let output = run_with_input(&mut agent.berth(&["load"]), &whole[..end], LIMIT);
        assert_eq!(output.code, Some(1), "{}", output.report());
        let blobs = agent.data_root().join("content/blobs/sha256");
        assert_eq!(std::fs::read_dir(blobs).expect("there").count(), 0);
    }
    run_with_input(&mut agent.berth(&["load"]), &whole, LIMIT).success();
    let listed = agent.run(&["images", "--no-trunc", "-q"]).success();
    assert_eq!(listed.lines().next(), Some(id.trim()));
}

fn all_gone(agent: &Agent) {
    agent.run(&["image", "prune", "-a", "-f"]).success();
    assert_eq!(agent.run(&["images", "-q"]).success(), "");
}

/// dockerd of its own folders, for one test.
struct Dockerd {
    child: std::process::Child,
    folder: tempfile::TempDir,
}

impl Dockerd {
    fn start() -> Option<Dockerd> {
        let Some(program) = find("dockerd") else {
            println!("skipped: there is no dockerd here");
            return None;
        };
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| folder.path().join(name).display().to_string();
        let log = std::fs::File::create(folder.path().join("log")).expect("a log");
        let child = Command::new(program)
            .args(["--data-root", &path("data"), "--exec-root", &path("run")])
            .args([
                "--pidfile",
                &path("pid"),
                "-H",
                &format!("unix://{}", path("sock")),
            ])
            .args(["--bridge=none", "--iptables=false", "--ip6tables=false"])
            .stdin(std::process::Stdio::null())
            .stdout(log.try_clone().expect("the log twice"))
            .stderr(log)
            .spawn()
            .expect("dockerd starts");
        let mut dockerd = Dockerd { child, folder };
        for _ in 0..600 {
            if dockerd.docker(&["version"])?.code == Some(0) {
                return Some(dockerd);
            }
            if let Ok(Some(_)) = dockerd.child.try_wait() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        println!("skipped: dockerd does not start here");
        None
    }

    fn docker(&self, arguments: &[&str]) -> Option<Output> {
        let socket = self.folder.path().join("sock");
        let mut words = vec!["-H".to_owned(), format!("unix://{}", socket.display())];
        words.extend(arguments.iter().map(|word| (*word).to_owned()));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        judge("docker", &words)
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        harness::agent::terminate(&mut self.child);
    }
}

/// What the stock client tells of pulls and pushes is what it tells with dockerd: every line about the whole, and the last
/// word on each layer. Of those before, dockerd leaves out what came too quickly.
fn same_words(agent: &Agent, dockerd: &Dockerd, source: &str) {
    let lines = |output: Output| {
        let told = output.success();
        let is_passing = |line: &str| {
            [
                "Waiting",
                "Preparing",
                "Pulling fs layer",
                "Verifying Checksum",
                "Download complete",
            ]
            .iter()
            .any(|status| line.ends_with(&format!(": {status}")))
        };
        let mut lines: Vec<String> = told
            .lines()
            .filter(|line| !is_passing(line))
            .map(str::to_owned)
            .collect();
        lines.sort();
        lines
    };
    let host = source.split('/').next().expect("a host");
    let both = |arguments: &[&str]| -> Vec<String> {
        let Some(mut ours) = agent.docker(arguments) else {
            return Vec::new();
        };
        let ours = lines(run(&mut ours, LIMIT));
        let theirs = lines(dockerd.docker(arguments).expect("it is here"));
        assert_eq!(ours, theirs, "{arguments:?}");
        ours
    };
    all_gone(agent);
    // Ours leaves nothing out.
    let Some(mut client) = agent.docker(&["pull", source]) else {
        return;
    };
    let told = run(&mut client, LIMIT).success();
    for status in [
        "Pulling fs layer",
        "Verifying Checksum",
        "Download complete",
        "Pull complete",
    ] {
        assert_eq!(told.matches(&format!(": {status}\n")).count(), 2, "{told}");
    }
    all_gone(agent);
    both(&["pull", source]);
    both(&["pull", source]);
    // One layer is there, one is not.
    let more = format!("{host}/library/more:1");
    // dockerd makes it, and both get it from the registry.
    let docker = |arguments: &[&str]| dockerd.docker(arguments).expect("it is here").success();
    docker(&[
        "create",
        "--name",
        "more",
        "--network",
        "none",
        source,
        "true",
    ]);
    docker(&["cp", "/etc/hostname", "more:/more"]);
    docker(&["commit", "more", &more]);
    docker(&["rm", "more"]);
    docker(&["push", &more]);
    docker(&["rmi", &more]);
    let told = both(&["pull", &more]);
    assert!(told.iter().any(|line| line.ends_with(": Already exists")));
    // A push of what is there, and one of layers that a neighbour has; of several neighbours any will do, and the manifest is
    // each engine's own.
    let pushed = |ours: &str, theirs: &str| {
        let words = |output: Output, name: &str| -> Vec<String> {
            let told = lines(output).into_iter();
            told.filter(|line| !line.contains("digest: "))
                .map(|line| match line.split_once("Mounted from ") {
                    Some((layer, _)) => format!("{layer}Mounted from"),
                    None => line.replace(name, "NAME"),
                })
                .collect()
        };
        if let Some(mut client) = agent.docker(&["push", ours]) {
            let output = run(&mut client, LIMIT);
            let ours = words(output, ours.trim_end_matches(":1"));
            let output = dockerd.docker(&["push", theirs]).expect("it is here");
            assert_eq!(ours, words(output, theirs.trim_end_matches(":1")));
        }
    };
    pushed(&more, &more);
    let (ours, theirs) = (
        format!("{host}/ours/shared:1"),
        format!("{host}/theirs/shared:1"),
    );
    agent.run(&["tag", source, &ours]).success();
    docker(&["tag", source, &theirs]);
    pushed(&ours, &theirs);
}

#[test]
fn dockerd_and_podman_run_what_we_push_and_we_run_what_they_push() {
    let Some((agent, registry)) = engine_and_registry(&[]) else {
        return;
    };
    registry
        .push_busybox("library/a", "1", "others")
        .expect("pushed");
    let host = registry.host();
    let (source, ours) = (format!("{host}/library/a:1"), format!("{host}/ours:1"));
    agent.run(&["pull", &source]).success();
    agent.run(&["tag", &source, &ours]).success();
    agent.run(&["push", &ours]).success();
    let runs = |name: &str| {
        let said = agent.run(&["run", "--rm", "--network", "none", name, "echo", "ran"]);
        assert_eq!(said.success(), "ran\n", "{name}");
    };
    if let Some(dockerd) = Dockerd::start() {
        same_words(&agent, &dockerd, &source);
        let docker = |arguments: &[&str]| dockerd.docker(arguments).expect("it is here").success();
        docker(&["pull", &ours]);
        assert_eq!(
            docker(&["run", "--rm", "--network", "none", &ours, "echo", "ran"]),
            "ran\n"
        );
        let theirs = format!("{host}/dockerds:1");
        docker(&["tag", &ours, &theirs]);
        docker(&["push", &theirs]);
        runs(&theirs);
    }
    if let Some(podman) = find("podman") {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| folder.path().join(name).display().to_string();
        let podman = |arguments: &[&str]| {
            let mut command = Command::new(&podman);
            command
                .args(["--root", &path("root"), "--runroot", &path("run")])
                .args(["--storage-driver", "vfs"])
                .args(arguments);
            run(&mut command, LIMIT)
        };
        podman(&["pull", "--tls-verify=false", &ours]).success();
        let said = podman(&[
            "run",
            "--rm",
            "--network=none",
            "--cgroups=disabled",
            &ours,
            "echo",
            "ran",
        ]);
        match said.code {
            Some(0) => assert_eq!(said.stdout, "ran\n"),
            _ => println!(
                "skipped: podman cannot run containers here: {}",
                said.stderr
            ),
        }
        for (name, format) in [("podmans", "oci"), ("podmans2", "v2s2")] {
            let theirs = format!("{host}/{name}:1");
            podman(&["tag", &ours, &theirs]).success();
            podman(&["push", "--tls-verify=false", "--format", format, &theirs]).success();
            runs(&theirs);
        }
        // What vfs unpacked may belong to nobody we could be.
        podman(&["rmi", "--all", "--force"]);
    } else {
        println!("skipped: there is no podman here");
    }
    if find("skopeo").is_some() {
        let theirs = format!("{host}/skopeos:1");
        judge(
            "skopeo",
            &[
                "--insecure-policy",
                "copy",
                "--src-tls-verify=false",
                "--dest-tls-verify=false",
                "--format=oci",
                "--dest-compress-format=zstd",
                &format!("docker://{ours}"),
                &format!("docker://{theirs}"),
            ],
        )
        .expect("it is here")
        .success();
        runs(&theirs);
    }
}

#[test]
fn the_administrators_rules_are_told_by_name() {
    let Some((agent, registry)) = engine_and_registry(&[
        "--block-push=127.0.0.1:*/secret/*",
        "--allow-pull=127.0.0.1:*",
    ]) else {
        return;
    };
    registry
        .push_busybox("secret/a", "1", "rules")
        .expect("pushed");
    let name = format!("{}/secret/a:1", registry.host());
    agent.run(&["pull", &name]).success();
    let refused = agent.run(&["push", &name]).fails_with(1);
    assert!(
        refused.contains("block-push \"127.0.0.1:*/secret/*\" forbids it"),
        "{refused}"
    );
    let answer = harness::http::request(
        &agent.socket(),
        "POST",
        "/images/create?fromImage=alpine&tag=latest",
        b"",
    )
    .expect("an answer");
    assert_eq!(answer.status, 403, "{}", answer.body);
    assert!(answer.body.contains("allow-pull"), "{}", answer.body);
}

/// Serves some bytes once over HTTP; returns the address.
fn serve_once(bytes: Vec<u8>) -> String {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        let mut request = [0; 4096];
        let _ = stream.read(&mut request);
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", bytes.len());
        let _ = stream.write_all(head.as_bytes());
        let _ = stream.write_all(&bytes);
    });
    format!("http://{address}/root.tar.gz")
}

#[test]
fn an_image_is_imported_from_an_address() {
    let Some(agent) = crate::engine_with_busybox(&[]) else {
        return;
    };
    let tree = TestImage::busybox("import").expect("busybox");
    let url = serve_once(tree.layers[0].blob.clone());
    let platform = format!("linux/{}", harness::image::host_architecture());
    let words = [
        "import",
        "--change",
        "ENTRYPOINT [\"echo\", \"imported\"]",
        "--message",
        "from afar",
        "--platform",
        &platform,
        &url,
        "me/afar:1",
    ];
    let mut client = agent.docker(&words).unwrap_or_else(|| agent.berth(&words));
    let told = run(&mut client, LIMIT).success();
    assert!(told.contains("sha256:"), "{told}");
    assert_eq!(
        agent.run(&["run", "--rm", "me/afar:1"]).success(),
        "imported\n"
    );
    let history = agent.run(&["history", "--no-trunc", "me/afar:1"]).success();
    assert!(history.contains("from afar"), "{history}");
    let gone = serve_once(b"no tar at all, really not".to_vec());
    let told = agent.run(&["import", &gone]).fails_with(1);
    assert!(told.contains("archive"), "{told}");
}

#[test]
fn a_bad_archive_is_told_by_the_stock_client_however_much_of_it_there_is() {
    let Some(agent) = crate::engine_with_busybox(&[]) else {
        return;
    };
    // The second is refused long before its end: the client must still hear why.
    for bytes in [b"garbage".to_vec(), crate::images_crash::noise(32 << 20, 3)] {
        let mut client = agent
            .docker(&["load"])
            .unwrap_or_else(|| agent.berth(&["load"]));
        let output = run_with_input(&mut client, &bytes, LIMIT);
        assert_eq!(output.code, Some(1), "{}", output.report());
        assert!(output.stderr.contains("archive"), "{}", output.report());
    }
    assert_eq!(agent.run(&["images", "-q"]).success().lines().count(), 1);
}

#[test]
fn more_than_120_layers_run() {
    let Some((agent, registry)) = engine_and_registry(&[]) else {
        return;
    };
    let mut image = TestImage::busybox("many").expect("busybox");
    let mut layers = image.layers.clone();
    for number in 0..125 {
        let name = format!("layer{number}");
        layers.push(harness::image::Layer::of_files(&[(
            name.as_str(),
            0o644,
            name.as_bytes(),
        )]));
    }
    let settings = serde_json::json!({"Cmd": ["sh"], "Env": ["PATH=/bin"]});
    image = TestImage::new(layers, settings);
    registry.push("many", "1", &image).expect("pushed");
    let name = format!("{}/many:1", registry.host());
    agent.run(&["pull", &name]).success();
    let said = agent.run(&[
        "run",
        "--rm",
        "--network",
        "none",
        &name,
        "cat",
        "/layer0",
        "/layer124",
    ]);
    assert_eq!(said.success(), "layer0layer124");
}
