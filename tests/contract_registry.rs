//! The registry's contract, on the real binary: every route, field, type and error that members, operators and older
//! programs rely on.

pub mod support;

use std::time::Duration;

use netring::clock::wall;
use serde_json::{Value, json};
use support::daemon::{Daemon, Registry};
use support::{SOON, eventually, holds, http};

/// A registration that is right.
const GOOD: &str = r#"{"instance_id": "a", "location": "us1-k8s", "ip": "10.1.2.3", "port": 8756}"#;

fn members(registry: &Daemon) -> Vec<Value> {
    let answer = registry.get("/members");
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["members"].as_array().expect("members is a list").clone()
}

fn ids(registry: &Daemon) -> Vec<String> {
    let mut ids: Vec<String> =
        members(registry).iter().map(|member| member["instance_id"].as_str().unwrap_or_default().into()).collect();
    ids.sort();
    ids
}

/// A registry whose leases outlast the test.
fn lasting() -> Daemon {
    Registry { member_ttl: 300, ..Registry::new() }.start()
}

#[test]
fn it_is_ready_when_all_its_loops_run_and_not_before() {
    let registry = lasting();
    let said = registry.notifications();
    let status = said.iter().find(|message| message.starts_with("STATUS=")).expect("it tells how it stands");
    assert!(status.starts_with("STATUS=0 members"), "the roster is known by then: {said:?}");
    assert!(said.iter().any(|message| message.starts_with("READY=1")), "{said:?}");
}

#[test]
fn a_member_registers_and_is_listed_with_every_field() {
    let registry = lasting();
    let answer = registry.post("/register", GOOD);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["instance_id"], "a");
    assert_eq!(answer.json()["status"], "registered");

    let [member] = &members(&registry)[..] else { panic!("one member") };
    let now = wall().epoch_seconds();
    for field in ["last_seen", "registered_at"] {
        let seconds = member[field].as_u64().unwrap_or_else(|| panic!("{field} is no whole number: {member}"));
        assert!(seconds <= now && now - seconds < 60, "{field} is {seconds}, now is {now}");
    }
    let mut rest = member.clone();
    rest.as_object_mut().unwrap().retain(|field, _| field != "last_seen" && field != "registered_at");
    let expected =
        json!({"instance_id": "a", "location": "us1-k8s", "ip": "10.1.2.3", "port": 8756, "status": "active"});
    assert_eq!(rest, expected);
}

#[test]
fn a_member_without_an_identity_is_given_a_uuid() {
    let registry = lasting();
    for instance_id in ["", r#""instance_id": null,"#] {
        let body = format!(r#"{{{instance_id} "location": "us1", "ip": "10.1.2.3", "port": 8756}}"#);
        let answer = registry.post("/register", &body);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let id = answer.json()["instance_id"].as_str().unwrap().to_owned();
        assert_eq!(uuid::Uuid::parse_str(&id).unwrap().get_version_num(), 4);
        assert!(ids(&registry).contains(&id));
    }
    assert_eq!(ids(&registry).len(), 2);
}

#[test]
fn registering_again_renews_and_keeps_the_time_of_joining() {
    let registry = lasting();
    registry.post("/register", GOOD);
    let joined = members(&registry)[0]["registered_at"].clone();
    eventually(SOON, "a later registration moves last_seen alone", || {
        assert_eq!(registry.post("/register", GOOD).status, 200);
        let list = members(&registry);
        assert_eq!(list.len(), 1);
        assert_eq!(list[0]["registered_at"], joined);
        holds(list[0]["last_seen"].as_u64() > joined.as_u64(), &list)
    });
}

#[test]
fn a_member_that_moves_is_listed_at_its_new_address_only() {
    let registry = lasting();
    registry.post("/register", GOOD);
    let moved = GOOD.replace("10.1.2.3", "2001:db8::7").replace("8756", "9000");
    assert_eq!(registry.post("/register", &moved).status, 200);
    let [member] = &members(&registry)[..] else { panic!("one member") };
    assert_eq!((&member["ip"], &member["port"]), (&json!("2001:db8::7"), &json!(9000)));
}

#[test]
fn a_heartbeat_renews_a_known_member_and_tells_an_unknown_one() {
    let registry = lasting();
    registry.post("/register", GOOD);
    let answer = registry.post("/heartbeat", r#"{"instance_id": "a"}"#);
    assert_eq!((answer.status, answer.json()), (200, json!({"status": "ok"})));
    let error = registry.post("/heartbeat", r#"{"instance_id": "nobody"}"#).error(404);
    assert!(!error.is_empty());
    assert!(registry.post("/heartbeat", "{}").error(400).contains("instance_id"));
}

#[test]
fn a_member_that_leaves_is_gone_at_once_and_may_leave_twice() {
    let registry = lasting();
    registry.post("/register", GOOD);
    for _ in 0..2 {
        assert_eq!(registry.post("/deregister", r#"{"instance_id": "a"}"#).status, 200);
        assert_eq!(ids(&registry), [""; 0]);
    }
    assert_eq!(registry.post("/heartbeat", r#"{"instance_id": "a"}"#).status, 404);
}

#[test]
fn older_and_newer_programs_are_understood() {
    let registry = lasting();
    let body = r#"{"instance_id": "old", "location": "us1", "ip": "10.1.2.3", "port": "8756",
                   "version": "0.1", "labels": {"rack": ["a", 1, null]}}"#;
    assert_eq!(registry.post("/register", body).status, 200);
    assert_eq!(members(&registry)[0]["port"], 8756);
    let heartbeat = registry.post("/heartbeat", r#"{"instance_id": "old", "load": 0.5, "extra": {"x": []}}"#);
    assert_eq!(heartbeat.status, 200);
}

#[test]
fn bad_input_is_refused_with_the_fields_name_and_poisons_nothing() {
    let registry = lasting();
    assert_eq!(registry.post("/register", GOOD).status, 200);
    let long = |length: usize| format!("{:?}", "x".repeat(length));
    let table: Vec<(&str, Vec<String>)> = vec![
        ("port", ["\"abc\"", "0", "70000", "-1", "1.5", "null", "true", "[]", "{}", "\"\""].map(String::from).to_vec()),
        (
            "location",
            [&long(10_240), "\"\"", "\" \"", "\"a\\u0000b\"", "\"a\\nb\"", "7", "null", "{}"]
                .map(String::from)
                .to_vec(),
        ),
        (
            "ip",
            [
                "\"nowhere\"",
                "\"\"",
                "\"10.1.2\"",
                "\"10.1.2.3/24\"",
                "\"0.0.0.0\"",
                "\"::\"",
                "\"224.0.0.1\"",
                "\"ff02::1\"",
                "\"fe80::1\"",
                "\"0.1.2.3\"",
                "\"240.0.0.1\"",
                "7",
                "null",
            ]
            .map(String::from)
            .to_vec(),
        ),
        (
            "instance_id",
            [&long(2_000), "\"\"", "\"a/b\"", "\"a b\"", "\"a\\nb\"", "7", "{}"].map(String::from).to_vec(),
        ),
    ];
    for (field, values) in &table {
        for value in values {
            let mut body: serde_json::Map<String, Value> = serde_json::from_str(GOOD).unwrap();
            body.insert("instance_id".into(), "bad".into());
            body.insert((*field).into(), serde_json::from_str(value).unwrap());
            let error = registry.post("/register", &Value::Object(body).to_string()).error(400);
            assert!(error.contains(field), "{field} = {value}: {error}");
            assert!(error.len() < 300, "{field}: an error of {} bytes", error.len());
        }
    }
    for field in ["location", "ip", "port"] {
        let mut body: serde_json::Map<String, Value> = serde_json::from_str(GOOD).unwrap();
        body.remove(field);
        let error = registry.post("/register", &Value::Object(body).to_string()).error(400);
        assert!(error.contains(field), "without {field}: {error}");
    }
    let nested = "[".repeat(20_000);
    for body in ["", "{", "[]", "null", "7", "\"text\"", "not json", &nested] {
        for route in ["/register", "/heartbeat", "/deregister"] {
            let shown: String = body.chars().take(10).collect();
            assert_eq!(registry.post(route, body).status, 400, "{route} {shown:?}");
        }
    }
    let not_text = http::request("POST", registry.server, "/register", &[], b"{\"location\": \"\xff\xfe\"}").unwrap();
    assert_eq!(not_text.status, 400);

    assert_eq!(ids(&registry), ["a"]);
    assert_eq!(registry.get("/health").status, 200);
    let _ = registry.metrics();
}

#[test]
fn what_is_not_there_or_too_large_has_its_status_and_an_error_body() {
    let registry = lasting();
    assert!(!registry.get("/nothing").error(404).is_empty());
    for (method, path) in [("GET", "/register"), ("DELETE", "/members"), ("PUT", "/heartbeat"), ("POST", "/health")] {
        let answer = http::request(method, registry.server, path, &[], b"").unwrap();
        assert!(!answer.error(405).is_empty(), "{method} {path}");
    }
    let large = format!("{{\"location\": {:?}}}", "x".repeat(8 << 20));
    assert!(!registry.post("/register", &large).error(413).is_empty());
    assert_eq!(registry.post("/register", GOOD).status, 200);
}

#[test]
fn the_lease_ends_on_time_whatever_the_sweep_does() {
    let registry = Registry { member_ttl: 1, cleanup_interval: 3600, ..Registry::new() }.start();
    registry.post("/register", GOOD);
    assert_eq!(ids(&registry), ["a"]);
    eventually(Duration::from_secs(3), "the lease ends", || {
        let ids = ids(&registry);
        holds(ids.is_empty(), ids)
    });
    assert_eq!(registry.post("/heartbeat", r#"{"instance_id": "a"}"#).status, 404);
}

#[test]
fn an_unchanged_roster_is_not_sent_twice_and_a_poll_waits_for_a_change() {
    let registry = lasting();
    registry.post("/register", GOOD);
    let tag = registry.get("/members").header("etag").expect("the roster has an ETag").to_owned();
    let ask = |path: &str| http::request("GET", registry.server, path, &[("if-none-match", &tag)], b"").unwrap();
    let same = ask("/members");
    assert_eq!((same.status, same.body.len()), (304, 0));
    assert_eq!(registry.post("/heartbeat", r#"{"instance_id": "a"}"#).status, 200);
    assert_eq!(ask("/members").status, 304, "a heartbeat is no change");

    let start = netring::clock::monotonic();
    assert_eq!(ask("/members?wait=1").status, 304);
    assert!(netring::clock::monotonic() - start >= Duration::from_millis(900), "the answer waits for a change");

    let waited = std::thread::scope(|scope| {
        let poll = scope.spawn(|| (ask("/members?wait=9"), netring::clock::monotonic()));
        std::thread::sleep(Duration::from_millis(300));
        assert!(!poll.is_finished(), "nothing has changed yet");
        let joined = netring::clock::monotonic();
        registry.post("/register", &GOOD.replace("\"a\"", "\"b\""));
        let (answer, answered) = poll.join().unwrap();
        assert_eq!(answer.json()["members"].as_array().map(Vec::len), Some(2));
        answered - joined
    });
    assert!(waited < Duration::from_secs(2), "the change was told after {waited:?}");
}

#[test]
fn what_was_acknowledged_is_there_after_a_power_cut() {
    let mut registry = lasting();
    for id in ["a", "b", "c"] {
        assert_eq!(registry.post("/register", &GOOD.replace("\"a\"", &format!("\"{id}\""))).status, 200);
    }
    assert_eq!(registry.post("/deregister", r#"{"instance_id": "b"}"#).status, 200);
    let before = members(&registry);
    registry.start_again();
    assert_eq!(ids(&registry), ["a", "c"]);
    let joined = |list: &[Value]| {
        list.iter()
            .map(|m| (m["instance_id"].to_string(), m["registered_at"].clone()))
            .collect::<std::collections::BTreeMap<_, _>>()
    };
    assert_eq!(joined(&members(&registry)), joined(&before), "the time of joining is kept");
}

#[test]
fn prometheus_finds_the_ring() {
    let registry = lasting();
    registry.post("/register", GOOD);
    registry.post("/register", r#"{"instance_id": "b", "location": "eu1", "ip": "2001:db8::7", "port": 9000}"#);
    let answer = registry.get("/prometheus/targets");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let groups = answer.json().as_array().expect("a list of target groups").clone();
    let mut found = Vec::new();
    for group in &groups {
        let labels: Vec<&str> = group["labels"].as_object().unwrap().values().filter_map(Value::as_str).collect();
        for target in group["targets"].as_array().unwrap() {
            found.push((target.as_str().unwrap().to_owned(), labels.contains(&"us1-k8s"), labels.contains(&"a")));
        }
        for name in group["labels"].as_object().unwrap().keys() {
            // These are labels of a member's own series: Prometheus would rename the member's.
            assert!(!["location", "instance_id"].contains(&name.as_str()), "the label {name} collides");
        }
    }
    found.sort();
    assert_eq!(found, [("10.1.2.3:8756".into(), true, true), ("[2001:db8::7]:9000".into(), false, false)]);
}

#[test]
fn the_registry_tells_its_own_figures() {
    let registry = lasting();
    registry.post("/register", GOOD);
    registry.post("/register", &GOOD.replace("\"a\"", "\"b\""));
    registry.post("/register", &GOOD.replace("\"a\"", "\"c\"").replace("us1-k8s", "eu1"));
    registry.wait_for_value("netring_registry_members", &[("location", "us1-k8s")], 2.0);
    registry.wait_for_value("netring_registry_members", &[("location", "eu1")], 1.0);
    let before = registry.metrics();
    assert_eq!(before.value("netring_registry_store_up", &[]), Some(1.0));
    assert_eq!(before.series("netring_build_info", &[]).len(), 1);
    assert!(before.value("process_resident_memory_bytes", &[]).is_some());

    registry.post("/deregister", r#"{"instance_id": "c"}"#);
    registry.wait_for("a site without members is no series", |metrics| {
        let left = metrics.value("netring_registry_members", &[("location", "eu1")]);
        holds(left.is_none(), left)
    });
    let after = registry.metrics();
    let revision = |metrics: &support::metrics::Metrics| metrics.value("netring_registry_revision", &[]).unwrap();
    assert!(revision(&after) > revision(&before), "leaving is a new revision");
    support::prometheus::lint(&registry.get("/metrics").text(), &[]);
}

#[test]
fn health_says_that_it_serves() {
    let registry = lasting();
    let answer = registry.get("/health");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["status"], "healthy");
}

#[test]
fn a_request_that_waits_takes_little_memory() {
    use std::io::Write as _;

    const POLLS: usize = 1000;
    let registry = lasting();
    registry.post("/register", GOOD);
    let tag = registry.get("/members").header("etag").expect("a roster has an entity tag").to_owned();
    let before = registry.usage().resident;
    let polls: Vec<_> = (0..POLLS)
        .map(|_| {
            let mut poll = std::net::TcpStream::connect(registry.server).unwrap();
            let request = format!("GET /members?wait=60 HTTP/1.1\r\nhost: registry\r\nif-none-match: {tag}\r\n\r\n");
            poll.write_all(request.as_bytes()).unwrap();
            poll
        })
        .collect();
    registry.wait_for_value("netring_registry_polls_waiting", &[], POLLS as f64);
    let each = (registry.usage().resident - before) / POLLS as u64;
    assert!(each < 8 * 1024, "{each} bytes each");
    drop(polls);
    registry.wait_for_value("netring_registry_polls_waiting", &[], 0.0);
}
