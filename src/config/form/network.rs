//! The forms of network values: addresses, ports, hosts, networks, and HTTP's paths and statuses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;
use std::str::FromStr;

use http::Uri;
use http::uri::PathAndQuery;
use ipnet::IpNet;

use super::super::fault::shown;
use super::super::settings::RegistryUrl;
use super::super::yaml::{Content, Node};
use super::{Form, Whole, Wrong, at_node, got, text_of};
use crate::probe::StatusRanges;
use crate::wire::member_address;

/// An address to listen on. An IPv4 address in IPv6 notation (`::ffff:10.0.0.1`) is read as the IPv4 address.
pub(in super::super) struct Address;

impl Form<IpAddr> for Address {
    fn expects(&self) -> String {
        "an IPv4 or IPv6 address".into()
    }

    fn read(&self, node: &Node) -> Result<IpAddr, Vec<Wrong>> {
        let expects = self.expects();
        let result = text_of(node, &expects).and_then(|text| {
            let advice = match text {
                _ if bracketed(text) => "; it stands without brackets",
                "localhost" => "; the address of localhost is 127.0.0.1 or ::1",
                _ => "",
            };
            text.parse::<IpAddr>()
                .map(|ip| ip.to_canonical())
                .map_err(|_| format!("expected {expects}, got {}{advice}", got(node)))
        });
        at_node(node, result)
    }

    fn show(&self, value: &IpAddr) -> String {
        value.to_string()
    }
}

/// Whether `text` is an IPv6 address in brackets.
fn bracketed(text: &str) -> bool {
    text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).is_some_and(|ip| ip.parse::<Ipv6Addr>().is_ok())
}

/// Whether `text` can be the name of a host or its IPv4 address. Underscores are not allowed in
/// host names (RFC 1123), but container networks use them.
fn is_host(text: &str) -> bool {
    const BYTES_MAX: usize = 253;
    let name = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
            && !label.starts_with('-')
    };
    let digits_at_end = name.rsplit('.').next().is_some_and(|last| last.chars().all(|c| c.is_ascii_digit()));
    name.len() <= BYTES_MAX && name.split('.').all(label) && (!digits_at_end || text.parse::<Ipv4Addr>().is_ok())
}

/// The host of a server, or the path of its Unix socket.
pub(in super::super) struct HostOrSocket;

impl HostOrSocket {
    /// The longest path of a Unix socket, in bytes: one less than `sun_path` of unix(7) has.
    const PATH_MAX: usize = 107;
}

impl Form<String> for HostOrSocket {
    fn expects(&self) -> String {
        "the name or address of a host, or the path of a Unix socket".into()
    }

    fn read(&self, node: &Node) -> Result<String, Vec<Wrong>> {
        let expects = self.expects();
        let result = text_of(node, &expects).and_then(|text| {
            let socket = text.starts_with('/') && text.len() <= Self::PATH_MAX && !text.chars().any(char::is_control);
            if socket || is_host(text) {
                return Ok(text.into());
            }
            if let Ok(ip) = text.parse::<Ipv6Addr>() {
                return Ok(ip.to_canonical().to_string());
            }
            let advice = match text.rsplit_once(':') {
                _ if bracketed(text) => "; it stands without brackets",
                _ if text.contains("://") => "; it stands without a scheme",
                Some((host, _)) if is_host(host) || bracketed(host) => "; the port has a key of its own",
                _ => "",
            };
            // A whole address such as redis://user:password@host may end up here by mistake.
            let found = if text.contains('@') { "a text with an @".into() } else { got(node) };
            Err(format!("expected {expects}, got {found}{advice}"))
        });
        at_node(node, result)
    }

    fn show(&self, value: &String) -> String {
        value.clone()
    }
}

/// The base URL of a registry.
pub(in super::super) struct Url;

impl Form<RegistryUrl> for Url {
    fn expects(&self) -> String {
        RegistryUrl::EXPECTS.into()
    }

    fn read(&self, node: &Node) -> Result<RegistryUrl, Vec<Wrong>> {
        at_node(node, text_of(node, RegistryUrl::EXPECTS).and_then(|text| text.parse::<RegistryUrl>().map_err(|e| e.0)))
    }

    fn show(&self, value: &RegistryUrl) -> String {
        value.base.clone()
    }
}

/// Why a text cannot be parsed: what was expected, and what was wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable(pub(in super::super) String);

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unusable {}

impl RegistryUrl {
    const EXPECTS: &'static str = "an address of the form http://HOST[:PORT][/PATH]";
}

impl FromStr for RegistryUrl {
    type Err = Unusable;

    fn from_str(text: &str) -> Result<Self, Unusable> {
        const PORT_UNLESS_NAMED: u16 = 80;
        let wrong = |what: &str| Unusable(format!("expected {}, got {what}", Self::EXPECTS));
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(wrong(&format!("{} without http://", shown(text))));
        };
        if scheme.eq_ignore_ascii_case("https") {
            return Err(wrong("https://, and TLS is not built in yet; a proxy that speaks TLS can stand in between"));
        }
        if !scheme.eq_ignore_ascii_case("http") {
            return Err(wrong(&format!("the scheme {}", shown(scheme))));
        }
        // Checked first and not shown: the part before an @ may contain a password.
        if rest.contains('@') {
            return Err(wrong("one with a user name or an @"));
        }
        if rest.contains(['?', '#']) {
            return Err(wrong(&format!("{} with a query or a fragment", shown(text))));
        }
        let (authority, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, ""),
        };
        let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, after)) => match host.parse::<Ipv6Addr>() {
                Ok(ip) => (ip.to_canonical().to_string(), after),
                Err(_) => return Err(wrong(&format!("{} with no IPv6 address in its brackets", shown(text)))),
            },
            None if authority.parse::<Ipv6Addr>().is_ok() => {
                return Err(wrong(&format!("{}; an IPv6 address needs brackets: [{authority}]", shown(text))));
            }
            None => {
                let (host, port) = authority.split_at(authority.find(':').unwrap_or(authority.len()));
                if !is_host(host) {
                    return Err(wrong(&format!("{} with the host {}", shown(text), shown(host))));
                }
                (host.into(), port)
            }
        };
        let written_host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        let base = format!("http://{written_host}{port}{}", path.trim_end_matches('/'));
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => PORT_UNLESS_NAMED,
            Some(digits)
                if digits.chars().all(|c| c.is_ascii_digit()) && digits.parse::<u16>().is_ok_and(|p| p > 0) =>
            {
                digits.parse().expect("the guard has parsed it")
            }
            _ => return Err(wrong(&format!("{} with a port that is none from 1 to 65535", shown(text)))),
        };
        if !path.chars().all(|c| c.is_ascii_graphic()) || base.parse::<Uri>().is_err() {
            return Err(wrong(&format!("{} with a path that needs percent-encoding", shown(text))));
        }
        Ok(Self { base, host, port })
    }
}

/// A network in CIDR notation. A network of IPv4 in IPv6 notation (`::ffff:10.0.0.0/104`) is read as the IPv4 network,
/// because the addresses of members are compared as IPv4.
pub(in super::super) struct Network;

impl Form<IpNet> for Network {
    fn expects(&self) -> String {
        "a network such as 10.0.0.0/8 or 2001:db8::/32".into()
    }

    fn read(&self, node: &Node) -> Result<IpNet, Vec<Wrong>> {
        let expects = self.expects();
        let result = text_of(node, &expects).and_then(|text| {
            let wrong = |advice: String| format!("expected {expects}, got {}{advice}", got(node));
            match (text.parse::<IpNet>(), text.parse::<IpAddr>()) {
                (Ok(net), _) if net.trunc() == net => Ok(as_ipv4(net)),
                (Ok(net), _) => Err(wrong(format!("; the network of that address is {}", net.trunc()))),
                (Err(_), Ok(ip)) => Err(wrong(format!("; the network of that one address is {}", IpNet::from(ip)))),
                _ => Err(wrong(String::new())),
            }
        });
        at_node(node, result)
    }

    fn show(&self, value: &IpNet) -> String {
        value.to_string()
    }
}

/// The network, as IPv4 where all its addresses are IPv4 addresses in IPv6 notation (RFC 4291, section 2.5.5.2).
fn as_ipv4(net: IpNet) -> IpNet {
    const MAPPED_BITS: u8 = 96;
    let IpNet::V6(v6) = net else { return net };
    let (Some(v4), Some(length)) = (v6.addr().to_ipv4_mapped(), v6.prefix_len().checked_sub(MAPPED_BITS)) else {
        return net;
    };
    IpNet::new(v4.into(), length).unwrap_or(net)
}

/// The value of `advertise_ip`, before a variable is read.
#[derive(Clone, Debug, PartialEq)]
pub(in super::super) enum AdvertiseSource {
    /// The address is found when it is needed.
    Auto,
    /// The address is in this variable.
    Variable(String),
    /// This address.
    Address(IpAddr),
}

/// The address that a member registers.
pub(in super::super) struct AdvertiseIp;

impl Form<AdvertiseSource> for AdvertiseIp {
    fn expects(&self) -> String {
        "auto, env:NAME or the IPv4 or IPv6 address of one host".into()
    }

    fn read(&self, node: &Node) -> Result<AdvertiseSource, Vec<Wrong>> {
        let expects = self.expects();
        let result = text_of(node, &expects).and_then(|text| match (text, text.strip_prefix("env:")) {
            ("auto", _) => Ok(AdvertiseSource::Auto),
            (_, Some(name)) if is_variable(name) => Ok(AdvertiseSource::Variable(name.into())),
            _ => member_address(text)
                .map(AdvertiseSource::Address)
                .map_err(|why| format!("expected {expects}, got {}{}", got(node), why.advice())),
        });
        at_node(node, result)
    }

    fn show(&self, value: &AdvertiseSource) -> String {
        match value {
            AdvertiseSource::Auto => "auto".into(),
            AdvertiseSource::Variable(name) => format!("env:{name}"),
            AdvertiseSource::Address(ip) => ip.to_string(),
        }
    }
}

/// Whether `text` is valid after `env:` as the name of a variable.
fn is_variable(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// The value of `advertise_port`, before a variable is read.
#[derive(Clone, Debug, PartialEq)]
pub(in super::super) enum PortSource {
    /// The port is in this variable.
    Variable(String),
    /// This port.
    Port(NonZeroU16),
}

/// The port that a member registers.
pub(in super::super) struct AdvertisePort;

impl AdvertisePort {
    const PORT: Whole = Whole { from: 1, to: 65_535 };

    /// The port that the text of a variable is.
    pub(in super::super) fn of_text(text: &str) -> Option<NonZeroU16> {
        let digits = !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
        text.parse().ok().filter(|_| digits)
    }
}

impl Form<PortSource> for AdvertisePort {
    fn expects(&self) -> String {
        format!("env:NAME or {}", Form::<NonZeroU16>::expects(&Self::PORT))
    }

    fn read(&self, node: &Node) -> Result<PortSource, Vec<Wrong>> {
        let name = match &node.content {
            Content::Text(text) | Content::Bare(text) => text.strip_prefix("env:"),
            _ => None,
        };
        match name {
            Some(name) if is_variable(name) => Ok(PortSource::Variable(name.into())),
            Some(_) => at_node(node, Err(format!("expected {}, got {}", self.expects(), got(node)))),
            None => Self::PORT.read_as(node, &self.expects()).map(PortSource::Port),
        }
    }

    fn show(&self, value: &PortSource) -> String {
        match value {
            PortSource::Variable(name) => format!("env:{name}"),
            PortSource::Port(port) => port.to_string(),
        }
    }
}

/// A path to request, with its query.
pub(in super::super) struct Endpoint;

impl Endpoint {
    const BYTES_MAX: usize = 1024;
}

impl Form<String> for Endpoint {
    fn expects(&self) -> String {
        format!("a path of at most {} printable ASCII characters that begins with a slash", Self::BYTES_MAX)
    }

    fn read(&self, node: &Node) -> Result<String, Vec<Wrong>> {
        let expects = self.expects();
        let result = text_of(node, &expects).and_then(|text| {
            let wrong = |advice: &str| Err(format!("expected {expects}, got {}{advice}", got(node)));
            if !text.starts_with('/') || text.len() > Self::BYTES_MAX || !text.chars().all(|c| c.is_ascii_graphic()) {
                return wrong("");
            }
            // HTTP has no fragments: sent to a server, /a#b would be /a.
            if text.contains('#') {
                return wrong("; a fragment is never sent");
            }
            if text.parse::<PathAndQuery>().is_err() {
                return wrong("; some of its characters need percent-encoding");
            }
            Ok(text.into())
        });
        at_node(node, result)
    }

    fn show(&self, value: &String) -> String {
        value.clone()
    }
}

/// The HTTP statuses that count as connected.
pub(in super::super) struct Statuses;

impl Form<StatusRanges> for Statuses {
    fn expects(&self) -> String {
        format!("{}, or a list of them", StatusRanges::EXPECTS)
    }

    fn read(&self, node: &Node) -> Result<StatusRanges, Vec<Wrong>> {
        let one = |node: &Node| match &node.content {
            Content::Number(text) | Content::Text(text) | Content::Bare(text) => {
                text.parse::<StatusRanges>().map_err(|e| e.to_string())
            }
            _ => Err(format!("expected {}, got {}", self.expects(), got(node))),
        };
        let Content::List(items) = &node.content else { return at_node(node, one(node)) };
        let mut ranges = Vec::new();
        let mut wrongs = Vec::new();
        for (n, item) in items.iter().enumerate().filter(|(_, item)| item.content != Content::Refused) {
            match one(item) {
                Ok(more) => ranges.extend(more.0),
                Err(problem) => wrongs.push(Wrong { at: item.at, item: Some(n), problem }),
            }
        }
        match wrongs.is_empty() {
            true if ranges.is_empty() => at_node(node, Err(format!("expected {}, got an empty list", self.expects()))),
            true => Ok(StatusRanges(ranges)),
            false => Err(wrongs),
        }
    }

    fn show(&self, value: &StatusRanges) -> String {
        value.to_string()
    }
}
