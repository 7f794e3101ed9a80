use super::*;
use engine::builds::ignore::Ignore;
use futures_util::TryStreamExt;
use std::os::unix::fs::{PermissionsExt, symlink};

struct Bench {
    _data: tempfile::TempDir,
    files: DiskBuildFiles,
    tree: Arc<BorrowedRoot>,
}

async fn bench(files: &[(&str, &str)]) -> Bench {
    let data = tempfile::tempdir().unwrap();
    let build = DiskBuildFiles::open(data.path()).unwrap();
    let tree = Arc::new(build.new_folder().await.unwrap());
    for (path, content) in files {
        let path = tree.path.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    Bench {
        _data: data,
        files: build,
        tree,
    }
}

impl Bench {
    async fn select(&self, sources: &[&str], ignore: &str) -> Result<Selection, BuildFilesError> {
        let what = CopyFrom {
            sources: sources.iter().map(|&source| source.to_owned()).collect(),
            ignore: Arc::new(Ignore::parse(ignore).unwrap()),
            ..CopyFrom::default()
        };
        self.files.select(self.tree.clone(), what).await
    }

    async fn names(&self, selection: Selection, form: ArchiveForm) -> Vec<String> {
        let stream = self
            .files
            .archive(self.tree.clone(), selection, form)
            .await
            .unwrap();
        let bytes: Vec<bytes::Bytes> = stream.try_collect().await.unwrap();
        let bytes = bytes.concat();
        let mut archive = tar::Archive::new(&bytes[..]);
        let entries = archive.entries().unwrap();
        entries
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect()
    }
}

#[tokio::test]
async fn files_folders_and_patterns_are_selected_as_docker_does() {
    let bench = bench(&[("a.txt", "1"), ("b.txt", "2"), ("d/x", "3"), ("d/e/y", "4")]).await;
    let form = || ArchiveForm {
        prefix: "to/".into(),
        ..ArchiveForm::default()
    };
    let one = bench.select(&["a.txt"], "").await.unwrap();
    assert_eq!(bench.names(one, form()).await, ["to/a.txt"]);
    let folder = bench.select(&["d"], "").await.unwrap();
    assert_eq!(
        bench.names(folder, form()).await,
        ["to/e/", "to/e/y", "to/x"]
    );
    let several = bench.select(&["*.txt", "d"], "b.txt\nd/e").await.unwrap();
    assert_eq!(bench.names(several, form()).await, ["to/a.txt", "to/x"]);
    let all = bench.select(&["."], "**\n!d/e/y").await.unwrap();
    assert_eq!(
        bench.names(all, ArchiveForm::default()).await,
        ["d/", "d/e/", "d/e/y"]
    );
    let renamed = bench.select(&["/a.txt"], "").await.unwrap();
    let form = ArchiveForm {
        rename: Some("c".into()),
        mode: Some(0o700),
        ..ArchiveForm::default()
    };
    assert_eq!(bench.names(renamed, form).await, ["c"]);
}

#[tokio::test]
async fn what_is_not_there_is_told_in_dockers_words() {
    let bench = bench(&[("a", "1"), ("secret", "2")]).await;
    for (source, expected) in [
        (
            "nope",
            "file not found in build context or excluded by .dockerignore: stat nope: file does not exist",
        ),
        (
            "secret",
            "file not found in build context or excluded by .dockerignore: stat secret: file does not exist",
        ),
        ("*.no", "no source files were specified"),
        ("[", "syntax error in pattern"),
    ] {
        let error = bench
            .select(&[source], "secret")
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{source}: {error}");
    }
}

#[tokio::test]
async fn the_digest_is_of_names_modes_and_contents() {
    let bench = bench(&[("d/a", "1"), ("d/b", "2")]).await;
    let digest = async || bench.select(&["d"], "").await.unwrap().digest;
    let first = digest().await;
    std::fs::write(bench.tree.path.join("d/a"), "1").unwrap();
    assert_eq!(digest().await, first, "a new time changes nothing");
    std::fs::write(bench.tree.path.join("d/a"), "x").unwrap();
    let content = digest().await;
    assert_ne!(content, first);
    std::fs::set_permissions(
        bench.tree.path.join("d/a"),
        PermissionsExt::from_mode(0o700),
    )
    .unwrap();
    let mode = digest().await;
    assert_ne!(mode, content);
    std::fs::rename(bench.tree.path.join("d/b"), bench.tree.path.join("d/c")).unwrap();
    assert_ne!(digest().await, mode);
}

#[tokio::test]
async fn links_lead_to_the_contexts_own_files() {
    let bench = bench(&[("etc/passwd", "inside"), ("d/x", "1")]).await;
    symlink("/etc/passwd", bench.tree.path.join("link")).unwrap();
    symlink("../../../../etc", bench.tree.path.join("folder")).unwrap();
    for source in ["link", "folder/passwd", "../../../etc/passwd"] {
        let selection = bench.select(&[source], "").await.unwrap();
        let stream = bench
            .files
            .archive(bench.tree.clone(), selection, ArchiveForm::default())
            .await
            .unwrap();
        let bytes = stream.try_collect::<Vec<_>>().await.unwrap().concat();
        let mut archive = tar::Archive::new(&bytes[..]);
        let mut content = String::new();
        archive
            .entries()
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .read_to_string(&mut content)
            .unwrap();
        assert_eq!(content, "inside", "{source}");
    }
    assert_eq!(
        bench
            .files
            .read(bench.tree.clone(), "link", 100)
            .await
            .unwrap()
            .unwrap(),
        b"inside"
    );
    assert_eq!(
        bench
            .files
            .read(bench.tree.clone(), "none", 100)
            .await
            .unwrap(),
        None
    );
    assert!(
        bench
            .files
            .read(bench.tree.clone(), "link", 3)
            .await
            .is_err()
    );
}

#[tokio::test]
async fn folders_are_made_where_they_are_missing() {
    let bench = bench(&[("file", "1")]).await;
    std::fs::create_dir(bench.tree.path.join("run")).unwrap();
    symlink("/run", bench.tree.path.join("var-run")).unwrap();
    let make = |path: &'static str| bench.files.make_folder(bench.tree.clone(), path, None);
    assert!(!make("/var-run/a/b").await.unwrap());
    assert!(bench.tree.path.join("run/a/b").is_dir());
    assert!(make("/run/a").await.unwrap());
    assert!(
        make("/file/x")
            .await
            .unwrap_err()
            .to_string()
            .contains("/file is a file")
    );
    assert!(
        bench
            .files
            .is_folder(bench.tree.clone(), "/var-run")
            .await
            .unwrap()
    );
    assert!(
        !bench
            .files
            .is_folder(bench.tree.clone(), "/file")
            .await
            .unwrap()
    );
}

#[tokio::test]
async fn contexts_go_with_the_build_and_with_the_engine() {
    let bench = bench(&[("a", "1")]).await;
    let (path, data) = (bench.tree.path.clone(), bench._data.path().to_owned());
    DiskBuildFiles::open(&data).unwrap();
    assert!(!path.exists());
    let tree = bench.files.new_folder().await.unwrap();
    let path = tree.path.clone();
    drop(tree);
    assert!(!path.exists());
}
