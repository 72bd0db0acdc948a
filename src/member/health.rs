//! Whether this member is itself well.
//!
//! A member that was stopped, is starved of processor time, has run out of descriptors or has no connection to the network sees
//! its peers fail, and none of them is at fault. A failure that this host caused has the reason `local` already; this file says
//! whether there are so many, or of such a kind, that the member as a whole is not to be trusted, and why.
//!
//! What makes it unwell:
//! * a stall of one second in all within ten;
//! * a probe for which the host had no descriptor or no memory, or that a stall spoilt;
//! * a failure that the network of this host explains: no carrier, or a gateway that does not answer;
//! * that no probe of any peer on another host could be sent (one peer without a route is that peer's matter);
//! * that nothing outside this host answers (*isolated*): every target on other hosts failed since the last success of any,
//!   at least two locations among them that were not known to be down before, and the registry is lost, too. Rules of
//!   this host's own firewall and a full connection tracking table look like that: nothing but timeouts. The latter drops new
//!   connections only, so an answer of the registry on a connection that was open before counts for nothing here.
//!
//! It is well again when nothing of that kind has happened for a minute, or for one check interval where that is longer: long
//! enough for a scrape to see it, whatever its own interval.
//!
//! A plain value: it is told the time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::probe::{Failure, LocalCause, Reason, Timings};
use crate::wire::Location;

/// The time over which stalls add up.
const WINDOW: Duration = Duration::from_secs(10);

/// How much stall within [`WINDOW`] is too much.
const STALL_MAX: Duration = Duration::from_secs(1);

/// For how long the last trouble is reported at least.
const REPORTED_FOR: Duration = Duration::from_secs(60);

/// What is remembered of one target, kept beside it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Marks {
    /// The run of failures without a route in which it failed last.
    no_route: u64,
    /// The run of failures of any sort in which it failed last.
    failed: u64,
}

/// One probe that has ended, as far as the health of this member is concerned.
#[derive(Clone, Copy, Debug)]
pub struct Probed<'a> {
    /// Where the target is.
    pub location: &'a Location,
    /// Its address, for the words.
    pub address: std::net::SocketAddr,
    /// Whether it is on this host.
    pub on_this_host: bool,
    /// Whether it was known to be down before.
    pub was_down: bool,
    /// When the probe ended.
    pub ended: Instant,
}

/// A run of failures on other hosts, without a success between them.
#[derive(Clone, Debug, Default)]
struct Run {
    /// Its number; targets carry it in their [`Marks`].
    number: u64,
    /// How many targets it has met.
    targets: usize,
}

/// The health of one member. See the module's head.
#[derive(Clone, Debug)]
pub struct Health {
    /// The stalls that ended within [`WINDOW`] of the last one.
    stalls: VecDeque<(Instant, Duration)>,
    /// The time lost to stalls since the start.
    lost: Duration,
    /// How many targets there are on other hosts.
    targets: usize,
    no_route: Run,
    failed: Run,
    /// Of the run of failures: locations that were not known to be down before it; two are enough to know.
    turned: Vec<Location>,
    registry_lost: bool,
    isolated: bool,
    /// When the last isolation ended.
    connected_again: Option<Instant>,
    /// The last trouble: when, and what.
    trouble: Option<(Instant, String)>,
}

impl Default for Health {
    fn default() -> Self {
        // Targets that have failed in no run have zero in their marks.
        let run = Run { number: 1, targets: 0 };
        Self {
            stalls: VecDeque::new(),
            lost: Duration::ZERO,
            targets: 0,
            no_route: run.clone(),
            failed: run,
            turned: Vec::new(),
            registry_lost: false,
            isolated: false,
            connected_again: None,
            trouble: None,
        }
    }
}

impl Run {
    fn meets(&mut self, mark: &mut u64) {
        self.targets += usize::from(*mark != self.number);
        *mark = self.number;
    }

    fn end(&mut self) {
        if self.targets > 0 {
            *self = Self { number: self.number + 1, targets: 0 };
        }
    }
}

impl Health {
    /// The targets are now these: the marks of each on another host.
    pub fn set_targets<'a>(&mut self, marks: impl Iterator<Item = &'a Marks>) {
        (self.targets, self.no_route.targets, self.failed.targets) = (0, 0, 0);
        for mark in marks {
            self.targets += 1;
            self.no_route.targets += usize::from(mark.no_route == self.no_route.number);
            self.failed.targets += usize::from(mark.failed == self.failed.number);
        }
    }

    /// The probe thread woke `lost` later than it wanted to, at `until`.
    pub fn stalled(&mut self, lost: Duration, until: Instant) {
        self.lost += lost;
        if lost >= STALL_MAX {
            // A long stall is reported once: without this the next short one would report it again.
            self.stalls.clear();
            self.trouble = Some((until, format!("the process stood still for {lost:.1?}")));
            return;
        }
        self.stalls.push_back((until, lost));
        while self.stalls.front().is_some_and(|(at, _)| until.saturating_duration_since(*at) > WINDOW) {
            self.stalls.pop_front();
        }
        let lately: Duration = self.stalls.iter().map(|(_, lost)| *lost).sum();
        if lately >= STALL_MAX {
            let why = "starved of processor time: it stood still for more than a tenth of it".into();
            self.trouble = Some((until, why));
        }
    }

    /// The host was suspended until then: nothing from before says anything.
    pub fn suspended(&mut self, lost: Duration, until: Instant) {
        self.lost += lost;
        self.connected(until);
        self.trouble = Some((until, format!("the host was suspended for {} s", lost.as_secs())));
    }

    /// The registry answered on a new connection, or it did not answer. What it says from this very host is no sign of a network.
    pub fn registry(&mut self, reached: bool, on_this_host: bool, now: Instant) {
        self.registry_lost = !reached && !on_this_host;
        if reached && !on_this_host {
            self.connected(now);
        } else {
            self.look_for_isolation(now);
        }
    }

    /// Something on another host answered.
    fn connected(&mut self, now: Instant) {
        self.failed.end();
        self.turned.clear();
        if std::mem::take(&mut self.isolated) {
            self.connected_again = Some(now);
        }
    }

    /// A probe ended with this result, before it is judged by [`Health::is_isolated`].
    pub fn note_answer(&mut self, marks: &mut Marks, probed: &Probed<'_>, result: &Result<Timings, Failure>) {
        if probed.on_this_host {
            return;
        }
        match result {
            Ok(_) => self.connected(probed.ended),
            // Who refuses or answers badly has been reached.
            Err(failure)
                if matches!(
                    failure.reason,
                    Reason::Refused | Reason::Reset | Reason::Status | Reason::Body | Reason::Identity | Reason::Tls
                ) =>
            {
                self.connected(probed.ended);
            }
            // These say nothing about the network.
            Err(Failure {
                reason: Reason::Local(LocalCause::Stalled | LocalCause::Resources | LocalCause::Internal),
                ..
            }) => {}
            Err(_) => {
                self.failed.meets(&mut marks.failed);
                if !probed.was_down && self.turned.len() < 2 && !self.turned.contains(probed.location) {
                    self.turned.push(probed.location.clone());
                }
                self.look_for_isolation(probed.ended);
            }
        }
    }

    fn look_for_isolation(&mut self, now: Instant) {
        if self.registry_lost && self.is_all_silent() {
            self.isolated = true;
        }
        if self.isolated {
            let why = "isolated: no target at any other location answers, and the registry is lost; look at this host's \
                       connection, its firewall and its connection tracking table";
            self.trouble = Some((now, why.into()));
        }
    }

    /// Whether every target on another host has failed since the last success of any, so that it is worth asking whether the
    /// registry is still there.
    #[must_use]
    pub fn is_all_silent(&self) -> bool {
        self.targets > 0 && self.failed.targets >= self.targets && self.turned.len() >= 2
    }

    /// Whether nothing outside this host answers, or did not while a probe ran that began at `began`.
    #[must_use]
    pub fn is_isolated(&self, began: Instant) -> bool {
        self.isolated || self.connected_again.is_some_and(|at| began <= at)
    }

    /// Takes in a judged result. `explained` is whether the network of this host explains the failure.
    pub fn probed(
        &mut self,
        marks: &mut Marks,
        probed: &Probed<'_>,
        result: &Result<Timings, Failure>,
        explained: bool,
    ) {
        let Err(Failure { reason: Reason::Local(cause), detail }) = result else {
            if !probed.on_this_host {
                self.no_route.end();
            }
            return;
        };
        let what = format!("it cannot probe {} ({})", probed.location, probed.address.ip());
        let why = match cause {
            LocalCause::Resources | LocalCause::Internal => Some(format!("{what}: {detail}")),
            // The stall has been reported already, with more to say about it.
            LocalCause::Stalled => self
                .trouble
                .as_ref()
                .is_none_or(|(at, _)| probed.ended.saturating_duration_since(*at) > WINDOW)
                .then(|| format!("{what}: {detail}")),
            LocalCause::NoRoute if probed.on_this_host => None,
            LocalCause::NoRoute => {
                self.no_route.meets(&mut marks.no_route);
                let all = self.no_route.targets >= self.targets;
                (all || explained).then(|| format!("{what}: {detail}"))
            }
            // Reported where it was found.
            LocalCause::Isolated => None,
        };
        if let Some(why) = why {
            self.trouble = Some((probed.ended, why));
        }
    }

    /// Why the member is not well, where it is not.
    #[must_use]
    pub fn unwell(&self, now: Instant, interval: Duration) -> Option<&str> {
        let (at, why) = self.trouble.as_ref()?;
        (now.saturating_duration_since(*at) <= REPORTED_FOR.max(interval)).then_some(why)
    }

    /// For how long the probe thread has stood still since its start, in all, suspends of the host included.
    #[must_use]
    pub fn lost(&self) -> Duration {
        self.lost
    }
}

#[cfg(test)]
mod tests;
