//! A peer that the test plays itself, by a script for each of its connections, and what it saw of whoever probed it.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use netring::clock::monotonic;

/// What a peer does with one connection. It may hold it for as long as it likes; it is closed when this returns.
pub type Script = fn(&mut Connection);

/// One connection at a peer.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    visit: Visit,
}

/// What a peer saw of one connection.
#[derive(Clone, Copy, Debug)]
pub struct Visit {
    /// When it came.
    pub came: Instant,
    /// Whether it brought a request.
    pub asked: bool,
    /// How many bytes the peer could send.
    pub sent: usize,
    /// When it was over, whoever ended it.
    pub over: Instant,
}

/// A peer that listens on a new address of this test; it ends when dropped.
#[derive(Debug)]
pub struct Peer {
    /// Where it listens.
    pub address: SocketAddr,
    visits: Arc<Mutex<Vec<Visit>>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Peer {
    /// Starts it.
    #[must_use]
    pub fn start(script: Script) -> Self {
        let address = super::socket();
        let listener = TcpListener::bind(address).expect("the address is this test's own");
        // Linux lets accept(2) wait no longer than that.
        let patience = Some(Duration::from_millis(200));
        socket2::SockRef::from(&listener).set_read_timeout(patience).expect("a time limit can be set");
        let (visits, over) = (Arc::<Mutex<Vec<Visit>>>::default(), Arc::<AtomicBool>::default());
        let (seen, ending) = (Arc::clone(&visits), Arc::clone(&over));
        let thread = std::thread::spawn(move || {
            while !ending.load(Ordering::Relaxed) {
                let stream = match listener.accept() {
                    Ok((stream, _)) => stream,
                    Err(e) if e.kind() == ErrorKind::WouldBlock => continue,
                    Err(e) => panic!("accept: {e}"),
                };
                // It has the listener's patience until told otherwise.
                stream.set_read_timeout(None).expect("a time limit can be taken away");
                let seen = Arc::clone(&seen);
                let visit = Visit { came: monotonic(), asked: false, sent: 0, over: monotonic() };
                std::thread::spawn(move || {
                    let mut connection = Connection { stream, visit };
                    script(&mut connection);
                    let visit = Visit { over: monotonic(), ..connection.visit };
                    seen.lock().unwrap_or_else(PoisonError::into_inner).push(visit);
                });
            }
        });
        Self { address, visits, over, thread: Some(thread) }
    }

    /// The connections that are over, in the order of their ends.
    #[must_use]
    pub fn visits(&self) -> Vec<Visit> {
        self.visits.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Connection {
    /// Reads the request's head. Says whether there was one; a probe by TCP brings none.
    pub fn read_request(&mut self) -> bool {
        let mut head = Vec::new();
        let mut part = [0; 1024];
        while !head.ends_with(b"\r\n\r\n") {
            match self.stream.read(&mut part) {
                Ok(length) if length > 0 => head.extend_from_slice(&part[..length]),
                _ => return false,
            }
        }
        self.visit.asked = true;
        true
    }

    /// Sends this. Says whether the other end still took it.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        let sent = self.stream.write_all(bytes.as_ref()).is_ok();
        self.visit.sent += if sent { bytes.as_ref().len() } else { 0 };
        sent
    }

    /// Stays silent until the other end leaves..
    pub fn stay(&mut self) {
        let _ = self.stream.read_to_end(&mut Vec::new());
    }

    /// Stays silent for a moment. Says whether the other end is still there.
    pub fn pause(&mut self, moment: Duration) -> bool {
        self.stream.set_read_timeout(Some(moment)).expect("a time limit can be set");
        let seen = self.stream.read(&mut [0; 64]);
        self.stream.set_read_timeout(None).expect("a time limit can be taken away");
        matches!(seen, Err(e) if e.kind() == ErrorKind::WouldBlock)
    }

    /// Will close with a reset instead of an end.
    pub fn reset_at_the_end(&self) {
        let at_once = Some(Duration::ZERO);
        socket2::SockRef::from(&self.stream).set_linger(at_once).expect("an option of a socket can be set");
    }
}
