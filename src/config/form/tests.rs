use std::net::IpAddr;
use std::num::NonZeroU16;

use super::super::settings::RegistryUrl;
use super::network::{Address, AdvertiseIp, AdvertisePort, Endpoint, HostOrSocket, Network, PortSource, Statuses, Url};
use super::text::{FilePath, Level, LocationName, SecretText};
use super::*;
use proptest::prelude::*;

fn node(content: Content) -> Node {
    Node { at: Position::default(), content }
}

fn number(text: &str) -> Node {
    node(Content::Number(text.into()))
}

fn text(text: &str) -> Node {
    node(Content::Text(text.into()))
}

fn bare(text: &str) -> Node {
    node(Content::Bare(text.into()))
}

fn problem<T: std::fmt::Debug>(form: &dyn Form<T>, node: &Node) -> String {
    let wrongs = form.read(node).unwrap_err();
    assert_eq!(wrongs.len(), 1);
    wrongs.into_iter().next().unwrap().problem
}

const TIME: Time = Time { from: Duration::from_millis(100), to: Duration::from_secs(86_400) };

#[test]
fn times_are_seconds_or_have_a_unit() {
    for (given, millis) in [
        (number("5"), 5_000),
        (number("0.25"), 250),
        (number("86400"), 86_400_000),
        (text("250ms"), 250),
        (text("5s"), 5_000),
        (text("1.5h"), 5_400_000),
        (text("2m"), 120_000),
        (text("1d"), 86_400_000),
        (bare("5"), 5_000),
        (bare("5s"), 5_000),
    ] {
        assert_eq!(TIME.read(&given).unwrap(), Duration::from_millis(millis), "{given:?}");
    }
    for given in ["0", "-1", "0.09", "86400.1", "1e1", ".5", "5.", "0x10", "+5", ".inf", "99999999999999999999"] {
        assert!(TIME.read(&number(given)).is_err(), "{given}");
    }
    for given in ["5", "5 s", "s", "5S", "1h30m", "-1s", "1.s", "2d", "99ms", "five"] {
        assert!(TIME.read(&text(given)).is_err(), "{given}");
    }
    assert!(problem(&TIME, &text("5")).contains("a text needs a unit"));
    assert!(problem(&TIME, &node(Content::Null)).ends_with("got nothing"));
}

#[test]
fn whole_numbers_keep_to_their_range_and_kind() {
    let port: &dyn Form<NonZeroU16> = &Whole { from: 1, to: 65_535 };
    for given in [number("1"), number("65535"), bare("8756")] {
        assert!(port.read(&given).is_ok(), "{given:?}");
    }
    for given in [number("0"), number("65536"), number("-1"), number("1.0"), number("0x10"), text("x"), bare("tcp://")]
    {
        assert!(port.read(&given).is_err(), "{given:?}");
    }
    assert!(problem(port, &text("8756")).ends_with("without quotes"));
}

#[test]
fn a_number_is_no_text_until_it_is_quoted() {
    assert!(problem(&LocationName, &number("12")).ends_with("got the number 12; as a text it needs quotes: \"12\""));
    assert!(problem(&LocationName, &node(Content::Bool("true".into()))).contains("needs quotes: \"true\""));
    assert_eq!(LocationName.read(&bare("12")).unwrap().as_str(), "12");
    assert!(problem(&LocationName, &text("")).contains("got an empty text"));
}

#[test]
fn addresses_are_addresses() {
    for (given, meant) in [
        ("0.0.0.0", "0.0.0.0"),
        ("::", "::"),
        ("2001:db8::1", "2001:db8::1"),
        ("::ffff:10.9.0.1", "10.9.0.1"),
        ("::ffff:0.0.0.0", "0.0.0.0"),
    ] {
        assert_eq!(Address.read(&text(given)).unwrap(), meant.parse::<IpAddr>().unwrap());
    }
    assert!(problem(&Address, &text("localhost")).contains("127.0.0.1"));
    assert!(problem(&Address, &text("[::1]")).contains("without brackets"));
    for given in ["auto", "env:POD_IP", "10.1.2.3", "::1", "::ffff:10.0.0.1"] {
        assert!(AdvertiseIp.read(&text(given)).is_ok(), "{given}");
    }
    for given in ["0.0.0.0", "::", "255.255.255.255", "224.0.0.1", "env:", "env:A B", "Auto", "host"] {
        assert!(AdvertiseIp.read(&text(given)).is_err(), "{given}");
    }
    assert!(problem(&AdvertiseIp, &text("fe80::1")).ends_with("a link-local address means nothing on another host"));
}

#[test]
fn a_port_to_register_is_a_number_or_the_name_of_a_variable() {
    let port = |port: u16| PortSource::Port(port.try_into().unwrap());
    for (given, meant) in [
        (number("8757"), port(8757)),
        (bare("65535"), port(65_535)),
        (text("env:HOST_PORT"), PortSource::Variable("HOST_PORT".into())),
        (bare("env:P"), PortSource::Variable("P".into())),
    ] {
        assert_eq!(AdvertisePort.read(&given).unwrap(), meant);
        assert_eq!(AdvertisePort.read(&bare(&AdvertisePort.show(&meant))).unwrap(), meant, "as it is shown");
    }
    let wrong = |given: &Node| problem(&AdvertisePort, given);
    let expected = "expected env:NAME or a whole number from 1 to 65535, got ";
    assert_eq!(wrong(&number("0")), format!("{expected}the number 0"));
    assert_eq!(wrong(&text("8757")), format!("{expected}the text \"8757\"; as a number it stands without quotes"));
    for given in [text("env:"), text("env:A B"), text("auto"), bare("tcp://"), number("70000"), number("1.5")] {
        assert!(wrong(&given).starts_with(expected), "{given:?}");
    }
}

#[test]
fn sizes_are_bytes_or_have_a_unit() {
    let form = Size { from: 1024, to: 1024 * 1024 };
    for (given, bytes, shown) in [
        (number("1024"), 1024, "1KiB"),
        (number("1500"), 1500, "1500"),
        (text("16KiB"), 16 * 1024, "16KiB"),
        (text("1MiB"), 1024 * 1024, "1MiB"),
        (text("1024KiB"), 1024 * 1024, "1MiB"),
        (bare("2048"), 2048, "2KiB"),
        (bare("16KiB"), 16 * 1024, "16KiB"),
    ] {
        assert_eq!(form.read(&given), Ok(bytes), "{given:?}");
        assert_eq!(form.show(&bytes), shown);
        assert_eq!(form.read(&bare(shown)), Ok(bytes), "as it is shown");
    }
    for given in ["1023", "1048577", "-1", "1.5", "1e4", "99999999999999999999"] {
        assert!(form.read(&number(given)).is_err(), "{given}");
    }
    for given in ["16", "16 KiB", "KiB", "16k", "16KB", "1.5MiB", "2MiB", "99999999999999999MiB", "-1KiB"] {
        assert!(form.read(&text(given)).is_err(), "{given}");
    }
    let expected = "expected a size from 1KiB to 1MiB, in bytes or with its unit (16KiB, 1MiB), got ";
    assert_eq!(problem(&form, &text("16KB")), format!("{expected}the text \"16KB\""));
    assert!(problem(&form, &text("4096")).ends_with("a text needs a unit"));
}

#[test]
fn a_host_is_a_name_an_address_or_a_socket() {
    for given in ["localhost", "redis.us1.company.com", "netring_redis", "a.", "10.1.2.3", "::1", "/run/redis.sock"] {
        assert_eq!(HostOrSocket.read(&text(given)).unwrap(), given);
    }
    assert_eq!(HostOrSocket.read(&text("::ffff:10.1.2.3")).unwrap(), "10.1.2.3");
    for given in ["", "a b", "-a", "a..b", ".", "256.1.1.1", "1.2.3", &"a".repeat(64), &format!("/{}", "s".repeat(107))]
    {
        assert!(HostOrSocket.read(&text(given)).is_err(), "{given}");
    }
    assert!(problem(&HostOrSocket, &text("redis:6379")).contains("port has a key of its own"));
    assert!(problem(&HostOrSocket, &text("redis://r")).contains("without a scheme"));
    assert!(!problem(&HostOrSocket, &text("redis://:hunter2@r:6379")).contains("hunter2"));
}

#[test]
fn a_registry_url_is_taken_apart_and_loses_its_last_slash() {
    for (given, base, host, port) in [
        ("http://localhost:8756", "http://localhost:8756", "localhost", 8756),
        ("HTTP://r.example/", "http://r.example", "r.example", 80),
        ("http://[2001:db8::1]:8756/ring//", "http://[2001:db8::1]:8756/ring", "2001:db8::1", 8756),
        ("http://10.0.0.1/a%20b", "http://10.0.0.1/a%20b", "10.0.0.1", 80),
        ("http://[::ffff:10.9.0.1]:8756/ring", "http://10.9.0.1:8756/ring", "10.9.0.1", 8756),
        ("http://[2001:DB8:0::1]", "http://[2001:db8::1]", "2001:db8::1", 80),
    ] {
        let url: RegistryUrl = given.parse().unwrap();
        assert_eq!(url, RegistryUrl { base: base.into(), host: host.into(), port });
    }
    for given in [
        "",
        "localhost",
        "localhost:8756",
        "ftp://r",
        "http://",
        "http://:80",
        "http://r:",
        "http://r:0",
        "http://r:70000",
        "http://r:+80",
        "http://r?x",
        "http://r/#x",
        "http://a b",
        "http://r/a b",
        "http://[::1",
        "http://[x]:80",
        "http://[::1]x",
        "http://::1",
        "http://r:80:90",
        "http://r/\u{e9}",
        "http://r\n",
    ] {
        assert!(given.parse::<RegistryUrl>().is_err(), "{given:?}");
    }
    let text = |given: &str| given.parse::<RegistryUrl>().unwrap_err().to_string();
    assert!(text("https://r").contains("TLS is not built in yet"));
    assert!(text("http://::1").contains("[::1]"));
    assert!(!text("http://user:hunter2@r").contains("hunter2"));
    assert!(problem(&Url, &number("12")).contains("quotes"));
}

#[test]
fn networks_have_no_host_bits() {
    for (given, meant) in [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:10.1.2.3/128", "10.1.2.3/32"),
        ("::ffff:0.0.0.0/96", "0.0.0.0/0"),
        ("::/0", "::/0"),
    ] {
        assert_eq!(Network.read(&text(given)).unwrap().to_string(), meant);
    }
    assert!(problem(&Network, &text("10.1.2.3/8")).ends_with("is 10.0.0.0/8"));
    assert!(problem(&Network, &text("10.1.2.3")).ends_with("is 10.1.2.3/32"));
    assert!(Network.read(&text("10.0.0.0/33")).is_err());
}

#[test]
fn endpoints_are_what_http_can_ask_for() {
    for given in ["/", "/health", "/a?b=c", "/a%20b"] {
        assert!(Endpoint.read(&text(given)).is_ok(), "{given}");
    }
    for given in ["", "health", "/a b", "/a#b", "/\u{e9}", "/a\tb", &format!("/{}", "a".repeat(1024))] {
        assert!(Endpoint.read(&text(given)).is_err(), "{given}");
    }
}

#[test]
fn lists_name_each_faulty_item() {
    let list = List { item: &Endpoint, most: 3 };
    assert_eq!(list.read(&bare("/a, /b")).unwrap(), ["/a", "/b"]);
    assert_eq!(list.read(&bare("")).unwrap(), [""; 0]);
    let items = |items: &[&str]| node(Content::List(items.iter().map(|item| text(item)).collect()));
    assert_eq!(list.read(&items(&[])).unwrap(), [""; 0]);
    let wrong: Vec<_> = list.read(&items(&["/a", "b", "/a"])).unwrap_err().iter().map(|wrong| wrong.item).collect();
    assert_eq!(wrong, [Some(1), Some(2)]);
    assert!(problem(&list, &items(&["/a", "/b", "/c", "/d"])).ends_with("got a list of 4"));
    assert!(list.read(&text("/a")).is_err());
}

#[test]
fn statuses_are_codes_and_ranges() {
    let list = node(Content::List(vec![text("200-299"), number("304")]));
    assert_eq!(Statuses.read(&list).unwrap().0, [(200, 299), (304, 304)]);
    assert_eq!(Statuses.read(&number("200")).unwrap().0, [(200, 200)]);
    assert_eq!(Statuses.read(&bare("200-299,304")).unwrap().0, [(200, 299), (304, 304)]);
    for given in ["", "99", "600", "300-200", "200-", "-200", "2xx", "200,,300", "+200"] {
        assert!(Statuses.read(&text(given)).is_err(), "{given}");
    }
    assert!(Statuses.read(&node(Content::List(Vec::new()))).is_err());
}

#[test]
fn a_log_level_that_is_none_is_shown_with_what_is_expected() {
    assert_eq!(Level.show(&Level.read(&text("WARNING, netring::member=Debug")).unwrap()), "warn,netring::member=debug");
    assert_eq!(
        problem(&Level, &text("info,inof")),
        "expected off, error, warn, info, debug or trace, alone or for parts of the program (info,netring::member=debug), \
         got \"inof\""
    );
}

#[test]
fn a_secret_is_never_shown_when_it_is_wrong() {
    for given in [number("424242"), text(&"424242".repeat(1000))] {
        assert!(!problem(&SecretText, &given).contains("424242"));
    }
    assert!(SecretText.read(&text("")).is_err());
    assert!(FilePath.read(&text("relative")).is_err());
}

proptest! {
    #[test]
    fn every_time_is_shown_as_it_can_be_read(nanos in 100_000_000_u64..86_400_000_000_000) {
        let value = Duration::from_nanos(nanos);
        prop_assert_eq!(TIME.read(&text(&TIME.show(&value))), Ok(value));
    }

    #[test]
    fn every_url_that_is_read_is_read_again(
        host in "[a-z]{1,5}(\\.[a-z]{1,3})?|\\[::[1-9]\\]|10\\.0\\.0\\.1",
        port in "(:[1-9][0-9]{0,3})?",
        path in "(/[a-z/]{0,9})?",
    ) {
        let url: RegistryUrl = format!("http://{host}{port}{path}").parse().unwrap();
        prop_assert_eq!(&url.host, host.trim_matches(['[', ']']));
        prop_assert!(!url.base.ends_with('/'));
        prop_assert_eq!(url.base.parse(), Ok(url));
    }

    #[test]
    fn no_text_makes_a_form_panic(given in "\\PC*") {
        for given in [text(&given), bare(&given), number(&given)] {
            let _ = (TIME.read(&given), Url.read(&given), Statuses.read(&given), HostOrSocket.read(&given));
            let _ = (Network.read(&given), Level.read(&given), Endpoint.read(&given), AdvertiseIp.read(&given));
            let _ = (AdvertisePort.read(&given), Size { from: 1, to: 9 }.read(&given));
        }
    }
}
