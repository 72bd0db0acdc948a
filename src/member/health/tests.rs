use super::*;
use crate::clock;

const INTERVAL: Duration = Duration::from_secs(20);

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn local(cause: LocalCause) -> Result<Timings, Failure> {
    Err(Failure { reason: Reason::Local(cause), detail: "too many open files".into() })
}

fn failed(reason: Reason) -> Result<Timings, Failure> {
    Err(Failure { reason, detail: String::new() })
}

/// The health of a member with targets, one at each location, of which the last few are on this host.
struct Ward {
    health: Health,
    marks: Vec<Marks>,
    locations: Vec<Location>,
    off_host: usize,
    down: Vec<bool>,
    now: Instant,
}

impl Ward {
    fn new(off_host: usize, on_host: usize) -> Self {
        let n = off_host + on_host;
        let mut health = Health::default();
        let marks = vec![Marks::default(); n];
        let locations: Vec<Location> = (0..n).map(|n| format!("site-{n}").parse().unwrap()).collect();
        health.set_targets(marks[..off_host].iter().zip(&locations));
        Self { health, marks, locations, off_host, down: vec![false; n], now: clock::monotonic() }
    }

    /// A probe of the `n`th target ends.
    fn probe(&mut self, n: usize, result: &Result<Timings, Failure>, explained: bool) {
        let probed = Probed {
            location: &self.locations[n],
            address: "10.0.0.2:8756".parse().unwrap(),
            on_this_host: n >= self.off_host,
            would_turn: !self.down[n],
            ended: self.now,
        };
        self.health.note_answer(&mut self.marks[n], &probed, result);
        self.health.probed(&mut self.marks[n], &probed, result, explained);
    }

    fn ends(&mut self, n: usize, result: &Result<Timings, Failure>) {
        self.probe(n, result, false);
    }

    fn unwell(&self) -> Option<&str> {
        self.health.unwell(self.now, INTERVAL)
    }

    fn is_isolated(&self) -> bool {
        self.health.is_isolated(self.now + ms(1))
    }
}

#[test]
fn a_long_stop_is_told_for_a_minute_or_an_interval() {
    let start = clock::monotonic();
    let mut health = Health::default();
    assert_eq!(health.unwell(start, INTERVAL), None);
    health.stalled(ms(9_900), start);
    assert_eq!(health.unwell(start, INTERVAL), Some("the process stood still for 9.9s"));
    assert!(health.unwell(start + REPORTED_FOR, INTERVAL).is_some());
    assert_eq!(health.unwell(start + REPORTED_FOR + ms(1), INTERVAL), None);
    assert!(health.unwell(start + REPORTED_FOR + ms(1), REPORTED_FOR * 2).is_some());
    assert_eq!(health.lost(), ms(9_900));
}

#[test]
fn many_short_stops_are_starvation_and_a_few_are_nothing() {
    let start = clock::monotonic();
    let mut health = Health::default();
    for second in 0..60 {
        health.stalled(ms(90), start + Duration::from_secs(second));
    }
    assert_eq!(health.unwell(start, INTERVAL), None, "0.9 s in 10 s is a busy host");
    for tick in 0..20 {
        health.stalled(ms(95), start + Duration::from_secs(100) + ms(100) * tick);
    }
    let why = health.unwell(start + Duration::from_secs(102), INTERVAL).unwrap();
    assert_eq!(why, "starved of processor time: it stood still for more than a tenth of it");
    assert!(health.stalls.len() <= 20);
}

#[test]
fn a_long_stop_is_not_told_again_with_the_next_short_one() {
    let start = clock::monotonic();
    let mut health = Health::default();
    health.stalled(ms(9_900), start);
    health.stalled(ms(60), start + ms(5_000));
    assert_eq!(health.unwell(start + REPORTED_FOR, INTERVAL), Some("the process stood still for 9.9s"));
    assert_eq!(health.unwell(start + REPORTED_FOR + ms(1), INTERVAL), None);
}

#[test]
fn one_probe_without_a_descriptor_is_enough_and_says_what_could_not_be_probed() {
    let mut ward = Ward::new(100, 0);
    ward.ends(0, &Ok(Timings::default()));
    ward.ends(1, &local(LocalCause::Resources));
    ward.ends(2, &Ok(Timings::default()));
    assert_eq!(ward.unwell(), Some("it cannot probe site-1 (10.0.0.2): too many open files"));
}

#[test]
fn peers_without_a_route_are_their_own_matter_and_all_of_them_are_ours() {
    let no_route = local(LocalCause::NoRoute);
    let mut ward = Ward::new(9, 1);
    for _ in 0..100 {
        ward.ends(0, &Ok(Timings::default()));
        (1..9).for_each(|n| ward.ends(n, &no_route));
    }
    assert_eq!(ward.unwell(), None, "one of another address family answers");
    // What is on this host neither counts nor hides anything.
    ward.ends(9, &Ok(Timings::default()));
    ward.ends(9, &no_route);
    assert_eq!(ward.unwell(), None);
    ward.ends(0, &no_route);
    assert!(ward.unwell().is_some());
}

#[test]
fn a_broken_link_makes_the_member_unwell_at_once() {
    let mut ward = Ward::new(9, 0);
    ward.probe(3, &local(LocalCause::NoRoute), true);
    assert!(ward.unwell().is_some());
}

#[test]
fn a_failure_of_the_peer_says_nothing_about_us() {
    let mut ward = Ward::new(1, 0);
    (0..100).for_each(|_| ward.ends(0, &failed(Reason::Refused)));
    assert_eq!(ward.unwell(), None);
}

#[test]
fn a_probe_that_a_stall_spoilt_does_not_talk_over_it() {
    let mut ward = Ward::new(1, 0);
    ward.health.stalled(ms(9_900), ward.now);
    ward.ends(0, &local(LocalCause::Stalled));
    assert_eq!(ward.unwell(), Some("the process stood still for 9.9s"));
    let mut ward = Ward::new(1, 0);
    ward.health.stalled(ms(400), ward.now);
    ward.ends(0, &local(LocalCause::Stalled));
    assert!(ward.unwell().is_some(), "short limits are spoilt by short stops");
}

#[test]
fn isolated_is_who_loses_every_location_and_the_registry() {
    for (case, targets, registry, down, isolated) in [
        ("all of three and the registry", 3, false, &[][..], true),
        ("the registry answers", 3, true, &[], false),
        ("one location", 1, false, &[], false),
        ("one was down before", 3, false, &[0], true),
        ("all but one were down before", 3, false, &[0, 1], false),
    ] {
        let mut ward = Ward::new(targets, 1);
        (0..targets).for_each(|n| ward.ends(n, &Ok(Timings::default())));
        down.iter().for_each(|&n| ward.down[n] = true);
        ward.health.registry(registry, ward.now);
        for n in 0..targets {
            assert!(!ward.is_isolated(), "{case}: not before all have failed");
            ward.ends(n, &failed(if n == 0 { Reason::Timeout } else { Reason::Unreachable }));
        }
        assert_eq!(ward.is_isolated(), isolated, "{case}");
        assert_eq!(ward.unwell().is_some(), isolated, "{case}");
        ward.ends(targets, &Ok(Timings::default()));
        assert_eq!(ward.is_isolated(), isolated, "{case}: a success on this host says nothing");
    }
}

#[test]
fn any_answer_from_outside_ends_the_isolation() {
    let answers: [fn(&mut Ward); 5] = [
        |ward| ward.ends(0, &Ok(Timings::default())),
        |ward| ward.ends(0, &failed(Reason::Refused)),
        |ward| ward.ends(0, &failed(Reason::Status)),
        |ward| ward.health.registry(true, ward.now),
        |ward| ward.health.suspended(ms(60_000), ward.now),
    ];
    for (n, answer) in answers.into_iter().enumerate() {
        let mut ward = Ward::new(2, 0);
        ward.health.registry(false, ward.now);
        (0..2).for_each(|n| ward.ends(n, &failed(Reason::Timeout)));
        assert!(ward.is_isolated(), "{n}");
        let before = ward.now;
        ward.now += ms(10);
        answer(&mut ward);
        assert!(!ward.is_isolated(), "{n}");
        assert!(ward.health.is_isolated(before), "{n}: what began while it lasted says nothing");
    }
}

#[test]
fn the_order_of_losses_does_not_matter() {
    let mut ward = Ward::new(2, 0);
    (0..2).for_each(|n| ward.ends(n, &failed(Reason::Timeout)));
    assert!(ward.health.is_all_silent() && !ward.is_isolated());
    ward.health.registry(false, ward.now);
    assert!(ward.is_isolated());
}

#[test]
fn failures_that_say_nothing_about_the_network_do_not_isolate() {
    let mut ward = Ward::new(2, 0);
    ward.health.registry(false, ward.now);
    for cause in [LocalCause::Resources, LocalCause::Stalled, LocalCause::Internal] {
        (0..2).for_each(|n| ward.ends(n, &local(cause)));
    }
    assert!(!ward.is_isolated());
}

#[test]
fn targets_that_go_and_come_are_counted_anew() {
    let mut ward = Ward::new(3, 0);
    ward.health.registry(false, ward.now);
    ward.ends(0, &failed(Reason::Timeout));
    ward.ends(1, &failed(Reason::Timeout));
    assert!(!ward.is_isolated());
    // The third has left; the next failure shows that all have failed.
    ward.health.set_targets(ward.marks[..2].iter().zip(&ward.locations));
    ward.ends(0, &failed(Reason::Timeout));
    assert!(ward.is_isolated());

    // Of two locations that turned one has left: the other one alone is not enough.
    let mut ward = Ward::new(2, 0);
    (0..2).for_each(|n| ward.ends(n, &failed(Reason::Timeout)));
    ward.health.set_targets(ward.marks[..1].iter().zip(&ward.locations));
    ward.health.registry(false, ward.now);
    assert!(!ward.is_isolated());
}

#[test]
fn a_peer_that_nothing_can_be_sent_to_is_no_location_that_was_lost() {
    let mut ward = Ward::new(2, 0);
    ward.ends(0, &local(LocalCause::NoRoute));
    ward.ends(1, &failed(Reason::Timeout));
    ward.health.registry(false, ward.now);
    assert!(!ward.is_isolated(), "one of another address family, and one that died with the registry");
}
