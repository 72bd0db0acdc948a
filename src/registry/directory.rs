//! The roster as the registry serves it, and how it is kept in step with the store.
//!
//! What clients read is an immutable [`View`], so that a poll costs no round trip and ten thousand polls share one. A task
//! ([`Directory::run`]) asks the store once a second, at the end of the first lease, and a moment after each local change.
//! A reader never gets a view that is behind a change acknowledged here, nor one in which a lease could have ended
//! meanwhile: then one of the readers asks the store and the others wait for it.
//!
//! **While the store is away** the last view is served and its age told; registrations and heartbeats are turned away at
//! once, without asking; the task's next question is the only one, and its first answer ends the outage. An outage is logged
//! when it begins and when it ends.

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

/// How often the store is asked when nothing happens.
const TICK: Duration = Duration::from_secs(1);

/// How long changes are gathered before the store is asked what they made of the roster.
const GATHER: Duration = Duration::from_millis(20);

/// The store's keeper and everyone's source of the roster.
pub struct Directory {
    store: Arc<dyn Store>,
    exporter: Arc<Exporter>,
    view: watch::Sender<Option<Arc<View>>>,
    standing: Mutex<Standing>,
    /// Counts the changes acknowledged here.
    changes: AtomicU64,
    wake: Notify,
    /// One question to the store about the roster at a time.
    asking: tokio::sync::Mutex<()>,
    listing: Listing,
}

/// How we stand with the store.
#[derive(Default)]
struct Standing {
    /// When it last answered.
    contact: Option<Instant>,
    /// The number of [`Directory::changes`] that the view shows.
    shown: u64,
    /// When a lease of the view could end.
    first_end: Option<Instant>,
    outage: Option<Outage>,
    /// Why registrations are turned away though the store answers, and since when.
    impaired: Option<(String, Instant)>,
    unusable: usize,
    /// Whether the ring has members with loopback addresses and others.
    mixed: bool,
}

struct Outage {
    cause: StoreError,
    since: Instant,
    failures: u64,
}

impl Directory {
    /// A directory that has not asked its store yet.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, exporter: Arc<Exporter>) -> Self {
        Self {
            store,
            exporter,
            view: watch::Sender::new(None),
            standing: Mutex::default(),
            changes: AtomicU64::new(0),
            wake: Notify::new(),
            asking: tokio::sync::Mutex::new(()),
            listing: Listing::default(),
        }
    }

    /// Keeps the view in step with the store, until dropped. Marks `pulse` on every turn, whatever the store answers; a turn
    /// waits for the store twice at most, once for the answer to a reader's question and once for its own.
    pub async fn run(&self, pulse: Option<Pulse>) {
        let mark = || {
            if let Some(pulse) = &pulse {
                pulse.mark();
            }
        };
        loop {
            let next_tick = clock::monotonic() + TICK;
            mark();
            self.ask().await;
            while let Some(pause) = next_tick.checked_duration_since(clock::monotonic()) {
                mark();
                tokio::select! {
                    () = sleep(pause.min(self.until_first_end().unwrap_or(pause))) => {}
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

    /// Hands new limits to the store.
    pub fn set_limits(&self, limits: Limits) {
        self.store.set_limits(limits);
    }

    /// Lets the store write down what it holds; nothing works afterwards.
    ///
    /// # Errors
    ///
    /// [`StoreError`] where it could not.
    pub async fn close(&self) -> Result<(), StoreError> {
        self.store.close().await
    }

    /// Puts a member on the roster.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; at once while the store is away.
    pub async fn register(&self, candidate: Candidate) -> Result<Admission, StoreError> {
        let admission = self.through("register", || self.store.register(candidate)).await?;
        if admission != Admission::Renewed {
            self.changed();
        }
        Ok(admission)
    }

    /// Renews a lease; false where there is none.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; at once while the store is away.
    pub async fn heartbeat(&self, id: &InstanceId) -> Result<bool, StoreError> {
        self.through("heartbeat", || self.store.heartbeat(id)).await
    }

    /// Takes a member from the roster; false where it was not on it.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; at once while the store is away.
    pub async fn deregister(&self, id: &InstanceId) -> Result<bool, StoreError> {
        let left = self.through("deregister", || self.store.deregister(id)).await?;
        if left {
            self.changed();
        }
        Ok(left)
    }

    /// The roster as it is now, or as it was when the store was last heard of.
    ///
    /// # Errors
    ///
    /// Why the store is away, where it has not been heard of at all: nothing known is not "nobody".
    pub async fn view(&self) -> Result<Arc<View>, StoreError> {
        self.catch_up().await;
        match (self.latest(), &self.standing().outage) {
            (Some(view), _) => Ok(view),
            (None, Some(outage)) => Err(outage.cause.clone()),
            (None, None) => Err(StoreError::Unreachable("it has not been asked yet".into())),
        }
    }

    /// The last view, without asking anyone.
    #[must_use]
    pub fn latest(&self) -> Option<Arc<View>> {
        self.view.borrow().clone()
    }

    /// Waits until there is a view for which `is_news` holds, `limit` at most.
    pub async fn wait_for(&self, limit: Duration, is_news: impl Fn(&View) -> bool) {
        let mut views = self.view.subscribe();
        // Over after `limit`; the sender lives as long as we do. Either way the caller looks at what there is.
        let _ = timeout(limit, views.wait_for(|view| view.as_ref().is_some_and(|view| is_news(view)))).await;
    }

    /// How long ago the store was last heard of, while it is away.
    #[must_use]
    pub fn stale(&self) -> Option<Duration> {
        let standing = self.standing();
        let since = standing.contact.or(standing.outage.as_ref().map(|outage| outage.since))?;
        standing.outage.as_ref().map(|_| clock::monotonic().saturating_duration_since(since))
    }

    /// Why registrations are turned away at the moment.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let standing = self.standing();
        standing
            .outage
            .as_ref()
            .map(|outage| outage.cause.to_string())
            .or_else(|| standing.impaired.as_ref().map(|(reason, _)| reason.clone()))
    }

    /// The body of `GET /members` for `view`, with each member's last heartbeat; made at most once a second.
    pub async fn listing(&self, view: &View) -> Bytes {
        let ask = async { self.through("last_seen", || self.store.last_seen(&view.members)).await.ok() };
        self.listing.body(view, clock::wall().epoch_seconds(), ask).await
    }

    fn changed(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        self.wake.notify_one();
    }

    /// Does one operation on the store unless it is away, and notes how that went.
    async fn through<'a, T>(
        &self,
        operation: &'static str,
        ask: impl FnOnce() -> super::store::Answer<'a, T>,
    ) -> Result<T, StoreError> {
        if let Some(outage) = &self.standing().outage {
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

    /// Asks the store unless the view is good, or the store away.
    async fn catch_up(&self) {
        if !self.is_behind() {
            return;
        }
        let asking = self.asking.lock().await;
        if self.is_behind() {
            self.ask_alone(&asking).await;
        }
    }

    /// The time to the end of a lease; none while the store is away and nobody can say whether it has been renewed.
    fn until_first_end(&self) -> Option<Duration> {
        let standing = self.standing();
        let end = standing.first_end.filter(|_| standing.outage.is_none())?;
        Some(end.saturating_duration_since(clock::monotonic()).max(GATHER))
    }

    fn is_behind(&self) -> bool {
        let standing = self.standing();
        let over = standing.first_end.is_some_and(|end| end <= clock::monotonic());
        let unseen = standing.contact.is_none() || standing.shown < self.changes.load(Ordering::SeqCst);
        standing.outage.is_none() && (over || unseen)
    }

    async fn ask(&self) {
        let asking = self.asking.lock().await;
        self.ask_alone(&asking).await;
    }

    async fn ask_alone(&self, _asking: &tokio::sync::MutexGuard<'_, ()>) {
        // Both read before the question: what happens while it is under way counts as not yet seen.
        let (changes, asked) = (self.changes.load(Ordering::SeqCst), clock::monotonic());
        let known = self.latest();
        match self.timed("follow", self.store.follow(known.as_ref().map(|view| view.mark()))).await {
            Ok(followed) => self.take_in(followed, changes, asked),
            Err(e) => self.note_outage(&e),
        }
    }

    fn take_in(&self, followed: Followed, changes: u64, asked: Instant) {
        let Followed { mark, roster, next_expiry, expired, unusable, impaired } = followed;
        let before = self.latest();
        if let Some(members) = roster {
            let view = View::new(mark, members);
            self.note_reach(&view);
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
        let mut standing = self.standing();
        standing.contact = Some(clock::monotonic());
        standing.shown = standing.shown.max(changes);
        standing.first_end = next_expiry.map(|left| asked + left);
        if let Some(Outage { since, failures, .. }) = standing.outage.take() {
            tracing::info!(
                event = events::STORE_BACK,
                store,
                lasted = since_then(since),
                failures,
                "the store is back"
            );
        }
        let impaired_before = standing.impaired.take();
        match (&impaired_before, &impaired) {
            (None, Some(reason)) => {
                tracing::warn!(event = events::STORE_LOST, store, reason, "registrations are turned away");
            }
            (Some((_, since)), None) => {
                let lasted = since_then(*since);
                tracing::info!(event = events::STORE_BACK, store, lasted, "registrations are taken again");
            }
            _ => {}
        }
        let since = impaired_before.map_or_else(clock::monotonic, |(_, since)| since);
        standing.impaired = impaired.map(|reason| (reason, since));
        if unusable > standing.unusable {
            tracing::warn!(entries = unusable, "left out entries of other programs that make no sense");
        }
        standing.unusable = unusable;
        self.exporter.store_up(standing.impaired.is_none());
        self.exporter.unusable(unusable);
    }

    /// Says when members on this host and members elsewhere come together, who cannot reach each other.
    fn note_reach(&self, view: &View) {
        let out_of_reach = view.out_of_reach();
        let before = std::mem::replace(&mut self.standing().mixed, out_of_reach.is_some());
        if let (false, Some(member)) = (before, out_of_reach) {
            tracing::warn!(
                instance = %member.instance_id, location = %member.location, ip = %member.ip,
                "members registered with a loopback address cannot be reached from elsewhere, and there are others in the \
                 ring; set their member.server.advertise_ip, or a registry.url that names this host's address"
            );
        }
    }

    fn note_outage(&self, cause: &StoreError) {
        self.exporter.store_up(false);
        let mut standing = self.standing();
        match &mut standing.outage {
            Some(outage) => {
                outage.failures += 1;
                outage.cause = cause.clone();
            }
            None => {
                tracing::warn!(
                    event = events::STORE_LOST, store = self.store.name(), reason = %cause,
                    "the store is lost: the roster is served as it was last known"
                );
                let since = clock::monotonic();
                standing.outage = Some(Outage { cause: cause.clone(), since, failures: 1 });
            }
        }
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long ago a moment was, for a log line.
fn since_then(moment: Instant) -> String {
    format!("{} s", clock::monotonic().saturating_duration_since(moment).as_secs())
}
