use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream as StdTcpStream};
use std::sync::mpsc;
use std::thread;

use proptest::prelude::*;

use super::*;
use crate::probe::blackhole::FullListener;
use crate::probe::{Check, Limits, StatusRanges, Target, run, run_by_name};

/// A peer that does as told with every connection, the n-th of them being told n from 0 on.
struct Peer {
    address: SocketAddr,
    /// The heads of the requests it read.
    heads: mpsc::Receiver<String>,
}

/// One connection at the peer.
struct Visit {
    stream: StdTcpStream,
    heads: mpsc::Sender<String>,
    number: usize,
}

impl Visit {
    /// Reads the request's head.
    fn read_request(&self) -> String {
        let mut head = String::new();
        let mut lines = BufReader::new(&self.stream);
        while !head.ends_with("\r\n\r\n") {
            if lines.read_line(&mut head).unwrap_or(0) == 0 {
                break;
            }
        }
        let _ = self.heads.send(head.clone());
        head
    }

    /// Sends this. That the probe may have left already is no fault.
    fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).is_ok()
    }

    /// Reads the request and answers it with this.
    fn answer(&mut self, bytes: impl AsRef<[u8]>) {
        self.read_request();
        self.send(bytes);
    }

    /// Closes with a reset instead of an end.
    fn reset(self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// Stays silent until the probe leaves.
    fn stay(mut self) {
        let _ = self.stream.read_to_end(&mut Vec::new());
    }
}

fn peer_at(listen: &str, script: impl Fn(Visit) + Send + Sync + 'static) -> Peer {
    let listener = TcpListener::bind(listen).unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, heads) = mpsc::channel();
    thread::spawn(move || {
        let script = std::sync::Arc::new(script);
        for (number, stream) in listener.incoming().enumerate() {
            let visit = Visit { stream: stream.unwrap(), heads: sender.clone(), number };
            let script = std::sync::Arc::clone(&script);
            thread::spawn(move || script(visit));
        }
    });
    Peer { address, heads }
}

fn peer(script: impl Fn(Visit) + Send + Sync + 'static) -> Peer {
    peer_at("127.0.0.1:0", script)
}

fn limits() -> Limits {
    Limits {
        tcp_timeout: Duration::from_secs(5),
        http_timeout: Duration::from_secs(10),
        http_ok_status: StatusRanges(vec![(100, 499)]),
        http_body_limit: crate::probe::HTTP_BODY_LIMIT,
    }
}

async fn get_with(address: SocketAddr, endpoint: &str, limits: &Limits) -> Result<Timings, Failure> {
    run(&Target { address, check: Check::Http { endpoint: endpoint.into() } }, limits).await.result
}

async fn get(address: SocketAddr, endpoint: &str) -> Result<Timings, Failure> {
    get_with(address, endpoint, &limits()).await
}

async fn status(answer: &'static str) -> Result<u16, Failure> {
    get(peer(move |mut visit| visit.answer(answer)).address, "/").await.map(|timings| timings.status.unwrap())
}

async fn failure(script: impl Fn(Visit) + Send + Sync + 'static) -> (Reason, String) {
    let Failure { reason, detail } = get(peer(script).address, "/").await.expect_err("the probe fails");
    (reason, detail)
}

#[tokio::test]
async fn an_answer_has_its_status_and_its_phases() {
    let peer = peer(|mut visit| {
        visit.read_request();
        thread::sleep(Duration::from_millis(100));
        visit.send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabc");
        thread::sleep(Duration::from_millis(400));
        visit.send("def");
    });
    let timings = get(peer.address, "/health?deep=1").await.unwrap();
    let ms = Duration::from_millis;
    assert_eq!(timings.status, Some(200));
    let (first_byte, transfer) = (timings.first_byte.unwrap(), timings.transfer.unwrap());
    assert!((ms(100)..ms(400)).contains(&first_byte), "{first_byte:?}");
    assert!(transfer >= ms(400), "{transfer:?}");
    assert!(timings.connect + first_byte + transfer <= timings.total);
    assert_eq!(timings.resolve, None);
    let head = peer.heads.recv().unwrap().to_ascii_lowercase();
    let expected = format!(
        "get /health?deep=1 http/1.1\r\nhost: {}\r\nuser-agent: netring/{}\r\naccept-encoding: gzip\r\nconnection: \
         close\r\n\r\n",
        peer.address,
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(head, expected);
}

#[tokio::test]
async fn the_first_byte_is_the_first_byte_and_not_the_end_of_the_head() {
    let peer = peer(|mut visit| {
        visit.answer("H");
        thread::sleep(Duration::from_millis(200));
        visit.send("TTP/1.1 204 No Content\r\n\r\n");
    });
    let timings = get(peer.address, "/").await.unwrap();
    assert!(timings.first_byte.unwrap() < Duration::from_millis(150), "{timings:?}");
    assert!(timings.transfer.unwrap() >= Duration::from_millis(200), "{timings:?}");
}

#[tokio::test]
async fn over_ipv6_the_host_header_has_brackets() {
    let peer = peer_at("[::1]:0", |mut visit| visit.answer("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"));
    assert_eq!(get(peer.address, "/").await.unwrap().status, Some(200));
    let host = format!("\r\nhost: [::1]:{}\r\n", peer.address.port());
    assert!(peer.heads.recv().unwrap().to_ascii_lowercase().contains(&host));
}

#[tokio::test]
async fn every_way_to_frame_an_answer_is_understood() {
    assert_eq!(status("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await, Ok(200));
    assert_eq!(status("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n").await, Ok(200));
    assert_eq!(status("HTTP/1.1 200 OK\r\n\r\nuntil the end").await, Ok(200));
    assert_eq!(status("HTTP/1.0 200 OK\r\n\r\nuntil the end").await, Ok(200));
    assert_eq!(status("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok").await, Ok(200));
    assert_eq!(status("HTTP/1.1 204 No Content\r\n\r\n").await, Ok(204));
    assert_eq!(status("HTTP/1.1 304 Not Modified\r\n\r\n").await, Ok(304));
    assert_eq!(status("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n\r\n").await, Ok(200));
    assert_eq!(status("HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n").await, Ok(200));
}

#[tokio::test]
async fn a_status_counts_by_the_ranges_that_are_set() {
    assert_eq!(status("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await, Ok(404));
    let of = |code: u16| Failure { reason: Reason::Status, detail: format!("status {code}") };
    assert_eq!(status("HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n").await, Err(of(500)));
    assert_eq!(status("HTTP/1.1 503 Oh\r\nContent-Length: 0\r\n\r\n").await, Err(of(503)));
    let narrow = Limits { http_ok_status: StatusRanges(vec![(200, 299)]), ..limits() };
    let absent = peer(|mut visit| visit.answer("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"));
    assert_eq!(get_with(absent.address, "/", &narrow).await, Err(of(404)));
}

#[tokio::test]
async fn a_status_that_does_not_count_is_said_at_once_whatever_the_body_does() {
    let begun = clock::monotonic();
    let (reason, detail) = failure(|mut visit| {
        visit.answer("HTTP/1.1 500 Oh\r\nContent-Length: 10\r\n\r\n");
        visit.stay();
    })
    .await;
    assert_eq!((reason, detail.as_str()), (Reason::Status, "status 500"));
    assert!(clock::monotonic() - begun < Duration::from_secs(5));
}

#[tokio::test]
async fn a_reset_is_told_by_where_it_came() {
    let reset = |detail: &str| (Reason::Reset, format!("connection reset by peer {detail}"));
    assert_eq!(
        failure(|visit| {
            visit.read_request();
            visit.reset();
        })
        .await,
        reset("before the answer")
    );
    let mid_head = |mut visit: Visit| {
        visit.answer("HTTP/1.1 200 OK\r\nContent-");
        thread::sleep(Duration::from_millis(100));
        visit.reset();
    };
    assert_eq!(failure(mid_head).await, reset("within the answer's head"));
    let mid_body = |mut visit: Visit| {
        visit.answer("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc");
        thread::sleep(Duration::from_millis(100));
        visit.reset();
    };
    assert_eq!(failure(mid_body).await, reset("within the answer's body"));
    // At once after accept the reset may come while we connect, write or wait; it is a reset all the same.
    for _ in 0..20 {
        let (reason, detail) = failure(Visit::reset).await;
        assert_eq!(reason, Reason::Reset, "{detail}");
    }
}

#[tokio::test]
async fn a_connection_closed_too_early_is_a_reset_too() {
    let closed = |detail: &str| (Reason::Reset, format!("connection closed {detail}"));
    assert_eq!(failure(|visit| drop(visit.read_request())).await, closed("before the answer"));
    assert_eq!(failure(|mut visit| visit.answer("HTTP/1.1 200 OK\r\nX")).await, closed("within the answer's head"));
    let short = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc";
    assert_eq!(failure(move |mut visit| visit.answer(short)).await, closed("within the answer's body"));
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab";
    assert_eq!(failure(move |mut visit| visit.answer(chunked)).await, closed("within the answer's body"));
    for _ in 0..20 {
        // Without reading the request: an end or a reset, by who was faster.
        let (reason, detail) = failure(|visit| visit.stream.shutdown(Shutdown::Both).unwrap()).await;
        assert_eq!(reason, Reason::Reset, "{detail}");
    }
}

#[tokio::test]
async fn what_is_not_http_is_a_fault_of_the_body() {
    let table: &[&[u8]] = &[
        b"hello\r\n\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffffffff\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ];
    for answer in table {
        let (reason, detail) = failure(move |mut visit| {
            visit.answer(answer);
            visit.stay();
        })
        .await;
        assert_eq!(reason, Reason::Body, "{:?}: {detail}", String::from_utf8_lossy(answer));
        assert!(detail.starts_with("the answer is not HTTP: "), "{detail}");
    }
}

#[tokio::test]
async fn a_peer_that_speaks_first_is_not_http_whether_we_hear_it_before_or_after_we_ask() {
    for number in 0..20 {
        let (reason, detail) = failure(move |mut visit| {
            if number % 2 == 0 {
                thread::sleep(Duration::from_millis(2));
            }
            visit.send("SSH-2.0-OpenSSH_9.2\r\n");
            visit.stay();
        })
        .await;
        assert_eq!(reason, Reason::Body, "{detail}");
    }
}

#[tokio::test]
async fn a_head_that_is_too_large_is_a_fault_of_the_body() {
    let too_large = (Reason::Body, "the answer's head has more than 64 KiB or 100 fields".to_owned());
    let field = |size: usize| format!("X-Filler: {}\r\n", "x".repeat(size));
    let endless = move |mut visit: Visit| {
        visit.answer("HTTP/1.1 200 OK\r\n");
        while visit.send(field(5_000)) {}
    };
    assert_eq!(failure(endless).await, too_large);
    let with = |fields: String| format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 0\r\n\r\n");
    let long = with(field(300_000));
    assert_eq!(failure(move |mut visit| visit.answer(&long)).await, too_large);
    let many = with(field(10).repeat(100));
    assert_eq!(failure(move |mut visit| visit.answer(&many)).await, too_large);
    let just_so = with(field(50_000));
    let peer = peer(move |mut visit| visit.answer(&just_so));
    assert_eq!(get(peer.address, "/").await.unwrap().status, Some(200));
}

async fn timeout(script: impl Fn(Visit) + Send + Sync + 'static) -> String {
    let limit = Duration::from_millis(400);
    let limits = Limits { http_timeout: limit, ..limits() };
    let begun = clock::monotonic();
    let Failure { reason, detail } = get_with(peer(script).address, "/", &limits).await.unwrap_err();
    let took = clock::monotonic() - begun;
    assert_eq!(reason, Reason::Timeout, "{detail}");
    assert!((limit..limit + Duration::from_secs(1)).contains(&took), "{took:?}");
    detail
}

#[tokio::test]
async fn the_time_limit_holds_wherever_the_peer_stalls() {
    assert_eq!(timeout(Visit::stay).await, "connected, but no answer within 400ms");
    let drip = |text: &'static str| {
        move |mut visit: Visit| {
            visit.read_request();
            for byte in text.bytes().chain(std::iter::repeat(b'x')) {
                if !visit.send([byte]) {
                    break;
                }
                thread::sleep(Duration::from_millis(50));
            }
        }
    };
    assert_eq!(timeout(drip("HTTP/1.1 200 OK\r\n")).await, "the answer's head was not complete within 400ms");
    let body_drips = move |mut visit: Visit| {
        visit.answer("HTTP/1.1 200 OK\r\n\r\n");
        drip("")(visit);
    };
    assert_eq!(timeout(body_drips).await, "the answer's body was not complete within 400ms");
    let interim = |mut visit: Visit| {
        visit.read_request();
        while visit.send("HTTP/1.1 103 Early Hints\r\n\r\n") {
            thread::sleep(Duration::from_millis(1));
        }
    };
    assert_eq!(timeout(interim).await, "the answer's head was not complete within 400ms");
    // Each hop well within the limit, all of them not.
    let slow_loop = |mut visit: Visit| {
        visit.read_request();
        thread::sleep(Duration::from_millis(150));
        visit.send("HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n");
    };
    assert_eq!(timeout(slow_loop).await, "connected, but no answer within 400ms");
}

#[tokio::test]
async fn a_body_is_read_up_to_the_limit_and_counts_as_answered() {
    let (sender, sent) = mpsc::channel();
    let peer = peer(move |mut visit| {
        visit.answer(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 1 << 30));
        let block = vec![b'x'; 1 << 12];
        let mut bytes = 0_usize;
        while bytes < 1 << 30 && visit.send(&block) {
            bytes += block.len();
        }
        sender.send(bytes).unwrap();
    });
    let timings = get(peer.address, "/").await.unwrap();
    assert_eq!(timings.status, Some(200));
    assert!(timings.transfer.unwrap() < Duration::from_secs(1), "{timings:?}");
    // What the peer could send is what we read and what the kernel's buffers took.
    let sent = sent.recv_timeout(Duration::from_secs(10)).unwrap();
    assert!(sent < 8 << 20, "{sent}");
}

#[tokio::test]
async fn a_body_that_stalls_counts_once_it_has_come_up_to_the_limit() {
    let framings = ["Content-Length: 100000\r\n", "", "Transfer-Encoding: chunked\r\n"];
    for (framing, limit) in framings.into_iter().flat_map(|framing| [(framing, 1_000), (framing, 0), (framing, 1_001)])
    {
        let peer = peer(move |mut visit| {
            let size = if framing.starts_with('T') { "10000\r\n" } else { "" };
            visit.answer(format!("HTTP/1.1 200 OK\r\n{framing}\r\n{size}{}", "x".repeat(1_000)));
            visit.stay();
        });
        let limits = Limits { http_body_limit: limit, http_timeout: Duration::from_millis(300), ..limits() };
        let found = get_with(peer.address, "/", &limits).await;
        let detail = found.map(|timings| timings.status.unwrap()).map_err(|failure| failure.detail);
        let stalled = Err("the answer's body was not complete within 300ms".to_owned());
        assert_eq!(detail, if limit > 1_000 { stalled } else { Ok(200) }, "{framing} {limit}");
    }
}

#[tokio::test]
async fn the_health_of_a_member_says_who_answered_whatever_its_status() {
    let body = r#"{"status": "unhealthy", "instance_id": "a", "location": "eu1"}"#;
    let who = |status: &str, endpoint: &'static str| {
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let address = peer(move |mut visit| visit.answer(&answer)).address;
        async move { run(&Target { address, check: Check::Http { endpoint: endpoint.into() } }, &limits()).await }
    };
    let expected = Answerer { location: Some("eu1".parse().unwrap()), instance_id: Some("a".parse().unwrap()) };
    let outcome = who("200 OK", "/health").await;
    assert_eq!((outcome.result.is_ok(), outcome.answered_by), (true, Some(expected.clone())));
    let outcome = who("503 Service Unavailable", "/health?x").await;
    assert_eq!((outcome.result.unwrap_err().reason, outcome.answered_by), (Reason::Status, Some(expected.clone())));
    assert_eq!(who("200 OK", "/metrics").await.answered_by, None);

    let mut zipped = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    zipped.write_all(body.as_bytes()).unwrap();
    let zipped = zipped.finish().unwrap();
    let peer = peer(move |mut visit| {
        visit.answer("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n");
        for chunk in zipped.chunks(20) {
            thread::sleep(Duration::from_millis(5));
            visit.send([format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat());
        }
        visit.send("0\r\n\r\n");
    });
    let target = Target { address: peer.address, check: Check::Http { endpoint: "/health".into() } };
    assert_eq!(run(&target, &limits()).await.answered_by, Some(expected));
}

#[tokio::test]
async fn the_local_address_is_known_where_a_probe_failed_before_or_after_it_had_connected() {
    let source = |address| async move {
        let limits = Limits { http_timeout: Duration::from_millis(200), ..limits() };
        let outcome = run(&Target { address, check: Check::Http { endpoint: "/".into() } }, &limits).await;
        (outcome.result.is_ok(), outcome.source)
    };
    let own = Some(std::net::Ipv4Addr::LOCALHOST.into());
    assert_eq!(source(peer(Visit::stay).address).await, (false, own));
    assert_eq!(source(peer(Visit::reset).address).await, (false, own));
    assert_eq!(source(peer(|mut visit| visit.answer("HTTP/1.1 500 Oh\r\n\r\n")).address).await, (false, own));
    assert_eq!(source(FullListener::new().address()).await, (false, own), "the kernel chose it for the attempt");
    let ok = peer(|mut visit| visit.answer("HTTP/1.1 204 No Content\r\n\r\n"));
    assert_eq!(source(ok.address).await, (true, None), "nobody needs it");
}

#[tokio::test]
async fn syns_that_were_sent_again_are_counted_whether_the_connection_is_made_or_not() {
    for is_made in [false, true] {
        let full = FullListener::new();
        let address = full.address();
        let probe = tokio::spawn(async move {
            // The kernel sends a SYN again after one second, and after two more (RFC 6298, section 2).
            let limits = Limits { http_timeout: Duration::from_millis(1_800), ..limits() };
            run(&Target { address, check: Check::Http { endpoint: "/".into() } }, &limits).await
        });
        // On this one thread the probe has sent its SYN, and the kernel dropped it, once it has had a turn.
        tokio::task::yield_now().await;
        if is_made {
            full.drain();
        }
        let outcome = probe.await.unwrap();
        let Failure { reason, detail } = outcome.result.unwrap_err();
        assert_eq!((reason, detail.starts_with("connected, but")), (Reason::Timeout, is_made), "{detail}");
        assert_eq!(outcome.syn_retransmits, 1, "{detail}");
    }
}

#[tokio::test]
async fn a_handshake_followed_by_a_reset_is_a_reset_however_late_we_look() {
    let peer = peer(Visit::reset);
    for number in 0..100 {
        let address = peer.address;
        let probe = tokio::spawn(async move { get(address, "/").await });
        // The probe has started its connection once it has had a turn. Nobody looks at it meanwhile.
        tokio::task::yield_now().await;
        if number % 10 == 0 {
            thread::sleep(Duration::from_millis(60));
        }
        let Failure { reason, detail } = probe.await.unwrap().unwrap_err();
        assert_eq!(reason, Reason::Reset, "{detail}");
        assert!(detail.ends_with(" before the answer"), "{detail}");
    }
}

fn redirect(location: &str) -> String {
    format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n")
}

#[tokio::test]
async fn a_redirect_on_the_same_host_is_followed_on_a_fresh_connection() {
    let peer = peer(|mut visit| {
        let host = visit.stream.local_addr().unwrap();
        let head = visit.read_request();
        match visit.number {
            0 => {
                thread::sleep(Duration::from_millis(120));
                visit.send(redirect("/login?next=%2F"));
            }
            1 => drop(visit.send(redirect(&format!("http://{host}/app/")))),
            2 => drop(visit.send(redirect("./here/../there"))),
            _ if head.starts_with("GET /app/there HTTP/1.1\r\n") => {
                visit.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            }
            _ => drop(visit.send("HTTP/1.1 500 Wrong\r\n\r\n")),
        }
    });
    let timings = get(peer.address, "/").await.unwrap();
    assert_eq!(timings.status, Some(200));
    assert_eq!(peer.heads.try_iter().count(), 4);
    assert!(timings.first_byte.unwrap() < Duration::from_millis(100), "of the last hop: {timings:?}");
    assert!(timings.total >= Duration::from_millis(120), "of all hops: {timings:?}");
}

#[tokio::test]
async fn a_redirect_to_elsewhere_is_itself_the_answer() {
    for elsewhere in ["http://192.0.2.1/", "https://127.0.0.1/", "//example.com/", "http://127.0.0.1:1/", "ftp://x/"] {
        let peer = peer(move |mut visit| visit.answer(redirect(elsewhere)));
        assert_eq!(get(peer.address, "/").await.unwrap().status, Some(302), "{elsewhere}");
        let narrow = Limits { http_ok_status: StatusRanges(vec![(200, 299)]), ..limits() };
        let failure = get_with(peer.address, "/", &narrow).await.unwrap_err();
        assert_eq!((failure.reason, failure.detail.as_str()), (Reason::Status, "status 302"));
        assert_eq!(peer.heads.try_iter().count(), 2, "one request for each probe");
    }
    assert_eq!(status("HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n").await, Ok(302));
    assert_eq!(status("HTTP/1.1 300 Choices\r\nLocation: /\r\nContent-Length: 0\r\n\r\n").await, Ok(300));
}

#[tokio::test]
async fn five_redirects_are_followed_and_the_sixth_is_the_answer() {
    let peer = peer(|mut visit| visit.answer(redirect("/again")));
    assert_eq!(get(peer.address, "/").await.unwrap().status, Some(302));
    assert_eq!(peer.heads.try_iter().count(), 6);
    let narrow = Limits { http_ok_status: StatusRanges(vec![(200, 299)]), ..limits() };
    assert_eq!(get_with(peer.address, "/", &narrow).await.unwrap_err().detail, "status 302 after 5 redirects");
}

#[tokio::test]
async fn a_connection_that_is_not_made_fails_as_a_tcp_probe_does() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert_eq!(get(address, "/").await.unwrap_err().reason, Reason::Refused);
    assert_eq!(get(address, "no path").await.unwrap_err().reason, Reason::Local(LocalCause::Internal));
}

#[tokio::test]
async fn a_name_is_resolved_within_the_time_limit_and_named_in_the_request() {
    let peer = peer(|mut visit| match visit.number {
        0 => visit.answer(redirect(&format!("http://LOCALHOST:{}/b", visit.stream.local_addr().unwrap().port()))),
        _ => visit.answer("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    });
    let check = Check::Http { endpoint: "/a".into() };
    let (address, outcome) = run_by_name("localhost", peer.address.port(), &check, &limits()).await;
    // Where localhost is ::1 first, nobody listens; that the name was resolved shows in the address.
    let address = address.unwrap();
    assert!(address.ip().is_loopback());
    if address == peer.address {
        let timings = outcome.result.unwrap();
        assert!(timings.resolve.is_some_and(|resolve| !resolve.is_zero() && resolve < timings.total));
        assert_eq!(timings.status, Some(200));
        let host = format!("\r\nhost: localhost:{}\r\n", peer.address.port());
        assert!(peer.heads.iter().take(2).all(|head| head.to_ascii_lowercase().contains(&host)));
    }
    let (address, outcome) = run_by_name("no-such-host.invalid", 80, &Check::Tcp, &limits()).await;
    assert_eq!(address, None);
    assert_eq!(outcome.result.unwrap_err().reason, Reason::Resolve);
}

#[test]
fn a_location_is_resolved_against_the_request() {
    let path: PathAndQuery = "/a/b/c?q=1".parse().unwrap();
    let authority = Authority::new("10.0.0.1", 8756);
    let table = [
        ("/x", Some("/x")),
        ("/x?y=/../z#frag", Some("/x?y=/../z")),
        ("x", Some("/a/b/x")),
        ("./x", Some("/a/b/x")),
        ("../x", Some("/a/x")),
        ("../../../x", Some("/x")),
        ("..", Some("/a/")),
        (".", Some("/a/b/")),
        ("x/", Some("/a/b/x/")),
        ("?r=2", Some("/a/b/c?r=2")),
        ("", Some("/a/b/c?q=1")),
        ("#frag", Some("/a/b/c?q=1")),
        ("  /x  ", Some("/x")),
        ("x?u=http://other/", Some("/a/b/x?u=http://other/")),
        ("http://10.0.0.1:8756", Some("/")),
        ("HTTP://10.0.0.1:8756?x", Some("/?x")),
        ("http://10.0.0.1:8756/x", Some("/x")),
        ("//10.0.0.1:8756/x", Some("/x")),
        ("http://10.0.0.1/x", None),
        ("http://10.0.0.1:80/x", None),
        ("http://10.0.0.2:8756/x", None),
        ("http://user@10.0.0.1:8756/x", None),
        ("https://10.0.0.1:8756/x", None),
        ("http:/x", None),
        ("mailto:x@y", None),
        ("/a b", None),
    ];
    for (location, expected) in table {
        assert_eq!(authority.onward(&path, location).as_ref().map(PathAndQuery::as_str), expected, "{location:?}");
    }
}

#[test]
fn an_authority_is_the_same_however_it_is_written() {
    assert_eq!(Authority::new("Example.COM", 80), Authority::parse("example.com").unwrap());
    assert_eq!(Authority::new("::1", 80), Authority::parse("[0:0::1]:80").unwrap());
    assert_eq!(Authority::new("::1", 81), Authority::parse("[::1]:81").unwrap());
    assert_eq!(Authority::new("::1", 80).to_string(), "[::1]");
    assert_eq!(Authority::new("::1", 81).to_string(), "[::1]:81");
    assert_eq!(Authority::from("[fe80::1%3]:81".parse::<SocketAddr>().unwrap()).to_string(), "[fe80::1]:81");
    assert_eq!(Authority::new("10.0.0.1", 80).to_string(), "10.0.0.1");
    for wrong in ["[::1", "h:port", "h:70000"] {
        assert_eq!(Authority::parse(wrong), None, "{wrong}");
    }
}

proptest! {
    #[test]
    fn no_location_makes_a_request_that_cannot_be_sent(location in "[ -~]{0,40}") {
        let path: PathAndQuery = "/a/b?c".parse().unwrap();
        if let Some(onward) = Authority::new("h", 80).onward(&path, &location) {
            prop_assert!(onward.as_str().starts_with('/'));
            prop_assert!(!onward.path().split('/').any(|segment| segment == ".."));
        }
    }
}

#[tokio::test]
async fn the_state_of_a_probe_fits_a_block_that_the_allocator_keeps_at_hand() {
    let (address, limits) = (SocketAddr::from(([127, 0, 0, 1], 1)), limits());
    let (authority, budget) = (Authority::from(address), Budget::new(limits.http_timeout));
    let size = size_of_val(&probe(address, &authority, "/", &limits, &budget));
    assert!(size <= 1_032, "{size}");
}
