//! An idle shim's memory. Starting a container touches most of the program; waiting touches a few pages of it.

use std::fs;

/// Takes the program's unchanged pages out of this process's memory. They stay in the page cache and come back when they
/// are touched again; nothing is lost.
pub fn forget_clean_pages() {
    let Ok(text) = fs::read_to_string("/proc/self/smaps") else {
        return;
    };
    for (start, end) in clean_file_mappings(&text) {
        // SAFETY: MADV_DONTNEED drops pages of this range from the page table. The range is a mapping of a file that has
        // no anonymous page, so each page equals the file's and is read from it again at the next access. This thread is
        // the only one, so no mapping has changed since it was read; making the list above allocates, but in memory that
        // is anonymous.
        unsafe {
            libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED);
        }
    }
}

/// Mappings of files without a single changed page, from the text of /proc/PID/smaps.
fn clean_file_mappings(smaps: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut current = None;
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let Some(first) = words.next() else { continue };
        if let Some((start, end)) = first.split_once('-') {
            let range = usize::from_str_radix(start, 16)
                .ok()
                .zip(usize::from_str_radix(end, 16).ok());
            let access = words.next().unwrap_or("");
            let path = words.nth(3).unwrap_or("");
            let wanted = path.starts_with('/') && access.starts_with('r') && !access.contains('w');
            current = range.filter(|_| wanted);
        } else if first == "Anonymous:"
            && let Some(range) = current.take()
            && words.next() == Some("0")
        {
            found.push(range);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unchanged_parts_of_files_are_found() {
        let smaps = "\
1000-3000 r-xp 00000000 08:01 12 /usr/bin/agent
Rss: 8 kB
Anonymous:             0 kB
3000-4000 r--p 00002000 08:01 12 /usr/bin/agent
Anonymous:             4 kB
4000-5000 rw-p 00003000 08:01 12 /usr/bin/agent
Anonymous:             0 kB
5000-6000 r--p 00000000 00:00 0 [vvar]
Anonymous:             0 kB
6000-7000 r--p 00000000 00:00 0
Anonymous:             0 kB
";
        assert_eq!(clean_file_mappings(smaps), [(0x1000, 0x3000)]);
    }
}
