//! Hosts in network namespaces lose and find each other as the fault tests rely on.

pub mod support;

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use support::fabric::{Cut, Fabric, Host};
use support::{SOON, eventually, holds};

/// What one host sees when it connects to another. Over IPv6 Linux takes note of a rejection only at its second SYN, a
/// second later, where the first one came back while connect(2) still held the socket.
fn connect(from: &Host, to: SocketAddr) -> Result<(), ErrorKind> {
    from.inside(|| TcpStream::connect_timeout(&to, Duration::from_millis(1500)).map(drop).map_err(|e| e.kind()))
}

#[test]
fn two_hosts_connect_until_they_are_cut_and_again_when_healed() {
    let Some(fabric) = Fabric::new(&["a", "b", "c"]) else { return };
    let [a, b, c] = fabric.hosts() else { panic!("three hosts") };
    for v6 in [false, true] {
        let listener = b.inside(|| TcpListener::bind((b.ip(v6), 0)).unwrap());
        let server = listener.local_addr().unwrap();
        eventually(SOON, "the new network carries", || connect(a, server).map_err(|e| e.to_string()));

        fabric.cut(a, b, Cut::Drop);
        assert_eq!(connect(a, server), Err(ErrorKind::TimedOut));
        assert_eq!(connect(c, server), Ok(()), "the other pairs stay connected");
        fabric.heal();
        assert_eq!(connect(a, server), Ok(()));

        fabric.cut(a, b, Cut::Reject);
        let prohibited = if v6 { ErrorKind::PermissionDenied } else { ErrorKind::HostUnreachable };
        assert_eq!(connect(a, server), Err(prohibited));
        fabric.heal();
        assert_eq!(connect(a, server), Ok(()));

        fabric.unplug(b);
        assert!(connect(a, server).is_err());
        fabric.heal();
        eventually(SOON, "the cable carries again", || {
            let seen = connect(a, server);
            holds(seen.is_ok(), seen)
        });
    }
}
