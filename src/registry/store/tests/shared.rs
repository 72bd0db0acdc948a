//! What only a Redis goes through: outages, lost memory, clocks that jump, other registries and older programs.

use std::collections::HashMap;

use super::*;
use crate::config::RedisSettings;
use crate::registry::store::redis::RedisStore;

/// Registers as the older programs do: a hash that runs out with the lease, and an entry in the set.
fn older_registers(server: &Server, id: &str, location: &str, port: &str) {
    let at = clock::wall().epoch_seconds();
    let () = server.command(&format!(
        "HSET netring:member:{id} instance_id {id} location {location} ip 10.9.9.9 port {port} last_seen {at} registered_at {at} status active"
    ));
    let () = server.command(&format!("SADD netring:active_members {id}"));
    let () = server.command(&format!("EXPIRE netring:member:{id} 300"));
}

#[tokio::test]
async fn two_registries_on_one_redis_see_one_roster_and_each_end_of_a_lease_once() {
    let Some(server) = Server::start() else { return };
    let (one, two) = (server.store(limits(LONG, 5000)), server.store(limits(LONG, 5000)));
    one.register(candidate(1, "us1", 1)).await.unwrap();
    assert_eq!(ids(&two).await, ["m1"]);
    assert_eq!(two.heartbeat(&id(1)).await, Ok(true));
    let known = one.follow(None).await.unwrap().mark;
    two.register(candidate(2, "eu1", 2)).await.unwrap();
    assert_eq!(one.follow(Some(&known)).await.unwrap().roster.unwrap().len(), 2);

    let short = limits(Duration::from_millis(1500), 5000);
    one.set_limits(short);
    two.set_limits(short);
    for n in 100..1300 {
        one.register(candidate(n, "us1", 1)).await.unwrap();
    }
    let mut seen: HashMap<InstanceId, u32> = HashMap::new();
    until("all leases are over", async || {
        let (a, b) = tokio::join!(one.follow(None), two.follow(None));
        for id in a.unwrap().expired.into_iter().chain(b.unwrap().expired) {
            *seen.entry(id).or_default() += 1;
        }
        seen.len() == 1200
    })
    .await;
    assert!(seen.values().all(|times| *times == 1));
    assert_eq!(ids(&two).await, ["m1", "m2"]);
}

#[tokio::test]
async fn a_killed_redis_fails_at_once_and_gets_its_roster_back_when_it_is_back() {
    let Some(mut server) = Server::start() else { return };
    let (store, newcomer) = (server.store(limits(LONG, 100)), server.store(limits(LONG, 100)));
    store.register(candidate(1, "us1", 1)).await.unwrap();
    store.register(candidate(2, "eu1", 2)).await.unwrap();
    let before = roster(&store).await;
    server.kill();
    let asked = clock::monotonic();
    assert!(matches!(store.heartbeat(&id(1)).await, Err(StoreError::Unreachable(_))));
    assert!(clock::monotonic() - asked < Duration::from_secs(2));
    server.restart();
    until("the store reaches redis", async || store.follow(None).await.is_ok()).await;
    assert_eq!(roster(&store).await, before, "given back by the one who remembered");
    until("the newcomer reaches redis", async || newcomer.follow(None).await.is_ok()).await;
    assert_eq!(roster(&newcomer).await, before);
    assert_eq!(store.heartbeat(&id(1)).await, Ok(true), "nobody had to register again");
}

#[tokio::test]
async fn a_flushed_redis_gets_its_roster_back_and_forgets_those_who_stay_away() {
    let Some(server) = Server::start() else { return };
    let store = server.store(limits(Duration::from_secs(2), 100));
    store.register(candidate(1, "us1", 1)).await.unwrap();
    store.register(candidate(2, "us1", 2)).await.unwrap();
    let before = store.follow(None).await.unwrap();
    let () = server.command("FLUSHALL");
    let after = store.follow(Some(&before.mark)).await.unwrap();
    assert_ne!(after.mark, before.mark, "another memory, whatever the revision says");
    assert_eq!(after.roster.unwrap().len(), 2);
    until("the silent member is gone, the other is not", async || {
        assert_eq!(store.heartbeat(&id(1)).await, Ok(true));
        ids(&store).await == ["m1"]
    })
    .await;
    let () = server.command("SCRIPT FLUSH");
    assert_eq!(store.heartbeat(&id(1)).await, Ok(true));
}

#[tokio::test]
async fn a_registry_that_was_stopped_over_a_flush_brings_back_nobody_who_left_meanwhile() {
    let Some(server) = Server::start() else { return };
    let (awake, stopped) = (server.store(limits(LONG, 100)), server.store(limits(LONG, 100)));
    awake.register(candidate(1, "us1", 1)).await.unwrap();
    awake.register(candidate(2, "us1", 2)).await.unwrap();
    for store in [&awake, &stopped] {
        assert_eq!(ids(store).await, ["m1", "m2"]);
    }
    let () = server.command("FLUSHALL");
    assert_eq!(ids(&awake).await, ["m1", "m2"], "given back");
    assert_eq!(awake.deregister(&id(2)).await, Ok(true));
    // Its question was under way while the other gave back.
    stopped.restore().await.unwrap();
    assert_eq!(ids(&awake).await, ["m1"]);
    assert_eq!(ids(&stopped).await, ["m1"]);
}

#[tokio::test]
async fn what_a_registry_remembers_is_given_back_only_while_its_leases_could_still_run() {
    let Some(server) = Server::start() else { return };
    let ttl = Duration::from_millis(800);
    let store = server.store(limits(ttl, 100));
    store.register(candidate(1, "us1", 1)).await.unwrap();
    assert_eq!(ids(&store).await, ["m1"]);
    let () = server.command("FLUSHALL");
    tokio::time::sleep(ttl).await;
    assert!(ids(&store).await.is_empty());
    store.register(candidate(2, "us1", 2)).await.unwrap();
    assert_eq!(ids(&store).await, ["m2"], "and all goes on from there");
}

#[tokio::test]
async fn a_redis_put_back_to_an_old_copy_is_not_taken_for_the_known_state() {
    let Some(server) = Server::start() else { return };
    let store = server.store(limits(LONG, 100));
    store.register(candidate(1, "us1", 1)).await.unwrap();
    store.register(candidate(2, "us1", 2)).await.unwrap();
    let known = store.follow(None).await.unwrap().mark;
    // The copy was made before the second came; then a third came.
    store.deregister(&id(2)).await.unwrap();
    let () = server.command("SET netring:revision 1");
    store.register(candidate(3, "us1", 3)).await.unwrap();
    let now = store.follow(Some(&known)).await.unwrap();
    assert_eq!(now.mark.revision, known.revision);
    assert_eq!(now.roster.map(|members| members.len()), Some(2), "one revision, two rosters");
}

#[tokio::test]
async fn a_hung_redis_costs_one_time_limit_and_ends_no_lease() {
    let Some(server) = Server::start() else { return };
    let settings = RedisSettings { timeout: Duration::from_millis(300), ..server.settings() };
    let store = RedisStore::new(&settings, limits(LONG, 100)).unwrap();
    store.register(candidate(1, "us1", 1)).await.unwrap();
    assert_eq!(ids(&store).await, ["m1"]);
    server.signal("-STOP");
    for _ in 0..5 {
        let asked = clock::monotonic();
        let answer = store.follow(None).await;
        assert!(answer.is_err_and(|e| e.is_outage()));
        assert!(clock::monotonic() - asked < Duration::from_secs(2));
    }
    server.signal("-CONT");
    until("redis answers again", async || store.follow(None).await.is_ok()).await;
    assert_eq!(store.heartbeat(&id(1)).await, Ok(true));
}

#[tokio::test]
async fn a_jump_of_the_clock_of_redis_and_an_outage_of_all_registries_end_no_lease() {
    let Some(server) = Server::start() else { return };
    let store = server.store(limits(LONG, 100));
    store.register(candidate(1, "us1", 1)).await.unwrap();
    assert_eq!(ids(&store).await, ["m1"]);
    for jump in [3_600_000, -3_600_000, 86_400_000] {
        // Moving the clock by an hour and moving its last reading by an hour the other way is the same.
        let () = server.command(&format!("HINCRBY netring:clock wall {}", -jump));
        assert_eq!(store.heartbeat(&id(1)).await, Ok(true), "{jump}");
        let followed = store.follow(None).await.unwrap();
        assert_eq!(followed.expired, []);
        let left = followed.next_expiry.unwrap();
        assert!(left > LONG - Duration::from_secs(10) && left <= LONG, "{jump}: {left:?}");
    }
    // After a jump forward Redis itself ends the life of the hash; the lease runs on.
    let () = server.command("DEL netring:member:m1");
    assert_eq!(ids(&store).await, ["m1"]);
    assert_eq!(store.heartbeat(&id(1)).await, Ok(true));
    assert_eq!(server.command::<String>("HGET netring:member:m1 location"), "us1");
    // A lost clock is as if nobody had been silent.
    let () = server.command("HDEL netring:clock wall now");
    assert_eq!(store.heartbeat(&id(1)).await, Ok(true));
    assert_eq!(ids(&store).await, ["m1"]);
}

#[tokio::test]
async fn older_programs_see_our_members_and_we_see_theirs() {
    let Some(server) = Server::start() else { return };
    older_registers(&server, "old-1", "eu1-k8s", "8756");
    let store = server.store(limits(LONG, 100));
    let members = roster(&store).await;
    assert_eq!(members.len(), 1);
    assert_eq!((members[0].location.as_str(), members[0].port.get()), ("eu1-k8s", 8756));

    store.register(candidate(1, "us1", 1)).await.unwrap();
    let seen: HashMap<String, String> = server.command("HGETALL netring:member:m1");
    for (field, value) in
        [("instance_id", "m1"), ("location", "us1"), ("ip", "10.0.0.1"), ("port", "8756"), ("status", "active")]
    {
        assert_eq!(seen[field], value);
    }
    assert!(seen["last_seen"].parse::<u64>().unwrap() >= seen["registered_at"].parse::<u64>().unwrap());
    assert!(server.command::<bool>("SISMEMBER netring:active_members m1"));
    assert!(server.command::<u64>("PTTL netring:member:m1") > 300_000, "outlives the lease, and not for ever");

    // Joining, moving and leaving by the old way, each found without being told.
    older_registers(&server, "old-2", "eu1-k8s", "8756");
    assert_eq!(ids(&store).await, ["m1", "old-1", "old-2"]);
    let () = server.command("HSET netring:member:old-2 ip 10.9.9.8");
    let members = roster(&store).await;
    store.last_seen(&members).await.unwrap();
    assert_eq!(roster(&store).await[2].ip, IpAddr::from([10, 9, 9, 8]));
    let () = server.command("SREM netring:active_members old-2");
    assert_eq!(ids(&store).await, ["m1", "old-1"]);

    // A member that comes over to us: known, and its heartbeats count at once.
    assert_eq!(store.heartbeat(&"old-1".parse().unwrap()).await, Ok(true));
    older_registers(&server, "old-3", "eu1-k8s", "8756");
    assert_eq!(store.heartbeat(&"old-3".parse().unwrap()).await, Ok(true), "before anyone has looked");
    assert_eq!(ids(&store).await, ["m1", "old-1", "old-3"]);
    assert_eq!(store.deregister(&"old-3".parse().unwrap()).await, Ok(true));
    assert!(!server.command::<bool>("EXISTS netring:member:old-3"));
}

#[tokio::test]
async fn a_renewal_by_an_older_program_counts_and_its_silence_too() {
    let Some(server) = Server::start() else { return };
    let store = server.store(limits(Duration::from_secs(2), 100));
    store.register(candidate(1, "us1", 1)).await.unwrap();
    store.register(candidate(2, "us1", 2)).await.unwrap();
    assert_eq!(ids(&store).await, ["m1", "m2"]);
    // The member goes over to an older registry, which renews it by plain commands alone.
    let later = clock::wall().epoch_seconds() + 1;
    let () = server.command(&format!("HSET netring:member:m1 last_seen {later}"));
    let () = server.command("PEXPIRE netring:member:m1 4000");
    until("the one nobody renewed is gone, the other is not", async || ids(&store).await == ["m1"]).await;
    let listed = roster(&store).await;
    assert_eq!(store.last_seen(&listed).await, Ok(vec![Some(later)]));
    until("then it falls silent as well", async || ids(&store).await.is_empty()).await;
}

#[tokio::test]
async fn senseless_entries_of_other_programs_hide_nobody() {
    let Some(server) = Server::start() else { return };
    older_registers(&server, "good", "eu1-k8s", "8756");
    older_registers(&server, "bad-port", "eu1-k8s", "abc");
    older_registers(&server, "with/slash", "eu1-k8s", "8756");
    let () = server.command("SADD netring:active_members no-hash not-a-hash no-location");
    let () = server.command("SET netring:member:not-a-hash 1");
    let () = server.command("HSET netring:member:no-location ip 10.0.0.1 port 1");
    let mut raw = ::redis::cmd("SADD");
    raw.arg("netring:active_members").arg(b"\xff\xfe".as_slice());
    let () = raw.query(&mut server.plain()).unwrap();
    let store = server.store(limits(LONG, 100));
    let followed = store.follow(None).await.unwrap();
    assert_eq!(followed.roster.unwrap().len(), 1);
    assert_eq!(followed.unusable, 3);
    assert_eq!(store.heartbeat(&"no-hash".parse().unwrap()).await, Ok(false));
    assert_eq!(store.heartbeat(&"no-location".parse().unwrap()).await, Ok(false));
    let mut bad = candidate(1, "us1", 1);
    bad.instance_id = "not-a-hash".parse().unwrap();
    assert_eq!(store.register(bad).await, Ok(Admission::Joined));
    assert_eq!(ids(&store).await, ["good", "not-a-hash"]);
}

#[tokio::test]
async fn a_password_stands_in_no_error() {
    let Some(server) = Server::start() else { return };
    let () = server.command("CONFIG SET requirepass right-horse");
    let store = RedisStore::new(&server.settings_with_password("wrong-horse"), limits(LONG, 1)).unwrap();
    let e = store.follow(None).await.unwrap_err();
    assert!(e.is_outage() && !e.to_string().contains("horse"), "{e}");
    assert!(e.to_string().contains("authentication failed"), "{e}");
    let store = RedisStore::new(&server.settings_with_password("right-horse"), limits(LONG, 1)).unwrap();
    assert!(store.follow(None).await.is_ok());
}

#[tokio::test]
async fn a_heartbeat_is_one_round_trip_in_any_ring() {
    let Some(server) = Server::start() else { return };
    let store = server.store(limits(LONG, 5000));
    store.register(candidate(1, "us1", 1)).await.unwrap();
    store.heartbeat(&id(1)).await.unwrap();
    let calls = || {
        let stats: String = server.command("INFO commandstats");
        let evalsha = stats.lines().find(|line| line.starts_with("cmdstat_evalsha:")).unwrap().to_owned();
        evalsha.split(['=', ',']).nth(1).unwrap().parse::<u64>().unwrap()
    };
    let before = calls();
    for _ in 0..10 {
        store.heartbeat(&id(1)).await.unwrap();
    }
    assert_eq!(calls() - before, 10);
}
