//! The small programs that the real ones are measured with and against: the other end of every probe, and the least that
//! the machine itself needs for a piece of work.
//!
//! Each runs as a process of its own, this program called again with the word `bare`, so that its processor time is nobody
//! else's. One that ends by itself prints one line of JSON. One that goes on ends when its parent is gone.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use netring::clock::monotonic;
use serde_json::json;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::statistics::quantile;
use crate::support::process::Usage;

/// One of the programs, with what it needs to know.
#[derive(Clone, Debug, PartialEq)]
pub enum Bare {
    /// Takes every connection that comes to this port, on whatever address, and answers whatever request it brings. On
    /// SIGTERM it simply ends. With `note` it writes a line per connection: nanoseconds since its start, and the address
    /// that was called.
    Land {
        /// Where it listens.
        port: u16,
        /// Whether it writes down who was called when.
        note: bool,
    },
    /// Connects and closes as fast as one thread with epoll can, 64 at a time, round a crowd of addresses.
    Connect {
        /// Whom it calls.
        crowd: Addresses,
        /// For how long.
        seconds: f64,
        /// Whether it also asks for a page and reads the answer.
        ask: bool,
    },
    /// Connects and closes at an even rate, one at a time, round a crowd of addresses: one timer, one connect.
    Pace {
        /// Whom it calls.
        crowd: Addresses,
        /// For how long.
        seconds: f64,
        /// How many connects a second.
        rate: f64,
    },
    /// Answers every connection to this port with so many bytes, made beforehand.
    Pour {
        /// Where it listens.
        port: u16,
        /// The length of the body.
        bytes: usize,
    },
    /// Keeps one processor busy.
    Burn,
}

/// The addresses of a crowd: `count` of them, one after another from 10.64.1.0 on, and one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// How many.
    pub count: u32,
    /// The port of all.
    pub port: u16,
}

impl Addresses {
    /// The address of number `n`, counted from 0 and round again.
    #[must_use]
    pub fn ip(self, n: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(u32::from(Ipv4Addr::new(10, 64, 1, 0)) + n % self.count)
    }

    fn socket(self, n: u32) -> SocketAddr {
        SocketAddr::new(self.ip(n).into(), self.port)
    }
}

impl Bare {
    /// The words that make this program of [`Self::from_words`].
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        let crowd = |crowd: &Addresses| [crowd.count.to_string(), crowd.port.to_string()];
        let mut words = vec!["bare".to_owned()];
        match self {
            Self::Land { port, note } => words.extend(["land".into(), port.to_string(), note.to_string()]),
            Self::Connect { crowd: whom, seconds, ask } => {
                words.push("connect".into());
                words.extend(crowd(whom));
                words.extend([seconds.to_string(), ask.to_string()]);
            }
            Self::Pace { crowd: whom, seconds, rate } => {
                words.push("pace".into());
                words.extend(crowd(whom));
                words.extend([seconds.to_string(), rate.to_string()]);
            }
            Self::Pour { port, bytes } => words.extend(["pour".into(), port.to_string(), bytes.to_string()]),
            Self::Burn => words.push("burn".into()),
        }
        words
    }

    /// The program that these words ask for; nothing where they ask for none.
    #[must_use]
    pub fn from_words(words: &[String]) -> Option<Self> {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let crowd = |count: &str, port: &str| Some(Addresses { count: count.parse().ok()?, port: port.parse().ok()? });
        Some(match words[..] {
            ["bare", "land", port, note] => Self::Land { port: port.parse().ok()?, note: note.parse().ok()? },
            ["bare", "connect", count, port, seconds, ask] => {
                Self::Connect { crowd: crowd(count, port)?, seconds: seconds.parse().ok()?, ask: ask.parse().ok()? }
            }
            ["bare", "pace", count, port, seconds, rate] => {
                Self::Pace { crowd: crowd(count, port)?, seconds: seconds.parse().ok()?, rate: rate.parse().ok()? }
            }
            ["bare", "pour", port, bytes] => Self::Pour { port: port.parse().ok()?, bytes: bytes.parse().ok()? },
            ["bare", "burn"] => Self::Burn,
            _ => return None,
        })
    }

    /// Runs it in this process.
    ///
    /// # Errors
    ///
    /// Whatever it cannot go on without.
    pub fn run(&self) -> io::Result<()> {
        match *self {
            Self::Land { port, note } => land(port, note),
            Self::Connect { crowd, seconds, ask } => connect(crowd, seconds, ask),
            Self::Pace { crowd, seconds, rate } => pace(crowd, seconds, rate),
            Self::Pour { port, bytes } => pour(port, bytes),
            Self::Burn => burn(),
        }
    }
}

/// Says whether the process that started this one is still there, however often it is asked.
struct Parent(u32);

impl Parent {
    fn now() -> Self {
        Self(std::os::unix::process::parent_id())
    }

    fn is_gone(&self) -> bool {
        std::os::unix::process::parent_id() != self.0
    }
}

/// One epoll instance (epoll(7)).
struct Epoll {
    descriptor: OwnedFd,
    ready: [libc::epoll_event; 256],
}

impl Epoll {
    fn new() -> io::Result<Self> {
        // SAFETY: epoll_create1(2) takes a number and gives a new descriptor, or less than 0.
        let descriptor = checked(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: it was given to this process just now and nobody else knows it.
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
        Ok(Self { descriptor, ready: [libc::epoll_event { events: 0, u64: 0 }; 256] })
    }

    /// Watches a descriptor for `events`, or, with `EPOLL_CTL_MOD`, for others than before. It is named by its number.
    fn watch(&self, operation: i32, descriptor: RawFd, events: i32) -> io::Result<()> {
        let mut event = libc::epoll_event { events: events.cast_unsigned(), u64: descriptor as u64 };
        // SAFETY: epoll_ctl(2) reads `event` and keeps no pointer to it.
        checked(unsafe { libc::epoll_ctl(self.descriptor.as_raw_fd(), operation, descriptor, &raw mut event) })?;
        Ok(())
    }

    /// Waits for something to be ready, half a second at most, and tells the descriptors.
    fn wait(&mut self) -> io::Result<Vec<RawFd>> {
        let length = i32::try_from(self.ready.len()).expect("a short array");
        // SAFETY: epoll_wait(2) writes at most `length` events into `ready`, which has room for as many.
        let count = unsafe { libc::epoll_wait(self.descriptor.as_raw_fd(), self.ready.as_mut_ptr(), length, 500) };
        match checked(count) {
            Ok(count) => {
                let ready = &self.ready[..usize::try_from(count).expect("checked not to be below 0")];
                Ok(ready.iter().map(|event| event.u64 as RawFd).collect())
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(Vec::new()),
            Err(e) => Err(e),
        }
    }
}

fn checked(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// What a landing server answers, whatever it was asked.
const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 20\r\nconnection: close\r\n\r\n\
                        {\"status\":\"healthy\"}";

const REQUEST: &[u8] = b"GET /health HTTP/1.1\r\nhost: bare\r\nuser-agent: bare\r\nconnection: close\r\n\r\n";

fn land(port: u16, note: bool) -> io::Result<()> {
    let listener = listen(port, 4096)?;
    listener.set_nonblocking(true)?;
    let mut epoll = Epoll::new()?;
    epoll.watch(libc::EPOLL_CTL_ADD, listener.as_raw_fd(), libc::EPOLLIN)?;
    let (parent, start) = (Parent::now(), monotonic());
    let mut open = Descriptors::default();
    let mut notes = io::BufWriter::with_capacity(1 << 16, io::stdout());
    while !parent.is_gone() {
        for descriptor in epoll.wait()? {
            if descriptor != listener.as_raw_fd() {
                if let Some(mut stream) = open.take(descriptor) {
                    // What asks nothing, and what goes away meanwhile, is simply closed.
                    if stream.read(&mut [0; 4096]).is_ok_and(|length| length > 0) {
                        let _ = (&stream).write_all(ANSWER);
                    }
                }
                continue;
            }
            while let Ok((socket, _)) = listener.accept4(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) {
                if note && let Some(called) = socket.local_addr()?.as_socket_ipv4() {
                    writeln!(notes, "{} {}", (monotonic() - start).as_nanos(), called.ip())?;
                }
                epoll.watch(libc::EPOLL_CTL_ADD, socket.as_raw_fd(), libc::EPOLLIN)?;
                open.put(socket.into());
            }
        }
        notes.flush()?;
    }
    Ok(())
}

fn listen(port: u16, backlog: i32) -> io::Result<Socket> {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    listener.set_reuse_address(true)?;
    listener.bind(&SockAddr::from(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))))?;
    listener.listen(backlog)?;
    Ok(listener)
}

/// Open connections by the number of their descriptor.
#[derive(Default)]
struct Descriptors(Vec<Option<TcpStream>>);

impl Descriptors {
    fn put(&mut self, stream: TcpStream) {
        let place = usize::try_from(stream.as_raw_fd()).expect("an open descriptor is not below 0");
        if self.0.len() <= place {
            self.0.resize_with(place + 1, || None);
        }
        self.0[place] = Some(stream);
    }

    fn take(&mut self, descriptor: RawFd) -> Option<TcpStream> {
        self.0.get_mut(usize::try_from(descriptor).ok()?)?.take()
    }

    fn get(&self, descriptor: RawFd) -> Option<&TcpStream> {
        self.0.get(usize::try_from(descriptor).ok()?)?.as_ref()
    }
}

/// How many connects the loop has under way at once.
const AT_ONCE: u32 = 64;

fn connect(crowd: Addresses, seconds: f64, ask: bool) -> io::Result<()> {
    let mut epoll = Epoll::new()?;
    let mut open = Descriptors::default();
    let mut next = 0;
    let mut begin = |epoll: &Epoll, open: &mut Descriptors| -> io::Result<()> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking().cloexec(), None)?;
        match socket.connect(&SockAddr::from(crowd.socket(next))) {
            Err(e) if e.raw_os_error() != Some(libc::EINPROGRESS) => return Err(e),
            _ => next += 1,
        }
        epoll.watch(libc::EPOLL_CTL_ADD, socket.as_raw_fd(), libc::EPOLLOUT)?;
        open.put(socket.into());
        Ok(())
    };
    let (start, before) = (monotonic(), Usage::of(std::process::id()));
    for _ in 0..AT_ONCE {
        begin(&epoll, &mut open)?;
    }
    let (mut done, mut asked) = (0_u64, vec![false; 4096]);
    while (monotonic() - start).as_secs_f64() < seconds {
        for descriptor in epoll.wait()? {
            let stream = open.get(descriptor).expect("what is watched is open");
            let place = usize::try_from(descriptor).expect("an open descriptor is not below 0");
            if let Some(error) = stream.take_error()? {
                return Err(error);
            }
            if ask && !asked[place] {
                (&*stream).write_all(REQUEST)?;
                epoll.watch(libc::EPOLL_CTL_MOD, descriptor, libc::EPOLLIN)?;
                asked[place] = true;
                continue;
            }
            // The answer comes in one piece, as it was written; the end of the stream comes with the next event.
            if ask && (&*stream).read(&mut [0; 4096])? > 0 {
                continue;
            }
            asked[place] = false;
            drop(open.take(descriptor));
            done += 1;
            begin(&epoll, &mut open)?;
        }
    }
    say(&json!({ "done": done, "cpu": cpu_since(before) }))
}

fn cpu_since(before: Usage) -> f64 {
    (Usage::of(std::process::id()).cpu - before.cpu).as_secs_f64()
}

fn say(result: &serde_json::Value) -> io::Result<()> {
    writeln!(io::stdout(), "{result}")
}

fn pace(crowd: Addresses, seconds: f64, rate: f64) -> io::Result<()> {
    let (start, before) = (monotonic(), Usage::of(std::process::id()));
    let step = Duration::from_secs_f64(1.0 / rate);
    let (mut late, mut connect) = (Vec::new(), Vec::new());
    let mut n = 0;
    while (step * n).as_secs_f64() < seconds {
        let due = start + step * n;
        std::thread::sleep(due.saturating_duration_since(monotonic()));
        let began = monotonic();
        drop(TcpStream::connect(crowd.socket(n))?);
        late.push(micros(began, due));
        connect.push(micros(monotonic(), began));
        n += 1;
    }
    say(&json!({
        "done": n,
        "cpu": cpu_since(before),
        "late_us": { "p50": quantile(&mut late, 0.5), "p99": quantile(&mut late, 0.99) },
        "connect_us": { "p50": quantile(&mut connect, 0.5), "p99": quantile(&mut connect, 0.99) },
    }))
}

fn micros(later: Instant, earlier: Instant) -> f64 {
    later.saturating_duration_since(earlier).as_secs_f64() * 1e6
}

fn pour(port: u16, bytes: usize) -> io::Result<()> {
    let listener = TcpListener::from(listen(port, 16)?);
    // Linux lets accept(2) wait no longer than that.
    socket2::SockRef::from(&listener).set_read_timeout(Some(Duration::from_millis(500)))?;
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {bytes}\r\nconnection: close\r\n\r\n");
    let answer = [head.as_bytes(), &vec![b'#'; bytes]].concat();
    let parent = Parent::now();
    while !parent.is_gone() {
        if let Ok((mut stream, _)) = listener.accept() {
            let _ = stream.read(&mut [0; 4096]).and_then(|_| stream.write_all(&answer));
        }
    }
    Ok(())
}

fn burn() -> io::Result<()> {
    let parent = Parent::now();
    let mut sum = 0_u64;
    while !parent.is_gone() {
        for n in 0..1_000_000_u64 {
            sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(n));
        }
    }
    Ok(())
}
