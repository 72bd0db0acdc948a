//! The shared store: a Redis used by any number of registries, and by older programs of the same name, at the same time.
//!
//! Every operation is one Lua script (`redis/*.lua`; `common.lua` lists the keys). It takes one round trip and is atomic. Leases
//! expire by ring time, which is the clock of Redis without jumps and without outages. Registries therefore do not need
//! synchronised clocks, a wrong clock expires no lease, and after an outage of Redis or of all registries every member has
//! time to send a heartbeat.
//!
//! **If Redis has lost its data** (FLUSHALL, a restart without persistence, a failover to an empty replica), it has no identity
//! in `netring:clock`. The first registry that notices this writes back the roster it remembers, with full leases and a new
//! identity, before it reads again, so no client sees an empty ring. A roster that was read more than `member_ttl` ago is not
//! written back, because all its leases have expired. If Redis has another identity than before, another registry has
//! restored it and knows better which members have left; it is read as usual.
//!
//! **Older programs** write `netring:member:<id>` and `netring:active_members` with plain commands and do not maintain the
//! index. Their changes are taken over when the sizes of the set and the index differ, and every `cleanup_interval`. Renewals
//! by them are considered when a lease is about to expire. Invalid entries are skipped and counted.
//!
//! Requires Redis 5 or later, or Valkey, with scripts enabled and read and write access to `netring:*`. Redis Cluster is not
//! supported, because the keys of one operation are in different slots.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::io::tcp::{TcpSettings, socket2};
use redis::{
    Client, ConnectionAddr, ErrorKind, FromRedisValue, IntoConnectionInfo, Pipeline, RedisConnectionInfo, RedisError,
    Script,
};
use serde_json::{Map, Value, json};

use super::{Answer, Followed, Limits, Mark, Store, StoreError};
use crate::clock;
use crate::config::RedisSettings;
use crate::registry::roster::{Admission, Candidate};
use crate::wire::{InstanceId, Member};

const CLOCK: &str = "netring:clock";
const EXPIRY: &str = "netring:expiry";
const ACTIVE: &str = "netring:active_members";
const ROSTER: &str = "netring:roster";
const REVISION: &str = "netring:revision";
const MEMBER: &str = "netring:member:";

/// The maximum number of members in one script call or pipeline, so that none blocks Redis for long.
const CHUNK: usize = 500;

/// After how many consecutive timeouts the connection counts as dead and is replaced.
const SILENT_TICKS: u32 = 3;

macro_rules! script {
    ($name:literal) => {
        Script::new(concat!(include_str!("redis/common.lua"), "\n", include_str!(concat!("redis/", $name, ".lua"))))
    };
}

/// The roster in Redis.
pub struct RedisStore {
    client: Client,
    connection: Mutex<ConnectionManager>,
    address: String,
    timeout: Duration,
    limits: Mutex<Limits>,
    remembered: Mutex<Remembered>,
    scripts: Scripts,
}

struct Scripts {
    register: Script,
    heartbeat: Script,
    deregister: Script,
    follow: Script,
    offer: Script,
    reconcile: Script,
}

/// What this registry remembers of the roster from the last time it was read.
#[derive(Default)]
struct Remembered {
    /// The identity of the data set it was read from.
    ring: String,
    members: Vec<Member>,
    /// When these were last known to be the members.
    contact: Option<Instant>,
    unusable: usize,
    reconciled: Option<Reconciled>,
    silent_ticks: u32,
}

#[derive(Clone, Copy)]
struct Reconciled {
    at: Instant,
    set: u64,
    index: u64,
}

/// The reply of `follow.lua`.
type Tick = (String, u64, String, i64, u64, u64, Vec<Vec<u8>>);

impl RedisStore {
    /// The store in the Redis of `settings`. It connects on first use, and again when the connection is lost.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unreachable`] if the settings are invalid. Must be called on a tokio runtime.
    pub fn new(settings: &RedisSettings, limits: Limits) -> Result<Self, StoreError> {
        let (address, shown) = if settings.host.starts_with('/') {
            (ConnectionAddr::Unix(PathBuf::from(&settings.host)), settings.host.clone())
        } else {
            let port = settings.port.get();
            (ConnectionAddr::Tcp(settings.host.clone(), port), format!("{}:{port}", settings.host))
        };
        let mut login = RedisConnectionInfo::default().set_db(settings.db.into());
        if let Some(username) = &settings.username {
            login = login.set_username(username);
        }
        if let Some(password) = &settings.password {
            login = login.set_password(&password.0);
        }
        let keepalive = socket2::TcpKeepalive::new()
            .with_time(Duration::from_secs(15))
            .with_interval(Duration::from_secs(5))
            .with_retries(3);
        let tcp = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
        let unusable = |e: RedisError| StoreError::Unreachable(format!("redis at {shown}: {e}"));
        let info = address.into_connection_info().map_err(unusable)?.set_redis_settings(login).set_tcp_settings(tcp);
        let client = Client::open(info).map_err(unusable)?;
        let connection = connect(&client, settings.timeout).map_err(unusable)?;
        Ok(Self {
            client,
            connection: Mutex::new(connection),
            timeout: settings.timeout,
            limits: Mutex::new(limits),
            remembered: Mutex::default(),
            scripts: Scripts {
                register: script!("register"),
                heartbeat: script!("heartbeat"),
                deregister: script!("deregister"),
                follow: script!("follow"),
                offer: script!("offer"),
                reconcile: script!("reconcile"),
            },
            address: shown,
        })
    }

    fn limits(&self) -> Limits {
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remembered(&self) -> std::sync::MutexGuard<'_, Remembered> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connection(&self) -> ConnectionManager {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn run<T: FromRedisValue>(&self, script: &Script, arguments: &[&[u8]]) -> Result<T, StoreError> {
        let ttl = u64::try_from(self.limits().member_ttl.as_millis()).unwrap_or(u64::MAX);
        let mut invocation = script.prepare_invoke();
        for key in [CLOCK, EXPIRY, ACTIVE, ROSTER, REVISION] {
            invocation.key(key);
        }
        invocation.arg(ttl);
        for argument in arguments {
            invocation.arg(*argument);
        }
        let mut connection = self.connection();
        self.within_time(invocation.invoke_async(&mut connection)).await
    }

    async fn query<T: FromRedisValue>(&self, pipeline: &Pipeline) -> Result<T, StoreError> {
        let mut connection = self.connection();
        self.within_time(pipeline.query_async(&mut connection)).await
    }

    async fn within_time<T>(&self, answer: impl Future<Output = Result<T, RedisError>>) -> Result<T, StoreError> {
        match tokio::time::timeout(self.timeout, answer).await {
            Ok(answer) => answer.map_err(|e| self.explain(&e)),
            Err(_) => Err(StoreError::Timeout(self.timeout)),
        }
    }

    fn explain(&self, e: &RedisError) -> StoreError {
        let text = format!("redis at {}: {e}", self.address);
        match e.kind() {
            _ if e.is_timeout() => StoreError::Timeout(self.timeout),
            ErrorKind::Io => StoreError::Unreachable(text),
            ErrorKind::UnexpectedReturnType | ErrorKind::Parse => StoreError::UnexpectedReply(text),
            _ => StoreError::Failed(text),
        }
    }

    async fn look(&self, known: Option<&Mark>) -> Result<Followed, StoreError> {
        let mut followed = Followed::default();
        let asked = clock::monotonic();
        loop {
            let (ring, revision, changed, left, set, index, ended): Tick = self.run(&self.scripts.follow, &[]).await?;
            if ring.is_empty() {
                self.restore().await?;
                continue;
            }
            self.check_identity(ring.clone());
            let all_ended = ended.is_empty();
            followed.expired.extend(ended.iter().filter_map(|id| std::str::from_utf8(id).ok()?.parse().ok()));
            if !all_ended {
                continue;
            }
            if self.must_reconcile(set, index) {
                self.reconcile(set, index).await?;
                continue;
            }
            followed.next_expiry = u64::try_from(left).ok().map(Duration::from_millis);
            followed.mark = mark(revision, &ring, &changed);
            if known != Some(&followed.mark) {
                let (mark, members) = self.read().await?;
                followed.mark = mark;
                followed.roster = Some(members);
            }
            let mut remembered = self.remembered();
            remembered.contact = Some(asked);
            followed.unusable = remembered.unusable;
            return Ok(followed);
        }
    }

    /// Forgets what was remembered if Redis has another data set than before.
    fn check_identity(&self, ring: String) {
        let mut remembered = self.remembered();
        if remembered.ring != ring {
            *remembered = Remembered { ring, silent_ticks: remembered.silent_ticks, ..Remembered::default() };
        }
    }

    /// Restores a Redis that has lost its data: writes back the remembered roster, unless all its leases have expired, and then a
    /// new identity. Does nothing if Redis has an identity.
    pub(super) async fn restore(&self) -> Result<(), StoreError> {
        let members: Vec<Vec<u8>> = {
            let (remembered, member_ttl) = (self.remembered(), self.limits().member_ttl);
            let age = remembered.contact.map(|contact| clock::monotonic().saturating_duration_since(contact));
            let may_be_valid = age.is_some_and(|age| age < member_ttl);
            remembered.members.iter().filter(|_| may_be_valid).map(stored).collect()
        };
        for chunk in members.chunks(CHUNK) {
            let arguments: Vec<&[u8]> = [b"".as_slice()].into_iter().chain(chunk.iter().map(Vec::as_slice)).collect();
            if !self.run::<bool>(&self.scripts.offer, &arguments).await? {
                return Ok(());
            }
        }
        let identity = uuid::Uuid::new_v4().to_string();
        if self.run::<bool>(&self.scripts.offer, &[identity.as_bytes()]).await? && !members.is_empty() {
            let members = members.len();
            tracing::warn!(members, "Redis had lost its data, restored the roster that this registry remembers");
        }
        Ok(())
    }

    async fn read(&self) -> Result<(Mark, Vec<Member>), StoreError> {
        type Roster = ((Option<String>, Option<String>), Option<u64>, Vec<(Vec<u8>, Vec<u8>)>);
        let mut pipeline = redis::pipe();
        pipeline.atomic().cmd("HMGET").arg(CLOCK).arg("ring").arg("changed");
        pipeline.cmd("GET").arg(REVISION).cmd("HGETALL").arg(ROSTER);
        let ((ring, changed), revision, entries): Roster = self.query(&pipeline).await?;
        let ring = ring.unwrap_or_default();
        let members: Vec<Member> = entries
            .iter()
            .filter_map(|(id, json)| {
                let fields = serde_json::from_slice(json).ok()?;
                Member::from_fields(&fields).ok().filter(|member| member.instance_id.as_str().as_bytes() == id)
            })
            .collect();
        let mut remembered = self.remembered();
        remembered.unusable = entries.len() - members.len();
        remembered.members.clone_from(&members);
        Ok((mark(revision.unwrap_or(0), &ring, &changed.unwrap_or_default()), members))
    }

    fn must_reconcile(&self, set: u64, index: u64) -> bool {
        match self.remembered().reconciled {
            None => true,
            Some(last) => {
                let apart = i128::from(set) - i128::from(index);
                apart != i128::from(last.set) - i128::from(last.index)
                    || clock::monotonic().saturating_duration_since(last.at) >= self.limits().cleanup_interval
            }
        }
    }

    /// Takes over members that older programs have added, removed or changed.
    async fn reconcile(&self, set: u64, index: u64) -> Result<(), StoreError> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("SMEMBERS").arg(ACTIVE).cmd("ZRANGE").arg(EXPIRY).arg(0).arg(-1);
        let (active, indexed): (HashSet<Vec<u8>>, HashSet<Vec<u8>>) = self.query(&pipeline).await?;
        let apart: Vec<&[u8]> = active.symmetric_difference(&indexed).map(Vec::as_slice).collect();
        for chunk in apart.chunks(CHUNK) {
            let _: u64 = self.run(&self.scripts.reconcile, chunk).await?;
        }
        let members = self.remembered().members.clone();
        self.seen(&members).await?;
        // Remember the sizes: a difference that remains, such as an entry without a hash, must not cause work on every tick.
        let mut pipeline = redis::pipe();
        pipeline.cmd("SCARD").arg(ACTIVE).cmd("ZCARD").arg(EXPIRY);
        let (set_now, index_now) = if apart.is_empty() { (set, index) } else { self.query(&pipeline).await? };
        self.remembered().reconciled = Some(Reconciled { at: clock::monotonic(), set: set_now, index: index_now });
        Ok(())
    }

    /// When each of `members` was last seen. Also takes over members that an older program has changed.
    async fn seen(&self, members: &[Member]) -> Result<Vec<Option<u64>>, StoreError> {
        let mut seen = Vec::with_capacity(members.len());
        for chunk in members.chunks(CHUNK) {
            let mut pipeline = redis::pipe();
            for member in chunk {
                let key = format!("{MEMBER}{}", member.instance_id);
                pipeline.cmd("HMGET").arg(key).arg(&["location", "ip", "port", "registered_at", "last_seen"]);
                // A key with a wrong type must not affect other members.
                pipeline.ignore_errors();
            }
            let found: Vec<Result<Vec<Option<Vec<u8>>>, RedisError>> = self.query(&pipeline).await?;
            let mut moved: Vec<&[u8]> = Vec::new();
            for (member, found) in chunk.iter().zip(found) {
                let now = found.ok().and_then(|values| from_hash(&member.instance_id, &values));
                seen.push(now.as_ref().map(|now| now.last_seen));
                if now.is_some_and(|now| Member { last_seen: member.last_seen, ..now } != *member) {
                    moved.push(member.instance_id.as_str().as_bytes());
                }
            }
            if !moved.is_empty() {
                let _: u64 = self.run(&self.scripts.reconcile, &moved).await?;
            }
        }
        Ok(seen)
    }

    /// Replaces the connection after several consecutive timeouts. Nothing else notices that the other end has disappeared
    /// without closing it.
    fn watch_connection(&self, outcome: &Result<Followed, StoreError>) {
        let mut remembered = self.remembered();
        match outcome {
            Err(StoreError::Timeout(_)) => remembered.silent_ticks += 1,
            _ => remembered.silent_ticks = 0,
        }
        if remembered.silent_ticks == SILENT_TICKS
            && let Ok(connection) = connect(&self.client, self.timeout)
        {
            remembered.silent_ticks = 0;
            *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = connection;
        }
    }
}

fn connect(client: &Client, timeout: Duration) -> Result<ConnectionManager, RedisError> {
    // The directory queries again every second, so the connection manager needs few retries.
    let config = ConnectionManagerConfig::new()
        .set_number_of_retries(1)
        .set_min_delay(Duration::from_millis(50))
        .set_max_delay(Duration::from_millis(200))
        .set_connection_timeout(Some(timeout))
        .set_response_timeout(None);
    ConnectionManager::new_lazy_with_config(client.clone(), config)
}

fn mark(revision: u64, ring: &str, changed: &str) -> Mark {
    Mark { revision, origin: format!("{ring}/{changed}").into() }
}

/// A member as it is stored in `netring:roster`.
fn stored(member: &Member) -> Vec<u8> {
    let text = json!({
        "instance_id": member.instance_id, "location": member.location, "ip": member.ip, "port": member.port.to_string(),
        "registered_at": member.registered_at.to_string(), "last_seen": member.last_seen.to_string(),
    });
    text.to_string().into_bytes()
}

/// A member from the fields of its hash, in the order of the query in [`RedisStore::seen`].
fn from_hash(id: &InstanceId, values: &[Option<Vec<u8>>]) -> Option<Member> {
    let mut fields = Map::new();
    fields.insert("instance_id".into(), id.as_str().into());
    for (name, value) in ["location", "ip", "port", "registered_at", "last_seen"].into_iter().zip(values) {
        let text = std::str::from_utf8(value.as_deref()?).ok()?;
        fields.insert(name.into(), Value::from(text));
    }
    Member::from_fields(&fields).ok()
}

impl Store for RedisStore {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn register(&self, candidate: Candidate) -> Answer<'_, Admission> {
        Box::pin(async move {
            let Candidate { instance_id, location, ip, port } = candidate;
            let max_members = self.limits().max_members.get();
            let (ip, port, max) = (ip.to_string(), port.to_string(), max_members.to_string());
            let arguments = [instance_id.as_str(), location.as_str(), &ip, &port, &max].map(str::as_bytes);
            let answer: String = self.run(&self.scripts.register, &arguments).await?;
            match answer.as_str() {
                "joined" => Ok(Admission::Joined),
                "moved" => Ok(Admission::Moved),
                "renewed" => Ok(Admission::Renewed),
                "full" => Err(StoreError::Full(max_members)),
                other => Err(StoreError::UnexpectedReply(format!("{other:?} to a registration"))),
            }
        })
    }

    fn heartbeat<'a>(&'a self, id: &'a InstanceId) -> Answer<'a, bool> {
        Box::pin(async move { self.run(&self.scripts.heartbeat, &[id.as_str().as_bytes()]).await })
    }

    fn deregister<'a>(&'a self, id: &'a InstanceId) -> Answer<'a, bool> {
        Box::pin(async move { self.run(&self.scripts.deregister, &[id.as_str().as_bytes()]).await })
    }

    fn follow<'a>(&'a self, known: Option<&'a Mark>) -> Answer<'a, Followed> {
        Box::pin(async move {
            let outcome = self.look(known).await;
            self.watch_connection(&outcome);
            outcome
        })
    }

    fn last_seen<'a>(&'a self, members: &'a [Member]) -> Answer<'a, Vec<Option<u64>>> {
        Box::pin(self.seen(members))
    }

    fn set_limits(&self, limits: Limits) {
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner) = limits;
    }

    fn close(&self) -> Answer<'_, ()> {
        Box::pin(async { Ok(()) })
    }
}
