//! How many files and connections this process may have open.

/// Raises the soft limit on open descriptors to the hard limit and returns the limit in force.
///
/// The soft limit is low by default only for programs that use select(2); this one does not.
#[must_use]
pub fn raise_limit() -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid `rlimit` that getrlimit(2) fills.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        /// The least that POSIX allows (`_POSIX_OPEN_MAX`).
        const GRANTED: usize = 20;
        return GRANTED;
    }
    let raised = libc::rlimit { rlim_cur: limit.rlim_max, rlim_max: limit.rlim_max };
    // SAFETY: `raised` is a valid `rlimit` that setrlimit(2) only reads.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } == 0 {
        limit = raised;
    }
    usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    #[ignore = "run as a child process by another test"]
    fn says_its_limit() {
        let limits = || std::fs::read_to_string("/proc/self/limits").unwrap();
        let raised = raise_limit();
        let line = limits().lines().find(|line| line.starts_with("Max open files")).unwrap().to_owned();
        println!("child: {raised} {}", line.split_whitespace().skip(3).take(2).collect::<Vec<_>>().join(" "));
    }

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let exe = std::env::current_exe().unwrap();
        let script = "ulimit -Sn 100 && ulimit -Hn 300 && exec \"$0\" --exact \
                      host::descriptors::tests::says_its_limit --ignored --nocapture";
        let output = Command::new("/bin/sh").args(["-c", script]).arg(exe).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.contains("child: 300 300 300\n"), "{said}");
    }
}
