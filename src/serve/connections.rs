//! The table of open connections, and which one is closed when there are too many.
//!
//! A connection is *waiting* while the client has to act: it sends a head or a body, reads an answer, or does nothing. It is
//! *serving* while a handler works for it; a request that waits for an answer ([`later`](super::later())) is being served. At
//! the limit the connection that has been waiting longest is evicted, so that idle or slow clients cannot keep others out. A
//! connection that is being served is never evicted. No clock is needed: a connection draws a ticket number when it
//! starts to wait, and the lowest ticket has waited longest.
//!
//! The accept loop uses [`Connections`]. The task of each connection holds a [`Slot`], which is freed when it is dropped.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// All open connections of one listener.
pub(super) struct Connections {
    cap: usize,
    table: Mutex<Table>,
    changed: Notify,
}

#[derive(Default)]
struct Table {
    drawn: u64,
    open: HashMap<u64, Entry>,
    /// The waiting connections by ticket.
    waiting: BTreeMap<u64, u64>,
    /// How many of `open` have been evicted and are about to close.
    ending: usize,
}

struct Entry {
    phase: Phase,
    evicted: Arc<Notify>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Waiting(u64),
    Serving,
    Evicted,
}

/// The slot of one connection, freed when it is dropped.
pub(super) struct Slot {
    connections: Arc<Connections>,
    id: u64,
    evicted: Arc<Notify>,
    body_read: AtomicBool,
}

impl Connections {
    /// At most `cap` open at once.
    pub(super) fn new(cap: usize) -> Arc<Self> {
        Arc::new(Self { cap: cap.max(1), table: Mutex::default(), changed: Notify::new() })
    }

    /// Gets a slot for a new connection. At the limit it evicts a waiting connection; if all are being served, it waits.
    pub(super) async fn admit(self: &Arc<Self>) -> Slot {
        loop {
            let changed = self.changed.notified();
            if let Some(slot) = self.try_admit() {
                return slot;
            }
            changed.await;
        }
    }

    fn try_admit(self: &Arc<Self>) -> Option<Slot> {
        let mut table = self.table();
        if table.open.len() < self.cap {
            let (id, evicted) = table.enter();
            return Some(Slot { connections: self.clone(), id, evicted, body_read: AtomicBool::new(false) });
        }
        if table.open.len() - table.ending >= self.cap {
            table.evict();
        }
        None
    }

    /// Evicts the connection that has been waiting longest, to free its descriptor. False if none is waiting.
    pub(super) fn evict(&self) -> bool {
        self.table().evict()
    }

    /// How many are open.
    pub(super) fn open(&self) -> usize {
        self.table().open.len()
    }

    /// Returns when no connection is open.
    pub(super) async fn all_closed(&self) {
        loop {
            let changed = self.changed.notified();
            if self.open() == 0 {
                return;
            }
            changed.await;
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn draw(&mut self) -> u64 {
        self.drawn += 1;
        self.drawn
    }

    fn enter(&mut self) -> (u64, Arc<Notify>) {
        let ticket = self.draw();
        let evicted = Arc::new(Notify::new());
        self.waiting.insert(ticket, ticket);
        self.open.insert(ticket, Entry { phase: Phase::Waiting(ticket), evicted: evicted.clone() });
        (ticket, evicted)
    }

    fn evict(&mut self) -> bool {
        let Some((_, id)) = self.waiting.pop_first() else { return false };
        if let Some(entry) = self.open.get_mut(&id) {
            entry.phase = Phase::Evicted;
            entry.evicted.notify_one();
            self.ending += 1;
        }
        true
    }

    /// Sets whether a connection is being served. False if it has been evicted.
    fn set_serving(&mut self, id: u64, serving: bool) -> bool {
        let ticket = self.draw();
        let Some(entry) = self.open.get_mut(&id) else { return false };
        match entry.phase {
            Phase::Evicted => return false,
            Phase::Waiting(held) if serving => {
                self.waiting.remove(&held);
                entry.phase = Phase::Serving;
            }
            Phase::Serving if !serving => {
                self.waiting.insert(ticket, id);
                entry.phase = Phase::Waiting(ticket);
            }
            Phase::Waiting(_) | Phase::Serving => {}
        }
        true
    }

    fn leave(&mut self, id: u64) {
        match self.open.remove(&id).map(|entry| entry.phase) {
            Some(Phase::Waiting(ticket)) => {
                self.waiting.remove(&ticket);
            }
            Some(Phase::Evicted) => self.ending -= 1,
            Some(Phase::Serving) | None => {}
        }
    }
}

impl Slot {
    /// A handler starts to work for this connection. False if it has been evicted and no work should be done.
    pub(super) fn serve(&self) -> bool {
        self.connections.table().set_serving(self.id, true)
    }

    /// The client has to act again.
    pub(super) fn wait(&self) {
        self.connections.table().set_serving(self.id, false);
        self.connections.changed.notify_one();
    }

    /// How many connections are waiting for their clients.
    pub(super) fn idle(&self) -> usize {
        self.connections.table().waiting.len()
    }

    /// Records whether the whole body of the current request has been read.
    pub(super) fn set_body_read(&self, read: bool) {
        self.body_read.store(read, Ordering::Relaxed);
    }

    /// Whether the whole body of the current request has been read.
    pub(super) fn is_body_read(&self) -> bool {
        self.body_read.load(Ordering::Relaxed)
    }

    /// Whether it has had no request so far: it still has its first ticket, which is also its id.
    pub(super) fn is_new(&self) -> bool {
        self.connections.table().open.get(&self.id).is_some_and(|entry| entry.phase == Phase::Waiting(self.id))
    }

    /// Whether a handler is working for it.
    pub(super) fn is_serving(&self) -> bool {
        self.connections.table().open.get(&self.id).is_some_and(|entry| entry.phase == Phase::Serving)
    }

    /// Returns when this connection has been evicted.
    pub(super) async fn evicted(&self) {
        self.evicted.notified().await;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.connections.table().leave(self.id);
        self.connections.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(cap: usize) -> (Arc<Connections>, Vec<Slot>) {
        let connections = Connections::new(cap);
        let slots = (0..cap).map(|_| connections.try_admit().unwrap()).collect();
        (connections, slots)
    }

    fn phases(slots: &[Slot]) -> Vec<&'static str> {
        let name = |slot: &Slot| match slot.connections.table().open[&slot.id].phase {
            Phase::Waiting(_) => "waiting",
            Phase::Serving => "serving",
            Phase::Evicted => "evicted",
        };
        slots.iter().map(name).collect()
    }

    #[test]
    fn at_the_cap_the_one_that_waited_the_longest_goes_and_only_one() {
        let (connections, mut slots) = full(3);
        assert!(slots[0].serve());
        slots[0].wait();
        assert!(connections.try_admit().is_none(), "the place is not free before the evicted one has ended");
        assert!(connections.try_admit().is_none());
        assert_eq!(phases(&slots), ["waiting", "evicted", "waiting"]);
        drop(slots.remove(1));
        assert!(connections.try_admit().is_some());
    }

    #[test]
    fn one_that_is_being_served_is_never_evicted() {
        let (connections, slots) = full(2);
        assert!(slots.iter().all(Slot::serve));
        assert!(connections.try_admit().is_none());
        assert_eq!(phases(&slots), ["serving", "serving"]);
        slots[1].wait();
        assert!(connections.try_admit().is_none());
        assert_eq!(phases(&slots), ["serving", "evicted"]);
    }

    #[test]
    fn an_evicted_connection_starts_no_work() {
        let (connections, slots) = full(1);
        assert!(connections.evict());
        assert!(!slots[0].serve());
        assert!(!connections.evict(), "nobody else waits");
    }

    #[test]
    fn nothing_is_left_behind_when_all_have_ended() {
        let (connections, slots) = full(4);
        assert!(slots[0].serve());
        assert!(connections.evict());
        drop(slots);
        let table = connections.table();
        assert_eq!((table.open.len(), table.waiting.len(), table.ending), (0, 0, 0));
    }
}
