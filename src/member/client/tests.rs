use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Instant;

use super::*;
use crate::clock;

const TIMEOUT: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(20);

/// What the registry of a test does with one request.
enum Does {
    /// It answers at once.
    Answers(String),
    /// It answers after a while.
    AnswersAfter(Duration, String),
    /// It says nothing until the client goes away.
    KeepsSilent,
}

/// A registry that takes one request a connection, as many as there are things to do.
struct Registry {
    address: SocketAddr,
    thread: JoinHandle<()>,
    requests: Receiver<String>,
}

impl Registry {
    fn that(does: Vec<Does>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, requests) = channel();
        let thread = std::thread::spawn(move || {
            for what in does {
                let (stream, _) = listener.accept().unwrap();
                serve(stream, what, &sender);
            }
        });
        Self { address, thread, requests }
    }

    fn that_answers(answer: &str) -> Self {
        Self::that(vec![Does::Answers(answer.to_owned())])
    }

    fn client(&self, timeout: Duration) -> RegistryClient {
        let base = format!("http://{}", self.address);
        let addresses = Addresses::of("127.0.0.1", self.address.port(), &Vitals::new());
        RegistryClient::on(base, Arc::new(addresses), timeout)
    }

    /// Every request that came, as head and body, when all is done.
    fn requests(self) -> Vec<String> {
        self.thread.join().unwrap();
        self.requests.try_iter().collect()
    }

    /// The only request that came.
    fn request(self) -> String {
        let requests = self.requests();
        assert_eq!(requests.len(), 1, "{requests:?}");
        requests.into_iter().next().unwrap()
    }
}

fn serve(stream: TcpStream, what: Does, requests: &Sender<String>) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut reader = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        assert!(reader.read_line(&mut line).unwrap() > 0, "the client went away: {head}");
        if line == "\r\n" {
            break;
        }
        let line = line.to_lowercase();
        if let Some(bytes) = line.strip_prefix("content-length:") {
            length = bytes.trim().parse().unwrap();
        }
        head += &line;
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    requests.send(format!("{head}\n{}", String::from_utf8(body).unwrap())).unwrap();
    let answer = match what {
        Does::Answers(answer) => answer,
        Does::AnswersAfter(time, answer) => {
            std::thread::sleep(time);
            answer
        }
        Does::KeepsSilent => {
            // The end of the connection, however it ends.
            let _ = reader.read(&mut [0]);
            return;
        }
    };
    // The client may have given up.
    let _ = reader.get_mut().write_all(answer.as_bytes());
}

/// An answer with these lines between its first one and its body.
fn answer(status: u16, lines: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status} Whatever\r\n{lines}connection: close\r\ncontent-length: {length}\r\n\r\n{body}")
}

fn id(name: &str) -> InstanceId {
    name.parse().unwrap()
}

const ROSTER: &str = r#"{"members": [{"instance_id": "a", "location": "x", "ip": "10.0.0.1", "port": 8756}]}"#;

#[test]
fn a_redirected_post_is_an_error_that_names_the_other_address_and_is_not_sent_on() {
    for status in [301, 302, 303, 307, 308] {
        for to in ["http://127.0.0.1:9/heartbeat", "https://registry.example/heartbeat", "/elsewhere"] {
            let registry = Registry::that_answers(&answer(status, &format!("location: {to}\r\n"), ""));
            let error = registry.client(TIMEOUT).heartbeat(&id("me")).unwrap_err();
            assert_eq!(error, ClientError::Redirected { status, to: to.into() });
            let text = error.to_string();
            assert!(text.contains(to) && text.contains("member.registry.url"), "{text}");
            assert!(registry.request().starts_with("post /heartbeat http/1.1"), "one request, and no other");
        }
    }
    let registry = Registry::that_answers(&answer(302, "", ""));
    let error = registry.client(TIMEOUT).deregister(&id("me")).unwrap_err();
    assert!(matches!(error, ClientError::Refused { status: 302, .. }), "it does not say whereto: {error:?}");
}

#[test]
fn a_redirected_question_is_followed() {
    let moved = answer(302, "location: /moved/members\r\n", "");
    let registry = Registry::that(vec![Does::Answers(moved), Does::Answers(answer(200, "", ROSTER))]);
    let reply = registry.client(TIMEOUT).members(None, Duration::ZERO).unwrap();
    assert_eq!(reply.changed.unwrap().0.members.len(), 1);
    let requests = registry.requests();
    assert!(requests[1].starts_with("get /moved/members http/1.1"), "{requests:?}");
}

#[test]
fn a_registry_without_room_for_a_request_that_waits_says_429() {
    let busy = || Registry::that_answers(&answer(429, "", r#"{"error": "too many requests wait"}"#));
    let waiting = busy().client(TIMEOUT).members(Some("\"1\""), Duration::from_secs(30));
    assert_eq!(waiting.unwrap_err(), ClientError::NoRoom);
    let plain = busy().client(TIMEOUT).members(Some("\"1\""), Duration::ZERO).unwrap_err();
    assert_eq!(plain, ClientError::Refused { status: 429, message: "too many requests wait".into() });
    let post = busy().client(TIMEOUT).heartbeat(&id("me")).unwrap_err();
    assert!(matches!(post, ClientError::Refused { status: 429, .. }), "{post:?}");
}

#[test]
fn how_long_the_registry_may_keep_a_request_is_said_in_seconds() {
    for (wait, line) in [
        (Duration::ZERO, "get /members http/1.1"),
        (Duration::from_secs(30), "get /members?wait=30 http/1.1"),
        (Duration::from_millis(1_500), "get /members?wait=1.5 http/1.1"),
    ] {
        let registry = Registry::that_answers(&answer(200, "", ROSTER));
        registry.client(TIMEOUT).members(None, wait).unwrap();
        let request = registry.request();
        assert!(request.starts_with(line), "{request}");
        assert!(!request.contains("if-none-match"), "{request}");
    }
}

/// How long a request takes that fails.
fn fails_after(request: impl FnOnce() -> ClientError) -> Duration {
    let begun = clock::monotonic();
    let error = request();
    assert_eq!(error, ClientError::Unreachable("no answer within the time limit".into()));
    clock::monotonic() - begun
}

#[test]
fn a_request_that_is_kept_has_its_time_limit_on_top_of_the_wait() {
    let (timeout, wait) = (Duration::from_millis(300), Duration::from_millis(700));
    let late = Does::AnswersAfter(Duration::from_millis(600), answer(200, "", ROSTER));
    let registry = Registry::that(vec![late, Does::KeepsSilent, Does::KeepsSilent, Does::KeepsSilent]);
    let client = registry.client(timeout);
    assert!(client.members(None, wait).is_ok(), "an answer within the wait is in time");
    let took = fails_after(|| client.members(None, wait).unwrap_err());
    assert!(took >= wait + timeout && took < wait + timeout + PATIENCE / 2, "{took:?}");
    let took = fails_after(|| client.members(None, Duration::ZERO).unwrap_err());
    assert!(took >= timeout, "{took:?}");
    let took = fails_after(|| client.heartbeat(&id("me")).unwrap_err());
    assert!(took >= timeout, "{took:?}");
    assert_eq!(registry.requests().len(), 4);
}

#[test]
fn a_roster_comes_with_its_tag_and_its_age() {
    for (lines, etag, stale) in [
        ("", None, Some(Duration::ZERO)),
        ("etag: \"7\"\r\n", Some("\"7\""), Some(Duration::ZERO)),
        ("netring-stale: 90\r\n", None, Some(Duration::from_secs(90))),
        ("netring-stale: long\r\n", None, None),
    ] {
        let registry = Registry::that_answers(&answer(200, lines, ROSTER));
        let reply = registry.client(TIMEOUT).members(None, Duration::ZERO).unwrap();
        let (roster, tag) = reply.changed.unwrap();
        assert_eq!((roster.members.len(), tag.as_deref(), reply.stale), (1, etag, stale), "{lines}");
        registry.requests();
    }
}

#[test]
fn a_roster_that_has_not_changed_is_confirmed_only_where_it_was_asked_about() {
    let unchanged = || Registry::that_answers(&answer(304, "netring-stale: 5\r\n", ""));
    let registry = unchanged();
    let reply = registry.client(TIMEOUT).members(Some("\"7\""), Duration::ZERO).unwrap();
    assert_eq!(reply, RosterReply { changed: None, stale: Some(Duration::from_secs(5)) });
    assert!(registry.request().contains("if-none-match: \"7\""));
    let unasked = unchanged().client(TIMEOUT).members(None, Duration::ZERO).unwrap_err();
    assert!(matches!(unasked, ClientError::Refused { status: 304, .. }), "{unasked:?}");
}

#[test]
fn a_404_on_a_heartbeat_is_the_registrys_own_only_where_it_says_why() {
    let says = |body: &str| Registry::that_answers(&answer(404, "", body)).client(TIMEOUT).heartbeat(&id("me"));
    assert_eq!(says(r#"{"error": "no such member"}"#), Ok(Heartbeat::Unknown));
    let proxy = says("<html>not found</html>").unwrap_err();
    assert!(matches!(proxy, ClientError::Refused { status: 404, .. }), "{proxy:?}");
}

#[test]
fn a_text_from_outside_is_short_and_on_one_line() {
    let long = format!(r#"{{"error": "one\ntwo\u001b[31m {}"}}"#, "x".repeat(5_000));
    let registry = Registry::that_answers(&answer(500, "", &long));
    let ClientError::Refused { message, .. } = registry.client(TIMEOUT).heartbeat(&id("me")).unwrap_err() else {
        panic!("it was refused")
    };
    assert!(message.starts_with("one two [31m x") && message.len() == 300, "{message}");
}

#[test]
fn a_shutdown_breaks_off_a_request_that_is_kept_and_another_client_of_the_registry_goes_on() {
    let registry = Registry::that(vec![Does::KeepsSilent, Does::Answers(answer(200, "", "{}"))]);
    let kept = registry.client(TIMEOUT);
    let other = kept.with_timeout(TIMEOUT);
    let asking = kept.clone();
    let begun: Instant = clock::monotonic();
    let thread = std::thread::spawn(move || asking.members(None, Duration::from_secs(60)));
    let request = registry.requests.recv_timeout(PATIENCE).unwrap();
    assert!(request.starts_with("get /members?wait=60 "), "{request}");
    kept.shutdown();
    assert!(matches!(thread.join().unwrap(), Err(ClientError::Unreachable(_))));
    assert!(clock::monotonic() - begun < PATIENCE);
    assert_eq!(other.heartbeat(&id("me")), Ok(Heartbeat::Renewed));
    assert!(kept.heartbeat(&id("me")).is_err(), "every later request fails");
    registry.requests();
}

#[test]
fn connections_are_counted_when_they_are_made_and_not_when_they_are_used_again() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        // Two requests on the first connection, one on the second.
        for requests in [2, 1] {
            let (stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut reader = BufReader::new(stream);
            for _ in 0..requests {
                let mut line = String::new();
                while line != "\r\n" {
                    line.clear();
                    assert!(reader.read_line(&mut line).unwrap() > 0);
                }
                let empty = r#"{"members": []}"#;
                let text = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{empty}", empty.len());
                reader.get_mut().write_all(text.as_bytes()).unwrap();
            }
        }
    });
    let addresses = Addresses::of("127.0.0.1", address.port(), &Vitals::new());
    let client = RegistryClient::on(format!("http://{address}"), Arc::new(addresses), TIMEOUT);
    assert_eq!(client.connections(), 0);
    for _ in 0..2 {
        client.members(None, Duration::ZERO).unwrap();
        assert_eq!(client.clone().connections(), 1);
    }
    let other = client.with_timeout(TIMEOUT);
    other.members(None, Duration::ZERO).unwrap();
    assert_eq!((client.connections(), other.connections()), (1, 1), "each has its own");
    thread.join().unwrap();
}
