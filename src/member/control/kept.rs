//! What a member keeps for its next start: the roster, and that it left the ring in order.
//!
//! The roster is written by a thread of its own, because the disk may hang for as long as it likes: only the latest roster
//! counts, and nobody waits for it. That thread is on the vitals, its waits for the disk excepted.

use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use tracing::{debug, info, warn};

use crate::host::state::StateDir;
use crate::host::vitals::{Pulse, Vitals};
use crate::wire::{Member, Members, MembersReply};

use super::super::lock;
use super::super::peers::{Entry, Peers};

/// The file in the state directory that holds the last roster.
const ROSTER_FILE: &str = "roster.json";

/// The file there that tells the next start which registry was told that this member leaves.
const LEFT_FILE: &str = "left";

/// How long the thread may take for anything but the disk.
const LIMIT: Duration = Duration::from_secs(10);

/// The state directory and the thread that writes the roster there. The thread ends when this is dropped, after what it has
/// to write.
pub(super) struct Kept {
    state: StateDir,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    desk: Mutex<Desk>,
    changed: Condvar,
}

#[derive(Default)]
struct Desk {
    /// The roster to be written, in the place of any older one.
    roster: Option<Vec<Member>>,
    writing: bool,
    over: bool,
}

impl Kept {
    /// Starts the thread.
    pub(super) fn start(state: StateDir, vitals: &Vitals) -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let pulse = vitals.add("roster writer", LIMIT);
        let writer = (state.clone(), Arc::clone(&shared));
        std::thread::Builder::new().name("netring-keep".into()).spawn(move || write(&writer.0, &writer.1, &pulse))?;
        Ok(Self { state, shared })
    }

    /// Keeps these peers for the next start, soon.
    pub(super) fn keep(&self, peers: &Peers) {
        let member = |Entry { peer, last_seen, .. }: Entry<'_>| Member {
            instance_id: peer.instance_id.clone(),
            location: peer.location.clone(),
            ip: peer.ip,
            port: peer.port,
            last_seen,
            registered_at: 0,
            status: (),
        };
        lock(&self.shared.desk).roster = Some(peers.iter().map(member).collect());
        self.shared.changed.notify_all();
    }

    /// Waits until the roster is on the disk, at most `within`.
    pub(super) fn flush(&self, within: Duration) {
        let desk = lock(&self.shared.desk);
        let busy = |desk: &mut Desk| desk.writing || desk.roster.is_some();
        // A disk that hangs keeps the member from ending for no longer than that.
        drop(self.shared.changed.wait_timeout_while(desk, within, busy));
    }

    /// The roster of the last run; empty where there is none that can be used.
    pub(super) fn recall(&self) -> Vec<Member> {
        let kept = match self.state.read(ROSTER_FILE) {
            Ok(None) => return Vec::new(),
            Ok(Some(text)) => MembersReply::from_json(&text).map_err(|e| e.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match kept {
            Ok(roster) => roster.members,
            Err(error) => {
                warn!(%error, "the roster of the last run cannot be used, going on without it");
                Vec::new()
            }
        }
    }

    /// Whether the last run left the ring of this registry in order. That is known to one start alone.
    pub(super) fn left_in_order(&self, registry: &str) -> bool {
        matches!(self.state.read(LEFT_FILE), Ok(Some(left)) if left == registry.as_bytes())
            && self.state.remove(LEFT_FILE).is_ok()
    }

    /// Notes for the next start that this member has left the ring of this registry in order.
    pub(super) fn note_left(&self, registry: &str) {
        if let Err(error) = self.state.write(LEFT_FILE, registry.as_bytes()) {
            debug!(%error, "cannot note for the next start that this member left the ring");
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        lock(&self.shared.desk).over = true;
        self.shared.changed.notify_all();
    }
}

/// The thread's life.
fn write(state: &StateDir, shared: &Shared, pulse: &Pulse) {
    let mut failing = false;
    let mut desk = lock(&shared.desk);
    loop {
        pulse.mark();
        if let Some(members) = desk.roster.take() {
            desk.writing = true;
            drop(desk);
            let text =
                serde_json::to_vec(&Members { members }).expect("names, numbers and addresses always have a JSON form");
            // No restart makes a disk faster.
            pulse.mark_away();
            let written = state.write(ROSTER_FILE, &text);
            pulse.mark();
            match (&written, failing) {
                (Err(error), false) => warn!(%error, "cannot keep the roster for the next start"),
                (Ok(()), true) => info!("the roster is kept for the next start again"),
                _ => {}
            }
            failing = written.is_err();
            desk = lock(&shared.desk);
            desk.writing = false;
            shared.changed.notify_all();
        } else if desk.over {
            break;
        } else {
            desk = shared.changed.wait_timeout(desk, pulse.idle()).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
    pulse.mark_away();
}
