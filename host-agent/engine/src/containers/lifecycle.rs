//! The rules of a container's life, as one pure function.
//!
//! ```text
//!            start            pause
//!  Created --------> Running <------> Paused
//!     |    .--------^  |   |  unpause
//!     |    | start     |   '-exit-> Restarting --(back-off)--> Running
//!     |    |           v exit          | stop, kill
//!     |  Exited <------+---------------'
//!     v    v
//!    Removing ---> gone, or Dead (something of it could not be removed; remove again)
//! ```

use crate::error::{Class, Classify};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// Where a container is in its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerState {
    Created,
    Running {
        pid: u32,
        #[serde(with = "time::serde::rfc3339")]
        started: OffsetDateTime,
    },
    Paused {
        pid: u32,
        #[serde(with = "time::serde::rfc3339")]
        started: OffsetDateTime,
    },
    /// It ended and is started again after a pause.
    Restarting {
        code: i32,
    },
    Exited {
        code: i32,
        #[serde(with = "time::serde::rfc3339")]
        at: OffsetDateTime,
    },
    Removing,
    Dead {
        why: String,
    },
}

impl ContainerState {
    /// Docker's `State.Status`.
    pub fn name(&self) -> &'static str {
        match self {
            ContainerState::Created => "created",
            ContainerState::Running { .. } => "running",
            ContainerState::Paused { .. } => "paused",
            ContainerState::Restarting { .. } => "restarting",
            ContainerState::Exited { .. } => "exited",
            ContainerState::Removing => "removing",
            ContainerState::Dead { .. } => "dead",
        }
    }

    /// It has processes.
    pub fn is_alive(&self) -> bool {
        matches!(
            self,
            ContainerState::Running { .. } | ContainerState::Paused { .. }
        )
    }

    /// Docker's `State.Running`: alive, or about to be started again.
    pub fn is_running(&self) -> bool {
        self.is_alive() || matches!(self, ContainerState::Restarting { .. })
    }

    /// Process id of the first process, 0 where there is none.
    pub fn pid(&self) -> u32 {
        match self {
            ContainerState::Running { pid, .. } | ContainerState::Paused { pid, .. } => *pid,
            _ => 0,
        }
    }
}

/// What somebody wants of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    Start,
    Stop,
    Restart,
    Kill,
    Pause,
    Unpause,
    Exec,
    Attach,
    /// Terminal size.
    Resize,
    Top,
    Remove {
        force: bool,
    },
}

/// What is to be done for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Start,
    /// Signal, wait, kill.
    Stop,
    StopThenStart,
    Signal,
    /// It is not running; do not start it again.
    CancelRestart,
    Pause,
    Resume,
    /// Go on: the state allows it and does not change.
    Proceed,
    Remove,
    KillThenRemove,
}

/// Why not. The texts are Docker's; [`Denied::describe`] puts the container's name in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    AlreadyStarted,
    AlreadyStopped,
    StartPaused,
    Marked,
    NotRunning,
    NotRunningForKill,
    AlreadyPaused,
    NotPaused,
    Restarting,
    PausedForExec,
    PausedForAttach,
    RemoveRunning,
    RemovePaused,
    RemoveRestarting,
    RemovalInProgress,
}

impl Denied {
    pub fn class(self) -> Class {
        match self {
            Denied::AlreadyStarted | Denied::AlreadyStopped => Class::NotModified,
            _ => Class::Conflict,
        }
    }

    /// Docker's sentence. `name` without a slash in front; `asked` is what the client called the container.
    pub fn describe(self, id: &str, name: &str, asked: &str) -> String {
        match self {
            Denied::AlreadyStarted => format!("container {id} is already started"),
            Denied::AlreadyStopped => format!("container {id} is already stopped"),
            Denied::StartPaused => "cannot start a paused container, try unpause instead".into(),
            Denied::Marked => "container is marked for removal and cannot be started".into(),
            Denied::NotRunning => format!("container {id} is not running"),
            Denied::NotRunningForKill => {
                format!("cannot kill container: {asked}: container {id} is not running")
            }
            Denied::AlreadyPaused => format!("container {id} is already paused"),
            Denied::NotPaused => format!("Container {id} is not paused"),
            Denied::Restarting => {
                format!("Container {id} is restarting, wait until the container is running")
            }
            Denied::PausedForExec => {
                format!("container {asked} is paused, unpause the container before exec")
            }
            Denied::PausedForAttach => {
                format!("container {asked} is paused, unpause the container before attach")
            }
            Denied::RemoveRunning => removal_denied(
                name,
                "running: stop the container before removing or force remove",
            ),
            Denied::RemoveRestarting => removal_denied(
                name,
                "restarting: stop the container before removing or force remove",
            ),
            Denied::RemovePaused => removal_denied(name, "paused and must be unpaused first"),
            Denied::RemovalInProgress => {
                format!("removal of container {asked} is already in progress")
            }
        }
    }
}

fn removal_denied(name: &str, why: &str) -> String {
    format!("cannot remove container \"/{name}\": container is {why}")
}

/// A denial with its sentence.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct DeniedError {
    pub denied: Denied,
    pub text: String,
}

impl Classify for DeniedError {
    fn class(&self) -> Class {
        self.denied.class()
    }
}

/// What to do when `request` meets `state`.
pub fn decide(state: &ContainerState, request: Request) -> Result<Step, Denied> {
    use ContainerState as S;
    match (request, state) {
        (Request::Start, S::Created | S::Exited { .. } | S::Restarting { .. }) => Ok(Step::Start),
        (Request::Start, S::Running { .. }) => Err(Denied::AlreadyStarted),
        (Request::Start, S::Paused { .. }) => Err(Denied::StartPaused),
        (Request::Start | Request::Restart, S::Removing | S::Dead { .. }) => Err(Denied::Marked),

        (Request::Stop, S::Running { .. } | S::Paused { .. }) => Ok(Step::Stop),
        (Request::Stop | Request::Kill, S::Restarting { .. }) => Ok(Step::CancelRestart),
        (Request::Stop, _) => Err(Denied::AlreadyStopped),

        (Request::Restart, S::Running { .. } | S::Paused { .. } | S::Restarting { .. }) => {
            Ok(Step::StopThenStart)
        }
        (Request::Restart, S::Created | S::Exited { .. }) => Ok(Step::Start),

        (Request::Kill, S::Running { .. } | S::Paused { .. }) => Ok(Step::Signal),
        (Request::Kill, _) => Err(Denied::NotRunningForKill),

        (Request::Pause, S::Running { .. }) => Ok(Step::Pause),
        (Request::Pause, S::Paused { .. }) => Err(Denied::AlreadyPaused),
        (Request::Pause | Request::Exec | Request::Attach | Request::Top, S::Restarting { .. }) => {
            Err(Denied::Restarting)
        }
        (Request::Pause, _) => Err(Denied::NotRunning),
        (Request::Unpause, S::Paused { .. }) => Ok(Step::Resume),
        (Request::Unpause, _) => Err(Denied::NotPaused),

        (Request::Exec, S::Running { .. }) => Ok(Step::Proceed),
        (Request::Exec, S::Paused { .. }) => Err(Denied::PausedForExec),
        (Request::Attach, S::Paused { .. }) => Err(Denied::PausedForAttach),
        (Request::Attach, S::Removing | S::Dead { .. }) => Err(Denied::Marked),
        (Request::Attach, _) => Ok(Step::Proceed),
        (Request::Top | Request::Resize, S::Running { .. } | S::Paused { .. }) => Ok(Step::Proceed),
        (Request::Exec | Request::Top | Request::Resize, _) => Err(Denied::NotRunning),

        (Request::Remove { .. }, S::Removing) => Err(Denied::RemovalInProgress),
        (
            Request::Remove { force: true },
            S::Running { .. } | S::Paused { .. } | S::Restarting { .. },
        ) => Ok(Step::KillThenRemove),
        (Request::Remove { force: false }, S::Running { .. }) => Err(Denied::RemoveRunning),
        (Request::Remove { force: false }, S::Paused { .. }) => Err(Denied::RemovePaused),
        (Request::Remove { force: false }, S::Restarting { .. }) => Err(Denied::RemoveRestarting),
        (Request::Remove { .. }, S::Created | S::Exited { .. } | S::Dead { .. }) => {
            Ok(Step::Remove)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_state() -> impl Strategy<Value = ContainerState> {
        let now = OffsetDateTime::UNIX_EPOCH;
        prop_oneof![
            Just(ContainerState::Created),
            (1u32..9).prop_map(move |pid| ContainerState::Running { pid, started: now }),
            (1u32..9).prop_map(move |pid| ContainerState::Paused { pid, started: now }),
            (0i32..256).prop_map(|code| ContainerState::Restarting { code }),
            (0i32..256).prop_map(move |code| ContainerState::Exited { code, at: now }),
            Just(ContainerState::Removing),
            ".*".prop_map(|why| ContainerState::Dead { why }),
        ]
    }

    fn any_request() -> impl Strategy<Value = Request> {
        prop_oneof![
            Just(Request::Start),
            Just(Request::Stop),
            Just(Request::Restart),
            Just(Request::Kill),
            Just(Request::Pause),
            Just(Request::Unpause),
            Just(Request::Exec),
            Just(Request::Attach),
            Just(Request::Resize),
            Just(Request::Top),
            any::<bool>().prop_map(|force| Request::Remove { force }),
        ]
    }

    proptest! {
        #[test]
        fn nothing_is_signalled_or_asked_of_a_container_without_processes(state in any_state(), request in any_request()) {
            let step = decide(&state, request);
            if !state.is_alive() {
                prop_assert!(!matches!(step, Ok(Step::Signal | Step::Stop | Step::Pause | Step::Resume)));
                if request != Request::Attach {
                    prop_assert_ne!(step, Ok(Step::Proceed));
                }
            }
        }

        #[test]
        fn nothing_alive_is_removed_without_being_killed(state in any_state(), force in any::<bool>()) {
            let step = decide(&state, Request::Remove { force });
            if state.is_running() {
                prop_assert_ne!(step, Ok(Step::Remove));
            }
            // A force removal is refused only where one goes on already.
            if force && step.is_err() {
                prop_assert_eq!(state, ContainerState::Removing);
            }
        }

        #[test]
        fn nothing_that_goes_away_is_started(request in any_request()) {
            for state in [ContainerState::Removing, ContainerState::Dead { why: String::new() }] {
                let step = decide(&state, request);
                prop_assert!(!matches!(step, Ok(Step::Start | Step::StopThenStart)));
            }
        }

        #[test]
        fn every_denial_names_a_class_below_500(state in any_state(), request in any_request()) {
            if let Err(denied) = decide(&state, request) {
                prop_assert!(matches!(denied.class(), Class::Conflict | Class::NotModified));
                prop_assert!(!denied.describe("id", "name", "asked").is_empty());
            }
        }
    }

    #[test]
    fn the_texts_are_dockers() {
        let running = ContainerState::Running {
            pid: 1,
            started: OffsetDateTime::UNIX_EPOCH,
        };
        let denied = decide(&running, Request::Remove { force: false }).expect_err("it runs");
        assert_eq!(
            denied.describe("0123", "web", "web"),
            "cannot remove container \"/web\": container is running: stop the container before removing or force remove"
        );
        let denied = decide(&ContainerState::Created, Request::Kill).expect_err("it does not run");
        assert_eq!(
            denied.describe("0123", "web", "web"),
            "cannot kill container: web: container 0123 is not running"
        );
    }
}
