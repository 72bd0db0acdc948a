use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use super::*;
use crate::host::network::Fault;
use crate::member::peers::Peers;
use crate::member::plan::{Here, Planner, Probing};
use crate::member::report::Facts;
use crate::probe::{Answerer, Outcome};
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
    planner: Planner,
    /// The addresses of this host.
    own: Vec<IpAddr>,
    registered: Option<SocketAddr>,
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
        Self {
            board,
            peers: Peers::new(me, seconds(90)),
            planner: Planner::default(),
            own: Vec::new(),
            registered: None,
            endpoints: vec!["/health".into()],
            start,
        }
    }

    fn at(&self, offset: u64) -> Instant {
        self.start + seconds(offset)
    }

    /// A roster of `id@location@address`, each last seen at `last_seen`.
    fn roster(&mut self, offset: u64, last_seen: u64, members: &[&str]) -> Vec<Probing> {
        let roster = members.iter().map(|text| {
            let [id, location, ip] = text.split('@').collect::<Vec<_>>()[..] else { panic!("{text}") };
            let body = format!(r#"{{"instance_id": "{id}", "location": "{location}", "ip": "{ip}", "port": 8756}}"#);
            let Registration { instance_id, location, ip, port, .. } =
                Registration::from_json(body.as_bytes()).unwrap();
            let instance_id = instance_id.unwrap();
            Member { instance_id, location, ip, port, last_seen, registered_at: 1, status: () }
        });
        self.peers.apply(roster.collect(), self.start + seconds(offset));
        self.follow(offset)
    }

    fn follow(&mut self, offset: u64) -> Vec<Probing> {
        let is_own = |ip| self.own.contains(&ip);
        let here = Here { listening: "0.0.0.0:8756".parse().unwrap(), registered: self.registered, is_own: &is_own };
        let plan = self.planner.plan(&self.peers, &self.endpoints, &here);
        self.board.follow(&plan, self.start + seconds(offset));
        plan.probing()
    }

    /// Everything that is news of a probe that ended then, having taken no time.
    fn news(&mut self, id: TargetId, offset: u64, outcome: Outcome) -> Vec<Event> {
        let (began, ended) = (self.at(offset), self.at(offset));
        let facts = Facts { limit: LIMIT, ..Facts::default() };
        self.board.apply(Report::Probed { id, outcome, facts, began, lag: Duration::from_millis(1), ended })
    }

    fn report(&mut self, id: TargetId, offset: u64, result: Result<(), Reason>) -> Option<Transition> {
        let result = match result {
            Ok(()) => Ok(Timings::default()),
            Err(reason) => Err(Failure { reason, detail: "detail".into() }),
        };
        let outcome = Outcome { result, syn_retransmits: 0, source: None, answered_by: None };
        self.news(id, offset, outcome).into_iter().find_map(|event| match event {
            Event::Turned(transition) => Some(transition),
            _ => None,
        })
    }

    /// A success for which this member answered.
    fn answered(&mut self, id: TargetId, offset: u64, location: &str, instance: &str) -> Vec<Event> {
        let answered_by = Answerer { location: location.parse().ok(), instance_id: instance.parse().ok() };
        let result = Ok(Timings::default());
        self.news(id, offset, Outcome { result, syn_retransmits: 0, source: None, answered_by: Some(answered_by) })
    }

    /// The registry answered then, or did not.
    fn registry(&mut self, offset: u64, reached: bool) {
        let now = self.at(offset);
        self.board.note_registry(RegistrySight { up: reached, roster_at: None }, Some(reached), now);
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
    assert_eq!((tally.probes, tally.failures().collect::<Vec<_>>()), (3, vec![("timeout", 0), ("local", 2)]));
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
    desk.own = vec!["10.0.0.9".parse().unwrap()];
    let probing = desk.roster(0, 0, &["a@eu1@127.0.0.1", "b@eu2@10.0.0.2", "c@eu3@10.0.0.9"]);
    assert_eq!(probing.iter().map(|p| p.peer.as_str()).collect::<Vec<_>>(), ["b", "b"]);
    assert_eq!(desk.board.peer_count(), 3);
    assert_eq!(desk.board.leading_back().map(|peer| peer.instance_id.as_str()).collect::<Vec<_>>(), ["a", "c"]);
    assert_eq!(desk.board.not_probed().collect::<Vec<_>>(), [(NotProbed::LeadsBack, 2), (NotProbed::NoRoute, 0)]);
    desk.report(probing[0].id, 1, Ok(()));
    desk.report(probing[1].id, 1, Ok(()));
    assert_eq!(desk.board.coverage(desk.at(1)), Some(0.5), "two of four are not covered");
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
    for (reason, count) in [(SkipReason::Late, 3), (SkipReason::Overlap, 1), (SkipReason::Late, 2)] {
        assert!(desk.board.apply(Report::Skipped { reason, count }).is_empty());
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

const TIMEOUT: Result<(), Reason> = Err(Reason::Timeout);

#[test]
fn a_host_that_loses_everything_at_once_blames_nobody() {
    let mut desk = Desk::new();
    let probing = desk.roster(0, 0, &["a@eu1@10.0.0.1", "b@eu2@10.0.0.2"]);
    let all: Vec<TargetId> = probing.iter().map(|p| p.id).collect();
    all.iter().for_each(|&id| drop(desk.report(id, 10, Ok(()))));
    desk.registry(20, true);
    for (n, &id) in all.iter().enumerate() {
        assert!(desk.report(id, 70 + n as u64, TIMEOUT).is_some(), "not known yet");
    }
    assert_eq!(desk.shown(75), "----");
    assert_eq!(desk.board.unwell(desk.at(75)), None, "as long as the registry is there");
    desk.registry(80, false);
    assert_eq!(desk.shown(80), "????", "this host is cut off");
    assert!(desk.board.unwell(desk.at(80)).unwrap().starts_with("isolated: "));
    // A connection tracking table that is full lets those pass that are open already.
    let now = desk.at(81);
    desk.board.note_registry(RegistrySight { up: true, roster_at: Some(now) }, None, now);
    assert!(desk.board.registry().up);
    assert!(desk.report(all[0], 130, TIMEOUT).is_none());
    assert_eq!(desk.shown(130), "????");
    assert_eq!(desk.board.tallies().next().unwrap().2.failures().collect::<Vec<_>>(), [("timeout", 1), ("local", 1)]);
    // One answers again. What began before that says nothing yet, what begins later counts.
    desk.report(all[1], 140, Ok(()));
    let facts = Facts { limit: LIMIT, ..Facts::default() };
    let failed = || Outcome::failed(Failure { reason: Reason::Timeout, detail: "detail".into() });
    let lag = Duration::ZERO;
    let (began, ended) = (desk.at(139), desk.at(144));
    assert!(desk.board.apply(Report::Probed { id: all[2], outcome: failed(), facts, began, lag, ended }).is_empty());
    assert_eq!(desk.shown(144), "?+??");
    assert!(desk.report(all[2], 150, TIMEOUT).is_some());
    assert_eq!(desk.shown(150), "?+-?");
}

#[test]
fn a_site_that_dies_while_another_or_the_registry_answers_is_blamed() {
    let members = ["a@eu1@10.0.0.1", "b@eu2@10.0.0.2"];
    // Another site answers.
    let mut desk = Desk::new();
    desk.endpoints.clear();
    let probing = desk.roster(0, 0, &members);
    desk.registry(5, false);
    desk.report(probing[0].id, 10, Ok(()));
    desk.report(probing[1].id, 11, Ok(()));
    desk.report(probing[0].id, 70, TIMEOUT);
    desk.report(probing[1].id, 71, Ok(()));
    desk.report(probing[0].id, 130, TIMEOUT);
    assert_eq!(desk.shown(131), "-+");
    // It dies later: one location after the other is not everything at once.
    desk.report(probing[1].id, 131, TIMEOUT);
    desk.report(probing[0].id, 190, TIMEOUT);
    desk.report(probing[1].id, 191, TIMEOUT);
    assert_eq!(desk.shown(191), "--");
    assert_eq!(desk.board.unwell(desk.at(191)), None);

    // Both at once, and the registry answers.
    let mut desk = Desk::new();
    desk.endpoints.clear();
    let probing = desk.roster(0, 0, &members);
    for offset in [10, 70] {
        desk.registry(offset, true);
        let result = if offset == 10 { Ok(()) } else { TIMEOUT };
        probing.iter().for_each(|p| drop(desk.report(p.id, offset + 1, result)));
    }
    desk.registry(80, true);
    assert_eq!(desk.shown(80), "--");
    assert_eq!(desk.board.unwell(desk.at(80)), None);

    // A single other location is never enough to tell.
    let mut desk = Desk::new();
    let probing = desk.roster(0, 0, &["a@eu1@10.0.0.1", "b@eu1@10.0.0.2"]);
    probing.iter().for_each(|p| drop(desk.report(p.id, 10, Ok(()))));
    probing.iter().for_each(|p| drop(desk.report(p.id, 70, TIMEOUT)));
    desk.registry(80, false);
    assert_eq!(desk.shown(80), "----");
}

#[test]
fn what_was_found_down_before_the_kernel_noticed_a_silent_gateway_is_unknown_afterwards() {
    let mut desk = Desk::new();
    desk.endpoints.clear();
    let probing = desk.roster(0, 0, &["a@eu1@10.0.0.1", "b@eu2@10.0.0.2"]);
    let (a, b) = (probing[0].id, probing[1].id);
    desk.report(b, 5, TIMEOUT);
    desk.report(a, 10, Ok(()));
    desk.report(a, 70, TIMEOUT);
    desk.report(b, 71, TIMEOUT);
    assert_eq!(desk.shown(71), "--");
    for (id, offset) in [(a, 130), (b, 131)] {
        let network = Some(Fault::DeadGateway { gateway: "10.0.0.254".parse().unwrap() });
        let facts = Facts { limit: LIMIT, network, ..Facts::default() };
        let outcome = Outcome::failed(Failure { reason: Reason::Timeout, detail: "detail".into() });
        let (began, ended) = (desk.at(offset), desk.at(offset));
        assert!(desk.board.apply(Report::Probed { id, outcome, facts, began, lag: seconds(0), ended }).is_empty());
    }
    assert_eq!(desk.shown(131), "?-", "b was down while a still answered");
    assert!(desk.board.unwell(desk.at(131)).is_some());
}

#[test]
fn a_peer_on_this_host_neither_hides_nor_makes_an_isolation() {
    let mut desk = Desk::new();
    desk.own = vec!["10.0.0.9".parse().unwrap()];
    desk.endpoints.clear();
    // The sibling has a port of its own; the plan of these tests gives all the same one, so it is at a loopback address of
    // a ring that is registered there.
    desk.registered = Some("127.0.0.1:9999".parse().unwrap());
    let probing = desk.roster(0, 0, &["a@eu1@10.0.0.1", "b@eu2@10.0.0.2"]);
    let sibling = {
        let body = br#"{"instance_id": "s", "location": "home", "ip": "10.0.0.9", "port": 8757}"#;
        let Registration { instance_id, location, ip, port, .. } = Registration::from_json(body).unwrap();
        let member = |id: &str| Member {
            instance_id: id.parse().unwrap(),
            location: "x".parse().unwrap(),
            ip,
            port,
            last_seen: 0,
            registered_at: 1,
            status: (),
        };
        let mut roster: Vec<Member> = [("a", "eu1", 1_u8), ("b", "eu2", 2)]
            .map(|(id, at, n)| Member {
                location: at.parse().unwrap(),
                ip: [10, 0, 0, n].into(),
                port: 8756.try_into().unwrap(),
                ..member(id)
            })
            .into();
        roster.push(Member { location, ..member(instance_id.unwrap().as_str()) });
        desk.peers.apply(roster, desk.start);
        ids(&desk.follow(0), "s")[0]
    };
    for p in &probing {
        desk.report(p.id, 10, Ok(()));
    }
    desk.report(sibling, 10, Ok(()));
    for p in &probing {
        desk.report(p.id, 70, Err(Reason::Local(LocalCause::NoRoute)));
        desk.report(sibling, 70, Ok(()));
    }
    assert!(desk.board.unwell(desk.at(70)).is_some(), "its success does not speak for the network");
}

#[test]
fn when_all_fall_silent_the_registry_is_asked_once() {
    let mut desk = Desk::new();
    desk.endpoints.clear();
    let probing = desk.roster(0, 0, &["a@eu1@10.0.0.1", "b@eu2@10.0.0.2"]);
    desk.registry(1, true);
    let asked = |desk: &mut Desk, n: usize, offset| {
        let failed = Outcome::failed(Failure { reason: Reason::Timeout, detail: "detail".into() });
        desk.news(probing[n].id, offset, failed).iter().filter(|event| matches!(event, Event::AllSilent)).count()
    };
    assert_eq!([asked(&mut desk, 0, 10), asked(&mut desk, 1, 11), asked(&mut desk, 0, 12)], [0, 1, 0]);
    for n in [0, 1] {
        desk.report(probing[n].id, 20, Ok(()));
    }
    assert_eq!([asked(&mut desk, 0, 30), asked(&mut desk, 1, 31)], [0, 1], "and again after they were up");
}

#[test]
fn a_peer_that_nothing_can_be_sent_to_is_reported_once_with_its_address() {
    let mut desk = Desk::new();
    let probing = desk.roster(0, 0, &["a@eu1@2001:db8::1", "b@eu2@10.0.0.2"]);
    let a = ids(&probing, "a");
    let no_route = || {
        Outcome::failed(Failure { reason: Reason::Local(LocalCause::NoRoute), detail: "network is unreachable".into() })
    };
    let cannot = |events: Vec<Event>| {
        let found = events.into_iter().filter_map(|event| match event {
            Event::CannotProbe { peer, why } => Some(format!("{} {why}", peer.ip)),
            _ => None,
        });
        found.collect::<Vec<_>>()
    };
    assert_eq!(cannot(desk.news(a[0], 1, no_route())), ["2001:db8::1 network is unreachable"]);
    assert!(cannot(desk.news(a[1], 2, no_route())).is_empty(), "told once");
    assert_eq!(desk.board.not_probed().collect::<Vec<_>>(), [(NotProbed::LeadsBack, 0), (NotProbed::NoRoute, 1)]);
    assert_eq!(
        desk.board.status(desk.at(3)),
        "2 peers at 2 locations, 1 cannot be probed: eu1 (2001:db8::1: network is unreachable)"
    );
    desk.report(ids(&probing, "b")[0], 3, Ok(()));
    assert_eq!(desk.board.unwell(desk.at(3)), None, "some peers have an address family that this host lacks");
    desk.report(a[0], 60, Ok(()));
    assert_eq!(desk.board.not_probed().map(|(_, n)| n).sum::<usize>(), 0);
    assert_eq!(cannot(desk.news(a[0], 120, no_route())).len(), 1, "news again");
}

#[test]
fn who_answers_in_a_peers_place_is_no_sign_of_life_of_it() {
    let mut desk = Desk::new();
    let a = ids(&desk.roster(0, 1_000_000, &["a@eu1@10.0.0.1"]), "a");
    desk.report(a[0], 10, Ok(()));
    desk.answered(a[1], 10, "eu1", "a");
    assert_eq!(desk.last_seen("a", 20), Some(1_000_010));
    let events = desk.answered(a[1], 70, "eu1", "b");
    assert!(
        matches!(&events[..], [Event::AnotherAnswers { peer, instance }]
            if peer.instance_id.as_str() == "a" && instance.as_str() == "b"),
        "{events:?}"
    );
    assert!(desk.answered(a[1], 130, "eu1", "b").is_empty(), "told once");
    desk.report(a[0], 131, Ok(()));
    assert_eq!(desk.shown(131), "++", "the way to the site is good");
    assert_eq!(desk.last_seen("a", 140), Some(1_000_010), "not by TCP either");
    desk.answered(a[1], 190, "eu1", "a");
    desk.report(a[0], 191, Ok(()));
    assert_eq!(desk.last_seen("a", 195), Some(1_000_191), "it is back");
    // Somebody of another location is a failure.
    desk.answered(a[1], 250, "eu2", "z");
    assert_eq!(desk.shown(250), "+-");
}

#[test]
fn a_held_peer_that_fails_is_unknown_and_one_that_answers_is_up() {
    let mut desk = Desk::new();
    let members = ["a@eu1@10.0.0.1", "b@eu2@10.0.0.2"];
    let probing = desk.roster(0, 0, &members);
    let (a, b) = (ids(&probing, "a"), ids(&probing, "b"));
    desk.report(a[0], 5, TIMEOUT);
    desk.report(b[0], 5, Ok(()));
    assert_eq!(desk.shown(6), "-?+?");
    desk.peers.registry_forgot(desk.at(10));
    desk.roster(10, 0, &[]);
    assert_eq!(desk.shown(10), "??+?", "it failed a moment ago, and may have left");
    assert!(desk.report(b[0], 11, TIMEOUT).is_none());
    assert_eq!(desk.shown(11), "????");
    desk.report(a[0], 12, Ok(()));
    assert_eq!(desk.shown(12), "+???");
    desk.roster(20, 0, &members);
    assert!(desk.report(b[0], 21, TIMEOUT).is_some(), "back on the roster it counts");
}

#[test]
fn after_a_suspend_nothing_is_known_and_last_seen_is_as_long_ago_as_it_was() {
    let mut desk = Desk::new();
    let a = ids(&desk.roster(0, 0, &["a@eu1@10.0.0.1"]), "a");
    desk.board.registry.roster_at = Some(desk.at(0));
    desk.report(a[0], 10, Ok(()));
    desk.report(a[1], 10, TIMEOUT);
    // The monotonic clock goes on by a second, the wall clock by an hour.
    desk.board.apply(Report::Suspended { lost: seconds(5), until: desk.at(11) });
    assert_eq!(desk.shown(11), "??");
    assert_eq!(desk.last_seen("a", 11), Some(1_000_005), "five seconds earlier than the clock shows");
    assert_eq!(desk.board.lost(), seconds(5));
    assert!(desk.board.unwell(desk.at(11)).unwrap().starts_with("the host was suspended"));
    assert_eq!(desk.board.coverage(desk.at(60)), None, "nobody is due yet");
    assert!(desk.report(a[1], 70, TIMEOUT).unwrap().lasted.is_none());
}
