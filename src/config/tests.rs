use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::num::{NonZeroU16, NonZeroUsize};
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::probe::StatusRanges;
use proptest::prelude::*;

const SEED_REGISTRY: &str = r#"registry:
  redis:
    host: "redis.us1.company.com"
    port: 6379
    db: 0
    password: null                    # Optional Redis auth
  
  server:
    host: "0.0.0.0"                  # Listen interface
    port: 8756                       # Registry API port
    
  member_ttl: 300                    # Member expiration (seconds)
  cleanup_interval: 60               # Cleanup frequency (seconds)
"#;

const SEED_MEMBER: &str = r#"member:
  # Location identifier - appears in all metrics labels
  location: "us1-k8s"               # Examples: "eu1-k8s", "asia1-docker"
  instance_id: null                 # Auto-generated UUID if null
  
  registry:
    # Central registry connection
    url: "http://registry.us1.company.com:8756"
    redis_host: "redis.us1.company.com"    # Direct Redis (unused)
    redis_port: 6379
    redis_db: 0
    redis_password: null
  
  intervals:
    poll_interval: 30               # Registry polling frequency
    check_interval: 60              # Connectivity test frequency  
    heartbeat_interval: 45          # Heartbeat frequency
  
  server:
    host: "0.0.0.0"                # Local server bind
    port: 8756                     # Health/metrics port
    
  checks:
    tcp_timeout: 5                 # TCP connection timeout
    http_timeout: 10               # HTTP request timeout
    http_endpoints:                # Endpoints to test
      - "/health"
      - "/metrics"
"#;

const SAMPLE_REGISTRY: &str = include_str!("../../config/registry.yaml");
const SAMPLE_MEMBER: &str = include_str!("../../config/member.yaml");

fn variables(pairs: &[(&str, &str)]) -> Environment {
    pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
}

fn file(text: &str) -> ConfigFile {
    ConfigFile::parse(Path::new("netring.yaml"), text).unwrap()
}

fn registry(text: &str, pairs: &[(&str, &str)]) -> Result<Loaded<RegistrySettings>, ConfigFaults> {
    registry_from(&file(text), &variables(pairs))
}

fn member(text: &str, pairs: &[(&str, &str)]) -> Result<Loaded<MemberSettings>, ConfigFaults> {
    member_from(&file(text), &variables(pairs))
}

fn effective<T>(loaded: &Loaded<T>, key: &str) -> (String, String) {
    let found = loaded.effective.iter().find(|effective| effective.key == key).unwrap();
    (found.value.clone(), found.source.to_string())
}

const MINIMAL: &str = "member:\n  location: here\n  registry:\n    url: http://r:8756\n";

fn default_log() -> LogSettings {
    LogSettings { level: "info".parse().unwrap(), format: LogFormat::Auto }
}

/// The default port, and no address unless the file names one.
fn server(host: Option<&str>) -> ServerSettings {
    let host = host.map(|host| host.parse().unwrap());
    ServerSettings { host, port: crate::wire::DEFAULT_PORT, max_connections: None }
}

#[test]
fn the_registry_block_of_the_users_own_words_loads_unchanged() {
    let loaded = registry(SEED_REGISTRY, &[]).unwrap();
    assert_eq!(
        loaded.settings,
        RegistrySettings {
            redis: Some(RedisSettings {
                host: "redis.us1.company.com".into(),
                port: NonZeroU16::new(6379).unwrap(),
                db: 0,
                username: None,
                password: None,
                timeout: Duration::from_secs(1),
            }),
            server: server(Some("0.0.0.0")),
            member_ttl: Duration::from_secs(300),
            cleanup_interval: Duration::from_secs(60),
            allowed_networks: Vec::new(),
            max_members: NonZeroUsize::new(20_000).unwrap(),
            log: default_log(),
        }
    );
    assert_eq!(loaded.warnings, [""; 0]);
}

#[test]
fn the_member_block_of_the_users_own_words_loads_unchanged_and_names_what_is_unused() {
    let loaded = member(SEED_MEMBER, &[]).unwrap();
    assert_eq!(
        loaded.settings,
        MemberSettings {
            location: "us1-k8s".parse().unwrap(),
            instance_id: None,
            registry: RegistryLink {
                url: "http://registry.us1.company.com:8756".parse().unwrap(),
                timeout: Duration::from_secs(5),
            },
            intervals: Intervals {
                poll: Duration::from_secs(30),
                check: Duration::from_secs(60),
                heartbeat: Duration::from_secs(45),
            },
            server: server(Some("0.0.0.0")),
            advertise_ip: Advertise::Auto,
            advertise_port: None,
            checks: Checks {
                tcp_timeout: Duration::from_secs(5),
                http_timeout: Duration::from_secs(10),
                http_endpoints: vec!["/health".into(), "/metrics".into()],
                http_ok_status: StatusRanges(vec![(100, 499)]),
                http_body_limit: 16 * 1024,
                max_in_flight: None,
            },
            log: default_log(),
        }
    );
    let [warning] = loaded.warnings.as_slice() else { panic!("{:?}", loaded.warnings) };
    for key in ["redis_host", "redis_port", "redis_db", "redis_password"] {
        assert!(warning.contains(&format!("member.registry.{key}")), "{warning}");
    }
}

#[test]
fn one_file_may_hold_both_roles() {
    let both = format!("{SEED_REGISTRY}\n{SEED_MEMBER}");
    assert_eq!(registry(&both, &[]).unwrap().settings, registry(SEED_REGISTRY, &[]).unwrap().settings);
    assert_eq!(member(&both, &[]).unwrap().settings, member(SEED_MEMBER, &[]).unwrap().settings);
    assert_eq!(file(&both).roles(), Role::ALL);
}

#[test]
fn a_member_starts_from_the_environment_alone() {
    let nowhere = Path::new("/nowhere/member.yaml");
    let environment =
        variables(&[("MEMBER_LOCATION", "eu1"), ("REGISTRY_URL", "http://r:8756/"), ("LOG_LEVEL", "DEBUG")]);
    let loaded = load_member(None, nowhere, &environment).unwrap();
    assert_eq!(loaded.file, None);
    assert_eq!(loaded.settings.location.as_str(), "eu1");
    assert_eq!(loaded.settings.registry.url.base, "http://r:8756");
    assert_eq!(loaded.settings.log.level.to_string(), "debug");
    assert_eq!(loaded.settings.server, server(None));
    assert_eq!(effective(&loaded, "member.location"), ("eu1".into(), "environment MEMBER_LOCATION".into()));

    let faults = load_member(None, nowhere, &Environment::new()).unwrap_err().to_string();
    let lines: Vec<_> = faults.lines().collect();
    assert_eq!(lines.len(), 2, "{faults}");
    assert!(lines[0].starts_with("environment: MEMBER_LOCATION: expected a name"), "{faults}");
    assert!(lines[1].starts_with("environment: REGISTRY_URL: expected an address"), "{faults}");
    assert!(load_member(Some(nowhere), nowhere, &environment).is_err());
}

#[test]
fn a_registry_without_a_file_keeps_the_roster_itself() {
    let nowhere = Path::new("/nowhere/registry.yaml");
    let loaded = load_registry(None, nowhere, &Environment::new()).unwrap();
    assert_eq!(loaded.settings.redis, None);
    assert_eq!(loaded.settings.server, server(None));
}

#[test]
fn redis_is_wanted_by_its_section_or_by_one_of_its_variables() {
    let host =
        |text: &str, pairs: &[(&str, &str)]| registry(text, pairs).unwrap().settings.redis.map(|redis| redis.host);
    assert_eq!(host("registry: {}\n", &[]), None);
    assert_eq!(host("registry:\n  redis:\n", &[]), None);
    assert_eq!(host("registry:\n  redis: null\n", &[]), None);
    assert_eq!(host("registry:\n  redis: {}\n", &[]), Some("localhost".into()));
    assert_eq!(host("registry:\n  redis: {host: /run/r.sock}\n", &[]), Some("/run/r.sock".into()));
    assert_eq!(host("registry:\n", &[("NETRING_REGISTRY_REDIS_DB", "1")]), Some("localhost".into()));
    assert_eq!(host("registry:\n", &[("NETRING_REGISTRY_REDIS_DB", "")]), None);
    assert_eq!(host("registry:\n", &[("NETRING_REGISTRY_REDIS_PORT", "tcp://10.0.0.1:6379")]), None);
}

#[test]
fn a_variable_goes_before_the_file_and_a_fault_in_the_file_still_counts() {
    let text = format!("{MINIMAL}  checks:\n    tcp_timeout: 2\n    http_endpoints: []\n");
    let pairs = [("NETRING_MEMBER_CHECKS_TCP_TIMEOUT", "250ms"), ("NETRING_MEMBER_CHECKS_HTTP_ENDPOINTS", "/a,/b")];
    let loaded = member(&text, &pairs).unwrap();
    assert_eq!(loaded.settings.checks.tcp_timeout, Duration::from_millis(250));
    assert_eq!(loaded.settings.checks.http_endpoints, ["/a", "/b"]);
    let source = "environment NETRING_MEMBER_CHECKS_TCP_TIMEOUT".to_string();
    assert_eq!(effective(&loaded, "member.checks.tcp_timeout"), ("250ms".into(), source));
    assert!(member(&text, &[]).unwrap().settings.checks.http_endpoints.is_empty());

    let faults = member(&text.replace("tcp_timeout: 2", "tcp_timeout: no"), &pairs).unwrap_err();
    assert_eq!(faults.len(), 1, "{faults}");
}

#[test]
fn every_key_can_be_set_by_its_variable() {
    for key in keys().into_iter().filter(|key| !key.unused) {
        let value = match (key.path, key.default) {
            ("member.location", _) => "here",
            ("member.registry.url", _) => "http://r",
            ("registry.allowed_networks", _) => "10.0.0.0/8",
            ("registry.server.host" | "member.server.host", _) => "::",
            ("registry.redis.password_file", _) => "/dev/null",
            (_, KeyDefault::Value(text)) => text,
            _ => "7",
        };
        let role = if key.path.starts_with("registry.") { Role::Registry } else { Role::Member };
        let mut environment = variables(&[("MEMBER_LOCATION", "x"), ("REGISTRY_URL", "http://x")]);
        environment.insert(key.environment.clone(), value.into());
        let effective = match role {
            Role::Registry => load::registry(None, &environment).map(|loaded| loaded.effective),
            Role::Member => load::member(None, &environment).map(|loaded| loaded.effective),
        };
        match effective {
            Ok(effective) => assert!(
                effective.iter().any(|e| e.key == key.path && e.source == Source::Environment(key.environment.clone())),
                "{}",
                key.path
            ),
            // The one file that this test has at hand holds no password.
            Err(faults) => assert_eq!(key.path, "registry.redis.password_file", "{faults}"),
        }
    }
}

#[test]
fn what_is_in_force_is_told_for_every_key_of_the_table() {
    let told: Vec<_> = (registry("registry: {redis: {}}", &[]).unwrap().effective.into_iter())
        .chain(member(MINIMAL, &[]).unwrap().effective)
        .map(|effective| effective.key)
        .collect();
    let log = ["log.level", "log.format"];
    let known: Vec<_> = keys().into_iter().filter(|key| !key.unused).map(|key| key.path).collect();
    let (own, log_known) = known.split_at(known.len() - 2);
    let registry_count = own.iter().filter(|path| path.starts_with("registry.")).count();
    let expected = [&own[..registry_count], &log, &own[registry_count..], log_known].concat();
    assert_eq!(told, expected);
}

#[test]
fn no_two_keys_share_a_path_or_a_variable_now_or_formerly() {
    let keys = keys();
    let paths: Vec<_> =
        keys.iter().flat_map(|key| [key.path].into_iter().chain(key.formerly.iter().copied())).collect();
    let variables: Vec<_> =
        keys.iter().flat_map(|key| [&key.environment].into_iter().chain(&key.former_environment)).collect();
    assert_eq!(paths.iter().collect::<BTreeSet<_>>().len(), paths.len());
    assert_eq!(variables.iter().collect::<BTreeSet<_>>().len(), variables.len());
    for path in &paths {
        assert!(!paths.iter().any(|other| other.starts_with(&format!("{path}."))), "{path} is no section");
    }
}

#[test]
fn a_time_limit_leaves_a_margin_before_the_next_probe() {
    let with = |interval: &str, more: &str| {
        member(&format!("{MINIMAL}  intervals:\n    check_interval: {interval}\n{more}"), &[]).unwrap()
    };
    for (interval, tcp, http) in [
        ("60", "5s", "10s"),
        ("11", "5s", "10s"),
        ("10", "5s", "9.5s"),
        ("5", "4.5s", "4.5s"),
        ("2", "1.8s", "1.8s"),
        ("1", "900ms", "900ms"),
    ] {
        let loaded = with(interval, "");
        assert_eq!(effective(&loaded, "member.checks.tcp_timeout"), (tcp.into(), "default".into()));
        assert_eq!(effective(&loaded, "member.checks.http_timeout"), (http.into(), "default".into()));
        assert_eq!(loaded.warnings, [""; 0], "a default is not the operator's");
        assert!(loaded.settings.checks.http_timeout < loaded.settings.intervals.check);
    }
    assert_eq!(with("2", "  checks: {tcp_timeout: 1800ms, http_timeout: 0.5}\n").warnings, [""; 0], "what fits");
}

#[test]
fn a_time_limit_that_reaches_into_the_next_probe_is_lowered_with_a_warning() {
    let text = format!("{MINIMAL}  intervals:\n    check_interval: 5\n  checks:\n    http_timeout: 10\n");
    let loaded = member(&text, &[]).unwrap();
    assert_eq!(loaded.settings.checks.http_timeout, Duration::from_millis(4500));
    assert_eq!(effective(&loaded, "member.checks.http_timeout"), ("4.5s".into(), "netring.yaml:8".into()));
    let why = "10s is too long for member.intervals.check_interval 5s, because a probe must end before the next one of its \
               target is due; the limit in force is 4.5s";
    assert_eq!(loaded.warnings, [format!("netring.yaml:8:19: member.checks.http_timeout: {why}")]);

    let loaded = member(&text.replace("10", "1"), &[("NETRING_MEMBER_CHECKS_HTTP_TIMEOUT", "10s")]).unwrap();
    assert_eq!(loaded.settings.checks.http_timeout, Duration::from_millis(4500));
    assert_eq!(loaded.warnings, [format!("environment: NETRING_MEMBER_CHECKS_HTTP_TIMEOUT: {why}")]);
}

#[test]
fn an_advertised_address_may_come_from_a_variable() {
    for name in ["POD_IP", "NETRING_SERVICE_HOST"] {
        let text = format!("{MINIMAL}  server: {{advertise_ip: \"env:{name}\"}}\n");
        let advertised = |pairs: &[(&str, &str)]| member(&text, pairs).map(|loaded| loaded.settings.advertise_ip);
        for (held, meant) in [("10.1.2.3", "10.1.2.3"), ("::ffff:10.1.2.3", "10.1.2.3"), ("fd00::2", "fd00::2")] {
            assert_eq!(advertised(&[(name, held)]).unwrap(), Advertise::Address(meant.parse().unwrap()));
        }
        for pairs in [&[(name, "0.0.0.0")], &[(name, "")], &[("OTHER", "10.1.2.3")]] {
            assert!(advertised(pairs).unwrap_err().to_string().contains(&format!("the variable {name}")));
        }
    }
}

#[test]
fn an_advertised_port_is_a_number_or_comes_from_a_variable() {
    let with = |port: &str, pairs: &[(&str, &str)]| {
        member(&format!("{MINIMAL}  server: {{advertise_port: {port}}}\n"), pairs)
            .map(|loaded| (loaded.settings.advertise_port.map(NonZeroU16::get), loaded.settings.server.port.get()))
            .map_err(|faults| faults.to_string())
    };
    assert_eq!(with("null", &[]), Ok((None, 8756)));
    assert_eq!(with("8757", &[]), Ok((Some(8757), 8756)));
    assert_eq!(with("8757", &[("NETRING_MEMBER_SERVER_ADVERTISE_PORT", "9000")]), Ok((Some(9000), 8756)));
    for name in ["HOST_PORT", "NETRING_SERVICE_PORT"] {
        assert_eq!(with(&format!("\"env:{name}\""), &[(name, "8757")]), Ok((Some(8757), 8756)));
    }
    for (held, got) in [(None, "nothing"), (Some(""), "nothing"), (Some("0"), "\"0\""), (Some("+1"), "\"+1\"")] {
        let pairs: Vec<_> = held.map(|held| ("HOST_PORT", held)).into_iter().collect();
        assert_eq!(
            with("env:HOST_PORT", &pairs),
            Err(format!(
                "netring.yaml:5:28: member.server.advertise_port: expected the variable HOST_PORT to hold a whole number \
                 from 1 to 65535, got {got}"
            ))
        );
    }
}

#[test]
fn an_ipv4_address_in_ipv6_notation_is_the_ipv4_address_everywhere() {
    let mapped = "::ffff:10.9.0.1";
    let text = format!(
        "registry:\n  redis: {{host: \"{mapped}\"}}\n  server: {{host: \"{mapped}\"}}\n  \
         allowed_networks: [\"::ffff:10.9.0.0/112\"]\nmember:\n  location: a\n  registry: {{url: \"http://[{mapped}]\"}}\n  \
         server: {{host: \"{mapped}\", advertise_ip: \"{mapped}\"}}\n"
    );
    let ip: std::net::IpAddr = "10.9.0.1".parse().unwrap();
    let loaded = registry(&text, &[]).unwrap().settings;
    assert_eq!((loaded.server.host, loaded.redis.unwrap().host), (Some(ip), "10.9.0.1".into()));
    assert!(loaded.allowed_networks[0].contains(&ip));
    let loaded = member(&text, &[]).unwrap();
    assert_eq!(loaded.settings.server.host, Some(ip));
    assert_eq!(loaded.settings.advertise_ip, Advertise::Address(ip));
    let url = RegistryUrl { base: "http://10.9.0.1".into(), host: "10.9.0.1".into(), port: 80 };
    assert_eq!(loaded.settings.registry.url, url);
    assert_eq!(loaded.warnings, [""; 0]);
    let pairs = [("MEMBER_LOCATION", "a"), ("REGISTRY_URL", "http://[::ffff:10.9.0.1]")];
    assert_eq!(load_member(None, Path::new("/nowhere"), &variables(&pairs)).unwrap().settings.registry.url, url);
}

#[test]
fn a_registered_address_that_the_listener_cannot_be_reached_at_is_a_warning() {
    let warnings = |host: &str, advertised: &str, registry: &str| {
        let text = format!(
            "member:\n  location: a\n  registry: {{url: \"http://{registry}\"}}\n  \
             server: {{host: {host}, advertise_ip: {advertised}}}\n"
        );
        member(&text, &[]).unwrap().warnings
    };
    for (host, advertised, registry, why) in [
        (
            "0.0.0.0",
            "\"fd00::2\"",
            "r",
            "fd00::2 cannot be reached by the other members, because member.server.host is 0.0.0.0 and accepts IPv4 only; leave member.server.host unset to accept both IPv4 and IPv6",
        ),
        ("10.0.0.1", "\"fd00::2\"", "r", "accepts IPv4 only"),
        ("\"fd00::2\"", "10.0.0.1", "r", "member.server.host is fd00::2 and accepts IPv6 only"),
        ("127.0.0.1", "10.0.0.1", "r", "accepts connections of this host only"),
        ("\"::1\"", "\"fd00::2\"", "r", "accepts connections of this host only"),
        ("10.0.0.1", "127.0.0.1", "r", "127.0.0.1 cannot be reached by any member"),
        ("127.0.0.1", "auto", "10.0.0.9", "member.server.host: 127.0.0.1 is the address that would be registered"),
        (
            "0.0.0.0",
            "auto",
            "[fd00::9]",
            "member.server.host: 0.0.0.0 accepts IPv4 only and the registry is reached by IPv6",
        ),
    ] {
        let found = warnings(host, advertised, registry);
        assert_eq!(found.len(), 1, "{host} {advertised} {registry}: {found:?}");
        assert!(found[0].starts_with("netring.yaml:4:"), "{found:?}");
        assert!(found[0].contains(why), "{found:?}");
    }
    for (host, advertised, registry) in [
        ("null", "\"fd00::2\"", "r"),
        ("null", "10.0.0.1", "r"),
        ("null", "auto", "[fd00::9]"),
        ("\"::\"", "10.0.0.1", "r"),
        ("\"::\"", "auto", "10.0.0.9"),
        ("0.0.0.0", "10.0.0.1", "[fd00::9]"),
        ("0.0.0.0", "127.0.0.1", "r"),
        ("10.0.0.1", "192.0.2.1", "r"),
        ("10.0.0.1", "auto", "[fd00::9]"),
        ("127.0.0.1", "127.0.0.2", "r"),
        ("127.0.0.1", "auto", "localhost"),
        ("127.0.0.1", "auto", "127.0.0.1"),
    ] {
        assert_eq!(warnings(host, advertised, registry), [""; 0], "{host} {advertised} {registry}");
    }
}

#[test]
fn a_password_has_one_source_and_variables_go_before_file_and_credential() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        fs::write(directory.path().join(name), text).unwrap();
        directory.path().join(name).display().to_string()
    };
    let by_file = write("secret", "from-file\r\n");
    write("redis-password", "from-credential\n");
    let credentials = ("CREDENTIALS_DIRECTORY", directory.path().to_str().unwrap());
    let password = |redis: &str, pairs: &[(&str, &str)]| {
        registry(&format!("registry:\n  redis: {{{redis}}}\n"), pairs).map(|loaded| {
            let shown = effective(&loaded, "registry.redis.password");
            (loaded.settings.redis.unwrap().password.map(|secret| secret.0), shown.0, shown.1)
        })
    };
    let some = |text: &str, source: &str| Ok((Some(text.into()), "********".into(), source.into()));
    let file_key = format!("password_file: {by_file}");

    assert_eq!(password("", &[]), Ok((None, "null".into(), "default".into())));
    assert_eq!(password("", &[credentials]), some("from-credential", "credential redis-password"));
    assert_eq!(password(&file_key, &[credentials]), some("from-file", &by_file));
    assert_eq!(password("password: direct", &[credentials]), some("direct", "netring.yaml:2"));
    let variable = ("NETRING_REGISTRY_REDIS_PASSWORD", "from-variable");
    let told = "environment NETRING_REGISTRY_REDIS_PASSWORD";
    assert_eq!(password(&file_key, &[variable, credentials]), some("from-variable", told));
    assert_eq!(password("password: direct", &[variable]), some("from-variable", told));
    let file_variable = ("NETRING_REGISTRY_REDIS_PASSWORD_FILE", by_file.as_str());
    assert_eq!(password("password: direct", &[file_variable]), some("from-file", &by_file));

    let both = password(&format!("password: direct, {file_key}"), &[]).unwrap_err().to_string();
    assert!(both.contains("got both"), "{both}");
    assert!(password("", &[variable, file_variable]).unwrap_err().to_string().contains("got both"));
    let gone = password("password_file: /nowhere/secret", &[]).unwrap_err().to_string();
    assert!(gone.contains("netring.yaml:2") && gone.contains("/nowhere/secret, got no such file"), "{gone}");
    let empty = format!("password_file: {}", write("empty", "\n"));
    assert!(password(&empty, &[]).unwrap_err().to_string().contains("got one of 0"));
}

#[test]
fn no_secret_is_ever_printed() {
    let text = "registry:\n  redis: {password: hunter2}\n";
    let loaded = registry(text, &[]).unwrap();
    assert!(!format!("{loaded:?}").contains("hunter2"));
    for faulty in [
        "registry:\n  redis: {password: [hunter2]}\n",
        "registry:\n  redis: {password: hunter2, pasword: hunter2}\n",
        "registry:\n  redis: {password: {hunter2: 1}}\n",
        "registry:\n  redis: {host: \"redis://:hunter2@h\"}\n",
    ] {
        let faults = registry(faulty, &[]).unwrap_err();
        assert!(!format!("{faults} {faults:?}").contains("hunter2"), "{faults}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_one_fault_that_names_it() {
    let directory = tempfile::tempdir().unwrap();
    let read = |name: &str, bytes: &[u8]| {
        let path = directory.path().join(name);
        fs::write(&path, bytes).unwrap();
        ConfigFile::read(&path).unwrap_err().to_string().replace(&format!("{}/", directory.path().display()), "")
    };
    assert_eq!(read("latin1", b"a: 1\nb: \xe9\n"), "latin1:2:4: is not UTF-8 from here on");
    assert_eq!(read("big", &vec![b'#'; 1024 * 1024 + 1]), "big: is longer than 1048576 bytes");
    let path = directory.path().display();
    let faults = ConfigFile::read(directory.path()).unwrap_err();
    assert_eq!(faults.to_string(), format!("{path}: cannot be read: Is a directory"));
}

#[test]
fn a_default_file_that_is_there_counts_and_one_that_is_faulty_is_no_reason_to_go_on_without() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("registry.yaml");
    fs::write(&path, "registry: {max_members: 5}\n").unwrap();
    let loaded = load_registry(None, &path, &Environment::new()).unwrap();
    assert_eq!((loaded.settings.max_members.get(), loaded.file.as_ref()), (5, Some(&path)));
    fs::write(&path, "").unwrap();
    let faults = load_registry(None, &path, &Environment::new()).unwrap_err().to_string();
    assert!(faults.ends_with("expected the section registry, got an empty file"), "{faults}");
}

/// The sample with each setting that is shown as a comment put in force: a `#` right before a letter is one.
fn uncommented(sample: &str) -> String {
    let line = |line: &str| match line.trim_start().strip_prefix('#') {
        Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase()) => line.replacen('#', "", 1),
        _ => line.into(),
    };
    sample.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// The key path of each line that sets a value, and the default that the comment above it names.
fn settings_of(text: &str) -> Vec<(String, Option<String>)> {
    let mut sections: Vec<(usize, &str)> = Vec::new();
    let mut named = None;
    let mut settings = Vec::new();
    for line in text.lines() {
        let (indent, body) = (line.len() - line.trim_start().len(), line.trim_start());
        if let Some(default) = body.strip_prefix("# Default: ") {
            named = Some(default.to_string());
        }
        let Some((key, value)) =
            body.split_once(':').filter(|(key, _)| key.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
        else {
            continue;
        };
        sections.retain(|(above, _)| *above < indent);
        sections.push((indent, key));
        if !value.split('#').next().unwrap_or_default().trim().is_empty() || key == "http_endpoints" {
            let path = sections.iter().map(|(_, key)| *key).collect::<Vec<_>>().join(".");
            settings.push((path, named.take()));
        }
    }
    settings
}

#[test]
fn the_samples_show_every_key_of_the_table_at_its_default_or_name_it() {
    let mut shown = BTreeSet::new();
    for (role, sample) in [(Role::Registry, SAMPLE_REGISTRY), (Role::Member, SAMPLE_MEMBER)] {
        let whole = uncommented(sample);
        let effective = match role {
            Role::Registry => registry(&whole, &[]).unwrap().effective,
            Role::Member => member(&whole, &[]).unwrap().effective,
        };
        for (path, named) in settings_of(&whole) {
            let key = keys().into_iter().find(|key| key.path == path).unwrap_or_else(|| panic!("{path} is no key"));
            let value = &effective.iter().find(|effective| effective.key == path).unwrap().value;
            let default = match key.default {
                KeyDefault::Required => "none, it must be set.".to_string(),
                KeyDefault::Unset => "null".into(),
                KeyDefault::Value(text) => text.into(),
            };
            // A list is shown as a list, and stands in the table as in a variable.
            let plain = value.trim_matches(['[', ']']).replace(['"', ' '], "");
            match named {
                Some(named) => assert!(named == default && plain != default, "{path}: {named}, {value}, {default}"),
                None => assert_eq!(plain, default, "{path}"),
            }
            assert!(shown.insert(path.clone()) || path.starts_with("log."), "{path} twice");
        }
    }
    let known: BTreeSet<_> = keys().into_iter().filter(|key| !key.unused).map(|key| key.path.to_string()).collect();
    assert_eq!(shown, known);
}

#[test]
fn the_samples_run_on_one_host_as_they_are() {
    let registry = registry(SAMPLE_REGISTRY, &[]).unwrap();
    let member = member(SAMPLE_MEMBER, &[]).unwrap();
    assert_eq!(registry.settings.redis, None);
    assert_eq!(registry.settings.server.port.get(), member.settings.registry.url.port);
    assert_ne!(registry.settings.server.port, member.settings.server.port);
    assert_eq!((registry.warnings, member.warnings), (Vec::new(), Vec::new()));
}

/// What a file with its variables comes to: the settings in force, or the faults.
fn outcome(path: &Path, environment: &Environment) -> String {
    fn lines<T>(loaded: &Loaded<T>) -> String {
        let warnings = loaded.warnings.iter().map(|warning| format!("warning: {warning}\n"));
        let set = loaded.effective.iter().filter(|effective| effective.source != Source::Default);
        warnings.chain(set.map(|e| format!("{} = {}   # {}\n", e.key, e.value, e.source))).collect()
    }
    let name = path.file_name().unwrap().to_str().unwrap();
    let result = ConfigFile::read(path).and_then(|file| match name.split('-').next() {
        Some("registry") => registry_from(&file, environment).map(|loaded| lines(&loaded)),
        Some("member") => member_from(&file, environment).map(|loaded| lines(&loaded)),
        _ => panic!("{name} begins with no role"),
    });
    result.unwrap_or_else(|faults| format!("{faults}\n"))
}

/// Each `ROLE-CASE.yaml`, with the variables of `ROLE-CASE.env` where there is one, comes to the text of
/// `ROLE-CASE.txt`. Written anew where `UPDATE_GOLDEN` is set.
#[test]
fn each_golden_file_has_its_full_text() {
    const FOLDER: &str = "tests/golden/config";
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let (mut cases, mut differences) = (0, String::new());
    for entry in fs::read_dir(FOLDER).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        cases += 1;
        let variables = fs::read_to_string(path.with_extension("env")).unwrap_or_default();
        let environment = variables
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        let found = outcome(&path, &environment);
        let golden = path.with_extension("txt");
        if update {
            fs::write(&golden, found).unwrap();
        } else if fs::read_to_string(&golden).unwrap_or_default() != found {
            write!(differences, "{} should hold:\n{found}", golden.display()).unwrap();
        }
    }
    assert!(differences.is_empty(), "{differences}");
    assert!(cases > 20, "only {cases} cases in {FOLDER}");
}

/// One change to a text: at `at`, `cut` characters give way to `put`.
fn mutate(text: &str, changes: &[(usize, usize, String)]) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    for (at, cut, put) in changes {
        let at = at % (chars.len() + 1);
        let end = (at + cut).min(chars.len());
        chars.splice(at..end, put.chars());
    }
    chars.into_iter().collect()
}

/// Both roles read `text`; whatever it is, that ends with settings or with at least one fault.
fn read_by_both(text: &str, environment: &Environment) {
    if let Ok(file) = ConfigFile::parse(Path::new("f"), text) {
        let _ = registry_from(&file, environment).map_err(|faults| faults.to_string());
        let _ = member_from(&file, environment).map_err(|faults| faults.to_string());
    }
}

/// What a change puts into a text: names, digits, and all that YAML has a meaning for.
const SCRAP: &str = "([a-z0-9_.-]|[\\n:#\\[\\]{}&*!|>'\"%@~]| ){0,8}";

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "(\\PC|[\\n:#\\[\\]{}&*!|>'\"%@~-]| ){0,200}") {
        read_by_both(&text, &Environment::new());
    }

    #[test]
    fn no_change_to_a_good_file_makes_it_panic(
        which in 0..4_usize,
        changes in prop::collection::vec((any::<usize>(), 0..20_usize, SCRAP), 1..6),
        variable in 0..38_usize,
        value in "\\PC{0,12}",
    ) {
        let samples = [uncommented(SAMPLE_REGISTRY), uncommented(SAMPLE_MEMBER)];
        let whole = [SEED_REGISTRY, SEED_MEMBER, &samples[0], &samples[1]];
        let environment = Environment::from([(keys()[variable].environment.clone(), value)]);
        read_by_both(&mutate(whole[which], &changes), &environment);
    }
}

#[test]
fn a_file_of_nothing_but_faults_is_not_searched_to_its_end() {
    let mut text = String::from("registry:\n");
    for n in 0.. {
        if text.len() > 1024 * 1024 - 100 {
            break;
        }
        writeln!(text, "  kex{n}: 1").unwrap();
    }
    let faults = registry(&text, &[]).unwrap_err();
    assert_eq!(faults.len(), 1000);
    assert_eq!(faults.to_string().lines().count(), 51);
}
