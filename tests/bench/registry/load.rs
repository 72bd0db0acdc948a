//! The load generator: many HTTP clients in one process of their own, so that what they use is not what is measured.
//!
//! A row starts it by [`Load::start`], which runs this benchmark's binary again with a [`Job`] on its command line;
//! [`main`] is the other side. It speaks HTTP/1.1 by hand over tokio's sockets, all on one thread, to leave the
//! processor to the server, and it checks every status: a wrong one ends it, and with it the row.

use std::cell::RefCell;
use std::fmt;
use std::io::{BufRead, BufReader, ErrorKind, Lines, Write as _};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use netring::clock::monotonic;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// The first word on the command line of the other side.
pub const WORD: &str = "load";

/// How many connections are being opened at once: fewer than a listener's backlog.
const OPENING: usize = 200;

/// What the clients do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Job {
    /// Registers this many members.
    Fill {
        /// Their number; [`member_id`] names them.
        members: usize,
    },
    /// Each connection asks again as soon as it is answered.
    Closed {
        /// How many at once.
        connections: usize,
        /// Whether each request has a connection of its own.
        fresh: bool,
        /// For how long, in seconds.
        seconds: f64,
        /// What is asked.
        ask: Ask,
    },
    /// Members that heartbeat each 45 seconds and follow the roster, evenly in time. A heartbeat comes on a new connection that
    /// is left open as members leave theirs: the registry closes it.
    Paced {
        /// How many members.
        members: usize,
        /// For how long, in seconds.
        seconds: f64,
        /// The entity tag they know.
        tag: String,
        /// How they follow the roster.
        follow: Follow,
    },
    /// Long polls that wait for one member to join. Says `Waiting` when all of them wait, and goes on at a word.
    Polls {
        /// How many.
        polls: usize,
        /// The entity tag they know.
        tag: String,
        /// The number of the member that joins.
        joins: usize,
    },
}

/// How members follow the roster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Follow {
    /// They ask each 30 seconds, on a new connection each time.
    Poll,
    /// They ask with `wait=30` again and again on a kept connection, and now and then for the whole roster, which has the
    /// times of the last heartbeats: each tenth time, in a ring of more than 1,000 members each `members / 100`th time.
    /// They begin evenly over the first 30 seconds, after which all of them wait all the time.
    LongPoll,
}

/// One request, again and again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Ask {
    /// `POST /heartbeat` of this many members in turn.
    Heartbeat {
        /// Their number.
        members: usize,
    },
    /// `GET /members`, with the entity tag that is known.
    Members {
        /// With one the answer must be 304, without 200.
        tag: Option<String>,
    },
}

/// What came of a job.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// How many requests were answered.
    pub answers: u64,
    /// How many bytes the answers had.
    pub bytes: u64,
    /// From the word to go on to the last answer, in seconds.
    pub last: f64,
    /// The median of the same.
    pub median: f64,
}

/// The identity of member `n`, as long as those that members give themselves.
#[must_use]
pub fn member_id(n: usize) -> String {
    format!("00000000-0000-4000-8000-{n:012}")
}

/// A generator at work.
pub struct Load {
    child: Child,
    word: ChildStdin,
    says: Lines<BufReader<ChildStdout>>,
}

impl Load {
    /// Starts one.
    #[must_use]
    pub fn start(server: SocketAddr, job: &Job) -> Self {
        let job = serde_json::to_string(job).expect("a job is plain data");
        let mut child = Command::new(std::env::current_exe().expect("this program has a path"))
            .args([WORD, &server.to_string(), &job])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program can be run again");
        let word = child.stdin.take().expect("its input is a pipe");
        let says = BufReader::new(child.stdout.take().expect("its output is a pipe")).lines();
        Self { child, word, says }
    }

    /// Waits until all polls wait.
    pub fn wait_waiting(&mut self) {
        let said = self.line();
        assert_eq!(said, "waiting", "what it says when all polls wait");
    }

    /// Tells it to go on.
    pub fn go_on(&mut self) {
        self.word.write_all(b"\n").expect("it reads a word");
    }

    /// Waits for its end.
    #[must_use]
    pub fn report(mut self) -> Report {
        let said = self.line();
        serde_json::from_str(&said).expect("it says what came of its job")
    }

    fn line(&mut self) -> String {
        let said = self.says.next().expect("it says something before it ends; what went wrong stands above");
        said.expect("it writes text")
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a generator and waits for its end.
#[must_use]
pub fn run(server: SocketAddr, job: &Job) -> Report {
    Load::start(server, job).report()
}

/// The other side: does the job on the command line, `load ADDRESS JOB`.
pub fn main() -> ExitCode {
    let mut words = std::env::args().skip(2);
    let (server, job) = (words.next().expect("an address"), words.next().expect("a job"));
    let server = server.parse().expect("an address and a port");
    let job: Job = serde_json::from_str(&job).expect("a job as JSON");
    let _ = netring::host::descriptors::raise_limit();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
    let local = tokio::task::LocalSet::new();
    let report = local.block_on(&runtime, async {
        match job {
            Job::Fill { members } => fill(server, members).await,
            Job::Closed { connections, fresh, seconds, ask } => closed(server, connections, fresh, seconds, ask).await,
            Job::Paced { members, seconds, tag, follow } => paced(server, members, seconds, &tag, follow).await,
            Job::Polls { polls, tag, joins } => wait_for_news(server, polls, &tag, joins).await,
        }
    });
    println!("{}", serde_json::to_string(&report).expect("a report is plain data"));
    ExitCode::SUCCESS
}

async fn fill(server: SocketAddr, members: usize) -> Report {
    const AT_ONCE: usize = 64;
    let mut clients = JoinSet::new();
    for first in 0..AT_ONCE.min(members) {
        clients.spawn_local(async move {
            let mut client = Client::open(server).await;
            for n in (first..members).step_by(AT_ONCE) {
                client.ask(&registration(n), 200).await;
            }
        });
    }
    clients.join_all().await;
    Report { answers: members as u64, ..Report::default() }
}

async fn closed(server: SocketAddr, connections: usize, fresh: bool, seconds: f64, ask: Ask) -> Report {
    let (requests, status) = match ask {
        Ask::Heartbeat { members } => ((0..members).map(|n| heartbeat(n, fresh)).collect(), 200),
        Ask::Members { tag: Some(tag) } => (vec![poll(&tag, "", fresh)], 304),
        Ask::Members { tag: None } => (vec![get("/members", "", fresh)], 200),
    };
    let requests: Rc<Vec<Vec<u8>>> = Rc::new(requests);
    let end = monotonic() + Duration::from_secs_f64(seconds);
    let mut clients = JoinSet::new();
    for first in 0..connections {
        let requests = Rc::clone(&requests);
        clients.spawn_local(async move {
            let mut client = None;
            let mut report = Report::default();
            let mut turn = first;
            while monotonic() < end {
                let asking = match &mut client {
                    Some(asking) if !fresh => asking,
                    other => other.insert(Client::open(server).await),
                };
                report.bytes += asking.ask(&requests[turn % requests.len()], status).await as u64;
                if fresh {
                    asking.wait_closed().await;
                }
                report.answers += 1;
                turn += connections;
            }
            report
        });
    }
    sum(clients.join_all().await)
}

/// How often members poll, and how long their long polls wait, in seconds.
pub const POLL: f64 = 30.0;

async fn paced(server: SocketAddr, members: usize, seconds: f64, tag: &str, follow: Follow) -> Report {
    const HEARTBEAT: f64 = 45.0;
    let begin = monotonic();
    let poll: Rc<[u8]> = poll(tag, "", false).into();
    let mut clients = JoinSet::new();
    let end = begin + Duration::from_secs_f64(seconds);
    if follow == Follow::LongPoll {
        let distance = (members / 100).max(10);
        let (request, full): (Rc<[u8]>, Rc<[u8]>) = (
            self::poll(tag, &format!("?wait={POLL}"), false).into(),
            get(&format!("/members?wait={POLL}"), "", false).into(),
        );
        for n in 0..members {
            let opens = begin + Duration::from_secs_f64(n as f64 * POLL / members as f64);
            // Not in the order in which they open, so that whole rosters are asked for evenly in time.
            let member = LongPoll { polls: n * 37 % distance, distance, request: request.clone(), full: full.clone() };
            clients.spawn_local(member.follow(server, opens, end));
        }
    }
    let (mut beats, mut polls) = (0_usize, 0_usize);
    loop {
        let next_beat = beats as f64 * HEARTBEAT / members as f64;
        let next_poll = match follow {
            Follow::Poll => polls as f64 * POLL / members as f64,
            Follow::LongPoll => f64::INFINITY,
        };
        let due = next_beat.min(next_poll);
        if due > seconds {
            break;
        }
        tokio::time::sleep_until((begin + Duration::from_secs_f64(due)).into()).await;
        let (request, status) = if next_beat <= next_poll {
            beats += 1;
            (heartbeat((beats - 1) % members, false).into(), 200)
        } else {
            polls += 1;
            (Rc::clone(&poll), 304)
        };
        clients.spawn_local(async move {
            let mut client = Client::open(server).await;
            let bytes = client.ask(&request, status).await as u64;
            client.wait_closed().await;
            Report { answers: 1, bytes, ..Report::default() }
        });
    }
    sum(clients.join_all().await)
}

/// A member that follows the roster by long polls.
struct LongPoll {
    /// How many polls it has made.
    polls: usize,
    /// How many polls lie between two in full.
    distance: usize,
    request: Rc<[u8]>,
    full: Rc<[u8]>,
}

impl LongPoll {
    async fn follow(mut self, server: SocketAddr, opens: Instant, end: Instant) -> Report {
        tokio::time::sleep_until(opens.into()).await;
        let mut client = Client::open(server).await;
        let mut report = Report::default();
        loop {
            self.polls += 1;
            let (request, status) =
                if self.polls.is_multiple_of(self.distance) { (&self.full, 200) } else { (&self.request, 304) };
            client.send(request).await;
            let Ok(bytes) = tokio::time::timeout_at(end.into(), client.answer(status)).await else { return report };
            report.answers += 1;
            report.bytes += bytes as u64;
        }
    }
}

async fn wait_for_news(server: SocketAddr, polls: usize, tag: &str, joins: usize) -> Report {
    let request: Rc<[u8]> = poll(tag, "?wait=60", false).into();
    let mut waiting = Vec::with_capacity(polls);
    while waiting.len() < polls {
        let mut opening = JoinSet::new();
        for _ in 0..OPENING.min(polls - waiting.len()) {
            let request = Rc::clone(&request);
            opening.spawn_local(async move {
                let mut client = Client::open(server).await;
                client.send(&request).await;
                client
            });
        }
        waiting.extend(opening.join_all().await);
    }
    println!("waiting");
    std::io::stdin().read_line(&mut String::new()).expect("a word from the row");

    let mut other = Client::open(server).await;
    let began = monotonic();
    let mut clients = JoinSet::new();
    for mut client in waiting {
        clients.spawn_local(async move {
            let bytes = client.answer(200).await as u64;
            (monotonic(), bytes)
        });
    }
    other.ask(&registration(joins), 200).await;
    let mut answers: Vec<(Instant, u64)> = clients.join_all().await;
    answers.sort_unstable();
    let since = |(at, _): &(Instant, u64)| at.saturating_duration_since(began).as_secs_f64();
    Report {
        answers: answers.len() as u64,
        bytes: answers.iter().map(|(_, bytes)| bytes).sum(),
        last: answers.last().map_or(0.0, since),
        median: answers.get(answers.len() / 2).map_or(0.0, since),
    }
}

fn sum(reports: Vec<Report>) -> Report {
    reports.into_iter().fold(Report::default(), |sum, one| Report {
        answers: sum.answers + one.answers,
        bytes: sum.bytes + one.bytes,
        ..sum
    })
}

fn get(path: &str, headers: &str, close: bool) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: registry\r\n{}{headers}\r\n", closing(close)).into_bytes()
}

fn poll(tag: &str, query: &str, close: bool) -> Vec<u8> {
    get(&format!("/members{query}"), &format!("if-none-match: {tag}\r\n"), close)
}

fn heartbeat(n: usize, close: bool) -> Vec<u8> {
    post("/heartbeat", &format!("{{\"instance_id\":\"{}\"}}", member_id(n)), close)
}

fn registration(n: usize) -> Vec<u8> {
    let location = n % 500;
    let [a, b] = u16::try_from(n).expect("fewer members than addresses").to_be_bytes();
    let id = member_id(n);
    post(
        "/register",
        &format!("{{\"instance_id\":\"{id}\",\"location\":\"site-{location}\",\"ip\":\"10.1.{a}.{b}\",\"port\":8756}}"),
        false,
    )
}

fn post(path: &str, json: &str, close: bool) -> Vec<u8> {
    let (length, close) = (json.len(), closing(close));
    format!(
        "POST {path} HTTP/1.1\r\nhost: registry\r\n{close}content-type: application/json\r\ncontent-length: \
         {length}\r\n\r\n{json}"
    )
    .into_bytes()
}

fn closing(close: bool) -> &'static str {
    if close { "connection: close\r\n" } else { "" }
}

/// One connection.
struct Client(TcpStream);

impl Client {
    async fn open(server: SocketAddr) -> Self {
        Self(TcpStream::connect(server).await.expect("the server accepts"))
    }

    /// Sends a request and reads its answer, which must have this status. Gives its length in bytes.
    async fn ask(&mut self, request: &[u8], status: u16) -> usize {
        self.send(request).await;
        self.answer(status).await
    }

    async fn send(&mut self, request: &[u8]) {
        self.0.write_all(request).await.expect("the server reads");
    }

    async fn answer(&mut self, status: u16) -> usize {
        let mut answer = Answer::default();
        while answer.whole.is_none_or(|whole| answer.got < whole) {
            self.0.readable().await.expect("a socket can be waited for");
            let read = SCRATCH.with_borrow_mut(|scratch| {
                let read = self.0.try_read(scratch)?;
                answer.take_in(&scratch[..read]);
                std::io::Result::Ok(read)
            });
            match read {
                Ok(0) => panic!("the server closed in the middle of: {answer}"),
                Err(e) if e.kind() != ErrorKind::WouldBlock => panic!("the server does not answer: {e}"),
                _ => {}
            }
        }
        assert_eq!(answer.status(), Some(status), "{answer}");
        answer.got
    }

    async fn wait_closed(&mut self) {
        let read = self.0.read(&mut [0; 16]).await;
        assert!(matches!(read, Ok(0)), "nothing comes after an answer: {read:?}");
    }
}

thread_local! {
    /// Where all clients read to: answers are looked at and forgotten.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; 256 * 1024]);
}

/// What has arrived of an answer.
#[derive(Default)]
struct Answer {
    /// What arrived until the head was there.
    begin: Vec<u8>,
    /// How many bytes have arrived.
    got: usize,
    /// How many it has, once its head is there.
    whole: Option<usize>,
}

impl Answer {
    fn take_in(&mut self, bytes: &[u8]) {
        self.got += bytes.len();
        if self.whole.is_none() {
            self.begin.extend_from_slice(bytes);
            self.whole = self.length();
        }
    }

    fn status(&self) -> Option<u16> {
        std::str::from_utf8(self.begin.get(9..12)?).ok()?.parse().ok()
    }

    fn length(&self) -> Option<usize> {
        const END: &[u8] = b"\r\n\r\n";
        const LENGTH: &[u8] = b"content-length: ";
        let head = self.begin.windows(END.len()).position(|at| at == END)? + END.len();
        let body = self.begin[..head].windows(LENGTH.len()).position(|at| at == LENGTH).map_or(0, |at| {
            let digits = self.begin[at + LENGTH.len()..].iter().take_while(|byte| byte.is_ascii_digit());
            digits.fold(0, |length, digit| length * 10 + usize::from(digit - b'0'))
        });
        Some(head + body)
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.begin))
    }
}
