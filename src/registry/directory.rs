//! The roster that the registry serves, kept up to date with the store.
//!
//! Clients read an immutable [`View`], so a poll needs no round trip to the store, and ten thousand polls share one view. A
//! task ([`Directory::run`]) queries the store once a second, when the first lease can expire, and shortly after each change
//! made through this registry. A reader never gets a view that misses a change acknowledged by this registry, or one in which
//! a lease may have expired. In both cases one reader queries the store first and the other readers wait for the result.
//!
//! **While the store is unavailable** the last view is served with its age, and registrations and heartbeats are rejected
//! immediately, without a query. Only the task keeps querying; its first successful query ends the outage. The beginning and
//! the end of an outage are logged.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

use super::exporter::Exporter;
use super::listing::Listing;
use super::roster::{Admission, Candidate};
use super::store::{Followed, Limits, Store, StoreError};
use super::view::View;
use crate::clock;
use crate::host::logging::events;
use crate::host::vitals::Pulse;
use crate::wire::InstanceId;

#[cfg(test)]
mod tests;

/// How often the store is queried when nothing happens.
const TICK: Duration = Duration::from_secs(1);

/// How long the task waits after a change before it queries the store, so that several changes need one query.
const GATHER: Duration = Duration::from_millis(20);

/// Owns the store and serves the roster.
pub struct Directory {
    store: Arc<dyn Store>,
    exporter: Arc<Exporter>,
    view: watch::Sender<Option<Arc<View>>>,
    state: Mutex<StoreState>,
    /// The number of changes acknowledged by this registry.
    changes: AtomicU64,
    wake: Notify,
    /// Held while the store is queried for the roster: one query at a time.
    asking: tokio::sync::Mutex<()>,
    listing: Listing,
}

/// What is known about the store.
#[derive(Default)]
struct StoreState {
    /// When the store last answered.
    contact: Option<Instant>,
    /// How many of [`Directory::changes`] the view contains.
    changes_seen: u64,
    /// When the first lease of the view can expire.
    next_expiry: Option<Instant>,
    outage: Option<Outage>,
    /// Why the store cannot save registrations although it answers, and since when.
    write_error: Option<(String, Instant)>,
    unusable: usize,
    /// Whether some members have loopback addresses and others do not.
    mixed_loopback: bool,
}

struct Outage {
    cause: StoreError,
    since: Instant,
    failures: u64,
}

impl Directory {
    /// A directory that has not queried its store yet.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, exporter: Arc<Exporter>) -> Self {
        Self {
            store,
            exporter,
            view: watch::Sender::new(None),
            state: Mutex::default(),
            changes: AtomicU64::new(0),
            wake: Notify::new(),
            asking: tokio::sync::Mutex::new(()),
            listing: Listing::default(),
        }
    }

    /// Keeps the view up to date until dropped. Marks `pulse` in every iteration, whatever the store answers. An iteration waits
    /// for the store at most twice: once for a query that a reader has started, and once for its own.
    pub async fn run(&self, pulse: Option<Pulse>) {
        let mark = || {
            if let Some(pulse) = &pulse {
                pulse.mark();
            }
        };
        loop {
            let next_tick = clock::monotonic() + TICK;
            mark();
            self.query().await;
            while let Some(pause) = next_tick.checked_duration_since(clock::monotonic()) {
                mark();
                tokio::select! {
                    () = sleep(pause.min(self.until_next_expiry().unwrap_or(pause))) => {}
                    () = self.wake.notified() => sleep(GATHER).await,
                }
                self.catch_up().await;
            }
        }
    }

    /// The store's name.
    #[must_use]
    pub fn store_name(&self) -> &'static str {
        self.store.name()
    }

    /// Passes new limits to the store.
    pub fn set_limits(&self, limits: Limits) {
        self.store.set_limits(limits);
    }

    /// Lets the store write its last snapshot and closes it.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it cannot be written.
    pub async fn close(&self) -> Result<(), StoreError> {
        self.store.close().await
    }

    /// Registers a member.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; immediately while the store is unavailable.
    pub async fn register(&self, candidate: Candidate) -> Result<Admission, StoreError> {
        let admission = self.on_store("register", || self.store.register(candidate)).await?;
        if admission != Admission::Renewed {
            self.changed();
        }
        Ok(admission)
    }

    /// Renews a lease. False if there is none.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; immediately while the store is unavailable.
    pub async fn heartbeat(&self, id: &InstanceId) -> Result<bool, StoreError> {
        self.on_store("heartbeat", || self.store.heartbeat(id)).await
    }

    /// Removes a member from the roster. False if it was not on it.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; immediately while the store is unavailable.
    pub async fn deregister(&self, id: &InstanceId) -> Result<bool, StoreError> {
        let left = self.on_store("deregister", || self.store.deregister(id)).await?;
        if left {
            self.changed();
        }
        Ok(left)
    }

    /// The current roster, or the last known one while the store is unavailable.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store has not answered since the start. An unknown roster is not an empty one.
    pub async fn view(&self) -> Result<Arc<View>, StoreError> {
        self.catch_up().await;
        match (self.latest(), &self.state().outage) {
            (Some(view), _) => Ok(view),
            (None, Some(outage)) => Err(outage.cause.clone()),
            (None, None) => Err(StoreError::Unreachable("it has not been queried yet".into())),
        }
    }

    /// The last view, without a query.
    #[must_use]
    pub fn latest(&self) -> Option<Arc<View>> {
        self.view.borrow().clone()
    }

    /// Waits until `is_news` is true for the view, for `limit` at most.
    pub async fn wait_for(&self, limit: Duration, is_news: impl Fn(&View) -> bool) {
        let mut views = self.view.subscribe();
        // The result does not matter: the caller looks at the view in any case.
        let _ = timeout(limit, views.wait_for(|view| view.as_ref().is_some_and(|view| is_news(view)))).await;
    }

    /// The time since the store last answered, while it is unavailable.
    #[must_use]
    pub fn stale(&self) -> Option<Duration> {
        let state = self.state();
        let since = state.contact.or(state.outage.as_ref().map(|outage| outage.since))?;
        state.outage.as_ref().map(|_| clock::monotonic().saturating_duration_since(since))
    }

    /// Why registrations are currently rejected; `None` if they are accepted.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let state = self.state();
        state
            .outage
            .as_ref()
            .map(|outage| outage.cause.to_string())
            .or_else(|| state.write_error.as_ref().map(|(reason, _)| reason.clone()))
    }

    /// The body of `GET /members` for `view`, with each member's last heartbeat; made at most once a second.
    pub async fn listing(&self, view: &View) -> Bytes {
        let ask = async { self.on_store("last_seen", || self.store.last_seen(&view.members)).await.ok() };
        self.listing.body(view, clock::wall().epoch_seconds(), ask).await
    }

    fn changed(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        self.wake.notify_one();
    }

    /// Runs one operation on the store, unless it is unavailable, and records an outage if it fails.
    async fn on_store<'a, T>(
        &self,
        operation: &'static str,
        ask: impl FnOnce() -> super::store::Answer<'a, T>,
    ) -> Result<T, StoreError> {
        if let Some(outage) = &self.state().outage {
            return Err(outage.cause.clone());
        }
        let answer = self.timed(operation, ask()).await;
        if let Err(e) = &answer
            && e.is_outage()
        {
            self.note_outage(e);
            self.wake.notify_one();
        }
        answer
    }

    async fn timed<T>(&self, operation: &'static str, answer: super::store::Answer<'_, T>) -> Result<T, StoreError> {
        let began = clock::monotonic();
        let answer = answer.await;
        self.exporter.store_operation(operation, clock::monotonic().saturating_duration_since(began));
        answer
    }

    /// Queries the store if the view is outdated and the store is available.
    async fn catch_up(&self) {
        if !self.is_outdated() {
            return;
        }
        let asking = self.asking.lock().await;
        if self.is_outdated() {
            self.query_alone(&asking).await;
        }
    }

    /// The time until the first lease can expire. `None` while the store is unavailable, because a lease may have been renewed
    /// through another registry.
    fn until_next_expiry(&self) -> Option<Duration> {
        let state = self.state();
        let end = state.next_expiry.filter(|_| state.outage.is_none())?;
        Some(end.saturating_duration_since(clock::monotonic()).max(GATHER))
    }

    fn is_outdated(&self) -> bool {
        let state = self.state();
        let expired = state.next_expiry.is_some_and(|end| end <= clock::monotonic());
        let unseen = state.contact.is_none() || state.changes_seen < self.changes.load(Ordering::SeqCst);
        state.outage.is_none() && (expired || unseen)
    }

    async fn query(&self) {
        let asking = self.asking.lock().await;
        self.query_alone(&asking).await;
    }

    async fn query_alone(&self, _asking: &tokio::sync::MutexGuard<'_, ()>) {
        // Both are read before the query: a change during the query counts as not yet seen.
        let (changes, asked) = (self.changes.load(Ordering::SeqCst), clock::monotonic());
        let known = self.latest();
        match self.timed("follow", self.store.follow(known.as_ref().map(|view| view.mark()))).await {
            Ok(followed) => self.apply(followed, changes, asked),
            Err(e) => self.note_outage(&e),
        }
    }

    fn apply(&self, followed: Followed, changes: u64, asked: Instant) {
        let Followed { mark, roster, next_expiry, expired, unusable, write_error } = followed;
        let before = self.latest();
        if let Some(members) = roster {
            let view = View::new(mark, members);
            self.warn_about_loopback(&view);
            self.view.send_replace(Some(Arc::new(view)));
        }
        self.exporter.expired(expired.len());
        for id in &expired {
            let known = before.iter().flat_map(|view| &view.members).find(|member| member.instance_id == *id);
            let location = known.map(|member| tracing::field::display(&member.location));
            tracing::info!(
                event = events::LEASE_ENDED, instance = %id, location,
                "member left the ring: no heartbeat within member_ttl"
            );
        }
        let store = self.store.name();
        let mut state = self.state();
        state.contact = Some(clock::monotonic());
        state.changes_seen = state.changes_seen.max(changes);
        state.next_expiry = next_expiry.map(|left| asked + left);
        if let Some(Outage { since, failures, .. }) = state.outage.take() {
            tracing::info!(
                event = events::STORE_BACK,
                store,
                lasted = since_then(since),
                failures,
                "the store is available again"
            );
        }
        let error_before = state.write_error.take();
        match (&error_before, &write_error) {
            (None, Some(reason)) => {
                tracing::warn!(
                    event = events::STORE_LOST,
                    store,
                    reason,
                    "the store cannot save registrations, rejecting them"
                );
            }
            (Some((_, since)), None) => {
                let lasted = since_then(*since);
                tracing::info!(event = events::STORE_BACK, store, lasted, "the store can save registrations again");
            }
            _ => {}
        }
        let since = error_before.map_or_else(clock::monotonic, |(_, since)| since);
        state.write_error = write_error.map(|reason| (reason, since));
        if unusable > state.unusable {
            tracing::warn!(entries = unusable, "skipping invalid entries that other programs wrote to the store");
        }
        state.unusable = unusable;
        self.exporter.store_up(state.write_error.is_none());
        self.exporter.unusable(unusable);
    }

    /// Logs a warning when the ring begins to have both members with loopback addresses and others, which cannot reach the former.
    fn warn_about_loopback(&self, view: &View) {
        let unreachable = view.unreachable_loopback();
        let before = std::mem::replace(&mut self.state().mixed_loopback, unreachable.is_some());
        if let (false, Some(member)) = (before, unreachable) {
            tracing::warn!(
                instance = %member.instance_id, location = %member.location, ip = %member.ip,
                "a member is registered with a loopback address, and members on other hosts cannot reach it; set its \
                 member.server.advertise_ip, or a registry.url with an address of this host that is not loopback"
            );
        }
    }

    fn note_outage(&self, cause: &StoreError) {
        self.exporter.store_up(false);
        let mut state = self.state();
        match &mut state.outage {
            Some(outage) => {
                outage.failures += 1;
                outage.cause = cause.clone();
            }
            None => {
                tracing::warn!(
                    event = events::STORE_LOST, store = self.store.name(), reason = %cause,
                    "the store is unavailable, serving the last known roster"
                );
                let since = clock::monotonic();
                state.outage = Some(Outage { cause: cause.clone(), since, failures: 1 });
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, StoreState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The time since `moment`, for log messages.
fn since_then(moment: Instant) -> String {
    format!("{} s", clock::monotonic().saturating_duration_since(moment).as_secs())
}
