//! The body of `GET /members`, made once and shared by every request that gets it.
//!
//! The body shows when each member was last seen, which moves with every heartbeat and is no part of the [`View`]. It is
//! therefore made again when somebody asks for it in another second, and at once when the roster has changed. Requests that
//! come meanwhile wait for it and share it: an answer holds a reference to the bytes, not a copy.

use bytes::Bytes;

use super::view::View;
use crate::wire::{Member, Members};

/// The last body that was made.
#[derive(Default)]
pub(super) struct Listing {
    made: tokio::sync::Mutex<Option<Made>>,
}

/// A body, for one view and one second.
struct Made {
    tag: String,
    second: u64,
    last_seen: Vec<u64>,
    body: Bytes,
}

impl Listing {
    /// The body for `view` at `second` since the epoch. `ask` gets the `last_seen` of its members from the store, in their
    /// order, and is only polled where a new body has to be made. Where it gives none, a member keeps the latest time that is
    /// known, so that `last_seen` never goes back.
    pub(super) async fn body(
        &self,
        view: &View,
        second: u64,
        ask: impl Future<Output = Option<Vec<Option<u64>>>>,
    ) -> Bytes {
        let mut made = self.made.lock().await;
        let before = made.take().filter(|made| made.tag == view.tag);
        let current = match before {
            Some(current) if current.second == second => current,
            before => {
                let asked = ask.await;
                let last_seen = view.members.iter().enumerate().map(|(index, member)| {
                    let now = asked.as_ref().and_then(|asked| asked.get(index).copied().flatten());
                    let then = before.as_ref().map(|before| before.last_seen[index]);
                    now.or(then).unwrap_or(member.last_seen).max(member.last_seen)
                });
                Made::new(view, second, last_seen.collect())
            }
        };
        made.insert(current).body.clone()
    }
}

impl Made {
    fn new(view: &View, second: u64, last_seen: Vec<u64>) -> Self {
        let with = view.members.iter().zip(&last_seen);
        let members = with.map(|(member, &last_seen)| Member { last_seen, ..member.clone() }).collect();
        let body = serde_json::to_vec(&Members { members }).expect("members have text keys and plain values only");
        Self { tag: view.tag.clone(), second, last_seen, body: body.into() }
    }
}
