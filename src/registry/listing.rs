//! The body of `GET /members`, made once and shared by every request that gets it.
//!
//! The body shows when each member was last seen, which moves with every heartbeat and is no part of the [`View`]. It is
//! therefore made again when somebody asks for it a second later, in rings of more than a thousand members one second more for
//! each thousand (to make a body of 1.7 MB every second would take a hundredth of a processor), and at once when the roster has
//! changed. Requests that come meanwhile wait for it and share it: an answer holds a reference to the bytes, not a copy.

use std::sync::Arc;

use bytes::Bytes;

use super::view::View;
use crate::wire::{Member, Members};

/// The last body that was made.
#[derive(Default)]
pub(super) struct Listing {
    made: tokio::sync::Mutex<Option<Made>>,
}

/// For how many members more the body is given out for another second.
const MEMBERS_PER_SECOND: usize = 1_000;

/// A body, for one view and a few seconds.
struct Made {
    tag: Arc<str>,
    /// When it was made, in seconds since the epoch.
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
            Some(current) if current.is_good_at(second) => current,
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
    /// A wall clock that was set back makes a body anew.
    fn is_good_at(&self, second: u64) -> bool {
        let good_for = 1 + (self.last_seen.len() / MEMBERS_PER_SECOND) as u64;
        (self.second..self.second + good_for).contains(&second)
    }

    fn new(view: &View, second: u64, last_seen: Vec<u64>) -> Self {
        let with = view.members.iter().zip(&last_seen);
        let members = with.map(|(member, &last_seen)| Member { last_seen, ..member.clone() }).collect();
        let body = serde_json::to_vec(&Members { members }).expect("members have text keys and plain values only");
        Self { tag: Arc::clone(&view.tag), second, last_seen, body: body.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::store::Mark;
    use crate::wire;

    fn view(revision: u64) -> View {
        let member = Member {
            instance_id: "m1".parse().unwrap(),
            location: "us1-k8s".parse().unwrap(),
            ip: [10, 0, 0, 1].into(),
            port: wire::DEFAULT_PORT,
            last_seen: 5,
            registered_at: 5,
            status: (),
        };
        View::new(Mark { revision, origin: "".into() }, vec![member])
    }

    fn last_seen(body: &[u8]) -> u64 {
        serde_json::from_slice::<serde_json::Value>(body).unwrap()["members"][0]["last_seen"].as_u64().unwrap()
    }

    #[tokio::test]
    async fn one_body_is_shared_for_a_second_and_asks_the_store_once() {
        let (listing, view) = (Listing::default(), view(1));
        let first = listing.body(&view, 100, async { Some(vec![Some(90)]) }).await;
        assert_eq!(last_seen(&first), 90);
        let second = listing.body(&view, 100, async { unreachable!("the body is there") }).await;
        assert_eq!(first.as_ptr(), second.as_ptr(), "not a copy");
        let third = listing.body(&view, 101, async { Some(vec![Some(95)]) }).await;
        assert_eq!(last_seen(&third), 95);
        let moved = self::view(2);
        assert_eq!(last_seen(&listing.body(&moved, 101, async { Some(vec![Some(96)]) }).await), 96, "another roster");
    }

    #[test]
    fn a_body_is_good_for_a_second_and_one_more_for_each_thousand_members() {
        for (members, good_for) in [(0, 1), (999, 1), (1_000, 2), (10_000, 11)] {
            let made = Made { tag: "1".into(), second: 100, last_seen: vec![0; members], body: Bytes::new() };
            assert!(made.is_good_at(100) && made.is_good_at(99 + good_for), "{members}");
            assert!(!made.is_good_at(100 + good_for) && !made.is_good_at(99), "{members}");
        }
    }

    #[tokio::test]
    async fn a_store_that_does_not_answer_moves_no_time_back() {
        let (listing, view) = (Listing::default(), view(1));
        assert_eq!(last_seen(&listing.body(&view, 100, async { None }).await), 5, "the time of the view");
        assert_eq!(last_seen(&listing.body(&view, 101, async { Some(vec![Some(90)]) }).await), 90);
        assert_eq!(last_seen(&listing.body(&view, 102, async { None }).await), 90, "the time before");
        assert_eq!(last_seen(&listing.body(&view, 103, async { Some(vec![None]) }).await), 90, "it has left meanwhile");
    }
}
