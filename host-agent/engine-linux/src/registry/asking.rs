//! Asking the endpoints of a registry: in rounds, each of them once, until one gives an answer that will do.
//!
//! ```text
//! round: mirrors in order, the registry itself (an insecure one with TLS and without, first as it answered the last time)
//!        an answer nobody can use is as good as none: the next one is asked
//! wait, then once more those that may do better: who was busy (429, 5xx); where nobody was, who could not be reached
//!
//! Who said when to come back is passed over until then, and waited for where nobody else is left.
//! ```

use super::exchange::{Again, Exchange, Failed};
use super::{Endpoint, HttpRegistry};
use engine::images::registry::RegistryError;
use reqwest::{Response, Url};
use std::collections::VecDeque;
use std::time::Duration;

/// An answer and who gave it.
pub(super) struct Answer {
    pub response: Response,
    pub endpoint: Endpoint,
}

/// A question on its way round.
pub(super) struct Asking<'a> {
    registry: &'a HttpRegistry,
    request: &'a Exchange<'a>,
    domain: &'a str,
    /// Still to be asked in this round.
    round: VecDeque<Endpoint>,
    /// To be asked in the next one.
    later: Vec<(Endpoint, Again)>,
    rounds: u32,
    /// Whether anybody was asked in this round.
    has_asked: bool,
    wait: Duration,
    /// The error that counts so far.
    error: Option<RegistryError>,
}

impl<'a> Asking<'a> {
    pub async fn new(
        registry: &'a HttpRegistry,
        domain: &'a str,
        request: &'a Exchange<'a>,
    ) -> Asking<'a> {
        let endpoints = match request.is_read {
            true => registry.inner.endpoints.of(domain).await,
            false => registry.inner.endpoints.itself(domain).await,
        };
        let is_doubtful = |endpoint: &Endpoint| {
            let doubts = &registry.inner.doubts;
            endpoint.is_mirror
                && request
                    .blob
                    .is_some_and(|digest| doubts.about(digest, endpoint.base.as_str()))
        };
        Asking {
            registry,
            request,
            domain,
            round: endpoints
                .into_iter()
                .filter(|endpoint| !is_doubtful(endpoint))
                .collect(),
            later: Vec::new(),
            rounds: 0,
            has_asked: false,
            wait: registry.inner.first_wait,
            error: None,
        }
    }

    /// Asks some only after the others.
    pub fn put_last(&mut self, bases: &[Url]) {
        let round = self.round.make_contiguous();
        round.sort_by_key(|endpoint| bases.contains(&endpoint.base));
    }

    /// The next answer of success; when there is none, the error that tells most.
    pub async fn next(&mut self) -> Result<Answer, RegistryError> {
        loop {
            while let Some(endpoint) = self.round.pop_front() {
                if !self.left(&endpoint).is_zero() {
                    self.later.push((endpoint, Again::Busy));
                    continue;
                }
                self.has_asked = true;
                let outcome = match endpoint.url(&self.request.path) {
                    Ok(url) => {
                        self.registry
                            .exchange_once(&endpoint, url, self.request)
                            .await
                    }
                    Err(error) => Err(Failed::for_good(error)),
                };
                match outcome {
                    Ok(response) => {
                        self.registry.inner.endpoints.answered(&endpoint);
                        return Ok(Answer { response, endpoint });
                    }
                    Err(failed) => self.note(endpoint, failed),
                }
            }
            if !self.begin_round().await {
                return Err(self
                    .error
                    .take()
                    .unwrap_or_else(|| RegistryError::BadAddress {
                        address: self.domain.to_owned(),
                    }));
            }
        }
    }

    /// Tells that an answer was of no use.
    pub fn reject(&mut self, endpoint: Endpoint, error: RegistryError) {
        let again = match error {
            RegistryError::Unreachable { .. } => Again::Unreached,
            _ => Again::No,
        };
        self.note(endpoint, Failed { error, again });
    }

    fn note(&mut self, endpoint: Endpoint, failed: Failed) {
        let Failed { error, again } = failed;
        let is_unreached = matches!(error, RegistryError::Unreachable { .. });
        if is_unreached {
            self.registry.inner.endpoints.is_down(&endpoint);
        }
        if endpoint.is_mirror {
            tracing::info!(mirror = %endpoint.base, error = %engine::error::full_message(&error),
                "a mirror could not serve a request; trying the next");
        }
        // Whoever answers in one way needs not be asked in the other, which would only hide the answer.
        let is_wrong_way = is_wrong_way(&endpoint, &error);
        if !endpoint.is_mirror && !is_unreached && !is_wrong_way {
            self.round.retain(|other| other.is_mirror);
            self.later.retain(|(other, _)| other.is_mirror);
        }
        // The registry's own word counts more than a mirror's, and any more than "not reached".
        let counts = match &self.error {
            None | Some(RegistryError::Unreachable { .. }) => {
                self.error.is_none() || !is_wrong_way || !error.to_string().contains("HTTPS")
            }
            Some(_) => !endpoint.is_mirror && !is_unreached && !is_wrong_way,
        };
        if counts {
            self.error = Some(error);
        }
        if again != Again::No {
            self.later.push((endpoint, again));
        }
    }

    /// Waits and turns to those that may do better the next time; whether there are such.
    async fn begin_round(&mut self) -> bool {
        let has_asked = std::mem::take(&mut self.has_asked);
        self.rounds += u32::from(has_asked);
        let mut later = std::mem::take(&mut self.later);
        if later.iter().any(|(_, again)| *again != Again::Unreached) {
            later.retain(|(_, again)| *again != Again::Unreached);
        }
        if later.is_empty()
            || has_asked
                && (self.rounds >= self.registry.inner.attempts || !self.request.is_repeated)
        {
            return false;
        }
        let patience = &self.registry.inner.patience;
        // Who may be asked first decides how long we wait; the others are passed over once more.
        let first = later
            .iter()
            .map(|(endpoint, _)| endpoint)
            .min_by_key(|endpoint| self.left(endpoint))
            .expect("there are some");
        if self.left(first).is_zero() {
            patience.sleep(self.wait).await;
            self.wait *= 2;
        } else {
            let waits = self.registry.waits.as_ref();
            patience.wait(first, self.request.credentials, waits).await;
        }
        self.round = later.into_iter().map(|(endpoint, _)| endpoint).collect();
        true
    }

    /// How long an endpoint must be left alone.
    fn left(&self, endpoint: &Endpoint) -> Duration {
        let patience = &self.registry.inner.patience;
        patience.left(endpoint, self.request.credentials)
    }
}

/// Whether an insecure registry was asked without TLS and speaks TLS: servers answer 400 to that.
pub(super) fn is_wrong_way(endpoint: &Endpoint, error: &RegistryError) -> bool {
    endpoint.is_insecure
        && !endpoint.is_mirror
        && endpoint.base.scheme() == "http"
        && matches!(error, RegistryError::Status { status: 400, .. })
}
