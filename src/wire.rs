//! The messages between registry, members and older programs of the same name.
//!
//! The form is read liberally: unknown fields are ignored, a number may be sent as text, fields of later versions may be
//! missing. The content is checked strictly: every value of the type [`InstanceId`] or [`Location`] is valid, wherever it came
//! from, and can be used as it is in a URL, a label, a log message or a Redis key. Every error names the field, its value and
//! what was expected ([`FieldError`]).
//!
//! Registry and member share only this file.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU16;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};

/// The default port of registry and member.
pub const DEFAULT_PORT: NonZeroU16 = NonZeroU16::new(8756).expect("8756 is not zero");

/// The longest location name, in bytes.
pub const LOCATION_MAX: usize = 128;

/// The longest instance id, in bytes.
pub const INSTANCE_ID_MAX: usize = 128;

/// The response header with the age of the roster in seconds, sent while the registry's store is unavailable.
pub const STALE_HEADER: &str = "netring-stale";

/// A field of a request or an answer is invalid: which one, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// The name of the field in the JSON.
    pub field: &'static str,
    /// What was expected, and what was there.
    pub problem: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.problem)
    }
}

impl std::error::Error for FieldError {}

/// The identity of one member, which it keeps after a restart: 1 to 128 characters of `A-Z a-z 0-9 . _ : @ -`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstanceId(Arc<str>);

impl InstanceId {
    /// A new random identity (UUID version 4).
    #[must_use]
    pub fn random() -> Self {
        Self(uuid::Uuid::new_v4().to_string().into())
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The site label of a member, such as `us1-k8s`: 1 to 128 bytes of text with no control characters and no space at
/// either end.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Location(Arc<str>);

impl Location {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a text is not a valid [`InstanceId`] or [`Location`]: what was expected, and what was wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameError(String);

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NameError {}

impl FromStr for InstanceId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let wrong = |what: String| {
            Err(NameError(format!(
                "expected 1 to {INSTANCE_ID_MAX} of the characters A-Z a-z 0-9 . _ : @ -, got {what}"
            )))
        };
        if text.is_empty() {
            return wrong("an empty text".into());
        }
        if text.len() > INSTANCE_ID_MAX {
            return wrong(format!("{} bytes", text.len()));
        }
        match text.chars().find(|c| !(c.is_ascii_alphanumeric() || ".-_:@".contains(*c))) {
            Some(c) => wrong(format!("the character {c:?}")),
            None => Ok(Self(text.into())),
        }
    }
}

impl FromStr for Location {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let wrong = |what: String| {
            Err(NameError(format!(
                "expected a name of 1 to {LOCATION_MAX} bytes without control characters, got {what}"
            )))
        };
        if text.trim().is_empty() {
            return wrong("an empty text".into());
        }
        if text.len() > LOCATION_MAX {
            return wrong(format!("{} bytes", text.len()));
        }
        if text.trim() != text {
            return wrong("a space at its start or end".into());
        }
        match text.chars().find(|c| c.is_control()) {
            Some(c) => wrong(format!("the control character {c:?}")),
            None => Ok(Self(text.into())),
        }
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for InstanceId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl Serialize for Location {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// The body of `POST /register`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Registration {
    /// The identity of the member; without one, the registry generates one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance_id: Option<InstanceId>,
    /// The name of its site.
    pub location: Location,
    /// The address at which other members reach it.
    pub ip: IpAddr,
    /// The port that other members probe.
    pub port: NonZeroU16,
}

impl Registration {
    /// Reads the body of `POST /register`.
    ///
    /// # Errors
    ///
    /// The first field that is missing or invalid; `body` if the text is not a JSON object.
    pub fn from_json(body: &[u8]) -> Result<Self, FieldError> {
        let fields = object(body)?;
        Ok(Self {
            instance_id: instance_id(&fields)?,
            location: location(&fields)?,
            ip: ip(&fields)?,
            port: port(&fields)?,
        })
    }
}

/// The answer to `POST /register`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Registered {
    /// The identity of the member.
    pub instance_id: InstanceId,
    /// Always `registered`.
    pub status: &'static str,
    /// Whether the registry knew this identity already. If it should have, `false` tells the member that the registry has lost
    /// its data. Older registries do not send this.
    pub known: bool,
}

/// What a member reads from the answer to `POST /register`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisteredReply {
    /// The identity that the registry generated or confirmed.
    pub instance_id: InstanceId,
    /// Whether it was known before, if the registry says so.
    pub known: Option<bool>,
}

impl RegisteredReply {
    /// Reads the answer to `POST /register`.
    ///
    /// # Errors
    ///
    /// The field that is missing or invalid.
    pub fn from_json(body: &[u8]) -> Result<Self, FieldError> {
        let fields = object(body)?;
        let instance_id = instance_id(&fields)?.ok_or_else(|| missing("instance_id", "the identity of the member"))?;
        Ok(Self { instance_id, known: fields.get("known").and_then(Value::as_bool) })
    }
}

/// The body of `POST /heartbeat` and `POST /deregister`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Identification {
    /// The identity of the member.
    pub instance_id: InstanceId,
}

impl Identification {
    /// Reads the body of `POST /heartbeat` or `POST /deregister`.
    ///
    /// # Errors
    ///
    /// `instance_id` if it is missing or invalid; `body` if the text is not a JSON object.
    pub fn from_json(body: &[u8]) -> Result<Self, FieldError> {
        let fields = object(body)?;
        let instance_id = instance_id(&fields)?.ok_or_else(|| missing("instance_id", "the identity of the member"))?;
        Ok(Self { instance_id })
    }
}

/// One live member in the answer to `GET /members`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Member {
    /// The identity of the member.
    pub instance_id: InstanceId,
    /// The name of its site.
    pub location: Location,
    /// The address at which other members reach it.
    pub ip: IpAddr,
    /// The port that other members probe.
    pub port: NonZeroU16,
    /// When its last registration or heartbeat arrived, in whole seconds since the epoch.
    pub last_seen: u64,
    /// When it joined, in whole seconds since the epoch.
    pub registered_at: u64,
    /// Always `active`: the roster contains only live members.
    #[serde(serialize_with = "active")]
    pub status: (),
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's serialize_with hands over a reference")]
fn active<S: Serializer>((): &(), serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str("active")
}

/// The answer to `GET /members`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Members {
    /// The live members.
    pub members: Vec<Member>,
}

/// What a member reads from the answer to `GET /members`: the valid entries, and the number of others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MembersReply {
    /// The valid entries, each identity once.
    pub members: Vec<Member>,
    /// How many entries were skipped because a field was missing or invalid, no host can have the address ([`member_address`]),
    /// or the identity was already listed.
    pub unusable: usize,
    /// What is wrong with the first of them, for the log: its identity if that is known, the field and the problem.
    pub first_unusable: Option<String>,
}

impl MembersReply {
    /// Reads the answer to `GET /members`. Invalid entries are skipped and counted, so that a wrong registration at an older
    /// registry does not hide the others.
    ///
    /// # Errors
    ///
    /// `members` if there is no list; `body` if the text is not a JSON object.
    pub fn from_json(body: &[u8]) -> Result<Self, FieldError> {
        let mut fields = object(body)?;
        let Some(Value::Array(entries)) = fields.remove("members") else {
            return Err(missing("members", "the list of live members"));
        };
        let mut seen = std::collections::HashSet::new();
        let mut reply = Self { members: Vec::with_capacity(entries.len()), ..Self::default() };
        for entry in entries {
            match Member::from_entry(&entry) {
                Ok(member) if seen.insert(member.instance_id.clone()) => reply.members.push(member),
                result => {
                    reply.unusable += 1;
                    reply.first_unusable.get_or_insert_with(|| match result {
                        Ok(member) => format!("instance_id {:?} is listed twice", member.instance_id.as_str()),
                        Err(error) => {
                            let named = |field| entry.get(field).map(|value| format!("{field} {}, ", shown(value)));
                            let [id, location] = ["instance_id", "location"].map(|f| named(f).unwrap_or_default());
                            format!("{id}{location}{error}")
                        }
                    });
                }
            }
        }
        Ok(reply)
    }
}

impl Member {
    fn from_entry(entry: &Value) -> Result<Self, FieldError> {
        match entry {
            Value::Object(fields) => Self::from_fields(fields),
            other => Err(FieldError { field: "members", problem: format!("expected objects, got {}", shown(other)) }),
        }
    }

    pub(crate) fn from_fields(fields: &Map<String, Value>) -> Result<Self, FieldError> {
        let seconds = |name: &'static str| match fields.get(name).map(number) {
            Some(Some(n)) if n >= 0.0 => n as u64,
            _ => 0,
        };
        Ok(Self {
            instance_id: instance_id(fields)?.ok_or_else(|| missing("instance_id", "the identity of the member"))?,
            location: location(fields)?,
            ip: ip(fields)?,
            port: port(fields)?,
            last_seen: seconds("last_seen"),
            registered_at: seconds("registered_at"),
            status: (),
        })
    }
}

/// The body of every error answer of registry and member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The error, in one sentence.
    pub error: String,
}

/// The answer of a member to `GET /health`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MemberHealth {
    /// `healthy`; `unwell` if this member cannot trust its own results; `unhealthy` if a vital loop is stalled.
    pub status: &'static str,
    /// The identity of the member.
    pub instance_id: InstanceId,
    /// The name of its site.
    pub location: Location,
    /// The number of other members that it knows.
    pub members_count: usize,
    /// The time of the answer, in seconds since the epoch.
    pub timestamp: f64,
    /// Why it is unwell or unhealthy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

fn object(body: &[u8]) -> Result<Map<String, Value>, FieldError> {
    let wrong = |problem| FieldError { field: "body", problem };
    match serde_json::from_slice(body) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(other) => Err(wrong(format!("expected a JSON object, got {}", shown(&other)))),
        Err(e) => Err(wrong(format!("expected a JSON object: {e}"))),
    }
}

fn missing(field: &'static str, what: &str) -> FieldError {
    FieldError { field, problem: format!("missing: {what}") }
}

fn instance_id(fields: &Map<String, Value>) -> Result<Option<InstanceId>, FieldError> {
    let wrong = |problem| FieldError { field: "instance_id", problem };
    match fields.get("instance_id") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => text.parse().map(Some).map_err(|e: NameError| wrong(e.0)),
        Some(other) => Err(wrong(format!("expected text, got {}", shown(other)))),
    }
}

fn location(fields: &Map<String, Value>) -> Result<Location, FieldError> {
    let wrong = |problem| FieldError { field: "location", problem };
    match fields.get("location") {
        None | Some(Value::Null) => Err(missing("location", "the name of the site")),
        Some(Value::String(text)) => text.parse().map_err(|e: NameError| wrong(e.0)),
        Some(other) => Err(wrong(format!("expected text, got {}", shown(other)))),
    }
}

fn ip(fields: &Map<String, Value>) -> Result<IpAddr, FieldError> {
    let wrong = |what: String| FieldError {
        field: "ip",
        problem: format!("expected the IPv4 or IPv6 address of one host, got {what}"),
    };
    let value = fields.get("ip").ok_or_else(|| missing("ip", "the address where peers reach the member"))?;
    let Value::String(text) = value else { return Err(wrong(shown(value))) };
    member_address(text).map_err(|why| wrong(format!("{}{}", shown(value), why.advice())))
}

/// Why a text cannot be the address of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoMemberAddress {
    /// It is not an IP address.
    NotAnAddress,
    /// `0.0.0.0` or `::`.
    Unspecified,
    /// In `0.0.0.0/8`, whose addresses are only valid as a source, before a host knows its own (RFC 1122, section 3.2.1.3).
    ThisNetwork,
    /// In `224.0.0.0/4` or `ff00::/8`.
    Multicast,
    /// `255.255.255.255`.
    Broadcast,
    /// In `240.0.0.0/4`, which no host has (RFC 1112, section 4).
    Reserved,
    /// In `fe80::/10`, with or without a zone id.
    LinkLocal,
}

impl NoMemberAddress {
    /// The reason, as the end of an error message; empty if the value itself shows it.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        match self {
            Self::NotAnAddress => "",
            Self::Unspecified => "; the unspecified address stands for no host",
            Self::ThisNetwork => "; addresses in 0.0.0.0/8 cannot be connected to",
            Self::Multicast => "; a multicast address is that of a group",
            Self::Broadcast => "; the broadcast address is that of every host",
            Self::Reserved => "; addresses in 240.0.0.0/4 are reserved and no host has one",
            Self::LinkLocal => "; a link-local address means nothing on another host",
        }
    }
}

/// Parses the address of a member: an address that one host can have and that others can connect to. An IPv4 address in IPv6
/// notation (`::ffff:10.0.0.1`) is returned as IPv4.
///
/// # Errors
///
/// Why no other member could connect to it.
pub fn member_address(text: &str) -> Result<IpAddr, NoMemberAddress> {
    let Ok(ip) = text.parse::<IpAddr>() else {
        let zoned = text.split_once('%').and_then(|(ip, _)| ip.parse::<Ipv6Addr>().ok());
        let link_local = zoned.is_some_and(|ip| ip.is_unicast_link_local());
        return Err(if link_local { NoMemberAddress::LinkLocal } else { NoMemberAddress::NotAnAddress });
    };
    let ip = ip.to_canonical();
    match ip {
        ip if ip.is_unspecified() => Err(NoMemberAddress::Unspecified),
        ip if ip.is_multicast() => Err(NoMemberAddress::Multicast),
        IpAddr::V4(v4) if v4.is_broadcast() => Err(NoMemberAddress::Broadcast),
        IpAddr::V4(v4) if v4.octets()[0] == 0 => Err(NoMemberAddress::ThisNetwork),
        IpAddr::V4(v4) if v4.octets()[0] >= 240 => Err(NoMemberAddress::Reserved),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Err(NoMemberAddress::LinkLocal),
        ip => Ok(ip),
    }
}

fn port(fields: &Map<String, Value>) -> Result<NonZeroU16, FieldError> {
    let value = fields.get("port").ok_or_else(|| missing("port", "the port where peers reach the member"))?;
    number(value)
        .filter(|n| n.fract() == 0.0 && (1.0..=65535.0).contains(n))
        .and_then(|n| NonZeroU16::new(n as u16))
        .ok_or_else(|| FieldError {
            field: "port",
            problem: format!("expected a whole number from 1 to 65535, got {}", shown(value)),
        })
}

/// A number, or a text that contains one: older programs send both.
fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(n) => n.as_f64(),
        Value::String(text) => text.parse().ok().filter(|n: &f64| n.is_finite()),
        _ => None,
    }
}

/// A value as shown in an error message: short and on one line.
fn shown(value: &Value) -> String {
    const SHOWN_MAX: usize = 40;
    match value {
        Value::Null => "null".into(),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "an object".into(),
        Value::String(text) if text.chars().count() > SHOWN_MAX => format!("a text of {} bytes", text.len()),
        Value::String(text) => format!("{text:?}"),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests;
