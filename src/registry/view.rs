//! The roster as clients see it at one moment.
//!
//! A [`View`] never changes once it is made. All requests that are answered between two changes of the roster share one, so a
//! poll costs no round trip to the store.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use http::HeaderValue;

use super::store::Mark;
use crate::wire::{Location, Member};

/// The roster at one moment.
#[derive(Debug)]
pub struct View {
    mark: Mark,
    /// The live members, sorted by location and instance id, with the `last_seen` known when the view was made.
    pub members: Vec<Member>,
    /// The entity tag without quotes: the revision and a hash of the content. The hash makes the tags of two rosters differ if
    /// the revision starts again, because a registry lost its state or Redis was restored from an old copy.
    pub tag: Arc<str>,
    /// The entity tag as a header value. It is weak: two bodies of the same roster may differ in `last_seen`.
    pub etag: HeaderValue,
    /// How many members there are at each location.
    pub locations: Vec<(Location, usize)>,
}

impl View {
    /// The view of the roster `members` at `mark`.
    pub(super) fn new(mark: Mark, mut members: Vec<Member>) -> Self {
        members.sort_by(|a, b| (&a.location, &a.instance_id).cmp(&(&b.location, &b.instance_id)));
        // Registries built by different compilers may compute different hashes. That costs a full answer, never a wrong 304.
        let mut hasher = DefaultHasher::new();
        for Member { instance_id, location, ip, port, last_seen: _, registered_at, status: () } in &members {
            (instance_id, location, ip, port, registered_at).hash(&mut hasher);
        }
        let tag = format!("{}-{:016x}", mark.revision, hasher.finish());
        let locations = members.chunk_by(|a, b| a.location == b.location);
        let locations = locations.map(|there| (there[0].location.clone(), there.len())).collect();
        let etag = HeaderValue::try_from(format!("W/\"{tag}\"")).expect("digits and a dash are a header value");
        Self { mark, members, tag: tag.into(), etag, locations }
    }

    /// The number of joins, leaves and address changes up to this view.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.mark.revision
    }

    /// The state of the store that this view shows.
    pub(super) fn mark(&self) -> &Mark {
        &self.mark
    }

    /// A member with a loopback address, if there are members with other addresses: these cannot reach it.
    pub(super) fn unreachable_loopback(&self) -> Option<&Member> {
        let others = self.members.iter().any(|member| !member.ip.is_loopback());
        self.members.iter().find(|member| others && member.ip.is_loopback())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire;

    fn member(n: usize, registered_at: u64) -> Member {
        Member {
            instance_id: format!("m{n}").parse().unwrap(),
            location: "us1-k8s".parse().unwrap(),
            ip: [10, 0, 0, 1].into(),
            port: wire::DEFAULT_PORT,
            last_seen: 5,
            registered_at,
            status: (),
        }
    }

    #[test]
    fn the_tag_depends_on_content_and_not_on_heartbeats() {
        let mark = |revision| Mark { revision, origin: "".into() };
        let tag = |revision, members| View::new(mark(revision), members).tag;
        let one = tag(1, vec![member(1, 5), member(2, 5)]);
        assert_eq!(
            one,
            tag(1, vec![member(2, 5), Member { last_seen: 9, ..member(1, 5) }]),
            "neither on their order nor on heartbeats"
        );
        assert_ne!(one, tag(2, vec![member(1, 5), member(2, 5)]));
        assert_ne!(one, tag(1, vec![member(1, 5), member(3, 5)]));
        assert_ne!(one, tag(1, vec![member(1, 6), member(2, 5)]));
    }
}
