//! What `ls` shows: every machine asked at the same time, none waited for longer than the timeout.

use super::{Machine, Machines};
use crate::certificates;
use crate::driver::Status;
use crate::error::chain;
use crate::store::layout;
use crate::store::record::{EngineOptions, SwarmOptions};
use std::collections::BTreeMap;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use time::OffsetDateTime;

/// A certificate that the use of a machine needs and that should be renewed now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueCertificate {
    pub whose: Whose,
    pub until: OffsetDateTime,
    /// This store's authority signed it.
    pub is_ours: bool,
}

/// Whom a certificate says something about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    Engine,
    Client,
    Authority,
}

/// One line of `ls`.
#[derive(Debug, Clone)]
pub struct Listed {
    pub name: String,
    /// Empty where the record cannot be read.
    pub driver_name: String,
    pub status: Status,
    /// Only of a running machine.
    pub url: Option<String>,
    pub engine_version: Option<String>,
    pub error: Option<String>,
    pub engine_options: EngineOptions,
    pub swarm_options: SwarmOptions,
    pub response_time: Duration,
    /// When the first of the certificates that its use needs ends.
    pub certificate_until: Option<OffsetDateTime>,
    /// The first of them that should be renewed now.
    pub certificate_due: Option<DueCertificate>,
}

impl Machines {
    /// The machines' records only; nothing is asked of a provider or an engine. One that cannot be read has status Error and
    /// says why.
    pub fn records(&self) -> Result<Vec<Listed>, crate::StoreError> {
        let names = self.store.names()?;
        Ok(names.into_iter().map(|name| self.record(name)).collect())
    }

    fn record(&self, name: String) -> Listed {
        let mut listed = Listed {
            name,
            driver_name: String::new(),
            status: Status::Error,
            url: None,
            engine_version: None,
            error: None,
            engine_options: EngineOptions::default(),
            swarm_options: SwarmOptions::default(),
            response_time: Duration::ZERO,
            certificate_until: None,
            certificate_due: None,
        };
        if let Ok(place) = self.store.place(&listed.name) {
            let read = |file| std::fs::read_to_string(place.folder.join(file)).ok();
            let mut ends: Vec<_> = [
                (Whose::Engine, layout::SERVER_CERT),
                (Whose::Client, layout::CLIENT_CERT),
                (Whose::Authority, layout::CA_CERT),
            ]
            .into_iter()
            .filter_map(|(whose, file)| Some((whose, certs::expiry_of(&read(file)?).ok()?)))
            .collect();
            ends.sort_by_key(|(_, expiry)| expiry.until);
            listed.certificate_until = ends.first().map(|(_, expiry)| expiry.until);
            let now = OffsetDateTime::now_utc();
            let due = ends.into_iter().find(|(_, expiry)| expiry.is_due(now));
            listed.certificate_due = due.map(|(whose, expiry)| DueCertificate {
                whose,
                until: expiry.until,
                is_ours: certificates::is_ours(&place, &self.certificates),
            });
        }
        match self.store.load(&listed.name) {
            Ok(record) => {
                listed.driver_name = record.driver_name;
                listed.engine_options = record.host_options.engine_options;
                listed.swarm_options = record.host_options.swarm_options;
            }
            Err(error) => listed.error = Some(chain(&error)),
        }
        listed
    }

    /// Fills in what provider and engine say. Who has not answered after `timeout` gets the status Timeout.
    pub fn ask(&self, listed: Vec<Listed>, timeout: Duration) -> Vec<Listed> {
        let started = Instant::now();
        let deadline = started + timeout;
        let (answers, incoming) = mpsc::channel();
        let mut waiting = BTreeMap::new();
        let mut done = vec![None; listed.len()];
        for (index, entry) in listed.into_iter().enumerate() {
            if entry.error.is_some() {
                done[index] = Some(entry);
                continue;
            }
            waiting.insert(index, entry.clone());
            let (answers, machines) = (answers.clone(), self.clone());
            // Not joined: a provider that hangs must not hold `ls`, and the process ends soon.
            std::thread::spawn(move || {
                let answer = machines.ask_one(entry, deadline);
                // Nobody listens after the timeout.
                let _ = answers.send((index, answer));
            });
        }
        drop(answers);
        while !waiting.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok((index, mut entry)) = incoming.recv_timeout(left) else {
                break;
            };
            waiting.remove(&index);
            entry.response_time = started.elapsed();
            done[index] = Some(entry);
        }
        for (index, mut entry) in waiting {
            entry.status = Status::Timeout;
            entry.response_time = started.elapsed();
            done[index] = Some(entry);
        }
        done.into_iter().flatten().collect()
    }

    fn ask_one(&self, mut entry: Listed, deadline: Instant) -> Listed {
        let result = self.open(&entry.name).and_then(|machine| {
            if machine.record.is_half_made() {
                return Err(crate::MachineError::HalfMade {
                    machine: entry.name.clone(),
                });
            }
            entry.status = machine.status()?;
            if entry.status == Status::Running {
                entry.url = Some(machine.url()?);
                entry.engine_version = Some(engine_version(&machine, deadline)?);
                let problems = machine.port_problems();
                entry.error = (!problems.is_empty()).then(|| problems.join("; "));
            }
            Ok(())
        });
        if let Err(error) = result {
            entry.error = Some(chain(&error));
        }
        entry
    }
}

fn engine_version(machine: &Machine, deadline: Instant) -> Result<String, crate::MachineError> {
    // A little less than the caller waits, so that the reason is told rather than "Timeout".
    let left = deadline.saturating_duration_since(Instant::now()) * 9 / 10;
    let version = machine
        .engine()?
        .version(left.max(Duration::from_millis(1)))
        .map_err(|source| machine.unreachable(source))?;
    Ok(version.version)
}
