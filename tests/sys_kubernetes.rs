//! The manifests of Kubernetes: valid for two of its releases, held together by their names, and played by podman into a
//! ring that sees what happens to it.
//!
//! No cluster is at hand: what a Service, a NetworkPolicy or a PodDisruptionBudget does there is not seen here. podman takes
//! the name of a container for that of its Service.

pub mod support;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use support::podman::{Machine, PORT, VERSION, cache, repository_file};
use support::{SOON, Scratch, eventually, holds, skip};

/// The releases of Kubernetes that the manifests are held against: an older one that is still in use, and the newest.
const RELEASES: [&str; 2] = ["1.34.0", "1.37.0"];

/// The four files of the quick start, in their order.
const FILES: [&str; 4] = ["namespace", "redis-deployment", "registry-deployment", "member-deployment"];

fn manifest(name: &str) -> String {
    repository_file(&format!("packaging/kubernetes/{name}.yaml"))
}

fn objects(yaml: &str) -> Vec<Value> {
    serde_yaml::from_multiple(yaml).unwrap_or_else(|e| panic!("{e}\n{yaml}"))
}

/// Every object that can be made of the manifests: an overlay as it stands, or with all its components taken in.
struct Variants {
    scratch: Scratch,
    kubectl: PathBuf,
}

impl Variants {
    /// `None`, with the skip said, where there is no kubectl.
    fn new() -> Option<Self> {
        let of_the_machine = cache().join("podman/layer/usr/bin/kubectl");
        let kubectl = [PathBuf::from("/usr/bin/kubectl"), of_the_machine].into_iter().find(|path| path.exists());
        let Some(kubectl) = kubectl else {
            skip("there is no kubectl: `tests/support/podman prepare` gets one");
            return None;
        };
        let scratch = Scratch::new();
        let copy = Command::new("cp").args(["-r", "packaging/kubernetes"]).arg(scratch.path().join("k")).status();
        assert!(copy.expect("cp can be run").success());
        Some(Self { scratch, kubectl })
    }

    fn overlay(&self, name: &str) -> String {
        self.build(&format!("overlays/{name}"))
    }

    /// The overlay after the "#" before its components was taken away.
    fn overlay_with_components(&self, name: &str) -> String {
        let path = self.scratch.path().join("k/overlays").join(name).join("kustomization.yaml");
        let text = std::fs::read_to_string(&path).expect("an overlay can be read");
        let lines = text.lines().map(|line| {
            let is_one = ["# components:", "# - ../../components/"].iter().any(|start| line.starts_with(start));
            if is_one { &line[2..] } else { line }
        });
        let taken_in = lines.collect::<Vec<_>>().join("\n");
        assert_eq!(taken_in.matches("\n- ../../components/").count(), 3, "{taken_in}");
        std::fs::write(&path, taken_in).expect("a copy can be written");
        let built = self.build(&format!("overlays/{name}"));
        std::fs::write(&path, text).expect("a copy can be written");
        built
    }

    fn build(&self, directory: &str) -> String {
        let output =
            Command::new(&self.kubectl).arg("kustomize").arg(self.scratch.path().join("k").join(directory)).output();
        let output = output.expect("kubectl can be run");
        assert!(output.status.success(), "{directory}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("kubectl prints text")
    }

    fn all(&self) -> Vec<(String, String)> {
        let overlays = ["primary", "site"];
        let plain = overlays.map(|name| (name.to_owned(), self.overlay(name)));
        let full = overlays.map(|name| (format!("{name} with components"), self.overlay_with_components(name)));
        plain.into_iter().chain(full).collect()
    }
}

/// What the validator says about a file, line by line, and whether it takes it.
fn validate(validator: &Path, release: &str, file: &Path) -> (bool, Vec<String>) {
    let mut command = Command::new("python3");
    command
        .env("PYTHONPATH", validator)
        .args(["-m", "kubernetes_validate", "--strict", "--kubernetes-version", release])
        .arg(file);
    let output = command.stdin(Stdio::null()).output().expect("the validator can be run");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).lines().map(str::to_owned).collect())
}

#[test]
fn every_object_is_valid_for_two_releases_of_kubernetes() {
    let validator = cache().join("kubernetes-validate");
    if !validator.exists() {
        skip("the validator of Kubernetes objects is missing: `tests/support/podman prepare` gets it");
        return;
    }
    let Some(variants) = Variants::new() else { return };
    let scratch = Scratch::new();
    let mut texts: Vec<(String, String)> = FILES.iter().map(|name| ((*name).to_owned(), manifest(name))).collect();
    texts.extend(variants.all());
    for release in RELEASES {
        for (name, text) in &texts {
            let file = scratch.file("objects.yaml", text);
            let (valid, said) = validate(&validator, release, &file);
            assert!(valid, "{name} for {release}: {said:#?}");
            let passed = said.iter().filter(|line| line.contains(" passed for resource ")).count();
            // The objects of the Prometheus operator are none of Kubernetes's own.
            let foreign = said.iter().filter(|line| line.contains("find schema for kind ServiceMonitor")).count();
            assert_eq!(passed + foreign, objects(text).len(), "{name} for {release}: {said:#?}");
            assert_eq!(said.len(), passed + foreign, "{name} for {release}: {said:#?}");
        }
        let wrong = manifest("member-deployment").replace("readOnlyRootFilesystem", "readOnlyRootFileSystem");
        let (valid, said) = validate(&validator, release, &scratch.file("wrong.yaml", &wrong));
        assert!(!valid, "a misspelt key is refused: {said:#?}");
    }
}

/// The names of the objects of a kind.
fn names(objects: &[Value], kind: &str) -> Vec<String> {
    let of_kind = objects.iter().filter(|object| object["kind"] == kind);
    let mut names: Vec<String> =
        of_kind.map(|object| object["metadata"]["name"].as_str().expect("an object has a name").to_owned()).collect();
    names.sort();
    names
}

#[test]
fn each_kind_of_site_has_what_it_needs_and_no_more() {
    let Some(variants) = Variants::new() else { return };
    let all = variants.all();
    let named = |variant: &str| objects(&all.iter().find(|(name, _)| name == variant).expect("it was built").1);

    let primary = named("primary");
    assert_eq!(names(&primary, "Deployment"), ["netring-member", "netring-registry", "redis"]);
    let registry = primary.iter().find(|o| o["kind"] == "Service" && o["metadata"]["name"] == "netring-registry");
    assert_eq!(registry.unwrap()["spec"]["type"], "LoadBalancer");

    let site = named("site");
    assert_eq!(names(&site, "Deployment"), ["netring-member"]);
    let settings = &site.iter().find(|object| object["kind"] == "ConfigMap").unwrap()["data"];
    assert_eq!(settings["MEMBER_LOCATION"], "eu1-k8s");
    assert_eq!(settings["REGISTRY_URL"], "http://registry.us1.company.com:8756");

    for (variant, deployments) in
        [("primary with components", vec!["netring-registry", "redis"]), ("site with components", vec![])]
    {
        let objects = named(variant);
        assert_eq!(names(&objects, "Deployment"), deployments);
        assert_eq!(names(&objects, "DaemonSet"), ["netring-member"]);
        assert_eq!(names(&objects, "ServiceMonitor"), ["netring-member", "netring-registry"]);
        let spec = &objects.iter().find(|object| object["kind"] == "DaemonSet").unwrap()["spec"];
        assert_eq!((&spec["replicas"], &spec["strategy"]), (&Value::Null, &Value::Null));
        let container = &spec["template"]["spec"]["containers"][0];
        assert_eq!(container["ports"][0]["hostPort"], PORT);
        assert_eq!(container["env"][0]["valueFrom"]["fieldRef"]["fieldPath"], "status.hostIP");
    }

    // The four files are what the overlays are made of.
    for file in FILES {
        let path = Path::new("packaging/kubernetes").join(file).with_extension("yaml");
        let made_of: BTreeSet<PathBuf> = ["base", "registry"]
            .map(|part| Path::new("packaging/kubernetes").join(part).join(file).with_extension("yaml"))
            .into_iter()
            .filter(|path| path.exists())
            .map(|path| path.canonicalize().unwrap())
            .collect();
        assert_eq!(made_of, BTreeSet::from([path.canonicalize().unwrap()]));
    }
}

fn workloads(objects: &[Value]) -> impl Iterator<Item = &Value> {
    objects.iter().filter(|object| ["Deployment", "DaemonSet"].iter().any(|kind| object["kind"] == *kind))
}

/// Whether labels have all that a selector wants.
fn selects(selector: &Value, labels: &Value) -> bool {
    let wanted = selector.as_object().unwrap_or_else(|| panic!("no selector: {selector}"));
    !wanted.is_empty() && wanted.iter().all(|(name, value)| labels[name] == *value)
}

fn list(values: &Value) -> impl Iterator<Item = &Value> {
    values.as_array().into_iter().flatten()
}

/// Whether rules of a `NetworkPolicy` let pods with these labels through on a port.
fn lets_through(rules: &Value, end: &str, labels: &Value, (port, protocol): (&Value, &str)) -> bool {
    let is_it = |of: &Value| of["port"] == *port && of["protocol"].as_str().unwrap_or("TCP") == protocol;
    list(rules).any(|rule| {
        let any_peer = rule[end].is_null();
        (any_peer || list(&rule[end]).any(|peer| selects(&peer["podSelector"]["matchLabels"], labels)))
            && (rule["ports"].is_null() || list(&rule["ports"]).any(is_it))
    })
}

/// The Services that the variables of a workload name.
fn called<'a>(objects: &'a [Value], workload: &Value) -> Vec<&'a Value> {
    let container = &workload["spec"]["template"]["spec"]["containers"][0];
    let mut texts: Vec<&str> = list(&container["env"]).filter_map(|variable| variable["value"].as_str()).collect();
    for from in list(&container["envFrom"]) {
        let is_it = |o: &&Value| o["kind"] == "ConfigMap" && o["metadata"]["name"] == from["configMapRef"]["name"];
        let settings = objects.iter().find(is_it).and_then(|settings| settings["data"].as_object());
        texts.extend(settings.into_iter().flatten().filter_map(|(_, value)| value.as_str()));
    }
    let words: BTreeSet<&str> =
        texts.iter().flat_map(|text| text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-')).collect();
    let services = objects.iter().filter(|object| object["kind"] == "Service");
    services.filter(|service| words.contains(service["metadata"]["name"].as_str().expect("it has a name"))).collect()
}

#[test]
fn network_policies_leave_open_what_each_workload_calls_and_the_name_service() {
    let Some(variants) = Variants::new() else { return };
    for (variant, text) in variants.all() {
        let objects = objects(&text);
        let mut calls = BTreeSet::new();
        for workload in workloads(&objects) {
            let labels = |of: &Value| of["spec"]["template"]["metadata"]["labels"].clone();
            let policy_of = |of: &Value| {
                let labels = labels(of);
                let mut policies = objects.iter().filter(|object| object["kind"] == "NetworkPolicy");
                let policy = policies.find(|policy| selects(&policy["spec"]["podSelector"]["matchLabels"], &labels));
                &policy.unwrap_or_else(|| panic!("{variant}: no policy for {labels}"))["spec"]
            };
            let out = policy_of(workload);
            assert_eq!(out["policyTypes"], serde_json::json!(["Ingress", "Egress"]), "{variant}");
            for service in called(&objects, workload) {
                let (from, to) = (&workload["metadata"]["name"], &service["metadata"]["name"]);
                let what = format!("{variant}: {from} calls {to}");
                let target = workloads(&objects).find(|w| selects(&service["spec"]["selector"], &labels(w)));
                let target = target.unwrap_or_else(|| panic!("{what}: it leads nowhere"));
                let port = (&service["spec"]["ports"][0]["targetPort"], "TCP");
                assert!(lets_through(&out["egress"], "to", &labels(target), port), "{what}: it does not get out");
                let into = policy_of(target);
                assert!(lets_through(&into["ingress"], "from", &labels(workload), port), "{what}: it does not get in");
                for protocol in ["UDP", "TCP"] {
                    let dns = (&Value::from(53), protocol);
                    assert!(
                        lets_through(&out["egress"], "to", &Value::Null, dns),
                        "{what}: no name service, {protocol}"
                    );
                }
                let _ = calls.insert(format!("{} {}", from.as_str().unwrap(), to.as_str().unwrap()));
            }
        }
        let expected: &[&str] = if variant.starts_with("site") {
            &[]
        } else {
            &["netring-member netring-registry", "netring-registry redis"]
        };
        assert!(calls.iter().eq(expected), "{variant}: {calls:?}");
    }
}

/// Whether a workload has a port of this name.
fn has_port(workload: &Value, name: &Value) -> bool {
    let ports = workload["spec"]["template"]["spec"]["containers"][0]["ports"].as_array();
    ports.is_some_and(|ports| ports.iter().any(|port| port["name"] == *name))
}

#[test]
fn selectors_ports_and_names_lead_somewhere() {
    let Some(variants) = Variants::new() else { return };
    for (variant, text) in variants.all() {
        let objects = objects(&text);
        let selected = |selector: &Value| -> Vec<&Value> {
            workloads(&objects).filter(|w| selects(selector, &w["spec"]["template"]["metadata"]["labels"])).collect()
        };
        for object in &objects {
            let what = format!("{variant}: {} {}", object["kind"], object["metadata"]["name"]);
            assert!(object["kind"] == "Namespace" || object["metadata"]["namespace"] == "netring", "{what}");
            let spec = &object["spec"];
            match object["kind"].as_str().unwrap() {
                "Service" => {
                    let [workload] = selected(&spec["selector"])[..] else { panic!("{what} selects not one workload") };
                    assert_eq!(workload["metadata"]["name"], object["metadata"]["name"], "{what}");
                    assert!(has_port(workload, &spec["ports"][0]["targetPort"]), "{what}");
                }
                "NetworkPolicy" => {
                    let [workload] = selected(&spec["podSelector"]["matchLabels"])[..] else { panic!("{what}") };
                    for (rules, end) in [(&spec["ingress"], "from"), (&spec["egress"], "to")] {
                        for rule in list(rules) {
                            let peers: Vec<&Value> = list(&rule[end])
                                .flat_map(|peer| selected(&peer["podSelector"]["matchLabels"]))
                                .collect();
                            assert_eq!(peers.len(), list(&rule[end]).count(), "{what}: {rule}");
                            let behind = if end == "to" { peers } else { vec![workload] };
                            for port in list(&rule["ports"]).filter(|port| port["port"].is_string()) {
                                let all_have_it = behind.iter().all(|w| has_port(w, &port["port"]));
                                assert!(all_have_it && !behind.is_empty(), "{what}: {rule}");
                            }
                        }
                    }
                }
                "PodDisruptionBudget" => {
                    let [workload] = selected(&spec["selector"]["matchLabels"])[..] else { panic!("{what}") };
                    assert!(spec["minAvailable"].as_u64() < workload["spec"]["replicas"].as_u64(), "{what}");
                }
                "ServiceMonitor" => {
                    let wanted = &spec["selector"]["matchLabels"];
                    let services =
                        objects.iter().filter(|o| o["kind"] == "Service" && selects(wanted, &o["metadata"]["labels"]));
                    let services: Vec<&Value> = services.collect();
                    // The registry is at one site only.
                    let away = variant.starts_with("site") && object["metadata"]["name"] == "netring-registry";
                    assert_eq!(services.len(), usize::from(!away), "{what}");
                    assert!(
                        services.iter().all(|s| s["spec"]["ports"][0]["name"] == spec["endpoints"][0]["port"]),
                        "{what}"
                    );
                }
                _ => {}
            }
        }
        for workload in workloads(&objects) {
            let pod = &workload["spec"]["template"]["spec"];
            let labels = &workload["spec"]["template"]["metadata"]["labels"];
            assert!(selects(&workload["spec"]["selector"]["matchLabels"], labels), "{workload}");
            for from in pod["containers"][0]["envFrom"].as_array().into_iter().flatten() {
                let name = from["configMapRef"]["name"].as_str().unwrap().to_owned();
                assert!(names(&objects, "ConfigMap").contains(&name), "{variant}: no ConfigMap {name}");
            }
        }
    }
}

#[test]
fn every_pod_keeps_to_the_restricted_profile_and_has_probes_and_bounds() {
    let Some(variants) = Variants::new() else { return };
    for variant in ["primary", "site"] {
        let objects = objects(&variants.overlay(variant));
        let namespace = objects.iter().find(|object| object["kind"] == "Namespace").unwrap();
        assert_eq!(namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "restricted");
        for workload in workloads(&objects) {
            let name = &workload["metadata"]["name"];
            let pod = &workload["spec"]["template"]["spec"];
            assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{name}");
            assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault", "{name}");
            assert_eq!(pod["automountServiceAccountToken"], false, "{name}");
            for key in ["hostNetwork", "hostPID", "hostIPC"] {
                assert_eq!(pod[key], Value::Null, "{name}");
            }
            for volume in pod["volumes"].as_array().into_iter().flatten() {
                assert!(volume["emptyDir"].is_object() || volume["secret"]["optional"] == true, "{name}: {volume}");
            }
            let [container] = pod["containers"].as_array().unwrap().as_slice() else { panic!("{name}") };
            let context = &container["securityContext"];
            assert_eq!(context["allowPrivilegeEscalation"], false, "{name}");
            assert_eq!(context["readOnlyRootFilesystem"], true, "{name}");
            assert_eq!(context["capabilities"], serde_json::json!({ "drop": ["ALL"] }), "{name}");
            assert_eq!(container["ports"][0]["hostPort"], Value::Null, "{name}");
            assert!(container["livenessProbe"]["exec"].is_object(), "{name}");
            assert!(container["readinessProbe"].is_object(), "{name}");
            assert_ne!(container["livenessProbe"], container["readinessProbe"], "{name}");
            for bound in [&container["resources"]["requests"]["cpu"], &container["resources"]["limits"]["memory"]] {
                assert!(bound.is_string(), "{name}: {bound}");
            }
            let image = container["image"].as_str().unwrap();
            let own = format!("{}:{VERSION}", name.as_str().unwrap());
            assert!(image == own || image.starts_with("redis:"), "{name}: {image}");
        }
    }
}

/// The members of the ring, each with the address that its pod is given.
const MEMBERS: [(&str, &str); 2] = [("us1", "10.89.7.101"), ("eu1", "10.89.7.102")];

/// The member's file with a site's settings in its ConfigMap, and intervals short enough for a test. Two things are podman's:
/// it does not know the field `status.podIP`, and takes equal names of pods and volumes for the same thing.
fn member_of(location: &str, pod_ip: &str) -> String {
    let text = manifest("member-deployment");
    let field = "          valueFrom:\n            fieldRef:\n              fieldPath: status.podIP\n";
    assert_eq!(text.matches(field).count(), 1, "the address comes by a variable");
    let quick =
        ["CHECK", "POLL", "HEARTBEAT"].map(|what| format!("  NETRING_MEMBER_INTERVALS_{what}_INTERVAL: \"1\"\n"));
    let settings = format!("  MEMBER_LOCATION: {location}\n{}", quick.concat());
    text.replace(field, &format!("          value: {pod_ip}\n"))
        .replace("  MEMBER_LOCATION: us1-k8s\n", &settings)
        .replace("name: netring-member\n", &format!("name: netring-member-{location}\n"))
        .replace("name: member-state\n", &format!("name: member-state-{location}\n"))
}

/// A second replica of the registry, which podman does not make by itself.
fn second_registry() -> String {
    let text = manifest("registry-deployment");
    text.replacen("metadata:\n  name: netring-registry\n", "metadata:\n  name: netring-registry-b\n", 1)
}

const REGISTRIES: [&str; 2] = ["netring-registry-pod-netring-registry", "netring-registry-b-pod-netring-registry"];

fn play(machine: &Machine, file: &str, text: &str, words: &[&str]) {
    std::fs::write(machine.shared().join(file), text).expect("a shared file can be written");
    let file = format!("/shared/{file}");
    machine.run(&[&["podman", "kube", "play", "--network=ring"], words, &[&file]].concat());
}

/// Asks what the readiness probe of a manifest would ask of a container, which podman never does.
///
/// # Errors
///
/// Why the container is not ready.
fn ready(machine: &Machine, manifest: &str, container: &str) -> Result<(), String> {
    let objects = objects(manifest);
    let of =
        &workloads(&objects).next().expect("a manifest has a workload")["spec"]["template"]["spec"]["containers"][0];
    let probe = &of["readinessProbe"];
    if probe["exec"].is_object() {
        let words = list(&probe["exec"]["command"]).map(|word| word.as_str().expect("a command has words"));
        let output = machine.output(&["podman", "exec", container].into_iter().chain(words).collect::<Vec<_>>());
        return holds(output.status.success(), output);
    }
    let port = list(&of["ports"]).find(|port| port["name"] == probe["httpGet"]["port"]).expect("a probe has its port");
    let port = u16::try_from(port["containerPort"].as_u64().expect("a port is a number")).expect("a port is small");
    let path = probe["httpGet"]["path"].as_str().expect("a probe has a path");
    let answer = machine.get(SocketAddr::new(machine.address(container), port), path)?;
    holds((200..400).contains(&answer.status), answer.text())
}

fn member_server(machine: &Machine, location: &str) -> SocketAddr {
    let container = format!("netring-member-{location}-pod-netring-member-{location}");
    SocketAddr::new(machine.address(&container), PORT)
}

/// When a registry last heard of each member, by location.
fn last_seen(machine: &Machine, registry: SocketAddr) -> Result<Vec<(String, u64)>, String> {
    let members = machine.get(registry, "/members")?.json()["members"].take();
    let members = members.as_array().ok_or("no list")?.iter();
    let mut seen: Vec<(String, u64)> = members
        .map(|m| (m["location"].as_str().unwrap_or_default().to_owned(), m["last_seen"].as_u64().unwrap_or_default()))
        .collect();
    seen.sort();
    Ok(seen)
}

#[test]
fn the_manifests_make_a_ring_that_sees_what_happens_to_it() {
    let Some(machine) = Machine::start() else { return };
    machine.build_images();
    let redis = manifest("redis-deployment");
    let image = redis.lines().find_map(|line| line.trim().strip_prefix("image: ")).expect("Redis has an image");
    machine.stand_in("redis", image);
    machine.run(&["podman", "network", "create", "--subnet=10.89.7.0/24", "ring"]);

    let ping = || machine.run(&["podman", "exec", "redis-pod-redis", "redis-cli", "-h", "127.0.0.1", "ping"]);
    play(&machine, "redis-deployment.yaml", &redis, &[]);
    eventually(SOON, "without a Secret Redis asks for no password", || {
        let output = machine.output(&["podman", "exec", "redis-pod-redis", "redis-cli", "-h", "127.0.0.1", "ping"]);
        holds(output.stdout == b"PONG\n", output)
    });
    machine.run(&["podman", "kube", "down", "/shared/redis-deployment.yaml"]);
    machine.shell(
        "kubectl -n netring create secret generic netring-redis --from-literal=redis-password='a \"quoted\\\" one' \
         --dry-run=client --output=yaml > /shared/secret.yaml",
    );
    machine.run(&["podman", "kube", "play", "/shared/secret.yaml"]);
    play(&machine, "redis-deployment.yaml", &redis, &[]);
    play(&machine, "registry-deployment.yaml", &manifest("registry-deployment"), &[]);
    play(&machine, "registry-b-deployment.yaml", &second_registry(), &[]);
    for (location, ip) in MEMBERS {
        let text = member_of(location, ip);
        play(&machine, &format!("member-{location}.yaml"), &text, &[&format!("--ip={ip}")]);
    }
    assert!(ping().starts_with("NOAUTH"), "with one it does");

    let us1 = member_server(&machine, "us1");
    machine.wait_for_connectivity(us1, "eu1", Some(1.0));
    machine.wait_for_connectivity(member_server(&machine, "eu1"), "us1", Some(1.0));
    let registries = REGISTRIES.map(|container| SocketAddr::new(machine.address(container), PORT));
    for registry in registries {
        eventually(SOON, "both registries know both members", || {
            let seen = last_seen(&machine, registry)?;
            holds(seen.len() == 2 && seen[0].0 == "eu1" && seen[1].0 == "us1", seen)
        });
    }
    let registry = manifest("registry-deployment");
    for (manifest, container) in [
        (&redis, "redis-pod-redis"),
        (&registry, REGISTRIES[0]),
        (&registry, REGISTRIES[1]),
        (&manifest("member-deployment"), "netring-member-us1-pod-netring-member-us1"),
    ] {
        eventually(SOON, &format!("{container} is ready"), || ready(&machine, manifest, container));
    }
    for container in ["netring-member-us1-pod-netring-member-us1", REGISTRIES[0], "redis-pod-redis"] {
        let of = machine.inspect(container);
        assert_eq!(of["HostConfig"]["ReadonlyRootfs"], true, "{container}");
        assert_eq!(of["EffectiveCaps"], Value::Null, "{container}");
        assert_eq!(of["Config"]["User"], "65532:65532", "{container}");
        assert!(of["HostConfig"]["Memory"].as_u64() > Some(0), "{container}");
        // The liveness probe, as podman understands it.
        machine.run(&["podman", "healthcheck", "run", container]);
    }

    // One of the registries goes, and nobody misses it.
    machine.run(&["podman", "pod", "kill", "netring-registry-pod"]);
    let before = last_seen(&machine, registries[1]).expect("the other one answers");
    eventually(SOON, "every member has found the other registry", || {
        let now = last_seen(&machine, registries[1])?;
        let renewed = before.iter().zip(&now).all(|(before, now)| before.0 == now.0 && before.1 + 2 <= now.1);
        holds(renewed && now.len() == 2, format!("{before:?}, then {now:?}"))
    });

    machine.run(&["podman", "pod", "kill", "netring-member-eu1-pod"]);
    machine.wait_for_connectivity(us1, "eu1", Some(0.0));
    machine.run(&["podman", "pod", "start", "netring-member-eu1-pod"]);
    machine.wait_for_connectivity(us1, "eu1", Some(1.0));
    // Stopped in order, it leaves the ring.
    machine.run(&["podman", "pod", "stop", "netring-member-eu1-pod"]);
    machine.wait_for_connectivity(us1, "eu1", None);

    // Without Redis a registry is unhealthy, and alive, and ready: the last roster is still there to be read.
    machine.run(&["podman", "pod", "stop", "redis-pod"]);
    eventually(SOON, "the registry says that Redis is away", || {
        let answer = machine.get(registries[1], "/health")?;
        holds(answer.status == 503, answer.text())
    });
    machine.run(&["podman", "healthcheck", "run", REGISTRIES[1]]);
    ready(&machine, &registry, REGISTRIES[1]).expect("it serves the roster that it knows");
    let roster = machine.get(registries[1], "/members").expect("it answers");
    assert!(roster.header("netring-stale").is_some() && roster.text().contains("\"us1\""), "{}", roster.text());
    // One that has just started knows none, and is not.
    machine.run(&["podman", "pod", "start", "netring-registry-pod"]);
    eventually(SOON, "a registry without a roster is alive and not ready", || {
        let alive = machine.output(&["podman", "healthcheck", "run", REGISTRIES[0]]);
        let not_ready = ready(&machine, &registry, REGISTRIES[0]);
        let why = format!("{not_ready:?}, {alive:?}");
        holds(alive.status.success() && not_ready.is_err(), why)
    });
}
