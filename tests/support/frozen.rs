//! One thread of another process, standing still while all the others go on: a lock that is never given back, a call that
//! never returns.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{SOON, eventually};

/// A thread that stands still until this is dropped, or until its process is killed.
///
/// It is stopped as a debugger would stop it (ptrace(2)): no signal reaches it but SIGKILL, which ends it as it ends any
/// thread.
#[derive(Debug)]
pub struct Frozen {
    over: Arc<AtomicBool>,
    tracer: Option<JoinHandle<()>>,
}

impl Frozen {
    /// Freezes the thread of this name; the main thread has the name of its program.
    ///
    /// # Panics
    ///
    /// Where the process has no such thread, or this one may not trace it.
    #[must_use]
    pub fn thread(process: u32, name: &str) -> Self {
        let tasks = format!("/proc/{process}/task");
        let thread = eventually(SOON, &format!("process {process} has a thread {name}"), || {
            let ids = std::fs::read_dir(&tasks).map_err(|e| e.to_string())?.flatten();
            let comm = |id: &str| std::fs::read_to_string(format!("{tasks}/{id}/comm")).unwrap_or_default();
            let mut names = ids.filter_map(|entry| entry.file_name().into_string().ok()).map(|id| (comm(&id), id));
            let found = names.find(|(comm, _)| comm.trim_end() == name).ok_or("it has not")?;
            found.1.parse::<i32>().map_err(|e| e.to_string())
        });
        let over = Arc::new(AtomicBool::new(false));
        let (frozen, is_frozen) = std::sync::mpsc::sync_channel(1);
        let told = Arc::clone(&over);
        // Who traces a thread is one thread: only it can let go.
        let tracer = std::thread::spawn(move || {
            for request in [libc::PTRACE_SEIZE, libc::PTRACE_INTERRUPT] {
                trace(request, thread).expect("root may trace a thread of a test's host");
            }
            let mut stopped = false;
            while !told.load(Ordering::Relaxed) {
                let mut status = 0;
                // SAFETY: waitpid(2) writes to the status alone. `__WALL` is for threads; nothing else waits for this one.
                let changed = unsafe { libc::waitpid(thread, &raw mut status, libc::__WALL | libc::WNOHANG) };
                if changed == thread && libc::WIFSTOPPED(status) {
                    if !stopped {
                        let _ = frozen.send(());
                    }
                    stopped = true;
                } else if changed != 0 {
                    // Its process has been killed, and to wait for it has let it go.
                    return;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            let _ = trace(libc::PTRACE_DETACH, thread);
        });
        is_frozen.recv_timeout(SOON).expect("a thread stops when it is told to");
        Self { over, tracer: Some(tracer) }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(tracer) = self.tracer.take() {
            let _ = tracer.join();
        }
    }
}

fn trace(request: libc::c_uint, thread: i32) -> io::Result<()> {
    let nothing = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: with these requests ptrace(2) reads no memory: the address is ignored and the data are no options, no signal.
    let outcome = unsafe { libc::ptrace(request, thread, nothing, nothing) };
    if outcome == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
