//! A member that may make four probes at once, beside twelve peers that answer nothing: the peers that are dead cannot take all
//! the places, so those that live are probed at every turn.

pub mod support;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use netring::clock::monotonic;
use socket2::{Domain, Socket, Type};
use support::daemon::{Member, Registry};
use support::metrics::Metrics;
use support::peer::{Connection, Peer};
use support::{eventually, holds, socket};

const DEAD: usize = 12;
/// The turns of these are 80 ms and more apart, so that they never need one place at the same time.
const LIVING: [&str; 2] = ["living-0", "living-2"];
const PLACES: usize = 4;
const TURNS: usize = 6;

/// A peer whose queue of connections is full, so that the kernel drops every SYN that comes.
struct BlackHole {
    listener: TcpListener,
    /// A backlog of zero still takes one.
    _filler: TcpStream,
}

impl BlackHole {
    fn dig() -> Self {
        let queue = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket can be made");
        queue.bind(&socket().into()).expect("the address is this test's own");
        queue.listen(0).expect("a socket can listen");
        let listener = TcpListener::from(queue);
        let filler = TcpStream::connect(listener.local_addr().expect("it has an address")).expect("one has room");
        Self { listener, _filler: filler }
    }

    fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("it has an address")
    }
}

fn answer(connection: &mut Connection) {
    if connection.read_request() {
        let _ = connection.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    }
}

fn skipped(metrics: &Metrics, reason: &str) -> f64 {
    metrics.sum("netring_checks_skipped_total", &[("reason", reason)])
}

#[test]
fn living_targets_are_probed_at_every_turn_however_many_dead_ones_want_their_places() {
    let registry = Registry { member_ttl: 300, ..Registry::new() };
    let registry = registry.start();
    let holes: Vec<BlackHole> = (0..DEAD).map(|_| BlackHole::dig()).collect();
    let living: Vec<Peer> = LIVING.iter().map(|_| Peer::start(answer)).collect();
    for (n, hole) in holes.iter().enumerate() {
        registry.register(&format!("dead-{n}"), "dark", hole.address());
    }
    for (id, peer) in LIVING.iter().zip(&living) {
        registry.register(id, "lit", peer.address);
    }
    // Twelve dead peers want six places all the time, and by HTTP as many again.
    let described =
        Member { timeout: 0.5, http_endpoints: vec!["/health".into()], ..Member::new("us1", registry.server) };
    let text = described.yaml().replace("  checks:\n", &format!("  checks:\n    max_in_flight: {PLACES}\n"));
    let mut member = described.start();
    member.configure(&text);
    member.start_again();
    // That a target answers nothing is known from its first probe on.
    eventually(Duration::from_secs(30), "every dead target has been found", || {
        let found = (0..DEAD)
            .flat_map(|n| ["tcp", "http"].map(|check| [format!("target=dead-{n} "), format!("check={check} ")]))
            .filter(|[id, check]| !member.log_lines(&["peer down", id, check]).is_empty())
            .count();
        holds(found == 2 * DEAD, found)
    });

    let before = member.metrics();
    let from = monotonic();
    std::thread::sleep(Duration::from_secs(TURNS as u64));
    let to = monotonic();
    let after = member.metrics();
    let late = (skipped(&after, "late") - skipped(&before, "late")) as usize;
    for (id, peer) in LIVING.iter().zip(&living) {
        let visits = peer.visits();
        for asked in [false, true] {
            let seen = visits.iter().filter(|visit| visit.asked == asked && (from..to).contains(&visit.came)).count();
            // A turn may be just before or after, and this process may be late with noting one.
            let what = format!("{id} (HTTP: {asked}) was probed {seen} times in {TURNS} turns");
            assert!(seen + late + 1 >= TURNS, "{what}; {late} turns of all were noticed too late");
        }
    }
    let states = after.series("netring_connectivity_tcp", &[("target_location", "lit")]);
    assert!(states.len() == LIVING.len() && states.iter().all(|state| state.value == 1.0), "{states:?}");
    assert_eq!(after.sum("netring_check_failures_total", &[("target_location", "lit")]), 0.0);
    let limited = skipped(&after, "limit") - skipped(&before, "limit");
    println!("{limited} turns skipped for want of a place");
    assert!(limited >= (TURNS * DEAD / 2) as f64, "turns without a place are counted: {limited}");
    // The dead ones have their share.
    let timeouts = |metrics: &Metrics| metrics.sum("netring_check_failures_total", &[("reason", "timeout")]);
    let tried = timeouts(&after) - timeouts(&before);
    assert!(tried >= TURNS as f64 * 2.0, "dead targets are still probed: {tried} times");
}
