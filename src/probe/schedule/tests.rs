mod slow;

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::clock;

const MINUTE: Duration = Duration::from_secs(60);
const PLENTY: usize = 100_000;

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn instance(name: &str) -> InstanceId {
    name.parse().unwrap()
}

fn phase(target: u64) -> Phase {
    Phase::of(&instance("self"), &instance(&format!("peer-{target}")), &Check::Tcp)
}

/// A phase that is the given part of the interval.
fn share(part: u64, of: u64) -> Phase {
    Phase((u128::from(part) * (1 << 64) / u128::from(of)) as u64)
}

fn with_targets(start: Instant, interval: Duration, targets: u64) -> Schedule {
    let mut schedule = Schedule::new(start, interval, PLENTY);
    for id in 0..targets {
        schedule.add(TargetId(id), phase(id), start);
    }
    schedule
}

fn all_due(schedule: &mut Schedule, now: Instant) -> Vec<Event> {
    std::iter::from_fn(|| schedule.due(now)).collect()
}

fn started(schedule: &mut Schedule, now: Instant) -> Turn {
    match schedule.due(now) {
        Some(Event::Start(turn)) => turn,
        other => panic!("expected a turn to start, got {other:?}"),
    }
}

fn skipped(reason: SkipReason, count: u64) -> Option<Event> {
    Some(Event::Skipped { id: TargetId(0), reason, count })
}

/// One target at the very start of each interval.
fn single(start: Instant, interval: Duration) -> Schedule {
    let mut schedule = Schedule::new(start, interval, PLENTY);
    schedule.add(TargetId(0), share(0, 1), start);
    schedule
}

#[test]
fn the_hash_of_a_phase_is_the_same_in_every_build() {
    let endpoint = |path: &str| Check::Http { endpoint: Arc::from(path) };
    let of = |prober: &str, peer: &str, check: &Check| Phase::of(&instance(prober), &instance(peer), check).0;
    assert_eq!(of("a", "b", &Check::Tcp), 0x4c68_8f70_e16e_7bd0);
    assert_eq!(of("a", "b", &endpoint("/health")), 0xcdeb_5a24_9267_35db);
    assert_ne!(of("a", "b", &Check::Tcp), of("b", "a", &Check::Tcp));
    assert_ne!(of("ab", "c", &Check::Tcp), of("a", "bc", &Check::Tcp));
    assert_ne!(of("a", "b", &endpoint("/health")), of("a", "b", &endpoint("/metrics")));
}

/// How far the counts are from even, as the chi-square statistic; its mean is the number of cells, its standard
/// deviation the root of twice that.
fn unevenness(counts: &[u32]) -> f64 {
    let mean = f64::from(counts.iter().sum::<u32>()) / counts.len() as f64;
    counts.iter().map(|&n| (f64::from(n) - mean).powi(2) / mean).sum()
}

#[test]
fn ten_thousand_targets_are_spread_evenly_over_the_interval() {
    let start = clock::monotonic();
    let mut schedule = with_targets(start, MINUTE, 10_000);
    let mut by_100_ms = [0_u32; 600];
    while let Some(due) = schedule.next_due().filter(|&due| due < start + MINUTE) {
        let turn = started(&mut schedule, due);
        by_100_ms[((turn.due - start).as_millis() / 100) as usize] += 1;
        assert!(schedule.ended(turn, false));
    }
    assert_eq!(by_100_ms.iter().sum::<u32>(), 10_000);
    assert!((420.0..780.0).contains(&unevenness(&by_100_ms)), "{}", unevenness(&by_100_ms));
    assert!(by_100_ms.iter().all(|&n| n < 45), "{by_100_ms:?}");
}

#[test]
fn a_target_is_probed_evenly_by_ten_thousand_members_whose_names_are_alike() {
    for make in [|n| format!("{n}"), |n| format!("us1-{n:05}"), |n| format!("{n:05}-us1-k8s-member-instance")] {
        let mut cells = [0_u32; 600];
        for member in 0..10_000 {
            let phase = Phase::of(&instance(&make(member)), &instance("peer"), &Check::Tcp);
            cells[phase.of_interval(600) as usize] += 1;
        }
        assert!((420.0..780.0).contains(&unevenness(&cells)), "{}", unevenness(&cells));
    }
}

#[test]
fn endpoints_of_one_peer_are_spread_though_they_differ_only_at_the_end() {
    let mut cells = [0_u32; 600];
    for number in 0..10_000 {
        let check = Check::Http { endpoint: Arc::from(format!("/{number:05}")) };
        cells[Phase::of(&instance("self"), &instance("peer"), &check).of_interval(600) as usize] += 1;
    }
    assert!((420.0..780.0).contains(&unevenness(&cells)), "{}", unevenness(&cells));
}

#[test]
fn no_target_drifts_over_a_day_of_late_wake_ups_and_slow_probes() {
    let start = clock::monotonic();
    let mut random = fastrand::Rng::with_seed(1);
    let mut schedule = with_targets(start, MINUTE, 50);
    let mut last: BTreeMap<TargetId, Instant> = BTreeMap::new();
    let mut running: Vec<(Instant, Turn)> = Vec::new();
    let mut starts = 0_u64;
    let day = start + Duration::from_secs(86_400);
    loop {
        let wake = schedule.next_due().unwrap() + Duration::from_micros(random.u64(0..40_000));
        if wake >= day {
            break;
        }
        running.sort_by_key(|&(end, _)| end);
        while running.first().is_some_and(|&(end, _)| end <= wake) {
            let (_, turn) = running.remove(0);
            assert!(schedule.ended(turn, false));
        }
        while let Some(event) = schedule.due(wake) {
            let Event::Start(turn) = event else { panic!("{event:?}") };
            if let Some(before) = last.insert(turn.id, turn.due) {
                assert_eq!(turn.due - before, MINUTE);
            }
            starts += 1;
            running.push((wake + ms(random.u64(0..50_000)), turn));
        }
    }
    assert!((50 * 1439..=50 * 1440).contains(&starts), "{starts}");
}

#[test]
fn after_a_pause_of_ten_seconds_missed_turns_are_counted_and_not_made_up_for() {
    let start = clock::monotonic();
    let interval = Duration::from_secs(4);
    let mut schedule = single(start, interval);
    let turn = started(&mut schedule, start);
    assert!(schedule.ended(turn, false));
    // Due at 4, 8 and 12; woken at 13.
    assert_eq!(schedule.due(start + ms(13_000)), skipped(SkipReason::Late, 2));
    let turn = started(&mut schedule, start + ms(13_000));
    assert_eq!(turn.due, start + ms(12_000));
    assert_eq!(schedule.due(start + ms(13_000)), None);
    assert!(schedule.ended(turn, false));
    assert_eq!(schedule.next_due(), Some(start + ms(16_000)));
    // Due at 16 and 20; woken at 23, which is 3 s late for the last of them too.
    assert_eq!(schedule.due(start + ms(23_000)), skipped(SkipReason::Late, 2));
    assert_eq!(schedule.due(start + ms(23_000)), None);
    assert_eq!(schedule.next_due(), Some(start + ms(24_000)));
}

#[test]
fn an_hour_of_suspend_starts_no_burst() {
    let start = clock::monotonic();
    let mut schedule = with_targets(start, MINUTE, 3_000);
    let resumed = start + Duration::from_secs(3600);
    let (mut starts, mut late) = (0, 0);
    for event in all_due(&mut schedule, resumed) {
        match event {
            Event::Start(turn) => {
                assert!(resumed - turn.due <= TOLERANCE);
                starts += 1;
            }
            Event::Skipped { reason: SkipReason::Late, count, .. } => late += count,
            other @ Event::Skipped { .. } => panic!("{other:?}"),
        }
    }
    assert_eq!(starts + late, 60 * 3_000);
    // Those due within the last 2 s of 60 are still in time: about 100 of 3,000.
    assert!((60..150).contains(&starts), "{starts}");
}

#[test]
fn a_turn_is_late_beyond_two_seconds_or_half_the_interval() {
    let start = clock::monotonic();
    for (interval, tolerance) in
        [(ms(1_000), ms(500)), (ms(3_000), ms(1_500)), (ms(4_000), ms(2_000)), (MINUTE, TOLERANCE)]
    {
        let mut in_time = single(start, interval);
        assert_eq!(started(&mut in_time, start + tolerance).due, start);
        let mut late = single(start, interval);
        let moment = start + tolerance + Duration::from_nanos(1);
        assert_eq!(late.due(moment), skipped(SkipReason::Late, 1), "{interval:?}");
        assert_eq!(late.due(moment), None);
    }
}

#[test]
fn a_target_whose_last_probe_still_runs_is_skipped_as_overlap() {
    let start = clock::monotonic();
    let mut schedule = single(start, ms(1_000));
    let turn = started(&mut schedule, start);
    assert_eq!(schedule.due(start + ms(1_000)), skipped(SkipReason::Overlap, 1));
    assert_eq!(schedule.due(start + ms(2_001)), skipped(SkipReason::Overlap, 1));
    assert!(schedule.ended(turn, false));
    assert_eq!(started(&mut schedule, start + ms(3_000)).due, start + ms(3_000));
}

#[test]
fn no_more_probes_are_in_flight_than_may_be() {
    let start = clock::monotonic();
    let mut schedule = Schedule::new(start, ms(1_000), 2);
    for id in 0..3 {
        schedule.add(TargetId(id), share(id, 100), start);
    }
    let now = start + ms(100);
    let first = started(&mut schedule, now);
    let second = started(&mut schedule, now);
    assert_eq!(schedule.due(now), Some(Event::Skipped { id: TargetId(2), reason: SkipReason::Limit, count: 1 }));
    assert_eq!(schedule.in_flight(), 2);
    // A target that leaves gives its place back at once, and the end of its probe is of no interest.
    schedule.remove(second.id);
    assert_eq!(schedule.in_flight(), 1);
    assert!(!schedule.ended(second, false));
    assert!(schedule.ended(first, false));
    assert_eq!(schedule.in_flight(), 0);
    schedule.set_max_in_flight(1);
    let now = start + ms(1_100);
    let first = started(&mut schedule, now);
    assert_eq!(schedule.due(now), Some(Event::Skipped { id: TargetId(2), reason: SkipReason::Limit, count: 1 }));
    assert!(schedule.ended(first, false));
}

#[test]
fn targets_that_come_and_go_leave_the_rhythm_of_the_others_alone() {
    let start = clock::monotonic();
    let mut alone = with_targets(start, MINUTE, 100);
    let mut disturbed = with_targets(start, MINUTE, 100);
    let mut dues = [BTreeMap::<TargetId, Vec<Instant>>::new(), BTreeMap::new()];
    for second in 0..300 {
        let now = start + Duration::from_secs(second);
        disturbed.add(TargetId(1_000 + second), phase(1_000 + second), now);
        if second >= 70 {
            disturbed.remove(TargetId(1_000 + second - 70));
        }
        for (schedule, dues) in [&mut alone, &mut disturbed].into_iter().zip(&mut dues) {
            while let Some(event) = schedule.due(now) {
                let Event::Start(turn) = event else { panic!("{event:?}") };
                assert!(schedule.ended(turn, false));
                if turn.id.0 < 100 {
                    dues.entry(turn.id).or_default().push(turn.due);
                }
            }
        }
    }
    assert_eq!(dues[0], dues[1]);
    assert_eq!(dues[0].len(), 100);
    assert_eq!(disturbed.len(), 170);
    assert_eq!(disturbed.queue.len(), 170);
}

#[test]
fn a_new_interval_keeps_the_share_that_is_each_targets_phase() {
    let start = clock::monotonic();
    let mut schedule = Schedule::new(start, MINUTE, PLENTY);
    schedule.add(TargetId(0), share(1, 4), start);
    schedule.add(TargetId(1), share(1, 2), start);
    let first = started(&mut schedule, start + ms(15_000));
    assert_eq!(first.due, start + ms(15_000));
    // It has turned: follow-ups at 16, 17 and 19 s, unless a regular turn comes first.
    assert!(schedule.ended(first, false));
    schedule.turned(first.id, start + ms(15_000), Duration::ZERO);
    schedule.set_interval(ms(10_000), start + ms(15_500));
    // Now at 2.5 and 5 s of every 10.
    assert_eq!(schedule.next_due(), Some(start + ms(16_000)));
    let mut dues = Vec::new();
    while dues.len() < 5 {
        let now = schedule.next_due().unwrap();
        let turn = started(&mut schedule, now);
        assert!(schedule.ended(turn, false));
        dues.push((turn.id.0, (now - start).as_millis(), turn.follow_up));
    }
    assert_eq!(dues, [(0, 16_000, true), (0, 17_000, true), (0, 19_000, true), (0, 22_500, false), (1, 25_000, false)]);
}

/// When a probe started, in milliseconds, and whether it was a follow-up.
type Look = (u128, bool);

/// What a target does over time: whether each regular turn in order finds that it has turned, whether each follow-up does, how
/// long each probe takes, and how long after its end the schedule hears of a turn. Gives back when every probe started, in
/// milliseconds, and whether it was a follow-up.
fn looks(interval: Duration, takes: Duration, heard_after: Duration, regular: &[bool], follow_up: bool) -> Vec<Look> {
    let start = clock::monotonic();
    let mut schedule = single(start, interval);
    let mut regular = regular.iter();
    let mut looks = Vec::new();
    while let Some(now) = schedule.next_due() {
        let Some(event) = schedule.due(now) else { continue };
        let Event::Start(turn) = event else { panic!("{event:?}") };
        let turned = if turn.follow_up {
            follow_up
        } else {
            let Some(&turned) = regular.next() else { break };
            turned
        };
        looks.push(((now - start).as_millis(), turn.follow_up));
        // Whatever falls due while the probe runs finds it running.
        while let Some(next) = schedule.next_due().filter(|&next| next < now + takes) {
            assert_eq!(schedule.due(next), None);
        }
        assert!(schedule.ended(turn, false));
        if turned {
            let heard = now + takes + heard_after;
            assert!(schedule.next_due().is_some_and(|next| next >= heard), "nothing happens before it is heard of");
            schedule.turned(turn.id, now + takes, takes);
        }
    }
    looks
}

const AT_ONCE: Duration = Duration::ZERO;

#[test]
fn a_target_that_turned_is_looked_at_again_after_1_2_and_4_seconds() {
    let followed = |at: u128| vec![(at + 1_000, true), (at + 2_000, true), (at + 4_000, true)];
    let regular = |at: u128| vec![(at, false)];
    let table: &[(&[bool], Vec<Vec<Look>>)] = &[
        (&[false, false], vec![regular(0), regular(60_000)]),
        (&[true, false], vec![regular(0), followed(0), regular(60_000)]),
        (&[false, true, false], vec![regular(0), regular(60_000), followed(60_000), regular(120_000)]),
        (&[true, true], vec![regular(0), followed(0), regular(60_000), followed(60_000)]),
    ];
    for (turned, expected) in table {
        for follow_up in [false, true] {
            // A follow-up that finds it the other way again neither ends the sequence nor starts another one.
            assert_eq!(
                looks(MINUTE, AT_ONCE, AT_ONCE, turned, follow_up),
                expected.concat(),
                "{turned:?}, {follow_up}"
            );
        }
    }
}

#[test]
fn follow_ups_count_from_the_end_of_the_probe_and_come_before_the_next_regular_turn_or_not_at_all() {
    let looks = |interval, takes| looks(interval, takes, AT_ONCE, &[true, true], true);
    // Ends at 300 ms; 1.3 s and 2.3 s come before 4 s, 4.3 s does not.
    assert_eq!(looks(ms(4_000), ms(300))[..4], [(0, false), (1_300, true), (2_300, true), (4_000, false)]);
    // Exactly at the next regular turn is not before it.
    assert_eq!(looks(ms(4_000), AT_ONCE)[..4], [(0, false), (1_000, true), (2_000, true), (4_000, false)]);
    assert_eq!(looks(ms(1_000), AT_ONCE), [(0, false), (1_000, false)]);
    // One that may still run then is not made: it would cost the regular turn.
    assert_eq!(looks(ms(4_000), ms(1_200))[..3], [(0, false), (2_200, true), (4_000, false)]);
    assert_eq!(looks(ms(4_000), ms(2_000)), [(0, false), (4_000, false)]);
    // A time limit of 5 s: the follow-up of 1 s (at 6 s) runs until 11 s, past those of 2 s and 4 s.
    assert_eq!(looks(MINUTE, ms(5_000))[..3], [(0, false), (6_000, true), (60_000, false)]);
}

#[test]
fn a_turn_that_is_heard_of_late_is_still_followed_up_from_the_end_of_its_probe() {
    let expected = [(0, false), (1_000, true), (2_000, true), (4_000, true), (60_000, false)];
    assert_eq!(looks(MINUTE, AT_ONCE, ms(900), &[true, false], false), expected);
    let start = clock::monotonic();
    let mut schedule = single(start, MINUTE);
    let turn = started(&mut schedule, start);
    assert!(schedule.ended(turn, false));
    schedule.turned(turn.id, start, Duration::ZERO);
    // Noticed 2.5 s late, the first is dropped and not counted; the second, 1.5 s late, is made.
    let turn = started(&mut schedule, start + ms(3_500));
    assert_eq!((turn.due, turn.follow_up), (start + ms(2_000), true));
    assert_eq!(schedule.due(start + ms(3_500)), None);
}

#[test]
fn a_turn_of_a_target_that_was_taken_out_is_of_no_interest() {
    let start = clock::monotonic();
    let mut schedule = single(start, MINUTE);
    let turn = started(&mut schedule, start);
    assert!(schedule.ended(turn, false));
    schedule.remove(turn.id);
    schedule.turned(turn.id, start, Duration::ZERO);
    assert_eq!((schedule.next_due(), schedule.queue.len()), (None, 0));
}

#[test]
fn a_regular_turn_that_is_due_ends_the_follow_ups() {
    let start = clock::monotonic();
    let mut schedule = single(start, ms(4_000));
    let turn = started(&mut schedule, start);
    assert!(schedule.ended(turn, false));
    schedule.turned(turn.id, start + ms(500), Duration::ZERO);
    // Both the follow-up of 2.5 s and the regular turn of 4 s are in time at 4.1 s: the regular one is made.
    let turn = started(&mut schedule, start + ms(4_100));
    assert_eq!((turn.due, turn.follow_up), (start + ms(4_000), false));
    assert!(schedule.ended(turn, false));
    assert_eq!(schedule.next_due(), Some(start + ms(8_000)));
}

#[test]
fn what_is_due_at_the_same_time_goes_out_by_due_time() {
    let start = clock::monotonic();
    let mut schedule = with_targets(start, MINUTE, 500);
    let now = start + ms(1_900);
    let dues: Vec<_> = std::iter::from_fn(|| schedule.due(now))
        .map(|event| match event {
            Event::Start(turn) => turn.due,
            other @ Event::Skipped { .. } => panic!("{other:?}"),
        })
        .collect();
    assert!(dues.len() > 5);
    assert!(dues.is_sorted());
}

/// What a random history is made of.
#[derive(Clone, Debug)]
enum Op {
    /// Time passes; what is due is carried out.
    Wait(Duration),
    /// Time passes unnoticed.
    Pause(Duration),
    /// The n-th of the running probes ends.
    End(prop::sample::Index, Ending),
    /// A target with this phase joins.
    Add(u64),
    /// The n-th of the targets leaves.
    Remove(prop::sample::Index),
}

/// How a probe ends.
#[derive(Clone, Copy, Debug)]
struct Ending {
    timed_out: bool,
    turned: bool,
}

fn op() -> impl Strategy<Value = Op> {
    let ending = any::<(bool, bool)>().prop_map(|(timed_out, turned)| Ending { timed_out, turned });
    prop_oneof![
        6 => (0_u64..3_000).prop_map(|n| Op::Wait(ms(n))),
        1 => (0_u64..100_000).prop_map(|n| Op::Pause(ms(n))),
        6 => (any::<prop::sample::Index>(), ending).prop_map(|(which, ending)| Op::End(which, ending)),
        1 => any::<u64>().prop_map(Op::Add),
        1 => any::<prop::sample::Index>().prop_map(Op::Remove),
    ]
}

/// What the test knows of a target: independent of how the schedule keeps it.
struct Known {
    /// When its first turn is due.
    first: Instant,
    /// Its turns that have been started or skipped.
    accounted: u32,
    running: Option<Turn>,
    /// Its last probe timed out.
    slow: bool,
    /// That was so when the probe that runs was started.
    started_slow: bool,
    /// How many follow-ups there may be yet.
    follow_ups: usize,
}

/// How many places slow targets may take, by how many there are.
const SLOW_MAX: [usize; 6] = [0, 1, 1, 2, 3, 3];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_regular_turn_is_started_on_its_beat_or_skipped_and_counted(
        seconds in 1_u64..20,
        max_in_flight in 1_usize..6,
        ops in prop::collection::vec(op(), 1..200),
    ) {
        let interval = Duration::from_secs(seconds);
        let start = clock::monotonic();
        let mut now = start;
        let mut schedule = Schedule::new(start, interval, max_in_flight);
        let mut known: BTreeMap<TargetId, Known> = BTreeMap::new();
        let mut next_id = 0;
        for op in ops {
            match op {
                Op::Wait(time) => {
                    let until = now + time;
                    while let Some(due) = schedule.next_due().filter(|&due| due <= until) {
                        now = now.max(due);
                        carry_out(&mut schedule, &mut known, now, interval, max_in_flight)?;
                    }
                    now = until;
                }
                Op::Pause(time) => {
                    now += time;
                    carry_out(&mut schedule, &mut known, now, interval, max_in_flight)?;
                }
                Op::End(which, Ending { timed_out, turned }) => {
                    let mut running: Vec<_> = known.values_mut().filter(|k| k.running.is_some()).collect();
                    if !running.is_empty() {
                        let target = which.get_mut(&mut running);
                        let turn = target.running.take().unwrap();
                        prop_assert!(schedule.ended(turn, timed_out));
                        prop_assert!(!schedule.ended(turn, !timed_out), "a turn ends once");
                        target.slow = timed_out;
                        if turned {
                            schedule.turned(turn.id, now, Duration::ZERO);
                            if !turn.follow_up {
                                target.follow_ups = FOLLOW_UPS.len();
                            }
                        }
                    }
                }
                Op::Add(phase) => {
                    let id = TargetId(next_id);
                    next_id += 1;
                    let share = Phase(phase).of_interval(nanos(interval));
                    let mut first = start + Duration::from_nanos(share);
                    while first < now {
                        first += interval;
                    }
                    schedule.add(id, Phase(phase), now);
                    let (slow, started_slow) = (false, false);
                    known.insert(id, Known { first, accounted: 0, running: None, slow, started_slow, follow_ups: 0 });
                }
                Op::Remove(which) => {
                    if !known.is_empty() {
                        let id = *which.get(&known.keys().copied().collect::<Vec<_>>());
                        let gone = known.remove(&id).unwrap();
                        schedule.remove(id);
                        if let Some(turn) = gone.running {
                            prop_assert!(!schedule.ended(turn, false));
                        }
                    }
                }
            }
            let running = known.values().filter(|k| k.running.is_some()).count();
            prop_assert_eq!(schedule.in_flight(), running);
            prop_assert_eq!(schedule.len(), known.len());
            prop_assert_eq!(schedule.queue.len(), known.len());
        }
        carry_out(&mut schedule, &mut known, now, interval, max_in_flight)?;
        for (id, target) in known {
            let mut turns_due = 0;
            let mut due = target.first;
            while due <= now {
                turns_due += 1;
                due += interval;
            }
            prop_assert_eq!(target.accounted, turns_due, "{:?}", id);
        }
    }
}

fn carry_out(
    schedule: &mut Schedule,
    known: &mut BTreeMap<TargetId, Known>,
    now: Instant,
    interval: Duration,
    max_in_flight: usize,
) -> Result<(), TestCaseError> {
    while let Some(event) = schedule.due(now) {
        let in_flight = known.values().filter(|k| k.running.is_some()).count();
        let slow_in_flight = known.values().filter(|k| k.running.is_some() && k.started_slow).count();
        let slow_max = SLOW_MAX[max_in_flight];
        match event {
            Event::Start(turn) => {
                let target = known.get_mut(&turn.id).unwrap();
                prop_assert!(now >= turn.due && now - turn.due <= TOLERANCE.min(interval / 2));
                prop_assert!(target.running.replace(turn).is_none(), "one probe at a time");
                prop_assert!(in_flight < max_in_flight);
                prop_assert!(!target.slow || slow_in_flight < slow_max);
                target.started_slow = target.slow;
                if turn.follow_up {
                    prop_assert!(target.follow_ups > 0, "a regular probe found that it had turned");
                    target.follow_ups -= 1;
                } else {
                    prop_assert_eq!(turn.due, target.first + interval * target.accounted);
                    target.accounted += 1;
                }
            }
            Event::Skipped { id, reason, count } => {
                let target = known.get_mut(&id).unwrap();
                match reason {
                    SkipReason::Overlap => prop_assert!(target.running.is_some()),
                    SkipReason::Limit => {
                        let is_one_too_many = target.slow && slow_in_flight == slow_max;
                        prop_assert!(in_flight == max_in_flight || is_one_too_many);
                    }
                    SkipReason::Late => {}
                }
                prop_assert!(target.first + interval * target.accounted <= now);
                target.accounted += u32::try_from(count).unwrap();
            }
        }
    }
    Ok(())
}
