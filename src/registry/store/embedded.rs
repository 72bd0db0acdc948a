//! The embedded store: the roster in this process's memory, and in a [`journal`] where there is a state directory.
//!
//! All operations change the roster in memory under a lock that is never held across an await. A registration is acknowledged
//! when the journal is on disk. Heartbeats are not written to the journal: members restored after a restart get a full lease
//! to send the next one. Departures are written, but do not wait for a slow or full disk. If a crash loses one, the member
//! stays on the roster until its lease expires.
//!
//! While the journal cannot be written, registrations that would have to be written are rejected. A known member may still
//! register again with an unchanged location and address. Writing is retried every second.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::timeout;

use self::journal::{FileMedium, Journal, JournalError, Medium, Record};
use super::{Answer, Followed, Limits, Mark, Store, StoreError};
use crate::clock;
use crate::host::vitals::Pulse;
use crate::registry::roster::{Admission, Candidate, RingTime, Roster};
use crate::wire::{InstanceId, Member};

pub mod journal;

/// The roster in memory, with or without a journal.
pub struct EmbeddedStore {
    state: Arc<Mutex<State>>,
    journal: Option<Journal>,
}

struct State {
    roster: Roster,
    ring_time: RingTime,
    expired: Vec<InstanceId>,
}

impl EmbeddedStore {
    /// A store without a journal.
    #[must_use]
    pub fn in_memory(limits: Limits) -> Self {
        Self { state: State::new(Roster::new(limits.member_ttl, limits.max_members)), journal: None }
    }

    /// Restores the store from `registry.journal` in `directory`. The thread that writes the journal marks `pulse`.
    ///
    /// # Errors
    ///
    /// [`JournalError`] if the directory or the journal cannot be read. A disk that is full or read-only is no error: the
    /// store starts and rejects registrations until it can write.
    pub fn open(directory: &Path, limits: Limits, pulse: Option<Pulse>) -> Result<Self, JournalError> {
        Self::on(Box::new(FileMedium::open(directory)?), limits, pulse)
    }

    fn on(medium: Box<dyn Medium>, limits: Limits, pulse: Option<Pulse>) -> Result<Self, JournalError> {
        let left = journal::recover(medium.as_ref())?;
        let Limits { member_ttl, max_members, .. } = limits;
        let revision = left.revision;
        let roster = Roster::restored(member_ttl, max_members, revision, left.members, clock::monotonic());
        let state = State::new(roster);
        let shared = Arc::clone(&state);
        let journal = Journal::start(medium, revision, move || lock(&shared).snapshot(), pulse)?;
        Ok(Self { state, journal: Some(journal) })
    }

    fn admit(&self, candidate: Candidate) -> Result<(Admission, Option<journal::Durable>), StoreError> {
        let mut state = lock(&self.state);
        let now = state.now(self.journal.as_ref());
        let id = candidate.instance_id.clone();
        let since = state.roster.unchanged_since(&candidate, now);
        // `None` if the member's current record is already on disk and nothing has to be written. The record of an earlier
        // registration that was not answered may still be in the queue.
        let writing = self.journal.as_ref().filter(|journal| since.is_none_or(|since| since > journal.durable()));
        if let Some(reason) = writing.and_then(Journal::fault) {
            return Err(StoreError::Unwritable(reason));
        }
        let admission =
            state.roster.register(candidate, now, clock::wall()).map_err(|full| StoreError::Full(full.max_members))?;
        let Some(journal) = writing else { return Ok((admission, None)) };
        if admission != Admission::Renewed {
            let member = state.roster.member(&id).expect("the member registered a line above").clone();
            journal.add(Record::Joined { revision: state.roster.revision(), member });
        }
        Ok((admission, Some(journal.kept())))
    }

    fn fault(&self) -> Option<String> {
        self.journal.as_ref().and_then(Journal::fault)
    }
}

impl State {
    fn new(roster: Roster) -> Arc<Mutex<Self>> {
        let ring_time = RingTime::new(clock::monotonic());
        Arc::new(Mutex::new(Self { roster, ring_time, expired: Vec::new() }))
    }

    /// The ring time. Removes the members whose leases have expired, from the roster and from the journal.
    fn now(&mut self, journal: Option<&Journal>) -> std::time::Instant {
        let now = self.ring_time.at(clock::monotonic());
        while let Some(member) = self.roster.expire(now) {
            if let Some(journal) = journal {
                journal.add(Record::Left { revision: self.roster.revision(), id: member.instance_id.clone() });
            }
            self.expired.push(member.instance_id);
        }
        now
    }

    fn snapshot(&mut self) -> journal::Snapshot {
        let now = self.ring_time.at(clock::monotonic());
        journal::Snapshot { revision: self.roster.revision(), members: self.roster.members(now).cloned().collect() }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long a departure waits for the disk before it is answered.
const LEAVE_WAIT: Duration = Duration::from_millis(200);

impl Store for EmbeddedStore {
    fn name(&self) -> &'static str {
        "embedded"
    }

    fn register(&self, candidate: Candidate) -> Answer<'_, Admission> {
        Box::pin(async move {
            let (admission, kept) = self.admit(candidate)?;
            if let Some(kept) = kept {
                kept.await.map_err(StoreError::Unwritable)?;
            }
            Ok(admission)
        })
    }

    fn heartbeat<'a>(&'a self, id: &'a InstanceId) -> Answer<'a, bool> {
        Box::pin(async move {
            let mut state = lock(&self.state);
            let now = state.now(self.journal.as_ref());
            Ok(state.roster.renew(id, now, clock::wall()))
        })
    }

    fn deregister<'a>(&'a self, id: &'a InstanceId) -> Answer<'a, bool> {
        Box::pin(async move {
            let kept = {
                let mut state = lock(&self.state);
                let now = state.now(self.journal.as_ref());
                if !state.roster.leave(id, now) {
                    return Ok(false);
                }
                self.journal.as_ref().map(|journal| {
                    journal.add(Record::Left { revision: state.roster.revision(), id: id.clone() });
                    journal.kept()
                })
            };
            // The member has left even if the disk fails: a record lost in a crash only keeps it listed for one more lease.
            if let Some(kept) = kept {
                let _ = timeout(LEAVE_WAIT, kept).await;
            }
            Ok(true)
        })
    }

    fn follow<'a>(&'a self, known: Option<&'a Mark>) -> Answer<'a, Followed> {
        Box::pin(async move {
            let mut state = lock(&self.state);
            let now = state.now(self.journal.as_ref());
            let mark = Mark { revision: state.roster.revision(), origin: "".into() };
            Ok(Followed {
                roster: (known != Some(&mark)).then(|| state.roster.members(now).cloned().collect()),
                mark,
                next_expiry: state.roster.next_expiry().map(|ends| ends.saturating_duration_since(now)),
                expired: std::mem::take(&mut state.expired),
                unusable: 0,
                write_error: self.fault(),
            })
        })
    }

    fn last_seen<'a>(&'a self, members: &'a [Member]) -> Answer<'a, Vec<Option<u64>>> {
        Box::pin(async move {
            let state = lock(&self.state);
            Ok(members.iter().map(|m| state.roster.member(&m.instance_id).map(|now| now.last_seen)).collect())
        })
    }

    fn set_limits(&self, limits: Limits) {
        lock(&self.state).roster.set_limits(limits.member_ttl, limits.max_members);
    }

    fn close(&self) -> Answer<'_, ()> {
        Box::pin(async move {
            match &self.journal {
                Some(journal) => journal.close().await.map_err(StoreError::Unwritable),
                None => Ok(()),
            }
        })
    }
}
