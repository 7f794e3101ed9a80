//! Gives the crate a digest of its own sources: a cached half-built image is only right for the code that made it.

use std::hash::Hasher;
use std::path::Path;

fn main() {
    println!("cargo:rerun-if-changed=src");
    let mut hasher = std::hash::DefaultHasher::new();
    hash_folder(Path::new("src"), &mut hasher);
    println!(
        "cargo:rustc-env=IMAGE_BUILDER_SOURCES={:016x}",
        hasher.finish()
    );
}

fn hash_folder(folder: &Path, hasher: &mut impl Hasher) {
    let mut entries: Vec<_> = std::fs::read_dir(folder)
        .expect("the source folder is readable")
        .map(|entry| entry.expect("the source folder is readable").path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            hash_folder(&path, hasher);
        } else {
            hasher.write(path.to_string_lossy().as_bytes());
            hasher.write(&std::fs::read(&path).expect("the source files are readable"));
        }
    }
}
