//! Clients that are slow, silent or too loud cost a bounded share, and the others are served.

pub mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use support::daemon::{Daemon, Member, Registry};
use support::{http, skip};

/// How many connections a crowd of idle clients opens.
const CROWD: usize = 2_000;

fn connect(server: SocketAddr) -> std::io::Result<TcpStream> {
    TcpStream::connect_timeout(&server, Duration::from_secs(5))
}

/// The daemon answers somebody well-behaved, quickly.
fn serves(daemon: &Daemon) {
    let asked = netring::clock::monotonic();
    assert_eq!(daemon.get("/health").status, 200);
    let took = netring::clock::monotonic() - asked;
    assert!(took < Duration::from_secs(2), "the answer took {took:?}");
}

/// Both daemons, each with what makes it answer a request with a body.
fn both() -> [Daemon; 2] {
    let registry = Registry { member_ttl: 300, ..Registry::new() }.start();
    let member = Member::new("us1", registry.server).start();
    [registry, member]
}

#[test]
fn idle_half_sent_and_slow_requests_hold_up_nobody_and_end() {
    let daemons = both();
    let beginnings: [&[u8]; 4] = [
        b"",
        b"GET /heal",
        b"GET /health HTTP/1.1\r\nhost: it\r\nx-slow: ",
        b"POST /register HTTP/1.1\r\nhost: it\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{",
    ];
    let mut waiting: Vec<TcpStream> = Vec::new();
    for daemon in &daemons {
        for beginning in beginnings {
            for _ in 0..20 {
                let mut stream = connect(daemon.server).unwrap();
                stream.write_all(beginning).unwrap();
                waiting.push(stream);
            }
        }
        serves(daemon);
    }
    for stream in &mut waiting {
        // An answer such as 408 or nothing at all, but an end.
        stream.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
        let mut answer = Vec::new();
        let end = stream.read_to_end(&mut answer);
        let still_open = end.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock);
        assert!(!still_open, "a connection is still open after {:?}", String::from_utf8_lossy(&answer));
    }
    daemons.iter().for_each(serves);
}

#[test]
fn what_is_too_large_is_refused_and_the_next_is_served() {
    for daemon in both() {
        let head = format!("GET /health HTTP/1.1\r\nhost: it\r\nx-large: {}\r\n\r\n", "x".repeat(4 << 20));
        if let Ok(answer) = http::raw(daemon.server, head.as_bytes()) {
            assert_eq!(answer.status, 431);
        }
        let many: String = (0..5_000).map(|n| format!("x-{n}: y\r\n")).collect();
        if let Ok(answer) = http::raw(daemon.server, format!("GET /health HTTP/1.1\r\n{many}\r\n").as_bytes()) {
            assert_eq!(answer.status, 431);
        }
        if let Ok(answer) =
            http::raw(daemon.server, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 no HTTP at all\r\n\r\n")
        {
            assert_eq!(answer.status, 400);
        }
        serves(&daemon);
    }
    let [registry, _] = both();
    // Its size is known only at its end.
    let mut chunked =
        b"POST /register HTTP/1.1\r\nhost: it\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n".to_vec();
    for _ in 0..64 {
        chunked.extend_from_slice(format!("{:x}\r\n{}\r\n", 1 << 16, "x".repeat(1 << 16)).as_bytes());
    }
    if let Ok(answer) = http::raw(registry.server, &chunked) {
        assert!(!answer.error(413).is_empty());
    }
    serves(&registry);
}

#[test]
fn a_crowd_of_idle_connections_is_bounded_and_the_others_are_served() {
    for daemon in both() {
        let before = memory(&daemon);
        let mut crowd = Vec::new();
        for _ in 0..CROWD {
            match connect(daemon.server) {
                Ok(stream) => crowd.push(stream),
                Err(e) if e.raw_os_error() == Some(libc::EMFILE) => {
                    return skip("too few descriptors; raise the limit with ulimit -n 4096");
                }
                Err(e) => panic!("connection {}: {e}", crowd.len()),
            }
        }
        support::eventually(Duration::from_secs(60), "somebody else is served", || {
            daemon.try_get("/health").and_then(|answer| support::holds(answer.status == 200, answer.status))
        });
        let grown = memory(&daemon) - before;
        assert!(grown < 64e6, "{CROWD} idle connections cost {grown} bytes");
    }
}

fn memory(daemon: &Daemon) -> f64 {
    support::eventually(Duration::from_secs(60), "a scrape is answered", || {
        let answer = daemon.try_get("/metrics")?;
        let metrics = support::metrics::Metrics::parse(&answer.text())?;
        metrics.value("process_resident_memory_bytes", &[]).ok_or_else(|| answer.text())
    })
}
