use super::*;
use crate::registry::directory::Directory;
use crate::registry::roster::Candidate;
use crate::registry::store::embedded::EmbeddedStore;
use crate::registry::store::{Limits, Store};
use crate::wire::Registration;

use std::sync::Arc;

/// The text with what differs from one run to the next left out: the process's own figures, the version, and how long the
/// store took.
fn masked(text: &str) -> String {
    let version = format!("version=\"{}\"", env!("CARGO_PKG_VERSION"));
    let line = |line: &str| match line.split_once(' ') {
        Some((name, _)) if name.starts_with("process_") || name.ends_with("_timestamp_seconds") => {
            format!("{name} *\n")
        }
        _ => format!("{}\n", line.replace(&version, "version=\"*\"")),
    };
    text.lines().map(line).collect()
}

/// The whole text, word for word. Written anew where `UPDATE_GOLDEN` is set.
#[tokio::test]
async fn a_scrape_is_the_golden_one() {
    let minutes = Duration::from_secs(300);
    let limits = Limits { member_ttl: minutes, max_members: 10.try_into().unwrap(), cleanup_interval: minutes };
    let store: Arc<dyn Store> = Arc::new(EmbeddedStore::in_memory(limits));
    // The directory notes how long the store takes, so it gets an exporter of its own.
    let directory = Directory::new(store, Arc::new(Exporter::default()));
    for (id, location) in [("uuid-456", "eu1-k8s"), ("uuid-457", "eu1-k8s"), ("uuid-bad", r#"Zürich "Hall\2""#)] {
        let body = serde_json::json!({"instance_id": id, "location": location, "ip": "10.1.2.3", "port": 8756});
        let registration = Registration::from_json(body.to_string().as_bytes()).unwrap();
        directory.register(Candidate::from_registration(registration)).await.unwrap();
    }
    let view = directory.view().await.unwrap();

    let exporter = Exporter::default();
    exporter.request("/register", 200, Some(Duration::from_millis(1)));
    exporter.request("/register", 400, Some(Duration::from_micros(250)));
    exporter.request("/members", 200, None);
    exporter.request("other", 404, Some(Duration::from_micros(250)));
    exporter.store_operation("register", Duration::from_micros(250));
    exporter.store_operation("register", Duration::from_secs(8));
    exporter.store_up(true);
    exporter.expired(2);
    exporter.unusable(1);
    let _waiting = exporter.waiting();

    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/registry-metrics.txt");
    let found = masked(&exporter.text(Some(&view)));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(golden, &found).unwrap();
    }
    assert_eq!(std::fs::read_to_string(golden).unwrap(), found, "{golden}");

    let away = exporter.text(None);
    assert!(!away.contains("eu1-k8s"), "the members of a roster that is not known are not shown");
}
