//! One suite for both stores, and what only a shared Redis can go through.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use super::embedded::EmbeddedStore;
use super::*;
use crate::registry::roster::Roster;
use crate::{clock, wire};

pub(in crate::registry) mod server;
mod shared;

use server::Server;

const LONG: Duration = Duration::from_secs(300);

fn limits(member_ttl: Duration, max_members: usize) -> Limits {
    let max_members = NonZeroUsize::new(max_members).unwrap();
    Limits { member_ttl, max_members, cleanup_interval: Duration::from_secs(60) }
}

fn id(n: usize) -> InstanceId {
    format!("m{n}").parse().unwrap()
}

fn candidate(n: usize, location: &str, host: u8) -> Candidate {
    Candidate {
        instance_id: id(n),
        location: location.parse().unwrap(),
        ip: IpAddr::from([10, 0, 0, host]),
        port: wire::DEFAULT_PORT,
    }
}

async fn roster(store: &dyn Store) -> Vec<Member> {
    let mut members = store.follow(None).await.unwrap().roster.unwrap();
    members.sort_by(|a, b| a.instance_id.cmp(&b.instance_id));
    members
}

async fn ids(store: &dyn Store) -> Vec<String> {
    roster(store).await.into_iter().map(|member| member.instance_id.to_string()).collect()
}

/// Asks until the answer is right, for ten seconds.
async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = clock::monotonic() + Duration::from_secs(10);
    while !is_so().await {
        assert!(clock::monotonic() < deadline, "not within ten seconds: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn keeps_its_promises(store: &dyn Store) {
    members_come_move_and_go(store).await;
    a_full_ring_takes_nobody_new(store).await;
    leases_end_once_and_not_early(store).await;
    it_agrees_with_the_roster(store).await;
}

async fn members_come_move_and_go(store: &dyn Store) {
    store.set_limits(limits(LONG, 100));
    let empty = store.follow(None).await.unwrap();
    assert_eq!(empty.roster.as_deref(), Some([].as_slice()), "an empty ring is an answer");
    assert_eq!(empty.next_expiry, None);

    let before = clock::wall().epoch_seconds();
    assert_eq!(store.register(candidate(1, "us1-k8s", 1)).await, Ok(Admission::Joined));
    let joined = store.follow(Some(&empty.mark)).await.unwrap();
    let member = &joined.roster.as_ref().unwrap()[0];
    assert_eq!((member.location.as_str(), member.ip, member.port.get()), ("us1-k8s", [10, 0, 0, 1].into(), 8756));
    assert!((before..=before + 5).contains(&member.registered_at), "{member:?}");
    assert!((before..=before + 5).contains(&member.last_seen), "{member:?}");
    assert!(joined.next_expiry.unwrap() <= LONG && joined.next_expiry.unwrap() > LONG - Duration::from_secs(9));

    assert_eq!(store.heartbeat(&id(1)).await, Ok(true));
    assert_eq!(store.heartbeat(&id(2)).await, Ok(false));
    assert_eq!(store.register(candidate(1, "us1-k8s", 1)).await, Ok(Admission::Renewed));
    let renewed = store.follow(Some(&joined.mark)).await.unwrap();
    assert!(renewed.roster.is_none(), "nothing of this changes the roster");
    assert_eq!(roster(store).await[0].registered_at, member.registered_at);

    assert_eq!(store.register(candidate(1, "us1-k8s", 2)).await, Ok(Admission::Moved));
    let moved = store.follow(Some(&joined.mark)).await.unwrap();
    assert!(moved.mark.revision > joined.mark.revision);
    assert_eq!(moved.roster.unwrap().len(), 1, "never twice");

    let members = roster(store).await;
    assert_eq!(store.deregister(&id(1)).await, Ok(true));
    assert_eq!(store.deregister(&id(1)).await, Ok(false));
    assert_eq!(store.heartbeat(&id(1)).await, Ok(false));
    assert_eq!(store.last_seen(&members).await, Ok(vec![None]));
    assert!(ids(store).await.is_empty());
}

async fn a_full_ring_takes_nobody_new(store: &dyn Store) {
    store.set_limits(limits(LONG, 2));
    store.register(candidate(1, "us1", 1)).await.unwrap();
    store.register(candidate(2, "us1", 2)).await.unwrap();
    assert_eq!(store.register(candidate(3, "us1", 3)).await, Err(StoreError::Full(2)));
    assert_eq!(store.register(candidate(2, "eu1", 2)).await, Ok(Admission::Moved));
    store.deregister(&id(1)).await.unwrap();
    assert_eq!(store.register(candidate(3, "us1", 3)).await, Ok(Admission::Joined));
    store.deregister(&id(2)).await.unwrap();
    store.deregister(&id(3)).await.unwrap();
}

async fn leases_end_once_and_not_early(store: &dyn Store) {
    const TTL: Duration = Duration::from_millis(700);
    store.set_limits(limits(TTL, 100));
    let registered = clock::monotonic();
    store.register(candidate(1, "us1", 1)).await.unwrap();
    store.register(candidate(2, "us1", 2)).await.unwrap();
    let mut ended = Vec::new();
    until("the silent member is gone", async || {
        assert_eq!(store.heartbeat(&id(1)).await, Ok(true));
        ended.extend(store.follow(None).await.unwrap().expired);
        !ended.is_empty()
    })
    .await;
    assert!(clock::monotonic() - registered >= TTL - Duration::from_millis(1), "not before its time");
    assert_eq!(ended, [id(2)]);
    assert_eq!(ids(store).await, ["m1"]);
    tokio::time::sleep(TTL * 2).await;
    assert_eq!(store.heartbeat(&id(1)).await, Ok(false), "over, whether anyone has tidied or not");
    assert_eq!(store.register(candidate(1, "us1", 1)).await, Ok(Admission::Joined));
    store.deregister(&id(1)).await.unwrap();
}

async fn it_agrees_with_the_roster(store: &dyn Store) {
    let seed = fastrand::u64(..);
    println!("{} seed {seed}", store.name());
    let mut random = fastrand::Rng::with_seed(seed);
    store.set_limits(limits(LONG, 6));
    let mut model = Roster::new(LONG, NonZeroUsize::new(6).unwrap());
    let (now, wall) = (clock::monotonic(), clock::wall());
    for _ in 0..300 {
        let n = random.usize(0..9);
        match random.u8(0..4) {
            0 | 1 => {
                let candidate = candidate(n, ["us1", "eu1"][random.usize(0..2)], random.u8(1..3));
                let expected = model.register(candidate.clone(), now, wall);
                let expected = expected.map_err(|full| StoreError::Full(full.max_members));
                assert_eq!(store.register(candidate).await, expected);
            }
            2 => assert_eq!(store.heartbeat(&id(n)).await, Ok(model.renew(&id(n), now, wall))),
            _ => assert_eq!(store.deregister(&id(n)).await, Ok(model.leave(&id(n), now))),
        }
    }
    let mut expected: Vec<_> = model.members(now).map(|m| (m.instance_id.clone(), m.location.clone(), m.ip)).collect();
    expected.sort();
    let got: Vec<_> = roster(store).await.into_iter().map(|m| (m.instance_id, m.location, m.ip)).collect();
    assert_eq!(got, expected);
}

#[tokio::test]
async fn the_store_in_memory_keeps_its_promises() {
    keeps_its_promises(&EmbeddedStore::in_memory(limits(LONG, 100))).await;
}

#[tokio::test]
async fn the_store_with_a_journal_keeps_its_promises() {
    let directory = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(directory.path(), limits(LONG, 100), None).unwrap();
    keeps_its_promises(&store).await;
    let before = roster(&store).await;
    store.close().await.unwrap();
    drop(store);
    let store = EmbeddedStore::open(directory.path(), limits(LONG, 100), None).unwrap();
    assert_eq!(roster(&store).await, before, "a restart changes nothing");
}

#[tokio::test]
async fn the_store_in_redis_keeps_its_promises() {
    let Some(server) = Server::start() else { return };
    keeps_its_promises(&server.store(limits(LONG, 100))).await;
}
