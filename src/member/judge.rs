//! What may be said of a target after a probe of it.
//!
//! The one place that decides whether a failure is the peer's or this host's. It is given the outcome and what was the case
//! while the probe ran, and decides by these rules, the first that applies:
//!
//! 1. What the peer or its host itself has answered counts whatever happened here: a success, and a refused connection.
//! 2. A failure that this host found by itself (no descriptor, no route) is local.
//! 3. A failure during which this process stood still for more than a tenth of the probe's time limit is local: the answer may
//!    have come and gone meanwhile. So is an answer that shows the peer was kept waiting (a bad status, a body cut short).
//! 4. A failure without any answer is local where the network of this host explains it: the interface had no carrier, or the
//!    gateway on the way did not answer.
//! 5. While nothing at all outside this host answers, a failure without an answer is local, too.
//! 6. A failure of a peer that the roster may have lost (it may have left) makes it unknown.
//! 7. Any other failure means down.
//!
//! For an answer that names its sender: a member of another location is a failure (`identity`); another member of the same
//! location shows that the way to the site is good, and is no sign of life of this one.

use crate::probe::{Failure, LocalCause, Outcome, Reason};
use crate::wire::InstanceId;

use super::peers::Peer;
use super::report::Facts;

/// A probe is disturbed when the process stood still for more than this share of the probe's time limit while it ran.
const DISTURBED_SHARE: u32 = 10;

/// What a probe says of its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It is up.
    Up,
    /// It is down.
    Down,
    /// Nothing; what was known of it stays until it is too old.
    Nothing,
    /// It is not known any more how it is.
    Unknown,
}

/// An outcome after the judgement.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// The outcome; the reason of its failure is `local` where this host was at fault.
    pub outcome: Outcome,
    /// What that says of the target.
    pub finding: Finding,
    /// The answer came from this other member of the peer's location.
    pub answered_by_another: Option<InstanceId>,
    /// The peer itself is known to have answered, as it gave its own name.
    pub answered_itself: bool,
}

/// Judges one outcome of a probe of `peer`. `held` is whether the roster may have lost the peer; `isolated` whether nothing
/// outside this host answers.
#[must_use]
pub fn judge(mut outcome: Outcome, facts: &Facts, peer: &Peer, held: bool, isolated: bool) -> Judged {
    let disturbed = facts.stalled > facts.limit / DISTURBED_SHARE;
    let answered_by = outcome.answered_by.take();
    let mut judged = Judged { outcome, finding: Finding::Up, answered_by_another: None, answered_itself: false };
    if let Some(answered_by) = answered_by {
        let elsewhere = answered_by.location.filter(|location| *location != peer.location);
        let itself = answered_by.instance_id.as_ref() == Some(&peer.instance_id);
        let another = answered_by.instance_id.filter(|_| !itself);
        match (elsewhere, another) {
            (Some(location), another) => {
                let who = another.map_or_else(String::new, |instance| format!(" ({instance})"));
                let detail = format!("location {location}{who} answers at this address");
                judged.outcome.result = Err(Failure { reason: Reason::Identity, detail });
            }
            (None, Some(instance)) => judged.answered_by_another = Some(instance),
            (None, None) => judged.answered_itself = itself,
        }
    }
    let failure = match &mut judged.outcome.result {
        Ok(timings) => {
            timings.disturbed = disturbed;
            return judged;
        }
        Err(failure) => failure,
    };
    let (answered, by_stall) = match failure.reason {
        // The peer's host refuses a connection whatever this process does; and who answers is who answers.
        Reason::Refused | Reason::Identity => (true, false),
        Reason::Status | Reason::Body => (true, true),
        Reason::Local(_) | Reason::Resolve | Reason::Timeout | Reason::Unreachable | Reason::Reset | Reason::Tls => {
            (false, true)
        }
    };
    let here = if failure.reason.is_local() {
        None
    } else if by_stall && disturbed {
        Some((LocalCause::Stalled, format!("this process stood still for {:.1?} meanwhile", facts.stalled)))
    } else if answered {
        None
    } else if let Some(why) = &facts.network {
        Some((LocalCause::NoRoute, why.to_string()))
    } else if isolated {
        Some((LocalCause::Isolated, "nothing outside this host answers".to_owned()))
    } else {
        None
    };
    if let Some((cause, why)) = here {
        *failure = Failure { reason: Reason::Local(cause), detail: format!("{why}; {}", failure.detail) };
    }
    judged.finding = match failure.reason {
        Reason::Local(LocalCause::Isolated) => Finding::Unknown,
        Reason::Local(_) => Finding::Nothing,
        _ if held => Finding::Unknown,
        _ => Finding::Down,
    };
    judged
}

#[cfg(test)]
mod tests;
