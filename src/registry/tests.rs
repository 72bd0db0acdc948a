//! The whole daemon on loopback.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpStream};

use super::store::tests::server::Server;
use super::*;
use crate::clock;
use crate::config::{LogFormat, LogSettings, RedisSettings, ServerSettings};

fn settings() -> RegistrySettings {
    RegistrySettings {
        redis: None,
        server: ServerSettings {
            host: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            port: crate::wire::DEFAULT_PORT,
            max_connections: None,
        },
        member_ttl: Duration::from_secs(300),
        cleanup_interval: Duration::from_secs(60),
        allowed_networks: Vec::new(),
        max_members: 100.try_into().unwrap(),
        log: LogSettings { level: "info".parse().unwrap(), format: LogFormat::Text },
    }
}

async fn started(settings: RegistrySettings, state_dir: Option<PathBuf>) -> Running {
    let listener = serve::bind(IpAddr::V4(Ipv4Addr::LOCALHOST), 0).unwrap();
    start(settings, Options { listener: Some(listener), state_dir, ..Options::default() }).await.unwrap()
}

/// One request on a connection of its own; the whole answer as text.
async fn ask(address: SocketAddr, method: &str, path: &str, body: &str) -> String {
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    })
    .await
    .unwrap()
}

const MEMBER: &str = r#"{"instance_id": "uuid-123", "location": "us1-k8s", "ip": "10.1.2.3", "port": 8756}"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_serves_reloads_and_comes_back_with_its_roster() {
    let directory = tempfile::tempdir().unwrap();
    let state_dir = || Some(directory.path().to_path_buf());
    let running = started(settings(), state_dir()).await;
    assert!(ask(running.address, "POST", "/register", MEMBER).await.starts_with("HTTP/1.1 200"));
    assert!(ask(running.address, "GET", "/members", "").await.contains("uuid-123"));
    assert_eq!(running.status(), "1 member at 1 location, store embedded");

    let server = ServerSettings { port: 9.try_into().unwrap(), ..settings().server };
    let allowed_networks = vec!["192.0.2.0/24".parse().unwrap()];
    let new = RegistrySettings { server, allowed_networks, ..settings() };
    assert_eq!(running.reload(new), ["registry.server"]);
    assert!(ask(running.address, "POST", "/register", MEMBER).await.starts_with("HTTP/1.1 400"));
    let metrics = ask(running.address, "GET", "/metrics", "").await;
    assert!(metrics.contains(r#"route="/register",status="200"} 1"#), "counters go on over a reload");
    running.stop().await;

    let running = started(settings(), state_dir()).await;
    assert!(ask(running.address, "POST", "/heartbeat", r#"{"instance_id": "uuid-123"}"#).await.contains("ok"));
    running.stop().await;
}

#[tokio::test]
async fn a_registry_whose_port_is_taken_names_the_setting() {
    let holder = serve::bind(IpAddr::V4(Ipv4Addr::LOCALHOST), 0).unwrap();
    let port = std::num::NonZeroU16::new(holder.local_addr().unwrap().port()).unwrap();
    let server = ServerSettings { port, ..settings().server };
    let error = start(RegistrySettings { server, ..settings() }, Options::default()).await.err().unwrap();
    assert_eq!(
        error.to_string(),
        format!(
            "cannot listen on 127.0.0.1:{port}: another process is using that port; registry.server.port chooses another"
        )
    );
    assert!(std::error::Error::source(&error).is_none(), "nothing would be said twice");
}

#[test]
fn as_many_polls_may_wait_as_fit_their_memory_and_leave_connections_to_others() {
    assert_eq!(polls(1024), 768);
    assert_eq!(polls(1), 0, "a registry with a single connection lets nobody wait");
    assert_eq!(polls(1_000_000), 16_384);
    assert!(polls(19_936) >= 10_000, "a ring of 10,000 waits within a limit of 20,000 descriptors");
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_ends_waiting_polls_and_takes_less_than_a_second() {
    let running = started(settings(), None).await;
    let address = running.address;
    let polls: Vec<_> = (0..20).map(|_| tokio::spawn(ask(address, "GET", "/members?wait=60", ""))).collect();
    let deadline = clock::monotonic() + Duration::from_secs(10);
    while !ask(address, "GET", "/metrics", "").await.contains("netring_registry_polls_waiting 20") {
        assert!(clock::monotonic() < deadline);
    }
    let began = clock::monotonic();
    running.stop().await;
    let took = clock::monotonic() - began;
    assert!(took < Duration::from_secs(1), "{took:?}");
    for poll in polls {
        assert!(poll.await.unwrap().starts_with("HTTP/1.1 200"), "answered, not cut off");
    }
    assert!(TcpStream::connect(address).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_full_roster_shows_the_last_heartbeat_on_both_stores() {
    let redis = Server::start();
    let stores = [None].into_iter().chain(redis.as_ref().map(|redis| Some(redis.settings())));
    for redis in stores {
        let running = started(RegistrySettings { redis, ..settings() }, None).await;
        let address = running.address;
        assert!(ask(address, "POST", "/register", MEMBER).await.starts_with("HTTP/1.1 200"));
        let seen = async || {
            let answer = ask(address, "GET", "/members", "").await;
            let body: serde_json::Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
            body["members"][0]["last_seen"].as_u64().unwrap()
        };
        let registered = seen().await;
        tokio::time::sleep(Duration::from_millis(2100)).await;
        assert_eq!(seen().await, registered, "nothing has been heard of it since");
        assert!(ask(address, "POST", "/heartbeat", r#"{"instance_id": "uuid-123"}"#).await.contains("ok"));
        let deadline = clock::monotonic() + Duration::from_secs(5);
        // The body is made once a second.
        while seen().await < registered + 2 {
            assert!(clock::monotonic() < deadline, "store {}", running.directory.store_name());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_whose_redis_is_away_says_so_and_does_not_say_nobody() {
    let redis = RedisSettings {
        host: "/nonexistent/redis.sock".into(),
        port: 6379.try_into().unwrap(),
        db: 0,
        username: None,
        password: None,
        timeout: Duration::from_secs(1),
    };
    let running = started(RegistrySettings { redis: Some(redis), ..settings() }, None).await;
    for (method, path, body) in
        [("GET", "/members", ""), ("GET", "/prometheus/targets", ""), ("POST", "/register", MEMBER)]
    {
        let answer = ask(running.address, method, path, body).await;
        assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("retry-after: "), "{answer}");
        assert!(answer.contains("/nonexistent/redis.sock"), "{answer}");
    }
    let health = ask(running.address, "GET", "/health", "").await;
    assert!(health.starts_with("HTTP/1.1 503") && health.contains("unhealthy") && health.contains("redis.sock"));
    assert!(running.status().starts_with("roster not loaded yet, store redis in trouble: "), "{}", running.status());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_outlives_its_redis_and_both_heal_without_a_hand() {
    let Some(mut redis) = Server::start() else { return };
    let running = started(RegistrySettings { redis: Some(redis.settings()), ..settings() }, None).await;
    let address = running.address;
    let heartbeat = || ask(address, "POST", "/heartbeat", r#"{"instance_id": "uuid-123"}"#);
    assert!(ask(address, "POST", "/register", MEMBER).await.starts_with("HTTP/1.1 200"));
    assert!(ask(address, "GET", "/members", "").await.contains("uuid-123"));
    let waiting = tokio::spawn(ask(address, "GET", "/members?wait=2", ""));
    tokio::time::sleep(Duration::from_millis(100)).await;
    redis.kill();
    assert!(heartbeat().await.starts_with("HTTP/1.1 503"));
    let waited = waiting.await.unwrap();
    assert!(waited.starts_with("HTTP/1.1 200") && waited.contains("netring-stale: "), "{waited}");
    for _ in 0..20 {
        let began = clock::monotonic();
        let members = ask(address, "GET", "/members", "").await;
        assert!(members.starts_with("HTTP/1.1 200") && members.contains("netring-stale: "), "{members}");
        assert!(members.contains("uuid-123"), "{members}");
        assert!(heartbeat().await.starts_with("HTTP/1.1 503"));
        assert!(
            clock::monotonic() - began < Duration::from_secs(1),
            "nobody waits for a store that is known to be away"
        );
    }
    let began = clock::monotonic();
    let waited = ask(address, "GET", "/members?wait=1", "").await;
    let took = clock::monotonic() - began;
    assert!(waited.starts_with("HTTP/1.1 200") && waited.contains("netring-stale: "), "{waited}");
    assert!((Duration::from_secs(1)..Duration::from_secs(3)).contains(&took), "a poll waits as long as ever: {took:?}");
    assert!(ask(address, "GET", "/metrics", "").await.contains("netring_registry_store_up 0"));
    redis.restart();
    let deadline = clock::monotonic() + Duration::from_secs(10);
    while !ask(address, "GET", "/health", "").await.starts_with("HTTP/1.1 200") {
        assert!(clock::monotonic() < deadline, "{}", running.status());
    }
    assert!(heartbeat().await.starts_with("HTTP/1.1 200"), "an empty Redis got its roster back");
    let members = ask(address, "GET", "/members", "").await;
    assert!(members.contains("uuid-123") && !members.contains("netring-stale"), "{members}");
    running.stop().await;
}
