//! The listening socket, and why there is none where the kernel refuses it.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// How many connections may wait to be accepted (capped by `net.core.somaxconn`).
const BACKLOG: i32 = 1024;

/// The kernel refused a listening socket at an address.
#[derive(Debug)]
pub struct BindError {
    /// The address that was wanted.
    pub address: SocketAddr,
    /// The kernel's error.
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
    /// Which part of the address to change, `port` or `host`, so that the caller can name the setting.
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

/// A non-blocking socket that listens at `host` and `port` (0 lets the kernel choose). `::` accepts IPv4 and IPv6,
/// `0.0.0.0` IPv4 only.
///
/// # Errors
///
/// Why the kernel refuses the address.
pub fn bind(host: IpAddr, port: u16) -> Result<TcpListener, BindError> {
    let address = SocketAddr::new(host, port);
    listening(address).map_err(|cause| BindError { address, cause })
}

/// Like [`bind`], and without a host at every address of this host: at `::`, or at `0.0.0.0` where it has no IPv6.
///
/// # Errors
///
/// Why the kernel refuses the address.
pub fn bind_or_all(host: Option<IpAddr>, port: u16) -> Result<TcpListener, BindError> {
    let Some(host) = host else {
        return bind(Ipv6Addr::UNSPECIFIED.into(), port).or_else(|error| match error.cause.raw_os_error() {
            Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL) => bind(Ipv4Addr::UNSPECIFIED.into(), port),
            _ => Err(error),
        });
    };
    bind(host, port)
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
    use std::net::TcpStream;

    use super::*;

    const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn refusal(address: &str, errno: i32) -> String {
        BindError { address: address.parse().unwrap(), cause: io::Error::from_raw_os_error(errno) }.to_string()
    }

    #[test]
    fn a_busy_port_says_that_another_process_holds_it() {
        let holder = bind(LOCALHOST, 0).unwrap();
        let port = holder.local_addr().unwrap().port();
        let error = bind(LOCALHOST, port).unwrap_err();
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
    fn no_address_and_the_unspecified_ipv6_address_accept_both_families_and_0_0_0_0_ipv4_alone() {
        let everywhere = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        for (host, v6) in [(None, true), (Some(everywhere), true), (Some(Ipv4Addr::UNSPECIFIED.into()), false)] {
            let listener = bind_or_all(host, 0).unwrap();
            let port = listener.local_addr().unwrap().port();
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
            assert_eq!(TcpStream::connect((Ipv6Addr::LOCALHOST, port)).is_ok(), v6, "{host:?}");
        }
    }

    /// Has socket(2) answer EAFNOSUPPORT to this thread when it asks for IPv6, as it does on a host that was booted with
    /// `ipv6.disable=1` and under systemd's `RestrictAddressFamilies=AF_INET`.
    fn lose_ipv6() {
        let load = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
        let equal = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
        let answer = (libc::BPF_RET | libc::BPF_K) as u16;
        let step = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
        // Offsets in `struct seccomp_data`: the number of the call, and the lower half of its first argument.
        let first_argument = if cfg!(target_endian = "big") { 20 } else { 16 };
        let mut filter = [
            step(load, 0, 0, 0),
            step(equal, libc::SYS_socket as u32, 0, 3),
            step(load, first_argument, 0, 0),
            step(equal, libc::AF_INET6 as u32, 0, 1),
            step(answer, libc::SECCOMP_RET_ERRNO | libc::EAFNOSUPPORT as u32, 0, 0),
            step(answer, libc::SECCOMP_RET_ALLOW, 0, 0),
        ];
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
        // SAFETY: prctl(2) copies the program, which is alive. It binds the calling thread alone, which ends with its test.
        let set = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
                | libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program)
        };
        assert_eq!(set, 0, "{}", io::Error::last_os_error());
    }

    #[test]
    fn a_host_without_ipv6_is_served_by_ipv4_unless_an_ipv6_address_was_asked_for() {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                lose_ipv6();
                let listener = bind_or_all(None, 0).unwrap();
                assert_eq!(listener.local_addr().unwrap().ip(), IpAddr::V4(Ipv4Addr::UNSPECIFIED));
                TcpStream::connect((Ipv4Addr::LOCALHOST, listener.local_addr().unwrap().port())).unwrap();
                let error = bind_or_all(Some(Ipv6Addr::UNSPECIFIED.into()), 0).unwrap_err();
                assert_eq!(error.to_string(), "cannot listen on [::]:0: this host has IPv6 turned off");
            });
        });
    }

    #[test]
    fn accepting_never_blocks() {
        let listener = bind(LOCALHOST, 0).unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
