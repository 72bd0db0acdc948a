use super::*;
use crate::clock;

const INTERVAL: Duration = Duration::from_secs(20);

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn local(cause: LocalCause) -> Result<Timings, Failure> {
    Err(Failure { reason: Reason::Local(cause), detail: "too many open files".into() })
}

#[test]
fn a_long_stop_is_told_for_a_minute_or_an_interval() {
    let start = clock::monotonic();
    let mut health = Health::default();
    assert_eq!(health.unwell(start, INTERVAL), None);
    health.stood_still(ms(9_900), start);
    assert_eq!(health.unwell(start, INTERVAL), Some("the process stood still for 9.9s"));
    assert!(health.unwell(start + TOLD_FOR, INTERVAL).is_some());
    assert_eq!(health.unwell(start + TOLD_FOR + ms(1), INTERVAL), None);
    assert!(health.unwell(start + TOLD_FOR + ms(1), TOLD_FOR * 2).is_some());
    assert_eq!(health.lost(), ms(9_900));
}

#[test]
fn many_short_stops_are_starvation_and_a_few_are_nothing() {
    let start = clock::monotonic();
    let mut health = Health::default();
    for second in 0..60 {
        health.stood_still(ms(90), start + Duration::from_secs(second));
    }
    assert_eq!(health.unwell(start, INTERVAL), None, "0.9 s in 10 s is a busy host");
    for tick in 0..20 {
        health.stood_still(ms(95), start + Duration::from_secs(100) + ms(100) * tick);
    }
    let why = health.unwell(start + Duration::from_secs(102), INTERVAL).unwrap();
    assert_eq!(why, "starved of processor time: it stood still for more than a tenth of it");
    assert!(health.standstills.len() <= 20);
}

#[test]
fn a_long_stop_is_not_told_again_with_the_next_short_one() {
    let start = clock::monotonic();
    let mut health = Health::default();
    health.stood_still(ms(9_900), start);
    health.stood_still(ms(60), start + ms(5_000));
    assert_eq!(health.unwell(start + TOLD_FOR, INTERVAL), Some("the process stood still for 9.9s"));
    assert_eq!(health.unwell(start + TOLD_FOR + ms(1), INTERVAL), None);
}

#[test]
fn one_probe_without_a_descriptor_is_enough() {
    let now = clock::monotonic();
    let mut health = Health::default();
    health.probed(&Ok(Timings::default()), now, 100);
    health.probed(&local(LocalCause::Resources), now, 100);
    health.probed(&Ok(Timings::default()), now, 100);
    assert_eq!(health.unwell(now, INTERVAL), Some("it cannot probe: too many open files"));
}

#[test]
fn one_peer_without_a_route_is_its_own_matter_and_all_of_them_are_ours() {
    let now = clock::monotonic();
    let mut health = Health::default();
    for _ in 0..100 {
        health.probed(&Ok(Timings::default()), now, 9);
        for _ in 0..3 {
            health.probed(&local(LocalCause::NoRoute), now, 9);
        }
    }
    for _ in 0..5 {
        health.probed(&local(LocalCause::NoRoute), now, 9);
    }
    assert_eq!(health.unwell(now, INTERVAL), None);
    health.probed(&local(LocalCause::NoRoute), now, 9);
    assert!(health.unwell(now, INTERVAL).is_some());
}

#[test]
fn a_failure_of_the_peer_says_nothing_about_us() {
    let now = clock::monotonic();
    let mut health = Health::default();
    let refused = Err(Failure { reason: Reason::Refused, detail: "connection refused".into() });
    (0..100).for_each(|_| health.probed(&refused, now, 1));
    assert_eq!(health.unwell(now, INTERVAL), None);
}

#[test]
fn a_probe_that_a_standstill_spoilt_does_not_talk_over_it() {
    let now = clock::monotonic();
    let mut health = Health::default();
    health.stood_still(ms(9_900), now);
    health.probed(&local(LocalCause::Stalled), now, 1);
    assert_eq!(health.unwell(now, INTERVAL), Some("the process stood still for 9.9s"));
    let mut health = Health::default();
    health.stood_still(ms(400), now);
    health.probed(&local(LocalCause::Stalled), now, 1);
    assert!(health.unwell(now, INTERVAL).is_some(), "short limits are spoilt by short stops");
}
