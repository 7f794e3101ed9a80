use super::*;
use std::process::{Child, Command, Stdio};

fn root() -> bool {
    rustix::process::geteuid().is_root()
}

/// This host's own hierarchies and, where it has one beside them, its v2 hierarchy: what needs no controller is the same
/// there as on a host that is v2 altogether.
fn everywhere() -> Vec<Arc<Hierarchies>> {
    let mut all = vec![Hierarchies::of_this_host()];
    let beside = Path::new("/sys/fs/cgroup/unified");
    if beside.join("cgroup.procs").exists() {
        all.push(Arc::new(Hierarchies::unified(beside)));
    }
    all.retain(|one| !one.all.is_empty());
    all
}

fn group(hierarchies: &Arc<Hierarchies>, test: &str) -> Cgroup {
    let path = format!("/berth-cgroup-test/{test}-{}", std::process::id());
    Cgroup::new(hierarchies, &path)
}

/// A process that enters the group, says so and waits.
fn sleeper(cgroup: &Cgroup) -> Child {
    use std::os::unix::process::CommandExt;
    let cgroup = cgroup.clone();
    let mut command = Command::new("sh");
    command.args(["-c", "echo in; exec sleep 1000"]);
    command.stdout(Stdio::piped());
    // SAFETY: `enter` opens and writes files; the tests' other threads may hold the allocator's lock only for a moment
    // that fork(2) waits for (the C library takes it around fork).
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(move || cgroup.enter());
    }
    let mut child = command.spawn().unwrap();
    let mut line = [0u8; 3];
    io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
    child
}

#[test]
fn a_group_is_entered_frozen_and_removed_with_what_is_in_it() {
    if !root() {
        println!("skipped: needs root");
        return;
    }
    for hierarchies in everywhere() {
        let cgroup = group(&hierarchies, "life");
        cgroup.create().unwrap();
        let mut child = sleeper(&cgroup);
        assert_eq!(cgroup.processes().unwrap(), [child.id()]);
        cgroup.freeze().unwrap();
        cgroup.thaw().unwrap();
        // Frozen from outside, with a group below: none of it keeps the group from being removed.
        for folder in cgroup.folders() {
            fs::create_dir(folder.join("below")).unwrap();
        }
        cgroup.freeze().unwrap();
        let waiter = std::thread::spawn(move || child.wait());
        cgroup.remove().unwrap();
        assert!(!waiter.join().unwrap().unwrap().success());
        assert!(cgroup.folders().all(|folder| !folder.exists()));
        cgroup.remove().unwrap();
    }
}

#[test]
fn a_group_left_by_an_earlier_run_is_made_anew() {
    if !root() {
        println!("skipped: needs root");
        return;
    }
    for hierarchies in everywhere() {
        let cgroup = group(&hierarchies, "anew");
        cgroup.create().unwrap();
        let mut child = sleeper(&cgroup);
        let waiter = std::thread::spawn(move || child.wait());
        cgroup.create().unwrap();
        assert!(!waiter.join().unwrap().unwrap().success());
        assert!(cgroup.processes().unwrap().is_empty());
        cgroup.remove().unwrap();
    }
}

#[test]
fn controllers_are_passed_on_from_the_root() {
    let folder = tempfile::tempdir().unwrap();
    let (root, parent) = (folder.path(), folder.path().join("berth"));
    let leaf = parent.join("c");
    fs::create_dir_all(&leaf).unwrap();
    for group in [root, &parent, &leaf] {
        fs::write(group.join("cgroup.subtree_control"), "").unwrap();
        fs::write(group.join("cgroup.controllers"), "cpu\n").unwrap();
    }
    fs::write(root.join("cgroup.controllers"), "cpu pids\n").unwrap();
    let hierarchies = Hierarchies::unified(root);
    offer_controllers(&hierarchies.all[0], &leaf).unwrap();
    let passed = |group: &Path| fs::read_to_string(group.join("cgroup.subtree_control")).unwrap();
    assert_eq!(
        [passed(root), passed(&parent), passed(&leaf)],
        ["+pids", "+pids", ""]
    );
}

#[test]
fn a_cpuset_group_gets_what_its_parents_have() {
    let folder = tempfile::tempdir().unwrap();
    let leaf = folder.path().join("a/b");
    fs::create_dir_all(&leaf).unwrap();
    fs::write(folder.path().join("cpuset.cpus"), "0-3\n").unwrap();
    fs::write(folder.path().join("a/cpuset.cpus"), "\n").unwrap();
    fs::write(leaf.join("cpuset.cpus"), "\n").unwrap();
    inherit(folder.path(), &leaf, "cpuset.cpus").unwrap();
    for group in [&leaf, &folder.path().join("a")] {
        assert_eq!(
            fs::read_to_string(group.join("cpuset.cpus")).unwrap(),
            "0-3"
        );
    }
}
