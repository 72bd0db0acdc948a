//! A real Prometheus of the test's own, which scrapes and evaluates once a second.

use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::daemon::Ring;
use super::metrics::Labels;
use super::process::Process;
use super::{SOON, Scratch, eventually, http, installed, socket};

/// The rules as they are shipped, with every hold time cut to a second.
#[must_use]
pub fn hasty_rules() -> String {
    let rules = include_str!("../../config/alerts.yml");
    let hold = |line: &str| if line.trim_start().starts_with("for: ") { "    for: 1s".into() } else { line.to_owned() };
    rules.lines().map(hold).collect::<Vec<_>>().join("\n")
}

/// The jobs of the quick start, with these targets.
#[must_use]
pub fn static_jobs(ring: &Ring) -> String {
    let targets: Vec<String> = ring.members.iter().map(|member| format!("'{}'", member.server)).collect();
    format!(
        "  - {{job_name: netring, metrics_path: /metrics, static_configs: [{{targets: [{}]}}]}}\n  \
         - {{job_name: netring-registry, static_configs: [{{targets: ['{}']}}]}}\n",
        targets.join(", "),
        ring.registry.server
    )
}

/// A running server.
#[derive(Debug)]
pub struct Prometheus {
    process: Process,
    /// Where it listens.
    pub server: SocketAddr,
    scratch: Scratch,
}

impl Prometheus {
    /// Starts one with these scrape jobs (the list under `scrape_configs`, as YAML) and these rules; `None`, with the skip
    /// said, where Prometheus is not installed.
    #[must_use]
    pub fn start(jobs: &str, rules: &str) -> Option<Self> {
        if !installed(&["prometheus"]) {
            return None;
        }
        let (server, scratch) = (socket(), Scratch::new());
        let _ = scratch.file("rules.yml", rules);
        let config = scratch.file("prometheus.yml", &configuration(jobs));
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", scratch.path().join("data").display()))
            .arg(format!("--web.listen-address={server}"))
            .args(["--log.level=warn", "--query.lookback-delta=10s"]);
        let process = Process::start(&mut command, &scratch, "prometheus");
        let prometheus = Self { process, server, scratch };
        eventually(SOON, "Prometheus is ready", || match http::get(server, "/-/ready") {
            Ok(answer) if answer.status == 200 => Ok(()),
            other => Err(format!("{other:?}\nits log:\n{}", prometheus.process.log())),
        });
        Some(prometheus)
    }

    /// Takes up other scrape jobs.
    pub fn reload(&self, jobs: &str) {
        let _ = self.scratch.file("prometheus.yml", &configuration(jobs));
        self.process.signal(libc::SIGHUP);
    }

    /// What an expression gives at this moment: each series' labels and value.
    ///
    /// # Panics
    ///
    /// Where Prometheus does not take the expression.
    #[must_use]
    #[track_caller]
    pub fn query(&self, expression: &str) -> Vec<(Labels, f64)> {
        let data = self.api(&format!("/api/v1/query?query={}", percent_encoded(expression)));
        let series = data["result"].as_array().expect("an instant query gives a list");
        series.iter().map(|series| (labels(&series["metric"]), number(&series["value"]))).collect()
    }

    /// What an expression gives at each second of the last `seconds`: each series' labels and values.
    ///
    /// # Panics
    ///
    /// Where Prometheus does not take the expression.
    #[must_use]
    #[track_caller]
    pub fn query_range(&self, expression: &str, seconds: u32) -> Vec<(Labels, Vec<f64>)> {
        let now = self.query("vector(time())")[0].1;
        let start = now - f64::from(seconds);
        let query = percent_encoded(expression);
        let data = self.api(&format!("/api/v1/query_range?query={query}&start={start}&end={now}&step=1"));
        let series = data["result"].as_array().expect("a range query gives a list");
        series
            .iter()
            .map(|series| {
                let values = series["values"].as_array().expect("a series has values");
                (labels(&series["metric"]), values.iter().map(number).collect())
            })
            .collect()
    }

    /// The values that a label has on these series.
    ///
    /// # Panics
    ///
    /// Where Prometheus does not take the selector.
    #[must_use]
    #[track_caller]
    pub fn label_values(&self, selector: &str, label: &str) -> Vec<String> {
        let data = self.api(&format!("/api/v1/label/{label}/values?match[]={}", percent_encoded(selector)));
        let values = data.as_array().expect("the values are a list");
        values.iter().map(|value| value.as_str().expect("a value is a text").to_owned()).collect()
    }

    /// The labels of the alerts that fire at this moment.
    #[must_use]
    #[track_caller]
    pub fn firing(&self, alert: &str) -> Vec<Labels> {
        let data = self.api("/api/v1/alerts");
        let alerts = data["alerts"].as_array().expect("the alerts are a list");
        alerts
            .iter()
            .filter(|a| a["state"] == "firing" && a["labels"]["alertname"] == alert)
            .map(|a| labels(&a["labels"]))
            .collect()
    }

    #[track_caller]
    fn api(&self, path: &str) -> Value {
        let answer = http::get(self.server, path).unwrap_or_else(|e| panic!("{e}\n{}", self.process.log()));
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.json()["data"].take()
    }
}

fn configuration(jobs: &str) -> String {
    format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}\n\
         rule_files: [rules.yml]\nscrape_configs:\n{jobs}"
    )
}

/// The second of a pair of time and value.
fn number(sample: &Value) -> f64 {
    sample[1].as_str().and_then(|text| text.parse().ok()).expect("a value is a number in a text")
}

fn labels(object: &Value) -> Labels {
    let pairs = object.as_object().expect("labels are an object");
    pairs.iter().map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned())).collect()
}

fn percent_encoded(text: &str) -> String {
    text.bytes()
        .map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect()
}

/// Hands an exposition to `promtool check metrics` and fails the test where it finds fault with any family but those
/// named. Says nothing where promtool is not installed.
///
/// # Panics
///
/// Where it finds fault.
#[track_caller]
pub fn lint(exposition: &str, except: &[&str]) {
    if !installed(&["promtool"]) {
        return;
    }
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool starts");
    let written = child.stdin.take().map(|mut input| input.write_all(exposition.as_bytes()));
    assert!(matches!(written, Some(Ok(()))), "promtool reads what it is given");
    let output = child.wait_with_output().expect("promtool ends");
    let said = [output.stdout, output.stderr].concat();
    let faults: Vec<String> = String::from_utf8_lossy(&said)
        .lines()
        .filter(|line| !except.iter().any(|family| line.starts_with(&format!("{family} "))))
        .map(str::to_owned)
        .collect();
    assert!(faults.is_empty(), "promtool check metrics: {faults:#?}");
}
