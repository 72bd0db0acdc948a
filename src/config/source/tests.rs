use super::super::keys::Described;
use super::super::load::{self, Loaded};
use super::*;
use crate::config::form::Whole;

const NUMBER: Whole = Whole { from: 1, to: 9 };

/// Renamed twice, the second time with its section.
static LIMIT: Setting<u32> = Setting::new("member.limits.turns", &NUMBER, KeyDefault::Value("1"), "How many turns.")
    .formerly(&["member.limits.rounds", "member.bounds.rounds"]);

/// Not renamed.
static OTHER: Setting<u32> = Setting::new("member.limits.other", &NUMBER, KeyDefault::Value("1"), "Another.");

fn read(text: &str, variables: &[(&str, &str)]) -> Result<Loaded<u32>, String> {
    let environment: Environment = variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    let file = ConfigFile::parse(Path::new("netring.yaml"), text).unwrap();
    let mut reader = Reader::over(vec![LIMIT.key(), OTHER.key()], Role::Member, Some(&file), &environment);
    let (turns, _) = (reader.value(&LIMIT), reader.value(&OTHER));
    load::finish(reader, Some(&file), turns, Vec::new()).map_err(|faults| faults.to_string())
}

/// The value, where it came from, and the warnings.
fn told(text: &str, variables: &[(&str, &str)]) -> (u32, String, Vec<String>) {
    let loaded = read(text, variables).unwrap();
    let of_key = loaded.effective.iter().find(|effective| effective.key == LIMIT.path).unwrap();
    assert_eq!(of_key.value, loaded.settings.to_string());
    (loaded.settings, of_key.source.to_string(), loaded.warnings)
}

#[test]
fn a_present_name_is_read_without_a_word() {
    assert_eq!(told("member: {limits: {turns: 3}}\n", &[]), (3, "netring.yaml:1".into(), vec![]));
    assert_eq!(told("member: {}\n", &[]), (1, "default".into(), vec![]));
    let set = [("NETRING_MEMBER_LIMITS_TURNS", "4")];
    assert_eq!(told("member: {}\n", &set), (4, "environment NETRING_MEMBER_LIMITS_TURNS".into(), vec![]));
}

#[test]
fn each_former_name_in_the_file_is_read_with_one_warning_that_names_the_line_and_both_names() {
    for (text, line, old) in [
        ("member:\n  limits:\n    rounds: 5\n", 3, "member.limits.rounds"),
        ("member:\n  limits:\n    other: 2\n  bounds:\n    rounds: 5\n", 5, "member.bounds.rounds"),
    ] {
        let warning =
            format!("netring.yaml:{line}: {old} is now named member.limits.turns; the old name is still read");
        assert_eq!(told(text, &[]), (5, format!("netring.yaml:{line}"), vec![warning]));
    }
}

#[test]
fn each_former_variable_is_read_with_one_warning_and_stands_above_the_file() {
    for old in ["NETRING_MEMBER_LIMITS_ROUNDS", "NETRING_MEMBER_BOUNDS_ROUNDS"] {
        let warning =
            format!("environment: {old} is now named NETRING_MEMBER_LIMITS_TURNS; the old name is still read");
        let found = told("member: {limits: {turns: 3}}\n", &[(old, "6")]);
        assert_eq!(found, (6, format!("environment {old}"), vec![warning]));
    }
}

#[test]
fn two_names_of_one_key_in_the_file_are_a_fault_that_names_both_lines() {
    assert_eq!(
        read("member:\n  limits:\n    rounds: 5\n    turns: 3\n", &[]).unwrap_err(),
        "netring.yaml:3:5: member.limits.rounds: expected this key once, by its name member.limits.turns, got its former \
         name beside member.limits.turns on line 4"
    );
    assert_eq!(
        read("member:\n  bounds:\n    rounds: 5\n  limits:\n    rounds: ~\n", &[]).unwrap_err(),
        "netring.yaml:3:5: member.bounds.rounds: expected this key once, by its name member.limits.turns, got its former \
         name beside member.limits.rounds on line 5"
    );
}

#[test]
fn two_names_of_one_variable_are_a_fault_that_names_both() {
    let set = [("NETRING_MEMBER_LIMITS_TURNS", "1"), ("NETRING_MEMBER_LIMITS_ROUNDS", "1")];
    assert_eq!(
        read("member: {}\n", &set).unwrap_err(),
        "environment: NETRING_MEMBER_LIMITS_ROUNDS: expected the variable NETRING_MEMBER_LIMITS_TURNS alone, got its \
         former name beside NETRING_MEMBER_LIMITS_TURNS"
    );
}

#[test]
fn a_faulty_value_is_told_by_the_name_it_stands_under() {
    assert_eq!(
        read("member:\n  limits:\n    rounds: 50\n", &[]).unwrap_err(),
        "netring.yaml:3:13: member.limits.rounds: expected a whole number from 1 to 9, got the number 50"
    );
    assert_eq!(
        read("member: {}\n", &[("NETRING_MEMBER_BOUNDS_ROUNDS", "x")]).unwrap_err(),
        "environment: NETRING_MEMBER_BOUNDS_ROUNDS: expected a whole number from 1 to 9, got \"x\""
    );
}

#[test]
fn former_names_are_never_advised() {
    assert_eq!(
        read("member:\n  limits:\n    round: 5\n", &[]).unwrap_err(),
        "netring.yaml:3:5: member.limits.round: expected one of turns, other, got an unknown key"
    );
    assert_eq!(
        read("member:\n  bounds:\n    other: 5\n", &[]).unwrap_err(),
        "netring.yaml:3:5: member.bounds.other: expected one of rounds, got an unknown key; did you mean \
         member.limits.other?"
    );
}

#[test]
fn a_former_name_alone_makes_an_optional_section_wanted() {
    let environment = Environment::new();
    let wants = |text: &str| {
        let file = ConfigFile::parse(Path::new("netring.yaml"), text).unwrap();
        Reader::over(vec![LIMIT.key()], Role::Member, Some(&file), &environment).wants_section("member.limits")
    };
    assert!(wants("member: {bounds: {rounds: 5}}\n") && !wants("member: {bounds: {}}\n"));
    let environment = Environment::from([("NETRING_MEMBER_BOUNDS_ROUNDS".into(), "5".into())]);
    assert!(Reader::over(vec![LIMIT.key()], Role::Member, None, &environment).wants_section("member.limits"));
}
