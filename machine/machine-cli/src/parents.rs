//! Which programs started this one.

/// The file names of the programs that started this one, the nearest first.
#[cfg(windows)]
pub(crate) fn programs() -> Vec<String> {
    use std::collections::HashMap;
    use winsafe::{GetCurrentProcessId, HPROCESSLIST, co};
    let Ok(mut list) = HPROCESSLIST::CreateToolhelp32Snapshot(co::TH32CS::SNAPPROCESS, None) else {
        return Vec::new();
    };
    let mut processes: HashMap<u32, (u32, String)> = list
        .iter_processes()
        .flatten()
        .map(|found| {
            let parent = found.th32ParentProcessID;
            (found.th32ProcessID, (parent, found.szExeFile()))
        })
        .collect();
    let mut programs = Vec::new();
    let mut next = GetCurrentProcessId();
    // Taken out: numbers are used again, and a circle must end.
    while let Some((parent, program)) = processes.remove(&next) {
        programs.push(program);
        next = parent;
    }
    // The first one is this program.
    programs.drain(..programs.len().min(1));
    programs
}

/// Elsewhere SHELL says all there is to know.
#[cfg(not(windows))]
pub(crate) fn programs() -> Vec<String> {
    Vec::new()
}
