//! The protocols of systemd: readiness, status, watchdog, reload, and socket activation.
//!
//! Without systemd all of it does nothing. Every message is one datagram (sd_notify(3)), sent by a separate thread: writing to
//! a service manager that does not read its socket blocks, and must not delay the daemon. A failure to send a message is logged
//! once and never stops the daemon.

use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use sd_notify::NotifyState;
use socket2::Socket;

/// The longest status, in characters: what fits on a line of `systemctl status`.
const STATUS_MAX: usize = 200;

/// How many messages may wait for a service manager that does not read. Later ones are dropped; newer ones follow soon.
const QUEUE_MAX: usize = 32;

/// How long the daemon waits at its end for the last message to be sent.
const LAST_WORD: Duration = Duration::from_millis(100);

/// Sends the state of the daemon to the service manager, in order and in the background.
#[derive(Clone, Debug)]
pub struct Notifier {
    queue: Option<SyncSender<Message>>,
}

#[derive(Debug)]
enum Message {
    States(Vec<NotifyState<'static>>),
    Status(String),
    /// Nothing to send: answered when all messages before it have been sent.
    Sent(SyncSender<()>),
}

impl Notifier {
    /// To the service manager that `NOTIFY_SOCKET` names. Without that variable nothing is sent.
    #[must_use]
    pub fn from_env() -> Self {
        if std::env::var_os("NOTIFY_SOCKET").is_none() {
            return Self { queue: None };
        }
        let (queue, messages) = sync_channel(QUEUE_MAX);
        let thread = std::thread::Builder::new().name("netring-notify".into()).spawn(move || send_all(&messages));
        if let Err(e) = &thread {
            tracing::warn!("cannot tell systemd how the daemon is: {e}");
        }
        Self { queue: thread.is_ok().then_some(queue) }
    }

    /// The daemon serves, also again after a reload.
    pub fn ready(&self) {
        self.put(Message::States(vec![NotifyState::Ready]));
    }

    /// The line that `systemctl status` shows: control characters become spaces, and what is too long is cut.
    pub fn status(&self, text: &str) {
        let mut line: String = text.chars().take(STATUS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
        if text.chars().nth(STATUS_MAX).is_some() {
            line.push('…');
        }
        self.put(Message::Status(line));
    }

    /// The configuration is being read again; [`Notifier::ready`] ends it.
    pub fn reloading(&self) {
        // `Type=notify-reload` tells this reload from an older one by the time, which must be in the same message.
        let now = NotifyState::monotonic_usec_now().ok();
        self.put(Message::States([NotifyState::Reloading].into_iter().chain(now).collect()));
    }

    /// The daemon is stopping. Waits a moment until this and all earlier messages have been sent.
    pub fn stopping(&self) {
        self.put(Message::States(vec![NotifyState::Stopping]));
        self.all_sent();
    }

    /// Waits until all messages have been sent, but only a moment where the service manager does not read.
    pub fn all_sent(&self) {
        let (sent, all_sent) = sync_channel(1);
        // Where the queue is full, the sender is dropped with the message and the wait below ends at once.
        self.put(Message::Sent(sent));
        let _ = all_sent.recv_timeout(LAST_WORD);
    }

    /// All vital loops run.
    pub fn watchdog(&self) {
        self.put(Message::States(vec![NotifyState::Watchdog]));
    }

    fn put(&self, message: Message) {
        if let Some(queue) = &self.queue {
            // A full queue means that the service manager has not read for long. Nothing is lost by dropping more.
            let _ = queue.try_send(message);
        }
    }
}

/// Sends each message until no notifier is left.
fn send_all(messages: &Receiver<Message>) {
    let mut failing = false;
    let mut spare = Spare::new();
    for message in messages {
        let result = match &message {
            Message::States(states) => spare.notify(states),
            Message::Status(line) => spare.notify(&[NotifyState::Status(line)]),
            Message::Sent(sent) => {
                let _ = sent.try_send(());
                continue;
            }
        };
        if let Err(e) = &result
            && !failing
        {
            tracing::warn!("cannot tell systemd how the daemon is: {e}");
        }
        failing = result.is_err();
    }
}

/// A descriptor kept in reserve: each message takes a socket, and a daemon that has run out of descriptors must still be able to
/// send its status and its watchdog messages.
struct Spare(Option<File>);

impl Spare {
    fn new() -> Self {
        Self(File::open("/dev/null").ok())
    }

    fn notify(&mut self, states: &[NotifyState]) -> io::Result<()> {
        let result = sd_notify::notify(states);
        let out_of_descriptors =
            result.as_ref().is_err_and(|e| matches!(e.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)));
        if !out_of_descriptors || self.0.take().is_none() {
            return result;
        }
        let result = sd_notify::notify(states);
        *self = Self::new();
        result
    }
}

/// The time limit of the service manager's watchdog, where it has one. Messages should be sent at half of it.
#[must_use]
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|interval| !interval.is_zero())
}

/// Why a socket from the service manager cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// `LISTEN_FDS` and the variables that go with it are invalid, or name a descriptor that is not open.
    #[error("cannot take the socket that systemd hands over (LISTEN_FDS)")]
    Unreadable(#[source] io::Error),
    /// It is something else.
    #[error(
        "cannot use the socket that systemd hands over: it is no listening TCP socket; the .socket unit needs \
         ListenStream= with a port, and Accept=no"
    )]
    NotListening,
}

/// Whether systemd passes a socket to this process, usable or not.
#[must_use]
pub fn hands_over() -> bool {
    sd_notify::listen_fds().is_ok_and(|descriptors| descriptors.len() > 0)
}

/// The first socket that systemd passes to this process (`LISTEN_PID`, `LISTEN_FDS`), made non-blocking. Its name is ignored.
/// The socket is returned once; later calls return `None`.
///
/// # Errors
///
/// It cannot be taken, or is no listening TCP socket.
pub fn listener() -> Result<Option<TcpListener>, HandoverError> {
    static GIVEN_OUT: AtomicBool = AtomicBool::new(false);
    let mut descriptors = sd_notify::listen_fds().map_err(HandoverError::Unreadable)?;
    let Some(first) = descriptors.next() else { return Ok(None) };
    if GIVEN_OUT.swap(true, Ordering::SeqCst) {
        return Ok(None);
    }
    if descriptors.len() > 0 {
        tracing::warn!("systemd hands over {} sockets; only the first is used", descriptors.len() + 1);
    }
    // SAFETY: by the protocol of sd_listen_fds(3) this descriptor was opened for us and belongs to nobody else in the
    // process; `listen_fds` has just found it open, and `GIVEN_OUT` makes this the only owner.
    let socket = Socket::from(unsafe { OwnedFd::from_raw_fd(first) });
    let inet = socket.local_addr().is_ok_and(|address| address.as_socket().is_some());
    if !inet || !socket.is_listener().unwrap_or(false) {
        return Err(HandoverError::NotListening);
    }
    socket.set_nonblocking(true).map_err(HandoverError::Unreadable)?;
    Ok(Some(socket.into()))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::os::fd::{AsRawFd, RawFd};
    use std::os::unix::net::UnixDatagram;
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Output, Stdio};

    use super::*;

    /// Runs one of the ignored tests below as a process of its own, because what it looks at belongs to a process.
    fn child(test: &str) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", &format!("host::systemd::tests::{test}"), "--ignored", "--nocapture"]);
        command
    }

    fn said(output: &Output) -> String {
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        said.lines().find_map(|line| line.split_once("child: ")).map(|(_, said)| said.to_owned()).unwrap_or_default()
    }

    #[test]
    #[ignore = "run as a child process by another test"]
    fn tells_everything() {
        let notifier = Notifier::from_env();
        notifier.ready();
        notifier.status("12 peers\nREADY=0\u{1b}");
        notifier.status(&"ö".repeat(1000));
        notifier.reloading();
        notifier.watchdog();
        notifier.stopping();
        println!("child: {:?}", watchdog_interval());
    }

    #[test]
    fn each_message_is_one_datagram_and_a_status_is_one_bounded_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let output =
            child("tells_everything").env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "6000000").output().unwrap();
        assert_eq!(said(&output), "Some(6s)");
        let receive = || {
            let mut message = [0; 4096];
            let length = socket.recv(&mut message).unwrap();
            String::from_utf8(message[..length].to_vec()).unwrap()
        };
        assert_eq!(receive(), "READY=1\n");
        assert_eq!(receive(), "STATUS=12 peers READY=0 \n");
        assert_eq!(receive(), format!("STATUS={}…\n", "ö".repeat(STATUS_MAX)));
        let reloading = receive();
        let time = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap_or_else(|| panic!("{reloading}"));
        assert!(time.trim_end().parse::<u64>().unwrap() > 0);
        assert_eq!(receive(), "WATCHDOG=1\n");
        assert_eq!(receive(), "STOPPING=1\n");
    }

    #[test]
    #[ignore = "run as a child process by another test"]
    fn talks_to_a_wall() {
        let notifier = Notifier::from_env();
        for n in 0..1000 {
            notifier.status(&n.to_string());
        }
        notifier.stopping();
        println!("child: done");
    }

    #[test]
    fn a_manager_that_never_reads_holds_nobody_up() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let _never_read = UnixDatagram::bind(&path).unwrap();
        let mut child = child("talks_to_a_wall").env("NOTIFY_SOCKET", &path).stdout(Stdio::piped()).spawn().unwrap();
        let deadline = crate::clock::monotonic() + Duration::from_secs(20);
        while child.try_wait().unwrap().is_none() {
            if crate::clock::monotonic() > deadline {
                child.kill().unwrap();
                panic!("the daemon waits for its manager");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(said(&child.wait_with_output().unwrap()), "done");
    }

    #[test]
    fn nothing_is_said_and_nothing_fails_where_nobody_listens() {
        let output =
            child("tells_everything").env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC").output().unwrap();
        assert_eq!(said(&output), "None");
        let output = child("tells_everything").env("NOTIFY_SOCKET", "/nonexistent/socket").output().unwrap();
        assert_eq!(said(&output), "None");
    }

    #[test]
    fn a_watchdog_meant_for_another_process_is_not_ours() {
        let output =
            child("tells_everything").env("WATCHDOG_USEC", "6000000").env("WATCHDOG_PID", "1").output().unwrap();
        assert_eq!(said(&output), "None");
    }

    #[test]
    #[ignore = "run as a child process by another test"]
    fn takes_a_listener() {
        match listener() {
            Ok(Some(listener)) => {
                let blocked = listener.accept().is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock);
                let again = listener.local_addr().is_ok() && super::listener().unwrap().is_some();
                println!("child: {} blocked={blocked} again={again}", listener.local_addr().unwrap());
            }
            Ok(None) => println!("child: none"),
            Err(e) => println!("child: {e}"),
        }
    }

    /// Starts the child the way systemd does: the socket as descriptor 3, and the variables set for its process id.
    fn hand_over(descriptor: RawFd, own_pid: bool) -> String {
        let exe = std::env::current_exe().unwrap();
        let pid = if own_pid { "$$" } else { "1" };
        let script = format!(
            "export LISTEN_FDS=1 LISTEN_PID={pid}; exec \"$0\" --exact host::systemd::tests::takes_a_listener --ignored --nocapture"
        );
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(script).arg(exe).stdin(Stdio::null());
        // SAFETY: dup2(2) is async-signal-safe and touches no memory of ours.
        unsafe {
            command.pre_exec(move || match libc::dup2(descriptor, 3) {
                3 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            });
        }
        said(&command.output().unwrap())
    }

    /// A descriptor that is surely not 3, so that `dup2` makes a copy without close-on-exec.
    fn high(descriptor: &impl AsRawFd) -> OwnedFd {
        // SAFETY: `fcntl` with F_DUPFD_CLOEXEC gives a new descriptor that nobody else owns.
        unsafe { OwnedFd::from_raw_fd(libc::fcntl(descriptor.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 100)) }
    }

    #[test]
    fn a_listening_socket_is_taken_once_and_never_blocks() {
        let held = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = held.local_addr().unwrap();
        assert_eq!(hand_over(high(&held).as_raw_fd(), true), format!("{address} blocked=true again=false"));
    }

    #[test]
    fn a_socket_meant_for_another_process_is_not_taken() {
        let held = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        assert_eq!(hand_over(high(&held).as_raw_fd(), false), "none");
    }

    #[test]
    fn anything_but_a_listening_tcp_socket_is_refused_with_what_would_be_right() {
        let datagram = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (unix, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let file = tempfile::tempfile().unwrap();
        for descriptor in [high(&datagram), high(&unix), high(&file)] {
            let said = hand_over(descriptor.as_raw_fd(), true);
            assert!(said.contains("no listening TCP socket; the .socket unit needs ListenStream="), "{said}");
        }
    }
}
