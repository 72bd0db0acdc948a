//! From file and environment to the settings of one role, with the checks that concern more than one key: time limits
//! and the interval, the listener and the registered address, the places a password may come from, and whether there is
//! a Redis at all.
//!
//! Each function asks for all of its keys before it returns a fault of one, so that one run finds every fault.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::environment::{self, Environment};
use super::fault::{ConfigFaults, Fault, shown};
use super::file::{ConfigFile, Unreadable, read_text};
use super::form::network::{AdvertisePort, AdvertiseSource, PortSource};
use super::form::text::SecretText;
use super::form::time;
use super::keys::{self, ServerKeys, Setting};
use super::settings::{
    Advertise, Checks, Intervals, LogSettings, MemberSettings, RedisSettings, RegistryLink, RegistrySettings, Role,
    Secret, ServerSettings, longest_probe,
};
use super::source::{Effective, Faulty, Found, Reader, Source, default_of};
use crate::wire::member_address;

/// The name of the systemd credential that holds the password of Redis.
const CREDENTIAL: &str = "redis-password";

/// The largest file with a password that is read, in bytes.
const PASSWORD_FILE_MAX: u64 = 64 * 1024;

/// Settings, and where they came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded<T> {
    /// The settings.
    pub settings: T,
    /// The file that was read.
    pub file: Option<PathBuf>,
    /// What is valid but unlikely to be meant, each a line for the log.
    pub warnings: Vec<String>,
    /// The value in force of each key, in the order of [`keys()`](super::keys()); without Redis, `registry.redis` is
    /// null in place of its keys.
    pub effective: Vec<Effective>,
}

/// Reads the settings of a registry.
///
/// `path` is the file the operator named, which must exist. Without it `default_file` is read where it exists;
/// otherwise the settings come from environment and defaults, and the registry uses the embedded store.
///
/// # Errors
///
/// Every fault of file and environment.
pub fn load_registry(
    path: Option<&Path>,
    default_file: &Path,
    environment: &Environment,
) -> Result<Loaded<RegistrySettings>, ConfigFaults> {
    registry(open(path, default_file)?.as_ref(), environment)
}

/// Reads the settings of a member.
///
/// `path` is the file the operator named, which must exist. Without it `default_file` is read where it exists;
/// otherwise the environment must set the location of the member and the URL of its registry.
///
/// # Errors
///
/// Every fault of file and environment.
pub fn load_member(
    path: Option<&Path>,
    default_file: &Path,
    environment: &Environment,
) -> Result<Loaded<MemberSettings>, ConfigFaults> {
    member(open(path, default_file)?.as_ref(), environment)
}

/// The address on which a daemon of this role listens according to its configuration, for a client on the same host.
///
/// A running daemon may have read another file than the one that is there now. So the faults of host and port are
/// returned beside the address, which has the default in place of a faulty value; faults of other keys are left out.
#[must_use]
pub fn listening_address(
    role: Role,
    path: Option<&Path>,
    environment: &Environment,
) -> (SocketAddr, Option<ConfigFaults>) {
    let (file, unreadable) = match open(path, role.default_file()) {
        Ok(file) => (file, None),
        Err(faults) => (None, Some(faults)),
    };
    let keys = match role {
        Role::Registry => &keys::REGISTRY_SERVER,
        Role::Member => &keys::MEMBER_SERVER,
    };
    let mut reader = Reader::new(role, file.as_ref(), environment);
    let (host, port) = (reader.optional(&keys.host), reader.value(&keys.port));
    let (_, _, faults) = reader.finish();
    let ours = |fault: &Fault| keys.host.is_named(&fault.subject) || keys.port.is_named(&fault.subject);
    let faults = ConfigFaults::collect(faults.into_iter().filter(ours).collect());
    let host = host.ok().flatten().unwrap_or(Ipv6Addr::UNSPECIFIED.into());
    let port = port.unwrap_or_else(|Faulty| default_of(&keys.port).expect("a server has a default port"));
    (SocketAddr::new(host, port.get()), unreadable.or(faults))
}

fn open(path: Option<&Path>, default_file: &Path) -> Result<Option<ConfigFile>, ConfigFaults> {
    match path {
        Some(path) => ConfigFile::read(path).map(Some),
        None => match std::fs::metadata(default_file) {
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            _ => ConfigFile::read(default_file).map(Some),
        },
    }
}

/// The settings of a registry from a file that has been read, and the environment.
///
/// # Errors
///
/// Every fault of the file, its section for the registry, and the variables.
pub fn registry_from(file: &ConfigFile, environment: &Environment) -> Result<Loaded<RegistrySettings>, ConfigFaults> {
    registry(Some(file), environment)
}

/// The settings of a member from a file that has been read, and the environment.
///
/// # Errors
///
/// Every fault of the file, its section for the member, and the variables.
pub fn member_from(file: &ConfigFile, environment: &Environment) -> Result<Loaded<MemberSettings>, ConfigFaults> {
    member(Some(file), environment)
}

pub(super) fn registry(
    file: Option<&ConfigFile>,
    environment: &Environment,
) -> Result<Loaded<RegistrySettings>, ConfigFaults> {
    let mut reader = Reader::new(Role::Registry, file, environment);
    let settings = registry_settings(&mut reader);
    finish(reader, file, settings, Vec::new())
}

pub(super) fn member(
    file: Option<&ConfigFile>,
    environment: &Environment,
) -> Result<Loaded<MemberSettings>, ConfigFaults> {
    let mut reader = Reader::new(Role::Member, file, environment);
    let settings = member_settings(&mut reader);
    let unused: Vec<_> = keys::UNUSED_REDIS
        .iter()
        .filter(|key| reader.mentions(key.path) || environment::value(environment, &key.environment()).is_some())
        .map(|key| key.path)
        .collect();
    let warnings = match unused.as_slice() {
        [] => Vec::new(),
        unused => vec![format!("set but unused, a member talks to the registry only: {}", unused.join(", "))],
    };
    finish(reader, file, settings, warnings)
}

pub(super) fn finish<T>(
    reader: Reader<'_>,
    file: Option<&ConfigFile>,
    settings: Result<T, Faulty>,
    more_warnings: Vec<String>,
) -> Result<Loaded<T>, ConfigFaults> {
    let (effective, mut warnings, faults) = reader.finish();
    warnings.extend(more_warnings);
    match (ConfigFaults::collect(faults), settings) {
        (Some(faults), _) => Err(faults),
        (None, Ok(settings)) => Ok(Loaded { settings, file: file.map(|file| file.path.clone()), warnings, effective }),
        (None, Err(Faulty)) => unreachable!("the reader records a fault wherever it returns Faulty"),
    }
}

fn registry_settings(reader: &mut Reader<'_>) -> Result<RegistrySettings, Faulty> {
    let redis = redis(reader);
    let server = server(reader, &keys::REGISTRY_SERVER);
    let member_ttl = reader.value(&keys::MEMBER_TTL);
    let cleanup_interval = reader.value(&keys::CLEANUP_INTERVAL);
    let allowed_networks = reader.value(&keys::ALLOWED_NETWORKS);
    let max_members = reader.value(&keys::MAX_MEMBERS);
    let log = log(reader);
    Ok(RegistrySettings {
        redis: redis?,
        server: server?,
        member_ttl: member_ttl?,
        cleanup_interval: cleanup_interval?,
        allowed_networks: allowed_networks?,
        max_members: max_members?,
        log: log?,
    })
}

fn redis(reader: &mut Reader<'_>) -> Result<Option<RedisSettings>, Faulty> {
    if !reader.wants_section("registry.redis") {
        reader.note_absent("registry.redis");
        return Ok(None);
    }
    let host = reader.value(&keys::REDIS_HOST);
    let port = reader.value(&keys::REDIS_PORT);
    let db = reader.value(&keys::REDIS_DB);
    let username = reader.optional(&keys::REDIS_USERNAME);
    let password = password(reader);
    let timeout = reader.value(&keys::REDIS_TIMEOUT);
    Ok(Some(RedisSettings {
        host: host?,
        port: port?,
        db: db?,
        username: username?,
        password: password?,
        timeout: timeout?,
    }))
}

/// The password of Redis. A variable overrides the file, and both override the credential.
fn password(reader: &mut Reader<'_>) -> Result<Option<Secret>, Faulty> {
    let (password, file) = (reader.look(&keys::REDIS_PASSWORD), reader.look(&keys::REDIS_PASSWORD_FILE));
    let (password, file) = (password?, file?);
    reader.note(&keys::REDIS_PASSWORD_FILE, file.as_ref());
    let by_variable = |source: &Source| matches!(source, Source::Environment(_));
    let found = match (password, file) {
        (Some(password), Some(file)) if by_variable(&password.source) == by_variable(&file.source) => {
            let problem = format!("expected either this or {}, got both", keys::REDIS_PASSWORD.path);
            reader.fault(&keys::REDIS_PASSWORD_FILE, &file.source, problem);
            return Err(Faulty);
        }
        (Some(password), file) if by_variable(&password.source) || file.is_none() => Some(password),
        (_, Some(file)) => match secret_of(&file.value) {
            Ok(Some(value)) => Some(Found { value, source: Source::PasswordFile(file.value) }),
            Ok(None) => {
                let problem = format!("expected the password in {}, got no such file", file.value.display());
                reader.fault(&keys::REDIS_PASSWORD_FILE, &file.source, problem);
                return Err(Faulty);
            }
            Err(problem) => {
                reader.fault(&keys::REDIS_PASSWORD_FILE, &file.source, problem);
                return Err(Faulty);
            }
        },
        (_, None) => credential(reader)?,
    };
    reader.note(&keys::REDIS_PASSWORD, found.as_ref());
    Ok(found.map(|found| found.value))
}

fn credential(reader: &mut Reader<'_>) -> Result<Option<Found<Secret>>, Faulty> {
    let Some(directory) = environment::value(reader.environment, "CREDENTIALS_DIRECTORY") else { return Ok(None) };
    let source = Source::Credential(CREDENTIAL);
    match secret_of(&Path::new(directory).join(CREDENTIAL)) {
        Ok(secret) => Ok(secret.map(|value| Found { value, source })),
        Err(problem) => {
            reader.fault(&keys::REDIS_PASSWORD, &source, problem);
            Err(Faulty)
        }
    }
}

/// The secret in a file, without the line break at its end; none where there is no such file.
fn secret_of(path: &Path) -> Result<Option<Secret>, String> {
    let wrong = |what: String| format!("expected the password in {}, {what}", path.display());
    let text = match read_text(path, PASSWORD_FILE_MAX) {
        Ok(text) => text,
        Err(Unreadable::Io(e)) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(wrong(format!("which {e}"))),
    };
    let line = text.strip_suffix('\n').unwrap_or(&text);
    SecretText::secret(line.strip_suffix('\r').unwrap_or(line)).map(Some).map_err(wrong)
}

fn server(reader: &mut Reader<'_>, keys: &ServerKeys) -> Result<ServerSettings, Faulty> {
    let host = reader.optional(&keys.host);
    let port = reader.value(&keys.port);
    let max_connections = reader.optional(&keys.max_connections);
    Ok(ServerSettings { host: host?, port: port?, max_connections: max_connections? })
}

fn log(reader: &mut Reader<'_>) -> Result<LogSettings, Faulty> {
    let level = reader.value(&keys::LOG_LEVEL);
    let format = reader.value(&keys::LOG_FORMAT);
    Ok(LogSettings { level: level?, format: format? })
}

fn member_settings(reader: &mut Reader<'_>) -> Result<MemberSettings, Faulty> {
    let location = reader.value(&keys::LOCATION);
    let instance_id = reader.optional(&keys::INSTANCE_ID);
    let url = reader.value(&keys::REGISTRY_URL);
    let timeout = reader.value(&keys::REGISTRY_TIMEOUT);
    let poll = reader.value(&keys::POLL_INTERVAL);
    let check = reader.value(&keys::CHECK_INTERVAL);
    let heartbeat = reader.value(&keys::HEARTBEAT_INTERVAL);
    let server = server(reader, &keys::MEMBER_SERVER);
    let advertise_ip = advertise_ip(reader);
    let advertise_port = advertise_port(reader);
    if let (Ok(server), Ok(advertised), Ok(url)) = (&server, &advertise_ip, &url) {
        warn_about_unreachable_address(reader, server.host, advertised, &url.host);
    }
    let tcp_timeout = probe_limit(reader, &keys::TCP_TIMEOUT, check);
    let http_timeout = probe_limit(reader, &keys::HTTP_TIMEOUT, check);
    let http_endpoints = reader.value(&keys::HTTP_ENDPOINTS);
    let http_ok_status = reader.value(&keys::HTTP_OK_STATUS);
    let http_body_limit = reader.value(&keys::HTTP_BODY_LIMIT);
    let max_in_flight = reader.optional(&keys::MAX_IN_FLIGHT);
    let log = log(reader);
    Ok(MemberSettings {
        location: location?,
        instance_id: instance_id?,
        registry: RegistryLink { url: url?, timeout: timeout? },
        intervals: Intervals { poll: poll?, check: check?, heartbeat: heartbeat? },
        server: server?,
        advertise_ip: advertise_ip?.value,
        advertise_port: advertise_port?,
        checks: Checks {
            tcp_timeout: tcp_timeout?,
            http_timeout: http_timeout?,
            http_endpoints: http_endpoints?,
            http_ok_status: http_ok_status?,
            http_body_limit: http_body_limit?,
            max_in_flight: max_in_flight?,
        },
        log: log?,
    })
}

/// The time limit of a probe, lowered where it leaves no margin to the check interval.
fn probe_limit(
    reader: &mut Reader<'_>,
    setting: &Setting<Duration>,
    check_interval: Result<Duration, Faulty>,
) -> Result<Duration, Faulty> {
    let mut found = reader.look_or_default(setting)?;
    let interval = check_interval?;
    let longest = longest_probe(interval);
    if found.value > longest {
        if found.source != Source::Default {
            let text = format!(
                "{} is too long for {} {}, because a probe must end before the next one of its target is due; the \
                 limit in force is {}",
                time(found.value),
                keys::CHECK_INTERVAL.path,
                time(interval),
                time(longest)
            );
            reader.warn(setting, &found.source, text);
        }
        found.value = longest;
    }
    reader.note(setting, Some(&found));
    Ok(found.value)
}

fn advertise_ip(reader: &mut Reader<'_>) -> Result<Found<Advertise>, Faulty> {
    let Found { value, source } = reader.found(&keys::ADVERTISE_IP)?;
    let name = match value {
        AdvertiseSource::Auto => return Ok(Found { value: Advertise::Auto, source }),
        AdvertiseSource::Address(ip) => return Ok(Found { value: Advertise::Address(ip), source }),
        AdvertiseSource::Variable(name) => name,
    };
    let held = environment::named(reader.environment, &name);
    let got = match held.map(member_address) {
        Some(Ok(ip)) => return Ok(Found { value: Advertise::Address(ip), source }),
        Some(Err(why)) => format!("{}{}", held.map_or_else(String::new, shown), why.advice()),
        None => "nothing".into(),
    };
    let problem = format!("expected the variable {name} to hold the IPv4 or IPv6 address of one host, got {got}");
    reader.fault(&keys::ADVERTISE_IP, &source, problem);
    Err(Faulty)
}

fn advertise_port(reader: &mut Reader<'_>) -> Result<Option<NonZeroU16>, Faulty> {
    let found = reader.look(&keys::ADVERTISE_PORT)?;
    reader.note(&keys::ADVERTISE_PORT, found.as_ref());
    let Some(Found { value, source }) = found else { return Ok(None) };
    let name = match value {
        PortSource::Port(port) => return Ok(Some(port)),
        PortSource::Variable(name) => name,
    };
    let held = environment::named(reader.environment, &name);
    if let Some(port) = held.and_then(AdvertisePort::of_text) {
        return Ok(Some(port));
    }
    let held = held.map_or("nothing".into(), shown);
    let problem = format!("expected the variable {name} to hold a whole number from 1 to 65535, got {held}");
    reader.fault(&keys::ADVERTISE_PORT, &source, problem);
    Err(Faulty)
}

/// Warns where the address that the member registers is not one that its listener can be reached at. It compares the
/// families and the loopback interface only: another address of the same family may lead here through a NAT.
fn warn_about_unreachable_address(
    reader: &mut Reader<'_>,
    host: Option<IpAddr>,
    advertised: &Found<Advertise>,
    registry: &str,
) {
    let Some(host) = host else { return };
    match advertised.value {
        Advertise::Address(ip) => {
            if let Some(text) = why_unreachable(host, ip) {
                reader.warn(&keys::ADVERTISE_IP, &advertised.source, text);
            }
        }
        Advertise::Auto => {
            if let Some(text) = registry.parse().ok().and_then(|registry| why_none_to_register(host, registry)) {
                let source = reader.source_of(&keys::MEMBER_SERVER.host);
                reader.warn(&keys::MEMBER_SERVER.host, &source, text);
            }
        }
    }
}

/// Why the other members cannot connect to `ip`, where the member listens on `host`.
fn why_unreachable(host: IpAddr, ip: IpAddr) -> Option<String> {
    let ours = keys::MEMBER_SERVER.host.path;
    if host.is_loopback() && !ip.is_loopback() {
        return Some(format!(
            "{ip} cannot be reached by the other members, because {ours} is {host} and accepts connections of this host \
             only; set {ours} to an address that the others can reach, or leave it unset"
        ));
    }
    if ip.is_loopback() && !host.is_loopback() && !host.is_unspecified() {
        return Some(format!(
            "{ip} cannot be reached by any member, because {ours} is {host} and does not listen there; register {host} \
             or leave {ours} unset"
        ));
    }
    (!accepts(host, ip)).then(|| {
        let family = family(host);
        format!(
            "{ip} cannot be reached by the other members, because {ours} is {host} and accepts {family} only; leave \
             {ours} unset to accept both IPv4 and IPv6, or register an {family} address"
        )
    })
}

/// Why there is no address to register that other members can reach, where the member listens on `host` and reaches its
/// registry at `registry`.
fn why_none_to_register(host: IpAddr, registry: IpAddr) -> Option<String> {
    let (ours, advertise) = (keys::MEMBER_SERVER.host.path, keys::ADVERTISE_IP.path);
    // With the registry on another host there are members on other hosts, too.
    if host.is_loopback() && !registry.is_loopback() {
        return Some(format!(
            "{host} is the address that would be registered, which members on other hosts cannot reach; set {ours} to an \
             address that they can reach, or leave it unset"
        ));
    }
    (host.is_unspecified() && !accepts(host, registry)).then(|| {
        let (listener, registry) = (family(host), family(registry));
        format!(
            "{host} accepts {listener} only and the registry is reached by {registry}, so there is no address to \
             register; leave {ours} unset to accept both IPv4 and IPv6, or set {advertise} to an {listener} address"
        )
    })
}

/// Whether a listener at `host` is of a family that accepts connections to `ip`: `::` accepts both.
fn accepts(host: IpAddr, ip: IpAddr) -> bool {
    host == IpAddr::V6(Ipv6Addr::UNSPECIFIED) || host.is_ipv4() == ip.is_ipv4()
}

fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}
