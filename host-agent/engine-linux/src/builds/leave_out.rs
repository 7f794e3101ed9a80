//! `.dockerignore`: what the rules leave out is taken away from a context that was sent with it, so that no step sees it,
//! however it reads the context.

use super::failed;
use super::select::leaves_out;
use super::tree::open_tree;
use crate::archive::tree::{Descend, walk};
use engine::builds::files::BuildFilesError;
use engine::builds::ignore::Ignore;
use engine::images::BorrowedRoot;
use rustix::fs::FileType;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

pub(super) fn leave_out(context: &BorrowedRoot, rules: &Ignore) -> Result<(), BuildFilesError> {
    let remove = || -> io::Result<()> {
        let root = open_tree(&context.path).map_err(io::Error::other)?;
        let mut looked_into = Vec::new();
        walk(root.as_fd(), &mut |found| {
            let path = || context.path.join(OsStr::from_bytes(found.path));
            let is_folder = found.kind() == FileType::Directory;
            if leaves_out(rules, found.path, found.kind()) {
                match is_folder {
                    true => fs::remove_dir_all(path())?,
                    false => fs::remove_file(path())?,
                }
                return Ok(Descend::No);
            }
            if is_folder && rules.leaves_out(&String::from_utf8_lossy(found.path)) {
                looked_into.push(path());
            }
            Ok(Descend::Yes)
        })?;
        // A folder that is left out is there for what is taken back in, and there may be nothing of that.
        for folder in looked_into.iter().rev() {
            match fs::remove_dir(folder) {
                Err(error) if error.kind() != io::ErrorKind::DirectoryNotEmpty => {
                    return Err(error);
                }
                _ => {}
            }
        }
        Ok(())
    };
    remove().map_err(|error| failed("remove what .dockerignore leaves out of the context", error))
}
