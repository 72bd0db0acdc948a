use std::sync::Arc;

use super::*;
use crate::member::board::Freshness;
use crate::member::peers::Peers;
use crate::member::plan::{Here, Planner, Probing};
use crate::member::report::{Facts, Report};
use crate::probe::{Failure, Outcome, Reason, Timings};
use crate::wire::{InstanceId, Member};

/// The boards of a few sites on one virtual clock.
struct Ring {
    start: Instant,
    sites: Vec<Site>,
}

struct Site {
    location: Location,
    board: Option<Board>,
    planner: Planner,
    probing: Vec<Probing>,
}

impl Ring {
    /// Sites named by one letter each, which all know each other and have not probed yet.
    fn of(letters: &str) -> Self {
        let start = crate::clock::monotonic();
        let freshness = Freshness { interval: Duration::from_secs(2), time_limit: Duration::from_secs(2) };
        let site = |letter: char| {
            let (location, id) = (letter.to_string().parse().unwrap(), letter.to_string().parse().unwrap());
            Site {
                location,
                board: Some(Board::new(letter.to_string().parse().unwrap(), id, freshness)),
                planner: Planner::default(),
                probing: vec![],
            }
        };
        let mut ring = Self { start, sites: letters.chars().map(site).collect() };
        ring.roster(letters);
        ring
    }

    /// Every running site gets this roster.
    fn roster(&mut self, letters: &str) {
        let member = |letter: char| Member {
            instance_id: letter.to_string().parse().unwrap(),
            location: letter.to_string().parse().unwrap(),
            ip: [10, 0, 0, letter as u8].into(),
            port: crate::wire::DEFAULT_PORT,
            last_seen: 0,
            registered_at: 0,
            status: (),
        };
        for site in &mut self.sites {
            let Some(board) = &mut site.board else { continue };
            let me: InstanceId = site.location.as_str().parse().unwrap();
            let mut peers = Peers::new(me, Duration::ZERO);
            peers.apply(letters.chars().map(member).collect(), self.start);
            let here = Here { listening: "0.0.0.0:8756".parse().unwrap(), registered: None, is_own: &|_| false };
            let plan = site.planner.plan(&peers, &[Arc::from("/health")], &here);
            board.follow(&plan, self.start);
            site.probing = plan.probing();
        }
    }

    /// Both checks from one site to another end with this result at `second`.
    fn probe(&mut self, from: char, to: char, second: u64, result: Result<(), Reason>) {
        let site = self.sites.iter_mut().find(|s| s.location.as_str() == from.to_string()).unwrap();
        for probing in site.probing.iter().filter(|p| p.peer.as_str() == to.to_string()) {
            let timings = Timings { connect: Duration::from_micros(250), ..Timings::default() };
            let result = result.map(|()| timings).map_err(|reason| Failure { reason, detail: String::new() });
            let ended = self.start + Duration::from_secs(second);
            let outcome = Outcome { result, syn_retransmits: 0, source: None, answered_by: None };
            let (facts, lag) = (Facts { limit: Duration::from_secs(2), ..Facts::default() }, Duration::ZERO);
            let report = Report::Probed { id: probing.id, outcome, facts, began: ended, lag, ended };
            let _ = site.board.as_mut().unwrap().apply(report);
        }
    }

    /// Every running site reaches every other one at `second`, except those in `down`.
    fn round(&mut self, second: u64, down: &str) {
        let names: Vec<char> = self.sites.iter().map(|s| s.location.as_str().chars().next().unwrap()).collect();
        let running: Vec<bool> = self.sites.iter().map(|s| s.board.is_some()).collect();
        for (&from, _) in names.iter().zip(running).filter(|(_, running)| *running) {
            for &to in &names {
                let result = if down.contains(to) { Err(Reason::Refused) } else { Ok(()) };
                self.probe(from, to, second, result);
            }
        }
    }

    fn matrix(&self, second: u64) -> Matrix {
        let sites = self.sites.iter().map(|site| (&site.location, site.board.as_ref()));
        Matrix::of(sites, self.start + Duration::from_secs(second))
    }

    fn stop(&mut self, letter: char) {
        self.sites.iter_mut().find(|s| s.location.as_str() == letter.to_string()).unwrap().board = None;
    }
}

fn lines(changes: &[Change]) -> Vec<String> {
    changes.iter().map(ToString::to_string).collect()
}

#[test]
fn each_step_of_an_outage_is_reported_once() {
    let mut ring = Ring::of("abc");
    let unknown = ring.matrix(0);
    assert!(unknown.changes_since(&Matrix::default()).is_empty(), "nothing is known, so nothing is reported");
    ring.round(1, "");
    let whole = ring.matrix(1);
    assert_eq!(lines(&whole.changes_since(&unknown)), ["all 3 members reach each other (6 pairs)"]);
    assert!(ring.matrix(2).changes_since(&whole).is_empty());

    ring.probe('a', 'c', 3, Err(Reason::Refused));
    let first = ring.matrix(3);
    assert_eq!(lines(&first.changes_since(&whole)), ["c is unreachable (tcp refused) from a"]);
    ring.probe('a', 'c', 4, Err(Reason::Timeout));
    ring.probe('b', 'c', 4, Err(Reason::Timeout));
    let second = ring.matrix(4);
    assert_eq!(
        lines(&second.changes_since(&first)),
        ["c is unreachable (tcp timeout) from b"],
        "the one from a was reported before"
    );
    ring.round(5, "");
    assert_eq!(
        lines(&ring.matrix(5).changes_since(&second)),
        ["c is reachable again from a, b", "all 3 members reach each other (6 pairs)"]
    );
}

#[test]
fn a_killed_member_becomes_unreachable_and_is_removed_and_the_rest_is_complete_again() {
    let mut ring = Ring::of("abc");
    ring.round(1, "");
    let whole = ring.matrix(1);
    ring.stop('c');
    let stopped = ring.matrix(2);
    assert!(stopped.changes_since(&whole).is_empty(), "the results of the others have not changed yet");
    ring.round(3, "c");
    let lost = ring.matrix(3);
    assert_eq!(lines(&lost.changes_since(&stopped)), ["c is unreachable (tcp refused) from a, b"]);
    ring.roster("ab");
    assert_eq!(
        lines(&ring.matrix(3).changes_since(&lost)),
        [
            "c was removed from the roster because its lease ended; its metrics are gone",
            "all 2 members reach each other (2 pairs)"
        ]
    );
}

#[test]
fn a_member_that_one_site_still_probes_is_not_reported_as_removed() {
    let mut ring = Ring::of("abc");
    ring.round(1, "");
    let whole = ring.matrix(1);
    // Only a and c get the new roster.
    let kept = ring.sites.remove(1);
    ring.roster("ab");
    ring.sites.insert(1, kept);
    assert!(ring.matrix(1).changes_since(&whole).is_empty());
}

#[test]
fn a_site_that_nobody_has_probed_recently_is_neither_unreachable_nor_reachable_again() {
    let mut ring = Ring::of("ab");
    ring.round(1, "b");
    let down = ring.matrix(1);
    let stale = ring.matrix(60);
    assert!(stale.changes_since(&down).is_empty(), "unknown is not reported as a change");
    assert!(lines(&down.changes_since(&stale)).contains(&"b is unreachable (tcp refused) from a".to_owned()));
}

/// The table without colours.
fn plain(lines: &[String]) -> Vec<String> {
    let uncoloured = |line: &String| {
        let mut parts = line.split('\x1b');
        let first = parts.next().unwrap().to_owned();
        parts.fold(first, |text, part| text + part.split_once('m').unwrap().1)
    };
    lines.iter().map(uncoloured).collect()
}

#[test]
fn the_table_shows_each_pair_if_there_is_room() {
    let mut ring = Ring::of("abcd");
    ring.round(1, "");
    ring.sites[0].probing.retain(|p| p.target.check != Check::Tcp);
    ring.probe('a', 'b', 1, Err(Reason::Timeout));
    ring.stop('c');
    let shown = plain(&table(&ring.matrix(1), 80, 24));
    assert_eq!(
        shown[1..],
        [
            "from / to            a            b            c            d",
            "a                    - http timeout     0.250 ms     0.250 ms",
            "b             0.250 ms            -     0.250 ms     0.250 ms",
            "c               killed       killed       killed       killed",
            "d             0.250 ms     0.250 ms     0.250 ms            -",
        ]
    );
}

#[test]
fn the_ring_of_five_fits_into_a_terminal_of_80_columns() {
    let locations = super::super::locations(5);
    let board = || None::<&Board>;
    let matrix = Matrix::of(locations.iter().map(|location| (location, board())), crate::clock::monotonic());
    let shown = plain(&table(&matrix, 80, 24));
    assert!(shown[1].starts_with("from / to") && shown.len() == 7, "{shown:#?}");
    assert!(shown.iter().all(|line| line.len() < 80), "{shown:#?}");
}

#[test]
fn the_only_member_left_reports_nobody_as_removed() {
    let mut ring = Ring::of("ab");
    ring.round(1, "");
    let whole = ring.matrix(1);
    ring.stop('b');
    assert!(ring.matrix(2).changes_since(&whole).is_empty(), "no other member is running that could tell");
}

#[test]
fn no_line_is_wider_than_the_terminal() {
    let letters: String = ('a'..='z').collect();
    let mut ring = Ring::of(&letters);
    ring.round(1, "xyz");
    for width in [20, 40, 60, 80, 132] {
        let lines = plain(&table(&ring.matrix(4), width, 24));
        assert!(lines.iter().all(|line| line.chars().count() < width), "{width}: {lines:#?}");
    }
}

#[test]
fn a_large_ring_is_shown_by_its_failing_sites() {
    let letters: String = ('a'..='z').collect();
    let mut ring = Ring::of(&letters);
    let shown = |ring: &Ring, second, height| plain(&table(&ring.matrix(second), 80, height))[1..].to_vec();
    assert_eq!(shown(&ring, 0, 24), ["0 pairs connected, 0 failing, 650 unknown; median none"]);
    ring.round(1, "xyz");
    assert_eq!(
        shown(&ring, 4, 10),
        [
            "575 pairs connected, 75 failing, 0 unknown; median 0.250 ms",
            "  x  tcp refused, from 25 sites, for 3 s",
            "  y  tcp refused, from 25 sites, for 3 s",
            "  and 1 more",
        ]
    );
}
