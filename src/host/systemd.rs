//! The interface to systemd: readiness, status, watchdog and reload notifications, and socket activation.
//!
//! Without systemd, everything here does nothing. Each notification is one datagram (sd_notify(3)). A separate thread sends
//! them, because a service manager that does not read its socket would block the sender. If sending fails, the first failure
//! in a row is logged and the daemon continues.

use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use sd_notify::NotifyState;
use socket2::Socket;

/// The longest status, in characters: what fits on one line of `systemctl status`.
const STATUS_MAX: usize = 200;

/// The most messages that may wait for a service manager that does not read. Later ones are dropped; status and watchdog
/// messages are sent again every second or so anyway.
const QUEUE_MAX: usize = 32;

/// How long [`Notifier::flush`] waits.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(100);

/// Sends notifications to the service manager, in order and in the background.
#[derive(Clone, Debug)]
pub struct Notifier {
    queue: Option<SyncSender<Message>>,
}

#[derive(Debug)]
enum Message {
    States(Vec<NotifyState<'static>>),
    Status(String),
    /// Sends nothing; answers as soon as every message queued before it has been sent.
    Flush(SyncSender<()>),
}

impl Notifier {
    /// Notifies the service manager that `NOTIFY_SOCKET` names; nobody if it is unset.
    #[must_use]
    pub fn from_env() -> Self {
        if std::env::var_os("NOTIFY_SOCKET").is_none() {
            return Self { queue: None };
        }
        let (queue, messages) = sync_channel(QUEUE_MAX);
        let thread = std::thread::Builder::new().name("netring-notify".into()).spawn(move || send_all(&messages));
        if let Err(e) = &thread {
            tracing::warn!("cannot notify systemd: {e}");
        }
        Self { queue: thread.is_ok().then_some(queue) }
    }

    /// The daemon is ready: after the start, and after each reload.
    pub fn ready(&self) {
        self.send(Message::States(vec![NotifyState::Ready]));
    }

    /// Sets the line that `systemctl status` shows. Control characters become spaces; a long text is truncated.
    pub fn status(&self, text: &str) {
        let mut line: String = text.chars().take(STATUS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
        if text.chars().nth(STATUS_MAX).is_some() {
            line.push('…');
        }
        self.send(Message::Status(line));
    }

    /// The configuration is being reloaded; [`Notifier::ready`] ends the reload.
    pub fn reloading(&self) {
        // `Type=notify-reload` requires the time in the same message, to distinguish this reload from an earlier one.
        let now = NotifyState::monotonic_usec_now().ok();
        self.send(Message::States([NotifyState::Reloading].into_iter().chain(now).collect()));
    }

    /// The daemon is stopping. Waits briefly until this and all earlier messages are sent.
    pub fn stopping(&self) {
        self.send(Message::States(vec![NotifyState::Stopping]));
        self.flush();
    }

    /// Waits until all queued messages are sent, but at most 100 ms in case the service manager does not read.
    pub fn flush(&self) {
        let (sender, flushed) = sync_channel(1);
        // If the queue is full, the message and its sender are dropped, and the wait ends at once.
        self.send(Message::Flush(sender));
        let _ = flushed.recv_timeout(FLUSH_TIMEOUT);
    }

    /// Resets the watchdog: no vital loop is stalled.
    pub fn watchdog(&self) {
        self.send(Message::States(vec![NotifyState::Watchdog]));
    }

    fn send(&self, message: Message) {
        if let Some(queue) = &self.queue {
            // The queue is full only if the service manager has not read for a while; then the message would be lost anyway.
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
            Message::Flush(flushed) => {
                let _ = flushed.try_send(());
                continue;
            }
        };
        if let Err(e) = &result
            && !failing
        {
            tracing::warn!("cannot notify systemd: {e}");
        }
        failing = result.is_err();
    }
}

/// A file descriptor held in reserve. Each message opens a socket, and a daemon that has run out of descriptors must still be
/// able to report its status and reset the watchdog.
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

/// The watchdog timeout of the service manager, if the watchdog is enabled. Notifications should come twice in that time.
#[must_use]
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|interval| !interval.is_zero())
}

/// Why a socket from the service manager cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// `LISTEN_FDS` or `LISTEN_PID` is invalid, or the descriptor is not open.
    #[error("cannot use the socket passed by systemd (LISTEN_FDS)")]
    Unreadable(#[source] io::Error),
    /// The descriptor is not a listening TCP socket.
    #[error(
        "cannot use the socket passed by systemd: it is not a listening TCP socket; the .socket unit needs ListenStream= \
         with a port, and Accept=no"
    )]
    NotListening,
}

/// Whether systemd passed a socket to this process, usable or not.
#[must_use]
pub fn passes_socket() -> bool {
    sd_notify::listen_fds().is_ok_and(|descriptors| descriptors.len() > 0)
}

/// The first socket that systemd passed to this process (`LISTEN_PID`, `LISTEN_FDS`), set to non-blocking, whatever its name.
/// Only the first call returns it; later calls return `None`.
///
/// # Errors
///
/// The socket cannot be used, or is not a listening TCP socket.
pub fn listener() -> Result<Option<TcpListener>, HandoverError> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let mut descriptors = sd_notify::listen_fds().map_err(HandoverError::Unreadable)?;
    let Some(first) = descriptors.next() else { return Ok(None) };
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Ok(None);
    }
    if descriptors.len() > 0 {
        tracing::warn!("systemd passed {} sockets; only the first is used", descriptors.len() + 1);
    }
    // SAFETY: by the protocol of sd_listen_fds(3) this descriptor was opened for this process and nothing else in it owns
    // the descriptor; `listen_fds` has just found it open, and `TAKEN` makes this the only owner.
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

    /// Runs one of the ignored tests below as a separate process, because environment and descriptors are per process.
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
    fn sends_every_message() {
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
            child("sends_every_message").env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "6000000").output().unwrap();
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
    fn sends_more_than_the_queue_holds() {
        let notifier = Notifier::from_env();
        for n in 0..1000 {
            notifier.status(&n.to_string());
        }
        notifier.stopping();
        println!("child: done");
    }

    #[test]
    fn a_service_manager_that_never_reads_does_not_block_the_daemon() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let _never_read = UnixDatagram::bind(&path).unwrap();
        let mut child = child("sends_more_than_the_queue_holds")
            .env("NOTIFY_SOCKET", &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let deadline = crate::clock::monotonic() + Duration::from_secs(20);
        while child.try_wait().unwrap().is_none() {
            if crate::clock::monotonic() > deadline {
                child.kill().unwrap();
                panic!("the daemon is blocked by the service manager");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(said(&child.wait_with_output().unwrap()), "done");
    }

    #[test]
    fn without_a_service_manager_nothing_is_sent_and_nothing_fails() {
        let output =
            child("sends_every_message").env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC").output().unwrap();
        assert_eq!(said(&output), "None");
        let output = child("sends_every_message").env("NOTIFY_SOCKET", "/nonexistent/socket").output().unwrap();
        assert_eq!(said(&output), "None");
    }

    #[test]
    fn a_watchdog_of_another_process_is_ignored() {
        let output =
            child("sends_every_message").env("WATCHDOG_USEC", "6000000").env("WATCHDOG_PID", "1").output().unwrap();
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

    /// Starts the child as systemd does: the socket as descriptor 3, and the variables set for the child's process id.
    fn hand_over(descriptor: RawFd, own_pid: bool) -> String {
        let exe = std::env::current_exe().unwrap();
        let pid = if own_pid { "$$" } else { "1" };
        let script = format!(
            "export LISTEN_FDS=1 LISTEN_PID={pid}; exec \"$0\" --exact host::systemd::tests::takes_a_listener --ignored --nocapture"
        );
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(script).arg(exe).stdin(Stdio::null());
        // SAFETY: dup2(2) is async-signal-safe and does not access memory of this process.
        unsafe {
            command.pre_exec(move || match libc::dup2(descriptor, 3) {
                3 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            });
        }
        said(&command.output().unwrap())
    }

    /// A copy with a number of at least 100, so that `dup2` to 3 makes a descriptor without close-on-exec.
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
    fn a_socket_passed_to_another_process_is_not_taken() {
        let held = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        assert_eq!(hand_over(high(&held).as_raw_fd(), false), "none");
    }

    #[test]
    fn anything_but_a_listening_tcp_socket_is_an_error_that_says_what_is_needed() {
        let datagram = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (unix, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let file = tempfile::tempfile().unwrap();
        for descriptor in [high(&datagram), high(&unix), high(&file)] {
            let said = hand_over(descriptor.as_raw_fd(), true);
            assert!(said.contains("not a listening TCP socket; the .socket unit needs ListenStream="), "{said}");
        }
    }
}
