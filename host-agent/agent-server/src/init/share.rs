//! Folders of the desktop. The kernel speaks FUSE, the desktop's keeper answers, and here is what lies between: two
//! threads a folder that carry messages between `/dev/fuse` and a virtio-serial port. Nothing is interpreted but the
//! three words of [`guest_contract::share::Word`], by which the keeper quiets a folder before the machine is suspended.

use super::modules::Loader;
use super::{devices, say, start};
use anyhow::{Context, Result, bail};
use guest_contract::share::{LONGEST_MESSAGE, SHARES_VERSION, Share, Shares, Word, port_name};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

/// The shares of a seed's file, checked as far as a guest must: where to mount is the desktop's business.
pub fn parse(json: &[u8]) -> Result<Vec<Share>> {
    let shares: Shares = serde_json::from_slice(json).context("the list of shares is malformed")?;
    if shares.version > SHARES_VERSION {
        bail!(
            "the list of shares has version {}, this image understands {SHARES_VERSION}: the image is older than the desktop's programs",
            shares.version
        );
    }
    Ok(shares.folders)
}

/// Mounts all of them, in their order: one may lie inside another.
pub fn mount_all(shares: &[Share], loader: &Loader) -> Result<()> {
    if shares.is_empty() {
        return Ok(());
    }
    loader
        .load(&["fuse"])
        .iter()
        .for_each(|problem| say(problem));
    for (index, share) in shares.iter().enumerate() {
        mount_one(index, share)
            .with_context(|| format!("cannot share the desktop's folder at {}", share.path))?;
    }
    Ok(())
}

fn mount_one(index: usize, share: &Share) -> Result<()> {
    let name = port_name(index);
    let device = devices::wait_for("port of a shared folder", || devices::serial_port(&name))?;
    let port = OpenOptions::new()
        .read(true)
        .write(true)
        .open(device)
        .context("cannot open its port")?;
    let fuse = devices::wait_for("/dev/fuse", || {
        let both = OpenOptions::new().read(true).write(true).open("/dev/fuse");
        both.ok()
    })?;
    let target = Path::new(&share.path);
    std::fs::create_dir_all(target).with_context(|| format!("cannot make {}", share.path))?;
    // Devices and setuid programs of a desktop mean nothing here. Who may do what is for the desktop to say, which knows
    // only its own user: `allow_other`, and no `default_permissions`.
    let mut flags = MountFlags::NODEV | MountFlags::NOSUID;
    flags.set(MountFlags::RDONLY, share.read_only);
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,allow_other",
        fuse.as_raw_fd()
    );
    let options = std::ffi::CString::new(options).expect("no NUL in a number");
    mount("desktop", target, "fuse", flags, Some(options.as_c_str())).context("cannot mount it")?;
    carry(fuse, port)
}

/// What the thread that reads the desktop's words tells the one that reads the kernel's requests.
type Words = (Sender<Word>, UnixStream);

fn carry(fuse: File, port: File) -> Result<()> {
    let (sender, words) = mpsc::channel();
    let (waker, woken) = UnixStream::pair()?;
    woken.set_nonblocking(true)?;
    let (fuse_reader, port_writer) = (fuse.try_clone()?, port.try_clone()?);
    start("requests", move || {
        carry_requests(&fuse_reader, &port_writer, &words, &woken);
        say("a shared folder is unmounted");
    })?;
    start("answers", move || {
        carry_answers(port, &fuse, &(sender, waker))
    })?;
    Ok(())
}

/// From the kernel to the desktop. This thread alone writes to the port.
fn carry_requests(fuse: &File, mut port: &File, words: &Receiver<Word>, mut woken: &UnixStream) {
    let mut message = vec![0; LONGEST_MESSAGE];
    let mut send = |bytes: &[u8]| {
        if let Err(error) = port.write_all(bytes) {
            say(&format!("cannot reach the desktop: {error}"));
        }
    };
    loop {
        let mut ready = [
            PollFd::new(fuse, PollFlags::IN),
            PollFd::new(woken, PollFlags::IN),
        ];
        let _ = poll(&mut ready, None);
        let (has_request, has_word) = (
            !ready[0].revents().is_empty(),
            !ready[1].revents().is_empty(),
        );
        if has_word {
            let _ = woken.read(&mut [0; 64]);
            let mut held = false;
            // While it is held the kernel's requests wait in the kernel.
            loop {
                let word = match held {
                    false => words.try_recv().ok(),
                    true => words.recv().ok(),
                };
                match word {
                    Some(Word::Hold) => {
                        held = true;
                        send(&Word::Hold.to_bytes());
                    }
                    Some(Word::Sync) => send(&Word::Sync.to_bytes()),
                    Some(Word::Go) => held = false,
                    None => break,
                }
            }
            continue;
        }
        if !has_request {
            continue;
        }
        match (&mut &*fuse).read(&mut message) {
            Ok(count) => send(&message[..count]),
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::NODEV) => return, // unmounted
                // The asker gave up, or somebody was faster.
                Some(Errno::NOENT | Errno::INTR | Errno::AGAIN) => {}
                _ => {
                    say(&format!("cannot read a request: {error}"));
                    std::thread::sleep(Duration::from_millis(100));
                }
            },
        }
    }
}

/// From the desktop to the kernel, which wants every answer in one piece.
fn carry_answers(mut port: File, mut fuse: &File, (sender, waker): &Words) {
    let mut waiting = Vec::with_capacity(LONGEST_MESSAGE);
    let mut chunk = vec![0; 64 * 1024];
    loop {
        match port.read(&mut chunk) {
            Ok(count) if count > 0 => waiting.extend_from_slice(&chunk[..count]),
            // No desktop at the other end: it comes back when the machine is resumed.
            _ => {
                std::thread::sleep(Duration::from_millis(50));
                continue;
            }
        }
        let mut done = 0;
        while let Some(message) = first_message(&waiting[done..]) {
            match message {
                Ok(message) => {
                    done += message.len();
                    match Word::from_bytes(message) {
                        Some(word) => {
                            let _ = sender.send(word);
                            let _ = (&mut &*waker).write(&[0]);
                        }
                        // An answer to somebody who gave up is no concern of ours.
                        None => drop(fuse.write(message)),
                    }
                }
                Err(length) => {
                    say(&format!("the desktop sent a message of {length} bytes"));
                    return;
                }
            }
        }
        waiting.drain(..done);
    }
}

/// The first message, once it is there as a whole; its length when that cannot be.
fn first_message(bytes: &[u8]) -> Option<Result<&[u8], usize>> {
    let length = u32::from_le_bytes(bytes.get(..4)?.try_into().expect("four bytes")) as usize;
    if !(Word::LENGTH..=LONGEST_MESSAGE).contains(&length) {
        return Some(Err(length));
    }
    bytes.get(..length).map(Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_cut_by_their_length() {
        let mut bytes = Word::Go.to_bytes().to_vec();
        bytes.extend([9, 0, 0, 0, 1]);
        assert_eq!(first_message(&bytes), Some(Ok(&bytes[..8])));
        assert_eq!(first_message(&bytes[8..]), None);
        assert_eq!(first_message(&[]), None);
        assert_eq!(first_message(&[3, 0, 0, 0]), Some(Err(3)));
        assert_eq!(
            first_message(&[0xff, 0xff, 0xff, 0xff]),
            Some(Err(0xffff_ffff))
        );
    }

    #[test]
    fn a_list_of_a_newer_desktop_is_refused() {
        assert_eq!(parse(br#"{"version":1,"folders":[]}"#).unwrap(), []);
        let error = parse(br#"{"version":2,"folders":[]}"#).unwrap_err();
        assert!(
            error.to_string().contains("older than the desktop"),
            "{error}"
        );
    }
}
