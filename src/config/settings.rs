//! The settings of each role, as plain values that are in range and fit together.

use std::fmt;
use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroUsize};
use std::path::Path;
use std::time::Duration;

use ipnet::IpNet;

use super::level::LogLevel;
use crate::probe::StatusRanges;
use crate::wire::{InstanceId, Location};

/// Which of the two daemons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The daemon that keeps the roster.
    Registry,
    /// The daemon that probes the others.
    Member,
}

impl Role {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Registry, Self::Member];

    /// The name of its section in the file.
    #[must_use]
    pub const fn section(self) -> &'static str {
        match self {
            Self::Registry => "registry",
            Self::Member => "member",
        }
    }

    /// The file that is read if the operator names none.
    #[must_use]
    pub fn default_file(self) -> &'static Path {
        Path::new(match self {
            Self::Registry => "/etc/netring/registry.yaml",
            Self::Member => "/etc/netring/member.yaml",
        })
    }

    pub(super) const fn other(self) -> Self {
        match self {
            Self::Registry => Self::Member,
            Self::Member => Self::Registry,
        }
    }
}

/// The settings of a registry.
#[derive(Clone, Debug, PartialEq)]
pub struct RegistrySettings {
    /// The shared store; without it, the roster is kept in the embedded store.
    pub redis: Option<RedisSettings>,
    /// The address and port to listen on.
    pub server: ServerSettings,
    /// How long a member stays on the roster after its last heartbeat.
    pub member_ttl: Duration,
    /// How often expired members are removed from the store.
    pub cleanup_interval: Duration,
    /// The networks in which members may register addresses; empty allows all addresses.
    pub allowed_networks: Vec<IpNet>,
    /// The maximum number of members of the ring.
    pub max_members: NonZeroUsize,
    /// What is logged.
    pub log: LogSettings,
}

/// The connection to Redis.
#[derive(Clone, Debug, PartialEq)]
pub struct RedisSettings {
    /// Name or address of the host, or, if it starts with a slash, the path of a Unix socket.
    pub host: String,
    /// TCP port; not used with a Unix socket.
    pub port: NonZeroU16,
    /// Database number.
    pub db: u32,
    /// User name (ACL user).
    pub username: Option<String>,
    /// Password, from the file, the environment, `password_file` or the systemd credential `redis-password`.
    pub password: Option<Secret>,
    /// How long to wait for an answer of Redis.
    pub timeout: Duration,
}

/// The listener of a daemon.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerSettings {
    /// The address to listen on, never an IPv4 address in IPv6 notation. `::` accepts IPv4 and IPv6, `0.0.0.0` only
    /// IPv4. `None` means all addresses of the host: IPv4 and IPv6, or only IPv4 if the host has no IPv6.
    pub host: Option<IpAddr>,
    /// The port to listen on.
    pub port: NonZeroU16,
    /// The maximum number of open connections; `None` computes it from the limit on file descriptors.
    pub max_connections: Option<NonZeroUsize>,
}

/// The settings of a member.
#[derive(Clone, Debug, PartialEq)]
pub struct MemberSettings {
    /// The name of its site.
    pub location: Location,
    /// Its identity; without one, it generates one and stores it.
    pub instance_id: Option<InstanceId>,
    /// The connection to the registry.
    pub registry: RegistryLink,
    /// Its intervals.
    pub intervals: Intervals,
    /// The address and port to listen on.
    pub server: ServerSettings,
    /// The address to register.
    pub advertise_ip: Advertise,
    /// The port to register; `None` means the port it listens on.
    pub advertise_port: Option<NonZeroU16>,
    /// The checks and their limits.
    pub checks: Checks,
    /// What is logged.
    pub log: LogSettings,
}

/// The connection to the registry.
#[derive(Clone, Debug, PartialEq)]
pub struct RegistryLink {
    /// Base URL, such as `http://registry.us1.company.com:8756`, without a slash at its end.
    pub url: RegistryUrl,
    /// The time limit of a request to the registry.
    pub timeout: Duration,
}

/// The base URL of a registry: `http://HOST[:PORT][/PATH]`, without a slash at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryUrl {
    /// The whole URL, such as `http://[2001:db8::1]:8756`.
    pub base: String,
    /// The host alone, without brackets; never an IPv4 address in IPv6 notation.
    pub host: String,
    /// The port; 80 if the URL names none.
    pub port: u16,
}

/// The intervals of a member. Each is 1 s to 1 day.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Intervals {
    /// How often it requests the roster; with long polls, how long the registry may delay the answer.
    pub poll: Duration,
    /// How often it probes each target.
    pub check: Duration,
    /// How often it renews its lease.
    pub heartbeat: Duration,
}

/// The address a member registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advertise {
    /// The source address that this host uses to reach the registry, or the address it listens on if that is a single one.
    Auto,
    /// This address; `env:NAME` has been looked up already.
    Address(IpAddr),
}

/// The checks of a member and their limits.
#[derive(Clone, Debug, PartialEq)]
pub struct Checks {
    /// Time limit of one TCP probe; at most [`longest_probe`] of the check interval.
    pub tcp_timeout: Duration,
    /// Time limit of one HTTP probe, all phases and redirects together; at most [`longest_probe`] of the check interval.
    pub http_timeout: Duration,
    /// The paths to request, each starting with a slash.
    pub http_endpoints: Vec<String>,
    /// The HTTP statuses that count as connected.
    pub http_ok_status: StatusRanges,
    /// How many bytes of an answer's body an HTTP probe reads before it closes the connection.
    pub http_body_limit: usize,
    /// The maximum number of probes in flight; `None` computes it from the limit on file descriptors.
    pub max_in_flight: Option<NonZeroUsize>,
}

/// The longest time limit of a probe that is made once in each `interval`: the interval less a tenth of it, and never
/// less by more than 500 ms. A probe that takes its whole limit has then ended when the next one of its target is due;
/// without the margin that next one would be skipped.
#[must_use]
pub fn longest_probe(interval: Duration) -> Duration {
    const MARGIN_MAX: Duration = Duration::from_millis(500);
    interval - (interval / 10).min(MARGIN_MAX)
}

/// The log settings of a daemon.
#[derive(Clone, Debug, PartialEq)]
pub struct LogSettings {
    /// Which events are logged.
    pub level: LogLevel,
    /// The format of the log messages.
    pub format: LogFormat,
}

/// The format of log messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// The native protocol of the journal if stderr is the journal, text otherwise.
    Auto,
    /// Text for people.
    Text,
    /// One JSON object per line.
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
