use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;

use tracing_subscriber::layer::SubscriberExt as _;

use super::*;
use crate::config::{ConfigFile, Environment, member_from};
use crate::probe;
use crate::wire::{Member, MembersReply};

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The settings of a member of this registry with these intervals in seconds.
fn settings(registry: SocketAddr, poll: u64, heartbeat: u64) -> MemberSettings {
    let text = format!(
        "member: {{location: x, registry: {{url: 'http://{registry}'}}, intervals: {{poll_interval: {poll}, \
         heartbeat_interval: {heartbeat}}}}}"
    );
    let file = ConfigFile::parse(std::path::Path::new("member.yaml"), &text).unwrap();
    member_from(&file, &Environment::default()).unwrap().settings
}

/// An address at which nobody listens.
fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn me() -> InstanceId {
    "me".parse().unwrap()
}

/// A control thread that was not started: the test calls what it would.
fn driver(settings: MemberSettings) -> Driver {
    let (reports, _) = tokio::sync::mpsc::channel(1);
    let limits = probe::Limits {
        tcp_timeout: secs(1),
        http_timeout: secs(1),
        http_ok_status: settings.checks.http_ok_status.clone(),
        http_body_limit: settings.checks.http_body_limit,
    };
    let probing = super::super::prober::Settings { interval: secs(60), limits, max_in_flight: 1 };
    let freshness = super::super::board::Freshness { interval: secs(60), time_limit: secs(1) };
    let network = Network::default();
    let parts = Parts {
        board: Arc::new(Mutex::new(Board::new(settings.location.clone(), me(), freshness))),
        prober: Arc::new(Prober::start(&me(), probing, reports, 1, network.clone(), || {}).unwrap()),
        settings: Arc::new(settings),
        me: me(),
        listening: "127.0.0.1:8756".parse().unwrap(),
        network,
        state: None,
        vitals: Vitals::new(),
    };
    Driver::new(parts, channel().0).unwrap()
}

/// The time at which the lease lane is next due.
fn lease_due(driver: &mut Driver, now: Instant) -> Instant {
    match driver.membership.lease(now) {
        Action::WaitUntil(at) => at,
        other => panic!("the lease was renewed a moment ago: {other:?}"),
    }
}

fn answer_lease(driver: &mut Driver, answer: LeaseAnswer, now: Instant) {
    let Action::Do(ticket, _) = driver.membership.lease(now) else { panic!("a request is due") };
    driver.membership.on_lease(ticket, answer, now, 1.0).unwrap();
}

fn answer_poll(driver: &mut Driver, members: &[&str], now: Instant) {
    let member = |name: &&str| Member {
        instance_id: name.parse().unwrap(),
        location: "x".parse().unwrap(),
        ip: "127.0.0.1".parse().unwrap(),
        port: std::num::NonZeroU16::MIN,
        last_seen: 0,
        registered_at: 0,
        status: (),
    };
    let roster = MembersReply { members: members.iter().map(member).collect(), ..MembersReply::default() };
    let Action::Do(ticket, _) = driver.membership.poll(now) else { panic!("a request is due") };
    let answer = RosterAnswer::Full { roster, etag: None, age: None };
    driver.membership.on_roster(ticket, answer, now, 1.0).unwrap();
}

#[test]
fn peers_are_held_for_two_turns_of_the_slower_interval_and_a_few_attempts() {
    assert_eq!(hold(&settings(nobody(), 30, 45)), secs(100));
    assert_eq!(hold(&settings(nobody(), 60, 45)), secs(130));
}

#[test]
fn a_reload_changes_the_pace_and_how_long_peers_are_held() {
    let registry = nobody();
    let mut driver = driver(settings(registry, 30, 45));
    let start = clock::monotonic();
    let registered = LeaseAnswer::Registered { address: "127.0.0.1:8756".parse().unwrap(), known: true };
    answer_lease(&mut driver, registered, start);
    answer_poll(&mut driver, &["me", "a"], start);
    assert_eq!(lease_due(&mut driver, start), start + secs(45));

    driver.reload(Arc::new(settings(registry, 10, 5)));
    let due = lease_due(&mut driver, start);
    // Counted from the reload, which was a moment ago.
    assert!((secs(5)..secs(15)).contains(&(due - start)), "the new heartbeat interval counts: {:?}", due - start);

    // The registry loses its memory. With the new intervals the missing peer is held for 30 s, with the old ones for 100.
    answer_lease(&mut driver, LeaseAnswer::Unknown, due);
    answer_poll(&mut driver, &["me"], due + secs(10));
    assert_eq!(driver.membership.settle(due + secs(29)).left.len(), 0);
    assert_eq!(driver.membership.settle(due + secs(30)).left.len(), 1);
}

#[test]
fn a_reload_with_another_poll_interval_changes_how_often_the_roster_is_asked_for() {
    let registry = nobody();
    let mut driver = driver(settings(registry, 30, 45));
    let start = clock::monotonic();
    // Without an entity tag nothing can be waited for: the roster is asked for each poll interval.
    answer_poll(&mut driver, &["a"], start);
    driver.reload(Arc::new(settings(registry, 5, 45)));
    let Action::WaitUntil(due) = driver.membership.poll(start) else { panic!("it was answered a moment ago") };
    assert!((secs(5)..secs(15)).contains(&(due - start)), "{:?}", due - start);
}

#[test]
fn a_reload_that_names_another_registry_begins_anew_there_at_once() {
    let mut driver = driver(settings(nobody(), 30, 45));
    let start = clock::monotonic();
    let registered = LeaseAnswer::Registered { address: "127.0.0.1:8756".parse().unwrap(), known: true };
    answer_lease(&mut driver, registered, start);
    answer_poll(&mut driver, &["me", "a"], start);
    let (due, registry) = (lease_due(&mut driver, start), nobody());
    driver.reload(Arc::new(settings(registry, 30, 45)));
    let now = clock::monotonic();
    assert!(now < due, "nothing is due by itself");
    assert!(matches!(driver.membership.lease(now), Action::Do(_, LeaseRequest::Register)));
    assert!(matches!(driver.membership.poll(now), Action::Do(_, Poll { etag: None, .. })));
    assert_eq!(driver.lease_client.base(), format!("http://{registry}"));
    assert_eq!(driver.membership.peers().len(), 1, "the peers may be on their way there, too");
}

/// A registry that answers one request and passes on its first line.
fn registry_that_answers(body: &'static str) -> (SocketAddr, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(listener.accept().unwrap().0);
        let (mut first, mut line, mut length) = (String::new(), String::new(), 0);
        reader.read_line(&mut first).unwrap();
        while line != "\r\n" {
            line.clear();
            assert!(reader.read_line(&mut line).unwrap() > 0, "the client went away");
            if let Some(bytes) = line.to_lowercase().strip_prefix("content-length:") {
                length = bytes.trim().parse().unwrap();
            }
        }
        reader.read_exact(&mut vec![0; length]).unwrap();
        sender.send(first).unwrap();
        let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length";
        write!(reader.get_mut(), "{head}: {}\r\n\r\n{body}", body.len()).unwrap();
    });
    (address, lines)
}

#[test]
fn a_heartbeat_registers_the_new_address_where_this_host_has_got_another_one() {
    // This host reaches a registry on loopback from 127.0.0.1, and from there the heartbeat comes.
    let unspecified =
        Advertised { listening: "0.0.0.0:8756".parse().unwrap(), ip: crate::config::Advertise::Auto, port: None };
    let fixed = Advertised { ip: crate::config::Advertise::Address("10.0.0.9".parse().unwrap()), ..unspecified };
    let registered = |address: &str| LeaseAnswer::Registered { address: address.parse().unwrap(), known: true };
    let cases = [
        ("the host had another address before", unspecified, Some("192.0.2.1:8756"), registered("127.0.0.1:8756")),
        ("another port was registered", unspecified, Some("127.0.0.1:1"), registered("127.0.0.1:8756")),
        ("another address is configured", fixed, Some("127.0.0.1:8756"), registered("10.0.0.9:8756")),
        ("the address is the same", unspecified, Some("127.0.0.1:8756"), LeaseAnswer::Renewed),
        ("the configured address is the same", fixed, Some("10.0.0.9:8756"), LeaseAnswer::Renewed),
    ];
    for (what, advertised, before, expected) in cases {
        let (registry, lines) = registry_that_answers(r#"{"instance_id": "me", "known": true}"#);
        let client = RegistryClient::new(&settings(registry, 30, 45).registry, &Vitals::new());
        let before = before.map(|address| address.parse().unwrap());
        let mut sent = None;
        let answer = renew(&client, &me(), LeaseRequest::Heartbeat, before, &advertised, secs(10), |address| {
            sent = Some(address);
            let location = "x".parse().unwrap();
            Registration { instance_id: Some(me()), location, ip: address.ip(), port: own_address::port(address) }
        });
        assert_eq!(answer, Ok(expected), "{what}");
        let (path, address) = match expected {
            LeaseAnswer::Registered { address, .. } => ("/register", Some(address)),
            _ => ("/heartbeat", None),
        };
        assert_eq!(lines.recv_timeout(secs(10)).unwrap(), format!("POST {path} HTTP/1.1\r\n"), "{what}");
        assert_eq!(sent, address, "{what}");
    }
}

#[test]
fn a_member_that_stops_before_its_registration_is_confirmed_leaves_the_ring_all_the_same() {
    let (registry, lines) = registry_that_answers("{}");
    driver(settings(registry, 30, 45)).leave(true);
    assert_eq!(lines.recv_timeout(secs(10)).unwrap(), "POST /deregister HTTP/1.1\r\n");
}

/// Passes on the names of the events that are logged, as their field `event` has them.
struct Events(Arc<Mutex<Vec<String>>>);

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Events {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        struct Name(Option<String>);
        impl tracing::field::Visit for Name {
            fn record_debug(&mut self, _: &tracing::field::Field, _: &dyn std::fmt::Debug) {}
            fn record_str(&mut self, field: &tracing::field::Field, value: &str) {
                if field.name() == "event" {
                    self.0 = Some(value.to_owned());
                }
            }
        }
        let mut name = Name(None);
        event.record(&mut name);
        lock(&self.0).extend(name.0);
    }
}

#[test]
fn another_member_with_this_identity_is_logged() {
    let logged = Arc::<Mutex<Vec<String>>>::default();
    let _logging = tracing::subscriber::set_default(tracing_subscriber::registry().with(Events(Arc::clone(&logged))));
    let mut driver = driver(settings(nobody(), 30, 45));
    driver.take_in(News::default());
    assert_eq!(*lock(&logged), Vec::<String>::new());
    driver.take_in(News { duplicate: Some("10.0.0.2:8756".parse().unwrap()), ..News::default() });
    assert_eq!(*lock(&logged), [events::IDENTITY_TWICE]);
}
