use std::num::NonZeroUsize;

use http::Response as HttpResponse;
use http_body_util::BodyExt as _;
use serde_json::Value;
use warp::test::RequestBuilder;

use super::*;
use crate::registry::store::embedded::EmbeddedStore;
use crate::registry::store::{Limits, Store};

struct Registry {
    api: Arc<Api>,
    routes: BoxedFilter<(Response,)>,
    _stopping: watch::Sender<bool>,
}

fn registry(max_members: usize, polls: usize) -> Registry {
    let max_members = NonZeroUsize::new(max_members).unwrap();
    let minutes = Duration::from_secs(300);
    let limits = Limits { member_ttl: minutes, max_members, cleanup_interval: minutes };
    on(Arc::new(EmbeddedStore::in_memory(limits)), polls)
}

fn on(store: Arc<dyn Store>, polls: usize) -> Registry {
    let exporter = Arc::new(Exporter::default());
    let directory = Arc::new(Directory::new(store, Arc::clone(&exporter)));
    let (stopping, stopped) = watch::channel(false);
    let api = Arc::new(Api::new(directory, exporter, Vec::new(), polls, stopped));
    let routes = routes(&api, &serve::Limits::default());
    Registry { api, routes: routes.boxed(), _stopping: stopping }
}

impl Registry {
    async fn answer(&self, request: RequestBuilder) -> HttpResponse<Bytes> {
        match serve::settle(request.reply(&self.routes).await).await {
            Ok(response) => response,
            Err(later) => {
                let (head, body) = later.into_parts();
                HttpResponse::from_parts(head, body.collect().await.unwrap().to_bytes())
            }
        }
    }

    async fn get(&self, path: &str) -> HttpResponse<Bytes> {
        self.answer(warp::test::request().path(path)).await
    }

    async fn post(&self, path: &str, body: impl AsRef<[u8]>) -> (u16, Value) {
        let response = self.answer(warp::test::request().method("POST").path(path).body(body)).await;
        assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
        (response.status().as_u16(), json_of(&response))
    }
}

fn json_of(response: &HttpResponse<Bytes>) -> Value {
    serde_json::from_slice(response.body()).unwrap()
}

const MEMBER: &str = r#"{"instance_id": "uuid-123", "location": "us1-k8s", "ip": "10.1.2.3", "port": 8756}"#;

#[tokio::test]
async fn the_documented_requests_get_the_documented_answers() {
    let registry = registry(10, 10);
    let (status, answer) = registry.post("/register", MEMBER).await;
    assert_eq!((status, answer), (200, json!({"instance_id": "uuid-123", "status": "registered", "known": false})));
    let (_, again) = registry.post("/register", MEMBER).await;
    assert_eq!(again["known"], true);
    assert_eq!(registry.post("/heartbeat", r#"{"instance_id": "uuid-123"}"#).await, (200, json!({"status": "ok"})));

    let members = json_of(&registry.get("/members").await);
    let member = members["members"][0].as_object().unwrap();
    let fields: Vec<&str> = member.keys().map(String::as_str).collect();
    assert_eq!(fields, ["instance_id", "ip", "last_seen", "location", "port", "registered_at", "status"]);
    assert_eq!(member["port"], 8756);
    assert_eq!(member["status"], "active");
    assert!(member["last_seen"].is_u64() && member["registered_at"].is_u64());

    let health = json_of(&registry.get("/health").await);
    assert_eq!(
        (&health["status"], &health["members_count"], &health["store"]),
        (&json!("healthy"), &json!(1), &json!("embedded"))
    );
    assert!(health["timestamp"].is_f64() && health["version"].is_string());

    let id = r#"{"instance_id": "uuid-123"}"#;
    assert_eq!(registry.post("/deregister", id).await, (200, json!({"status": "deregistered"})));
    assert_eq!(
        registry.post("/deregister", id).await,
        (200, json!({"status": "deregistered"})),
        "also of an unknown one"
    );
    assert_eq!(json_of(&registry.get("/members").await), json!({"members": []}));
    let (status, answer) = registry.post("/heartbeat", id).await;
    assert_eq!(status, 404);
    assert!(answer["error"].as_str().unwrap().contains("uuid-123"));

    let (_, new) =
        registry.post("/register", r#"{"location": "eu1", "ip": "10.0.0.2", "port": "8757", "more": [1]}"#).await;
    assert_eq!(new["instance_id"].as_str().unwrap().len(), 36, "a UUID of the registry's");
}

#[tokio::test]
async fn bad_input_is_refused_by_name_and_poisons_nothing() {
    let registry = registry(10, 10);
    registry.post("/register", MEMBER).await;
    let before = registry.get("/members").await.body().clone();
    let with = |field: &str, value: Value| {
        let mut member: Value = serde_json::from_str(MEMBER).unwrap();
        member[field] = value;
        (field.to_owned(), member.to_string())
    };
    let mut cases: Vec<(String, String)> = vec![
        with("port", json!("abc")),
        with("port", json!(0)),
        with("port", json!(70000)),
        with("port", json!(80.5)),
        with("port", json!(-1)),
        with("location", json!("x".repeat(10_000))),
        with("location", json!("a\nb")),
        with("location", json!("")),
        with("location", json!({"a": {"b": 1}})),
        with("ip", json!("not-an-ip")),
        with("ip", json!("10.0.0.256")),
        with("ip", json!("0.0.0.0")),
        with("ip", json!(["10.0.0.1"])),
        with("instance_id", json!("")),
        with("instance_id", json!("a/b")),
        with("instance_id", json!(7)),
    ];
    cases.extend(["", "nonsense", "[]", "{", "\u{0}", "null"].map(|body| ("body".to_owned(), body.to_owned())));
    for field in ["location", "ip", "port"] {
        let mut member: Value = serde_json::from_str(MEMBER).unwrap();
        member.as_object_mut().unwrap().remove(field);
        cases.push((field.into(), member.to_string()));
    }
    for (field, body) in cases {
        let (status, answer) = registry.post("/register", &body).await;
        let error = answer["error"].as_str().unwrap();
        assert!(status == 400 && error.starts_with(&field), "{body:.80}: {status} {error}");
        assert!(error.len() < 300, "{error}");
    }
    for body in ["{}", r#"{"instance_id": "a/b"}"#, "x"] {
        for path in ["/heartbeat", "/deregister"] {
            assert_eq!(registry.post(path, body).await.0, 400, "{path} {body}");
        }
    }
    assert_eq!(registry.post("/register", "x".repeat(70_000)).await.0, 413);
    let after = json_of(&registry.get("/members").await);
    assert_eq!(after["members"].as_array().unwrap().len(), 1);
    assert_eq!(
        after["members"][0]["location"],
        serde_json::from_slice::<Value>(&before).unwrap()["members"][0]["location"]
    );
}

#[tokio::test]
async fn other_paths_and_methods_are_refused_in_json_and_head_works() {
    let registry = registry(10, 10);
    for (method, path, status) in [
        ("GET", "/nowhere", 404),
        ("GET", "/members/1", 404),
        ("DELETE", "/members", 405),
        ("POST", "/health", 405),
        ("GET", "/register", 405),
        ("GET", "/members?wait=abc", 400),
        ("GET", "/members?wait=61", 400),
        ("GET", "/members?wait=-1", 400),
        ("GET", "/members?wait=NaN", 400),
    ] {
        let response = registry.answer(warp::test::request().method(method).path(path)).await;
        assert_eq!(response.status(), status, "{method} {path}");
        assert!(json_of(&response)["error"].is_string(), "{method} {path}");
    }
    for path in ["/", "/members", "/health", "/metrics", "/prometheus/targets"] {
        assert_eq!(registry.answer(warp::test::request().method("HEAD").path(path)).await.status(), 200, "{path}");
    }
}

#[tokio::test]
async fn an_unchanged_roster_is_a_304() {
    let registry = registry(10, 10);
    registry.post("/register", MEMBER).await;
    let first = registry.get("/members").await;
    let tag = first.headers()[ETAG].to_str().unwrap().to_owned();
    assert!(tag.starts_with("W/\"1-"), "{tag}");
    let strong = tag.trim_start_matches("W/").to_owned();
    for known in [tag.clone(), strong, "*".into(), format!("\"other\", {tag}")] {
        let response = registry.answer(warp::test::request().path("/members").header("if-none-match", &known)).await;
        assert_eq!((response.status().as_u16(), response.body().len()), (304, 0), "{known}");
        assert_eq!(response.headers()[ETAG].to_str().unwrap(), tag);
    }
    registry.post("/register", MEMBER.replace("8756", "8757")).await;
    let changed = registry.answer(warp::test::request().path("/members").header("if-none-match", &tag)).await;
    assert_eq!(changed.status(), 200);
}

#[tokio::test]
async fn a_poll_waits_for_a_change_and_no_longer_than_asked() {
    let registry = Arc::new(registry(10, 1));
    let running = tokio::spawn({
        let api = Arc::clone(&registry.api);
        async move { api.directory.run(None).await }
    });
    let tag = registry.get("/members").await.headers()[ETAG].to_str().unwrap().to_owned();
    let poll = |wait: &str| warp::test::request().path(&format!("/members?wait={wait}")).header("if-none-match", &tag);
    assert_eq!(registry.answer(poll("0.05")).await.status(), 304);
    assert_eq!(registry.get("/members?wait=0.05").await.status(), 200, "without a known roster, 200 at the end");

    let (waiting, refused, _) = tokio::join!(registry.answer(poll("20")), registry.answer(poll("20")), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        registry.post("/register", MEMBER).await
    });
    assert_eq!(waiting.status(), 200);
    assert_eq!(json_of(&waiting)["members"].as_array().unwrap().len(), 1);
    assert_eq!(refused.status(), 429, "one waits at most");
    assert!(refused.headers().contains_key("retry-after"));
    running.abort();
}

#[tokio::test]
async fn only_who_asks_to_wait_counts_as_waiting() {
    let registry = registry(10, 0);
    let answered = "netring_registry_request_duration_seconds_count{route=\"/members\"}";
    for path in ["/members?wait=0", "/members?wait=0.0", "/members?await=5", "/members?other=wait=5", "/members?wait=x"]
    {
        let expected = if path.ends_with('x') { 400 } else { 200 };
        assert_eq!(registry.get(path).await.status(), expected, "{path}: not one may wait, and this one need not");
    }
    assert_eq!(registry.get("/members?wait=0.01").await.status(), 429);
    assert_eq!(registry.get("/members?%77ait=5").await.status(), 429);
    let metrics = registry.get("/metrics").await.body().clone();
    let metrics = std::str::from_utf8(&metrics).unwrap();
    assert!(metrics.contains(&format!("{answered} 7\n")), "{metrics}");
}

#[tokio::test]
async fn a_loopback_address_is_taken_from_this_host_only() {
    let registry = registry(10, 10);
    let register = async |ip: &str, client: &str| {
        let peer = serve::Peer { address: client.parse().unwrap() };
        let request = warp::test::request().method("POST").path("/register").extension(peer);
        let response = registry.answer(request.body(MEMBER.replace("10.1.2.3", ip))).await;
        (response.status().as_u16(), json_of(&response))
    };
    for ip in ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"] {
        for client in ["10.1.2.3:40000", "[2001:db8::1]:40000"] {
            let (status, answer) = register(ip, client).await;
            let error = answer["error"].as_str().unwrap();
            assert!(status == 400 && error.starts_with("ip: ") && error.contains("advertise_ip"), "{status} {error}");
        }
        for client in ["127.0.0.1:40000", "[::1]:40000"] {
            assert_eq!(register(ip, client).await.0, 200, "{ip} from {client}");
        }
    }
    assert_eq!(register("10.1.2.3", "192.0.2.1:40000").await.0, 200);
}

#[tokio::test]
async fn a_full_ring_and_a_foreign_network_are_refused() {
    let registry = registry(1, 10);
    registry.api.set_allowed_networks(vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()]);
    let (status, answer) = registry.post("/register", MEMBER.replace("10.1.2.3", "192.0.2.1")).await;
    let error = answer["error"].as_str().unwrap();
    assert_eq!(status, 400);
    assert!(
        error.starts_with("ip") && error.contains("10.0.0.0/8, 2001:db8::/32") && error.contains("192.0.2.1"),
        "{error}"
    );
    assert_eq!(registry.post("/register", MEMBER.replace("10.1.2.3", "::ffff:10.1.2.3")).await.0, 200);
    assert_eq!(json_of(&registry.get("/members").await)["members"][0]["ip"], "10.1.2.3", "in its own form");
    let other = MEMBER.replace("uuid-123", "uuid-456");
    let request = warp::test::request().method("POST").path("/register").body(other);
    let full = registry.answer(request).await;
    assert_eq!(full.status(), 429);
    assert!(full.headers().contains_key("retry-after"));
}

#[tokio::test]
async fn prometheus_finds_the_ring() {
    let registry = registry(10, 10);
    registry.post("/register", MEMBER).await;
    registry.post("/register", r#"{"instance_id": "v6", "location": "eu1", "ip": "2001:db8::1", "port": 9000}"#).await;
    let groups = json_of(&registry.get("/prometheus/targets").await);
    assert_eq!(groups[0]["targets"], json!(["[2001:db8::1]:9000"]));
    assert_eq!(groups[1]["targets"], json!(["10.1.2.3:8756"]));
    assert_eq!(groups[1]["labels"]["netring_location"], "us1-k8s");
    assert_eq!(groups[1]["labels"]["__meta_netring_instance_id"], "uuid-123");
    assert!(groups[1]["labels"].get("location").is_none(), "would displace the labels of the members' own series");
}

#[tokio::test]
async fn the_metrics_please_promtool_and_forget_a_location_with_its_last_member() {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    let registry = registry(10, 10);
    registry.post("/register", MEMBER).await;
    registry.get("/members").await;
    registry.get("/nowhere").await;
    let text = |response: HttpResponse<Bytes>| String::from_utf8(response.body().to_vec()).unwrap();
    let metrics = text(registry.get("/metrics").await);
    for line in [
        r#"netring_registry_members{location="us1-k8s"} 1"#,
        "netring_registry_revision 1",
        r#"netring_registry_requests_total{route="/register",status="200"} 1"#,
        r#"netring_registry_requests_total{route="other",status="404"} 1"#,
        r#"netring_registry_store_operation_duration_seconds_count{operation="register"} 1"#,
        "netring_registry_store_up 1",
        "netring_registry_expirations_total 0",
        "process_open_fds",
        "netring_build_info{version=",
    ] {
        assert!(metrics.contains(line), "no {line} in\n{metrics}");
    }
    registry.post("/deregister", r#"{"instance_id": "uuid-123"}"#).await;
    registry.get("/members").await;
    assert!(!text(registry.get("/metrics").await).contains("us1-k8s"));

    let mut command = Command::new("promtool");
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let Ok(mut promtool) = command.spawn() else {
        eprintln!("SKIPPED: promtool is not installed");
        return;
    };
    promtool.stdin.take().unwrap().write_all(metrics.as_bytes()).unwrap();
    let verdict = promtool.wait_with_output().unwrap();
    assert!(verdict.status.success() && verdict.stderr.is_empty(), "{}", String::from_utf8_lossy(&verdict.stderr));
}
