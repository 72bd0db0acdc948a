//! The address at which peers are to reach this member.
//!
//! What the configuration sets counts. Otherwise it is the address this member listens on, where that is a single one; and
//! otherwise the address this host uses towards the registry:
//! * An address that is registered stays for as long as this host uses it towards any address of the registry, so that a name
//!   server that turns its answers round does not move a host with two addresses back and forth.
//! * Where the registry's name has several addresses, the one counts at which the registry really answers.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::time::Duration;

use crate::config::Advertise;
use crate::host::address;

use super::super::client::ClientError;
use super::super::lookup::{Addresses, NoAddress};

/// What decides about the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Advertised {
    /// Where this member listens.
    pub(super) listening: SocketAddr,
    /// What the configuration says of the address.
    pub(super) ip: Advertise,
    /// The port that leads to this member from outside, where that is another one than it listens on.
    pub(super) port: Option<NonZeroU16>,
}

impl Advertised {
    /// The address, where it can be known without the registry.
    pub(super) fn without_registry(&self) -> Option<SocketAddr> {
        let listening = self.listening.ip();
        let ip = match self.ip {
            Advertise::Address(ip) => ip,
            Advertise::Auto if !listening.is_unspecified() => listening,
            Advertise::Auto => return None,
        };
        Some(self.at(ip))
    }

    fn at(&self, ip: IpAddr) -> SocketAddr {
        SocketAddr::new(ip.to_canonical(), self.port.map_or(self.listening.port(), NonZeroU16::get))
    }

    /// The address, where the registry has these addresses and this one is registered. Waits for the resolver and for
    /// connections at most `limit` each.
    pub(super) fn find(
        &self,
        addresses: &Addresses,
        registered: Option<SocketAddr>,
        limit: Duration,
    ) -> Result<SocketAddr, ClientError> {
        if let Some(address) = self.without_registry() {
            return Ok(address);
        }
        let lost = |what: &dyn Display| ClientError::Unreachable(format!("{}: {what}", addresses.host()));
        let found = addresses.get(limit).map_err(|e| match e {
            NoAddress::Unknown => lost(&"its name has no address"),
            NoAddress::Pending => lost(&"the resolver does not answer"),
        })?;
        let usable: Vec<SocketAddr> = found
            .into_iter()
            .map(|address| SocketAddr::new(address.ip().to_canonical(), address.port()))
            .filter(|address| self.listening.is_ipv6() || address.is_ipv4())
            .collect();
        let [first, ..] = &usable[..] else {
            return Err(lost(&"its name has no IPv4 address, and server.host is one of IPv4"));
        };
        let ip = match (registered, &usable[..]) {
            (Some(registered), _) if address::sources(&usable).contains(&registered.ip()) => registered.ip(),
            (_, [_]) => address::towards(*first).map_err(|e| lost(&e))?,
            _ => match address::reachable(&usable, limit) {
                Some((_, own)) => own,
                None => self.any(&usable).ok_or_else(|| lost(&"none of its addresses answers"))?,
            },
        };
        Ok(self.at(ip))
    }

    fn any(&self, usable: &[SocketAddr]) -> Option<IpAddr> {
        address::sources(usable).into_iter().next()
    }
}

/// The port of an address that is to be registered.
pub(super) fn port(address: SocketAddr) -> NonZeroU16 {
    NonZeroU16::new(address.port()).expect("a listening port is not zero")
}
