//! Places in flight for targets that run into their time limit.

use std::collections::VecDeque;

use super::*;

/// Four targets with a place each that all run into their time limit; the interval is one second.
fn four_that_are_slow(start: Instant) -> Schedule {
    let mut schedule = Schedule::new(start, ms(1_000), 4);
    for id in 0..4 {
        schedule.add(TargetId(id), share(id, 100), start);
    }
    for _ in 0..4 {
        let turn = started(&mut schedule, start + ms(100));
        assert!(schedule.ended(turn, true));
    }
    schedule
}

fn no_place(id: u64) -> Option<Event> {
    Some(Event::Skipped { id: TargetId(id), reason: SkipReason::Limit, count: 1 })
}

#[test]
fn a_slow_target_that_answers_again_counts_as_any_other() {
    let start = clock::monotonic();
    let mut schedule = four_that_are_slow(start);
    let now = start + ms(1_100);
    let turns: Vec<Turn> = (0..3).map(|_| started(&mut schedule, now)).collect();
    assert_eq!(schedule.due(now), no_place(3), "three quarters of the places are taken by slow targets");
    assert!(schedule.ended(turns[0], false), "it answers again");
    assert!(schedule.ended(turns[1], true) && schedule.ended(turns[2], true));
    let now = start + ms(2_100);
    let ids: Vec<u64> = (0..4).map(|_| started(&mut schedule, now).id.0).collect();
    assert_eq!(ids, [0, 1, 2, 3], "one that answers and three that are slow");
}

#[test]
fn a_slow_target_that_is_taken_out_gives_its_place_back_to_another_slow_one() {
    let start = clock::monotonic();
    let mut schedule = four_that_are_slow(start);
    let now = start + ms(1_025);
    let first = started(&mut schedule, now);
    let _second = started(&mut schedule, now);
    let _third = started(&mut schedule, now);
    schedule.remove(first.id);
    assert_eq!(started(&mut schedule, start + ms(1_100)).id, TargetId(3));
    assert_eq!(schedule.in_flight(), 3);
}

#[test]
fn slow_targets_may_take_three_quarters_of_the_places_at_most_and_one_at_least() {
    let of = |max_in_flight| Schedule::new(clock::monotonic(), MINUTE, max_in_flight).slow_max();
    assert_eq!([0, 1, 2, 3, 4, 5, 8, 1_000].map(of), [1, 1, 1, 2, 3, 3, 6, 750]);
    assert!(of(usize::MAX) > usize::MAX / 2);
}

#[test]
fn a_follow_up_of_a_slow_target_takes_no_place_that_is_kept_for_others() {
    let start = clock::monotonic();
    let mut schedule = four_that_are_slow(start);
    let now = start + ms(1_100);
    let turns: Vec<Turn> = (0..3).map(|_| started(&mut schedule, now)).collect();
    assert_eq!(schedule.due(now), no_place(3));
    // With turns a minute apart there is time for follow-ups. Those of this minute are at 0, 0.6, 1.2 and 1.8 s.
    schedule.set_interval(MINUTE, now);
    assert_eq!(all_due(&mut schedule, start + ms(3_000)).len(), 2);
    let three = TargetId(3);
    schedule.turned(three, start + ms(3_000), Duration::ZERO);
    assert_eq!(schedule.due(start + ms(4_000)), None, "three slow ones are in flight");
    assert!(schedule.ended(turns[0], true));
    let turn = started(&mut schedule, start + ms(5_000));
    assert_eq!((turn.id, turn.follow_up), (three, true));
}

/// Runs living targets, whose probes end at once, and dead ones, whose probes take half the interval and time out, for some
/// intervals. Gives back how many turns of living and of dead targets found no place, and how many of dead ones were made, in
/// the second half of the time.
fn crowd(max_in_flight: usize, living: u64, dead: u64, intervals: u32) -> (u64, u64, u64) {
    let start = clock::monotonic();
    let interval = Duration::from_secs(10);
    let mut schedule = Schedule::new(start, interval, max_in_flight);
    for id in 0..living + dead {
        schedule.add(TargetId(id), phase(id), start);
    }
    let (half, end) = (start + interval * intervals / 2, start + interval * intervals);
    let mut running = VecDeque::new();
    let (mut living_missed, mut dead_missed, mut dead_made) = (0, 0, 0);
    while let Some(now) = schedule.next_due().filter(|&due| due < end) {
        while running.front().is_some_and(|&(ends, _)| ends <= now) {
            let (_, turn) = running.pop_front().unwrap();
            assert!(schedule.ended(turn, true));
        }
        while let Some(event) = schedule.due(now) {
            let counts = u64::from(now >= half);
            match event {
                Event::Start(turn) if turn.id.0 < living => assert!(schedule.ended(turn, false)),
                Event::Start(turn) => {
                    running.push_back((now + interval / 2, turn));
                    dead_made += counts;
                }
                Event::Skipped { id, reason, count } => {
                    assert_eq!((reason, count), (SkipReason::Limit, 1));
                    *(if id.0 < living { &mut living_missed } else { &mut dead_missed }) += counts;
                }
            }
        }
    }
    (living_missed, dead_missed, dead_made)
}

#[test]
fn living_targets_find_a_place_however_many_dead_ones_there_are() {
    for (max_in_flight, living, dead, intervals) in [(2, 50, 20, 80), (4, 50, 40, 80), (1_000, 500, 4_000, 40)] {
        let (living_missed, dead_missed, dead_made) = crowd(max_in_flight, living, dead, intervals);
        let who = format!("{max_in_flight} places, {living} living and {dead} dead targets");
        assert_eq!(living_missed, 0, "{who}");
        assert!(dead_missed > 0, "there are more dead ones than places: {who}");
        assert!(dead_made > 0, "and they are probed all the same: {who}");
    }
    let (_, _, dead_made) = crowd(1, 50, 20, 80);
    assert!(dead_made > 0, "a single place is for everybody");
}
