//! Which connections are open, and which goes when there are too many.
//!
//! A connection is *waiting* while the client is to act (it sends a head or a body, reads an answer, or does nothing) and
//! *serving* while a handler works for it. At the cap the one that has been waiting the longest is evicted, so that any
//! number of idle or slow clients cannot shut out the others; one that is being served is never evicted. No clock is needed:
//! whoever starts to wait draws a ticket, and the lowest ticket has waited the longest.
//!
//! The accept loop drives [`Connections`]; each connection's task holds its [`Slot`], whose end frees the place.

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
    /// Ticket to connection, of those that wait.
    waiting: BTreeMap<u64, u64>,
    /// How many of `open` have been evicted and are about to end.
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

/// The place of one connection; dropped, it is free again.
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

    /// A place for one more connection. At the cap it evicts, and where all are being served it waits.
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

    /// Evicts the connection that has been waiting the longest, to get its descriptor back. False where none waits.
    pub(super) fn evict(&self) -> bool {
        self.table().evict()
    }

    /// How many are open.
    pub(super) fn open(&self) -> usize {
        self.table().open.len()
    }

    /// Returns when none is open.
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

    /// Moves a connection to `serving` or back. False where it has been evicted meanwhile.
    fn turn(&mut self, id: u64, serving: bool) -> bool {
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
    /// A handler starts to work for this connection. False where it has been evicted and the work is in vain.
    pub(super) fn serve(&self) -> bool {
        self.connections.table().turn(self.id, true)
    }

    /// It is the client's turn again.
    pub(super) fn wait(&self) {
        self.connections.table().turn(self.id, false);
        self.connections.changed.notify_one();
    }

    /// How many connections wait for their clients.
    pub(super) fn idle(&self) -> usize {
        self.connections.table().waiting.len()
    }

    /// Notes whether all of the body of the request that is being served has been read.
    pub(super) fn set_body_read(&self, read: bool) {
        self.body_read.store(read, Ordering::Relaxed);
    }

    /// What was noted last.
    pub(super) fn is_body_read(&self) -> bool {
        self.body_read.load(Ordering::Relaxed)
    }

    /// Whether no handler has worked for it so far: it still holds its first ticket, which is its id.
    pub(super) fn is_new(&self) -> bool {
        self.connections.table().open.get(&self.id).is_some_and(|entry| entry.phase == Phase::Waiting(self.id))
    }

    /// Whether a handler works for it.
    pub(super) fn is_serving(&self) -> bool {
        self.connections.table().open.get(&self.id).is_some_and(|entry| entry.phase == Phase::Serving)
    }

    /// Returns when this connection has to go.
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
