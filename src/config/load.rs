//! From file and environment to the settings of one role, with what concerns more than one key: time limits against
//! the interval, the places a password may come from, and whether there is a Redis at all.
//!
//! Each function asks for all of its keys before it gives up over one, so that every fault is found in one run.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::fault::{ConfigFaults, Fault, shown};
use super::file::{ConfigFile, Unreadable, read_text};
use super::form::network::AdvertiseSource;
use super::form::text::SecretText;
use super::form::time;
use super::keys::{self, ServerKeys, Setting};
use super::source::{Faulty, Found, Reader, Source, default_of};
use super::{
    Advertise, Checks, Environment, Intervals, Loaded, LogSettings, MemberSettings, RedisSettings, RegistryLink,
    RegistrySettings, Role, Secret, ServerSettings, environment,
};
use crate::wire::member_address;

/// The name of the systemd credential that holds the password of Redis.
const CREDENTIAL: &str = "redis-password";

/// The largest file with a password that is read, in bytes.
const PASSWORD_FILE_MAX: u64 = 64 * 1024;

/// Reads what a registry runs by.
///
/// `path` is the file the operator named, which must exist. Without it `default_file` is read where it exists;
/// otherwise environment and defaults make a registry with the embedded store.
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

/// Reads what a member runs by.
///
/// `path` is the file the operator named, which must exist. Without it `default_file` is read where it exists;
/// otherwise the environment must say where the member is and where its registry.
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

/// Where a daemon of this role listens by its configuration, for whoever wants to speak to it on its own host.
///
/// A daemon that runs may have read another file than the one that is there now. So what is wrong with it is passed on
/// beside the address, with the default in the place of what cannot be read; what concerns other keys is left out.
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
    let (host, port) = (reader.value(&keys.host), reader.value(&keys.port));
    let (_, _, faults) = reader.finish();
    let ours = |fault: &Fault| keys.host.is_named(&fault.subject) || keys.port.is_named(&fault.subject);
    let faults = ConfigFaults::collect(faults.into_iter().filter(ours).collect());
    let host = host.unwrap_or_else(|Faulty| default(&keys.host));
    let port = port.unwrap_or_else(|Faulty| default(&keys.port));
    (SocketAddr::new(host, port.get()), unreadable.or(faults))
}

fn default<T>(setting: &Setting<T>) -> T {
    default_of(setting).expect("a server has a default address")
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
        unused => vec![format!("set but unused, a member speaks to the registry alone: {}", unused.join(", "))],
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
        (None, Err(Faulty)) => unreachable!("whoever finds a value faulty notes why"),
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

/// The password of Redis. What a variable says goes before what the file says, and both before the credential.
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
    let host = reader.value(&keys.host);
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
    let advertise_ip = advertise(reader);
    let tcp_timeout = probe_limit(reader, &keys::TCP_TIMEOUT, check);
    let http_timeout = probe_limit(reader, &keys::HTTP_TIMEOUT, check);
    let http_endpoints = reader.value(&keys::HTTP_ENDPOINTS);
    let http_ok_status = reader.value(&keys::HTTP_OK_STATUS);
    let max_in_flight = reader.optional(&keys::MAX_IN_FLIGHT);
    let log = log(reader);
    Ok(MemberSettings {
        location: location?,
        instance_id: instance_id?,
        registry: RegistryLink { url: url?, timeout: timeout? },
        intervals: Intervals { poll: poll?, check: check?, heartbeat: heartbeat? },
        server: server?,
        advertise_ip: advertise_ip?,
        checks: Checks {
            tcp_timeout: tcp_timeout?,
            http_timeout: http_timeout?,
            http_endpoints: http_endpoints?,
            http_ok_status: http_ok_status?,
            max_in_flight: max_in_flight?,
        },
        log: log?,
    })
}

/// A probe ends before the next one of its target is due.
fn probe_limit(
    reader: &mut Reader<'_>,
    setting: &Setting<Duration>,
    check_interval: Result<Duration, Faulty>,
) -> Result<Duration, Faulty> {
    let found = reader.found_or(setting, |default| default.min(check_interval.unwrap_or(default)))?;
    let interval = check_interval?;
    if found.value > interval {
        let problem = format!(
            "expected a time limit of at most {} ({}), got {}",
            keys::CHECK_INTERVAL.path,
            time(interval),
            time(found.value)
        );
        reader.fault(setting, &found.source, problem);
        return Err(Faulty);
    }
    Ok(found.value)
}

fn advertise(reader: &mut Reader<'_>) -> Result<Advertise, Faulty> {
    let found = reader.found(&keys::ADVERTISE_IP)?;
    let name = match found.value {
        AdvertiseSource::Auto => return Ok(Advertise::Auto),
        AdvertiseSource::Address(ip) => return Ok(Advertise::Address(ip)),
        AdvertiseSource::Variable(name) => name,
    };
    let held = environment::value(reader.environment, &name);
    if let Some(ip) = held.and_then(member_address) {
        return Ok(Advertise::Address(ip));
    }
    let held = held.map_or("nothing".into(), shown);
    let problem = format!("expected the variable {name} to hold the IPv4 or IPv6 address of one host, got {held}");
    reader.fault(&keys::ADVERTISE_IP, &found.source, problem);
    Err(Faulty)
}
