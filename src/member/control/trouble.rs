//! What is logged about the registry: trouble when it begins, when its kind changes and when it ends, never on repeat.

use std::mem;
use std::time::Instant;

use tracing::{debug, info, warn};

use crate::host::logging::events;
use crate::wire::{InstanceId, Location};

use super::super::board::rough;
use super::super::client::ClientError;

/// A kind of request to the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    Registration,
    Heartbeat,
    Roster,
}

impl Request {
    const fn name(self) -> &'static str {
        match self {
            Self::Registration => "registration",
            Self::Heartbeat => "heartbeat",
            Self::Roster => "asking for the roster",
        }
    }
}

/// How it stands with the registry, as far as it was logged.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    now: Option<Outage>,
}

/// Trouble that is not over.
#[derive(Debug)]
struct Outage {
    since: Instant,
    failures: u32,
    /// Each kind of request that got no answer, and that has been logged. The cause may change with every attempt.
    silent: bool,
    /// The answer that each kind of request was refused with.
    refusals: [Option<u16>; 3],
}

impl Outage {
    fn new(since: Instant) -> Self {
        Self { since, failures: 0, silent: false, refusals: [None; 3] }
    }

    /// Counts a failure, and says whether it is news: no answer once, a refusal where it is another than the last.
    fn is_news(&mut self, request: Request, problem: &ClientError) -> bool {
        self.failures += 1;
        let status = match problem {
            ClientError::Unreachable(_) => return !mem::replace(&mut self.silent, true),
            ClientError::Refused { status, .. } | ClientError::Redirected { status, .. } => *status,
            ClientError::NoRoom => 429,
        };
        self.refusals[request as usize].replace(status) != Some(status)
    }
}

impl Trouble {
    /// Another registry is asked now: what was logged of the last one says nothing of it.
    pub(super) fn another_registry(&mut self) {
        if let Some(outage) = &mut self.now {
            (outage.silent, outage.refusals) = (false, [None; 3]);
        }
    }

    /// A request has ended, with a problem or without; `up` is whether all is well now. `who` is this member and its registry.
    pub(super) fn note(
        &mut self,
        request: Request,
        problem: Option<ClientError>,
        up: bool,
        now: Instant,
        (location, instance, registry): (&Location, &InstanceId, &str),
    ) {
        if let Some(problem) = problem {
            if !self.now.get_or_insert_with(|| Outage::new(now)).is_news(request, &problem) {
                debug!(registry, request = request.name(), %problem, "the registry is still away");
                return;
            }
            match problem {
                ClientError::Unreachable(why) => {
                    warn!(
                        event = events::REGISTRY_LOST, %location, %instance, registry, request = request.name(), reason = %why,
                        "registry lost: the ring is probed as last known"
                    );
                }
                ClientError::Refused { .. } | ClientError::Redirected { .. } | ClientError::NoRoom => {
                    warn!(
                        event = events::REGISTRY_REFUSES, %location, %instance, registry, request = request.name(),
                        reason = %problem, "registry refuses"
                    );
                }
            }
        } else if up && let Some(outage) = self.now.take() {
            let lasted = rough(now.saturating_duration_since(outage.since));
            info!(
                event = events::REGISTRY_BACK, %location, %instance, registry, attempts = outage.failures, lasted,
                "registry back"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn a_failure_is_news_once_and_again_where_its_kind_changes() {
        let mut outage = Outage::new(clock::monotonic());
        let silent = || ClientError::Unreachable("connection refused".into());
        let refused = |status| ClientError::Refused { status, message: "no".into() };
        let moved = ClientError::Redirected { status: 308, to: "https://elsewhere".into() };
        let story = [
            (Request::Heartbeat, silent(), true),
            (Request::Roster, silent(), false),
            (Request::Registration, refused(403), true),
            (Request::Registration, refused(403), false),
            (Request::Heartbeat, refused(403), true),
            (Request::Registration, refused(500), true),
            (Request::Registration, moved.clone(), true),
            (Request::Registration, moved, false),
        ];
        for (n, (request, problem, news)) in story.into_iter().enumerate() {
            assert_eq!(outage.is_news(request, &problem), news, "{n}: {problem}");
        }
        assert_eq!(outage.failures, 8);
    }
}
