use std::net::IpAddr;
use std::time::Duration;

use super::*;
use crate::host::network::Fault;
use crate::probe::{Answerer, Timings};
use crate::wire::Location;

const LIMIT: Duration = Duration::from_millis(500);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn peer() -> Peer {
    let location: Location = "us1".parse().unwrap();
    Peer { location, instance_id: "peer".parse().unwrap(), ip: ip("192.0.2.1"), port: crate::wire::DEFAULT_PORT }
}

fn failed(reason: Reason) -> Outcome {
    Outcome::failed(Failure { reason, detail: "as it was".into() })
}

fn succeeded() -> Outcome {
    Outcome { result: Ok(Timings::default()), ..failed(Reason::Timeout) }
}

fn quiet() -> Facts {
    Facts { stalled: Duration::ZERO, limit: LIMIT, network: None }
}

fn stalled(milliseconds: u64) -> Facts {
    Facts { stalled: Duration::from_millis(milliseconds), ..quiet() }
}

fn at_fault(network: Fault) -> Facts {
    Facts { network: Some(network), ..quiet() }
}

fn no_carrier() -> Facts {
    at_fault(Fault::NoCarrier { address: ip("10.0.0.1") })
}

fn dead_gateway() -> Facts {
    at_fault(Fault::DeadGateway { gateway: ip("10.0.0.254") })
}

fn no_route() -> Facts {
    at_fault(Fault::NoRoute { target: ip("192.0.2.1") })
}

/// What is the case: facts, whether the peer is held, and whether this host is isolated.
type Case = (&'static str, Facts, bool, bool);

fn cases() -> [Case; 8] {
    [
        ("quiet", quiet(), false, false),
        ("stalled for a tenth of the limit", stalled(50), false, false),
        ("stalled for more than a tenth", stalled(51), false, false),
        ("no carrier", no_carrier(), false, false),
        ("dead gateway", dead_gateway(), false, false),
        ("no route", no_route(), false, false),
        ("isolated", quiet(), false, true),
        ("held", quiet(), true, false),
    ]
}

/// What becomes of a failure of `reason` in each of [`cases`].
fn verdicts(reason: Reason) -> [(Reason, Finding); 8] {
    cases().map(|(case, facts, held, isolated)| {
        let judged = judge(failed(reason), &facts, &peer(), held, isolated);
        let failure = judged.outcome.result.unwrap_err();
        assert!(failure.detail.ends_with("as it was"), "{reason}, {case}: what the probe said is kept: {failure:?}");
        assert!(judged.answered_by_another.is_none() && !judged.answered_itself);
        (failure.reason, judged.finding)
    })
}

const STALLED: (Reason, Finding) = (Reason::Local(LocalCause::Stalled), Finding::Nothing);
const NO_ROUTE: (Reason, Finding) = (Reason::Local(LocalCause::NoRoute), Finding::Nothing);
const ISOLATED: (Reason, Finding) = (Reason::Local(LocalCause::Isolated), Finding::Unknown);

#[test]
fn a_failure_without_an_answer_is_excused_by_everything_that_is_wrong_here() {
    for reason in [Reason::Resolve, Reason::Timeout, Reason::Unreachable, Reason::Reset, Reason::Tls] {
        let (down, unknown) = ((reason, Finding::Down), (reason, Finding::Unknown));
        let expected = [down, down, STALLED, NO_ROUTE, NO_ROUTE, NO_ROUTE, ISOLATED, unknown];
        assert_eq!(verdicts(reason), expected, "{reason}");
    }
}

#[test]
fn an_answer_that_came_too_late_or_cut_short_is_excused_by_a_stall_only() {
    for reason in [Reason::Status, Reason::Body] {
        let (down, unknown) = ((reason, Finding::Down), (reason, Finding::Unknown));
        assert_eq!(verdicts(reason), [down, down, STALLED, down, down, down, down, unknown], "{reason}");
    }
}

#[test]
fn a_refused_connection_and_a_wrong_identity_are_never_excused() {
    for reason in [Reason::Refused, Reason::Identity] {
        let (down, unknown) = ((reason, Finding::Down), (reason, Finding::Unknown));
        assert_eq!(verdicts(reason), [down, down, down, down, down, down, down, unknown], "{reason}");
    }
}

#[test]
fn a_failure_that_this_host_found_by_itself_keeps_its_cause_and_says_nothing() {
    use LocalCause::{Internal, NoRoute, Resources, Stalled};
    for cause in [Resources, NoRoute, Stalled, Internal] {
        assert_eq!(verdicts(Reason::Local(cause)), [(Reason::Local(cause), Finding::Nothing); 8], "{cause:?}");
    }
}

#[test]
fn these_tables_are_complete() {
    let all = [
        Reason::Resolve,
        Reason::Refused,
        Reason::Timeout,
        Reason::Unreachable,
        Reason::Reset,
        Reason::Tls,
        Reason::Status,
        Reason::Body,
        Reason::Identity,
        Reason::Local(LocalCause::Internal),
    ];
    assert_eq!(all.map(Reason::label), Reason::LABELS, "a new reason needs a line in one of the tables");
}

#[test]
fn the_first_rule_that_applies_counts() {
    let all_at_once = Facts { stalled: LIMIT, ..dead_gateway() };
    let judged = |facts: &Facts, held, isolated| {
        let judged = judge(failed(Reason::Timeout), facts, &peer(), held, isolated);
        (judged.outcome.result.unwrap_err().reason, judged.finding)
    };
    assert_eq!(judged(&all_at_once, true, true), STALLED);
    assert_eq!(judged(&dead_gateway(), true, true), NO_ROUTE);
    assert_eq!(judged(&quiet(), true, true), ISOLATED);
}

#[test]
fn the_detail_says_what_was_wrong_here_and_what_the_probe_said() {
    let detail = |facts: &Facts, isolated| {
        judge(failed(Reason::Timeout), facts, &peer(), false, isolated).outcome.result.unwrap_err().detail
    };
    assert_eq!(detail(&quiet(), false), "as it was");
    assert_eq!(detail(&stalled(51), false), "this process stood still for 51.0ms meanwhile; as it was");
    assert_eq!(detail(&no_carrier(), false), "the interface with 10.0.0.1 was down or had no carrier; as it was");
    assert_eq!(detail(&dead_gateway(), false), "the gateway 10.0.0.254 did not answer; as it was");
    assert_eq!(detail(&no_route(), false), "this host has no route to 192.0.2.1; as it was");
    assert_eq!(detail(&quiet(), true), "nothing outside this host answers; as it was");
}

#[test]
fn a_success_counts_whatever_happened_here_and_says_where_its_times_are_too_long() {
    for (case, facts, held, isolated) in cases() {
        let judged = judge(succeeded(), &facts, &peer(), held, isolated);
        assert_eq!(judged.finding, Finding::Up, "{case}");
        let disturbed = judged.outcome.result.unwrap().disturbed;
        assert_eq!(disturbed, case == "stalled for more than a tenth", "{case}");
    }
    let of_a_short_limit = Facts { limit: Duration::from_millis(100), ..stalled(11) };
    assert!(judge(succeeded(), &of_a_short_limit, &peer(), false, false).outcome.result.unwrap().disturbed);
}

fn answered_by(outcome: Outcome, location: Option<&str>, instance: Option<&str>) -> Outcome {
    let answerer = Answerer {
        location: location.map(|name| name.parse().unwrap()),
        instance_id: instance.map(|name| name.parse().unwrap()),
    };
    Outcome { answered_by: Some(answerer), ..outcome }
}

fn another(instance: &str) -> Option<InstanceId> {
    Some(instance.parse().unwrap())
}

#[test]
fn a_member_of_another_location_that_answers_is_a_failure_of_the_kind_identity() {
    for (instance, detail) in [
        (Some("other"), "location eu1 (other) answers at this address"),
        (None, "location eu1 answers at this address"),
        // One that moved: the roster does not know it yet.
        (Some("peer"), "location eu1 answers at this address"),
    ] {
        let outcome = answered_by(succeeded(), Some("eu1"), instance);
        let judged = judge(outcome, &quiet(), &peer(), false, false);
        let expected = Failure { reason: Reason::Identity, detail: detail.into() };
        assert_eq!(judged.outcome.result, Err(expected));
        assert_eq!((judged.finding, judged.answered_by_another, judged.answered_itself), (Finding::Down, None, false));
        assert_eq!(judged.outcome.answered_by, None, "who answered is said once");
    }
}

#[test]
fn a_wrong_identity_stands_whatever_happened_here_and_is_unknown_where_the_peer_may_have_left() {
    for (case, facts, held, isolated) in cases() {
        let judged = judge(answered_by(succeeded(), Some("eu1"), None), &facts, &peer(), held, isolated);
        assert_eq!(judged.outcome.result.unwrap_err().reason, Reason::Identity, "{case}");
        assert_eq!(judged.finding, if held { Finding::Unknown } else { Finding::Down }, "{case}");
    }
}

#[test]
fn another_member_of_the_same_location_shows_that_the_site_is_reached() {
    for location in [Some("us1"), None] {
        let judged = judge(answered_by(succeeded(), location, Some("other")), &quiet(), &peer(), false, false);
        assert!(judged.outcome.result.is_ok());
        assert_eq!(
            (judged.finding, judged.answered_by_another, judged.answered_itself),
            (Finding::Up, another("other"), false)
        );
    }
}

#[test]
fn the_peer_itself_is_known_by_its_name() {
    let judged = judge(answered_by(succeeded(), Some("us1"), Some("peer")), &quiet(), &peer(), false, false);
    assert_eq!((judged.finding, judged.answered_by_another, judged.answered_itself), (Finding::Up, None, true));
}

#[test]
fn an_answer_without_names_is_a_success_of_which_nothing_more_is_known() {
    let judged = judge(succeeded(), &quiet(), &peer(), false, false);
    assert_eq!((judged.finding, judged.answered_by_another, judged.answered_itself), (Finding::Up, None, false));
    let judged = judge(answered_by(succeeded(), Some("us1"), None), &quiet(), &peer(), false, false);
    assert_eq!((judged.finding, judged.answered_by_another), (Finding::Up, None));
    assert!(!judged.answered_itself, "an older member gives its location alone, and others of that location may do so");
}

#[test]
fn who_answered_is_known_also_where_the_answer_is_a_failure() {
    let bad = |location, instance| {
        let outcome = answered_by(failed(Reason::Status), location, instance);
        judge(outcome, &quiet(), &peer(), false, false)
    };
    let itself = bad(Some("us1"), Some("peer"));
    assert_eq!(itself.outcome.result.unwrap_err().reason, Reason::Status);
    assert_eq!((itself.finding, itself.answered_itself), (Finding::Down, true));
    let other = bad(Some("us1"), Some("other"));
    assert_eq!((other.finding, other.answered_by_another), (Finding::Down, another("other")));
    let elsewhere = bad(Some("eu1"), Some("other"));
    assert_eq!(elsewhere.outcome.result.unwrap_err().reason, Reason::Identity);
}

#[test]
fn a_link_is_broken_where_it_concerns_more_than_this_target() {
    assert!(no_carrier().link_is_broken() && dead_gateway().link_is_broken());
    assert!(!no_route().link_is_broken() && !stalled(1_000).link_is_broken());
}
