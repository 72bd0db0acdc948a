use std::net::TcpListener;

use super::*;
use crate::probe::blackhole::FullListener;

fn budget(limit: Duration) -> Budget {
    Budget::new(limit)
}

fn on_loopback() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[test]
fn the_kind_of_a_failure_follows_from_the_error_and_from_who_reported_it() {
    use Reason::{Refused, Reset, Timeout, Unreachable};
    use ReportedBy::{Network, ThisHost};
    let (exhausted, no_route) = (Reason::Local(LocalCause::Resources), Reason::Local(LocalCause::NoRoute));
    let table = [
        (libc::ECONNREFUSED, Refused, Refused),
        (libc::ETIMEDOUT, Timeout, Timeout),
        (libc::EHOSTUNREACH, no_route, Unreachable),
        (libc::ENETUNREACH, no_route, Unreachable),
        (libc::ECONNRESET, Reset, Reset),
        (libc::ECONNABORTED, Reset, Reset),
        (libc::EPIPE, Reset, Reset),
        (libc::EMFILE, exhausted, exhausted),
        (libc::ENFILE, exhausted, exhausted),
        (libc::ENOBUFS, exhausted, exhausted),
        (libc::ENOMEM, exhausted, exhausted),
        (libc::ENOSPC, exhausted, exhausted),
        (libc::EADDRNOTAVAIL, no_route, no_route),
        (libc::EPERM, no_route, no_route),
        (libc::ENETDOWN, no_route, no_route),
        // A `prohibit` route of our own, or ICMPv6 "administratively prohibited" from a firewall.
        (libc::EACCES, no_route, Unreachable),
        // A `blackhole` route of our own.
        (libc::EINVAL, no_route, Unreachable),
        (libc::EAFNOSUPPORT, no_route, Unreachable),
        // ICMP "protocol unreachable".
        (libc::ENOPROTOOPT, no_route, Unreachable),
        (libc::EHOSTDOWN, no_route, Unreachable),
        (libc::EPROTO, no_route, Unreachable),
    ];
    for (errno, from_this_host, from_the_network) in table {
        let name = io::Error::from_raw_os_error(errno);
        assert_eq!(reason(ThisHost, errno), from_this_host, "{name}");
        assert_eq!(reason(Network, errno), from_the_network, "{name}");
    }
}

#[test]
fn the_detail_is_the_systems_text_as_a_clause() {
    let detail = |errno| failure(ReportedBy::Network, &io::Error::from_raw_os_error(errno)).detail;
    assert_eq!(detail(libc::ECONNREFUSED), "connection refused");
    assert_eq!(detail(libc::EHOSTUNREACH), "no route to host");
}

#[test]
fn the_kernels_round_trip_time_is_left_out_where_it_is_not_valid() {
    let us = Duration::from_micros;
    assert_eq!(valid_rtt(us(64), 0, us(90)), Some(us(64)));
    // The millisecond-grained path: more than we waited in all.
    assert_eq!(valid_rtt(us(1_000), 0, us(90)), None);
    // A round trip of a millisecond that really is one.
    assert_eq!(valid_rtt(us(1_000), 0, us(1_040)), Some(us(1_000)));
    assert_eq!(valid_rtt(us(64), 1, us(1_030_000)), None);
    assert_eq!(valid_rtt(us(0), 0, us(90)), None);
}

#[tokio::test]
async fn a_connection_that_is_made_has_our_time_and_the_kernels() {
    let (listener, address) = on_loopback();
    // The kernel's time is left out now and then; on loopback hardly ever ten times in a row.
    for _ in 0..10 {
        let outcome = probe(address, &budget(Duration::from_secs(5))).await;
        let timings = outcome.result.unwrap();
        assert_eq!(outcome.syn_retransmits, 0);
        assert!(timings.connect > Duration::ZERO && timings.connect <= timings.total);
        assert_eq!((timings.first_byte, timings.transfer, timings.status, timings.resolve), (None, None, None, None));
        if let Some(rtt) = timings.rtt {
            assert!(rtt <= timings.connect);
            drop(listener);
            return;
        }
    }
    panic!("the kernel gave no round-trip time");
}

#[tokio::test]
async fn a_probe_closes_in_the_ordinary_way() {
    use std::io::Read;
    let (listener, address) = on_loopback();
    assert!(probe(address, &budget(Duration::from_secs(5))).await.result.is_ok());
    let (mut stream, _) = listener.accept().unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "an end of stream, where a reset would be an error");
}

/// A listener that accepts every connection and closes it with a reset, as proxies and load balancers do.
fn resetting() -> SocketAddr {
    let (listener, address) = on_loopback();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            SockRef::from(&stream.unwrap()).set_linger(Some(Duration::ZERO)).unwrap();
        }
    });
    address
}

#[tokio::test]
async fn a_handshake_followed_by_a_reset_is_a_connection_however_late_we_look() {
    let address = resetting();
    let mut with_rtt = 0;
    for number in 0..300 {
        let probe = tokio::spawn(async move { probe(address, &budget(Duration::from_secs(5))).await });
        // On this one thread the probe has started its connection once it has had a turn. Nobody looks at it meanwhile.
        tokio::task::yield_now().await;
        if number % 10 == 0 {
            std::thread::sleep(Duration::from_millis(60));
        }
        let outcome = probe.await.unwrap();
        let timings = outcome.result.unwrap_or_else(|failure| panic!("probe {number}: {failure:?}"));
        assert_eq!(outcome.syn_retransmits, 0);
        assert!(timings.rtt.is_none_or(|rtt| rtt <= timings.connect), "{timings:?}");
        with_rtt += u32::from(timings.rtt.is_some());
    }
    // The kernel keeps what it measured of a connection that was reset.
    assert!(with_rtt > 100, "{with_rtt}");
}

#[tokio::test]
async fn a_connection_that_was_made_when_the_time_limit_is_noticed_counts() {
    let full = FullListener::new();
    let address = full.address();
    let budget = budget(Duration::from_millis(700));
    let deadline = budget.deadline();
    // Both timers expire in the same turn of the runtime. The first task then keeps the thread until the second SYN, after one
    // second, has been answered: the second task sees its time limit before the runtime has asked the kernel again.
    let stall = tokio::spawn(async move {
        tokio::time::sleep_until(deadline).await;
        std::thread::sleep(Duration::from_millis(800));
    });
    let probe = tokio::spawn(async move { probe(address, &budget).await });
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    full.drain();
    stall.await.unwrap();
    let outcome = probe.await.unwrap();
    assert_eq!(outcome.syn_retransmits, 1);
    assert!(outcome.result.is_ok(), "{outcome:?}");
}

#[test]
fn the_ephemeral_ports_are_read_as_the_kernel_shows_them() {
    assert_eq!(port_range("32768\t60999\n"), Some(32_768..=60_999));
    assert_eq!(port_range("40000 40000"), Some(40_000..=40_000));
    for wrong in ["", "1024", "a b", "1 70000"] {
        assert_eq!(port_range(wrong), None, "{wrong:?}");
    }
}

#[tokio::test]
async fn ipv6_works_the_same() {
    let listener = TcpListener::bind("[::1]:0").unwrap();
    let address = listener.local_addr().unwrap();
    assert!(probe(address, &budget(Duration::from_secs(5))).await.result.is_ok());
}

#[tokio::test]
async fn a_port_nobody_listens_on_is_refused() {
    let (listener, address) = on_loopback();
    drop(listener);
    let failure = probe(address, &budget(Duration::from_secs(5))).await.result.unwrap_err();
    assert_eq!(failure, Failure { reason: Reason::Refused, detail: "connection refused".into() });
}

#[tokio::test]
async fn a_listener_that_takes_no_more_is_a_timeout_with_the_lost_syns_counted() {
    let full = FullListener::new();
    let begun = clock::monotonic();
    let outcome = probe(full.address(), &budget(Duration::from_millis(1_500))).await;
    let took = clock::monotonic() - begun;
    let failure = outcome.result.unwrap_err();
    assert_eq!(failure.reason, Reason::Timeout);
    assert_eq!(failure.detail, "no answer to the connection attempt within 1.5s, sent 2 times");
    assert_eq!(outcome.syn_retransmits, 1);
    assert_eq!(outcome.source, Some(full.address().ip()), "it tells which interface the attempt used");
    assert!((Duration::from_millis(1_500)..Duration::from_millis(2_500)).contains(&took), "{took:?}");
}

#[tokio::test]
async fn a_connection_made_after_a_lost_syn_says_so_and_claims_no_round_trip_time() {
    let full = FullListener::new();
    let address = full.address();
    let probe = tokio::spawn(async move { probe(address, &budget(Duration::from_secs(10))).await });
    // On this one thread the probe has sent its SYN, and the kernel dropped it, once it has had a turn.
    tokio::task::yield_now().await;
    full.drain();
    let outcome = probe.await.unwrap();
    let timings = outcome.result.unwrap();
    assert!(outcome.syn_retransmits >= 1);
    assert_eq!(timings.rtt, None);
    assert!(timings.connect > Duration::from_millis(900), "{:?}", timings.connect);
}

#[tokio::test]
async fn an_address_this_host_cannot_even_try_is_local() {
    // A link-local address without a zone: connect(2) says EINVAL.
    let failure = probe("[fe80::1]:80".parse().unwrap(), &budget(Duration::from_secs(5))).await.result.unwrap_err();
    assert_eq!(failure.reason, Reason::Local(LocalCause::NoRoute));
}
