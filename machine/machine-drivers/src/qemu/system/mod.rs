//! What Windows and Unix do differently, behind one seam: local sockets, processes, private files, the size of the
//! computer. Both forms have the same names; the rest of the driver does not ask which system it is on.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
pub(super) use unix::*;
#[cfg(windows)]
pub(super) use windows::*;

/// Where named pipes are on Windows.
pub(super) const PIPES: &str = r"\\.\pipe\";

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{ErrorKind, Read, Write};
    use std::path::Path;
    use std::time::Duration;

    /// A place for sockets, as a machine's folder gives it.
    fn sockets_of(folder: &Path) -> SocketPlace {
        let place = SocketPlace::of(folder);
        place.renew().unwrap();
        place
    }

    #[test]
    fn both_ends_talk_at_once_and_see_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = sockets_of(folder.path()).path("keeper");
        assert!(connect(&path).is_err(), "nobody listens yet");
        let listener = Listener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            let mut stream = listener.accept().unwrap();
            let mut reader = stream.try_clone().unwrap();
            // One thread reads while the other writes: a pipe that takes turns would stand still here.
            let reading = std::thread::spawn(move || {
                let mut word = [0; 5];
                reader.read_exact(&mut word).unwrap();
                word
            });
            std::thread::sleep(Duration::from_millis(50));
            stream.write_all(b"first").unwrap();
            assert_eq!(&reading.join().unwrap(), b"after");
            // And a second connection at the same place.
            drop(listener.accept().unwrap());
            let large = vec![7; 300_000];
            stream.write_all(&large).unwrap();
        });
        let mut client = connect(&path).unwrap();
        let mut word = [0; 5];
        client.read_exact(&mut word).unwrap();
        assert_eq!(&word, b"first");
        client
            .set_read_timeout(Some(Duration::from_millis(50)))
            .unwrap();
        let kind = client.read(&mut word).unwrap_err().kind();
        assert!(matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut));
        client.write_all(b"after").unwrap();
        let mut second = connect(&path).unwrap();
        second
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        assert_eq!(second.read(&mut word).unwrap(), 0, "it was closed");
        client
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        let mut all = Vec::new();
        client.read_to_end(&mut all).unwrap();
        assert_eq!(all.len(), 300_000);
        server.join().unwrap();
    }

    #[test]
    fn what_nobody_reads_does_not_stop_the_writer_of_a_little() {
        let (mut ours, mut theirs) = Stream::pair().unwrap();
        ours.set_write_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        // More than a pipe of QEMU holds by itself: events of a monitor that nobody asks anything.
        ours.write_all(&[1; 8000]).unwrap();
        drop(ours);
        let mut all = Vec::new();
        theirs.read_to_end(&mut all).unwrap();
        assert_eq!(all.len(), 8000);
        assert!(theirs.write_all(b"gone").is_err() || theirs.write_all(b"gone").is_err());
    }

    #[test]
    fn sockets_are_of_one_machine_and_gone_with_it() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let place = sockets_of(one.path());
        assert_ne!(place.path("qmp"), sockets_of(two.path()).path("qmp"));
        assert_ne!(place.path("qmp"), place.path("control"));
        assert_eq!(place.path("qmp"), SocketPlace::of(one.path()).path("qmp"));
        place.make().unwrap();
        place.remove(&["qmp", "control"]);
        assert_eq!(std::fs::read_dir(one.path()).unwrap().count(), 0);
        assert!(connect(&place.path("qmp")).is_err());
    }

    #[test]
    fn the_computer_has_a_size() {
        let here = std::env::temp_dir();
        let (free, total) = disk_space(&here).unwrap();
        assert!(free > 0 && free <= total);
        assert_eq!(disk_space(Path::new("/none/such/folder")), None);
        if cfg!(any(target_os = "linux", windows)) {
            assert!(memory_mib().unwrap() > 100);
        }
    }
}
