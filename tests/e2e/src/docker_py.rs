//! docker-py's own integration tests, from its source package, run as they are.

use crate::arena::Arena;
use crate::judge::Judge;
use crate::outcomes::{Run, Runs};
use crate::python;
use anyhow::{Context, Result, ensure};
use harness::programs::workspace;
use harness::run::run;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The names of its two files in `tests/e2e/compat`.
pub const NAME: &str = "docker-py";

/// The source package; the wheel has no tests.
const SOURCE: &str = "docker==7.0.0 --hash=sha256:323736fb92cd9418fc5e7133bc953e11a9da04f4483f828b527db553f1e7e5a3\n";

/// The suite's own pins (requirements.txt, test-requirements.txt), and what they need at the versions it was tried with.
const PACKAGES: &[&str] = &[
    "bcrypt==4.3.0",
    "certifi==2024.8.30",
    "cffi==1.17.1",
    "charset-normalizer==3.4.0",
    "cryptography==42.0.8",
    "idna==3.10",
    "iniconfig==2.0.0",
    "packaging==21.3",
    "paramiko==2.11.0",
    "pluggy==1.5.0",
    "pycparser==2.22",
    "PyNaCl==1.5.0",
    "pyparsing==3.2.0",
    "pytest==7.4.2",
    "pytest-timeout==2.1.0",
    "requests==2.31.0",
    "setuptools==65.5.1",
    "setuptools-scm==7.1.0",
    "six==1.16.0",
    "typing_extensions==4.12.2",
    "urllib3==1.26.18",
    "websocket-client==1.3.3",
    "wheel==0.44.0",
];

/// The version its own makefile tests with: dockerd 20.10's newest.
const API_VERSION: &str = "1.41";

/// The longest a single test may take, in seconds; the longest takes 13 on dockerd.
const TEST_LIMIT: &str = "120";

/// The longest a share may take.
const LIMIT: Duration = Duration::from_secs(15 * 60);

/// The unpacked suite and a Python that can run it.
pub struct DockerPy {
    folder: PathBuf,
    python: PathBuf,
}

impl DockerPy {
    /// Fetches what is not there yet.
    pub fn fetch() -> Result<DockerPy> {
        let python = python::environment("docker-py-python", PACKAGES)?;
        let _lock = python::lock("docker-py-source")?;
        let folder = python::folder().join("docker-7.0.0");
        if !folder.join("tests/integration").is_dir() {
            let download = python::folder().join("docker-py-download");
            python::download_source(&python, SOURCE, &download)?;
            let archive = download.join("docker-7.0.0.tar.gz");
            let output = run(
                Command::new("tar")
                    .arg("xzf")
                    .arg(&archive)
                    .arg("-C")
                    .arg(python::folder()),
                LIMIT,
            );
            ensure!(output.code == Some(0), "{}", output.report());
        }
        Ok(DockerPy { folder, python })
    }
}

impl Judge for DockerPy {
    fn title(&self) -> &'static str {
        "docker-py 7.0.0"
    }

    fn files(&self) -> Result<Vec<String>> {
        let folder = self.folder.join("tests/integration");
        let mut files = Vec::new();
        for entry in
            std::fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))?
        {
            let name = entry?.file_name();
            let name = name.to_string_lossy();
            // The folder `credentials` tests helper programs of the desktop, not an engine.
            if name.ends_with("_test.py") {
                files.push(format!("tests/integration/{name}"));
            }
        }
        files.sort();
        Ok(files)
    }

    fn run(&self, arena: &Arena, what: &[String]) -> Result<Runs> {
        // Home, client configuration and temporary files of its own: contexts and folders of a run before would be met.
        let home = tempfile::tempdir().context("make a folder for the suite")?;
        let outcomes = home.path().join("outcomes");
        let settings = home.path().join("docker");
        std::fs::create_dir(&settings).context("make a folder for the suite")?;
        // Without one docker-py keeps contexts in the current folder.
        std::fs::write(settings.join("config.json"), "{}")
            .context("write the client's settings")?;
        let output = run(
            arena
                .command(&self.python)
                .args(["-m", "pytest", "-q", "-p", "pytest_outcomes"])
                .args(["-p", "no:cacheprovider", "--timeout", TEST_LIMIT])
                .args(what)
                .current_dir(&self.folder)
                .env("PYTHONPATH", workspace().join("tests/e2e/compat"))
                .env("PYTHONDONTWRITEBYTECODE", "1")
                .env("BERTH_OUTCOMES", &outcomes)
                .env("DOCKER_TEST_API_VERSION", API_VERSION)
                .env("DOCKER_CONFIG", &settings)
                .env("HOME", home.path()),
            LIMIT,
        );
        // 0: all passed; 1: some failed. Anything else is trouble with the run itself.
        let runs = read(&outcomes).unwrap_or_default();
        ensure!(
            matches!(output.code, Some(0 | 1)) && !runs.is_empty(),
            "pytest did not run through: {}\n--- the engine's log\n{}",
            output.report(),
            arena.log()
        );
        Ok(runs)
    }
}

fn read(path: &Path) -> Result<Runs> {
    #[derive(serde::Deserialize)]
    struct Line {
        test: String,
        #[serde(flatten)]
        run: Run,
    }
    let text = std::fs::read_to_string(path)?;
    text.lines()
        .map(|line| {
            let line: Line = serde_json::from_str(line)?;
            Ok((line.test, line.run))
        })
        .collect()
}
