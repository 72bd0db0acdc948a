//! YAML and environment to checked values: whoever holds settings holds values that are in range and fit together.
//!
//! A role's settings come from its file, over that from environment variables, and from defaults for the rest
//! ([`load_registry`], [`load_member`]). It is strict: an unknown key, a value of the wrong type or out of range, a key
//! that is there twice or not at all is a fault, and one run reports all of them with line and column
//! ([`ConfigFaults`]). A command that meets one ends with exit code 78 and changes nothing.
//!
//! The rooms behind this door, from text to meaning: `yaml` makes a tree with positions, `file` reads it, `environment`
//! knows the variables, `keys` is the one table of settings and `form` what their values look like, `source` finds the
//! value of one key and keeps the faults, `load` puts the settings together.

mod environment;
mod fault;
mod file;
mod form;
mod keys;
mod load;
mod nearest;
mod source;
#[cfg(test)]
mod tests;
mod yaml;

use std::fmt;
use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;

use crate::wire::{InstanceId, Location};

pub use environment::{Environment, environment};
pub use fault::{ConfigFaults, Fault, Place, Position};
pub use file::ConfigFile;
pub use form::network::Unusable;
pub use form::parse_duration;
pub use keys::{Key, KeyDefault, keys};
pub use load::{listening_address, load_member, load_registry};
pub use source::Source;

/// Whose settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The daemon that hands out the roster.
    Registry,
    /// A daemon of the ring.
    Member,
}

impl Role {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Registry, Self::Member];

    /// The section of the file that is its own.
    #[must_use]
    pub const fn section(self) -> &'static str {
        match self {
            Self::Registry => "registry",
            Self::Member => "member",
        }
    }

    /// The file that is read where the operator names none.
    #[must_use]
    pub fn default_file(self) -> &'static Path {
        Path::new(match self {
            Self::Registry => "/etc/netring/registry.yaml",
            Self::Member => "/etc/netring/member.yaml",
        })
    }

    const fn other(self) -> Self {
        match self {
            Self::Registry => Self::Member,
            Self::Member => Self::Registry,
        }
    }
}

/// Settings, and how they came about.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded<T> {
    /// What to run by.
    pub settings: T,
    /// The file that was read.
    pub file: Option<PathBuf>,
    /// What the operator should know though nothing is wrong, each a line for the log.
    pub warnings: Vec<String>,
    /// What is in force, key by key, in the order of [`keys()`]; where there is no Redis, `registry.redis` is null
    /// in place of its keys.
    pub effective: Vec<Effective>,
}

/// One key as it is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    /// Its path.
    pub key: &'static str,
    /// Its value as the file could hold it; a secret is masked.
    pub value: String,
    /// Where it came from.
    pub source: Source,
}

/// What the registry runs by.
#[derive(Clone, Debug, PartialEq)]
pub struct RegistrySettings {
    /// The shared store; without one the embedded store keeps the roster.
    pub redis: Option<RedisSettings>,
    /// Where it listens.
    pub server: ServerSettings,
    /// How long a member stays on the roster after its last heartbeat.
    pub member_ttl: Duration,
    /// How often the sweep tidies.
    pub cleanup_interval: Duration,
    /// The networks a member may register an address of; empty means any.
    pub allowed_networks: Vec<IpNet>,
    /// How many members the ring may have.
    pub max_members: NonZeroUsize,
    /// What it says of itself.
    pub log: LogSettings,
}

/// How to reach Redis.
#[derive(Clone, Debug, PartialEq)]
pub struct RedisSettings {
    /// Name or address of the host, or the path of a unix socket where it starts with a slash.
    pub host: String,
    /// TCP port; unused with a unix socket.
    pub port: NonZeroU16,
    /// Database number.
    pub db: u32,
    /// User of Redis's access control list.
    pub username: Option<String>,
    /// Password, from the file, the environment, `password_file` or the systemd credential `redis-password`.
    pub password: Option<Secret>,
    /// How long one answer of Redis may take.
    pub timeout: Duration,
}

/// Where a daemon listens, and for how many.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerSettings {
    /// The address to listen on; `::` serves IPv4 and IPv6.
    pub host: IpAddr,
    /// The port to listen on.
    pub port: NonZeroU16,
    /// How many connections may be open at once; `None` sizes it from the descriptor limit.
    pub max_connections: Option<NonZeroUsize>,
}

/// What a member runs by.
#[derive(Clone, Debug, PartialEq)]
pub struct MemberSettings {
    /// The site it stands for.
    pub location: Location,
    /// Its identity; without one it makes one and keeps it.
    pub instance_id: Option<InstanceId>,
    /// How to reach the registry.
    pub registry: RegistryLink,
    /// How often it does what.
    pub intervals: Intervals,
    /// Where it listens.
    pub server: ServerSettings,
    /// The address it registers.
    pub advertise_ip: Advertise,
    /// What it probes, and with what limits.
    pub checks: Checks,
    /// What it says of itself.
    pub log: LogSettings,
}

/// How to reach the registry.
#[derive(Clone, Debug, PartialEq)]
pub struct RegistryLink {
    /// Base address, such as `http://registry.us1.company.com:8756`, without a slash at its end.
    pub url: RegistryUrl,
    /// How long one request to the registry may take.
    pub timeout: Duration,
}

/// The base address of a registry: `http://HOST[:PORT][/PATH]`, without a slash at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryUrl {
    /// The whole, such as `http://[2001:db8::1]:8756`.
    pub base: String,
    /// The host alone, without brackets.
    pub host: String,
    /// The port, 80 where the address names none.
    pub port: u16,
}

/// How often a member does what. Each is 1 s to 1 day.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Intervals {
    /// How often it asks the registry for the roster.
    pub poll: Duration,
    /// How often it probes each target.
    pub check: Duration,
    /// How often it renews its lease.
    pub heartbeat: Duration,
}

/// The address a member registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advertise {
    /// The address the kernel uses towards the registry, or the one it listens on where that is a single one.
    Auto,
    /// This address; `env:NAME` has been looked up already.
    Address(IpAddr),
}

/// What a member probes, and with what limits.
#[derive(Clone, Debug, PartialEq)]
pub struct Checks {
    /// Time limit of one TCP probe.
    pub tcp_timeout: Duration,
    /// Time limit of one HTTP probe, all phases and redirects together.
    pub http_timeout: Duration,
    /// The paths to get, each starting with a slash.
    pub http_endpoints: Vec<String>,
    /// The answers that count as connected.
    pub http_ok_status: StatusRanges,
    /// How many probes may be in flight at once; `None` sizes it from the descriptor limit.
    pub max_in_flight: Option<NonZeroUsize>,
}

/// Ranges of HTTP status codes, such as `200-299` or `200`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusRanges(pub Vec<(u16, u16)>);

impl StatusRanges {
    /// Whether `status` is in one of the ranges.
    #[must_use]
    pub fn contains(&self, status: u16) -> bool {
        self.0.iter().any(|&(first, last)| (first..=last).contains(&status))
    }
}

/// What a daemon says of itself, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct LogSettings {
    /// Which events, in tracing's filter syntax: `info`, `netring::member=debug,warn`.
    pub level: String,
    /// In which form.
    pub format: LogFormat,
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// The journal's own protocol when stderr is the journal, text otherwise.
    Auto,
    /// Text for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("********")
    }
}
