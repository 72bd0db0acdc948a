//! The host and port of a request, and where a redirect leads from there.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use http::uri::PathAndQuery;

/// The host and port that a request is for: the content of its Host header, and what a redirect must not leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::probe) struct Authority {
    /// A name in lower case, or an address in its shortest form, IPv6 in brackets and without a zone.
    host: String,
    port: u16,
}

impl From<SocketAddr> for Authority {
    fn from(address: SocketAddr) -> Self {
        let host = match address.ip() {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        Self { host, port: address.port() }
    }
}

impl Authority {
    /// Whether it can stand in a header. Addresses and host names always can.
    pub(super) fn is_valid(&self) -> bool {
        !self.host.is_empty() && self.host.bytes().all(|byte| byte.is_ascii_graphic())
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            80 => f.write_str(&self.host),
            port => write!(f, "{}:{port}", self.host),
        }
    }
}

impl Authority {
    /// `host` is a name or an address, the latter without brackets.
    pub(in crate::probe) fn new(host: &str, port: u16) -> Self {
        match host.parse::<IpAddr>() {
            Ok(ip) => SocketAddr::new(ip, port).into(),
            Err(_) => Self { host: host.to_ascii_lowercase(), port },
        }
    }

    /// Reads the authority of a URL: `HOST`, `HOST:PORT`, `[V6]:PORT`.
    pub(super) fn parse(authority: &str) -> Option<Self> {
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, if port.is_empty() { 80 } else { port.parse().ok()? }),
            _ => (authority, 80),
        };
        match host.strip_prefix('[') {
            Some(rest) => Some(Self::new(rest.strip_suffix(']')?, port)),
            None => Some(Self::new(host, port)),
        }
    }

    /// The path that a `Location` header in the answer to `path` leads to, if that is on the same authority over plain HTTP
    /// (RFC 3986, section 5).
    pub(super) fn onward(&self, path: &PathAndQuery, location: &str) -> Option<PathAndQuery> {
        let location = location.trim().split('#').next()?;
        let scheme_end = location.find([':', '/', '?']).filter(|&at| location[at..].starts_with(':'));
        let relative = match scheme_end {
            Some(at) if location[..at].eq_ignore_ascii_case("http") => &location[at + 1..],
            Some(_) => return None,
            None => location,
        };
        let target = if let Some(rest) = relative.strip_prefix("//") {
            let (authority, rest) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
            if Self::parse(authority)? != *self {
                return None;
            }
            if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") }
        } else if scheme_end.is_some() {
            return None;
        } else if relative.starts_with('/') {
            relative.to_owned()
        } else if relative.starts_with('?') {
            format!("{}{relative}", path.path())
        } else if relative.is_empty() {
            path.as_str().to_owned()
        } else {
            let directory = path.path().rsplit_once('/').map_or("", |(directory, _)| directory);
            format!("{directory}/{relative}")
        };
        without_dots(&target).parse().ok()
    }
}

/// The request target with the `.` and `..` in its path removed (RFC 3986, section 5.2.4).
fn without_dots(target: &str) -> String {
    let (path, query) = target.split_at(target.find('?').unwrap_or(target.len()));
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        if !matches!(segment, "." | "..") {
            kept.push(segment);
            continue;
        }
        if segment == ".." {
            kept.pop();
        }
        // What ends in a dot segment names a directory.
        if segments.peek().is_none() {
            kept.push("");
        }
    }
    format!("/{}{query}", kept.join("/"))
}
