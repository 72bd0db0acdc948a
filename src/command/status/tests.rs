use std::net::{IpAddr, Ipv4Addr};

use tokio::runtime::Runtime;
use warp::Filter;

use super::*;
use crate::serve;
use crate::wire::STALE_HEADER;

/// A registry that answers everything with the same body. It ends with the runtime.
struct Fake {
    _runtime: Runtime,
    url: String,
}

fn registry(status: u16, stale: Option<u64>, body: String) -> Fake {
    let runtime = Runtime::new().unwrap();
    let listener = serve::bind(IpAddr::V4(Ipv4Addr::LOCALHOST), 0).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let routes = warp::any().map(move || {
        let mut response = http::Response::builder().status(status);
        if let Some(seconds) = stale {
            response = response.header(STALE_HEADER, seconds);
        }
        response.body(body.clone()).unwrap()
    });
    runtime.spawn(serve::run(listener, routes, serve::Limits::default(), None, std::future::pending()));
    Fake { _runtime: runtime, url }
}

fn asked(url: &str, json: bool) -> (Exit, String) {
    let mut out = Vec::new();
    let exit = run(Some(url), json, &mut out);
    (exit, String::from_utf8(out).unwrap())
}

/// An unsorted roster, with an IPv6 address, an entry without times and an invalid entry.
fn roster() -> String {
    let now = clock::wall().epoch_seconds();
    // In the middle of what a minute or an hour rounds to, so that a slow test reads the same.
    let ago = |seconds: u64| now - seconds;
    serde_json::json!({"members": [
        {"instance_id": "uuid-456", "location": "us1-k8s", "ip": "10.1.2.3", "port": 8756, "last_seen": ago(150),
         "registered_at": ago(5 * 3600 + 1800), "status": "active"},
        {"instance_id": "uuid-six", "location": "asia1-docker", "ip": "2001:db8::6", "port": 8756,
         "last_seen": ago(390), "registered_at": ago(5 * 86_400 + 43_200)},
        {"instance_id": "uuid-123", "location": "us1-k8s", "ip": "10.1.2.3", "port": "8757"},
        {"instance_id": "uuid-bad", "location": "nowhere", "ip": "0.0.0.0", "port": 1},
    ]})
    .to_string()
}

/// Compares the tables with their golden files. With `UPDATE_GOLDEN` set, the files are rewritten.
#[test]
fn the_table_is_the_golden_one() {
    let one = r#"{"members": [{"instance_id": "a", "location": "b", "ip": "10.0.0.1", "port": 1}]}"#;
    for (golden, stale, body) in [
        ("roster", None, roster()),
        ("stale", Some(400), roster()),
        ("one", None, one.to_owned()),
        ("empty", None, r#"{"members": []}"#.to_owned()),
    ] {
        let (exit, found) = asked(&registry(200, stale, body).url, false);
        assert_eq!(exit, Exit::Ok);
        let golden = format!("{}/tests/golden/status/{golden}.txt", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&golden, &found).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&golden).unwrap(), found, "{golden}");
    }
}

#[test]
fn json_holds_the_members_as_the_registry_documents_them() {
    let (exit, text) = asked(&registry(200, None, roster()).url, true);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let members = json["members"].as_array().unwrap();
    let ids: Vec<&str> = members.iter().map(|member| member["instance_id"].as_str().unwrap()).collect();
    assert_eq!((exit, ids), (Exit::Ok, vec!["uuid-six", "uuid-123", "uuid-456"]), "by location, then identity");
    assert_eq!(
        members[1],
        serde_json::json!({"instance_id": "uuid-123", "location": "us1-k8s", "ip": "10.1.2.3", "port": 8757,
            "last_seen": 0, "registered_at": 0, "status": "active"})
    );
    assert_eq!(
        asked(&registry(200, None, r#"{"members": []}"#.into()).url, true).1,
        "{\n  \"members\": [],\n  \"stale_seconds\": 0\n}\n"
    );
}

#[test]
fn a_registry_that_gives_no_roster_is_unavailable_and_stdout_stays_empty() {
    let nobody = serve::bind(IpAddr::V4(Ipv4Addr::LOCALHOST), 0).unwrap().local_addr().unwrap();
    assert_eq!(asked(&format!("http://{nobody}"), false), (Exit::Unavailable, String::new()), "nobody listens");
    for (status, body) in [
        (503, r#"{"error": "the store is away"}"#),
        (404, "not found"),
        (200, "<html>"),
        (200, "{}"),
        (200, r#"{"members": 7}"#),
        (304, ""),
    ] {
        let registry = registry(status, None, body.to_owned());
        for json in [false, true] {
            assert_eq!(asked(&registry.url, json), (Exit::Unavailable, String::new()), "{status} {body}");
        }
    }
}

#[test]
fn an_address_that_is_none_is_wrong_usage() {
    for url in
        ["", "localhost:8756", "ftp://localhost", "https://localhost", "http://", "http://a:b@localhost", "http://x?y"]
    {
        assert_eq!(asked(url, false), (Exit::Usage, String::new()), "{url:?}");
    }
}
