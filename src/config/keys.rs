//! The table of keys: every setting with its path, variable, form, default and meaning.
//!
//! Whatever uses keys takes them from this table: the readers of file and environment, the suggestions for unknown names, the
//! output of `netring check`, and the manual. To add a key, add it to the table and read it in `load`; tests check that
//! both and the samples in `config/` agree. To rename a key, change its path and list the old one with `formerly`: files and
//! variables can still use that name, with a warning.

use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::form::network::{
    Address, AdvertiseIp, AdvertisePort, AdvertiseSource, Endpoint, HostOrSocket, Network, PortSource, Statuses, Url,
};
use super::form::text::{FilePath, Identity, Level, LocationName, Name, SecretText};
use super::form::{Anything, Choice, Form, List, Size, Time, Whole};
use super::level::LogLevel;
use super::settings::{LogFormat, RegistryUrl, Secret};
use crate::probe::StatusRanges;
use crate::wire::{InstanceId, Location};

/// The description of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its path in the file, such as `member.checks.tcp_timeout`.
    pub path: &'static str,
    /// The environment variable that overrides the file.
    pub environment: String,
    /// Which values are valid, as the text after "expected" in an error message.
    pub expects: String,
    /// Its value where it is not set.
    pub default: KeyDefault,
    /// What it means, in one sentence.
    pub doc: &'static str,
    /// Whether its value is never shown.
    pub secret: bool,
    /// Whether it does nothing and is accepted only because older files have it.
    pub unused: bool,
    /// The paths it had in earlier versions, which are still read.
    pub formerly: &'static [&'static str],
    /// The variables it had in earlier versions, which are still read.
    pub former_environment: Vec<String>,
}

/// The value of a key that is not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyDefault {
    /// There is none: the key must be set.
    Required,
    /// Nothing, as with `null`.
    Unset,
    /// This value, as a variable would hold it.
    Value(&'static str),
}

/// Every key, in the order of the documentation.
#[must_use]
pub fn keys() -> Vec<Key> {
    TABLE.iter().map(|setting| setting.key()).collect()
}

/// One key with the type of its value.
pub(super) struct Setting<T: 'static> {
    pub(super) path: &'static str,
    pub(super) form: &'static dyn Form<T>,
    pub(super) default: KeyDefault,
    pub(super) secret: bool,
    /// The variable, where its name does not follow from the path.
    variable: Option<&'static str>,
    unused: bool,
    /// Earlier paths.
    pub(super) formerly: &'static [&'static str],
    doc: &'static str,
}

impl<T> Setting<T> {
    pub(super) const fn new(
        path: &'static str,
        form: &'static dyn Form<T>,
        default: KeyDefault,
        doc: &'static str,
    ) -> Self {
        Self { path, form, default, doc, variable: None, secret: false, unused: false, formerly: &[] }
    }

    const fn variable(self, name: &'static str) -> Self {
        Self { variable: Some(name), ..self }
    }

    const fn secret(self) -> Self {
        Self { secret: true, ..self }
    }

    /// The paths that the key had in earlier versions, each with the variable it made. A variable with a name of its own
    /// stays as it is.
    #[cfg_attr(not(test), expect(dead_code, reason = "no key has been renamed yet; the first that is loses this line"))]
    pub(super) const fn formerly(self, paths: &'static [&'static str]) -> Self {
        Self { formerly: paths, ..self }
    }

    /// The variable that overrides the file: `NETRING_` and the path, unless it has a name of its own.
    pub(super) fn environment(&self) -> String {
        self.variable.map_or_else(|| by_rule(self.path), Into::into)
    }

    /// The variables of earlier versions.
    pub(super) fn former_environment(&self) -> impl Iterator<Item = String> {
        self.formerly.iter().filter(|_| self.variable.is_none()).map(|path| by_rule(path))
    }

    /// Whether this is its path or its variable, now or formerly.
    pub(super) fn is_named(&self, name: &str) -> bool {
        self.path == name
            || self.environment() == name
            || self.formerly.contains(&name)
            || self.former_environment().any(|former| former == name)
    }
}

/// The variable of a path.
fn by_rule(path: &str) -> String {
    format!("NETRING_{}", path.replace('.', "_").to_ascii_uppercase())
}

/// The description of a setting, whatever the type of its value.
pub(super) trait Described: Sync {
    /// Its description.
    fn key(&self) -> Key;
}

impl<T> Described for Setting<T> {
    fn key(&self) -> Key {
        Key {
            path: self.path,
            environment: self.environment(),
            expects: self.form.expects(),
            default: self.default,
            doc: self.doc,
            secret: self.secret,
            unused: self.unused,
            formerly: self.formerly,
            former_environment: self.former_environment().collect(),
        }
    }
}

const fn unused(path: &'static str) -> Setting<()> {
    Setting {
        unused: true,
        ..Setting::new(
            path,
            &Anything,
            KeyDefault::Unset,
            "Accepted but not used: a member connects to the registry and never to Redis.",
        )
    }
}

/// The order is that of the documentation and of `netring check`: registry, member, log.
static TABLE: [&dyn Described; 38] = [
    &REDIS_HOST,
    &REDIS_PORT,
    &REDIS_DB,
    &REDIS_USERNAME,
    &REDIS_PASSWORD,
    &REDIS_PASSWORD_FILE,
    &REDIS_TIMEOUT,
    &REGISTRY_SERVER.host,
    &REGISTRY_SERVER.port,
    &REGISTRY_SERVER.max_connections,
    &MEMBER_TTL,
    &CLEANUP_INTERVAL,
    &ALLOWED_NETWORKS,
    &MAX_MEMBERS,
    &LOCATION,
    &INSTANCE_ID,
    &REGISTRY_URL,
    &REGISTRY_TIMEOUT,
    &UNUSED_REDIS[0],
    &UNUSED_REDIS[1],
    &UNUSED_REDIS[2],
    &UNUSED_REDIS[3],
    &POLL_INTERVAL,
    &CHECK_INTERVAL,
    &HEARTBEAT_INTERVAL,
    &MEMBER_SERVER.host,
    &MEMBER_SERVER.port,
    &MEMBER_SERVER.max_connections,
    &ADVERTISE_IP,
    &ADVERTISE_PORT,
    &TCP_TIMEOUT,
    &HTTP_TIMEOUT,
    &HTTP_ENDPOINTS,
    &HTTP_OK_STATUS,
    &HTTP_BODY_LIMIT,
    &MAX_IN_FLIGHT,
    &LOG_LEVEL,
    &LOG_FORMAT,
];

const fn millis(from: u64, to: u64) -> Time {
    Time { from: Duration::from_millis(from), to: Duration::from_millis(to) }
}

const DAY_MS: u64 = 24 * 60 * 60 * 1000;
const INTERVAL: Time = millis(1000, DAY_MS);
/// What a probe's time limit may be in itself; the loader also lowers it to fit the check interval.
const PROBE_LIMIT: Time = millis(100, DAY_MS);
const PORT: Whole = Whole { from: 1, to: 65_535 };
const CONNECTIONS: Whole = Whole { from: 1, to: 1_000_000 };

pub(super) static REDIS_HOST: Setting<String> = Setting::new(
    "registry.redis.host",
    &HostOrSocket,
    KeyDefault::Value("localhost"),
    "The host of Redis, or the path of its Unix socket.",
);

pub(super) static REDIS_PORT: Setting<NonZeroU16> = Setting::new(
    "registry.redis.port",
    &PORT,
    KeyDefault::Value("6379"),
    "The TCP port of Redis. Not used with a Unix socket.",
);

pub(super) static REDIS_DB: Setting<u32> = Setting::new(
    "registry.redis.db",
    &Whole { from: 0, to: 65_535 },
    KeyDefault::Value("0"),
    "The number of the Redis database.",
);

pub(super) static REDIS_USERNAME: Setting<String> = Setting::new(
    "registry.redis.username",
    &Name,
    KeyDefault::Unset,
    "The user name for Redis (ACL user); null means Redis's default user.",
);

pub(super) static REDIS_PASSWORD: Setting<Secret> = Setting::new(
    "registry.redis.password",
    &SecretText,
    KeyDefault::Unset,
    "The password for Redis. To keep it out of this file, use password_file or the systemd credential redis-password.",
)
.secret();

pub(super) static REDIS_PASSWORD_FILE: Setting<PathBuf> = Setting::new(
    "registry.redis.password_file",
    &FilePath,
    KeyDefault::Unset,
    "A file that contains only the password for Redis; a line break at its end is ignored.",
);

pub(super) static REDIS_TIMEOUT: Setting<Duration> = Setting::new(
    "registry.redis.timeout",
    &millis(50, 30_000),
    KeyDefault::Value("1s"),
    "How long the registry waits for an answer of Redis.",
);

/// The keys of a `server` section.
pub(super) struct ServerKeys {
    pub(super) host: Setting<IpAddr>,
    pub(super) port: Setting<NonZeroU16>,
    pub(super) max_connections: Setting<NonZeroUsize>,
}

const fn server(host: &'static str, port: &'static str, max_connections: &'static str) -> ServerKeys {
    ServerKeys {
        host: Setting::new(
            host,
            &Address,
            KeyDefault::Unset,
            "The address to listen on; null means all IPv4 and IPv6 addresses of this host, \"0.0.0.0\" all IPv4 addresses.",
        ),
        port: Setting::new(port, &PORT, KeyDefault::Value("8756"), "The port to listen on."),
        max_connections: Setting::new(
            max_connections,
            &CONNECTIONS,
            KeyDefault::Unset,
            "The maximum number of open connections; null computes it from the limit on file descriptors.",
        ),
    }
}

pub(super) static REGISTRY_SERVER: ServerKeys =
    server("registry.server.host", "registry.server.port", "registry.server.max_connections");

pub(super) static MEMBER_TTL: Setting<Duration> = Setting::new(
    "registry.member_ttl",
    &INTERVAL,
    KeyDefault::Value("300s"),
    "How long a member stays on the roster after its last heartbeat.",
);

pub(super) static CLEANUP_INTERVAL: Setting<Duration> = Setting::new(
    "registry.cleanup_interval",
    &INTERVAL,
    KeyDefault::Value("60s"),
    "How often expired members are removed from the store. An expired member is never listed, whatever this value is.",
);

pub(super) static ALLOWED_NETWORKS: Setting<Vec<IpNet>> = Setting::new(
    "registry.allowed_networks",
    &List { item: &Network, most: 256 },
    KeyDefault::Value(""),
    "The networks in which members may register addresses; an empty list allows all addresses.",
);

pub(super) static MAX_MEMBERS: Setting<NonZeroUsize> = Setting::new(
    "registry.max_members",
    &Whole { from: 1, to: 100_000 },
    KeyDefault::Value("20000"),
    "The maximum number of members of the ring.",
);

pub(super) static LOCATION: Setting<Location> = Setting::new(
    "member.location",
    &LocationName,
    KeyDefault::Required,
    "The name of this member's site, as it appears in the labels of all metrics.",
)
.variable("MEMBER_LOCATION");

pub(super) static INSTANCE_ID: Setting<InstanceId> = Setting::new(
    "member.instance_id",
    &Identity,
    KeyDefault::Unset,
    "The identity of this member; null generates one at the first start and stores it in the state directory.",
);

pub(super) static REGISTRY_URL: Setting<RegistryUrl> =
    Setting::new("member.registry.url", &Url, KeyDefault::Required, "The base URL of the registry.")
        .variable("REGISTRY_URL");

pub(super) static REGISTRY_TIMEOUT: Setting<Duration> = Setting::new(
    "member.registry.timeout",
    &millis(100, 60_000),
    KeyDefault::Value("5s"),
    "The time limit of a request to the registry.",
);

pub(super) static UNUSED_REDIS: [Setting<()>; 4] = [
    unused("member.registry.redis_host"),
    unused("member.registry.redis_port"),
    unused("member.registry.redis_db"),
    unused("member.registry.redis_password"),
];

pub(super) static POLL_INTERVAL: Setting<Duration> = Setting::new(
    "member.intervals.poll_interval",
    &INTERVAL,
    KeyDefault::Value("30s"),
    "How often the roster is requested from the registry. If the registry supports long polls, how long it may keep a \
     request waiting for the roster to change (at most 60 s).",
);

pub(super) static CHECK_INTERVAL: Setting<Duration> = Setting::new(
    "member.intervals.check_interval",
    &INTERVAL,
    KeyDefault::Value("60s"),
    "How often each target is probed.",
);

pub(super) static HEARTBEAT_INTERVAL: Setting<Duration> = Setting::new(
    "member.intervals.heartbeat_interval",
    &INTERVAL,
    KeyDefault::Value("45s"),
    "How often the lease is renewed. Must be well below the registry's member_ttl.",
);

pub(super) static MEMBER_SERVER: ServerKeys =
    server("member.server.host", "member.server.port", "member.server.max_connections");

pub(super) static ADVERTISE_IP: Setting<AdvertiseSource> = Setting::new(
    "member.server.advertise_ip",
    &AdvertiseIp,
    KeyDefault::Value("auto"),
    "The address to register, at which other members reach this one: auto means the source address that this host uses to \
     reach the registry, env:NAME the address in the environment variable NAME.",
);

pub(super) static ADVERTISE_PORT: Setting<PortSource> = Setting::new(
    "member.server.advertise_port",
    &AdvertisePort,
    KeyDefault::Unset,
    "The port to register, if other members reach this one at a different port than it listens on, because of a NAT or a \
     port mapping; null means the port it listens on.",
);

pub(super) static TCP_TIMEOUT: Setting<Duration> = Setting::new(
    "member.checks.tcp_timeout",
    &PROBE_LIMIT,
    KeyDefault::Value("5s"),
    "The time limit of a TCP probe. A probe must end before the next one of its target is due: a limit above check_interval \
     less 10 % (at most 500ms) is lowered to that.",
);

pub(super) static HTTP_TIMEOUT: Setting<Duration> = Setting::new(
    "member.checks.http_timeout",
    &PROBE_LIMIT,
    KeyDefault::Value("10s"),
    "The time limit of an HTTP probe including redirects. Lowered in the same way as tcp_timeout.",
);

pub(super) static HTTP_ENDPOINTS: Setting<Vec<String>> = Setting::new(
    "member.checks.http_endpoints",
    &List { item: &Endpoint, most: 32 },
    KeyDefault::Value("/health,/metrics"),
    "The paths to request from each peer; an empty list disables HTTP probes.",
);

pub(super) static HTTP_OK_STATUS: Setting<StatusRanges> = Setting::new(
    "member.checks.http_ok_status",
    &Statuses,
    KeyDefault::Value("100-499"),
    "The HTTP statuses that count as connected.",
);

pub(super) static HTTP_BODY_LIMIT: Setting<usize> = Setting::new(
    "member.checks.http_body_limit",
    &Size { from: 1024, to: 1024 * 1024 },
    KeyDefault::Value("16KiB"),
    "How much of the body of an answer an HTTP probe reads before it closes the connection.",
);

pub(super) static MAX_IN_FLIGHT: Setting<NonZeroUsize> = Setting::new(
    "member.checks.max_in_flight",
    &CONNECTIONS,
    KeyDefault::Unset,
    "The maximum number of probes in flight; null computes it from the limit on file descriptors.",
);

pub(super) static LOG_LEVEL: Setting<LogLevel> =
    Setting::new("log.level", &Level, KeyDefault::Value("info"), "Which events are logged.").variable("LOG_LEVEL");

pub(super) static LOG_FORMAT: Setting<LogFormat> = Setting::new(
    "log.format",
    &Choice(&[("auto", LogFormat::Auto), ("text", LogFormat::Text), ("json", LogFormat::Json)]),
    KeyDefault::Value("auto"),
    "The format of log messages: auto means the native protocol of the journal if stderr is the journal, and text otherwise.",
)
.variable("LOG_FORMAT");
