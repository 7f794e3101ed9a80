//! Who is connected to the shim, and what they send and are told.

use super::Server;
use crate::shim::connection::{Purpose, Read};
use crate::shim::protocol::{
    Answer, Event, Greeting, Kind, Purpose as Wanted, Refusal, Reply, Request, VERSION,
};
use nix::poll::PollFlags;
use std::time::Instant;

impl Server {
    pub(super) fn connection_ready(&mut self, key: u32, events: PollFlags) {
        let Some(connection) = self.connections.get_mut(&key) else {
            return;
        };
        if events.contains(PollFlags::POLLOUT) {
            connection.flush();
        }
        if !events.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR) {
            return;
        }
        let mut closed = !matches!(connection.read(), Ok(Read::More));
        loop {
            let Some(connection) = self.connections.get_mut(&key) else {
                return;
            };
            match connection.next_frame() {
                Ok(Some((kind, payload))) => {
                    if let Err(why) = self.frame(key, kind, &payload) {
                        eprintln!("shim: {why}");
                        closed = true;
                        break;
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    eprintln!("shim: {error}");
                    closed = true;
                    break;
                }
            }
        }
        if closed {
            self.close(key);
        }
    }

    pub(super) fn close(&mut self, key: u32) {
        self.connections.remove(&key);
        let attached = self
            .processes
            .iter()
            .find(|(_, process)| process.stream == Some(key))
            .map(|(key, _)| *key);
        if let Some(process_key) = attached {
            if let Some(process) = self.processes.get_mut(&process_key) {
                process.stream = None;
                // Whoever waited for an exec is gone with serve. The first process's input stays open for the next.
                if process.exec.is_some() {
                    process.input_ended = true;
                    process.write_input();
                }
            }
            self.tidy(process_key);
        }
        // A container that never ran and has nobody to ask for it.
        if self.container.is_none() && self.connections.is_empty() {
            self.over.get_or_insert_with(Instant::now);
        }
    }

    pub(super) fn frame(&mut self, key: u32, kind: Kind, payload: &[u8]) -> Result<(), String> {
        let purpose = self.connections[&key].purpose.clone();
        match (purpose, kind) {
            (Purpose::Unknown, Kind::Greeting) => self.greeting(key, payload),
            (Purpose::Control, Kind::Request) => {
                let request: Request = serde_json::from_slice(payload)
                    .map_err(|error| format!("a request that cannot be read: {error}"))?;
                self.request(key, request);
                Ok(())
            }
            (Purpose::Stream(_), Kind::Stdin | Kind::StdinEnd) => {
                let process = self
                    .processes
                    .values_mut()
                    .find(|process| process.stream == Some(key));
                if let Some(process) = process {
                    if kind == Kind::StdinEnd {
                        process.input_ended = true;
                    } else if process.stdin.is_some() {
                        process.input.extend_from_slice(payload);
                    }
                    process.write_input();
                }
                Ok(())
            }
            (purpose, kind) => Err(format!("a {kind:?} frame on a {purpose:?} connection")),
        }
    }

    pub(super) fn greeting(&mut self, key: u32, payload: &[u8]) -> Result<(), String> {
        let greeting: Greeting = serde_json::from_slice(payload)
            .map_err(|error| format!("a greeting that cannot be read: {error}"))?;
        if greeting.version != VERSION {
            return Err(format!(
                "serve speaks version {} of the protocol, this shim {VERSION}",
                greeting.version
            ));
        }
        let purpose = match greeting.purpose {
            Wanted::Control => Purpose::Control,
            Wanted::Stream(process) => Purpose::Stream(process),
        };
        let connection = self
            .connections
            .get_mut(&key)
            .expect("it has just sent a frame");
        connection.purpose = purpose.clone();
        connection.send(Kind::Greeting, b"");
        if let Purpose::Stream(wanted) = purpose {
            let found = self
                .processes
                .iter_mut()
                .find(|(_, process)| process.exec == wanted);
            if let Some((process_key, process)) = found {
                let process_key = *process_key;
                let before = process.stream.replace(key);
                if let Some(before) = before {
                    self.connections.remove(&before);
                }
                self.announce_end(process_key);
            }
        }
        Ok(())
    }

    pub(super) fn answer(&mut self, asked: (u32, u64), result: Result<Reply, Refusal>) {
        if let Some(connection) = self.connections.get_mut(&asked.0) {
            let answer = Answer {
                number: asked.1,
                result,
            };
            let payload = serde_json::to_vec(&answer).expect("plain data");
            connection.send(Kind::Answer, &payload);
        }
    }

    /// Tells every control connection.
    pub(super) fn tell(&mut self, event: &Event) {
        let payload = serde_json::to_vec(event).expect("plain data");
        for connection in self.connections.values_mut() {
            if connection.purpose == Purpose::Control {
                connection.send(Kind::Event, &payload);
            }
        }
    }
}
