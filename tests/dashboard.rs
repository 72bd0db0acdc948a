//! Holds what makes the Grafana dashboard and its provisioning fit to be shipped: no panel over another, each with a title, a
//! unit and words on what to do, no metric that netring has not, no data source but the chosen one.
//!
//! Each rule is a function from the dashboard to its faults, and is shown here to be able to fail. That the queries have
//! answers is for `sys_dashboard` to see.

pub mod support;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use support::dashboard::{Dashboard, Kind, Query, SHIPPED, filled, label_values, list, text};

/// The width of Grafana's grid.
const COLUMNS: u64 = 24;

/// What Prometheus itself adds.
const OF_PROMETHEUS: [&str; 2] = ["up", "ALERTS"];

/// What Grafana puts in by itself.
const OF_GRAFANA: [&str; 3] = ["__range", "__rate_interval", "__interval"];

fn ids_are_unique(dashboard: &Dashboard) -> Vec<String> {
    let rows = dashboard.page().into_iter().filter(|panel| panel["type"] == "row");
    let mut owners: BTreeMap<u64, &str> = BTreeMap::new();
    let mut faults = Vec::new();
    for panel in rows.chain(dashboard.panels()) {
        let title = text(&panel["title"]);
        match panel["id"].as_u64() {
            Some(id) if id > 0 => {
                if let Some(other) = owners.insert(id, title) {
                    faults.push(format!("{title}: the id {id} is that of {other}"));
                }
            }
            _ => faults.push(format!("{title}: no id")),
        }
    }
    for panel in dashboard.panels() {
        let ids: BTreeSet<&str> = list(&panel["targets"]).iter().map(|target| text(&target["refId"])).collect();
        if ids.len() != list(&panel["targets"]).len() || ids.contains("") {
            faults.push(format!("{}: each query has a refId of its own", text(&panel["title"])));
        }
    }
    faults
}

/// Left, top, right and bottom.
fn place(panel: &Value) -> Option<[u64; 4]> {
    let [x, y, w, h] = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64());
    let (x, y, w, h) = (x?, y?, w?, h?);
    (w > 0 && h > 0).then_some([x, y, x + w, y + h])
}

/// The faults of panels that are seen together: those of the page, or those of one closed row.
fn misplaced(together: &[&Value]) -> Vec<String> {
    let mut faults = Vec::new();
    for (index, panel) in together.iter().enumerate() {
        let title = text(&panel["title"]);
        let Some([left, top, right, bottom]) = place(panel) else {
            faults.push(format!("{title}: no place"));
            continue;
        };
        if right > COLUMNS {
            faults.push(format!("{title}: sticks out at the right"));
        }
        for other in &together[..index] {
            let Some([l, t, r, b]) = place(other) else { continue };
            if left < r && l < right && top < b && t < bottom {
                faults.push(format!("{title}: lies over {}", text(&other["title"])));
            }
        }
    }
    faults
}

fn nothing_overlaps(dashboard: &Dashboard) -> Vec<String> {
    let page = dashboard.page();
    let rows = page.iter().filter(|panel| panel["type"] == "row").map(|row| list(&row["panels"]));
    std::iter::once(page.clone()).chain(rows).flat_map(|together| misplaced(&together)).collect()
}

fn panels_explain_themselves(dashboard: &Dashboard) -> Vec<String> {
    let mut faults = Vec::new();
    for panel in dashboard.panels() {
        let title = text(&panel["title"]);
        let mut wants = |holds: bool, what: &str| {
            if !holds {
                faults.push(format!("{title}: {what}"));
            }
        };
        wants(!title.is_empty(), "no title");
        wants(text(&panel["description"]).len() > 40, "no description of what it shows and what to do");
        wants(!text(&panel["fieldConfig"]["defaults"]["unit"]).is_empty(), "no unit");
        wants(!list(&panel["targets"]).is_empty(), "no query");
        let history = ["timeseries", "state-timeline"].contains(&text(&panel["type"]));
        for target in list(&panel["targets"]) {
            wants(
                history == (target["range"] == true),
                "a graph asks for a range, a table and a figure for this moment",
            );
            wants(target["range"] != target["instant"], "either a range or this moment");
            let tabular = panel["type"] == "table";
            wants(tabular == (target["format"] == "table"), "a table, and nothing else, has the format table");
        }
    }
    let variables = dashboard.variables().into_iter().filter(|variable| text(&variable["description"]).is_empty());
    faults.extend(variables.map(|variable| format!("${}: no description", text(&variable["name"]))));
    faults
}

/// What a panel sets for one column, or sorts by, is a column it has.
fn columns_exist(dashboard: &Dashboard) -> Vec<String> {
    let mut faults = Vec::new();
    for panel in dashboard.panels() {
        let mut columns = BTreeSet::new();
        for options in list(&panel["transformations"]).into_iter().map(|step| &step["options"]) {
            let renamed = options["renameByName"].as_object().into_iter().flat_map(|names| names.values());
            columns.extend(renamed.map(|name| text(name).to_owned()));
            let (row, column) = (text(&options["rowField"]), text(&options["columnField"]));
            columns.extend((!row.is_empty()).then(|| format!("{row}\\{column}"))); // So Grafana names it.
        }
        let matchers = list(&panel["fieldConfig"]["overrides"]).into_iter().map(|set| &set["matcher"]["options"]);
        let sorted = list(&panel["options"]["sortBy"]).into_iter().map(|by| &by["displayName"]);
        let missing = matchers.chain(sorted).map(text).filter(|name| !columns.contains(*name));
        faults.extend(missing.map(|name| format!("{}: there is no column {name}", text(&panel["title"]))));
    }
    faults
}

/// Every data source named in it, wherever that stands.
fn sources<'a>(value: &'a Value, found: &mut Vec<&'a Value>) {
    match value {
        Value::Object(object) => {
            found.extend(object.get("datasource"));
            object.values().for_each(|value| sources(value, found));
        }
        Value::Array(array) => array.iter().for_each(|value| sources(value, found)),
        _ => {}
    }
}

fn the_data_source_is_chosen(dashboard: &Dashboard) -> Vec<String> {
    let mut found = Vec::new();
    sources(&dashboard.0, &mut found);
    let known = [
        json!({"type": "prometheus", "uid": "${datasource}"}),
        json!({"type": "grafana", "uid": "-- Grafana --"}), // Grafana's own annotations.
    ];
    let mut faults: Vec<String> =
        found.into_iter().filter(|source| !known.contains(source)).map(|source| format!("fixed: {source}")).collect();
    for (place, value) in dashboard.panels().into_iter().flat_map(|panel| {
        let targets = list(&panel["targets"]).into_iter();
        std::iter::once(panel).chain(targets).map(|value| (text(&panel["title"]), value))
    }) {
        if value["datasource"].is_null() {
            faults.push(format!("{place}: no data source"));
        }
    }
    faults
}

/// Every family that a registry or a member exports, with what a histogram makes of its name.
fn families() -> BTreeSet<String> {
    let pages = [include_str!("golden/member-metrics.txt"), include_str!("golden/registry-metrics.txt")];
    let types = pages.iter().flat_map(|page| page.lines()).filter_map(|line| line.strip_prefix("# TYPE "));
    let mut names: BTreeSet<String> = OF_PROMETHEUS.map(str::to_owned).into();
    for (name, kind) in types.filter_map(|line| line.split_once(' ')) {
        let ends: &[&str] = if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
        names.extend(ends.iter().map(|end| format!("{name}{end}")));
    }
    names
}

/// The words of an expression that can only be names of metrics; texts in quotes are left out.
fn metrics(expression: &str) -> Vec<&str> {
    let code = expression.split('"').step_by(2);
    let words = code.flat_map(|part| part.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'));
    let prefixed = |word: &&str| word.starts_with("netring_") || word.starts_with("process_") || *word == "ALERTS";
    words.filter(prefixed).collect()
}

fn metrics_exist(dashboard: &Dashboard) -> Vec<String> {
    let families = families();
    let mut faults = Vec::new();
    let mut check = |place: &str, expression: &str| {
        let named = metrics(expression);
        if named.is_empty() && !expression.contains("__name__=~\"netring_") && !expression.contains("up{") {
            faults.push(format!("{place}: names no metric"));
        }
        let unknown = named.into_iter().filter(|name| !families.contains(*name));
        faults.extend(unknown.map(|name| format!("{place}: there is no {name}")));
    };
    for Query { place, expression, .. } in dashboard.queries() {
        check(&place, &expression);
    }
    for variable in dashboard.variables().into_iter().filter(|variable| variable["type"] == "query") {
        check(text(&variable["name"]), text(&variable["query"]["query"]));
    }
    faults
}

fn variables_are_sound(dashboard: &Dashboard) -> Vec<String> {
    let mut faults = Vec::new();
    let mut known: BTreeMap<String, String> = OF_GRAFANA.map(|name| (name.to_owned(), "1m".to_owned())).into();
    for variable in dashboard.variables() {
        let name = text(&variable["name"]);
        if variable["type"] == "query" {
            let query = text(&variable["query"]["query"]);
            if label_values(query).is_none() || variable["definition"] != query {
                faults.push(format!("${name}: not one query of the form label_values(series, label)"));
            }
            if let Err(fault) = filled(query, &known) {
                faults.push(format!("${name}: {fault} above it"));
            }
            if variable["multi"] != true || variable["includeAll"] != true {
                faults.push(format!("${name}: several, or all, can be chosen"));
            }
        }
        let _ = known.insert(name.to_owned(), "x".to_owned());
    }
    let wanted = ["datasource", "source", "target", "check_type"];
    let missing = wanted.iter().filter(|name| !known.contains_key(**name));
    faults.extend(missing.map(|name| format!("${name} is missing")));
    for query in dashboard.queries() {
        if let Err(fault) = filled(&query.expression, &known) {
            faults.push(format!("{}: {fault}", query.place));
        }
    }
    faults
}

type Rule = fn(&Dashboard) -> Vec<String>;

const RULES: [Rule; 7] = [
    ids_are_unique,
    nothing_overlaps,
    panels_explain_themselves,
    columns_exist,
    the_data_source_is_chosen,
    metrics_exist,
    variables_are_sound,
];

#[test]
fn the_dashboard_is_sound() {
    let dashboard = Dashboard::parse(SHIPPED);
    assert_eq!(dashboard.0["uid"], "netring", "links to the dashboard go by its uid");
    assert_eq!(dashboard.0["id"], Value::Null, "an id of its own would lie over another dashboard");
    let closed = dashboard.page().iter().filter(|panel| panel["collapsed"] == true).count();
    assert!(closed > 0 && dashboard.queries().len() > 50, "closed rows are read too: {closed}");
    let faults: Vec<String> = RULES.iter().flat_map(|rule| rule(&dashboard)).collect();
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn each_rule_can_fail() {
    // The first panel behind the first row, and the first panel of the last row, which is closed.
    let closed = format!("/panels/{}/panels", Dashboard::parse(SHIPPED).page().len() - 1);
    let cases: [(Rule, &str, Value, usize); 22] = [
        (ids_are_unique, "/panels/1/id", json!(2), 1),
        (ids_are_unique, &format!("{closed}/0/id"), json!(1), 1),
        (ids_are_unique, "/panels/1/id", json!(null), 1),
        (ids_are_unique, &format!("{closed}/0/targets/0/refId"), json!(""), 1),
        (nothing_overlaps, "/panels/1/gridPos/w", json!(4), 1),
        (nothing_overlaps, "/panels/1/gridPos/h", json!(5), 1),
        (nothing_overlaps, "/panels/8/gridPos/w", json!(4), 1),
        (nothing_overlaps, &format!("{closed}/1/gridPos/x"), json!(0), 1),
        (nothing_overlaps, "/panels/1/gridPos", json!(null), 1),
        (panels_explain_themselves, &format!("{closed}/0/description"), json!("Load."), 1),
        (panels_explain_themselves, "/panels/1/fieldConfig/defaults/unit", json!(""), 1),
        (panels_explain_themselves, &format!("{closed}/0/targets/0/range"), json!(false), 2),
        (panels_explain_themselves, "/templating/list/1/description", json!(""), 1),
        (columns_exist, "/panels/10/fieldConfig/overrides/0/matcher/options", json!("from"), 1),
        (columns_exist, "/panels/11/transformations/0/options/renameByName/Value", json!("Up"), 1),
        (columns_exist, "/panels/11/options/sortBy/0/displayName", json!("source_location"), 1),
        (the_data_source_is_chosen, &format!("{closed}/0/targets/0/datasource/uid"), json!("P1809F7CD0C75ACF3"), 1),
        (the_data_source_is_chosen, "/panels/1/datasource", json!(null), 2),
        (metrics_exist, &format!("{closed}/0/targets/0/expr"), json!("rate(process_cpu_second_total[5m])"), 1),
        (metrics_exist, "/templating/list/1/query/query", json!("label_values(netring_rtt, source_location)"), 1),
        (variables_are_sound, "/panels/1/targets/0/expr", json!("netring_rtt_seconds{x=\"$sauce\"}"), 1),
        (variables_are_sound, "/templating/list/1/multi", json!(false), 1),
    ];
    for (rule, pointer, value, count) in cases {
        let mut dashboard = Dashboard::parse(SHIPPED);
        *dashboard.0.pointer_mut(pointer).unwrap_or_else(|| panic!("nothing at {pointer}")) = value;
        let faults = rule(&dashboard);
        assert_eq!(faults.len(), count, "{pointer}: {faults:?}");
    }
}

#[test]
fn what_a_query_asks_is_read_as_grafana_reads_it() {
    let choice = [("a", "x|y"), ("__range", "6h")].map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    assert_eq!(filled("f(m{l=~\"$a\"}[$__range], \"$1\")", &choice), Ok("f(m{l=~\"x|y\"}[6h], \"$1\")".to_owned()));
    assert_eq!(filled("m{l=~\"$b\"}", &choice), Err("no variable $b".to_owned()));
    assert_eq!(label_values("label_values(m{a=\"1\", b=\"2\"}, c)"), Some(("m{a=\"1\", b=\"2\"}", "c")));
    let dashboard = Dashboard::parse(SHIPPED);
    let labels = |place: &str| {
        let query = dashboard.queries().into_iter().find(|query| query.place == place).expect("it is there");
        (query.kind, query.labels.into_iter().collect::<Vec<_>>().join(" "))
    };
    assert_eq!(labels("Who reaches whom/A"), (Kind::Instant, "source_location target_location".to_owned()));
    assert_eq!(labels("Why checks failed/A"), (Kind::Instant, "check_type instance reason target_location".to_owned()));
    assert_eq!(labels("Requests/A"), (Kind::Range, "route status".to_owned()));
}

#[test]
fn grafana_is_provisioned_with_what_is_shipped() {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Sources {
        api_version: u8,
        datasources: Vec<Source>,
    }
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Source {
        #[serde(rename = "type")]
        kind: String,
        url: String,
        is_default: bool,
        json_data: BTreeMap<String, String>,
    }
    let sources: Sources =
        serde_yaml::from_str(include_str!("../config/grafana/provisioning/datasources/netring.yml")).expect("valid");
    let [source] = sources.datasources.as_slice() else { panic!("one data source") };
    assert_eq!((sources.api_version, source.kind.as_str(), source.is_default), (1, "prometheus", true));
    assert_eq!(source.url, "http://prometheus:9090");
    // Grafana sizes the window of a rate by it: too short, and every rate is empty.
    let interval = format!("scrape_interval: {}\n", source.json_data["timeInterval"]);
    let scrapes = include_str!("../config/prometheus.yml");
    assert_eq!(scrapes.matches("scrape_interval: ").count(), scrapes.matches(&interval).count(), "{interval}");

    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Providers {
        api_version: u8,
        providers: Vec<Provider>,
    }
    #[derive(serde::Deserialize)]
    struct Provider {
        #[serde(rename = "type")]
        kind: String,
        options: BTreeMap<String, String>,
    }
    let providers: Providers =
        serde_yaml::from_str(include_str!("../config/grafana/provisioning/dashboards/netring.yml")).expect("valid");
    let [provider] = providers.providers.as_slice() else { panic!("one provider") };
    assert_eq!((providers.api_version, provider.kind.as_str()), (1, "file"));
    assert_eq!(provider.options["path"], "/var/lib/grafana/dashboards");
}

#[test]
fn every_alert_leads_to_the_dashboard() {
    #[derive(serde::Deserialize)]
    struct Rules {
        groups: Vec<Group>,
    }
    #[derive(serde::Deserialize)]
    struct Group {
        rules: Vec<Alert>,
    }
    #[derive(serde::Deserialize)]
    struct Alert {
        alert: String,
        annotations: BTreeMap<String, String>,
    }
    let dashboard = Dashboard::parse(SHIPPED);
    let page = format!("/d/{}", text(&dashboard.0["uid"]));
    let variables: Vec<&str> = dashboard.variables().iter().map(|variable| text(&variable["name"])).collect();
    let rules: Rules = serde_yaml::from_str(include_str!("../config/alerts.yml")).expect("the alerts are valid");
    let alerts: Vec<Alert> = rules.groups.into_iter().flat_map(|group| group.rules).collect();
    assert!(alerts.len() > 10);
    for Alert { alert, annotations } in alerts {
        let (path, choice) = annotations["dashboard"].split_once('?').unwrap_or((&annotations["dashboard"], ""));
        assert_eq!(path, page, "{alert}");
        for (name, value) in choice.split('&').filter_map(|part| part.split_once('=')) {
            let variable = name.strip_prefix("var-").expect(name);
            assert!(variables.contains(&variable), "{alert}: ${variable}");
            assert!(value.ends_with(" | urlquery }}"), "{alert}: a label can hold any sign: {value}");
        }
        assert!(annotations["description"].len() > 80, "{alert} says what to do");
    }
}
