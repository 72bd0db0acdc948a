//! What comes over the network is unfriendly: nothing panics, and whatever is accepted keeps to the documented bounds.

use proptest::prelude::*;
use serde_json::json;

use super::*;

/// Any JSON at all, a few levels deep.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        near_miss(),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::hash_map(field_name(), inner, 0..6).prop_map(|map| map.into_iter().collect()),
        ]
    })
}

/// Values at the edge of what some field takes.
fn near_miss() -> impl Strategy<Value = Value> {
    prop_oneof![
        "[ -~]{0,130}".prop_map(Value::from),
        "[a-z0-9._:@-]{1,130}".prop_map(Value::from),
        "\\PC{1,60}".prop_map(Value::from),
        any::<IpAddr>().prop_map(|ip| ip.to_string().into()),
        (0..70_000_u32).prop_map(Value::from),
        (0..70_000_u32).prop_map(|n| n.to_string().into()),
        prop::sample::select(vec![
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "ff02::1",
            "::ffff:10.0.0.1",
            "255.255.255.255",
            "0.1.2.3",
            "240.0.0.1",
            "fe80::1"
        ])
        .prop_map(Value::from),
        prop::sample::select(vec!["1e999", "-1", "inf", "NaN", "1e4", "8756.0", " 8756"]).prop_map(Value::from),
    ]
}

fn field_name() -> impl Strategy<Value = String> {
    const FIELDS: [&str; 9] =
        ["instance_id", "location", "ip", "port", "last_seen", "registered_at", "status", "known", "members"];
    prop_oneof![9 => prop::sample::select(FIELDS.to_vec()).prop_map(str::to_owned), 1 => any::<String>()]
}

/// A member's fields, each good more often than not, so that many are accepted.
fn member_like() -> impl Strategy<Value = Value> {
    let mostly = |good: BoxedStrategy<Value>| prop_oneof![6 => good, 1 => near_miss(), 1 => any_json()];
    let text = |pattern: &'static str| pattern.prop_map(Value::from).boxed();
    (
        mostly(text("[a-zA-Z0-9._:@-]{1,128}")),
        mostly(text("[a-z]{1,9}[ -~]{0,118}[a-z]")),
        mostly(any::<IpAddr>().prop_map(|ip| ip.to_string().into()).boxed()),
        mostly((1..65_536_u32).prop_map(Value::from).boxed()),
        mostly(any::<u64>().prop_map(Value::from).boxed()),
        any_json(),
    )
        .prop_map(|(id, location, ip, port, seconds, more)| {
            json!({"instance_id": id, "location": location, "ip": ip, "port": port, "last_seen": seconds,
                   "registered_at": seconds, "known": true, "more": more})
        })
}

fn assert_bounds(id: Option<&InstanceId>, location: &Location, ip: IpAddr) {
    if let Some(id) = id {
        assert_id(id);
    }
    let name = location.as_str();
    assert!((1..=LOCATION_MAX).contains(&name.len()) && name.trim() == name, "{name:?}");
    assert!(!name.chars().any(char::is_control), "{name:?}");
    assert!(!ip.is_unspecified() && !ip.is_multicast() && ip == ip.to_canonical(), "{ip}");
    assert!(!matches!(ip, IpAddr::V4(v4) if [0, 240, 255].contains(&v4.octets()[0])), "{ip}");
    assert!(!matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local()), "{ip}");
}

fn assert_id(id: &InstanceId) {
    let text = id.as_str();
    assert!((1..=INSTANCE_ID_MAX).contains(&text.len()), "{text:?}");
    assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_:@".contains(&b)), "{text:?}");
}

/// Puts a body to every reader; what is accepted keeps its bounds and comes back the same. Says whether any took it.
fn read_by_all(body: &[u8]) -> bool {
    let mut taken = false;
    if let Ok(registration) = Registration::from_json(body) {
        taken = true;
        assert_bounds(registration.instance_id.as_ref(), &registration.location, registration.ip);
        let again = serde_json::to_vec(&registration).unwrap();
        assert_eq!(Registration::from_json(&again), Ok(registration));
    }
    if let Ok(identification) = Identification::from_json(body) {
        taken = true;
        assert_id(&identification.instance_id);
        let again = serde_json::to_vec(&identification).unwrap();
        assert_eq!(Identification::from_json(&again), Ok(identification));
    }
    if let Ok(reply) = RegisteredReply::from_json(body) {
        taken = true;
        assert_id(&reply.instance_id);
        if let Some(known) = reply.known {
            let answer = Registered { instance_id: reply.instance_id.clone(), status: "registered", known };
            assert_eq!(RegisteredReply::from_json(&serde_json::to_vec(&answer).unwrap()), Ok(reply));
        }
    }
    if let Ok(reply) = MembersReply::from_json(body) {
        taken = true;
        for member in &reply.members {
            assert_bounds(Some(&member.instance_id), &member.location, member.ip);
        }
        let again = serde_json::to_vec(&Members { members: reply.members.clone() }).unwrap();
        assert_eq!(MembersReply::from_json(&again), Ok(MembersReply { unusable: 0, first_unusable: None, ..reply }));
    }
    taken
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        read_by_all(&bytes);
    }

    #[test]
    fn any_json_is_read_or_refused(value in any_json()) {
        read_by_all(value.to_string().as_bytes());
    }

    #[test]
    fn what_looks_like_a_member_is_read_whole_or_refused(value in member_like()) {
        read_by_all(value.to_string().as_bytes());
    }

    #[test]
    fn every_entry_of_a_roster_is_kept_or_counted(entries in prop::collection::vec(member_like(), 0..12)) {
        let body = json!({ "members": entries }).to_string();
        prop_assert!(read_by_all(body.as_bytes()));
        let reply = MembersReply::from_json(body.as_bytes()).unwrap();
        prop_assert_eq!(reply.members.len() + reply.unusable, entries.len());
    }

    #[test]
    fn an_error_fits_on_a_line_and_names_a_field_that_exists(value in prop_oneof![any_json(), member_like()]) {
        for error in [
            Registration::from_json(value.to_string().as_bytes()).err(),
            Identification::from_json(value.to_string().as_bytes()).err(),
        ].into_iter().flatten() {
            prop_assert!(["body", "instance_id", "location", "ip", "port"].contains(&error.field));
            let text = error.to_string();
            prop_assert!(text.len() < 400 && !text.chars().any(char::is_control), "{}", text);
        }
    }
}

/// A good registration with one field changed, or taken out.
fn with(field: &str, value: Option<Value>) -> String {
    let mut registration = json!({"instance_id": "uuid-123", "location": "us1-k8s", "ip": "10.1.2.3", "port": 8756});
    match value {
        Some(value) => registration[field] = value,
        None => drop(registration.as_object_mut().unwrap().remove(field)),
    }
    registration.to_string()
}

#[test]
fn a_bad_registration_is_refused_by_the_field_and_what_it_held() {
    let long = "x".repeat(10_240);
    let cases = [
        ("port", Some(json!("abc")), r#"expected a whole number from 1 to 65535, got "abc""#),
        ("port", Some(json!(0)), "expected a whole number from 1 to 65535, got 0"),
        ("port", Some(json!(70_000)), "expected a whole number from 1 to 65535, got 70000"),
        ("port", Some(json!(-1)), "expected a whole number from 1 to 65535, got -1"),
        ("port", Some(json!(1.5)), "expected a whole number from 1 to 65535, got 1.5"),
        ("port", Some(json!("")), r#"expected a whole number from 1 to 65535, got """#),
        ("port", Some(json!("NaN")), r#"expected a whole number from 1 to 65535, got "NaN""#),
        ("port", Some(json!(null)), "expected a whole number from 1 to 65535, got null"),
        ("port", Some(json!([8756])), "expected a whole number from 1 to 65535, got a list"),
        ("port", None, "missing: the port where peers reach the member"),
        ("location", Some(json!(long)), "got 10240 bytes"),
        ("location", Some(json!("x".repeat(129))), "got 129 bytes"),
        ("location", Some(json!("ä".repeat(65))), "got 130 bytes"),
        ("location", Some(json!("a\nb")), r"got the control character '\n'"),
        ("location", Some(json!("a\u{7f}b")), r"got the control character '\u{7f}'"),
        ("location", Some(json!("a\u{85}b")), r"got the control character '\u{85}'"),
        ("location", Some(json!("")), "got an empty text"),
        ("location", Some(json!("  \u{3000}")), "got an empty text"),
        ("location", Some(json!(" a")), "got a space at its start or end"),
        ("location", Some(json!("a\t")), "got a space at its start or end"),
        ("location", Some(json!(7)), "expected text, got 7"),
        ("location", Some(json!(null)), "missing: the name of the site"),
        ("location", None, "missing: the name of the site"),
        ("ip", Some(json!("none")), r#"expected the IPv4 or IPv6 address of one host, got "none""#),
        ("ip", Some(json!("10.1.2")), r#"got "10.1.2""#),
        ("ip", Some(json!("10.1.2.3:80")), r#"got "10.1.2.3:80""#),
        ("ip", Some(json!("010.1.2.3")), r#"got "010.1.2.3""#),
        ("ip", Some(json!("[::1]")), r#"got "[::1]""#),
        ("ip", Some(json!("fe80::1")), r#"got "fe80::1"; a link-local address means nothing on another host"#),
        ("ip", Some(json!("febf::1")), r#"got "febf::1"; a link-local address means nothing on another host"#),
        (
            "ip",
            Some(json!("fe80::1%eth0")),
            r#"got "fe80::1%eth0"; a link-local address means nothing on another host"#,
        ),
        ("ip", Some(json!("10.1.2.3%eth0")), r#"got "10.1.2.3%eth0""#),
        ("ip", Some(json!("0.0.0.0")), r#"got "0.0.0.0"; the unspecified address stands for no host"#),
        ("ip", Some(json!("::")), r#"got "::"; the unspecified address stands for no host"#),
        ("ip", Some(json!("::ffff:0.0.0.0")), "; the unspecified address stands for no host"),
        ("ip", Some(json!("0.1.2.3")), r#"got "0.1.2.3"; addresses in 0.0.0.0/8 cannot be connected to"#),
        ("ip", Some(json!("255.255.255.255")), "; the broadcast address is that of every host"),
        (
            "ip",
            Some(json!("240.0.0.1")),
            r#"got "240.0.0.1"; addresses in 240.0.0.0/4 are reserved and no host has one"#,
        ),
        ("ip", Some(json!("255.255.255.254")), "; addresses in 240.0.0.0/4 are reserved and no host has one"),
        ("ip", Some(json!("::ffff:240.0.0.1")), "; addresses in 240.0.0.0/4 are reserved and no host has one"),
        ("ip", Some(json!("224.0.0.1")), "; a multicast address is that of a group"),
        ("ip", Some(json!("239.255.255.255")), "; a multicast address is that of a group"),
        ("ip", Some(json!("::ffff:224.0.0.1")), "; a multicast address is that of a group"),
        ("ip", Some(json!("ff02::1")), "; a multicast address is that of a group"),
        ("ip", Some(json!(long)), "got a text of 10240 bytes"),
        ("ip", Some(json!({"v4": "10.1.2.3"})), "got an object"),
        ("ip", None, "missing: the address where peers reach the member"),
        ("instance_id", Some(json!("")), "got an empty text"),
        ("instance_id", Some(json!("a/b")), "got the character '/'"),
        ("instance_id", Some(json!("a b")), "got the character ' '"),
        ("instance_id", Some(json!("ü")), "got the character 'ü'"),
        ("instance_id", Some(json!("x".repeat(129))), "got 129 bytes"),
        ("instance_id", Some(json!(5)), "expected text, got 5"),
        ("instance_id", Some(json!(true)), "expected text, got true"),
    ];
    for (field, value, problem) in cases {
        let body = with(field, value);
        let error = Registration::from_json(body.as_bytes()).expect_err(&body);
        assert_eq!(error.field, field, "{error}");
        assert!(error.problem.ends_with(problem), "{field}: {} does not end with {problem}", error.problem);
    }
}

#[test]
fn an_odd_registration_that_makes_sense_is_taken() {
    let taken = |field: &str, value: Value| {
        let body = with(field, Some(value));
        Registration::from_json(body.as_bytes()).unwrap_or_else(|e| panic!("{body}: {e}"))
    };
    assert_eq!(taken("port", json!("8757")).port.get(), 8757, "a number as text");
    assert_eq!(taken("port", json!(8757.0)).port.get(), 8757, "a number that JavaScript wrote");
    assert_eq!(taken("port", json!(65_535)).port.get(), 65_535);
    assert_eq!(taken("location", json!("x".repeat(128))).location.as_str().len(), 128);
    assert_eq!(taken("location", json!("Zürich, \"Hall\" 2")).location.as_str(), "Zürich, \"Hall\" 2");
    assert_eq!(taken("ip", json!("::ffff:10.1.2.3")).ip, IpAddr::from([10, 1, 2, 3]), "IPv4 in IPv6's clothes");
    assert_eq!(taken("ip", json!("2001:DB8::0:1")).ip.to_string(), "2001:db8::1");
    for ip in ["1.0.0.0", "127.0.0.1", "169.254.1.1", "192.0.2.1", "223.255.255.255", "::1", "fec0::1", "fd00::2"] {
        assert_eq!(taken("ip", json!(ip)).ip.to_string(), ip);
    }
    assert_eq!(taken("instance_id", json!(null)).instance_id, None);
    assert_eq!(taken("instance_id", json!("x".repeat(128))).instance_id.unwrap().as_str().len(), 128);
    assert_eq!(
        taken("version", json!({"a": [1, {"b": null}]})),
        Registration::from_json(with("x", None).as_bytes()).unwrap()
    );
}

#[test]
fn a_body_that_is_no_object_is_refused_as_a_whole() {
    let deep = |open: &str, close: &str| open.repeat(10_000) + &close.repeat(10_000);
    let nested = with("more", Some(json!(0))).replace("\"more\":0", &format!("\"more\":{}", deep("[", "]")));
    for body in [
        "",
        " ",
        "{",
        "null",
        "7",
        "\"x\"",
        "[]",
        "{} {}",
        "{'location': 'a'}",
        "\u{feff}{}",
        &deep("[", "]"),
        &deep("{\"location\":", "}"),
        &nested,
    ] {
        for error in [
            Registration::from_json(body.as_bytes()).err(),
            Identification::from_json(body.as_bytes()).err(),
            RegisteredReply::from_json(body.as_bytes()).err(),
            MembersReply::from_json(body.as_bytes()).err(),
        ] {
            let error = error.unwrap_or_else(|| panic!("taken: {body:.60}"));
            assert_eq!(error.field, "body", "{body:.60}: {error}");
            assert!(error.problem.starts_with("expected a JSON object"), "{error}");
        }
    }
    assert_eq!(Registration::from_json(b"[]").unwrap_err().to_string(), "body: expected a JSON object, got a list");
}

#[test]
fn a_member_names_itself_or_is_asked_to() {
    for (body, expected) in [
        (r#"{"instance_id": "a", "extra": 1}"#, Ok("a")),
        ("{}", Err("instance_id: missing: the identity of the member")),
        (r#"{"instance_id": null}"#, Err("instance_id: missing: the identity of the member")),
        (r#"{"instance_id": ["a"]}"#, Err("instance_id: expected text, got a list")),
    ] {
        let found = Identification::from_json(body.as_bytes());
        let reply = RegisteredReply::from_json(body.as_bytes()).map(|reply| reply.instance_id);
        assert_eq!(found.clone().map(|i| i.instance_id), reply, "both read it alike");
        assert_eq!(
            found.as_ref().map(|i| i.instance_id.as_str()).map_err(ToString::to_string),
            expected.map_err(str::to_owned)
        );
    }
    let known = |body: &str| RegisteredReply::from_json(body.as_bytes()).unwrap().known;
    assert_eq!(known(r#"{"instance_id": "a", "status": "registered"}"#), None, "an older registry does not say");
    assert_eq!(known(r#"{"instance_id": "a", "known": false}"#), Some(false));
    assert_eq!(known(r#"{"instance_id": "a", "known": "yes"}"#), None);
}

#[test]
fn a_roster_keeps_what_makes_sense_and_counts_the_rest() {
    let good = |id: &str| json!({"instance_id": id, "location": "us1", "ip": "10.1.2.3", "port": 8756});
    let without = |field: &str| {
        let mut entry = good("broken");
        entry.as_object_mut().unwrap().remove(field);
        entry
    };
    let mut later = good("a");
    later["location"] = json!("elsewhere");
    let mut aged = good("b");
    aged["last_seen"] = json!("1629123456.9");
    aged["registered_at"] = json!(-5);
    let entries = json!({"members": [
        good("a"), 7, null, "x", [], {}, later, aged, without("instance_id"), without("location"), without("ip"),
        without("port"), good("a/b"),
    ], "revision": 9});
    let reply = MembersReply::from_json(entries.to_string().as_bytes()).unwrap();
    let ids: Vec<&str> = reply.members.iter().map(|member| member.instance_id.as_str()).collect();
    assert_eq!((ids, reply.unusable), (vec!["a", "b"], 11));
    assert_eq!(reply.first_unusable.as_deref(), Some("members: expected objects, got 7"));
    assert_eq!(reply.members[0].location.as_str(), "us1", "the first of an identity stands");
    assert_eq!((reply.members[0].last_seen, reply.members[0].registered_at), (0, 0), "not said");
    assert_eq!(
        (reply.members[1].last_seen, reply.members[1].registered_at),
        (1_629_123_456, 0),
        "text; before the epoch"
    );
    assert_eq!(MembersReply::from_json(br#"{"members": []}"#).unwrap(), MembersReply::default());
    for (entries, first) in [
        (
            json!([good("a"), {"instance_id": "b", "location": "eu1", "ip": "fe80::1", "port": 1}]),
            "instance_id \"b\", location \"eu1\", ip: expected the IPv4 or IPv6 address of one host, got \"fe80::1\"; a \
          link-local address means nothing on another host",
        ),
        (json!([good("a"), good("a"), 7]), "instance_id \"a\" is listed twice"),
        (json!([{"location": "eu1"}]), "location \"eu1\", instance_id: missing: the identity of the member"),
    ] {
        let reply = MembersReply::from_json(json!({"members": entries}).to_string().as_bytes()).unwrap();
        assert_eq!(reply.first_unusable.as_deref(), Some(first));
    }
    for body in ["{}", r#"{"members": null}"#, r#"{"members": {"a": 1}}"#] {
        assert_eq!(MembersReply::from_json(body.as_bytes()).unwrap_err().field, "members", "{body}");
    }
}

#[test]
fn what_the_registry_says_has_the_documented_fields() {
    let id: InstanceId = "uuid-123".parse().unwrap();
    let member = Member {
        instance_id: id.clone(),
        location: "us1-k8s".parse().unwrap(),
        ip: [10, 1, 2, 3].into(),
        port: DEFAULT_PORT,
        last_seen: 1_629_123_456,
        registered_at: 1_629_120_000,
        status: (),
    };
    assert_eq!(
        serde_json::to_value(Members { members: vec![member] }).unwrap(),
        json!({"members": [{"instance_id": "uuid-123", "location": "us1-k8s", "ip": "10.1.2.3", "port": 8756,
            "last_seen": 1_629_123_456, "registered_at": 1_629_120_000, "status": "active"}]})
    );
    let registration = Registration {
        instance_id: None,
        location: "a".parse().unwrap(),
        ip: [10, 0, 0, 1].into(),
        port: DEFAULT_PORT,
    };
    assert_eq!(
        serde_json::to_value(registration).unwrap(),
        json!({"location": "a", "ip": "10.0.0.1", "port": 8756}),
        "an older registry takes no null"
    );
    assert_eq!(InstanceId::random().as_str().len(), 36);
    assert_ne!(InstanceId::random(), InstanceId::random());
}
