//! The server on real sockets, with clients that behave and clients that do not.

use std::io::{BufRead, BufReader, Read};
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;
use crate::host::vitals::Vitals;

/// Far more than any of this takes, so that a failure is a failure and not a slow machine.
const PATIENCE: Duration = Duration::from_secs(20);

struct Server {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    run: JoinHandle<Drained>,
}

/// Sets a flag when it goes: a handler's future holds one to tell when it was dropped.
struct Flag(Arc<AtomicBool>);

impl Drop for Flag {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn limits() -> Limits {
    Limits { head_time: PATIENCE, body_time: PATIENCE, write_time: PATIENCE, ..Limits::default() }
}

fn start(limits: Limits) -> Server {
    start_watched(limits, Arc::default())
}

fn start_watched(limits: Limits, dropped: Arc<AtomicBool>) -> Server {
    let (late_flag, kept_flag) = (dropped.clone(), dropped.clone());
    let late = warp::path!("late" / u64).map(move |milliseconds| {
        let flag = Flag(late_flag.clone());
        later(move || async move {
            sleep(Duration::from_millis(milliseconds)).await;
            drop(flag);
            let mut response = "late".into_response();
            let _ = response.extensions_mut().insert(Waited);
            response
        })
    });
    let late_large = warp::path!("late-large").map(|| later(|| async { vec![b'y'; 32 << 20].into_response() }));
    let late_panic = warp::path!("late-panic").map(|| {
        later(|| async {
            sleep(Duration::from_millis(1)).await;
            std::hint::black_box(None::<Response>).expect("a handler that panics late, on purpose")
        })
    });
    let ok = warp::path!("ok").and(get()).map(|| "ok");
    let peer = warp::path!("peer").and(warp::ext::optional::<Peer>()).map(|p: Option<Peer>| format!("{p:?}"));
    let slow = warp::path!("slow" / u64).and_then(move |milliseconds| {
        let flag = Flag(dropped.clone());
        async move {
            sleep(Duration::from_millis(milliseconds)).await;
            drop(flag);
            Ok::<_, warp::Rejection>("slept")
        }
    });
    let echo = warp::path!("echo").and(post()).and(body(&limits)).map(|body: Bytes| body.to_vec());
    let large = warp::path!("large").map(|| vec![b'x'; 32 << 20]);
    let panic = warp::path!("panic").map(|| -> &'static str { panic!("a handler that panics, on purpose") });
    let waited = warp::path!("waited").map(|| {
        let mut response = "waited".into_response();
        let _ = response.extensions_mut().insert(Waited);
        response
    });
    let late_kept = warp::path!("late-kept").map(move || {
        let flag = Flag(kept_flag.clone());
        later(move || async move {
            let mut response = vec![b'z'; 32 << 20].into_response();
            until_sent(&mut response, flag);
            response
        })
    });
    let late = late.or(late_kept).unify().or(late_large).unify().or(late_panic).unify();
    let routes = ok.or(late).or(waited).or(peer).or(slow).or(echo).or(large).or(panic).recover(recover);

    let listener = bind(Ipv4Addr::LOCALHOST.into(), 0).unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let stopped = async {
        let _ = stopped.await;
    };
    let run = tokio::spawn(run(listener, routes, limits, None, stopped));
    Server { address, stop: Some(stop), run }
}

impl Server {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Opens a connection, sends `bytes`, and leaves it open.
    async fn send(&self, bytes: &str) -> TcpStream {
        let mut client = self.connect().await;
        client.write_all(bytes.as_bytes()).await.unwrap();
        client
    }

    /// One request as a client that closes after it; the whole answer.
    async fn get(&self, path: &str) -> String {
        let mut client = self.send(&format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).await;
        rest(&mut client).await
    }

    async fn stop(mut self) -> (Drained, Duration) {
        let start = clock::monotonic();
        let _ = self.stop.take().unwrap().send(());
        let drained = timeout(PATIENCE, self.run).await.unwrap().unwrap();
        (drained, clock::monotonic() - start)
    }
}

/// Everything up to the end of the connection; a reset ends it too.
async fn rest(client: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let mut buffer = [0; 65536];
    loop {
        match timeout(PATIENCE, client.read(&mut buffer)).await.expect("the connection to end") {
            Ok(0) | Err(_) => return String::from_utf8(text).unwrap(),
            Ok(n) => text.extend_from_slice(&buffer[..n]),
        }
    }
}

/// Reads until `wanted` has come `times` times.
async fn read_until(client: &mut TcpStream, wanted: &str, times: usize) -> String {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    while text.matches(wanted).count() < times {
        let n = timeout(PATIENCE, client.read(&mut buffer)).await.expect(wanted).unwrap();
        assert!(n > 0, "the connection ended after {text:?}");
        text.push_str(std::str::from_utf8(&buffer[..n]).unwrap());
    }
    text
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = clock::monotonic() + PATIENCE;
    while !holds() {
        assert!(clock::monotonic() < deadline, "{what}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// How long the server takes to close a connection on which `bytes` were sent, and its last words.
async fn time_to_close(server: &Server, bytes: &str) -> (String, Duration) {
    let start: Instant = clock::monotonic();
    let mut client = server.send(bytes).await;
    let words = rest(&mut client).await;
    (words, clock::monotonic() - start)
}

#[tokio::test]
async fn a_handler_learns_who_asks() {
    let server = start(limits());
    let mut client = server.send("GET /peer HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    let own = client.local_addr().unwrap();
    let answer = rest(&mut client).await;
    assert!(answer.ends_with(&format!("Some(Peer {{ address: {own} }})")), "{answer}");
}

#[tokio::test]
async fn an_ipv4_client_of_a_dual_stack_listener_has_an_ipv4_address() {
    let listener = bind("::".parse().unwrap(), 0).unwrap();
    let port = listener.local_addr().unwrap().port();
    let routes = warp::ext::optional::<Peer>().map(|p: Option<Peer>| format!("{}", p.unwrap().address.ip()));
    let run = tokio::spawn(run(listener, routes, limits(), None, std::future::pending()));
    for (address, shown) in [("127.0.0.1", "\r\n\r\n127.0.0.1"), ("::1", "\r\n\r\n::1")] {
        let mut client = TcpStream::connect((address, port)).await.unwrap();
        client.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
        let answer = rest(&mut client).await;
        assert!(answer.ends_with(shown), "{answer}");
    }
    run.abort();
}

#[tokio::test]
async fn a_kept_alive_connection_serves_many_requests_and_pipelined_ones_in_order() {
    let server = start(limits());
    let mut client = server.connect().await;
    for _ in 0..3 {
        client.write_all(b"GET /ok HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        read_until(&mut client, "\r\n\r\nok", 1).await;
    }
    let request = |path| format!("GET /{path} HTTP/1.1\r\nhost: x\r\n\r\n");
    let pipeline = request("slow/20") + &request("ok") + &request("nowhere");
    client.write_all(pipeline.as_bytes()).await.unwrap();
    let answers = read_until(&mut client, "no such path", 1).await;
    let at = |text| answers.find(text).unwrap_or_else(|| panic!("{text} in {answers}"));
    assert!(at("\r\n\r\nslept") < at("\r\n\r\nok"));
}

#[tokio::test]
async fn a_head_that_never_comes_or_never_ends_is_given_its_time_and_no_more() {
    let server = start(Limits { head_time: Duration::from_millis(300), ..limits() });
    for bytes in ["", "GET /ok HTTP/1.1\r\nhost: x\r\nx-slow: "] {
        let (_, took) = time_to_close(&server, bytes).await;
        assert!(took >= Duration::from_millis(290) && took < PATIENCE / 2, "{bytes:?}: {took:?}");
    }
}

#[tokio::test]
async fn a_head_sent_byte_by_byte_gets_no_more_time_than_any_other() {
    let server = start(Limits { head_time: Duration::from_millis(300), ..limits() });
    let mut client = server.send("GET /ok HTTP/1.1\r\nx-slow: ").await;
    let start = clock::monotonic();
    while client.write_all(b"x").await.is_ok() {
        assert!(clock::monotonic() - start < PATIENCE / 2, "still open");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_head_too_large_or_no_http_at_all_is_answered_and_closed() {
    let server = start(limits());
    let long = format!("GET /ok HTTP/1.1\r\nhost: x\r\nx-long: {}\r\n\r\n", "a".repeat(40_000));
    assert!(time_to_close(&server, &long).await.0.starts_with("HTTP/1.1 431 "));
    let endless = format!("GET /ok HTTP/1.1\r\nhost: x\r\nx-endless: {}", "a".repeat(40_000));
    assert!(time_to_close(&server, &endless).await.0.starts_with("HTTP/1.1 431 "));
    let many = format!("GET /ok HTTP/1.1\r\nhost: x\r\n{}\r\n", "a: b\r\n".repeat(101));
    assert!(time_to_close(&server, &many).await.0.starts_with("HTTP/1.1 431 "));
    assert!(time_to_close(&server, "hello, is this the registry?\r\n\r\n").await.0.starts_with("HTTP/1.1 400 "));
}

#[tokio::test]
async fn a_body_may_be_as_large_as_the_limit_and_no_larger_however_it_is_sent() {
    let server = start(Limits { body_bytes: 1000, ..limits() });
    let close = "host: x\r\nconnection: close\r\n";
    let plain = |n: usize| format!("POST /echo HTTP/1.1\r\n{close}content-length: {n}\r\n\r\n{}", "b".repeat(n));
    let chunked = |n: usize| {
        let chunk = format!("64\r\n{}\r\n", "b".repeat(100));
        format!("POST /echo HTTP/1.1\r\n{close}transfer-encoding: chunked\r\n\r\n{}0\r\n\r\n", chunk.repeat(n / 100))
    };
    for request in [plain(1000), chunked(1000)] {
        let (answer, _) = time_to_close(&server, &request).await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with(&"b".repeat(1000)), "{answer}");
    }
    for request in [plain(1001), chunked(1100), chunked(400_000)] {
        let (answer, _) = time_to_close(&server, &request).await;
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
        assert!(answer.ends_with(r#"{"error":"the body is larger than 1000 bytes"}"#), "{answer}");
    }
}

#[tokio::test]
async fn a_body_that_stalls_is_answered_with_408() {
    let server = start(Limits { body_time: Duration::from_millis(200), ..limits() });
    for head in ["content-length: 10", "transfer-encoding: chunked"] {
        let request = format!("POST /echo HTTP/1.1\r\nhost: x\r\n{head}\r\n\r\n");
        let (answer, took) = time_to_close(&server, &request).await;
        assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains(r#"{"error":"the body did not"#), "{answer}");
        assert!(took >= Duration::from_millis(190), "{took:?}");
    }
}

#[tokio::test]
async fn a_panic_in_a_handler_is_a_500_and_the_others_do_not_notice() {
    let server = start(limits());
    let answer = server.get("/panic").await;
    assert!(answer.starts_with("HTTP/1.1 500 ") && answer.contains(r#"{"error":"#), "{answer}");
    assert!(server.get("/ok").await.ends_with("ok"));
}

#[tokio::test]
async fn two_thousand_idle_clients_do_not_shut_out_another() {
    let server = start(Limits { connections: 256, ..limits() });
    let mut idle = Vec::new();
    for n in 0..2000 {
        let bytes = match n % 3 {
            0 => "",
            1 => "GET /ok HTTP/1.1\r\nx-slow: ",
            _ => "POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nhalf",
        };
        // Once the cap is reached the server closes some of these while they write.
        let mut client = server.connect().await;
        let _ = client.write_all(bytes.as_bytes()).await;
        idle.push(client);
    }
    for _ in 0..20 {
        let start = clock::monotonic();
        assert!(server.get("/ok").await.ends_with("ok"));
        assert!(clock::monotonic() - start < Duration::from_secs(1), "{:?}", clock::monotonic() - start);
    }
}

#[tokio::test]
async fn beyond_the_cap_on_idle_connections_an_answer_ends_its_own_unless_the_client_had_to_wait() {
    let server = start(Limits { idle: 2, ..limits() });
    let mut idle = [server.connect().await, server.connect().await];
    for client in &mut idle {
        client.write_all(b"GET /ok HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let answer = read_until(client, "ok", 1).await;
        assert!(!answer.contains("connection: close"), "there is room: {answer}");
    }
    let mut other = server.connect().await;
    other.write_all(b"GET /waited HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let answer = read_until(&mut other, "\r\n\r\nwaited", 1).await;
    assert!(!answer.contains("connection: close"), "{answer}");
    other.write_all(b"GET /ok HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let answer = rest(&mut other).await;
    assert!(answer.contains("connection: close\r\n") && answer.ends_with("ok"), "{answer}");
    drop(idle);
}

#[tokio::test]
async fn clients_that_stall_in_their_bodies_do_not_shut_out_another() {
    let server = start(Limits { connections: 4, ..limits() });
    let mut stalled = Vec::new();
    for _ in 0..8 {
        let request = "POST /echo HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 10\r\n\r\n";
        let mut client = server.send(request).await;
        // The server asks for the body once the handler reads it.
        read_until(&mut client, "HTTP/1.1 100 ", 1).await;
        stalled.push(client);
    }
    let begin = clock::monotonic();
    assert!(server.get("/ok").await.ends_with("ok"));
    assert!(clock::monotonic() - begin < Duration::from_secs(1), "{:?}", clock::monotonic() - begin);
}

#[tokio::test]
async fn a_client_that_still_sends_what_was_refused_can_read_why() {
    let server = start(limits());
    let mut client = server.send("POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n").await;
    for _ in 0..10 {
        client.write_all(&[b'b'; 1000]).await.expect("no reset while the client sends");
        sleep(Duration::from_millis(5)).await;
    }
    client.shutdown().await.unwrap();
    assert!(rest(&mut client).await.starts_with("HTTP/1.1 413 "));
}

#[tokio::test]
async fn a_request_that_is_being_served_is_not_evicted_and_waiting_ones_are_served_after_it() {
    let server = start(Limits { connections: 2, ..limits() });
    let mut served = Vec::new();
    for _ in 0..2 {
        served.push(server.send("GET /slow/400 HTTP/1.1\r\nhost: x\r\n\r\n").await);
    }
    sleep(Duration::from_millis(100)).await;
    let start = clock::monotonic();
    assert!(server.get("/ok").await.ends_with("ok"));
    let took = clock::monotonic() - start;
    assert!(took >= Duration::from_millis(200), "served beside two at a cap of two: {took:?}");
    for mut client in served {
        read_until(&mut client, "\r\n\r\nslept", 1).await;
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answer_is_cut_off() {
    let server = start(Limits { write_time: Duration::from_millis(300), ..limits() });
    let mut client = server.send("GET /large HTTP/1.1\r\nhost: x\r\n\r\n").await;
    sleep(Duration::from_millis(900)).await;
    let received = rest(&mut client).await.len();
    assert!(received < 32 << 20, "all of it was sent");
}

#[tokio::test]
async fn a_client_that_reads_its_large_answer_gets_all_of_it() {
    let server = start(limits());
    assert!(server.get("/large").await.len() > 32 << 20);
}

#[tokio::test]
async fn a_long_poll_outlasts_the_limits_on_what_clients_do() {
    let short = Duration::from_millis(100);
    let server = start(Limits { head_time: short, body_time: short, write_time: short, ..Limits::default() });
    assert!(server.get("/slow/600").await.ends_with("slept"));
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_handler() {
    for path in ["slow", "late"] {
        let dropped = Arc::new(AtomicBool::new(false));
        let server = start_watched(limits(), dropped.clone());
        let client = server.send(&format!("GET /{path}/60000 HTTP/1.1\r\nhost: x\r\n\r\n")).await;
        sleep(Duration::from_millis(100)).await;
        assert!(!dropped.load(Ordering::SeqCst), "{path}");
        drop(client);
        eventually("the handler to end", || dropped.load(Ordering::SeqCst)).await;
    }
}

#[tokio::test]
async fn an_answer_that_comes_later_is_like_any_other_to_the_client() {
    let server = start(limits());
    let mut client = server.connect().await;
    for (method, path, ends) in [("GET", "/late/50", "late"), ("GET", "/ok", "ok"), ("GET", "/late/0", "late")] {
        client.write_all(format!("{method} {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
        let answer = read_until(&mut client, &format!("\r\n\r\n{ends}"), 1).await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && !answer.contains("connection"), "{answer}");
        assert!(
            answer.contains(&format!("content-length: {}\r\n", ends.len())) && answer.contains("date: "),
            "{answer}"
        );
    }
    client.write_all(b"HEAD /late/10 HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let answer = read_until(&mut client, "\r\n\r\n", 1).await;
    assert!(answer.contains("content-length: 4\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
    client.write_all(b"GET /late/10 HTTP/1.1\r\nhost: x\r\nConnection: Close\r\n\r\n").await.unwrap();
    let answer = rest(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("connection: close"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nlate"), "the HEAD before it had no body: {answer}");
    let mut old = server.send("GET /late/10 HTTP/1.0\r\n\r\n").await;
    assert!(rest(&mut old).await.ends_with("\r\n\r\nlate"));
    let body = "GET /late/10 HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\nconnection: close\r\n\r\nabc";
    assert!(time_to_close(&server, body).await.0.ends_with("\r\n\r\nlate"), "one with a body");
}

#[tokio::test]
async fn requests_sent_behind_one_that_waits_are_answered_after_it_and_in_order() {
    let server = start(limits());
    let request = |path: &str| format!("GET /{path} HTTP/1.1\r\nhost: x\r\n\r\n");
    let echo = "POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\nconnection: close\r\n\r\necho";
    let requests = ["ok", "late/100", "ok", "late/100", "late/0", "nowhere"].map(request).concat() + echo;
    let mut client = server.send(&requests).await;
    let answers = rest(&mut client).await;
    let bodies: Vec<&str> = answers.split("\r\n\r\n").skip(1).collect();
    let begins = ["ok", "late", "ok", "late", "late", "{\"error", "echo"];
    assert_eq!(bodies.len(), begins.len(), "{answers}");
    for (body, begin) in bodies.iter().zip(begins) {
        assert!(body.starts_with(begin), "{begin} in {answers}");
    }

    // The same, but while the first waits; the end of what is sent comes in pieces.
    let mut client = server.send(&request("late/100")).await;
    sleep(Duration::from_millis(30)).await;
    client.write_all(b"GET /ok HTT").await.unwrap();
    sleep(Duration::from_millis(150)).await;
    client.write_all(b"P/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    read_until(&mut client, "\r\n\r\nok", 1).await;
}

#[tokio::test]
async fn an_answer_that_is_still_being_sent_is_not_lost_to_a_request_that_waits_behind_it() {
    for path in ["large", "late-large"] {
        let server = start(limits());
        let requests = format!(
            "GET /{path} HTTP/1.1\r\nhost: x\r\n\r\nGET /late/10 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        );
        let mut client = server.send(&requests).await;
        sleep(Duration::from_millis(50)).await;
        let answers = rest(&mut client).await;
        assert!(answers.len() > 32 << 20 && answers.ends_with("\r\n\r\nlate"), "{path}: {}", answers.len());
    }
}

#[tokio::test]
async fn what_is_kept_until_an_answer_is_sent_is_kept_while_the_client_does_not_read() {
    let dropped = Arc::new(AtomicBool::new(false));
    let server = start_watched(limits(), dropped.clone());
    let mut client = server.send("GET /late-kept HTTP/1.1\r\nhost: x\r\n\r\n").await;
    sleep(Duration::from_millis(200)).await;
    assert!(!dropped.load(Ordering::SeqCst));
    let mut received = 0;
    let mut buffer = vec![0; 1 << 20];
    while received < 32 << 20 {
        received += timeout(PATIENCE, client.read(&mut buffer)).await.expect("the answer").unwrap();
    }
    eventually("the guard to be dropped", || dropped.load(Ordering::SeqCst)).await;
    client.write_all(b"GET /ok HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    assert!(rest(&mut client).await.ends_with("\r\n\r\nok"));
}

#[tokio::test]
async fn a_panic_of_a_handler_that_answers_later_is_a_500() {
    let server = start(limits());
    let answer = server.get("/late-panic").await;
    assert!(answer.starts_with("HTTP/1.1 500 ") && answer.contains(r#"{"error":"#), "{answer}");
}

#[tokio::test]
async fn requests_that_wait_are_neither_idle_nor_evicted_and_keep_their_connections() {
    let server = start(Limits { connections: 8, idle: 1, ..limits() });
    let mut waiting = Vec::new();
    for _ in 0..6 {
        waiting.push(server.send("GET /late/700 HTTP/1.1\r\nhost: x\r\n\r\n").await);
    }
    sleep(Duration::from_millis(100)).await;
    let mut client = server.send("GET /ok HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let answer = read_until(&mut client, "\r\n\r\nok", 1).await;
    assert!(!answer.contains("connection: close"), "none is idle: {answer}");
    // More than may be open at once come and go; those that wait stay.
    for _ in 0..20 {
        assert!(server.get("/ok").await.ends_with("ok"));
        assert!(server.get("/late/5").await.ends_with("late"), "nor are fresh connections turned away");
        let _idle = server.connect().await;
    }
    for client in &mut waiting {
        for _ in 0..2 {
            let answer = read_until(client, "\r\n\r\nlate", 1).await;
            assert!(!answer.contains("connection: close"), "{answer}");
            client.write_all(b"GET /late/0 HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        }
    }
}

#[tokio::test]
async fn many_kept_connections_are_served_like_few_whatever_their_requests_leave_unread() {
    let server = start(limits());
    let mut clients = Vec::new();
    for _ in 0..200 {
        clients.push(server.connect().await);
    }
    // A refused body that looks like another request.
    let hidden = "GET /nowhere HTTP/1.1\r\nhost: x\r\n\r\n";
    let unread = format!("POST /ok HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{hidden}", hidden.len());
    let requests = [
        ("POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 6\r\n\r\necho-1", "echo-1"),
        ("GET /ok HTTP/1.1\r\nhost: x\r\n\r\n", "\r\n\r\nok"),
        ("POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n6\r\necho-2\r\n0\r\n\r\n", "echo-2"),
        (&unread, "this path supports"),
    ];
    for client in &mut clients {
        for (request, answer) in requests {
            // In two parts, so that a body is often behind its head.
            let (first, second) = request.split_at(request.len() - 5);
            client.write_all(first.as_bytes()).await.unwrap();
            tokio::task::yield_now().await;
            client.write_all(second.as_bytes()).await.unwrap();
            let said = read_until(client, answer, 1).await;
            assert_eq!(said.matches("HTTP/1.1").count(), 1, "{said}");
        }
    }
    for client in &mut clients {
        // Whoever leaves a body unread may be closed, but gets no answer to what was in it.
        let _ = client.write_all(b"GET /ok HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        let said = rest(client).await;
        assert!(said.is_empty() || (said.starts_with("HTTP/1.1 200 ") && said.ends_with("\r\n\r\nok")), "{said}");
    }
}

#[tokio::test]
async fn a_connection_whose_answer_came_later_is_closed_when_it_is_silent_for_too_long() {
    let server = start(Limits { head_time: Duration::from_millis(300), ..limits() });
    let mut client = server.send("GET /late/50 HTTP/1.1\r\nhost: x\r\n\r\n").await;
    read_until(&mut client, "\r\n\r\nlate", 1).await;
    let start = clock::monotonic();
    assert_eq!(rest(&mut client).await, "");
    let took = clock::monotonic() - start;
    assert!(took >= Duration::from_millis(250) && took < PATIENCE / 2, "{took:?}");
}

#[tokio::test]
async fn a_stop_with_nobody_in_flight_is_immediate_and_closes_idle_and_half_sent_ones() {
    let server = start(Limits { drain: PATIENCE, ..limits() });
    let mut kept = server.send("GET /ok HTTP/1.1\r\nhost: x\r\n\r\n").await;
    read_until(&mut kept, "\r\n\r\nok", 1).await;
    let mut clients = vec![kept, server.connect().await, server.send("GET /ok HTT").await];
    sleep(Duration::from_millis(50)).await;
    let (drained, took) = server.stop().await;
    assert_eq!(drained, Drained { cut: 0 });
    assert!(took < Duration::from_secs(1), "{took:?}");
    for client in &mut clients {
        assert_eq!(rest(client).await, "");
    }
}

#[tokio::test]
async fn a_stop_hears_who_has_just_connected_and_ends_the_connection_with_the_answer() {
    for (path, answer) in [("/ok", "ok"), ("/slow/300", "slept"), ("/late/300", "late")] {
        let server = start(Limits { drain: PATIENCE, ..limits() });
        let mut client = server.connect().await;
        // It is accepted, and its request is on the way.
        sleep(Duration::from_millis(50)).await;
        let stopping = tokio::spawn(server.stop());
        sleep(Duration::from_millis(10)).await;
        client.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
        let said = rest(&mut client).await;
        assert!(said.ends_with(answer) && said.contains("connection: close"), "{path}: {said}");
        let (drained, took) = stopping.await.unwrap();
        assert_eq!(drained, Drained { cut: 0 }, "{path}");
        assert!(took < PATIENCE / 2, "{took:?}");
    }
}

#[tokio::test]
async fn a_stop_lets_requests_in_flight_finish_and_accepts_no_others() {
    for (path, body) in [("/slow/400", "slept"), ("/late/400", "late")] {
        let server = start(Limits { drain: PATIENCE, ..limits() });
        let address = server.address;
        let mut client = server.send(&format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")).await;
        sleep(Duration::from_millis(100)).await;
        let stopping = tokio::spawn(server.stop());
        sleep(Duration::from_millis(100)).await;
        assert!(TcpStream::connect(address).await.is_err(), "still accepting");
        let answer = rest(&mut client).await;
        assert!(answer.ends_with(body) && answer.contains("connection: close"), "{answer}");
        let (drained, took) = stopping.await.unwrap();
        assert_eq!(drained, Drained { cut: 0 }, "{path}");
        assert!(took < PATIENCE / 2, "{took:?}");
    }
}

#[tokio::test]
async fn what_is_in_flight_after_the_drain_is_cut() {
    for path in ["slow", "late"] {
        let dropped = Arc::new(AtomicBool::new(false));
        let server = start_watched(Limits { drain: Duration::from_millis(200), ..limits() }, dropped.clone());
        let mut client = server.send(&format!("GET /{path}/60000 HTTP/1.1\r\nhost: x\r\n\r\n")).await;
        sleep(Duration::from_millis(100)).await;
        let (drained, took) = server.stop().await;
        assert_eq!(drained, Drained { cut: 1 });
        assert!(took >= Duration::from_millis(190) && took < Duration::from_secs(2), "{took:?}");
        assert_eq!(rest(&mut client).await, "");
        eventually("the handler to end", || dropped.load(Ordering::SeqCst)).await;
    }
}

#[tokio::test]
async fn a_cancelled_server_cuts_its_connections() {
    let server = start(limits());
    let mut client = server.send("GET /slow/60000 HTTP/1.1\r\nhost: x\r\n\r\n").await;
    sleep(Duration::from_millis(100)).await;
    server.run.abort();
    assert_eq!(rest(&mut client).await, "");
}

#[tokio::test]
async fn the_pulse_is_marked_while_nobody_connects() {
    let vitals = Vitals::new();
    let pulse = vitals.add("accept", Duration::from_secs(1));
    let listener = bind(Ipv4Addr::LOCALHOST.into(), 0).unwrap();
    let routes = warp::any().map(|| "ok");
    let run = tokio::spawn(run(listener, routes, limits(), Some(pulse), std::future::pending()));
    sleep(Duration::from_millis(1500)).await;
    assert_eq!(vitals.stalled(), None);
    run.abort();
    eventually("the stall to show", || vitals.stalled().is_some()).await;
}

#[tokio::test]
#[ignore = "run as a child process by another test"]
async fn serves_its_parent() {
    let server = start(limits());
    println!("child: {}", server.address);
    // The parent closes our standard input when it has seen enough.
    let waiting = tokio::task::spawn_blocking(|| io::stdin().read(&mut [0]));
    let _ = waiting.await;
    println!("child: {:?}", server.stop().await.0);
}

#[tokio::test]
async fn a_server_short_of_descriptors_closes_idle_connections_and_serves_on() {
    let script = "ulimit -n 40 && exec \"$0\" --exact serve::tests::serves_its_parent --ignored --nocapture";
    let mut child = Command::new("/bin/sh")
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut next = || said.find_map(|line| line.split_once("child: ").map(|(_, said)| said.to_owned())).unwrap();
    let address: SocketAddr = next().parse().unwrap();

    let mut idle = Vec::new();
    for _ in 0..200 {
        idle.push(TcpStream::connect(address).await.unwrap());
    }
    for _ in 0..5 {
        let begin = clock::monotonic();
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"GET /ok HTTP/1.0\r\n\r\n").await.unwrap();
        assert!(rest(&mut client).await.ends_with("ok"));
        assert!(clock::monotonic() - begin < Duration::from_secs(2), "{:?}", clock::monotonic() - begin);
    }
    drop(child.stdin.take());
    assert_eq!(next(), "Drained { cut: 0 }");
    assert!(child.wait().unwrap().success());
}
