//! A name server on a host of a fabric, as unwell as a test wants it.
//!
//! It knows one thing: the IPv4 address that every name stands for. What it speaks of DNS (RFC 1035) is the header, the one
//! question, and an answer of one A record.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::fabric::Host;

/// What it does with a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Says {
    /// The name has this IPv4 address and none of IPv6.
    Address(Ipv4Addr),
    /// It cannot tell (SERVFAIL).
    Failure,
    /// Nothing at all.
    Nothing,
}

/// A running name server; it ends when dropped.
#[derive(Debug)]
pub struct NameServer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    says: Mutex<Says>,
    asked: AtomicUsize,
    over: AtomicBool,
}

impl NameServer {
    /// Starts it on port 53 of a host.
    #[must_use]
    pub fn start_on(host: &Host, says: Says) -> Self {
        let socket = host.inside(|| UdpSocket::bind((host.v4, 53)).expect("nobody else has the port on a new host"));
        socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a time limit can be set");
        let shared =
            Arc::new(Shared { says: Mutex::new(says), asked: AtomicUsize::new(0), over: AtomicBool::new(false) });
        let served = Arc::clone(&shared);
        let thread = std::thread::spawn(move || serve(&socket, &served));
        Self { shared, thread: Some(thread) }
    }

    /// Has it say something else from now on.
    pub fn say(&self, says: Says) {
        *self.shared.says.lock().expect("no thread panics while it holds the word") = says;
    }

    /// How many questions have come so far. A look-up makes two, for IPv4 and for IPv6, and repeats them unanswered.
    #[must_use]
    pub fn asked(&self) -> usize {
        self.shared.asked.load(Ordering::Relaxed)
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(socket: &UdpSocket, shared: &Shared) {
    let mut message = [0; 512];
    while !shared.over.load(Ordering::Relaxed) {
        let Ok((length, from)) = socket.recv_from(&mut message) else { continue };
        shared.asked.fetch_add(1, Ordering::Relaxed);
        let says = *shared.says.lock().expect("no thread panics while it holds the word");
        if let Some(answer) = answer(&message[..length], says) {
            let _ = socket.send_to(&answer, from);
        }
    }
}

/// The answer to a question, where there is to be one.
fn answer(question: &[u8], says: Says) -> Option<Vec<u8>> {
    const HEADER: usize = 12;
    const OF_IPV4: [u8; 2] = [0, 1];
    let name = question.get(HEADER..)?.iter().position(|&byte| byte == 0)? + 1;
    let asked = question.get(HEADER..HEADER + name + 4)?;
    let (rcode, address) = match says {
        Says::Nothing => return None,
        Says::Failure => (2, None),
        Says::Address(ip) => (0, (asked[name..name + 2] == OF_IPV4).then_some(ip)),
    };
    // Our id back; an answer to a recursive question; one question, at most one answer, nothing else.
    let mut answer = question[..2].to_vec();
    answer.extend([0x81, 0x80 | rcode, 0, 1, 0, u8::from(address.is_some()), 0, 0, 0, 0]);
    answer.extend(asked);
    if let Some(ip) = address {
        // The name is the one asked for; type A, class IN, not to be kept, four bytes.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        answer.extend(ip.octets());
    }
    Some(answer)
}
