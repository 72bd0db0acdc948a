use std::collections::HashSet;

use super::*;
use crate::probe::{LocalCause, Outcome, Reason};
use crate::wire::{Member, Registration};

const INTERVAL: Duration = Duration::from_secs(60);
const LIMIT: Duration = Duration::from_secs(5);
/// How old an outcome may be: two turns, a probe, two seconds.
const HORIZON: Duration = Duration::from_secs(2 * 60 + 5 + 2);

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A board, the peers it follows, and the virtual time.
struct Desk {
    board: Board,
    peers: Peers,
    endpoints: Vec<Arc<str>>,
    start: Instant,
}

impl Desk {
    fn new() -> Self {
        let start = crate::clock::monotonic();
        let me: InstanceId = "me".parse().unwrap();
        let freshness = Freshness { interval: INTERVAL, time_limit: LIMIT };
        let mut board = Board::new("home".parse().unwrap(), me.clone(), freshness);
        board.registry.up = true;
        Self { board, peers: Peers::new(me, seconds(90)), endpoints: vec!["/health".into()], start }
    }

    fn at(&self, offset: u64) -> Instant {
        self.start + seconds(offset)
    }

    /// A roster of `id@location@address`, each last seen at `last_seen`.
    fn roster(&mut self, offset: u64, last_seen: u64, members: &[&str]) -> Vec<Probing> {
        let roster = members.iter().map(|text| {
            let [id, location, ip] = text.split('@').collect::<Vec<_>>()[..] else { panic!("{text}") };
            let body = format!(r#"{{"instance_id": "{id}", "location": "{location}", "ip": "{ip}", "port": 8756}}"#);
            let Registration { instance_id, location, ip, port } = Registration::from_json(body.as_bytes()).unwrap();
            let instance_id = instance_id.unwrap();
            Member { instance_id, location, ip, port, last_seen, registered_at: 1, status: () }
        });
        let now = self.at(offset);
        self.peers.apply(roster.collect(), now);
        self.board.follow(&self.peers, &self.endpoints, now)
    }

    fn report(&mut self, id: TargetId, offset: u64, result: Result<(), Reason>) -> Option<Transition> {
        let result = match result {
            Ok(()) => Ok(Timings::default()),
            Err(reason) => Err(Failure { reason, detail: "detail".into() }),
        };
        let outcome = Outcome { result, syn_retransmits: 0, source: None, answered_by: None };
        let ended = self.at(offset);
        let report = Report::Probed { id, outcome, lag: Duration::from_millis(1), ended, follow_up: false };
        self.board.apply(report)
    }

    /// What is known at `offset`, in the order of the board: `+`, `-` or `?`.
    fn shown(&self, offset: u64) -> String {
        let sign = |state: Option<&State>| state.map_or('?', |s| if s.result.is_ok() { '+' } else { '-' });
        self.board.targets(self.at(offset)).map(|(_, state)| sign(state)).collect()
    }

    /// What the board says at `offset`, when the wall clock reads 1,000,000 and that.
    fn last_seen(&self, id: &str, offset: u64) -> Option<u64> {
        let mut peers = self.board.peers(self.at(offset), Wall::from_epoch_seconds(1_000_000 + offset));
        peers.find(|(peer, ..)| peer.instance_id.as_str() == id).unwrap().1.map(Wall::epoch_seconds)
    }
}

fn ids(probing: &[Probing], peer: &str) -> Vec<TargetId> {
    probing.iter().filter(|p| p.peer.as_str() == peer).map(|p| p.id).collect()
}

#[test]
fn only_a_change_is_news_and_it_says_how_long_it_was_otherwise() {
    /// What happened when, and the news of it: whether up, and for how long it was otherwise.
    type Story = &'static [(u64, Result<(), Reason>, Option<(bool, Option<u64>)>)];
    let stories: [(&str, Story); 5] = [
        ("first up is none", &[(1, Ok(()), None), (61, Ok(()), None)]),
        ("first down is", &[(1, Err(Reason::Timeout), Some((false, None))), (2, Err(Reason::Timeout), None)]),
        (
            "there and back",
            &[
                (10, Ok(()), None),
                (70, Err(Reason::Refused), Some((false, Some(60)))),
                (71, Err(Reason::Timeout), None),
                (130, Ok(()), Some((true, Some(60)))),
                (190, Err(Reason::Timeout), Some((false, Some(60)))),
            ],
        ),
        ("from down to up", &[(5, Err(Reason::Status), Some((false, None))), (9, Ok(()), Some((true, Some(4))))]),
        (
            "the host's own failures say nothing",
            &[
                (1, Err(Reason::Local(LocalCause::NoRoute)), None),
                (2, Ok(()), None),
                (3, Err(Reason::Local(LocalCause::NoRoute)), None),
                (4, Err(Reason::Timeout), Some((false, Some(2)))),
                (5, Err(Reason::Local(LocalCause::NoRoute)), None),
                (6, Err(Reason::Timeout), None),
                (8, Ok(()), Some((true, Some(4)))),
            ],
        ),
    ];
    for (name, story) in stories {
        let mut desk = Desk::new();
        let id = desk.roster(0, 0, &["a@eu1@10.0.0.1"])[0].id;
        for (offset, result, news) in story {
            let found = desk.report(id, *offset, *result);
            let found = found.map(|t| {
                assert_eq!((t.peer.instance_id.as_str(), &t.check), ("a", &Check::Tcp));
                assert_eq!(t.failure.map(|f| f.reason), result.err(), "{name}: why");
                (result.is_ok(), t.lasted.map(|d| d.as_secs()))
            });
            assert_eq!(found, *news, "{name}, at {offset}");
        }
    }
}

#[test]
fn the_checks_of_a_peer_stand_each_for_itself() {
    let mut desk = Desk::new();
    let both = ids(&desk.roster(0, 0, &["a@eu1@10.0.0.1"]), "a");
    assert!(desk.report(both[0], 1, Ok(())).is_none());
    let news = desk.report(both[1], 1, Err(Reason::Status)).unwrap();
    assert_eq!(news.check, Check::Http { endpoint: "/health".into() });
    assert_eq!(desk.shown(1), "+-");
}

#[test]
fn a_failure_of_this_host_moves_no_state_but_is_counted() {
    let mut desk = Desk::new();
    let id = desk.roster(0, 500, &["a@eu1@10.0.0.1"])[0].id;
    desk.report(id, 1, Err(Reason::Local(LocalCause::NoRoute)));
    assert_eq!(desk.shown(1), "??", "no state from it");
    desk.report(id, 2, Ok(()));
    desk.report(id, 3, Err(Reason::Local(LocalCause::NoRoute)));
    assert_eq!(desk.shown(3), "+?");
    let (.., tally) = desk.board.tallies().find(|(_, kind, _)| *kind == CheckType::Tcp).unwrap();
    assert_eq!((tally.probes, tally.failures().collect::<Vec<_>>()), (3, vec![("local", 2)]));
    // It does not keep an old outcome alive either.
    desk.report(id, 2 + HORIZON.as_secs(), Err(Reason::Local(LocalCause::NoRoute)));
    assert_eq!(desk.shown(2 + HORIZON.as_secs()), "+?");
    assert_eq!(desk.shown(3 + HORIZON.as_secs()), "??");
}

#[test]
fn an_outcome_says_nothing_once_two_turns_went_by() {
    let mut desk = Desk::new();
    let both = ids(&desk.roster(0, 0, &["a@eu1@10.0.0.1"]), "a");
    desk.report(both[0], 10, Ok(()));
    desk.report(both[1], 20, Err(Reason::Timeout));
    let horizon = HORIZON.as_secs();
    for (offset, shown) in [(20, "+-"), (10 + horizon, "+-"), (11 + horizon, "?-"), (21 + horizon, "??")] {
        assert_eq!(desk.shown(offset), shown, "at {offset}");
    }
    desk.report(both[0], 500, Ok(()));
    assert_eq!(desk.shown(500), "+?", "the next outcome counts again");
}

#[test]
fn coverage_is_of_the_targets_that_should_be_known_by_now() {
    let mut desk = Desk::new();
    desk.endpoints.clear();
    let coverage = |desk: &Desk, offset| desk.board.coverage(desk.at(offset));
    assert_eq!(coverage(&desk, 1_000), None, "no targets");
    let first = desk.roster(1_000, 0, &["a@eu1@10.0.0.1", "b@eu2@10.0.0.2"]);
    // One turn, a probe and two seconds are what a new target may take.
    assert_eq!(coverage(&desk, 1_067), None, "nobody is due");
    assert_eq!(coverage(&desk, 1_068), Some(0.0), "and nobody came");
    desk.report(first[0].id, 1_069, Ok(()));
    assert_eq!(coverage(&desk, 1_069), Some(0.5));
    desk.report(first[1].id, 1_070, Err(Reason::Refused));
    assert_eq!(coverage(&desk, 1_070), Some(1.0), "a failure is known too");
    desk.roster(1_100, 0, &["a@eu1@10.0.0.1", "b@eu2@10.0.0.2", "c@eu3@10.0.0.3"]);
    assert_eq!(coverage(&desk, 1_100), Some(1.0), "a young target is not missed");
    assert_eq!(coverage(&desk, 1_168), Some(2.0 / 3.0));
    assert_eq!(coverage(&desk, 5_000), Some(0.0), "nothing is fresh any more");
    desk.roster(5_000, 0, &[]);
    assert_eq!(coverage(&desk, 5_000), None);
}

#[test]
fn the_status_line_says_who_fails_why_and_for_how_long() {
    let mut desk = Desk::new();
    let status = |desk: &Desk, offset| desk.board.status(desk.at(offset));
    assert_eq!(status(&desk, 0), "0 peers at 0 locations");
    desk.board.registry.up = false;
    assert_eq!(status(&desk, 0), "0 peers at 0 locations, registry not reached yet");
    desk.board.registry.roster_at = Some(desk.at(0));
    assert_eq!(status(&desk, 0), "0 peers at 0 locations, registry away");
    desk.board.registry.up = true;
    desk.roster(0, 0, &["a@eu1@10.0.0.1"]);
    assert_eq!(status(&desk, 0), "1 peer at 1 location", "unknown is not failing");
    let probing = desk.roster(0, 0, &["a@eu1@10.0.0.1", "b@eu1@10.0.0.2", "c@eu2@10.0.0.3"]);
    assert_eq!(status(&desk, 0), "3 peers at 2 locations");
    let [a, b] = [ids(&probing, "a"), ids(&probing, "b")];
    desk.report(a[1], 10, Err(Reason::Status));
    assert_eq!(status(&desk, 20), "3 peers at 2 locations, 1 failing: eu1 (http status) for under 2 min");
    desk.report(a[0], 30, Err(Reason::Timeout));
    assert_eq!(
        status(&desk, 30),
        "3 peers at 2 locations, 1 failing: eu1 (tcp timeout) for under 2 min",
        "one peer once"
    );
    desk.report(b[0], 100, Err(Reason::Refused));
    desk.board.registry.up = false;
    assert_eq!(
        status(&desk, 149),
        "3 peers at 2 locations, 2 failing: eu1 (tcp timeout) for under 2 min and 1 more, registry away"
    );
    assert_eq!(
        status(&desk, 150),
        "3 peers at 2 locations, 2 failing: eu1 (tcp timeout) for 2 min and 1 more, registry away",
        "the longest failing one is named"
    );
    desk.report(a[0], 155, Ok(()));
    desk.report(a[1], 155, Ok(()));
    desk.board.registry.up = true;
    assert_eq!(status(&desk, 155), "3 peers at 2 locations, 1 failing: eu1 (tcp refused) for under 2 min");
    assert_eq!(status(&desk, 101 + HORIZON.as_secs()), "3 peers at 2 locations", "nobody knows any more");
}

#[test]
fn a_length_of_time_is_said_in_one_unit() {
    for (length, text) in [
        (0, "0 s"),
        (119, "119 s"),
        (120, "2 min"),
        (7_199, "119 min"),
        (7_200, "2 h"),
        (172_799, "47 h"),
        (172_800, "2 d"),
        (864_000, "10 d"),
    ] {
        assert_eq!(rough(seconds(length)), text);
    }
}

#[test]
fn following_keeps_what_stayed_and_renews_what_moved() {
    let mut desk = Desk::new();
    desk.endpoints = vec!["/health".into(), "/metrics".into()];
    let before = desk.roster(0, 0, &["a@eu1@10.0.0.1", "b@eu2@10.0.0.2", "c@eu3@10.0.0.3"]);
    assert_eq!(before.len(), 9);
    assert_eq!(before.iter().map(|p| p.id).collect::<HashSet<_>>().len(), 9, "each target its own identity");
    for probing in &before {
        desk.report(probing.id, 1, Ok(()));
    }
    assert_eq!(desk.shown(1), "+++++++++");

    let after = desk.roster(2, 0, &["c@eu3@10.0.0.9", "a@eu1@10.0.0.1", "b@eu9@10.0.0.2"]);
    assert_eq!(ids(&after, "a"), ids(&before, "a"));
    assert_eq!(desk.shown(2), "+++??????", "another address or another location is another target");
    for moved in ["b", "c"] {
        assert!(ids(&after, moved).iter().all(|id| before.iter().all(|old| old.id != *id)), "{moved}");
    }
    let address = |id: &str| after.iter().find(|p| p.peer.as_str() == id).unwrap().target.address.to_string();
    assert_eq!([address("a"), address("c")], ["10.0.0.1:8756", "10.0.0.9:8756"]);

    desk.endpoints = vec!["/ready".into(), "/health".into()];
    let last = desk.roster(3, 0, &["a@eu1@10.0.0.1"]);
    assert_eq!(desk.shown(3), "+?+", "each endpoint keeps its own state");
    let old = ids(&before, "a");
    assert_eq!((last[0].id, last[2].id), (old[0], old[1]));
    assert_ne!(last[1].id, old[2], "no other endpoint's identity is used again");
}

#[test]
fn what_belongs_to_a_location_goes_with_its_last_peer() {
    let mut desk = Desk::new();
    let probing = desk.roster(0, 0, &["a@eu1@10.0.0.1", "b@eu1@10.0.0.2", "c@eu2@10.0.0.3"]);
    for probing in &probing {
        desk.report(probing.id, 1, Ok(()));
    }
    let sums = |desk: &Desk| -> Vec<String> {
        let tallies = desk.board.tallies();
        tallies.map(|(location, kind, tally)| format!("{location} {} {}", kind.label(), tally.probes)).collect()
    };
    assert_eq!(sums(&desk), ["eu1 tcp 2", "eu1 http 2", "eu2 tcp 1", "eu2 http 1"]);
    desk.roster(2, 0, &["b@eu1@10.0.0.2"]);
    assert_eq!(sums(&desk), ["eu1 tcp 2", "eu1 http 2"], "a counter never falls while its location is there");
    desk.roster(3, 0, &[]);
    assert!(sums(&desk).is_empty() && desk.board.peer_count() == 0 && desk.board.targets.is_empty());
    desk.roster(4, 0, &["b@eu1@10.0.0.2"]);
    assert_eq!(sums(&desk), ["eu1 tcp 0", "eu1 http 0"]);
}

#[test]
fn last_seen_is_the_newer_of_the_registrys_word_and_an_own_success() {
    let mut desk = Desk::new();
    let a = ids(&desk.roster(0, 1_000_050, &["a@eu1@10.0.0.1", "b@eu2@10.0.0.2"]), "a");
    assert_eq!(desk.last_seen("a", 55), Some(1_000_050));
    desk.report(a[0], 10, Ok(()));
    assert_eq!(desk.last_seen("a", 55), Some(1_000_050), "an older success takes nothing back");
    desk.report(a[1], 60, Ok(()));
    assert_eq!(desk.last_seen("a", 65), Some(1_000_060), "HTTP counts as TCP does");
    assert_eq!(desk.last_seen("b", 65), Some(1_000_050), "nobody else's");
    for failure in [Reason::Timeout, Reason::Local(LocalCause::NoRoute), Reason::Status] {
        desk.report(a[0], 70, Err(failure));
    }
    assert_eq!(desk.last_seen("a", 75), Some(1_000_060), "a failure is no sight");
    desk.roster(80, 1_000_055, &["a@eu1@10.0.0.1", "b@eu2@10.0.0.2"]);
    assert_eq!([desk.last_seen("a", 85), desk.last_seen("b", 85)], [Some(1_000_060), Some(1_000_055)]);
    desk.roster(90, 1_000_090, &["a@eu1@10.0.0.1"]);
    assert_eq!(desk.last_seen("a", 95), Some(1_000_090));
}

#[test]
fn last_seen_is_never_in_the_future_and_absent_where_nobody_said() {
    let mut desk = Desk::new();
    let a = ids(&desk.roster(0, 0, &["a@eu1@10.0.0.1"]), "a");
    assert_eq!(desk.last_seen("a", 5), None);
    desk.report(a[0], 10, Ok(()));
    assert_eq!(desk.last_seen("a", 40), Some(1_000_010));
    // The wall clock steps back by an hour: the success stays 30 s old.
    let peers = desk.board.peers(desk.at(40), Wall::from_epoch_seconds(996_440)).map(|(_, seen, _)| seen);
    assert_eq!(peers.collect::<Vec<_>>(), [Some(Wall::from_epoch_seconds(996_410))]);
    desk.roster(50, u64::MAX, &["a@eu1@10.0.0.1"]);
    assert_eq!(desk.last_seen("a", 60), Some(1_000_060), "a registry's nonsense counts as now");
}

#[test]
fn a_peer_that_leads_back_to_this_member_is_known_and_not_probed() {
    let mut desk = Desk::new();
    desk.board.own_address = Some("10.0.0.9:8756".parse().unwrap());
    let probing = desk.roster(0, 0, &["a@eu1@127.0.0.1", "b@eu2@10.0.0.2", "c@eu3@10.0.0.9"]);
    assert_eq!(probing.iter().map(|p| p.peer.as_str()).collect::<Vec<_>>(), ["b", "b"]);
    assert_eq!(desk.board.peer_count(), 3);
    assert_eq!(desk.board.leading_back().map(|peer| peer.instance_id.as_str()).collect::<Vec<_>>(), ["a", "c"]);
    desk.board.own_address = Some("127.0.0.1:8757".parse().unwrap());
    let probing = desk.roster(1, 0, &["a@eu1@127.0.0.1", "b@eu2@10.0.0.2", "c@eu3@10.0.0.9"]);
    assert_eq!(probing.len(), 6, "a ring on one host probes itself by loopback");
}

#[test]
fn what_is_reported_of_a_departed_target_is_ignored() {
    let mut desk = Desk::new();
    let a = ids(&desk.roster(0, 0, &["a@eu1@10.0.0.1", "b@eu1@10.0.0.2"]), "a");
    desk.roster(1, 0, &["b@eu1@10.0.0.2"]);
    assert!(desk.report(a[0], 2, Err(Reason::Timeout)).is_none());
    assert_eq!(desk.shown(2), "??");
    assert!(desk.board.tallies().all(|(_, _, tally)| tally.probes == 0), "not even in the sums of its location");
    assert_eq!(desk.board.lag().counts().iter().sum::<u64>(), 0);
}

#[test]
fn skipped_turns_are_counted_by_reason_and_every_reason_is_shown() {
    let mut desk = Desk::new();
    let id = desk.roster(0, 0, &["a@eu1@10.0.0.1"])[0].id;
    for (reason, count) in [(SkipReason::Late, 3), (SkipReason::Overlap, 1), (SkipReason::Late, 2)] {
        assert!(desk.board.apply(Report::Skipped { id, reason, count }).is_none());
    }
    let skipped: Vec<_> = desk.board.skipped().collect();
    assert_eq!(skipped, [(SkipReason::Overlap, 1), (SkipReason::Limit, 0), (SkipReason::Late, 5)]);
}

#[test]
fn several_instances_at_one_place_are_each_a_target_of_their_own() {
    let mut desk = Desk::new();
    let probing = desk.roster(0, 0, &["a@eu1@10.0.0.1", "b@eu1@10.0.0.1"]);
    let a = ids(&probing, "a");
    desk.report(a[0], 1, Err(Reason::Timeout));
    assert_eq!(desk.shown(1), "-???");
    assert_eq!(desk.board.peer_count(), 2);
}
