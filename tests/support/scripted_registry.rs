//! A registry that the test plays itself: it answers each kind of request as the test says, and notes what it was asked.
//!
//! It keeps every registration until it is deregistered, and no leases. Its roster has an entity tag. By default it behaves as
//! the real one; see [`Posts`] and [`Script::keeps_requests`] for the ways in which it may differ.

use std::fmt::Write as _;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use netring::clock::monotonic;
use serde_json::{Value, json};

/// How often a thread looks whether the registry was dropped.
const PATIENCE: Duration = Duration::from_millis(100);

/// What it does with registrations, heartbeats and deregistrations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Posts {
    /// Accepts them.
    Accept,
    /// Never answers.
    Hang,
    /// Resets the connection.
    Reset,
    /// Redirects to another address, by this status.
    Redirect(u16, String),
}

/// What it does from now on.
#[derive(Debug)]
pub struct Script {
    /// What it does with requests that want to change something.
    pub posts: Posts,
    /// Whether it keeps requests for the roster with `?wait=`; older registries answer them at once.
    pub keeps_requests: bool,
    /// How long a deregistration is on its way, as to a registry that is far from the member that leaves.
    pub slow_goodbyes: Duration,
    /// The entries of the roster that the test put there, as JSON with commas in between.
    entries: String,
    /// The entries that were registered.
    registered: Vec<Value>,
    /// The number of the roster, which is its entity tag.
    revision: u64,
    /// The first lines of all requests, each noted when its answer was sent, with the status.
    answered: Vec<(String, u16)>,
    /// How many requests that want to change something have arrived.
    posted: usize,
}

/// A running registry; it ends when dropped.
#[derive(Debug)]
pub struct ScriptedRegistry {
    /// Where it listens.
    pub address: SocketAddr,
    script: Arc<Mutex<Script>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// The entry of the roster for a member.
#[must_use]
pub fn entry(id: &str, location: &str, address: SocketAddr) -> String {
    json!({
        "instance_id": id, "location": location, "ip": address.ip(), "port": address.port(), "last_seen": 1_000,
        "registered_at": 1_000, "status": "active",
    })
    .to_string()
}

impl ScriptedRegistry {
    /// Starts one with an empty roster that behaves as the real one.
    #[must_use]
    pub fn start() -> Self {
        let address = super::socket();
        let listener = TcpListener::bind(address).expect("the address is this test's own");
        // Linux lets accept(2) wait no longer than that.
        socket2::SockRef::from(&listener).set_read_timeout(Some(PATIENCE)).expect("a time limit can be set");
        let script = Script {
            posts: Posts::Accept,
            keeps_requests: true,
            slow_goodbyes: Duration::ZERO,
            entries: String::new(),
            registered: Vec::new(),
            revision: 1,
            answered: Vec::new(),
            posted: 0,
        };
        let (script, over) = (Arc::new(Mutex::new(script)), Arc::<AtomicBool>::default());
        let (shared, ending) = (Arc::clone(&script), Arc::clone(&over));
        let thread = std::thread::spawn(move || {
            while !ending.load(Ordering::Relaxed) {
                let stream = match listener.accept() {
                    Ok((stream, _)) => stream,
                    Err(e) if e.kind() == ErrorKind::WouldBlock => continue,
                    Err(e) => panic!("accept: {e}"),
                };
                let connection = Connection { stream, script: Arc::clone(&shared), over: Arc::clone(&ending) };
                std::thread::spawn(move || connection.serve());
            }
        });
        Self { address, script, over, thread: Some(thread) }
    }

    /// What it does, to be changed.
    pub fn script(&self) -> MutexGuard<'_, Script> {
        lock(&self.script)
    }

    /// Puts these entries on the roster beside those that were registered, instead of the ones before. Returns the number of
    /// the roster.
    #[expect(clippy::must_use_candidate, reason = "most rosters are set for what they do")]
    pub fn set_entries(&self, entries: &[String]) -> u64 {
        let mut script = self.script();
        script.entries = entries.join(",");
        script.revision += 1;
        script.revision
    }

    /// How many requests whose first line begins with these words were answered with this status.
    #[must_use]
    pub fn answered(&self, request: &str, status: u16) -> usize {
        let script = self.script();
        script.answered.iter().filter(|(line, with)| line.starts_with(request) && *with == status).count()
    }

    /// How many requests that want to change something have arrived, answered or not.
    #[must_use]
    pub fn posted(&self) -> usize {
        self.script().posted
    }
}

impl Drop for ScriptedRegistry {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock(script: &Mutex<Script>) -> MutexGuard<'_, Script> {
    script.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One connection to the registry.
struct Connection {
    stream: TcpStream,
    script: Arc<Mutex<Script>>,
    over: Arc<AtomicBool>,
}

/// One request, read whole.
struct Request {
    line: String,
    head: String,
    body: Vec<u8>,
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.head.lines().filter_map(|line| line.split_once(':'));
        headers.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    fn wait(&self) -> Option<Duration> {
        let seconds = self.line.split_once("?wait=")?.1.split(' ').next()?;
        seconds.parse().ok().map(Duration::from_secs_f64)
    }
}

struct Reply {
    status: u16,
    headers: String,
    body: String,
}

impl Reply {
    fn new(status: u16, body: impl Into<String>) -> Self {
        Self { status, headers: String::new(), body: body.into() }
    }
}

impl Connection {
    fn serve(mut self) {
        self.stream.set_read_timeout(Some(PATIENCE)).expect("a time limit can be set");
        self.stream.set_nodelay(true).expect("an option of a socket can be set");
        while let Some(request) = self.read() {
            let Some(Reply { status, headers, body }) = self.reply_to(&request) else { return };
            let head = format!(
                "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\n{headers}content-length: {}\r\n\r\n",
                if status == 304 { 0 } else { body.len() }
            );
            if self.stream.write_all((head + &body).as_bytes()).is_err() {
                return;
            }
            lock(&self.script).answered.push((request.line, status));
        }
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// The next request; nothing where the other end closes or the registry ends.
    fn read(&mut self) -> Option<Request> {
        let mut received = Vec::new();
        let mut part = [0; 4096];
        loop {
            if let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&received[..end]).into_owned();
                let line = head.lines().next().unwrap_or_default().to_owned();
                let request = Request { line, head, body: received[end + 4..].to_vec() };
                let length = request.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
                if request.body.len() >= length {
                    return Some(request);
                }
            }
            match self.stream.read(&mut part) {
                Ok(length) if length > 0 => received.extend_from_slice(&part[..length]),
                Err(e) if e.kind() == ErrorKind::WouldBlock && !self.is_over() => {}
                _ => return None,
            }
        }
    }

    /// The answer; nothing where the connection is to be closed without one.
    fn reply_to(&mut self, request: &Request) -> Option<Reply> {
        if request.line.starts_with("GET /members") {
            return Some(self.roster(request));
        }
        let (posts, slow) = {
            let mut script = lock(&self.script);
            script.posted += 1;
            (script.posts.clone(), script.slow_goodbyes)
        };
        if request.line.starts_with("POST /deregister ") {
            std::thread::sleep(slow);
        }
        match posts {
            Posts::Accept => Some(self.change(request)),
            Posts::Hang => {
                // Reads until the other end closes.
                while self.read().is_some() {}
                None
            }
            Posts::Reset => {
                let at_once = Some(Duration::ZERO);
                socket2::SockRef::from(&self.stream).set_linger(at_once).expect("an option of a socket can be set");
                None
            }
            Posts::Redirect(status, to) => {
                Some(Reply { headers: format!("location: {to}\r\n"), ..Reply::new(status, "{}") })
            }
        }
    }

    fn roster(&self, request: &Request) -> Reply {
        let known = request.header("if-none-match").and_then(|tag| tag.trim_matches('"').parse::<u64>().ok());
        let wait = request.wait().unwrap_or_default();
        let began = monotonic();
        loop {
            let script = lock(&self.script);
            let tag = format!("etag: \"{}\"\r\n", script.revision);
            if known != Some(script.revision) {
                let mut body = format!("{{\"members\": [{}", script.entries);
                for entry in &script.registered {
                    let comma = if body.ends_with('[') { "" } else { "," };
                    let _ = write!(body, "{comma}{entry}");
                }
                return Reply { headers: tag, ..Reply::new(200, body + "]}") };
            }
            if !script.keeps_requests || monotonic() - began >= wait || self.is_over() {
                return Reply { headers: tag, ..Reply::new(304, "") };
            }
            drop(script);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn change(&self, request: &Request) -> Reply {
        let mut body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let id = body["instance_id"].clone();
        let mut script = lock(&self.script);
        let known = script.registered.iter().position(|member| member["instance_id"] == id);
        if request.line.starts_with("POST /register ") {
            body["status"] = json!("active");
            let before = known.map(|at| script.registered.remove(at));
            script.revision += u64::from(before.as_ref() != Some(&body));
            script.registered.push(body);
            let reply = json!({"instance_id": id, "status": "registered", "known": before.is_some()});
            return Reply::new(200, reply.to_string());
        }
        let Some(at) = known else { return Reply::new(404, r#"{"error": "instance_id: not registered"}"#) };
        if request.line.starts_with("POST /deregister ") {
            script.registered.remove(at);
            script.revision += 1;
        }
        Reply::new(200, r#"{"status": "ok"}"#)
    }
}
