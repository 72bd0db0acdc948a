//! The listening socket, and what is wrong where it cannot be had.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// How many connections the kernel keeps for us until they are accepted (capped by `net.core.somaxconn`).
const BACKLOG: i32 = 1024;

/// Why there is no listening socket at an address.
#[derive(Debug)]
pub struct BindError {
    /// The address that was wanted.
    pub address: SocketAddr,
    /// What the kernel said.
    pub cause: io::Error,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot listen on {}: ", self.address)?;
        match self.cause.raw_os_error() {
            Some(libc::EADDRINUSE) => f.write_str("another process is using that port"),
            Some(libc::EACCES | libc::EPERM) => f.write_str(
                "permission denied: a port below 1024 takes the capability CAP_NET_BIND_SERVICE or a socket handed over by \
                 systemd",
            ),
            Some(libc::EADDRNOTAVAIL) => f.write_str("no interface of this host has that address"),
            Some(libc::EAFNOSUPPORT) => f.write_str("this host has IPv6 turned off"),
            _ => write!(f, "{}", self.cause),
        }
    }
}

impl BindError {
    /// Which part of the address another choice would help with, `port` or `host`, for callers that can say how to choose.
    #[must_use]
    pub fn at_fault(&self) -> Option<&'static str> {
        match self.cause.raw_os_error()? {
            libc::EADDRINUSE | libc::EACCES | libc::EPERM => Some("port"),
            libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT => Some("host"),
            _ => None,
        }
    }
}

impl std::error::Error for BindError {}

/// A listening socket at `host` and `port` (0 lets the kernel choose), non-blocking; `::` serves IPv4 and IPv6.
///
/// # Errors
///
/// Why the address cannot be had.
pub fn bind(host: IpAddr, port: u16) -> Result<TcpListener, BindError> {
    let address = SocketAddr::new(host, port);
    listening(address).map_err(|cause| BindError { address, cause })
}

fn listening(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for the old connections' TIME_WAIT; on Linux this does not allow two listeners at once.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr, TcpStream};

    use super::*;

    fn refusal(address: &str, errno: i32) -> String {
        BindError { address: address.parse().unwrap(), cause: io::Error::from_raw_os_error(errno) }.to_string()
    }

    #[test]
    fn a_busy_port_says_that_another_process_holds_it() {
        let holder = bind(Ipv4Addr::LOCALHOST.into(), 0).unwrap();
        let port = holder.local_addr().unwrap().port();
        let error = bind(Ipv4Addr::LOCALHOST.into(), port).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot listen on 127.0.0.1:{port}: another process is using that port"));
        assert_eq!(error.at_fault(), Some("port"));
    }

    #[test]
    fn a_foreign_address_says_that_no_interface_has_it() {
        let error = bind("192.0.2.1".parse().unwrap(), 0).unwrap_err();
        assert_eq!(error.to_string(), "cannot listen on 192.0.2.1:0: no interface of this host has that address");
        assert_eq!(error.at_fault(), Some("host"));
    }

    #[test]
    fn a_privileged_port_says_which_capability_it_takes() {
        let error = refusal("[::]:80", libc::EACCES);
        assert!(error.starts_with("cannot listen on [::]:80: permission denied: a port below 1024 takes"), "{error}");
        assert!(error.contains("CAP_NET_BIND_SERVICE"), "{error}");
    }

    #[test]
    fn a_host_without_ipv6_is_told_so() {
        let error = refusal("[::]:8756", libc::EAFNOSUPPORT);
        assert_eq!(error, "cannot listen on [::]:8756: this host has IPv6 turned off");
    }

    #[test]
    fn the_unspecified_ipv6_address_serves_both_families() {
        let listener = bind(Ipv6Addr::UNSPECIFIED.into(), 0).unwrap();
        let port = listener.local_addr().unwrap().port();
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        TcpStream::connect((Ipv6Addr::LOCALHOST, port)).unwrap();
    }

    #[test]
    fn accepting_never_blocks() {
        let listener = bind(Ipv4Addr::LOCALHOST.into(), 0).unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
