//! QEMU's monitor (QMP): one request, one answer, events in between skipped. A dozen commands do not need a library.

use crate::qemu::system::Stream;
use serde_json::{Value, json};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::sync::Mutex;
use std::time::Duration;

/// An answer longer than this is none.
const LONGEST_LINE: u64 = 1 << 20;
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    #[error("QEMU's monitor does not answer")]
    Talk(#[source] io::Error),
    #[error("QEMU's monitor refused {command}: {why}")]
    Refused { command: String, why: String },
}

/// The connection; threads take turns.
pub struct Qmp {
    stream: Mutex<Lines>,
}

struct Lines {
    reader: BufReader<Stream>,
    next: u64,
}

impl Qmp {
    /// Reads the greeting, which may take `limit`, and leaves negotiation mode.
    pub fn over(stream: Stream, limit: Duration) -> Result<Qmp, QmpError> {
        stream
            .set_read_timeout(Some(limit))
            .map_err(QmpError::Talk)?;
        stream
            .set_write_timeout(Some(ANSWER_WITHIN))
            .map_err(QmpError::Talk)?;
        let mut lines = Lines {
            reader: BufReader::new(stream),
            // Answers to a keeper that was killed may still come: their numbers are other ones.
            next: std::time::UNIX_EPOCH
                .elapsed()
                .map_or(1, |since| since.as_micros() as u64),
        };
        while lines.read().map_err(QmpError::Talk)?.get("QMP").is_none() {}
        let stream = lines.reader.get_ref();
        stream
            .set_read_timeout(Some(ANSWER_WITHIN))
            .map_err(QmpError::Talk)?;
        let qmp = Qmp {
            stream: Mutex::new(lines),
        };
        qmp.execute("qmp_capabilities", Value::Null)?;
        Ok(qmp)
    }

    pub fn execute(&self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        let mut lines = self
            .stream
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let id = lines.next;
        lines.next += 1;
        let mut request = json!({"execute": command, "id": id});
        if !arguments.is_null() {
            request["arguments"] = arguments;
        }
        let mut text = request.to_string();
        text.push('\n');
        lines
            .reader
            .get_mut()
            .write_all(text.as_bytes())
            .map_err(QmpError::Talk)?;
        loop {
            let answer = lines.read().map_err(QmpError::Talk)?;
            if answer["id"] != id {
                continue; // an event, or the late answer to a request that timed out
            }
            if let Some(error) = answer.get("error") {
                return Err(QmpError::Refused {
                    command: command.to_owned(),
                    why: error["desc"]
                        .as_str()
                        .unwrap_or("no reason given")
                        .to_owned(),
                });
            }
            return Ok(answer["return"].clone());
        }
    }

    /// A command of the human monitor, which alone can change port forwards. Returns what it printed.
    pub fn human(&self, line: &str) -> Result<String, QmpError> {
        let answer = self.execute("human-monitor-command", json!({"command-line": line}))?;
        Ok(answer.as_str().unwrap_or_default().trim().to_owned())
    }
}

impl Lines {
    fn read(&mut self) -> io::Result<Value> {
        let mut line = Vec::new();
        (&mut self.reader)
            .take(LONGEST_LINE)
            .read_until(b'\n', &mut line)?;
        if !line.ends_with(b"\n") {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        serde_json::from_slice(&line).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_between_request_and_answer_are_skipped() {
        let (ours, theirs) = Stream::pair().unwrap();
        let server = std::thread::spawn(move || {
            let mut writer = theirs.try_clone().unwrap();
            let mut reader = BufReader::new(theirs);
            writer.write_all(b"{\"QMP\": {}}\r\n").unwrap();
            let mut ask = || {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                serde_json::from_str::<Value>(&line).unwrap()
            };
            let first = ask();
            assert_eq!(first["execute"], "qmp_capabilities");
            writeln!(writer, "{}", json!({"return": {}, "id": first["id"]})).unwrap();
            let second = ask();
            assert_eq!(second["arguments"]["command-line"], "hostfwd_add x");
            writeln!(writer, "{}", json!({"event": "RESUME"})).unwrap();
            writeln!(
                writer,
                "{}",
                json!({"return": "could not\r\n", "id": second["id"]})
            )
            .unwrap();
            let third = ask();
            writeln!(
                writer,
                "{}",
                json!({"error": {"desc": "no"}, "id": third["id"]})
            )
            .unwrap();
        });
        let qmp = Qmp::over(ours, ANSWER_WITHIN).unwrap();
        assert_eq!(qmp.human("hostfwd_add x").unwrap(), "could not");
        assert!(
            qmp.execute("quit", Value::Null)
                .unwrap_err()
                .to_string()
                .contains("refused quit: no")
        );
        server.join().unwrap();
        assert!(matches!(
            qmp.execute("quit", Value::Null),
            Err(QmpError::Talk(_))
        ));
    }
}
