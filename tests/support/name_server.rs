//! A name server on a host of a fabric, as unwell as a test wants it.
//!
//! It knows one thing: the addresses that every name stands for. What it speaks of DNS (RFC 1035, RFC 3596) is the header, the
//! one question, and an answer of up to two A records or one AAAA record.

use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
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
    /// The name has these IPv4 addresses and none of IPv6. Their order is turned round with every answer.
    Turning([Ipv4Addr; 2]),
    /// The name has an address of each family.
    Both(Ipv4Addr, Ipv6Addr),
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
    let mut turned = false;
    while !shared.over.load(Ordering::Relaxed) {
        let Ok((length, from)) = socket.recv_from(&mut message) else { continue };
        shared.asked.fetch_add(1, Ordering::Relaxed);
        let mut says = *shared.says.lock().expect("no thread panics while it holds the word");
        if let Says::Turning(addresses) = &mut says
            && turned
        {
            addresses.reverse();
        }
        if let Some((answer, has_addresses)) = answer(&message[..length], says) {
            turned ^= has_addresses;
            let _ = socket.send_to(&answer, from);
        }
    }
}

/// The answer to a question, where there is to be one, and whether it holds addresses.
fn answer(question: &[u8], says: Says) -> Option<(Vec<u8>, bool)> {
    const HEADER: usize = 12;
    const A: u8 = 1;
    const AAAA: u8 = 28;
    let name = question.get(HEADER..)?.iter().position(|&byte| byte == 0)? + 1;
    let asked = question.get(HEADER..HEADER + name + 4)?;
    let kind = asked[name + 1];
    let v4 = |ip: Ipv4Addr| (A, ip.octets().to_vec());
    let (rcode, records) = match says {
        Says::Nothing => return None,
        Says::Failure => (2, Vec::new()),
        Says::Address(ip) => (0, vec![v4(ip)]),
        Says::Turning(ips) => (0, ips.map(v4).to_vec()),
        Says::Both(ip, ip6) => (0, vec![v4(ip), (AAAA, ip6.octets().to_vec())]),
    };
    let records: Vec<_> = records.into_iter().filter(|(of, _)| *of == kind).collect();
    let count = u8::try_from(records.len()).expect("a handful");
    // Our id back; an answer to a recursive question; one question, its answers, nothing else.
    let mut answer = question[..2].to_vec();
    answer.extend([0x81, 0x80 | rcode, 0, 1, 0, count, 0, 0, 0, 0]);
    answer.extend(asked);
    for (_, address) in records {
        // The name is the one asked for; its type, class IN, not to be kept, so many bytes.
        let length = u8::try_from(address.len()).expect("an address is short");
        answer.extend([0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 0, 0, length]);
        answer.extend(address);
    }
    Some((answer, count > 0))
}
